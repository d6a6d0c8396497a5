/* SPDX-License-Identifier: MIT
 *
 * The mutex of an arena in Lua. acquire() and release() without contention are a check and a call; everything that waits,
 * or has an owner's death in it, is lua_lock.c's.
 */
#include "lua_lock.h"

typedef struct lpshm_mutex {
    lpshm_lock lock;
    pshm_mutex mutex;
} lpshm_mutex;

static int mutex_attempt(void *handle, pshm_death *death)
{
    return pshm_mutex_try(handle, death);
}

static int mutex_wait(void *handle, int64_t deadline, pshm_death *death)
{
    return pshm_mutex_acquire(handle, deadline, death);
}

static int mutex_wait_marked(void *handle, int64_t deadline, pshm_death *death)
{
    return pshm_mutex_recover(handle, deadline, death);
}

static int mutex_consistent(void *handle)
{
    return pshm_mutex_consistent(handle);
}

static int mutex_give(void *handle)
{
    return pshm_mutex_release(handle);
}

static int mutex_locked(void *handle)
{
    return pshm_mutex_locked(handle);
}

static int mutex_owner(void *handle, uint32_t *pid)
{
    return pshm_mutex_owner(handle, pid);
}

static const lpshm_lock_ops mutex_ops = {
    .attempt = mutex_attempt,
    .acquire = mutex_wait,
    .recover = mutex_wait_marked,
    .consistent = mutex_consistent,
    .release = mutex_give,
    .locked = mutex_locked,
    .owner = mutex_owner,
};

static void mutex_fini(void *handle)
{
    pshm_mutex_fini(handle);
}

static int mutex_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                      const void *options, bool *created)
{
    const int *recursive = options;
    return pshm_mutex_init(handle, arena, name, length, create, *recursive, created);
}

const lpshm_noun lpshm_mutex_noun = {
    .type = {"polyshm.mutex", "mutex"},
    .size = sizeof(lpshm_mutex),
    .handle = offsetof(lpshm_mutex, mutex),
    .values = LPSHM_LOCK_VALUES,
    .init = mutex_init,
    .fini = mutex_fini,
};

int lpshm_mutex_open(lua_State *L)
{
    static const int recursive = PSHM_RECURSIVE_ANY;
    int rc = lpshm_object_open(L, &lpshm_mutex_noun, &recursive, NULL);
    lpshm_lock_set(L, &mutex_ops, 0);
    return rc;
}

/* arena:mutex(name, {recursive =, repair =}) -> mutex
 * Opens the mutex, or makes it where the arena may be written. `recursive` says what it must be (default: what it is; false
 * for a new one). `repair(died)` is called with the lock held when the owner before died. Raises if it cannot. */
int lpshm_mutex_of(lua_State *L)
{
    struct mutex_options {
        int recursive, repair;
    } options = {PSHM_RECURSIVE_ANY, 0};
    static const lpshm_option names[] = {
        {"recursive", LPSHM_OPTION_TRISTATE, offsetof(struct mutex_options, recursive)},
        {"repair", LPSHM_OPTION_FUNCTION, offsetof(struct mutex_options, repair)},
    };
    lpshm_object_arguments(L);
    lpshm_options(L, 3, names, sizeof names / sizeof names[0], &options);
    (void)lpshm_object_of(L, &lpshm_mutex_noun, &options.recursive);
    lpshm_lock_set(L, &mutex_ops, options.repair);
    return 1;
}

/* mutex:acquire(timeout) -> true | false, "timeout" | false, "held"
 * Waits up to `timeout` seconds: nil for ever, 0 not at all. Raises {code = "EOWNERDEAD"} (not held) if the owner
 * died and there is no repair function; and if this thread has it, unless `timeout` is 0: that is false, "held". */
static int mutex_acquire(lua_State *L)
{
    return lpshm_lock_acquire(L, &lpshm_mutex_noun, &mutex_ops);
}

/* mutex:release()
 * Only for the thread that holds it. Works on a closed arena, and on a deleted mutex too. */
static int mutex_release(lua_State *L)
{
    return lpshm_lock_release(L, &lpshm_mutex_noun, &mutex_ops);
}

/* mutex:recursive() -> boolean
 * May its owner acquire it again? */
static int mutex_recursive(lua_State *L)
{
    const lpshm_mutex *self = lpshm_to_object(L, 1, &lpshm_mutex_noun);
    lua_pushboolean(L, self->mutex.recursive);
    return 1;
}

void lpshm_mutex_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"acquire", mutex_acquire},
                                       {"release", mutex_release},
                                       {"recursive", mutex_recursive},
                                       {NULL, NULL}};
    lpshm_new_lock_noun(L, &lpshm_mutex_noun, &mutex_ops, methods, NULL);
    lua_pop(L, 1);
}
