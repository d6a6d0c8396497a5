/* SPDX-License-Identifier: MIT
 *
 * The protocol of owner death, and what else all locks have in common: acquire, guard, recover, release. A kind of
 * lock gives its operations; lua_lock.c does the rest, in slices, with nothing held while Lua may raise.
 */
#ifndef POLYSHM_LUA_LOCK_H
#define POLYSHM_LUA_LOCK_H

#include <polyshm/mutex.h>

#include "glue.h"

typedef struct lpshm_lock lpshm_lock;

/* Codes as those of pshm_segment_mutex_*. */
typedef struct lpshm_lock_ops {
    int (*attempt)(lpshm_lock *lock, pshm_death *death);
    int (*acquire)(lpshm_lock *lock, int64_t deadline, pshm_death *death);
    int (*recover)(lpshm_lock *lock, int64_t deadline, pshm_death *death); /* NULL: it knows no owner death */
    int (*consistent)(lpshm_lock *lock);
    int (*release)(lpshm_lock *lock);
    void (*end)(lpshm_lock *lock); /* ends the handle */
    const char *within;            /* what it lies in: "segment", "arena" */
} lpshm_lock_ops;

/* User values of a lock: what it lies in, the function of the option `repair`, and its two texts. These are strings of
 * Lua's, so that messages can be made of them whatever a finalizer ended meanwhile. */
enum { LPSHM_LOCK_WITHIN = 1, LPSHM_LOCK_REPAIR, LPSHM_LOCK_ADDRESS, LPSHM_LOCK_SUBJECT, LPSHM_LOCK_VALUES = 4 };

/* The first member of every lock's userdata. */
struct lpshm_lock {
    const lpshm_type *type;
    const lpshm_lock_ops *ops;
    const char *address; /* "posix:/demo" */
    const char *subject; /* "posix:/demo: mutex at 64" */
    uint32_t guards;     /* guards and repairs that still need the handle */
    bool ended;          /* the handle goes with the last of them */
    bool repair;         /* there is such a function */
};

/* Pushes a new lock of `type` in what stands at 1, whose address is given; its subject's text is at the top and is taken.
 * `repair`: the place of such a function, or 0. It is closed until its type is set. */
lpshm_lock *lpshm_lock_new(lua_State *L, const lpshm_type *type, size_t size, const lpshm_lock_ops *ops,
                           const char *address, int repair);

/* acquire(timeout) from where a first attempt said `rc` (-EBUSY: held by another, or not attempted) on.
 * `timeout` is that of lpshm_timeout. */
int lpshm_lock_acquire(lua_State *L, const lpshm_type *type, int64_t timeout, int rc, pshm_death *death);
int lpshm_lock_guard(lua_State *L, const lpshm_type *type);
int lpshm_lock_recover(lua_State *L, const lpshm_type *type);
/* __gc and __close. */
int lpshm_lock_close(lua_State *L, const lpshm_type *type);
int lpshm_lock_tostring(lua_State *L, const lpshm_type *type);

/* What a code of a lock means: raises, or pushes nil, message, name and returns 3. */
int lpshm_lock_fail(lua_State *L, const lpshm_lock *lock, int rc);

#endif
