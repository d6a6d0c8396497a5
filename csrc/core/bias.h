/* SPDX-License-Identifier: MIT
 *
 * Biased locks: locks of the arena's own whose last owner enters and leaves by plain stores, until somebody else comes.
 * bias.c has the proof.
 */
#ifndef PSHM_CORE_BIAS_H
#define PSHM_CORE_BIAS_H

#include "core/owner.h"

/* Is the word biased to a living owner, or was it until now? Then pshm_bias_revoke comes before any wait. */
static inline bool pshm_bias_is_on(uint64_t word)
{
    return (word & (PSHM_OWNER_BIASED | PSHM_OWNER_REVOKED)) && (word & PSHM_ID_GRANTED);
}

/* Somebody else has the word, biased: takes that back. 0: the word is `mine` now; -EAGAIN: look at it again; -EBUSY: the
 * other is inside, and will give it back as any owner. */
int pshm_bias_revoke(pshm_member *m, pshm_owner *o, uint64_t word, uint64_t mine);

/* Is the word biased to `id`? Where that has noted the word, it is inside. */
static inline bool pshm_bias_is_to(uint64_t word, uint32_t id)
{
    return (word & PSHM_ID) == id && pshm_bias_is_on(word);
}

/* As pshm_owner_enter and pshm_owner_give, but that a death inside is not told by *repair where the lock was biased: what
 * it guards has to say that by itself. */
int pshm_bias_enter(pshm_member *m, pshm_biased *b, bool *repair);
int pshm_bias_leave(pshm_member *m, pshm_biased *b);

/* The participant `id` is dead, or goes: no bias to it stays. */
void pshm_bias_end(pshm_owner *o, uint32_t id);

/* What is left to do where somebody came while the member was inside. */
int pshm_bias_leave_revoked(pshm_member *m, pshm_owner *o);

/* Enters if it is biased to the member, which has no other lock; false: nothing is done, pshm_bias_enter does it all.
 * What was entered so is left by pshm_bias_leave_quickly. `place` is that of `b`. */
static inline bool pshm_bias_enter_quickly(pshm_member *m, const pshm_biased *b, uint64_t place)
{
    if (PSHM_UNLIKELY(m->used || pshm_peek(&b->owner.word) != m->biased))
        return false;
    m->used = 1;
    pshm_store(&m->slot->held[0], place);
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* who revokes makes it one of the processor */
    if (PSHM_LIKELY(pshm_load(&b->owner.word) == m->biased))
        return true;
    pshm_store(&m->slot->held[0], 0);
    m->used = 0;
    return false;
}

static inline int pshm_bias_leave_quickly(pshm_member *m, pshm_biased *b)
{
    m->used = 0;
    pshm_store(&m->slot->held[0], 0);
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* as above */
    return PSHM_LIKELY(pshm_load(&b->owner.word) == m->biased) ? 0 : pshm_bias_leave_revoked(m, &b->owner);
}

#endif
