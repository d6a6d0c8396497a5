/* SPDX-License-Identifier: MIT
 *
 * A barrier: as many threads as it has parties wait for each other, phase by phase, as in pthread_barrier_wait(3p) and
 * Python's threading.Barrier. Threads join it, and what a death does is a matter of those who joined: it breaks the barrier
 * for the others, or they go on with one less, as was said when it was made.
 *
 * What is known of a member stands in one word, and nothing is counted, so a death tears nothing. A member that ends
 * without leaving counts as dead. Where all members are dead, the next one to join finds the barrier as new.
 */
#ifndef POLYSHM_BARRIER_H
#define POLYSHM_BARRIER_H

#include <polyshm/arena.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the death of a member does: constant, text. The numbers are stored. */
#define PSHM_ON_DEATH_MAP(X)                                                                                           \
    X(BREAK, "break")   /* the barrier is broken for the others */                                                     \
    X(SHRINK, "shrink") /* one less is waited for */

typedef enum pshm_on_death {
    PSHM_ON_DEATH_UNSET = -1,
#define X(name, text) PSHM_ON_DEATH_##name,
    PSHM_ON_DEATH_MAP(X)
#undef X
        PSHM_ON_DEATHS
} pshm_on_death;

#define PSHM_PARTIES_MAX 32766u

typedef struct pshm_barrier {
    pshm_object object;
    uint32_t parties;
    pshm_on_death on_death;
} pshm_barrier;

/* What a wait knows between its steps. */
typedef struct pshm_barrier_ticket {
    uint32_t phase;
    uint32_t index; /* how many had arrived before: 0 to parties - 1, another for each, but if one went away */
    uint32_t asked; /* whose life is asked for next */
    bool passed;    /* nobody is waited for any more */
} pshm_barrier_ticket;

/* Opens the barrier `name`, or with `create` makes it where there is none; *created says which, and may be NULL. `parties`
 * 0 and PSHM_ON_DEATH_UNSET stand for what it has; a new one needs parties, and is PSHM_ON_DEATH_BREAK unless said.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY (to create), PSHM_ENONAME, PSHM_ENAMESIZE, PSHM_ENAMETEXT, PSHM_EKIND (the name is
 *   another noun's), PSHM_EPARAMETER (parties or on_death is another), PSHM_ENOCOUNT (to create, with 0), PSHM_ETOOMANY
 *   (parties), PSHM_EPARTICIPANTS, PSHM_EHOLDS, PSHM_ECORRUPT, PSHM_ELOST; -ENOSPC; -EINTR (a slice is over: call again).
 * Owns: the handle is the caller's memory and keeps a reference to the arena until pshm_barrier_fini.
 * Safe: threads, processes.  Blocks: while another creates or deletes. */
PSHM_API int pshm_barrier_init(pshm_barrier *barrier, pshm_arena *arena, const char *name, size_t length, bool create,
                               uint64_t parties, pshm_on_death on_death, bool *created);

/* Ends the handle, not the barrier, and no membership. */
PSHM_API void pshm_barrier_fini(pshm_barrier *barrier);

/* Makes the calling thread a member, if it is none. From now on its death is one.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY, PSHM_EDELETED, PSHM_ELOST, PSHM_ECORRUPT; PSHM_EPARTICIPANTS, PSHM_EHOLDS, -ENOMEM;
 *   PSHM_EPARTIES (as many living threads are members as there are parties); PSHM_EBROKEN; -EINTR (a slice is over: call
 *   again).
 * Safe: threads, processes.  Blocks: while another is at the table of members. */
PSHM_API int pshm_barrier_join(pshm_barrier *barrier);

/* The calling thread is a member no longer, and its party is open again; nothing where it was none.
 * Errors: as pshm_barrier_join but PSHM_EPARTIES and PSHM_EBROKEN. */
PSHM_API int pshm_barrier_leave(pshm_barrier *barrier);

/* The first step of a wait: joins, and arrives. The last one to arrive lets all go. It waits for the table of members alone;
 * a deadline that passes meanwhile breaks the barrier.
 * Errors: as pshm_barrier_join; -ETIMEDOUT. */
PSHM_API int pshm_barrier_arrive(pshm_barrier *barrier, pshm_barrier_ticket *ticket, int64_t deadline);

/* The second: waits until all have arrived, for a slice at the most. A deadline that passes breaks the barrier for all.
 * Errors: PSHM_EBROKEN (also by pshm_barrier_reset); PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST; PSHM_EHOLDS; -ETIMEDOUT; -EINTR
 *   (the slice is over, or a signal came: call again).
 * Blocks: until the phase is over, or `deadline`. */
PSHM_API int pshm_barrier_sleep(pshm_barrier *barrier, pshm_barrier_ticket *ticket, int64_t deadline);

/* Instead of the rest of a wait: has not arrived after all, unless the phase is over.
 * Errors: as pshm_barrier_leave. */
PSHM_API int pshm_barrier_withdraw(pshm_barrier *barrier, const pshm_barrier_ticket *ticket);

/* Breaks it: who waits, and who comes, gets PSHM_EBROKEN until somebody resets it.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY, PSHM_EDELETED, PSHM_ELOST; PSHM_EPARTICIPANTS, -ENOMEM. */
PSHM_API int pshm_barrier_abort(pshm_barrier *barrier);

/* Begins a new phase, whole: who waits in this one gets PSHM_EBROKEN. Members stay members, but for the dead of one that a
 * death breaks: their parties are open.
 * Errors: as pshm_barrier_leave. */
PSHM_API int pshm_barrier_reset(pshm_barrier *barrier);

/* How many wait now, and whether it is broken: 0 or more.
 * Errors: PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST. */
PSHM_API int pshm_barrier_waiting(pshm_barrier *barrier);
PSHM_API int pshm_barrier_broken(pshm_barrier *barrier);

/* The text of a policy: "break", "shrink"; NULL for what is none.
 * Owns: a static string.  Safe: anywhere, signal handlers too. */
PSHM_API const char *pshm_on_death_name(pshm_on_death on_death);

#ifdef __cplusplus
}
#endif
#endif
