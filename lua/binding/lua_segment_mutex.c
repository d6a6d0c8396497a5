/* SPDX-License-Identifier: MIT
 *
 * The mutex on raw memory in Lua. acquire() and release() without contention are a check and a call; everything that
 * waits, or has an owner's death in it, is lua_lock.c's.
 */
#include "lua_lock.h"

#include <errno.h>

const lpshm_type lpshm_segment_mutex_type = {"polyshm.segment_mutex", "mutex"};

typedef struct lpshm_raw_mutex {
    lpshm_lock lock;
    pshm_segment_mutex mutex;
} lpshm_raw_mutex;

static inline lpshm_raw_mutex *to_mutex(lua_State *L)
{
    return lpshm_to(L, 1, &lpshm_segment_mutex_type, sizeof(lpshm_raw_mutex));
}

static int mutex_attempt(lpshm_lock *lock, pshm_death *death)
{
    return pshm_segment_mutex_try(&((lpshm_raw_mutex *)lock)->mutex, death);
}

static int mutex_wait(lpshm_lock *lock, int64_t deadline, pshm_death *death)
{
    return pshm_segment_mutex_acquire(&((lpshm_raw_mutex *)lock)->mutex, deadline, death);
}

static int mutex_wait_marked(lpshm_lock *lock, int64_t deadline, pshm_death *death)
{
    return pshm_segment_mutex_recover(&((lpshm_raw_mutex *)lock)->mutex, deadline, death);
}

static int mutex_consistent(lpshm_lock *lock)
{
    return pshm_segment_mutex_consistent(&((lpshm_raw_mutex *)lock)->mutex);
}

static int mutex_give(lpshm_lock *lock)
{
    return pshm_segment_mutex_release(&((lpshm_raw_mutex *)lock)->mutex);
}

static void mutex_end(lpshm_lock *lock)
{
    pshm_segment_mutex_fini(&((lpshm_raw_mutex *)lock)->mutex);
}

static const lpshm_lock_ops mutex_ops = {
    .attempt = mutex_attempt,
    .acquire = mutex_wait,
    .recover = mutex_wait_marked,
    .consistent = mutex_consistent,
    .release = mutex_give,
    .end = mutex_end,
    .within = "segment",
};

/* segment:mutex(offset, {create = false, recursive =, repair =}) -> mutex
 * The mutex at byte `offset`: MUTEX_SIZE bytes, aligned to MUTEX_ALIGN. `create` initialises it, once, while nobody
 * uses it. `recursive` says what it must be (default: what it is; false when creating). `repair(died)` is called with
 * the lock held when the owner before died. Raises where there is no such mutex. */
int lpshm_segment_mutex(lua_State *L)
{
    struct mutex_options {
        bool create;
        int recursive, repair;
    } options = {false, PSHM_RECURSIVE_ANY, 0};
    static const lpshm_option names[] = {
        {"create", LPSHM_OPTION_BOOLEAN, offsetof(struct mutex_options, create)},
        {"recursive", LPSHM_OPTION_TRISTATE, offsetof(struct mutex_options, recursive)},
        {"repair", LPSHM_OPTION_FUNCTION, offsetof(struct mutex_options, repair)},
    };
    (void)lpshm_to_segment(L, 1);
    uint64_t offset = lpshm_bytes(L, 2, "offset");
    lpshm_options(L, 3, names, sizeof names / sizeof names[0], &options);
    if (options.create && options.recursive == PSHM_RECURSIVE_ANY)
        options.recursive = PSHM_RECURSIVE_NO;

    const char *address = lua_pushstring(L, lpshm_to_segment(L, 1)->segment->address);
    lua_pushfstring(L, "%s: mutex at %I", address, (LUAI_UACINT)offset);
    lpshm_raw_mutex *self = (lpshm_raw_mutex *)lpshm_lock_new(L, &lpshm_segment_mutex_type, sizeof *self, &mutex_ops,
                                                              address, options.repair);
    pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    int rc = pshm_segment_mutex_init(&self->mutex, segment, offset, options.create, options.recursive);
    if (rc)
        return lpshm_fail_range(L, segment, rc, offset, PSHM_MUTEX_SIZE);
    self->lock.type = &lpshm_segment_mutex_type;
    return 1;
}

/* mutex:acquire(timeout) -> true | false, "timeout" | false, "held"
 * Waits up to `timeout` seconds: nil for ever, 0 not at all. Raises {code = "EOWNERDEAD"} (not held) if the owner
 * died and there is no repair function; and if this thread has it, unless `timeout` is 0: that is false, "held". */
static int mutex_acquire(lua_State *L)
{
    pshm_death death = {0};
    lpshm_raw_mutex *self = to_mutex(L);
    int64_t timeout = PSHM_LIKELY(lua_type(L, 2) <= 0) ? LPSHM_FOREVER : lpshm_timeout(L, 2);
    int rc = -EBUSY;
    if (PSHM_LIKELY(!self->lock.repair)) {
        rc = pshm_segment_mutex_try(&self->mutex, &death);
        if (PSHM_LIKELY(!rc)) {
            lua_pushboolean(L, 1);
            return 1;
        }
    }
    return lpshm_lock_acquire(L, &lpshm_segment_mutex_type, timeout, rc, &death);
}

/* mutex:release()
 * Only for the thread that holds it. Works on a closed segment too. */
static int mutex_release(lua_State *L)
{
    lpshm_raw_mutex *self = to_mutex(L);
    int rc = pshm_segment_mutex_release(&self->mutex);
    return PSHM_LIKELY(!rc) ? 0 : lpshm_lock_fail(L, &self->lock, rc);
}

/* mutex:guard(timeout) -> guard
 * Acquires, for `local held <close> = mutex:guard()`. Never returns nil: raises an error object, {code = "ETIMEDOUT"}
 * or {code = "EOWNERDEAD"}. */
static int mutex_guard(lua_State *L)
{
    return lpshm_lock_guard(L, &lpshm_segment_mutex_type);
}

/* mutex:recover(timeout) -> guard, died
 * Acquires whether the owner before died or not; `died` says so: {code = "EOWNERDEAD", lock =, pid =} or nil. The mark
 * goes when the guard ends well, and stays if an error ends it. Raises as guard does. */
static int mutex_recover(lua_State *L)
{
    return lpshm_lock_recover(L, &lpshm_segment_mutex_type);
}

/* mutex:locked() -> boolean
 * Does a living owner have it? */
static int mutex_locked(lua_State *L)
{
    lpshm_raw_mutex *self = to_mutex(L);
    int rc = pshm_segment_mutex_locked(&self->mutex);
    if (rc < 0)
        return lpshm_lock_fail(L, &self->lock, rc);
    lua_pushboolean(L, rc);
    return 1;
}

/* mutex:owner() -> pid | nil
 * The process that has it; nil for nobody, and for one that does not use polyshm. */
static int mutex_owner(lua_State *L)
{
    uint32_t pid;
    lpshm_raw_mutex *self = to_mutex(L);
    int rc = pshm_segment_mutex_owner(&self->mutex, &pid);
    if (rc)
        return lpshm_lock_fail(L, &self->lock, rc);
    if (pid)
        lua_pushinteger(L, pid);
    else
        lua_pushnil(L);
    return 1;
}

/* The end of the handle, not of the mutex: what it holds stays held. */
static int mutex_close(lua_State *L)
{
    return lpshm_lock_close(L, &lpshm_segment_mutex_type);
}

static int mutex_tostring(lua_State *L)
{
    return lpshm_lock_tostring(L, &lpshm_segment_mutex_type);
}

void lpshm_segment_mutex_register(lua_State *L)
{
    static const luaL_Reg meta[] = {{"__gc", mutex_close},
                                    {"__close", mutex_close},
                                    {"__tostring", mutex_tostring},
                                    {NULL, NULL}};
    static const luaL_Reg methods[] = {{"acquire", mutex_acquire},
                                       {"release", mutex_release},
                                       {"guard", mutex_guard},
                                       {"recover", mutex_recover},
                                       {"locked", mutex_locked},
                                       {"owner", mutex_owner},
                                       {NULL, NULL}};
    lpshm_new_type(L, &lpshm_segment_mutex_type, meta, methods, NULL);
    lua_pop(L, 1);
}
