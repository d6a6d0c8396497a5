/* SPDX-License-Identifier: MIT
 *
 * The mutex on raw memory in Lua. acquire() and release() without contention are a check and a call; everything that
 * waits, or has an owner's death in it, is lua_lock.c's.
 */
#include "lua_lock.h"

typedef struct lpshm_raw_mutex {
    lpshm_lock lock;
    pshm_segment_mutex mutex;
} lpshm_raw_mutex;

static int mutex_attempt(void *handle, pshm_death *death)
{
    return pshm_segment_mutex_try(handle, death);
}

static int mutex_wait(void *handle, int64_t deadline, pshm_death *death)
{
    return pshm_segment_mutex_acquire(handle, deadline, death);
}

static int mutex_wait_marked(void *handle, int64_t deadline, pshm_death *death)
{
    return pshm_segment_mutex_recover(handle, deadline, death);
}

static int mutex_consistent(void *handle)
{
    return pshm_segment_mutex_consistent(handle);
}

static int mutex_give(void *handle)
{
    return pshm_segment_mutex_release(handle);
}

static int mutex_locked(void *handle)
{
    return pshm_segment_mutex_locked(handle);
}

static int mutex_owner(void *handle, uint32_t *pid)
{
    return pshm_segment_mutex_owner(handle, pid);
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
    pshm_segment_mutex_fini(handle);
}

static const lpshm_noun lpshm_segment_mutex_noun = {
    .type = {"polyshm.segment_mutex", "mutex"},
    .within = "segment",
    .size = sizeof(lpshm_raw_mutex),
    .handle = offsetof(lpshm_raw_mutex, mutex),
    .values = LPSHM_LOCK_VALUES,
    .fini = mutex_fini,
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
    lpshm_raw_mutex *self = lpshm_object_new(L, &lpshm_segment_mutex_noun, address);
    lpshm_lock_set(L, &mutex_ops, options.repair);
    pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    int rc = pshm_segment_mutex_init(&self->mutex, segment, offset, options.create, options.recursive);
    if (rc)
        return lpshm_fail_range(L, segment, rc, offset, PSHM_MUTEX_SIZE);
    self->lock.object.type = &lpshm_segment_mutex_noun.type;
    return 1;
}

/* mutex:acquire(timeout) -> true | false, "timeout" | false, "held"
 * Waits up to `timeout` seconds: nil for ever, 0 not at all. Raises {code = "EOWNERDEAD"} (not held) if the owner
 * died and there is no repair function; and if this thread has it, unless `timeout` is 0: that is false, "held". */
static int mutex_acquire(lua_State *L)
{
    return lpshm_lock_acquire(L, &lpshm_segment_mutex_noun, &mutex_ops);
}

/* mutex:release()
 * Only for the thread that holds it. Works on a closed segment too. */
static int mutex_release(lua_State *L)
{
    return lpshm_lock_release(L, &lpshm_segment_mutex_noun, &mutex_ops);
}

void lpshm_segment_mutex_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"acquire", mutex_acquire}, {"release", mutex_release}, {NULL, NULL}};
    lpshm_new_lock_noun(L, &lpshm_segment_mutex_noun, &mutex_ops, methods, NULL);
    lua_pop(L, 1);
}
