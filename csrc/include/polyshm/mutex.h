/* SPDX-License-Identifier: MIT
 *
 * Mutexes: one on raw memory, pshm_segment_mutex, and one by name in an arena, pshm_mutex. Both tell an owner's death in
 * the same way.
 *
 * pshm_segment_mutex is a pthread mutex of this libc, process-shared and robust, with a mark of polyshm's own behind
 * it. A C program that knows only pthread_mutex_lock(3) shares the same lock.
 *
 * Owner death. When an owner dies (SIGKILL, exit, exec, end of its thread), the next one to acquire is told
 * -EOWNERDEAD, does not hold the lock, and the mutex stays *marked*: everybody is told so, until somebody gets it with
 * pshm_segment_mutex_recover, repairs what the lock guards and calls pshm_segment_mutex_consistent. Beside a mutex that a foreign
 * program initialised there is no mark: the death is told once, to whoever meets it.
 *
 * glibc follows pointers in these bytes: a process that may write there is trusted not to forge them. It knows owners
 * by thread id, so do not share a raw mutex across PID namespaces.
 */
#ifndef POLYSHM_MUTEX_H
#define POLYSHM_MUTEX_H

#include <pthread.h>

#include <polyshm/arena.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What lies behind the pthread mutex. */
typedef struct pshm_mutex_mark {
    uint64_t magic;  /* PSHM_MUTEX_MAGIC: the mark is ours */
    uint64_t died;   /* 0: clean; else PSHM_MUTEX_DIED and the pid of the dead owner, 0 if not known */
    uint32_t owner;  /* pid of the owner, 0 for none or a foreign one; with `thread` one store */
    uint32_t thread; /* its thread id */
} pshm_mutex_mark;

typedef struct pshm_mutex_bytes {
    pthread_mutex_t mutex;
    pshm_mutex_mark mark;
} pshm_mutex_bytes;

#define PSHM_MUTEX_MAGIC UINT64_C(0x316d687379c3d70e)
#define PSHM_MUTEX_DIED (UINT64_C(1) << 32)
/* Bytes that a mutex takes, and the alignment of its offset. */
#define PSHM_MUTEX_SIZE sizeof(pshm_mutex_bytes)
#define PSHM_MUTEX_ALIGN 8

/* One handle on a mutex. Public to read, the core's to write. It stays where it is: the segment has its address. */
typedef struct pshm_segment_mutex {
    pshm_segment *segment;
    uint64_t offset;
    pshm_hold hold;
    bool recursive;
    bool marked; /* a mark of ours lies behind it: not so beside a foreign mutex */
    /* What was true at `epoch` of the segment, so that the next use need not ask again. */
    bool plain; /* marked, not recursive, and the segment is `serial` */
    pshm_mutex_bytes *bytes;
    uint32_t epoch;
    int kind;
} pshm_segment_mutex;

/* What a death left. */
typedef struct pshm_death {
    bool died;
    uint32_t pid;         /* 0: not known */
    uint32_t participant; /* of an arena: slot + 1 of the dead; 0: not known, or raw memory */
} pshm_death;

typedef enum pshm_recursive { PSHM_RECURSIVE_ANY = -1, PSHM_RECURSIVE_NO = 0, PSHM_RECURSIVE_YES = 1 } pshm_recursive;

/* Makes a handle on the mutex at `offset`, and with `create` initialises it, as pthread_mutex_init does: for one
 * process, while nobody uses it. Without `create`, foreign mutexes are welcome if they are robust and process-shared.
 * Errors: as pshm_segment_check; PSHM_EALIGN; PSHM_ENOTMUTEX; PSHM_ERECURSIVE (exists, and `recursive` is another);
 *   PSHM_EHELD (to create where this thread holds one); PSHM_ELOST.
 * Owns: the handle is the caller's memory and keeps a reference to the segment until pshm_segment_mutex_fini. */
PSHM_API int pshm_segment_mutex_init(pshm_segment_mutex *mutex, pshm_segment *segment, uint64_t offset, bool create,
                                     pshm_recursive recursive);

/* Ends the handle, not the mutex. What it holds stays held. */
PSHM_API void pshm_segment_mutex_fini(pshm_segment_mutex *mutex);

/* Acquires if that needs no waiting. While it is held the mapping stays, however soon the segment is closed.
 * Errors: PSHM_ECLOSED, PSHM_ENOTMUTEX (no longer one), PSHM_EREADONLY, PSHM_ENOACCESS, PSHM_ELOST; -EBUSY (held by
 *   another); PSHM_ERELOCK; -EOWNERDEAD (not held; *death says who died); -EAGAIN (recursion too deep);
 *   -ENOTRECOVERABLE (a foreign program gave up on it).
 * Safe: threads that entered the segment (PSHM_USE_RAW), processes. */
PSHM_API int pshm_segment_mutex_try(pshm_segment_mutex *mutex, pshm_death *death);

/* Acquires, waiting for one slice at the most.
 * Errors: as pshm_segment_mutex_try but -EBUSY; -ETIMEDOUT; -EINTR (the slice is over: call again).
 * Safe: as pshm_segment_mutex_try.  Blocks: until the owner releases or dies, or `deadline`. */
PSHM_API int pshm_segment_mutex_acquire(pshm_segment_mutex *mutex, int64_t deadline, pshm_death *death);

/* Acquires whether marked or not; *death says which. A mark stays until pshm_segment_mutex_consistent.
 * Errors: as pshm_segment_mutex_acquire but -EOWNERDEAD.
 * Blocks: as pshm_segment_mutex_acquire. */
PSHM_API int pshm_segment_mutex_recover(pshm_segment_mutex *mutex, int64_t deadline, pshm_death *death);

/* The owner says that what the lock guards is whole again: takes the mark away.
 * Errors: PSHM_ENOTOWNER, PSHM_ELOST. */
PSHM_API int pshm_segment_mutex_consistent(pshm_segment_mutex *mutex);

/* Releases what this handle acquired; a mark stays as it is. Works on a closed segment too.
 * Errors: PSHM_ENOTOWNER; PSHM_ELOST (released as far as there is anything left). */
PSHM_API int pshm_segment_mutex_release(pshm_segment_mutex *mutex);

/* Is it held by a living owner? 1 or 0. And by which process: its pid, or 0 for nobody or a foreign owner.
 * Errors: as pshm_segment_mutex_try. */
PSHM_API int pshm_segment_mutex_locked(pshm_segment_mutex *mutex);
PSHM_API int pshm_segment_mutex_owner(pshm_segment_mutex *mutex, uint32_t *pid);

/* ---- by name, in an arena ----
 *
 * pshm_mutex knows owners by their slot and its generation, and death by their beacon: across PID namespaces, and for the
 * price of two atomic instructions. A waiter that lost the race for it again and again asks to be handed it, and gets it
 * next. */

typedef struct pshm_mutex {
    pshm_object object;
    uint64_t place; /* of its word, in bytes from the arena's start */
    bool recursive;
} pshm_mutex;

/* Opens the mutex `name`, or with `create` makes it where there is none; *created says which, and
 * `created` may be NULL.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY (to create), PSHM_ENONAME, PSHM_ENAMESIZE, PSHM_ENAMETEXT, PSHM_EKIND (the name is
 *   another noun's), PSHM_ERECURSIVE (exists, and `recursive` is another), PSHM_EPARTICIPANTS, PSHM_EHOLDS (creating takes
 *   two locks of the arena's own), PSHM_ECORRUPT, PSHM_ELOST; -ENOSPC; -EINTR (a slice is over: call again).
 * Owns: the handle is the caller's memory and keeps a reference to the arena until pshm_mutex_fini.
 * Safe: threads, processes.  Blocks: while another creates or deletes. */
PSHM_API int pshm_mutex_init(pshm_mutex *mutex, pshm_arena *arena, const char *name, size_t length, bool create,
                             pshm_recursive recursive, bool *created);

/* Ends the handle, not the mutex. What it holds stays held. */
PSHM_API void pshm_mutex_fini(pshm_mutex *mutex);

/* Acquires if that needs no waiting.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY, PSHM_EDELETED, PSHM_ELOST, PSHM_ECORRUPT; PSHM_EPARTICIPANTS, PSHM_EHOLDS (32 at a
 *   time), -ENOMEM; -EBUSY (held by another); PSHM_ERELOCK; PSHM_EDEPTH (65,535 times more); -EOWNERDEAD (not held; *death says
 *   who died).
 * Safe: threads, processes. */
PSHM_API int pshm_mutex_try(pshm_mutex *mutex, pshm_death *death);

/* Acquires, waiting for one slice at the most.
 * Errors: as pshm_mutex_try but -EBUSY; -ETIMEDOUT; -EINTR (the slice is over, or a signal came: call again).
 * Safe: threads, processes.  Blocks: until the owner releases or dies, or `deadline`. */
PSHM_API int pshm_mutex_acquire(pshm_mutex *mutex, int64_t deadline, pshm_death *death);

/* Acquires whether marked or not; *death says which. A mark stays until pshm_mutex_consistent.
 * Errors: as pshm_mutex_acquire but -EOWNERDEAD.
 * Blocks: as pshm_mutex_acquire. */
PSHM_API int pshm_mutex_recover(pshm_mutex *mutex, int64_t deadline, pshm_death *death);

/* The owner says that what the lock guards is whole again: takes the mark away.
 * Errors: PSHM_ENOTOWNER, PSHM_ELOST. */
PSHM_API int pshm_mutex_consistent(pshm_mutex *mutex);

/* Releases; a mark stays as it is. Works on a closed arena and a deleted mutex too.
 * Errors: PSHM_ENOTOWNER, PSHM_ELOST. */
PSHM_API int pshm_mutex_release(pshm_mutex *mutex);

/* The same for owners that share a thread, as the tasks of an event loop do: `task`, not 0, tells them apart. They never
 * wait in here; one that was told by pshm_wait or a notifier that it may try says so by `watched`. What a task holds is
 * not the thread's: it is PSHM_ERELOCK to that, which cannot wait for itself, and -EBUSY to the other tasks.
 * Errors: as pshm_mutex_try, pshm_mutex_consistent, pshm_mutex_release. */
PSHM_API int pshm_mutex_try_task(pshm_mutex *mutex, uint64_t task, bool watched, pshm_death *death);
PSHM_API int pshm_mutex_recover_task(pshm_mutex *mutex, uint64_t task, bool watched, pshm_death *death);
PSHM_API int pshm_mutex_consistent_task(pshm_mutex *mutex, uint64_t task);
PSHM_API int pshm_mutex_release_task(pshm_mutex *mutex, uint64_t task);

/* Does this task of the calling thread hold it? 0: the thread itself.
 * Safe: threads. */
PSHM_API bool pshm_mutex_held_by_task(const pshm_mutex *mutex, uint64_t task);

/* Is it held by a living owner? 1 or 0. And by which process: its pid, or 0 for nobody.
 * Errors: PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST. */
PSHM_API int pshm_mutex_locked(pshm_mutex *mutex);
PSHM_API int pshm_mutex_owner(pshm_mutex *mutex, uint32_t *pid);

#ifdef __cplusplus
}
#endif
#endif
