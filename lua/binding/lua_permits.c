/* SPDX-License-Identifier: MIT
 *
 * Permits in Lua.
 */
#include <errno.h>

#include <polyshm/permits.h>

#include "lua_object.h"

typedef struct lpshm_permits {
    lpshm_object object;
    pshm_permits permits;
} lpshm_permits;

/* What guard() returns. Its user value is the permits. */
typedef struct permits_guard {
    const lpshm_type *type;
    lpshm_permits *permits;
    int64_t n;
} permits_guard;

static const lpshm_type guard_type = {"polyshm.permits_guard", "guard"};

static int permits_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                        const void *options, bool *created)
{
    return pshm_permits_init(handle, arena, name, length, create, *(const int64_t *)options, created);
}

static void permits_fini(void *handle)
{
    pshm_permits_fini(handle);
}

const lpshm_noun lpshm_permits_noun = {
    .type = {"polyshm.permits", "permits"},
    .size = sizeof(lpshm_permits),
    .handle = offsetof(lpshm_permits, permits),
    .init = permits_init,
    .fini = permits_fini,
};

int lpshm_permits_open(lua_State *L)
{
    static const int64_t any = PSHM_PERMITS_ANY;
    return lpshm_object_open(L, &lpshm_permits_noun, &any, NULL);
}

/* arena:permits(name, n) -> permits
 * Opens the permits, or makes `n` of them where the arena may be written. Raises if it cannot. */
int lpshm_permits_of(lua_State *L)
{
    lpshm_object_arguments(L);
    const int64_t total = lua_isnoneornil(L, 3) ? PSHM_PERMITS_ANY : (int64_t)lpshm_count(L, 3, "n");
    (void)lpshm_object_of(L, &lpshm_permits_noun, &total);
    return 1;
}

/* As lpshm_object_fail, and says how many were asked for where that was wrong. */
static int count_fail(lua_State *L, const lpshm_permits *self, int rc, int64_t n)
{
    if (rc != PSHM_ETOOFEW && rc != PSHM_ETOOMANY && (rc != PSHM_ENOTOWNER || n < 2))
        return lpshm_object_fail(L, &self->object, rc);
    const char *subject = lua_pushfstring(L, "%s: n %I", self->object.subject, (LUAI_UACINT)n);
    return lpshm_fail_about(L, subject, self->object.address, rc);
}

static int acquire_slice(void *handle, int64_t deadline, void *data)
{
    return pshm_permits_acquire(handle, *(int64_t *)data, deadline);
}

/* permits:acquire(n, timeout) -> true | false, "timeout"
 * Takes `n` (1) permits, all or none, waiting up to `timeout` seconds: nil for ever, 0 not at all. They are this thread's;
 * its death gives them back at once. */
static int permits_acquire(lua_State *L)
{
    lpshm_permits *self = lpshm_to_object(L, 1, &lpshm_permits_noun);
    int64_t n = (int64_t)lpshm_opt_count(L, 2, "n", 1);
    int64_t timeout = PSHM_LIKELY(lua_type(L, 3) <= 0) ? LPSHM_FOREVER : lpshm_timeout(L, 3);
    int rc = pshm_permits_try(&self->permits, n);
    if (PSHM_LIKELY(!rc)) {
        lua_pushboolean(L, 1);
        return 1;
    }
    if (rc != -EBUSY)
        return count_fail(L, self, rc, n);
    if (timeout)
        return lpshm_object_wait(L, &lpshm_permits_noun, timeout, acquire_slice, &n);
    lua_pushboolean(L, 0);
    lua_pushliteral(L, "timeout");
    return 2;
}

/* permits:release(n)
 * Gives `n` (1) of this thread's back. Works on a closed arena too. */
static int permits_release(lua_State *L)
{
    lpshm_permits *self = lpshm_to_object(L, 1, &lpshm_permits_noun);
    int64_t n = (int64_t)lpshm_opt_count(L, 2, "n", 1);
    int rc = pshm_permits_release(&self->permits, n);
    return PSHM_LIKELY(!rc) ? 0 : count_fail(L, self, rc, n);
}

/* permits:guard(n, timeout) -> guard
 * Acquires, for `local held <close> = permits:guard()`. Never returns nil: raises an error object, {code = "ETIMEDOUT"}. */
static int permits_guard_of(lua_State *L)
{
    lpshm_permits *self = lpshm_to_object(L, 1, &lpshm_permits_noun);
    int64_t n = (int64_t)lpshm_opt_count(L, 2, "n", 1), timeout = lpshm_timeout(L, 3);
    lua_settop(L, 1);
    permits_guard *guard = lpshm_new(L, &guard_type, sizeof *guard, 1);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    int rc = pshm_permits_try(&self->permits, n);
    if (rc == -EBUSY)
        rc = timeout ? lpshm_object_slices(L, &lpshm_permits_noun, timeout, acquire_slice, &n) : -ETIMEDOUT;
    self = lpshm_to_object(L, 1, &lpshm_permits_noun);
    if (rc)
        return pshm_error_class(rc) == PSHM_CLASS_OS ? lpshm_object_fail_loudly(L, &self->object, rc)
                                                     : count_fail(L, self, rc, n);
    lpshm_object_keep(&self->object);
    guard->permits = self;
    guard->n = n;
    guard->type = &guard_type;
    return 1;
}

/* guard:release(), and __close and __gc: gives them back, once. With an error on its way nothing is said of one that
 * failed. */
static int guard_release(lua_State *L)
{
    permits_guard *guard = lpshm_to_close(L, 1, &guard_type, sizeof *guard);
    if (!guard)
        return 0;
    lpshm_permits *permits = guard->permits;
    guard->type = &lpshm_closed;
    int rc = pshm_permits_release(&permits->permits, guard->n);
    lpshm_object_let_go(&permits->object);
    bool quiet = lua_gettop(L) >= 2 && !lua_isnil(L, 2);
    return rc && !quiet ? lpshm_object_fail(L, &permits->object, rc) : 0;
}

static int guard_collect(lua_State *L)
{
    lua_settop(L, 1);
    lua_pushboolean(L, 1);
    return guard_release(L);
}

static int guard_tostring(lua_State *L)
{
    const permits_guard *guard = lpshm_to_close(L, 1, &guard_type, sizeof *guard);
    if (!guard)
        lua_pushfstring(L, "%s (released)", guard_type.name);
    else
        lua_pushfstring(L, "%s (%s: n %I)", guard_type.name, guard->permits->object.subject, (LUAI_UACINT)guard->n);
    return 1;
}

/* permits:available() -> integer, permits:held() -> integer, permits:total() -> integer
 * How many could be had now; how many this thread has; how many there are. */
static int count_or_fail(lua_State *L, int (*verb)(pshm_permits *permits, uint32_t *count))
{
    lpshm_permits *self = lpshm_to_object(L, 1, &lpshm_permits_noun);
    uint32_t count;
    int rc = verb(&self->permits, &count);
    if (rc)
        return lpshm_object_fail(L, &self->object, rc);
    lua_pushinteger(L, count);
    return 1;
}

static int permits_available(lua_State *L)
{
    return count_or_fail(L, pshm_permits_available);
}

static int permits_held(lua_State *L)
{
    return count_or_fail(L, pshm_permits_held);
}

static int permits_total(lua_State *L)
{
    lpshm_permits *self = lpshm_to_object(L, 1, &lpshm_permits_noun);
    lua_pushinteger(L, self->permits.total);
    return 1;
}

void lpshm_permits_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"acquire", permits_acquire},
                                       {"release", permits_release},
                                       {"guard", permits_guard_of},
                                       {"available", permits_available},
                                       {"held", permits_held},
                                       {"total", permits_total},
                                       {NULL, NULL}};
    static const luaL_Reg guard_meta[] = {{"__gc", guard_collect},
                                          {"__close", guard_release},
                                          {"__tostring", guard_tostring},
                                          {NULL, NULL}};
    static const luaL_Reg guard_methods[] = {{"release", guard_release}, {NULL, NULL}};
    lpshm_new_type(L, &guard_type, guard_meta, guard_methods, NULL);
    lpshm_new_noun(L, &lpshm_permits_noun, methods, NULL);
    lua_pop(L, 2);
}
