/* SPDX-License-Identifier: MIT
 *
 * A semaphore: a number of free places that nobody owns, as sem_overview(7) has it. Any process may release, whoever
 * acquired, so what a dead one had acquired stays acquired: where a death has to give it back, take permits.h.
 */
#ifndef POLYSHM_SEMAPHORE_H
#define POLYSHM_SEMAPHORE_H

#include <polyshm/arena.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PSHM_SEMAPHORE_MAX INT64_C(2147483647)
/* The value of what exists, whatever it began with; of a new one 1. */
#define PSHM_SEMAPHORE_ANY INT64_C(-1)

typedef struct pshm_semaphore {
    pshm_object object;
} pshm_semaphore;

/* Opens the semaphore `name`, or with `create` makes it with that value where there is none; *created says which, and
 * `created` may be NULL.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY (to create), PSHM_ENONAME, PSHM_ENAMESIZE, PSHM_ENAMETEXT, PSHM_EKIND (the name is
 *   another noun's), PSHM_EPARAMETER (began with another value), PSHM_ETOOMANY (value beyond PSHM_SEMAPHORE_MAX),
 *   PSHM_EPARTICIPANTS, PSHM_EHOLDS, PSHM_ECORRUPT, PSHM_ELOST; -ENOSPC; -EINTR (a slice is over: call again).
 * Owns: the handle is the caller's memory and keeps a reference to the arena until pshm_semaphore_fini.
 * Safe: threads, processes.  Blocks: while another creates or deletes. */
PSHM_API int pshm_semaphore_init(pshm_semaphore *semaphore, pshm_arena *arena, const char *name, size_t length,
                                 bool create, int64_t value, bool *created);

/* Ends the handle, not the semaphore. */
PSHM_API void pshm_semaphore_fini(pshm_semaphore *semaphore);

/* Takes one if that needs no waiting.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY, PSHM_EDELETED, PSHM_EPARTICIPANTS, PSHM_ELOST; -ENOMEM; -EBUSY (none is free).
 * Safe: threads, processes. */
PSHM_API int pshm_semaphore_try(pshm_semaphore *semaphore);

/* Takes one, waiting for a slice at the most.
 * Errors: as pshm_semaphore_try but -EBUSY; -ETIMEDOUT; -EINTR (the slice is over, or a signal came: call again).
 * Safe: threads, processes.  Blocks: until one is free, or `deadline`. */
PSHM_API int pshm_semaphore_acquire(pshm_semaphore *semaphore, int64_t deadline);

/* Gives `n` back, whoever took them.
 * Errors: as pshm_semaphore_try but -EBUSY; PSHM_ETOOFEW (n is 0), PSHM_ETOOMANY (more than PSHM_SEMAPHORE_MAX would be free;
 *   nothing is done).
 * Safe: threads, processes. */
PSHM_API int pshm_semaphore_release(pshm_semaphore *semaphore, uint64_t n);

/* How many are free now.
 * Errors: PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST. */
PSHM_API int pshm_semaphore_value(pshm_semaphore *semaphore, uint32_t *value);

#ifdef __cplusplus
}
#endif
#endif
