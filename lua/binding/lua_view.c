/* SPDX-License-Identifier: MIT
 *
 * Views in Lua: making one and a slice of one, its end, v[i] and v[i] = x. A view keeps the memory mapped, so it goes
 * on working on a closed segment, and asks before each access whether the mapping is still the one it knows.
 */
#include "lua_view.h"

#include <math.h>

const lpshm_type lpshm_view_type = {"polyshm.view", "view"};

/* Life */

/* segment:view(type, offset, count) -> view
 * `count` elements (default: all that fit) from byte `offset` (default: 0) on. Types are i8 u8 i16 u16 i32 u32 i64 u64
 * f32 f64, with < or > before them for a byte order. Raises out of range, and if the memory may not be read. */
int lpshm_segment_view(lua_State *L)
{
    size_t length;
    pshm_element element;
    const pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    const char *token = luaL_checklstring(L, 2, &length);
    int rc = pshm_element_parse(token, length, &element);
    if (rc)
        return luaL_error(L, "%s: view type \"%s\": %s", segment->address, token, pshm_error_text(rc));
    uint64_t offset = lpshm_opt_bytes(L, 3, "offset", 0);
    uint64_t count = lpshm_opt_bytes(L, 4, "count", lpshm_rest(segment, offset) / element.size);
    uint64_t bytes;
    if (__builtin_mul_overflow(count, (uint64_t)element.size, &bytes))
        bytes = INT64_MAX;

    lpshm_view *view = lpshm_new(L, &lpshm_view_type, sizeof *view, 1);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    pshm_segment *owner = lpshm_to_segment(L, 1)->segment;
    rc = pshm_segment_check(owner, offset, bytes, PSHM_READ);
    if (!rc)
        rc = pshm_segment_enter(owner, PSHM_USE_CHECKED);
    if (rc)
        return lpshm_fail_range(L, owner, rc, offset, bytes);
    pshm_segment_retain(owner);
    view->segment = owner;
    view->count = count;
    view->offset = offset;
    view->element = element;
    view->code = LPSHM_CODE(element.type, element.swap && element.size > 1);
    view->data = owner->base + offset;
    view->epoch = owner->epoch;
    view->rights = pshm_segment_rights(owner, offset, bytes);
    view->type = &lpshm_view_type;
    return 1;
}

/* view:slice(i, j) -> view
 * The elements i to j (default: 1 and #view) of the same memory. Works on a closed segment too. */
static int view_slice(lua_State *L)
{
    uint64_t first, count;
    const lpshm_view *view = lpshm_to_view(L, 1);
    lpshm_view_range(L, 2, view, view->count, &first, &count);

    lpshm_view *slice = lpshm_new(L, &lpshm_view_type, sizeof *slice, 1);
    lua_getiuservalue(L, 1, 1);
    lua_setiuservalue(L, -2, 1);
    view = lpshm_to_view(L, 1);
    pshm_segment *segment = view->segment;
    pshm_segment_enter_again(segment, PSHM_USE_CHECKED);
    pshm_segment_retain(segment);
    *slice = *view;
    slice->count = count;
    slice->offset = view->offset + first * view->element.size;
    slice->data = segment->base + slice->offset;
    slice->epoch = segment->epoch;
    slice->rights = pshm_segment_rights(segment, slice->offset, count * view->element.size);
    return 1;
}

/* view:close()
 * Lets the memory go; the view raises from then on. Closing again does nothing. Also its __close and __gc. */
static int view_close(lua_State *L)
{
    lpshm_view *view = lpshm_to_close(L, 1, &lpshm_view_type, sizeof *view);
    if (view) {
        view->type = &lpshm_closed;
        pshm_segment_leave(view->segment, PSHM_USE_CHECKED);
        pshm_segment_release(view->segment);
    }
    return 0;
}

static int view_tostring(lua_State *L)
{
    const lpshm_view *view = lpshm_to_close(L, 1, &lpshm_view_type, sizeof *view);
    if (!view)
        lua_pushfstring(L, "%s (closed)", lpshm_view_type.name);
    else
        lua_pushfstring(L, "%s (%s, %I elements at %I)", lpshm_view_type.name, view->segment->address,
                        (LUAI_UACINT)view->count, (LUAI_UACINT)view->offset);
    return 1;
}

static int view_len(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)lpshm_to_view(L, 1)->count);
    return 1;
}

/* Access */

void lpshm_view_again(lua_State *L, lpshm_view *view, uint64_t first, uint64_t count, uint32_t rights)
{
    const pshm_segment *segment = view->segment;
    uint64_t size = view->element.size, offset = view->offset + first * size, bytes = count * size;
    view->data = segment->base + view->offset;
    view->epoch = segment->epoch;
    view->rights = pshm_segment_rights(segment, view->offset, view->count * size);
    if ((view->rights & rights) == rights || (pshm_segment_rights(segment, offset, bytes) & rights) == rights)
        return;
    int rc = PSHM_ENOACCESS;
    if (offset > segment->size || bytes > segment->size - offset)
        rc = PSHM_EBOUNDS;
    else if (pshm_segment_rights(segment, offset, bytes) & PSHM_READ)
        rc = PSHM_EREADONLY;
    lpshm_fail_range(L, segment, rc, offset, bytes);
}

static int index_error(lua_State *L, const lpshm_view *view, int arg)
{
    return luaL_error(L, "%s: view index %s: %s (1 to %I)", view->segment->address, luaL_tolstring(L, arg, NULL),
                      pshm_error_text(PSHM_EINDEX), (LUAI_UACINT)view->count);
}

void lpshm_view_range(lua_State *L, int arg, const lpshm_view *view, uint64_t last, uint64_t *first, uint64_t *count)
{
    lua_Integer i = luaL_optinteger(L, arg, 1);
    lua_Integer j = luaL_optinteger(L, arg + 1, (lua_Integer)last);
    *first = 0;
    *count = 0;
    if (i > j) /* nothing, wherever that is */
        return;
    if (i < 1)
        index_error(L, view, arg);
    if ((uint64_t)j > view->count)
        luaL_error(L, "%s: view range %I to %I: %s (1 to %I)", view->segment->address, (LUAI_UACINT)i, (LUAI_UACINT)j,
                   pshm_error_text(PSHM_EINDEX), (LUAI_UACINT)view->count);
    *first = (uint64_t)i - 1;
    *count = (uint64_t)j - *first;
}

/* view[i]: an element, nil one past the end, else a method. */
static int view_index(lua_State *L)
{
    int isnum;
    if (PSHM_UNLIKELY(lua_type(L, 2) != LUA_TNUMBER)) {
        lua_settop(L, 2);
        lua_rawget(L, lua_upvalueindex(1));
        return 1;
    }
    lpshm_view *view = lpshm_to_view(L, 1);
    uint64_t i = (uint64_t)lua_tointegerx(L, 2, &isnum) - 1;
    if (PSHM_LIKELY(i < view->count && isnum)) {
        const unsigned char *from = lpshm_view_at(L, view, i, 1, PSHM_READ);
        lpshm_element_push(L, view->code, from);
        lpshm_view_done(L, view);
        return 1;
    }
    if (isnum && i != view->count)
        return index_error(L, view, 2);
    lua_pushnil(L);
    return 1;
}

/* view[i] = x: raises outside the view, and for a value that the type cannot hold. */
static int view_newindex(lua_State *L)
{
    int isnum;
    lpshm_view *view = lpshm_to_view(L, 1);
    uint64_t i = (uint64_t)lua_tointegerx(L, 2, &isnum) - 1;
    if (PSHM_UNLIKELY(i >= view->count || !isnum || lua_type(L, 2) != LUA_TNUMBER))
        return index_error(L, view, 2);
    uint64_t bits = lpshm_element_bits(L, 3, view);
    lpshm_element_store(lpshm_view_at(L, view, i, 1, PSHM_WRITE), view->element.size, bits);
    lpshm_view_done(L, view);
    return 0;
}

unsigned char *lpshm_view_bytes(lua_State *L, int arg, uint32_t rights, uint64_t *size)
{
    lpshm_view *view = lpshm_to_view(L, arg);
    *size = view->count * view->element.size;
    return lpshm_view_at(L, view, 0, view->count, rights);
}

void lpshm_view_verify(lua_State *L, int arg)
{
    lpshm_view_done(L, lpshm_to_view(L, arg));
}

/* Values */

static const char *const element_names[] = {
#define X(name, token, ctype, letter) [PSHM_##name] = token,
    PSHM_ELEMENT_MAP(X)
#undef X
};

static int value_error(lua_State *L, int arg, const lpshm_view *view)
{
    if (lua_type(L, arg) != LUA_TNUMBER)
        return luaL_error(L, "%s: a number expected for %s, got %s", view->segment->address,
                          element_names[view->element.type], luaL_typename(L, arg));
    return luaL_error(L, "%s: %s: %s %s", view->segment->address, luaL_tolstring(L, arg, NULL),
                      pshm_error_text(PSHM_ERANGE), element_names[view->element.type]);
}

static uint64_t float_bits(lua_State *L, int arg, const lpshm_view *view)
{
    uint64_t bits;
    uint32_t narrow_bits;
    lua_Number value = lua_tonumber(L, arg);
    if (view->element.type == PSHM_F64) {
        memcpy(&bits, &value, sizeof bits);
        return bits;
    }
    float narrow = (float)value;
    if (PSHM_UNLIKELY(isinf(narrow) && !isinf(value)))
        value_error(L, arg, view);
    memcpy(&narrow_bits, &narrow, sizeof narrow_bits);
    return narrow_bits;
}

uint64_t lpshm_element_bits(lua_State *L, int arg, const lpshm_view *view)
{
    uint64_t bits;
    if (PSHM_UNLIKELY(lua_type(L, arg) != LUA_TNUMBER))
        value_error(L, arg, view);
    if (pshm_element_is_float(view->element.type))
        bits = float_bits(L, arg, view);
    else {
        int isnum;
        lua_Integer value = lua_tointegerx(L, arg, &isnum);
        bool fits = isnum;
        switch (view->element.type) {
        case PSHM_I8:
            fits = fits && value == (int8_t)value;
            break;
        case PSHM_U8:
            fits = fits && value == (uint8_t)value;
            break;
        case PSHM_I16:
            fits = fits && value == (int16_t)value;
            break;
        case PSHM_U16:
            fits = fits && value == (uint16_t)value;
            break;
        case PSHM_I32:
            fits = fits && value == (int32_t)value;
            break;
        case PSHM_U32:
            fits = fits && value == (uint32_t)value;
            break;
        default:
            break;
        }
        if (PSHM_UNLIKELY(!fits))
            value_error(L, arg, view);
        bits = (uint64_t)value;
    }
    if (PSHM_LIKELY(!view->element.swap))
        return bits;
    switch (view->element.size) {
    case 2:
        return __builtin_bswap16((uint16_t)bits);
    case 4:
        return __builtin_bswap32((uint32_t)bits);
    case 8:
        return __builtin_bswap64(bits);
    default:
        return bits;
    }
}

void lpshm_view_register(lua_State *L)
{
    static const luaL_Reg meta[] = {{"__gc", view_close},          {"__close", view_close},       {"__len", view_len},
                                    {"__tostring", view_tostring}, {"__newindex", view_newindex}, {NULL, NULL}};
    static const luaL_Reg methods[] = {
        {"close", view_close},           {"slice", view_slice},     {"get", lpshm_view_get},
        {"set", lpshm_view_set},         {"fill", lpshm_view_fill}, {"copy", lpshm_view_copy},
        {"totable", lpshm_view_totable}, {"each", lpshm_view_each}, {NULL, NULL}};
    lpshm_new_type(L, &lpshm_view_type, meta, methods, view_index);
    lua_pop(L, 1);
}
