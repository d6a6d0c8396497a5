/* SPDX-License-Identifier: MIT
 *
 * A mutex on raw memory: a pthread mutex of this libc, process-shared and robust, with a mark of polyshm's own behind
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

#include <polyshm/segment.h>

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
    uint32_t pid; /* 0: not known */
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

#ifdef __cplusplus
}
#endif
#endif
