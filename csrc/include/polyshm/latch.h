/* SPDX-License-Identifier: MIT
 *
 * A latch: a number that counts down to 0 once, and opens there for ever, as std::latch and Java's CountDownLatch do.
 * Nobody owns it: what a dead one has counted stays counted, and what it has not is not.
 */
#ifndef POLYSHM_LATCH_H
#define POLYSHM_LATCH_H

#include <polyshm/arena.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PSHM_LATCH_MAX INT64_C(2147483647)
/* The count of what exists, whatever it began with; a new one needs a count. */
#define PSHM_LATCH_ANY INT64_C(-1)

typedef struct pshm_latch {
    pshm_object object;
} pshm_latch;

/* Opens the latch `name`, or with `create` makes it with that count where there is none; *created says which, and
 * `created` may be NULL.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY (to create), PSHM_ENONAME, PSHM_ENAMESIZE, PSHM_ENAMETEXT, PSHM_EKIND (the name is
 *   another noun's), PSHM_EPARAMETER (began with another count), PSHM_ETOOMANY (count beyond PSHM_LATCH_MAX), PSHM_ENOCOUNT
 *   (to create, without a count), PSHM_EPARTICIPANTS, PSHM_EHOLDS, PSHM_ECORRUPT, PSHM_ELOST; -ENOSPC; -EINTR (a slice is
 *   over: call again).
 * Owns: the handle is the caller's memory and keeps a reference to the arena until pshm_latch_fini.
 * Safe: threads, processes.  Blocks: while another creates or deletes. */
PSHM_API int pshm_latch_init(pshm_latch *latch, pshm_arena *arena, const char *name, size_t length, bool create,
                             int64_t count, bool *created);

/* Ends the handle, not the latch. */
PSHM_API void pshm_latch_fini(pshm_latch *latch);

/* Counts `n` down, to 0 at the least; *left is what it is then.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY, PSHM_EDELETED, PSHM_EPARTICIPANTS, PSHM_ELOST; PSHM_ETOOFEW (n is 0); -ENOMEM.
 * Safe: threads, processes. */
PSHM_API int pshm_latch_count_down(pshm_latch *latch, uint64_t n, uint32_t *left);

/* Waits until it is 0, for a slice at the most. Of a read-only arena it looks once a while.
 * Errors: PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST; PSHM_EPARTICIPANTS; -ENOMEM, -ETIMEDOUT; -EINTR (the slice is over, or a
 *   signal came: call again).
 * Safe: threads, processes.  Blocks: until then, or `deadline`. */
PSHM_API int pshm_latch_wait(pshm_latch *latch, int64_t deadline);

/* What is left to count.
 * Errors: PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST. */
PSHM_API int pshm_latch_count(pshm_latch *latch, uint32_t *left);

#ifdef __cplusplus
}
#endif
#endif
