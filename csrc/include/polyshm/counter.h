/* SPDX-License-Identifier: MIT
 *
 * A counter: a signed 64-bit number in an arena, changed by one atomic instruction at a time and owned by nobody, so that
 * a death leaves it whole. All sequentially consistent; arithmetic wraps.
 */
#ifndef POLYSHM_COUNTER_H
#define POLYSHM_COUNTER_H

#include <polyshm/arena.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pshm_counter {
    pshm_object object;
} pshm_counter;

/* Opens the counter `name`, or with `create` makes it with the value 0 where there is none; *created
 * says which, and `created` may be NULL.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY (to create), PSHM_ENONAME, PSHM_ENAMESIZE, PSHM_ENAMETEXT, PSHM_EKIND (the name is
 *   another noun's), PSHM_EPARTICIPANTS, PSHM_EHOLDS, PSHM_ECORRUPT, PSHM_ELOST; -ENOSPC; -EINTR (a slice is over: call
 *   again).
 * Owns: the handle is the caller's memory and keeps a reference to the arena until pshm_counter_fini.
 * Safe: threads, processes.  Blocks: while another creates or deletes. */
PSHM_API int pshm_counter_init(pshm_counter *counter, pshm_arena *arena, const char *name, size_t length, bool create,
                               bool *created);

/* Ends the handle, not the counter. */
PSHM_API void pshm_counter_fini(pshm_counter *counter);

/* The value.
 * Errors: PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST. */
PSHM_API int pshm_counter_load(pshm_counter *counter, int64_t *value);

/* Sets the value; the same and *previous what was there.
 * Errors: as pshm_counter_add. */
PSHM_API int pshm_counter_store(pshm_counter *counter, int64_t value);
PSHM_API int pshm_counter_exchange(pshm_counter *counter, int64_t value, int64_t *previous);

/* Adds, or subtracts; *now is the new value.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY, PSHM_EDELETED, PSHM_EPARTICIPANTS, PSHM_ELOST; -ENOMEM. */
PSHM_API int pshm_counter_add(pshm_counter *counter, int64_t by, int64_t *now);
PSHM_API int pshm_counter_sub(pshm_counter *counter, int64_t by, int64_t *now);

/* Stores `desired` if the value is *expected, and leaves what it found in *expected either way.
 * Errors: as pshm_counter_add. */
PSHM_API int pshm_counter_compare_exchange(pshm_counter *counter, int64_t *expected, int64_t desired);

/* Raises the value to `value`, or lowers it, if it is not there already; *now is the new value.
 * Errors: as pshm_counter_add. */
PSHM_API int pshm_counter_max(pshm_counter *counter, int64_t value, int64_t *now);
PSHM_API int pshm_counter_min(pshm_counter *counter, int64_t value, int64_t *now);

/* Waits until the value is `least` or more, for a slice at the most. Of a read-only arena it looks once a while.
 * Errors: as pshm_counter_load; PSHM_EPARTICIPANTS; -ENOMEM, -ETIMEDOUT; -EINTR (the slice is over: call again).
 * Blocks: until then, or `deadline`. */
PSHM_API int pshm_counter_wait(pshm_counter *counter, int64_t least, int64_t deadline);

#ifdef __cplusplus
}
#endif
#endif
