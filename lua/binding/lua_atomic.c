/* SPDX-License-Identifier: MIT
 *
 * Atomic words in Lua. Every operation checks that the segment still has the word, works on it, and looks whether the
 * memory was there. u64 is the two's complement in a Lua integer, as string.pack("I8") has it.
 */
#include <polyshm/atomic.h>

#include "glue.h"

#include <errno.h>
#include <limits.h>

const lpshm_type lpshm_atomic_type = {"polyshm.atomic", "atomic"};

typedef struct lpshm_atomic {
    const lpshm_type *type;
    pshm_segment *segment; /* one reference */
    uint64_t offset;
    pshm_word word;
} lpshm_atomic;

static const char *const word_names[] = {
#define X(name, token, ctype) [PSHM_WORD_##name] = token,
    PSHM_WORD_MAP(X)
#undef X
};

static inline lpshm_atomic *to_atomic(lua_State *L)
{
    return lpshm_to(L, 1, &lpshm_atomic_type, sizeof(lpshm_atomic));
}

/* The word's address, if it may be used so. Raises. */
static inline void *word_at(lua_State *L, const lpshm_atomic *self, uint32_t rights)
{
    pshm_segment *segment = self->segment;
    uint64_t size = pshm_word_size(self->word);
    int rc = pshm_segment_check(segment, self->offset, size, rights);
    if (PSHM_UNLIKELY(rc))
        lpshm_fail_range(L, segment, rc, self->offset, size);
    return segment->base + self->offset;
}

static inline void word_done(lua_State *L, const lpshm_atomic *self)
{
    if (PSHM_UNLIKELY(self->segment->lost))
        lpshm_fail(L, self->segment->address, PSHM_ELOST);
}

static int value_error(lua_State *L, int arg, const lpshm_atomic *self)
{
    if (lua_type(L, arg) != LUA_TNUMBER)
        return luaL_typeerror(L, arg, "integer");
    const char *text = luaL_tolstring(L, arg, NULL);
    return luaL_argerror(L, arg, lua_pushfstring(L, "%s does not fit %s", text, word_names[self->word]));
}

/* An integer argument that fits the word; `wide`: its signed or its unsigned range. */
static inline uint64_t word_value(lua_State *L, int arg, const lpshm_atomic *self, bool wide)
{
    int isnum;
    lua_Integer value = lua_tointegerx(L, arg, &isnum);
    bool fits = isnum && lua_type(L, arg) == LUA_TNUMBER;
    if (self->word <= PSHM_WORD_U32) {
        if (wide)
            fits = fits && value >= INT32_MIN && value <= (lua_Integer)UINT32_MAX;
        else if (self->word == PSHM_WORD_I32)
            fits = fits && value == (int32_t)value;
        else
            fits = fits && value == (uint32_t)value;
    }
    if (PSHM_UNLIKELY(!fits))
        value_error(L, arg, self);
    return (uint64_t)value;
}

static inline int push_word(lua_State *L, const lpshm_atomic *self, uint64_t value)
{
    if (self->word == PSHM_WORD_I32)
        lua_pushinteger(L, (int32_t)(uint32_t)value);
    else
        lua_pushinteger(L, (lua_Integer)value);
    return 1;
}

/* segment:atomic(type, offset) -> atomic
 * The word at byte `offset`; `type` is "i32", "u32", "i64" or "u64". Raises where it is not aligned or not inside. */
int lpshm_segment_atomic(lua_State *L)
{
    size_t length;
    pshm_word word;
    const pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    const char *token = luaL_checklstring(L, 2, &length);
    int rc = pshm_word_parse(token, length, &word);
    if (rc)
        return luaL_error(L, "%s: atomic type \"%s\": %s", segment->address, token, pshm_error_text(rc));
    uint64_t offset = lpshm_bytes(L, 3, "offset");

    lpshm_atomic *self = lpshm_new(L, &lpshm_atomic_type, sizeof *self, 1);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    pshm_segment *owner = lpshm_to_segment(L, 1)->segment;
    rc = pshm_atomic_check(owner, word, offset);
    if (rc)
        return lpshm_fail_range(L, owner, rc, offset, pshm_word_size(word));
    pshm_segment_retain(owner);
    self->segment = owner;
    self->offset = offset;
    self->word = word;
    self->type = &lpshm_atomic_type;
    return 1;
}

/* Its end: as __gc and __close. The word stays what it is. */
static int atomic_close(lua_State *L)
{
    lpshm_atomic *self = lpshm_to_close(L, 1, &lpshm_atomic_type, sizeof *self);
    if (self) {
        self->type = &lpshm_closed;
        pshm_segment_release(self->segment);
    }
    return 0;
}

static int atomic_tostring(lua_State *L)
{
    const lpshm_atomic *self = lpshm_to_close(L, 1, &lpshm_atomic_type, sizeof *self);
    if (!self)
        lua_pushfstring(L, "%s (closed)", lpshm_atomic_type.name);
    else
        lua_pushfstring(L, "%s (%s, %s at %I)", lpshm_atomic_type.name, self->segment->address, word_names[self->word],
                        (LUAI_UACINT)self->offset);
    return 1;
}

/* atomic:load() -> integer */
static int atomic_load(lua_State *L)
{
    const lpshm_atomic *self = to_atomic(L);
    const void *at = word_at(L, self, PSHM_READ);
    uint64_t value = self->word <= PSHM_WORD_U32 ? pshm_atomic_load32(at) : pshm_atomic_load64(at);
    word_done(L, self);
    return push_word(L, self, value);
}

/* atomic:store(value)
 * Raises for a value that the type cannot hold. */
static int atomic_store(lua_State *L)
{
    const lpshm_atomic *self = to_atomic(L);
    uint64_t value = word_value(L, 2, self, false);
    void *at = word_at(L, self, PSHM_WRITE);
    if (self->word <= PSHM_WORD_U32)
        pshm_atomic_store32(at, (uint32_t)value);
    else
        pshm_atomic_store64(at, value);
    word_done(L, self);
    return 0;
}

/* What takes one value and gives the previous one. */
#define ATOMIC_FETCH(verb, wide)                                                                                       \
    static int atomic_##verb(lua_State *L)                                                                             \
    {                                                                                                                  \
        const lpshm_atomic *self = to_atomic(L);                                                                       \
        uint64_t value = word_value(L, 2, self, wide);                                                                 \
        void *at = word_at(L, self, PSHM_WRITE);                                                                       \
        if (self->word <= PSHM_WORD_U32)                                                                               \
            value = pshm_atomic_##verb##32(at, (uint32_t)value);                                                       \
        else                                                                                                           \
            value = pshm_atomic_##verb##64(at, value);                                                                 \
        word_done(L, self);                                                                                            \
        return push_word(L, self, value);                                                                              \
    }

/* atomic:add(value) -> previous
 * Wraps; takes any integer of the signed or the unsigned range. So does sub. */
ATOMIC_FETCH(add, true)
/* atomic:sub(value) -> previous */
ATOMIC_FETCH(sub, true)
/* atomic:and_(value) -> previous
 * Takes any integer of the signed or the unsigned range, as or_ and xor do. */
ATOMIC_FETCH(and, true)
/* atomic:or_(value) -> previous */
ATOMIC_FETCH(or, true)
/* atomic:xor(value) -> previous */
ATOMIC_FETCH(xor, true)
/* atomic:exchange(value) -> previous
 * Raises for a value that the type cannot hold. */
ATOMIC_FETCH(exchange, false)

/* atomic:compare_exchange(expected, desired) -> previous
 * Stores `desired` if the word is `expected`: it was, if that is what comes back. */
static int atomic_compare_exchange(lua_State *L)
{
    const lpshm_atomic *self = to_atomic(L);
    uint64_t expected = word_value(L, 2, self, false), desired = word_value(L, 3, self, false);
    void *at = word_at(L, self, PSHM_WRITE);
    if (self->word <= PSHM_WORD_U32) {
        uint32_t found = (uint32_t)expected;
        (void)pshm_atomic_compare_exchange32(at, &found, (uint32_t)desired);
        expected = found;
    } else
        (void)pshm_atomic_compare_exchange64(at, &expected, desired);
    word_done(L, self);
    return push_word(L, self, expected);
}

static void need_32_bits(lua_State *L, const lpshm_atomic *self, const char *verb)
{
    if (self->word > PSHM_WORD_U32)
        luaL_error(L, "%s: %s needs a 32-bit word, not %s", self->segment->address, verb, word_names[self->word]);
}

/* atomic:wait(expected, timeout) -> true | false, "timeout"
 * Waits while the word is `expected`, up to `timeout` seconds (default: for ever). 32-bit words only. */
static int atomic_wait(lua_State *L)
{
    const lpshm_atomic *self = to_atomic(L);
    need_32_bits(L, self, "wait");
    uint32_t expected = (uint32_t)word_value(L, 2, self, false);
    int64_t deadline = pshm_deadline(lpshm_timeout(L, 3));
    for (;;) {
        pshm_segment *segment = self->segment;
        int rc = pshm_segment_enter(segment, PSHM_USE_RAW);
        if (!rc) {
            rc = pshm_atomic_wait(segment, self->offset, expected, deadline);
            pshm_segment_leave(segment, PSHM_USE_RAW);
        }
        if (!rc) {
            lua_pushboolean(L, 1);
            return 1;
        }
        if (rc == -ETIMEDOUT) {
            lua_pushboolean(L, 0);
            lua_pushliteral(L, "timeout");
            return 2;
        }
        if (rc != -EINTR)
            return lpshm_fail_range(L, segment, rc, self->offset, pshm_word_size(self->word));
        lpshm_run_hooks(L);
        self = to_atomic(L);
    }
}

/* atomic:notify(n) -> integer
 * Wakes up to `n` (default: 1) waiters; how many it were. 32-bit words only. */
static int atomic_notify(lua_State *L)
{
    const lpshm_atomic *self = to_atomic(L);
    lua_Integer n = luaL_optinteger(L, 2, 1);
    need_32_bits(L, self, "notify");
    luaL_argcheck(L, n >= 0, 2, "must not be negative");
    int rc = n ? pshm_atomic_notify(self->segment, self->offset, n < INT_MAX ? (int)n : INT_MAX)
               : pshm_atomic_check(self->segment, self->word, self->offset);
    if (rc < 0)
        return lpshm_fail_range(L, self->segment, rc, self->offset, pshm_word_size(self->word));
    word_done(L, self);
    lua_pushinteger(L, rc);
    return 1;
}

void lpshm_atomic_register(lua_State *L)
{
    static const luaL_Reg meta[] = {{"__gc", atomic_close},
                                    {"__close", atomic_close},
                                    {"__tostring", atomic_tostring},
                                    {NULL, NULL}};
    static const luaL_Reg methods[] = {
        {"load", atomic_load}, {"store", atomic_store},       {"add", atomic_add},
        {"sub", atomic_sub},   {"and_", atomic_and},          {"or_", atomic_or},
        {"xor", atomic_xor},   {"exchange", atomic_exchange}, {"compare_exchange", atomic_compare_exchange},
        {"wait", atomic_wait}, {"notify", atomic_notify},     {NULL, NULL}};
    lpshm_new_type(L, &lpshm_atomic_type, meta, methods, NULL);
    lua_pop(L, 1);
}
