/* SPDX-License-Identifier: MIT
 *
 * A typed view: elements of one type over a range of a segment. lua_view.c has single elements, its life and its
 * registration, lua_view_bulk.c what works on many.
 */
#ifndef POLYSHM_LUA_VIEW_H
#define POLYSHM_LUA_VIEW_H

#include "glue.h"

typedef struct lpshm_view {
    const lpshm_type *type;
    pshm_segment *segment; /* one reference, entered for checked use */
    unsigned char *data;   /* valid for `epoch` */
    uint64_t count;        /* elements */
    uint32_t epoch;        /* the segment's, when data and rights were looked up */
    uint32_t rights;       /* on the whole range */
    pshm_element element;
    uint32_t code;   /* LPSHM_CODE of the element */
    uint64_t offset; /* of the first byte */
} lpshm_view;

/* One switch decides type and byte order. */
#define LPSHM_CODE(type, swap) ((uint32_t)(type)*2 + (swap))

static inline lpshm_view *lpshm_to_view(lua_State *L, int arg)
{
    return lpshm_to(L, arg, &lpshm_view_type, sizeof(lpshm_view));
}

/* The slow part of lpshm_view_at: looks the mapping up again, and asks for this range alone. Raises. */
void lpshm_view_again(lua_State *L, lpshm_view *view, uint64_t first, uint64_t count, uint32_t rights);

/* The bytes of `count` elements from `first` (0-based, in range) on, if they may be used so. Raises. */
static inline unsigned char *lpshm_view_at(lua_State *L, lpshm_view *view, uint64_t first, uint64_t count,
                                           uint32_t rights)
{
    if (PSHM_UNLIKELY(view->epoch != view->segment->epoch || (view->rights & rights) != rights))
        lpshm_view_again(L, view, first, count, rights);
    return view->data + first * view->element.size;
}

/* After an access: raises if the memory was gone. */
static inline void lpshm_view_done(lua_State *L, const lpshm_view *view)
{
    if (PSHM_UNLIKELY(view->segment->lost))
        lpshm_fail(L, view->segment->address, PSHM_ELOST);
}

/* Pushes one element. */
static inline void lpshm_element_push(lua_State *L, uint32_t code, const unsigned char *from)
{
    switch (code) {
#define LPSHM_PUSH(type, bits, ctype, swap, turn, push, as)                                                            \
    case LPSHM_CODE(type, swap): {                                                                                     \
        uint##bits##_t word;                                                                                           \
        ctype value;                                                                                                   \
        memcpy(&word, from, sizeof word);                                                                              \
        word = turn(word);                                                                                             \
        memcpy(&value, &word, sizeof value);                                                                           \
        push(L, (as)value);                                                                                            \
        break;                                                                                                         \
    }
#define LPSHM_SAME(word) (word)
#define LPSHM_BOTH(type, bits, ctype, push, as)                                                                        \
    LPSHM_PUSH(type, bits, ctype, 0, LPSHM_SAME, push, as)                                                             \
    LPSHM_PUSH(type, bits, ctype, 1, __builtin_bswap##bits, push, as)
        LPSHM_PUSH(PSHM_I8, 8, int8_t, 0, LPSHM_SAME, lua_pushinteger, lua_Integer)
        LPSHM_PUSH(PSHM_U8, 8, uint8_t, 0, LPSHM_SAME, lua_pushinteger, lua_Integer)
        LPSHM_BOTH(PSHM_I16, 16, int16_t, lua_pushinteger, lua_Integer)
        LPSHM_BOTH(PSHM_U16, 16, uint16_t, lua_pushinteger, lua_Integer)
        LPSHM_BOTH(PSHM_I32, 32, int32_t, lua_pushinteger, lua_Integer)
        LPSHM_BOTH(PSHM_U32, 32, uint32_t, lua_pushinteger, lua_Integer)
        LPSHM_BOTH(PSHM_I64, 64, int64_t, lua_pushinteger, lua_Integer)
        LPSHM_BOTH(PSHM_U64, 64, uint64_t, lua_pushinteger, lua_Integer)
        LPSHM_BOTH(PSHM_F32, 32, float, lua_pushnumber, lua_Number)
        LPSHM_BOTH(PSHM_F64, 64, double, lua_pushnumber, lua_Number)
#undef LPSHM_PUSH
#undef LPSHM_SAME
#undef LPSHM_BOTH
    default:
        lua_pushnil(L);
    }
}

/* The bits of one element from the value at `arg`, in the order of the memory. Raises for what does not fit. */
uint64_t lpshm_element_bits(lua_State *L, int arg, const lpshm_view *view);

/* Stores the low `size` bytes of a number. */
static inline void lpshm_element_store(unsigned char *to, uint32_t size, uint64_t bits)
{
    switch (size) {
    case 1:
        *to = (unsigned char)bits;
        break;
    case 2: {
        uint16_t word = (uint16_t)bits;
        memcpy(to, &word, sizeof word);
        break;
    }
    case 4: {
        uint32_t word = (uint32_t)bits;
        memcpy(to, &word, sizeof word);
        break;
    }
    default:
        memcpy(to, &bits, sizeof bits);
    }
}

/* Methods that stand in lua_view_bulk.c. */
int lpshm_view_get(lua_State *L);
int lpshm_view_set(lua_State *L);
int lpshm_view_fill(lua_State *L);
int lpshm_view_copy(lua_State *L);
int lpshm_view_totable(lua_State *L);
int lpshm_view_each(lua_State *L);

/* A range of elements from the arguments `arg` and `arg` + 1, 1-based: the default of the first is 1, that of the
 * second `last`. Gives a 0-based start; an empty range has count 0. Raises outside the view. */
void lpshm_view_range(lua_State *L, int arg, const lpshm_view *view, uint64_t last, uint64_t *first, uint64_t *count);

#endif
