/* SPDX-License-Identifier: MIT
 *
 * Conditions in Lua. Whatever ends a wait, the mutex is held again before anything is raised, but where the mutex itself
 * cannot be had: so hooks run protected.
 */
#include <polyshm/condition.h>

#include "lua_lock.h"

typedef struct lpshm_condition {
    lpshm_object object;
    pshm_condition condition;
} lpshm_condition;

/* The user value: the mutex. */
enum { LPSHM_CONDITION_MUTEX = LPSHM_OBJECT_VALUES + 1 };

static int condition_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                          const void *options, bool *created)
{
    const pshm_mutex *mutex = options;
    return pshm_condition_init(handle, arena, name, length, create, mutex, created);
}

static void condition_fini(void *handle)
{
    pshm_condition_fini(handle);
}

const lpshm_noun lpshm_condition_noun = {
    .type = {"polyshm.condition", "condition"},
    .size = sizeof(lpshm_condition),
    .handle = offsetof(lpshm_condition, condition),
    .values = 1,
    .init = condition_init,
    .fini = condition_fini,
};

/* ---- opening ---- */

/* Called with an arena and a name. */
static int open_mutex(lua_State *L)
{
    int rc = lpshm_mutex_open(L);
    if (rc)
        lpshm_object_fail_loudly(L, lua_touserdata(L, -1), rc);
    return 1;
}

/* The new condition at the top has the mutex at `mutex`; 0: one of its own, in the arena at 1. */
static void set_mutex(lua_State *L, int mutex)
{
    const lpshm_condition *self = lua_touserdata(L, -1);
    const pshm_object *wanted = &self->condition.mutex.object;
    if (mutex) {
        lua_pushvalue(L, mutex);
    } else {
        lua_pushcfunction(L, open_mutex);
        lua_pushvalue(L, 1);
        lua_pushlstring(L, wanted->name, wanted->name_size);
        lua_call(L, 2, 1);
    }
    const lpshm_object *found = lua_touserdata(L, -1);
    if (((const pshm_object *)found->handle)->serial != wanted->serial)
        lpshm_object_fail_loudly(L, &self->object, mutex ? PSHM_EPARAMETER : PSHM_EDELETED);
    lua_setiuservalue(L, -2, LPSHM_CONDITION_MUTEX);
}

int lpshm_condition_open(lua_State *L)
{
    int rc = lpshm_object_open(L, &lpshm_condition_noun, NULL, NULL);
    if (!rc)
        set_mutex(L, 0);
    return rc;
}

/* arena:condition(name, mutex) -> condition
 * Opens the condition, or makes it where the arena may be written. `mutex`, one of the same arena, is needed to make one;
 * what exists has its own. Raises if it cannot. */
int lpshm_condition_of(lua_State *L)
{
    lpshm_object_arguments(L);
    bool given = !lua_isnoneornil(L, 3);
    const lpshm_object *mutex = given ? lpshm_to_object(L, 3, &lpshm_mutex_noun) : NULL;
    (void)lpshm_object_of(L, &lpshm_condition_noun, given ? mutex->handle : NULL);
    set_mutex(L, given ? 3 : 0);
    return 1;
}

/* ---- the mutex's verbs ---- */

/* Puts the mutex of the condition at 1 in its place. */
static void to_mutex(lua_State *L)
{
    (void)lpshm_to_object(L, 1, &lpshm_condition_noun);
    lua_getiuservalue(L, 1, LPSHM_CONDITION_MUTEX);
    lua_replace(L, 1);
}

static int call_mutex(lua_State *L, const char *verb)
{
    to_mutex(L);
    lua_getfield(L, 1, verb);
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

/* condition:acquire(timeout) -> true | false, "timeout" | false, "held"
 * That of the mutex. */
static int condition_acquire(lua_State *L)
{
    to_mutex(L);
    return lpshm_lock_acquire(L, &lpshm_mutex_noun, NULL);
}

/* condition:release()
 * That of the mutex. */
static int condition_release(lua_State *L)
{
    to_mutex(L);
    return lpshm_lock_release(L, &lpshm_mutex_noun, NULL);
}

/* condition:guard(timeout) -> guard
 * That of the mutex. */
static int condition_guard(lua_State *L)
{
    return call_mutex(L, "guard");
}

/* condition:locked() -> boolean
 * That of the mutex. */
static int condition_locked(lua_State *L)
{
    return call_mutex(L, "locked");
}

/* condition:mutex() -> mutex */
static int condition_mutex(lua_State *L)
{
    to_mutex(L);
    lua_settop(L, 1);
    return 1;
}

/* ---- waiting ---- */

/* The stack of a wait. */
enum { AT_MUTEX = 1, AT_CONDITION, AT_PREDICATE, AT_ERROR };

/* Called with the condition, which a hook may close. */
static int hooks(lua_State *L)
{
    lpshm_run_hooks(L);
    (void)lpshm_to_object(L, 1, &lpshm_condition_noun);
    return 0;
}

/* false: one raised, and the error is in its place. */
static bool run_hooks(lua_State *L)
{
    lua_pushcfunction(L, hooks);
    lua_pushvalue(L, AT_CONDITION);
    if (lua_pcall(L, 1, 0, 0) == LUA_OK)
        return true;
    lua_replace(L, AT_ERROR);
    return false;
}

/* Waits, and has the mutex back. 0, -ETIMEDOUT or a code; *raised: an error is in its place. */
static int wait_here(lua_State *L, pshm_condition *condition, int64_t deadline, pshm_death *death, bool *raised)
{
    lpshm_lock *lock = lua_touserdata(L, AT_MUTEX);
    pshm_condition_ticket ticket = {0};
    bool marked = false;
    for (;;) {
        int rc = marked    ? pshm_mutex_recover(lock->object.handle, PSHM_FOREVER, death)
                 : *raised ? pshm_condition_end(condition, &ticket, PSHM_FOREVER, death)
                           : pshm_condition_wait(condition, &ticket, deadline, death);
        if (rc == -EINTR) {
            if (!run_hooks(L))
                *raised = true;
        } else if (rc == -EOWNERDEAD && lock->repair) {
            marked = true;
        } else if (rc || !marked) {
            return rc;
        } else if (death->died && !lpshm_lock_repair(L, lock, death)) {
            lua_replace(L, AT_ERROR);
            *raised = true;
            return 0;
        } else {
            marked = false; /* once more, for its depth */
        }
    }
}

/* 0 or -ETIMEDOUT, and the mutex is held again. Else raises. */
static int wait_until(lua_State *L, int64_t deadline)
{
    lpshm_condition *self = lpshm_to_object(L, AT_CONDITION, &lpshm_condition_noun);
    lpshm_lock *lock = lpshm_to_object(L, AT_MUTEX, &lpshm_mutex_noun);
    pshm_death death = {0};
    bool raised = false;
    lpshm_object_keep(&self->object);
    lpshm_object_keep(&lock->object);
    int rc = wait_here(L, &self->condition, deadline, &death, &raised);
    lpshm_object_let_go(&lock->object);
    lpshm_object_let_go(&self->object);
    if (rc == -EOWNERDEAD)
        return lpshm_lock_fail(L, lock, rc, &death);
    if (rc && rc != -ETIMEDOUT)
        return lpshm_object_fail(L, &self->object, rc);
    if (raised) {
        lua_settop(L, AT_ERROR);
        return lua_error(L);
    }
    return rc;
}

/* From the stack of a call, whose condition stands at 1 and whose predicate at 2. */
static void set_up(lua_State *L)
{
    (void)lpshm_to_object(L, 1, &lpshm_condition_noun);
    lua_settop(L, 2);
    lua_getiuservalue(L, 1, LPSHM_CONDITION_MUTEX);
    lua_insert(L, AT_MUTEX);
    lua_settop(L, AT_ERROR);
}

/* condition:wait(timeout) -> true | false, "timeout"
 * Releases the mutex, however often it is held, waits to be notified, and has it as often again. Wakes up for no reason
 * now and then. Raises {code = "EOWNERDEAD"} (not held) if the mutex was left by a dead owner and has no repair; what a hook
 * raises, when the mutex is held again. */
static int condition_wait(lua_State *L)
{
    int64_t timeout = lpshm_timeout(L, 2);
    set_up(L);
    int rc = wait_until(L, pshm_deadline(timeout));
    lua_pushboolean(L, !rc);
    if (!rc)
        return 1;
    lua_pushliteral(L, "timeout");
    return 2;
}

/* condition:wait_for(predicate, timeout) -> value | value, "timeout"
 * Waits until predicate(), called with the mutex held, is true, and returns what it gave last. */
static int condition_wait_for(lua_State *L)
{
    int64_t timeout = lpshm_timeout(L, 3), deadline = pshm_deadline(timeout);
    if (lua_type(L, 2) != LUA_TFUNCTION && luaL_getmetafield(L, 2, "__call") == LUA_TNIL)
        luaL_typeerror(L, 2, "function");
    set_up(L);
    for (int rc = 0;; rc = wait_until(L, deadline)) {
        lua_pushvalue(L, AT_PREDICATE);
        lua_call(L, 0, 1);
        if (lua_toboolean(L, -1))
            return 1;
        if (rc) {
            lua_pushliteral(L, "timeout");
            return 2;
        }
        lua_settop(L, AT_ERROR);
    }
}

/* ---- notifying ---- */

static int notified(lua_State *L, const lpshm_condition *self, int rc)
{
    return PSHM_LIKELY(!rc) ? 0 : lpshm_object_fail(L, &self->object, rc);
}

/* condition:notify(n)
 * Wakes `n` (default: 1) of those who wait, perhaps more. Only with the mutex held. */
static int condition_notify(lua_State *L)
{
    lpshm_condition *self = lpshm_to_object(L, 1, &lpshm_condition_noun);
    lua_Integer n = luaL_optinteger(L, 2, 1);
    return notified(L, self,
                    pshm_condition_notify(&self->condition, n < 0            ? 0
                                                            : n < UINT32_MAX ? (uint32_t)n
                                                                             : UINT32_MAX));
}

/* condition:notify_all()
 * Wakes all who wait. Only with the mutex held. */
static int condition_notify_all(lua_State *L)
{
    lpshm_condition *self = lpshm_to_object(L, 1, &lpshm_condition_noun);
    return notified(L, self, pshm_condition_notify_all(&self->condition));
}

void lpshm_condition_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"acquire", condition_acquire},       {"release", condition_release},
                                       {"guard", condition_guard},           {"locked", condition_locked},
                                       {"mutex", condition_mutex},           {"wait", condition_wait},
                                       {"wait_for", condition_wait_for},     {"notify", condition_notify},
                                       {"notify_all", condition_notify_all}, {NULL, NULL}};
    lpshm_new_noun(L, &lpshm_condition_noun, methods, NULL);
    lua_pop(L, 1);
}
