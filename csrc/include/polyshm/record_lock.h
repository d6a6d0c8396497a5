/* SPDX-License-Identifier: MIT
 *
 * Record locks: fcntl(2) open-file-description locks on a range of the file behind a segment, each on a descriptor of
 * its own, so that two handles exclude each other in one process too. The kernel drops them when the holder dies.
 */
#ifndef POLYSHM_RECORD_LOCK_H
#define POLYSHM_RECORD_LOCK_H

#include <polyshm/segment.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pshm_record_lock pshm_record_lock;

/* Makes a lock on `size` bytes at `offset` of the window (PSHM_UNSET: to its end), shared or exclusive. Nothing is
 * taken yet. Other programs meet it at the window's offset in the file plus `offset`.
 * Errors: as pshm_segment_check; PSHM_EZEROSIZE; PSHM_EREADONLY (exclusive needs a descriptor that may write); -EOPNOTSUPP (System V,
 *   anon and zero have no file); -EMFILE, -ENOMEM.
 * Owns: *out is the caller's until pshm_record_lock_free. */
PSHM_API int pshm_record_lock_new(pshm_segment *segment, uint64_t offset, uint64_t size, bool shared,
                                  pshm_record_lock **out);

/* Releases what is held and frees the lock.
 * Safe: while no other thread uses this lock object. */
PSHM_API void pshm_record_lock_free(pshm_record_lock *lock);

/* Acquires if that needs no waiting.
 * Errors: -EBUSY; PSHM_ECLOSED; PSHM_EHELD (by this very object); -ENOLCK.
 * Safe: threads, processes; a forked child starts with nothing held. */
PSHM_API int pshm_record_lock_try(pshm_record_lock *lock);

/* Acquires, trying again with pauses from 1 to 20 ms, for one slice at the most.
 * Errors: as pshm_record_lock_try but -EBUSY; -ETIMEDOUT; -EINTR (the slice is over: call again).
 * Blocks: until it is free, or `deadline`. */
PSHM_API int pshm_record_lock_acquire(pshm_record_lock *lock, int64_t deadline);

/* Releases. Works on a closed segment too.
 * Errors: PSHM_ENOTOWNER. */
PSHM_API int pshm_record_lock_release(pshm_record_lock *lock);

/* Would an acquire have to wait? 1 if this object or another one holds it in a way that excludes this lock, else 0.
 * Errors: PSHM_ECLOSED. */
PSHM_API int pshm_record_lock_locked(pshm_record_lock *lock);

#ifdef __cplusplus
}
#endif
#endif
