/* SPDX-License-Identifier: MIT
 *
 * Record locks in Lua: a kind of lock without owner death, since the kernel drops them with their holder.
 */
#include <polyshm/record_lock.h>

#include "lua_lock.h"

#include <errno.h>

const lpshm_type lpshm_record_lock_type = {"polyshm.record_lock", "record lock"};

typedef struct lpshm_record_lock {
    lpshm_lock lock;
    pshm_record_lock *record;
} lpshm_record_lock;

static inline lpshm_record_lock *to_record_lock(lua_State *L)
{
    return lpshm_to(L, 1, &lpshm_record_lock_type, sizeof(lpshm_record_lock));
}

static int record_attempt(lpshm_lock *lock, pshm_death *death)
{
    (void)death;
    return pshm_record_lock_try(((lpshm_record_lock *)lock)->record);
}

static int record_wait(lpshm_lock *lock, int64_t deadline, pshm_death *death)
{
    (void)death;
    return pshm_record_lock_acquire(((lpshm_record_lock *)lock)->record, deadline);
}

static int record_give(lpshm_lock *lock)
{
    return pshm_record_lock_release(((lpshm_record_lock *)lock)->record);
}

static void record_end(lpshm_lock *lock)
{
    pshm_record_lock_free(((lpshm_record_lock *)lock)->record);
}

static const lpshm_lock_ops record_ops = {
    .attempt = record_attempt,
    .acquire = record_wait,
    .release = record_give,
    .end = record_end,
    .within = "segment",
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
    lpshm_record_lock *self = (lpshm_record_lock *)lpshm_lock_new(L, &lpshm_record_lock_type, sizeof *self, &record_ops,
                                                                  address, 0);
    pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    int rc = pshm_record_lock_new(segment, offset, size, shared, &self->record);
    if (rc)
        return lpshm_fail_range(L, segment, rc, offset, size == PSHM_UNSET ? lpshm_rest(segment, offset) : size);
    self->lock.type = &lpshm_record_lock_type;
    return 1;
}

/* record_lock:acquire(timeout) -> true | false, "timeout" | false, "held"
 * Waits up to `timeout` seconds: nil for ever, 0 not at all. Raises if this very object has it, unless `timeout` is 0:
 * that is false, "held". */
static int record_acquire(lua_State *L)
{
    pshm_death death = {0};
    lpshm_record_lock *self = to_record_lock(L);
    int64_t timeout = lpshm_timeout(L, 2);
    int rc = pshm_record_lock_try(self->record);
    return lpshm_lock_acquire(L, &lpshm_record_lock_type, timeout, rc, &death);
}

/* record_lock:release()
 * Works on a closed segment too. */
static int record_release(lua_State *L)
{
    lpshm_record_lock *self = to_record_lock(L);
    int rc = pshm_record_lock_release(self->record);
    return rc ? lpshm_lock_fail(L, &self->lock, rc) : 0;
}

/* record_lock:guard(timeout) -> guard
 * Acquires, for `local held <close> = lock:guard()`. Never returns nil: a timeout raises {code = "ETIMEDOUT"}. */
static int record_guard(lua_State *L)
{
    return lpshm_lock_guard(L, &lpshm_record_lock_type);
}

/* record_lock:locked() -> boolean
 * Would an acquire have to wait? */
static int record_locked(lua_State *L)
{
    lpshm_record_lock *self = to_record_lock(L);
    int rc = pshm_record_lock_locked(self->record);
    if (rc < 0)
        return lpshm_lock_fail(L, &self->lock, rc);
    lua_pushboolean(L, rc);
    return 1;
}

/* Releases what is held, and closes the descriptor. */
static int record_close(lua_State *L)
{
    return lpshm_lock_close(L, &lpshm_record_lock_type);
}

static int record_tostring(lua_State *L)
{
    return lpshm_lock_tostring(L, &lpshm_record_lock_type);
}

void lpshm_record_lock_register(lua_State *L)
{
    static const luaL_Reg meta[] = {{"__gc", record_close},
                                    {"__close", record_close},
                                    {"__tostring", record_tostring},
                                    {NULL, NULL}};
    static const luaL_Reg methods[] = {{"acquire", record_acquire},
                                       {"release", record_release},
                                       {"guard", record_guard},
                                       {"locked", record_locked},
                                       {NULL, NULL}};
    lpshm_new_type(L, &lpshm_record_lock_type, meta, methods, NULL);
    lua_pop(L, 1);
}
