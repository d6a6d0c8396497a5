/* SPDX-License-Identifier: MIT
 *
 * Once: something that is done by one of all, and that the others wait for. Whoever dies in the middle has not done it:
 * the next one begins anew.
 */
#ifndef POLYSHM_ONCE_H
#define POLYSHM_ONCE_H

#include <polyshm/arena.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pshm_once {
    pshm_object object;
    uint64_t place; /* of its word, in bytes from the arena's start */
} pshm_once;

/* Opens the once `name`, or with `create` makes it, not done, where there is none; *created says which, and
 * `created` may be NULL.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY (to create), PSHM_ENONAME, PSHM_ENAMESIZE, PSHM_ENAMETEXT, PSHM_EKIND (the name is
 *   another noun's), PSHM_EPARTICIPANTS, PSHM_EHOLDS, PSHM_ECORRUPT, PSHM_ELOST; -ENOSPC; -EINTR (a slice is over: call
 *   again).
 * Owns: the handle is the caller's memory and keeps a reference to the arena until pshm_once_fini.
 * Safe: threads, processes.  Blocks: while another creates or deletes. */
PSHM_API int pshm_once_init(pshm_once *once, pshm_arena *arena, const char *name, size_t length, bool create,
                            bool *created);

/* Ends the handle, not the once. */
PSHM_API void pshm_once_fini(pshm_once *once);

/* 1: it is done, by whomever; 0: the calling thread has to do it now, and to call pshm_once_finish. While another does it,
 * this waits, for one slice at the most.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY (it is not done), PSHM_EDELETED, PSHM_ELOST, PSHM_ECORRUPT; PSHM_EPARTICIPANTS,
 *   PSHM_EHOLDS (32 at a time), -ENOMEM; PSHM_ESELFWAIT (this thread is doing it); -ETIMEDOUT; -EINTR (the slice is over, or a
 *   signal came: call again).
 * Safe: threads, processes.  Blocks: until the other has done it, or failed, or died, or `deadline`. */
PSHM_API int pshm_once_begin(pshm_once *once, int64_t deadline);

/* The calling thread has done it, or with `done` false failed to: then the next one begins. Works on a closed arena and a
 * deleted once too.
 * Errors: PSHM_ENOTOWNER, PSHM_ELOST. */
PSHM_API int pshm_once_finish(pshm_once *once, bool done);

/* Is it done? 1 or 0.
 * Errors: PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST. */
PSHM_API int pshm_once_done(pshm_once *once);

#ifdef __cplusplus
}
#endif
#endif
