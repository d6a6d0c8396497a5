/* SPDX-License-Identifier: MIT
 *
 * Permits: so many of something, each of which one thread has at a time. They are owned, unlike a semaphore's: a thread
 * gives back only what it has, and what the dead had is there for the others at once. A death is not told, as there is
 * nothing to repair.
 */
#ifndef POLYSHM_PERMITS_H
#define POLYSHM_PERMITS_H

#include <polyshm/arena.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PSHM_PERMITS_MAX 65535
/* For pshm_permits_init: as many as there are. */
#define PSHM_PERMITS_ANY INT64_MIN

typedef struct pshm_permits {
    pshm_object object;
    uint64_t place; /* of its mark in a thread's slot, in bytes from the arena's start */
    uint32_t total; /* how many there are, whoever has them */
} pshm_permits;

/* Opens the permits `name`, or with `create` makes `total` of them, 1 to 65,535, where there are none; *created
 * says which, and `created` may be NULL.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY (to create), PSHM_ENONAME, PSHM_ENAMESIZE, PSHM_ENAMETEXT, PSHM_EKIND (the name is
 *   another noun's), PSHM_EPARAMETER (exist, and are not `total`), PSHM_ETOOFEW (`total` is less than 1), PSHM_ETOOMANY,
 *   PSHM_ENOCOUNT (to create, with PSHM_PERMITS_ANY), PSHM_EPARTICIPANTS, PSHM_EHOLDS, PSHM_ECORRUPT, PSHM_ELOST; -ENOSPC;
 *   -EINTR (a slice is over: call again).
 * Owns: the handle is the caller's memory and keeps a reference to the arena until pshm_permits_fini.
 * Safe: threads, processes.  Blocks: while another creates or deletes. */
PSHM_API int pshm_permits_init(pshm_permits *permits, pshm_arena *arena, const char *name, size_t length, bool create,
                               int64_t total, bool *created);

/* Ends the handle, not the permits. What a thread has of them it keeps. */
PSHM_API void pshm_permits_fini(pshm_permits *permits);

/* Acquires `n` of them, all or none, if that needs no waiting.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY, PSHM_EDELETED, PSHM_ELOST; PSHM_ETOOFEW (`n` is less than 1), PSHM_ETOOMANY (more than
 *   there are); PSHM_EPARTICIPANTS, PSHM_EHOLDS (it takes two places of 32, and keeps one), -ENOMEM; -EBUSY (too few are
 *   free, or another is stopped in the middle of acquiring).
 * Safe: threads, processes.  Blocks: while another is in the middle of acquiring, for some milliseconds at the most. */
PSHM_API int pshm_permits_try(pshm_permits *permits, int64_t n);

/* Acquires `n` of them, all or none, waiting for one slice at the most. Who wants few may go ahead of who wants many.
 * Errors: as pshm_permits_try but -EBUSY; PSHM_ESELFWAIT (this thread has so many already that all but those are too few);
 *   -ETIMEDOUT; -EINTR (the slice is over, or a signal came: call again).
 * Safe: threads, processes.  Blocks: until others release, or die, or `deadline`. */
PSHM_API int pshm_permits_acquire(pshm_permits *permits, int64_t n, int64_t deadline);

/* Gives `n` of this thread's back. Works on a closed arena and on deleted permits too.
 * Errors: PSHM_ETOOFEW, PSHM_ENOTOWNER (it has not so many: it keeps what it has), PSHM_ELOST.
 * Safe: threads, processes. */
PSHM_API int pshm_permits_release(pshm_permits *permits, int64_t n);

/* How many could be had now; how many the calling thread has.
 * Errors: PSHM_ECLOSED (not where it has some), PSHM_EDELETED, PSHM_ELOST. */
PSHM_API int pshm_permits_available(pshm_permits *permits, uint32_t *count);
PSHM_API int pshm_permits_held(pshm_permits *permits, uint32_t *count);

#ifdef __cplusplus
}
#endif
#endif
