/* SPDX-License-Identifier: MIT
 *
 * The mutex of an arena in Lua. acquire() and release() without contention are a check and a call; everything that waits,
 * or has an owner's death in it, is lua_lock.c's.
 */
#include "lua_arena.h"
#include "lua_lock.h"

#include <errno.h>

const lpshm_type lpshm_mutex_type = {"polyshm.mutex", "mutex"};

typedef struct lpshm_mutex {
    lpshm_lock lock;
    pshm_mutex mutex;
} lpshm_mutex;

static inline lpshm_mutex *to_mutex(lua_State *L)
{
    return lpshm_to(L, 1, &lpshm_mutex_type, sizeof(lpshm_mutex));
}

static int mutex_attempt(lpshm_lock *lock, pshm_death *death)
{
    return pshm_mutex_try(&((lpshm_mutex *)lock)->mutex, death);
}

static int mutex_wait(lpshm_lock *lock, int64_t deadline, pshm_death *death)
{
    return pshm_mutex_acquire(&((lpshm_mutex *)lock)->mutex, deadline, death);
}

static int mutex_wait_marked(lpshm_lock *lock, int64_t deadline, pshm_death *death)
{
    return pshm_mutex_recover(&((lpshm_mutex *)lock)->mutex, deadline, death);
}

static int mutex_consistent(lpshm_lock *lock)
{
    return pshm_mutex_consistent(&((lpshm_mutex *)lock)->mutex);
}

static int mutex_give(lpshm_lock *lock)
{
    return pshm_mutex_release(&((lpshm_mutex *)lock)->mutex);
}

static void mutex_end(lpshm_lock *lock)
{
    pshm_mutex_fini(&((lpshm_mutex *)lock)->mutex);
}

static const lpshm_lock_ops mutex_ops = {
    .attempt = mutex_attempt,
    .acquire = mutex_wait,
    .recover = mutex_wait_marked,
    .consistent = mutex_consistent,
    .release = mutex_give,
    .end = mutex_end,
    .within = "arena",
};

/* Pushes a handle on the mutex whose name is at 2 in the arena at 1. 0 or a code. */
static int push_mutex(lua_State *L, bool create, int recursive, int repair)
{
    size_t length;
    bool created;
    const char *name = lpshm_object_name(L, &length);
    (void)lpshm_object_subject(L, lpshm_mutex_type.noun);
    lpshm_mutex *self = (lpshm_mutex *)lpshm_lock_new(L, &lpshm_mutex_type, sizeof *self, &mutex_ops,
                                                      lpshm_to_arena(L, 1)->address, repair);
    for (;;) {
        pshm_arena *arena = lpshm_to_arena(L, 1)->arena;
        int rc = pshm_mutex_init(&self->mutex, arena, name, length, create && !arena->readonly, recursive, &created);
        if (!rc)
            break;
        if (rc != -EINTR)
            return rc;
        lpshm_run_hooks(L);
    }
    self->lock.type = &lpshm_mutex_type;
    return 0;
}

int lpshm_mutex_get(lua_State *L)
{
    return push_mutex(L, false, PSHM_RECURSIVE_ANY, 0);
}

/* arena:mutex(name, {recursive =, repair =}) -> mutex
 * Opens the mutex, or makes it where the arena may be written. `recursive` says what it must be (default: what it is; false
 * for a new one). `repair(died)` is called with the lock held when the owner before died. Raises if it cannot. */
int lpshm_arena_mutex(lua_State *L)
{
    struct mutex_options {
        int recursive, repair;
    } options = {PSHM_RECURSIVE_ANY, 0};
    static const lpshm_option names[] = {
        {"recursive", LPSHM_OPTION_TRISTATE, offsetof(struct mutex_options, recursive)},
        {"repair", LPSHM_OPTION_FUNCTION, offsetof(struct mutex_options, repair)},
    };
    (void)lpshm_to_arena(L, 1);
    (void)lpshm_object_name(L, NULL);
    lpshm_options(L, 3, names, sizeof names / sizeof names[0], &options);
    int rc = push_mutex(L, true, options.recursive, options.repair);
    if (!rc)
        return 1;
    return lpshm_arena_fail_loudly(L, lua_pushfstring(L, "mutex \"%s\"", lua_tostring(L, 2)), rc);
}

/* mutex:acquire(timeout) -> true | false, "timeout" | false, "held"
 * Waits up to `timeout` seconds: nil for ever, 0 not at all. Raises {code = "EOWNERDEAD"} (not held) if the owner
 * died and there is no repair function; and if this thread has it, unless `timeout` is 0: that is false, "held". */
static int mutex_acquire(lua_State *L)
{
    pshm_death death = {0};
    lpshm_mutex *self = to_mutex(L);
    int64_t timeout = PSHM_LIKELY(lua_type(L, 2) <= 0) ? LPSHM_FOREVER : lpshm_timeout(L, 2);
    int rc = -EBUSY;
    if (PSHM_LIKELY(!self->lock.repair)) {
        rc = pshm_mutex_try(&self->mutex, &death);
        if (PSHM_LIKELY(!rc)) {
            lua_pushboolean(L, 1);
            return 1;
        }
    }
    return lpshm_lock_acquire(L, &lpshm_mutex_type, timeout, rc, &death);
}

/* mutex:release()
 * Only for the thread that holds it. Works on a closed arena, and on a deleted mutex too. */
static int mutex_release(lua_State *L)
{
    lpshm_mutex *self = to_mutex(L);
    int rc = pshm_mutex_release(&self->mutex);
    return PSHM_LIKELY(!rc) ? 0 : lpshm_lock_fail(L, &self->lock, rc);
}

/* mutex:guard(timeout) -> guard
 * Acquires, for `local held <close> = mutex:guard()`. Never returns nil: raises an error object, {code = "ETIMEDOUT"}
 * or {code = "EOWNERDEAD"}. */
static int mutex_guard(lua_State *L)
{
    return lpshm_lock_guard(L, &lpshm_mutex_type);
}

/* mutex:recover(timeout) -> guard, died
 * Acquires whether the owner before died or not; `died` says so: {code = "EOWNERDEAD", lock =, pid =, participant =} or
 * nil. The mark goes when the guard ends well, and stays if an error ends it. Raises as guard does. */
static int mutex_recover(lua_State *L)
{
    return lpshm_lock_recover(L, &lpshm_mutex_type);
}

/* mutex:locked() -> boolean
 * Does a living owner have it? */
static int mutex_locked(lua_State *L)
{
    lpshm_mutex *self = to_mutex(L);
    int rc = pshm_mutex_locked(&self->mutex);
    if (rc < 0)
        return lpshm_lock_fail(L, &self->lock, rc);
    lua_pushboolean(L, rc);
    return 1;
}

/* mutex:owner() -> pid | nil
 * The process that has it. */
static int mutex_owner(lua_State *L)
{
    uint32_t pid;
    lpshm_mutex *self = to_mutex(L);
    int rc = pshm_mutex_owner(&self->mutex, &pid);
    if (rc)
        return lpshm_lock_fail(L, &self->lock, rc);
    if (pid)
        lua_pushinteger(L, pid);
    else
        lua_pushnil(L);
    return 1;
}

/* mutex:name() -> string */
static int mutex_name(lua_State *L)
{
    const pshm_object *object = &to_mutex(L)->mutex.object;
    lua_pushlstring(L, object->name, object->name_size);
    return 1;
}

/* mutex:recursive() -> boolean
 * May its owner acquire it again? */
static int mutex_recursive(lua_State *L)
{
    lua_pushboolean(L, to_mutex(L)->mutex.recursive);
    return 1;
}

/* The end of the handle, not of the mutex: what it holds stays held. */
static int mutex_close(lua_State *L)
{
    return lpshm_lock_close(L, &lpshm_mutex_type);
}

static int mutex_tostring(lua_State *L)
{
    return lpshm_lock_tostring(L, &lpshm_mutex_type);
}

void lpshm_mutex_register(lua_State *L)
{
    static const luaL_Reg meta[] = {{"__gc", mutex_close},
                                    {"__close", mutex_close},
                                    {"__tostring", mutex_tostring},
                                    {NULL, NULL}};
    static const luaL_Reg methods[] = {
        {"acquire", mutex_acquire}, {"release", mutex_release},     {"guard", mutex_guard},
        {"recover", mutex_recover}, {"locked", mutex_locked},       {"owner", mutex_owner},
        {"name", mutex_name},       {"recursive", mutex_recursive}, {NULL, NULL}};
    lpshm_new_type(L, &lpshm_mutex_type, meta, methods, NULL);
    lua_pop(L, 1);
}
