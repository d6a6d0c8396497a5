/* SPDX-License-Identifier: MIT
 *
 * The kill tests of a lock with owner death, once for every lock that has this protocol: an owner's death is told to
 * whoever acquires next, with the pid of the dead or 0, until somebody has recovered it, repaired what it guards and
 * said so. Two words, equal while nobody holds the lock, stand for what it guards.
 */
#ifndef CRASH_DRIVER_LOCK_H
#define CRASH_DRIVER_LOCK_H

#include <polyshm/mutex.h>

#include "driver.h"

/* Room for the bytes of a lock on raw memory. */
#define CRASH_LOCK_BYTES 192

typedef struct crash_lock {
    const char *name;
    bool recursive;
    bool tells_pid; /* a death is always told with the pid of the dead */
    void *handle;   /* given to all below; inherited by children */
    /* Makes it new, whatever a dead process left. */
    void (*create)(void *handle);
    /* Without waiting; -EBUSY. */
    int (*attempt)(void *handle, pshm_death *death);
    /* For a slice: 0, -EINTR, -ETIMEDOUT, -EOWNERDEAD. And the same whether marked or not. */
    int (*acquire)(void *handle, int64_t deadline, pshm_death *death);
    int (*recover)(void *handle, int64_t deadline, pshm_death *death);
    int (*consistent)(void *handle);
    int (*release)(void *handle);
    /* From the bytes alone: does process `pid` hold it? Is a death marked in it that is still to be told? */
    bool (*held_by)(void *handle, pid_t pid);
    bool (*marked)(void *handle);
    /* In the last survivor, optional: what only this lock can be asked; NULL: nothing is wrong. */
    const char *(*verify)(void *handle);
    /* Optional: what a process needs before its first call, and gives back after its last one. */
    void (*join)(void *handle);
    /* Optional, where a waiter can ask to be handed the lock: from now on the calling one does so at once. */
    void (*insist)(void *handle);
    void (*leave)(void *handle);
} crash_lock;

/* Which of the cases. */
typedef enum crash_lock_what {
    CRASH_LOCK_ATTEMPT,        /* try, nobody there */
    CRASH_LOCK_ACQUIRE,        /* acquire, nobody there */
    CRASH_LOCK_CONTENDED,      /* acquire while another holds it, who releases when the victim sleeps */
    CRASH_LOCK_HANDED,         /* the same, and asks to be handed it */
    CRASH_LOCK_AFTER_DEATH,    /* acquire as the first after an owner's death */
    CRASH_LOCK_AFTER_MARK,     /* acquire as a later one: the mark is all that tells */
    CRASH_LOCK_RELEASE,        /* release, nobody there */
    CRASH_LOCK_RELEASE_WAITER, /* release while another sleeps */
    CRASH_LOCK_HAND_OVER,      /* the same, who has asked to be handed it */
    CRASH_LOCK_RECOVER,        /* recover after an owner's death */
    CRASH_LOCK_CONSISTENT,     /* what takes the mark away */
    CRASH_LOCK_AGAIN,          /* recursive: acquire while holding it */
    CRASH_LOCK_INNER,          /* recursive: release one of two */
    CRASH_LOCK_SECTION,        /* acquire, change both words, release */
    CRASH_LOCK_REPAIR,         /* after a death between the two words: recover, repair, consistent, release */
    CRASH_LOCK_GIVE_UP,        /* recover after a death, and release without a repair */
    CRASH_LOCK_CASES
} crash_lock_what;

/* The memory of the locks, `size` bytes rounded up to pages, as a descriptor that executed programs inherit. There is
 * one: the size is that of the first call. *bytes, if not NULL, is where the driver has mapped it; the two words that
 * the lock guards are behind. */
int crash_lock_memory(size_t size, void **bytes);

/* The case, valid until the next call. */
const crash_case *crash_lock_case(const crash_lock *lock, crash_lock_what what);

/* seg.mutex as such a lock, driver_mutex.c. Valid until the next call. */
const crash_lock *crash_lock_of_mutex(const char *name, bool recursive);

/* The mutex of an arena with so many participants, driver_mutex_arena.c. Valid until the next call. Its name is
 * CRASH_LOCK_NAME. */
#define CRASH_LOCK_NAME "lock"
const crash_lock *crash_lock_of_arena_mutex(const char *name, bool recursive, unsigned participants);
/* The handle inside such a lock. */
pshm_mutex *crash_lock_arena_mutex(void *handle);

/* Every case in every mode that suits it. */
void crash_lock_all(const crash_lock *lock);

#endif
