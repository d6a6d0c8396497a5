/* SPDX-License-Identifier: MIT
 *
 * The protocol of owner death, and what else all locks have in common: acquire, guard, recover, release. A kind of
 * lock gives its operations; lua_lock.c does the rest, in slices, with nothing held while Lua may raise.
 */
#ifndef POLYSHM_LUA_LOCK_H
#define POLYSHM_LUA_LOCK_H

#include <polyshm/mutex.h>

#include <errno.h>

#include "lua_object.h"

/* Of the core's handle. Codes as those of pshm_segment_mutex_*. */
typedef struct lpshm_lock_ops {
    int (*attempt)(void *handle, pshm_death *death);
    int (*acquire)(void *handle, int64_t deadline, pshm_death *death);
    int (*recover)(void *handle, int64_t deadline, pshm_death *death); /* NULL: it knows no owner death */
    int (*consistent)(void *handle);
    int (*release)(void *handle);
    int (*locked)(void *handle);
    int (*owner)(void *handle, uint32_t *pid); /* NULL: it knows no owner */
} lpshm_lock_ops;

/* The user value of a lock: the function of the option `repair`. */
enum { LPSHM_LOCK_REPAIR = LPSHM_OBJECT_VALUES + 1, LPSHM_LOCK_VALUES = 1 };

/* The first member of every lock's userdata. Two may share the core's handle, each with operations of its own. */
typedef struct lpshm_lock {
    lpshm_object object;
    const lpshm_lock_ops *ops;
    bool repair; /* there is such a function */
} lpshm_lock;

/* Makes a lock of the new handle at the top of the stack. `repair`: the place of such a function, or 0. */
void lpshm_lock_set(lua_State *L, const lpshm_lock_ops *ops, int repair);

/* As lpshm_new_noun, with guard(), locked(), and those of recover() and owner() that the operations have. */
void lpshm_new_lock_noun(lua_State *L, const lpshm_noun *noun, const lpshm_lock_ops *ops, const luaL_Reg *methods,
                         lua_CFunction index);

/* acquire(timeout) from where a first attempt said `rc` (-EBUSY: held by another, or not attempted) on.
 * `timeout` is that of lpshm_timeout. */
int lpshm_lock_wait(lua_State *L, const lpshm_noun *noun, int64_t timeout, int rc, pshm_death *death);

/* About the lock at 1, as lpshm_object_fail; for -EOWNERDEAD with an object that tells of the death. */
int lpshm_lock_fail(lua_State *L, const lpshm_lock *lock, int rc, const pshm_death *death);

/* With the lock at 1 held, and kept: runs its repair function. If that returns, the lock is clean. If it raises, the
 * lock is given back with its mark: false, and the error is at the top of the stack. */
bool lpshm_lock_repair(lua_State *L, lpshm_lock *lock, const pshm_death *death);

/* acquire(timeout) and release() of a noun. They stand here because without contention they are a check and a call: where the
 * compiler sees `ops`, one without a detour. `ops` NULL: those of the lock. */
static inline int lpshm_lock_acquire(lua_State *L, const lpshm_noun *noun, const lpshm_lock_ops *ops)
{
    pshm_death death = {0};
    lpshm_lock *lock = lpshm_to_object(L, 1, noun);
    int64_t timeout = PSHM_LIKELY(lua_type(L, 2) <= 0) ? LPSHM_FOREVER : lpshm_timeout(L, 2);
    int rc = -EBUSY;
    if (PSHM_LIKELY(!lock->repair)) {
        rc = (ops ? ops : lock->ops)->attempt(lock->object.handle, &death);
        if (PSHM_LIKELY(!rc)) {
            lua_pushboolean(L, 1);
            return 1;
        }
    }
    return lpshm_lock_wait(L, noun, timeout, rc, &death);
}

static inline int lpshm_lock_release(lua_State *L, const lpshm_noun *noun, const lpshm_lock_ops *ops)
{
    lpshm_lock *lock = lpshm_to_object(L, 1, noun);
    int rc = (ops ? ops : lock->ops)->release(lock->object.handle);
    return PSHM_LIKELY(!rc) ? 0 : lpshm_object_fail(L, &lock->object, rc);
}

#endif
