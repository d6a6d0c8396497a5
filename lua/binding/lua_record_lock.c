/* SPDX-License-Identifier: MIT
 *
 * Record locks in Lua: a kind of lock without owner death, since the kernel drops them with their holder.
 */
#include <polyshm/record_lock.h>

#include "lua_lock.h"

static int record_attempt(void *handle, pshm_death *death)
{
    (void)death;
    return pshm_record_lock_try(handle);
}

static int record_wait(void *handle, int64_t deadline, pshm_death *death)
{
    (void)death;
    return pshm_record_lock_acquire(handle, deadline);
}

static int record_give(void *handle)
{
    return pshm_record_lock_release(handle);
}

static int record_locked(void *handle)
{
    return pshm_record_lock_locked(handle);
}

static const lpshm_lock_ops record_ops = {
    .attempt = record_attempt,
    .acquire = record_wait,
    .release = record_give,
    .locked = record_locked,
};

/* Releases what is held, and closes the descriptor. */
static void record_end(void *handle)
{
    pshm_record_lock_free(handle);
}

static const lpshm_noun lpshm_record_lock_noun = {
    .type = {"polyshm.record_lock", "record lock"},
    .within = "segment",
    .size = sizeof(lpshm_lock),
    .values = LPSHM_LOCK_VALUES,
    .fini = record_end,
};

/* segment:record_lock(offset, size, {shared = false}) -> record_lock | nil, message, code
 * A lock on `size` bytes (default: the rest) from `offset` (default: 0) on, for files, POSIX segments and memfd.
 * Nothing is taken yet. Each lock object excludes every other one, in the same process too. */
int lpshm_segment_record_lock(lua_State *L)
{
    static const lpshm_option names[] = {{"shared", LPSHM_OPTION_BOOLEAN, 0}};
    bool shared = false;
    (void)lpshm_to_segment(L, 1);
    uint64_t offset = lpshm_opt_bytes(L, 2, "offset", 0);
    uint64_t size = lpshm_opt_bytes(L, 3, "size", PSHM_UNSET);
    lpshm_options(L, 4, names, 1, &shared);

    const char *address = lua_pushstring(L, lpshm_to_segment(L, 1)->segment->address);
    lua_pushfstring(L, "%s: record lock at %I", address, (LUAI_UACINT)offset);
    lpshm_lock *self = lpshm_object_new(L, &lpshm_record_lock_noun, address);
    lpshm_lock_set(L, &record_ops, 0);
    pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    pshm_record_lock *record;
    int rc = pshm_record_lock_new(segment, offset, size, shared, &record);
    if (rc)
        return lpshm_fail_range(L, segment, rc, offset, size == PSHM_UNSET ? lpshm_rest(segment, offset) : size);
    self->object.handle = record;
    self->object.type = &lpshm_record_lock_noun.type;
    return 1;
}

/* record_lock:acquire(timeout) -> true | false, "timeout" | false, "held"
 * Waits up to `timeout` seconds: nil for ever, 0 not at all. Raises if this very object has it, unless `timeout` is 0:
 * that is false, "held". */
static int record_acquire(lua_State *L)
{
    return lpshm_lock_acquire(L, &lpshm_record_lock_noun, &record_ops);
}

/* record_lock:release()
 * Works on a closed segment too. */
static int record_release(lua_State *L)
{
    return lpshm_lock_release(L, &lpshm_record_lock_noun, &record_ops);
}

void lpshm_record_lock_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"acquire", record_acquire}, {"release", record_release}, {NULL, NULL}};
    lpshm_new_lock_noun(L, &lpshm_record_lock_noun, &record_ops, methods, NULL);
    lua_pop(L, 1);
}
