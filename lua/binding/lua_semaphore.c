/* SPDX-License-Identifier: MIT
 *
 * Semaphores in Lua.
 */
#include <errno.h>

#include <polyshm/semaphore.h>

#include "lua_object.h"

typedef struct lpshm_semaphore {
    lpshm_object object;
    pshm_semaphore semaphore;
} lpshm_semaphore;

/* What guard() returns. Its user value is the semaphore. */
typedef struct semaphore_guard {
    const lpshm_type *type;
    lpshm_semaphore *semaphore;
} semaphore_guard;

static const lpshm_type guard_type = {"polyshm.semaphore_guard", "guard"};

static int semaphore_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                          const void *options, bool *created)
{
    return pshm_semaphore_init(handle, arena, name, length, create, *(const int64_t *)options, created);
}

static void semaphore_fini(void *handle)
{
    pshm_semaphore_fini(handle);
}

const lpshm_noun lpshm_semaphore_noun = {
    .type = {"polyshm.semaphore", "semaphore"},
    .size = sizeof(lpshm_semaphore),
    .handle = offsetof(lpshm_semaphore, semaphore),
    .init = semaphore_init,
    .fini = semaphore_fini,
};

int lpshm_semaphore_open(lua_State *L)
{
    static const int64_t any = PSHM_SEMAPHORE_ANY;
    return lpshm_object_open(L, &lpshm_semaphore_noun, &any, NULL);
}

/* arena:semaphore(name, value) -> semaphore
 * Opens the semaphore, or makes it with that value (1) where the arena may be written. Raises if it cannot. */
int lpshm_semaphore_of(lua_State *L)
{
    lpshm_object_arguments(L);
    const int64_t value = lua_isnoneornil(L, 3) ? PSHM_SEMAPHORE_ANY : (int64_t)lpshm_count(L, 3, "value");
    (void)lpshm_object_of(L, &lpshm_semaphore_noun, &value);
    return 1;
}

static int acquire_slice(void *handle, int64_t deadline, void *data)
{
    (void)data;
    return pshm_semaphore_acquire(handle, deadline);
}

/* semaphore:acquire(timeout) -> true | false, "timeout"
 * Takes one, waiting up to `timeout` seconds: nil for ever, 0 not at all. */
static int semaphore_acquire(lua_State *L)
{
    lpshm_semaphore *self = lpshm_to_object(L, 1, &lpshm_semaphore_noun);
    int64_t timeout = PSHM_LIKELY(lua_type(L, 2) <= 0) ? LPSHM_FOREVER : lpshm_timeout(L, 2);
    int rc = pshm_semaphore_try(&self->semaphore);
    if (PSHM_LIKELY(!rc)) {
        lua_pushboolean(L, 1);
        return 1;
    }
    if (rc != -EBUSY)
        return lpshm_object_fail(L, &self->object, rc);
    return lpshm_object_wait(L, &lpshm_semaphore_noun, timeout, acquire_slice, NULL);
}

/* semaphore:release(n)
 * Gives `n` (1) back, whoever took them. */
static int semaphore_release(lua_State *L)
{
    lpshm_semaphore *self = lpshm_to_object(L, 1, &lpshm_semaphore_noun);
    int rc = pshm_semaphore_release(&self->semaphore, lpshm_opt_count(L, 2, "n", 1));
    return PSHM_LIKELY(!rc) ? 0 : lpshm_object_fail(L, &self->object, rc);
}

/* semaphore:guard(timeout) -> guard
 * Acquires, for `local place <close> = semaphore:guard()`. Never returns nil: raises an error object, {code = "ETIMEDOUT"}. */
static int semaphore_guard_of(lua_State *L)
{
    lpshm_semaphore *self = lpshm_to_object(L, 1, &lpshm_semaphore_noun);
    int64_t timeout = lpshm_timeout(L, 2);
    lua_settop(L, 1);
    semaphore_guard *guard = lpshm_new(L, &guard_type, sizeof *guard, 1);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    int rc = pshm_semaphore_try(&self->semaphore);
    if (rc == -EBUSY)
        rc = timeout ? lpshm_object_slices(L, &lpshm_semaphore_noun, timeout, acquire_slice, NULL) : -ETIMEDOUT;
    self = lpshm_to_object(L, 1, &lpshm_semaphore_noun);
    if (rc)
        return lpshm_object_fail_loudly(L, &self->object, rc);
    lpshm_object_keep(&self->object);
    guard->semaphore = self;
    guard->type = &guard_type;
    return 1;
}

/* guard:release(), and __close and __gc: gives it back, once. With an error on its way nothing is said of one that failed. */
static int guard_release(lua_State *L)
{
    semaphore_guard *guard = lpshm_to_close(L, 1, &guard_type, sizeof *guard);
    if (!guard)
        return 0;
    lpshm_semaphore *semaphore = guard->semaphore;
    guard->type = &lpshm_closed;
    int rc = pshm_semaphore_release(&semaphore->semaphore, 1);
    lpshm_object_let_go(&semaphore->object);
    bool quiet = lua_gettop(L) >= 2 && !lua_isnil(L, 2);
    return rc && !quiet ? lpshm_object_fail(L, &semaphore->object, rc) : 0;
}

static int guard_collect(lua_State *L)
{
    lua_settop(L, 1);
    lua_pushboolean(L, 1);
    return guard_release(L);
}

static int guard_tostring(lua_State *L)
{
    const semaphore_guard *guard = lpshm_to_close(L, 1, &guard_type, sizeof *guard);
    if (!guard)
        lua_pushfstring(L, "%s (released)", guard_type.name);
    else
        lua_pushfstring(L, "%s (%s)", guard_type.name, guard->semaphore->object.subject);
    return 1;
}

/* semaphore:value() -> integer
 * How many are free now. */
static int semaphore_value(lua_State *L)
{
    lpshm_semaphore *self = lpshm_to_object(L, 1, &lpshm_semaphore_noun);
    uint32_t value;
    int rc = pshm_semaphore_value(&self->semaphore, &value);
    if (rc)
        return lpshm_object_fail(L, &self->object, rc);
    lua_pushinteger(L, value);
    return 1;
}

void lpshm_semaphore_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"acquire", semaphore_acquire},
                                       {"release", semaphore_release},
                                       {"guard", semaphore_guard_of},
                                       {"value", semaphore_value},
                                       {NULL, NULL}};
    static const luaL_Reg guard_meta[] = {{"__gc", guard_collect},
                                          {"__close", guard_release},
                                          {"__tostring", guard_tostring},
                                          {NULL, NULL}};
    static const luaL_Reg guard_methods[] = {{"release", guard_release}, {NULL, NULL}};
    lpshm_new_type(L, &guard_type, guard_meta, guard_methods, NULL);
    lpshm_new_noun(L, &lpshm_semaphore_noun, methods, NULL);
    lua_pop(L, 2);
}
