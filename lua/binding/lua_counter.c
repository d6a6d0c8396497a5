/* SPDX-License-Identifier: MIT
 *
 * Counters in Lua: a check, one atomic instruction, and the number that comes of it.
 */
#include <polyshm/counter.h>

#include "lua_object.h"

typedef struct lpshm_counter {
    lpshm_object object;
    pshm_counter counter;
} lpshm_counter;

static int counter_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                        const void *options, bool *created)
{
    (void)options;
    return pshm_counter_init(handle, arena, name, length, create, created);
}

static void counter_fini(void *handle)
{
    pshm_counter_fini(handle);
}

const lpshm_noun lpshm_counter_noun = {
    .type = {"polyshm.counter", "counter"},
    .size = sizeof(lpshm_counter),
    .handle = offsetof(lpshm_counter, counter),
    .init = counter_init,
    .fini = counter_fini,
};

static inline lpshm_counter *to_counter(lua_State *L)
{
    return lpshm_to_object(L, 1, &lpshm_counter_noun);
}

static int value_error(lua_State *L, int arg)
{
    if (lua_type(L, arg) != LUA_TNUMBER)
        return luaL_typeerror(L, arg, "integer");
    return luaL_argerror(L, arg, lua_pushfstring(L, "%s is not an integer", luaL_tolstring(L, arg, NULL)));
}

static inline int64_t value_at(lua_State *L, int arg)
{
    int isnum;
    lua_Integer value = lua_tointegerx(L, arg, &isnum);
    if (PSHM_UNLIKELY(!isnum || lua_type(L, arg) != LUA_TNUMBER))
        value_error(L, arg);
    return value;
}

/* The result of a call, or what its code means. */
static inline int result(lua_State *L, const lpshm_counter *self, int rc, int64_t value)
{
    if (PSHM_UNLIKELY(rc))
        return lpshm_object_fail(L, &self->object, rc);
    lua_pushinteger(L, value);
    return 1;
}

int lpshm_counter_open(lua_State *L)
{
    return lpshm_object_open(L, &lpshm_counter_noun, NULL, NULL);
}

/* arena:counter(name) -> counter
 * Opens the counter, or makes it with the value 0 where the arena may be written. Raises if it cannot. */
int lpshm_counter_of(lua_State *L)
{
    lpshm_object_arguments(L);
    (void)lpshm_object_of(L, &lpshm_counter_noun, NULL);
    return 1;
}

/* counter:load() -> integer */
static int counter_load(lua_State *L)
{
    int64_t value = 0;
    lpshm_counter *self = to_counter(L);
    int rc = pshm_counter_load(&self->counter, &value);
    return result(L, self, rc, value);
}

/* counter:store(value) */
static int counter_store(lua_State *L)
{
    lpshm_counter *self = to_counter(L);
    int rc = pshm_counter_store(&self->counter, value_at(L, 2));
    return PSHM_LIKELY(!rc) ? 0 : lpshm_object_fail(L, &self->object, rc);
}

/* counter:exchange(value) -> previous */
static int counter_exchange(lua_State *L)
{
    int64_t previous = 0;
    lpshm_counter *self = to_counter(L);
    int rc = pshm_counter_exchange(&self->counter, value_at(L, 2), &previous);
    return result(L, self, rc, previous);
}

/* counter:compare_exchange(expected, desired) -> previous
 * Stores `desired` if the value is `expected`: it was, if that is what comes back. */
static int counter_compare_exchange(lua_State *L)
{
    lpshm_counter *self = to_counter(L);
    int64_t value = value_at(L, 2), desired = value_at(L, 3);
    int rc = pshm_counter_compare_exchange(&self->counter, &value, desired);
    return result(L, self, rc, value);
}

/* counter:add(by) -> new value
 * Adds `by` (default: 1); wraps. */
static int counter_add(lua_State *L)
{
    int64_t now = 0;
    lpshm_counter *self = to_counter(L);
    int64_t by = lua_type(L, 2) <= 0 ? 1 : value_at(L, 2);
    int rc = pshm_counter_add(&self->counter, by, &now);
    return result(L, self, rc, now);
}

/* counter:sub(by) -> new value
 * Takes `by` (default: 1) away; wraps. */
static int counter_sub(lua_State *L)
{
    int64_t now = 0;
    lpshm_counter *self = to_counter(L);
    int64_t by = lua_type(L, 2) <= 0 ? 1 : value_at(L, 2);
    int rc = pshm_counter_sub(&self->counter, by, &now);
    return result(L, self, rc, now);
}

/* counter:max(value) -> new value
 * Raises it to `value` if it is less. */
static int counter_max(lua_State *L)
{
    int64_t now = 0;
    lpshm_counter *self = to_counter(L);
    int rc = pshm_counter_max(&self->counter, value_at(L, 2), &now);
    return result(L, self, rc, now);
}

/* counter:min(value) -> new value
 * Lowers it to `value` if it is more. */
static int counter_min(lua_State *L)
{
    int64_t now = 0;
    lpshm_counter *self = to_counter(L);
    int rc = pshm_counter_min(&self->counter, value_at(L, 2), &now);
    return result(L, self, rc, now);
}

static int wait_slice(void *handle, int64_t deadline, void *data)
{
    const int64_t *least = data;
    return pshm_counter_wait(handle, *least, deadline);
}

/* counter:wait(at_least, timeout) -> true | false, "timeout"
 * Waits until the value is `at_least` or more, up to `timeout` seconds: nil for ever, 0 not at all. */
static int counter_wait(lua_State *L)
{
    (void)to_counter(L);
    int64_t least = value_at(L, 2);
    return lpshm_object_wait(L, &lpshm_counter_noun, lpshm_timeout(L, 3), wait_slice, &least);
}

void lpshm_counter_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"add", counter_add},           {"sub", counter_sub},
                                       {"load", counter_load},         {"store", counter_store},
                                       {"exchange", counter_exchange}, {"compare_exchange", counter_compare_exchange},
                                       {"max", counter_max},           {"min", counter_min},
                                       {"wait", counter_wait},         {NULL, NULL}};
    lpshm_new_noun(L, &lpshm_counter_noun, methods, NULL);
    lua_pop(L, 1);
}
