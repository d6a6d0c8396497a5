/* SPDX-License-Identifier: MIT
 *
 * Counters in Lua: a check, one atomic instruction, and the number that comes of it.
 */
#include <polyshm/counter.h>

#include "lua_arena.h"

#include <errno.h>

const lpshm_type lpshm_counter_type = {"polyshm.counter", "counter"};

/* User values: the arena, and the subject of messages. */
enum { VALUE_ARENA = 1, VALUE_SUBJECT, VALUES = 2 };

typedef struct lpshm_counter {
    const lpshm_type *type;
    pshm_counter counter;
    const char *address, *subject; /* strings that the user values keep */
} lpshm_counter;

static inline lpshm_counter *to_counter(lua_State *L)
{
    return lpshm_to(L, 1, &lpshm_counter_type, sizeof(lpshm_counter));
}

static int fail(lua_State *L, const lpshm_counter *self, int rc)
{
    if (rc == PSHM_ECLOSED)
        return luaL_error(L, "%s is closed", lpshm_arena_type.noun);
    return lpshm_fail_about(L, self->subject, self->address, rc);
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
        return fail(L, self, rc);
    lua_pushinteger(L, value);
    return 1;
}

/* Pushes a handle on the counter whose name is at 2 in the arena at 1. 0 or a code. */
static int push_counter(lua_State *L, bool create)
{
    size_t length;
    bool created;
    const char *name = lpshm_object_name(L, &length);
    lpshm_counter *self = lpshm_new(L, &lpshm_counter_type, sizeof *self, VALUES);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, VALUE_ARENA);
    self->subject = lpshm_object_subject(L, lpshm_counter_type.noun);
    lua_setiuservalue(L, -2, VALUE_SUBJECT);
    for (;;) {
        const lpshm_arena *owner = lpshm_to_arena(L, 1);
        create = create && !owner->arena->readonly;
        self->address = owner->address;
        int rc = pshm_counter_init(&self->counter, owner->arena, name, length, create, &created);
        if (!rc)
            break;
        if (rc != -EINTR)
            return rc;
        lpshm_run_hooks(L);
    }
    self->type = &lpshm_counter_type;
    return 0;
}

int lpshm_counter_get(lua_State *L)
{
    return push_counter(L, false);
}

/* arena:counter(name) -> counter
 * Opens the counter, or makes it with the value 0 where the arena may be written. Raises if it cannot. */
int lpshm_arena_counter(lua_State *L)
{
    (void)lpshm_to_arena(L, 1);
    (void)lpshm_object_name(L, NULL);
    int rc = push_counter(L, true);
    if (!rc)
        return 1;
    return lpshm_arena_fail_loudly(L, lua_pushfstring(L, "counter \"%s\"", lua_tostring(L, 2)), rc);
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
    return PSHM_LIKELY(!rc) ? 0 : fail(L, self, rc);
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
    int rc = pshm_counter_add(&self->counter, (int64_t)(0 - (uint64_t)by), &now);
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

/* counter:wait(at_least, timeout) -> true | false, "timeout"
 * Waits until the value is `at_least` or more, up to `timeout` seconds: nil for ever, 0 not at all. */
static int counter_wait(lua_State *L)
{
    lpshm_counter *self = to_counter(L);
    int64_t least = value_at(L, 2);
    int64_t deadline = pshm_deadline(lpshm_timeout(L, 3));
    int rc;
    while ((rc = pshm_counter_wait(&self->counter, least, deadline)) == -EINTR) {
        lpshm_run_hooks(L);
        self = to_counter(L);
    }
    if (rc && rc != -ETIMEDOUT)
        return fail(L, self, rc);
    lua_pushboolean(L, !rc);
    if (!rc)
        return 1;
    lua_pushliteral(L, "timeout");
    return 2;
}

/* counter:name() -> string */
static int counter_name(lua_State *L)
{
    const pshm_object *object = &to_counter(L)->counter.object;
    lua_pushlstring(L, object->name, object->name_size);
    return 1;
}

/* The end of the handle, not of the counter: as __gc and __close. */
static int counter_close(lua_State *L)
{
    lpshm_counter *self = lpshm_to_close(L, 1, &lpshm_counter_type, sizeof *self);
    if (self) {
        self->type = &lpshm_closed;
        pshm_counter_fini(&self->counter);
    }
    return 0;
}

static int counter_tostring(lua_State *L)
{
    const lpshm_counter *self = lpshm_to_close(L, 1, &lpshm_counter_type, sizeof *self);
    if (!self)
        lua_pushfstring(L, "%s (closed)", lpshm_counter_type.name);
    else
        lua_pushfstring(L, "%s (%s)", lpshm_counter_type.name, self->subject);
    return 1;
}

void lpshm_counter_register(lua_State *L)
{
    static const luaL_Reg meta[] = {{"__gc", counter_close},
                                    {"__close", counter_close},
                                    {"__tostring", counter_tostring},
                                    {NULL, NULL}};
    static const luaL_Reg methods[] = {{"add", counter_add},
                                       {"sub", counter_sub},
                                       {"load", counter_load},
                                       {"store", counter_store},
                                       {"exchange", counter_exchange},
                                       {"compare_exchange", counter_compare_exchange},
                                       {"max", counter_max},
                                       {"min", counter_min},
                                       {"wait", counter_wait},
                                       {"name", counter_name},
                                       {NULL, NULL}};
    lpshm_new_type(L, &lpshm_counter_type, meta, methods, NULL);
    lua_pop(L, 1);
}
