/* SPDX-License-Identifier: MIT
 *
 * Waiting for several things at once: whatever can be waited for, in any arenas, and the end of participants. Nothing is
 * taken: who is told that a semaphore is ready still has to acquire it, and may find that another was faster.
 */
#ifndef POLYSHM_WAIT_H
#define POLYSHM_WAIT_H

#include <polyshm/arena.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One of them: an object, or, where that is NULL, a participant of an arena. */
typedef struct pshm_waitable {
    const pshm_object *object;
    int64_t least; /* of a counter: the value from which on it is ready */
    pshm_arena *arena;
    uint32_t slot, generation;
} pshm_waitable;

/* Is it ready? 1 or 0. An event that is set, a counter of `least` or more, a semaphore, permits or a mutex that can be had,
 * a latch at 0, a participant that is gone.
 * Errors: PSHM_EUNWAITABLE; PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST; PSHM_EPARTICIPANTS.
 * Safe: threads, processes. */
PSHM_API int pshm_waitable_ready(const pshm_waitable *waitable);

/* Waits until one of `count` is ready, for a slice at the most; ready[i] says which are, and the result is how many.
 * One system call sleeps for up to 128 words, one or two for each object; where there are more, or an arena may only be
 * read, or a filter forbids the call, it looks at all of them every few milliseconds. A wake that came for one that may
 * take what it waits for goes to the next one too.
 * The handles have to stay until it returns; arenas may be closed and objects deleted meanwhile, which is an error of it.
 * Errors: as pshm_waitable_ready, of the first one that fails, whose index is in *failed; -ETIMEDOUT; -EINTR (the slice is
 *   over, or a signal came: call again); -ENOMEM. Then ready[] says nothing.
 * Safe: threads, processes.  Blocks: until one is ready, or `deadline`. */
PSHM_API int pshm_wait(const pshm_waitable *all, size_t count, int64_t deadline, bool *ready, size_t *failed);

#ifdef __cplusplus
}
#endif
#endif
