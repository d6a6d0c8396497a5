/* SPDX-License-Identifier: MIT
 *
 * Read-write locks, by name in an arena: many threads read, or one writes. Writers go first: whoever comes to read waits
 * while one writes or waits to write, so readers that overlap for ever do not keep it out. Readers of one lock write to
 * no common memory: each notes in its own slot what it reads.
 *
 * Owner death. A reader that dies has changed nothing, and is just gone; so is a writer that dies while it still waits for
 * readers. One that dies inside is told to all who come, readers too, as mutex.h says, until somebody gets the lock by
 * recover, repairs what it guards and calls consistent.
 *
 * A thread that reads may read again. One that reads cannot take it for writing, nor the other way round:
 * PSHM_ERELOCK. What it has for writing it can turn into reading, see pshm_rwlock_downgrade.
 */
#ifndef POLYSHM_RWLOCK_H
#define POLYSHM_RWLOCK_H

#include <polyshm/mutex.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One handle. Public to read, the core's to write. */
typedef struct pshm_rwlock {
    pshm_object object;
    uint64_t place; /* of the writer's word, in bytes from the arena's start */
} pshm_rwlock;

/* Opens the read-write lock `name`, or with `create` makes it where there is none; *created says which, and `created` may
 * be NULL.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY (to create), PSHM_ENONAME, PSHM_ENAMESIZE, PSHM_ENAMETEXT, PSHM_EKIND (the name is
 *   another noun's), PSHM_EPARTICIPANTS, PSHM_EHOLDS (creating takes two locks of the arena's own), PSHM_ECORRUPT,
 *   PSHM_ELOST; -ENOSPC; -EINTR (a slice is over: call again).
 * Owns: the handle is the caller's memory and keeps a reference to the arena until pshm_rwlock_fini.
 * Safe: threads, processes.  Blocks: while another creates or deletes. */
PSHM_API int pshm_rwlock_init(pshm_rwlock *rwlock, pshm_arena *arena, const char *name, size_t length, bool create,
                              bool *created);

/* Ends the handle, not the lock. What it holds stays held. */
PSHM_API void pshm_rwlock_fini(pshm_rwlock *rwlock);

/* ---- reading ---- */

/* Starts to read if that needs no waiting.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY, PSHM_EDELETED, PSHM_ELOST, PSHM_ECORRUPT; PSHM_EPARTICIPANTS, PSHM_EHOLDS (32
 *   locks at a time), -ENOMEM; -EBUSY (another writes, or waits to); PSHM_ERELOCK (this thread writes); PSHM_EDEPTH
 *   (32,767 times more); -EOWNERDEAD (a writer died; *death says who).
 * Safe: threads, processes. */
PSHM_API int pshm_rwlock_read_try(pshm_rwlock *rwlock, pshm_death *death);

/* The same, waiting for one slice at the most. A thread that reads already does not wait, whoever waits to write.
 * Errors: as pshm_rwlock_read_try but -EBUSY; -ETIMEDOUT; -EINTR (the slice is over, or a signal came: call again).
 * Safe: threads, processes.  Blocks: until nobody writes or waits to, or `deadline`. */
PSHM_API int pshm_rwlock_read_acquire(pshm_rwlock *rwlock, int64_t deadline, pshm_death *death);

/* The same whether marked or not. Where *death says that a writer died, nobody else has the lock until
 * pshm_rwlock_read_consistent, or until it is released and stays marked.
 * Errors: as pshm_rwlock_read_acquire but -EOWNERDEAD.
 * Blocks: as pshm_rwlock_read_acquire. */
PSHM_API int pshm_rwlock_read_recover(pshm_rwlock *rwlock, int64_t deadline, pshm_death *death);

/* Says that what the lock guards is whole again: takes the mark away, and lets others read too.
 * Errors: PSHM_ENOTOWNER, PSHM_ELOST. */
PSHM_API int pshm_rwlock_read_consistent(pshm_rwlock *rwlock);

/* Ends it once. Works on a closed arena and a deleted lock too.
 * Errors: PSHM_ENOTOWNER, PSHM_ELOST. */
PSHM_API int pshm_rwlock_read_release(pshm_rwlock *rwlock);

/* Does anybody living read? 1 or 0.
 * Errors: PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST. */
PSHM_API int pshm_rwlock_read_locked(pshm_rwlock *rwlock);

/* ---- writing ---- */

/* Takes it for writing if that needs no waiting: nobody reads or writes.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY, PSHM_EDELETED, PSHM_ELOST, PSHM_ECORRUPT; PSHM_EPARTICIPANTS, PSHM_EHOLDS (32
 *   locks at a time), -ENOMEM; -EBUSY; PSHM_ERELOCK (this thread reads or writes); -EOWNERDEAD (not held; *death says who
 *   died).
 * Safe: threads, processes. */
PSHM_API int pshm_rwlock_write_try(pshm_rwlock *rwlock, pshm_death *death);

/* The same, waiting for one slice at the most; nobody starts to read meanwhile, nor until it calls again.
 * Errors: as pshm_rwlock_write_try but -EBUSY; -ETIMEDOUT; -EINTR (the slice is over, or a signal came: call again).
 * Safe: threads, processes.  Blocks: until nobody reads or writes, or `deadline`. */
PSHM_API int pshm_rwlock_write_acquire(pshm_rwlock *rwlock, int64_t deadline, pshm_death *death);

/* The same whether marked or not; *death says which. A mark stays until pshm_rwlock_write_consistent.
 * Errors: as pshm_rwlock_write_acquire but -EOWNERDEAD.
 * Blocks: as pshm_rwlock_write_acquire. */
PSHM_API int pshm_rwlock_write_recover(pshm_rwlock *rwlock, int64_t deadline, pshm_death *death);

/* The writer says that what the lock guards is whole again: takes the mark away.
 * Errors: PSHM_ENOTOWNER, PSHM_ELOST. */
PSHM_API int pshm_rwlock_write_consistent(pshm_rwlock *rwlock);

/* Releases, also what pshm_rwlock_downgrade has made of it; a mark stays as it is. Works on a closed arena and a deleted
 * lock too.
 * Errors: PSHM_ENOTOWNER, PSHM_ELOST. */
PSHM_API int pshm_rwlock_write_release(pshm_rwlock *rwlock);

/* From writing to reading, with no writer between: others may read too. Either release ends it.
 * Errors: PSHM_ENOTOWNER (this thread does not write), PSHM_EHOLDS (it takes one place more until it is done), -EOWNERDEAD
 *   (a death is not made good), PSHM_ELOST. */
PSHM_API int pshm_rwlock_downgrade(pshm_rwlock *rwlock);

/* Does anybody living write? 1 or 0. And which process: its pid, or 0 for nobody. Who waits for readers does not yet.
 * Errors: PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST. */
PSHM_API int pshm_rwlock_write_locked(pshm_rwlock *rwlock);
PSHM_API int pshm_rwlock_write_owner(pshm_rwlock *rwlock, uint32_t *pid);

#ifdef __cplusplus
}
#endif
#endif
