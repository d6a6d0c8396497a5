/* SPDX-License-Identifier: MIT
 *
 * Participants: the threads that own or wait for something in an arena. Each holds a beacon, a robust mutex that the
 * kernel hands on when the thread dies, so that its death is proven and never guessed.
 */
#ifndef POLYSHM_PARTICIPANT_H
#define POLYSHM_PARTICIPANT_H

#include <polyshm/arena.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PSHM_HOLDS_MAX 32

/* One of them, as it was at a moment. */
typedef struct pshm_participant {
    uint32_t slot;        /* its place in the table, from 0 */
    uint32_t generation;  /* of the slot: another one is another participant */
    uint32_t pid, thread; /* as its own PID namespace sees them */
    pshm_language language;
    bool alive;
    bool self;        /* the calling thread */
    uint32_t holding; /* how many locks, and what they are: */
    struct {
        uint64_t place; /* of the lock's word, in bytes from the arena's start */
        char name[256]; /* of the object; "(heap)" and "(directory)" are the arena's own */
    } holds[PSHM_HOLDS_MAX];
    char waits[256]; /* the name of what it sleeps for; empty: nothing */
} pshm_participant;

/* All of them, the dead too whose slot nobody has needed since. Takes no lock of the arena's.
 * Errors: PSHM_ECLOSED, PSHM_ELOST; -ENOMEM.
 * Owns: *out is the caller's; pshm_participants_free frees it. */
PSHM_API int pshm_arena_list_participants(pshm_arena *arena, pshm_participant **out, size_t *count);
PSHM_API void pshm_participants_free(pshm_participant *participants);

/* Makes the calling thread a participant, as its first lock would do.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY, PSHM_EPARTICIPANTS (all slots are taken by the living), PSHM_ELOST; -ENOMEM,
 *   -EAGAIN (somebody has locked the whole file). */
PSHM_API int pshm_participant_attach(pshm_arena *arena);

/* Gives the slot of the calling thread back, if it holds nothing; what it holds keeps it.
 * Errors: PSHM_EHELD. */
PSHM_API int pshm_participant_detach(pshm_arena *arena);

/* Waits for the death (or the end, or the detach) of one, for a slice at the most; 0 once it is gone.
 * Errors: PSHM_ECLOSED, PSHM_ELOST; -ETIMEDOUT; -EINTR (the slice is over, or a signal came: call again).
 * Blocks: until it is gone, or `deadline`. */
PSHM_API int pshm_participant_wait(pshm_arena *arena, uint32_t slot, uint32_t generation, int64_t deadline);

#ifdef __cplusplus
}
#endif
#endif
