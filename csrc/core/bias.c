/* SPDX-License-Identifier: MIT
 *
 * Biased locks. Who took the lock many times in a row keeps it when it leaves, as one that it was handed and has not seen
 * (PSHM_ID_GRANTED): so its death leaves the word free. Whether it is inside, its slot says alone:
 *
 *   enter    held = place; look at the word: still biased?   else take it as everybody does
 *   leave    held = 0; look at the word: still biased?       else give it back as everybody does, and wake
 *   revoke   word: biased -> revoked (CAS); membarrier(2); held = place? then wait, it is inside; else word -> me (CAS)
 *
 *   Each of the two writes one place and then reads the other's. The barrier stands between the store and the load of
 *   whoever runs at that time, so one of the two sees the other: either the owner finds that the word is revoked, or the
 *   one who revokes finds that it is inside (asymmetric Dekker; Dice, Huang, Yang, "Asymmetric Dekker Synchronization",
 *   2001). A word that is revoked stays so until it is taken: who revokes and dies leaves the same to the next.
 *   Between the look and the last CAS the owner may have taken the lock back, have it biased anew, and be inside when
 *   another one revokes that. So each bias has a number in its word, for the CAS to fail then.
 *   A death inside is not marked in the word, so only a structure that tells by itself what was under way may use it.
 *   Each revocation doubles how often in a row the next bias takes.
 */
#include "core/bias.h"

#include <errno.h>
#include <limits.h>

#include "os/clock.h"
#include "os/futex.h"
#include "os/sleep.h"

#define ENOUGH 128u
#define ENOUGH_MAX (1u << 20)

/* Has the living owner of the word noted that it wants or has it? */
static bool has_noted(const pshm_attachment *a, uint32_t id, uint64_t place)
{
    const pshm_slot *slot = pshm_slot_at(a, (id & PSHM_ID_SLOT) - 1);
    for (uint32_t i = 0; i < PSHM_HELD; i++)
        if ((pshm_load(&slot->held[i]) & PSHM_HELD_PLACE) == place)
            return true;
    return false;
}

/* Makes others see the order of what the owner stores and loads. */
static void fence(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    /* Where no barrier is to be had: no store waits for a slice to become visible. */
    if (!pshm_os_fence_all(true) && !pshm_os_fence_all(false))
        pshm_os_sleep_until(pshm_os_now() + PSHM_SLICE_NS);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

int pshm_bias_revoke(pshm_member *m, pshm_owner *o, uint64_t word, uint64_t mine)
{
    if (word & PSHM_OWNER_BIASED) {
        pshm_cas(&o->word, &word, (word & ~PSHM_OWNER_BIASED) | PSHM_OWNER_REVOKED);
        return -EAGAIN;
    }
    fence();
    if (has_noted(m->attachment, (uint32_t)word & PSHM_ID, pshm_place_of(m->attachment, o)))
        return -EBUSY;
    return pshm_cas(&o->word, &word, mine | (word & PSHM_ID_WAITERS)) ? 0 : -EAGAIN;
}

void pshm_bias_end(pshm_owner *o, uint32_t id)
{
    uint64_t word = pshm_load(&o->word);
    while (pshm_bias_is_to(word, id))
        if (pshm_cas(&o->word, &word, word & PSHM_ID_WAITERS)) {
            if (word & PSHM_ID_WAITERS)
                pshm_os_futex_wake((const uint32_t *)(const void *)&o->word, INT_MAX);
            return;
        }
}

int pshm_bias_leave_revoked(pshm_member *m, pshm_owner *o)
{
    uint64_t word = pshm_load(&o->word);
    /* Not revoked any more: somebody has it already. */
    while ((word & PSHM_OWNER_REVOKED) && (word & PSHM_ID) == m->me)
        if (pshm_cas(&o->word, &word, 0)) {
            if (word & PSHM_ID_WAITERS)
                pshm_os_futex_wake((const uint32_t *)(const void *)&o->word, 1);
            break;
        }
    return 0;
}

int pshm_bias_enter(pshm_member *m, pshm_biased *b, bool *repair)
{
    if (pshm_member_holds(m, pshm_place_of(m->attachment, b)) >= 0)
        return PSHM_ERELOCK; /* the word alone would not tell */
    return pshm_owner_enter(m, &b->owner, repair);
}

/* Counts that the member had it, once more in a row. true: often enough. */
static bool count(const pshm_member *m, pshm_biased *b)
{
    uint32_t enough = pshm_peek(&b->enough), times = pshm_peek(&b->count);
    if (enough < ENOUGH)
        enough = ENOUGH;
    if (pshm_peek(&b->last) != m->me) {
        if (times >= enough && enough < ENOUGH_MAX)
            pshm_store(&b->enough, 2 * enough);
        pshm_store(&b->last, m->me);
        times = 0;
    }
    if (times < UINT32_MAX)
        pshm_store(&b->count, ++times);
    return times >= enough;
}

/* Has it biased to the member, whose it is. */
static bool bias(pshm_member *m, pshm_biased *b)
{
    uint64_t word = m->me, times = (uint64_t)pshm_peek(&b->times) + 1;
    pshm_store(&b->times, (uint32_t)times);
    m->biased = PSHM_OWNER_BIASED | PSHM_ID_GRANTED | m->me | (times & PSHM_ID_SLOT) << PSHM_OWNER_TIMES_SHIFT |
                (times >> 15 & PSHM_ID_SLOT) << PSHM_OWNER_TIMES_MORE_SHIFT;
    return pshm_cas(&b->owner.word, &word, m->biased);
}

int pshm_bias_leave(pshm_member *m, pshm_biased *b)
{
    pshm_owner *o = &b->owner;
    int at = pshm_member_holds(m, pshm_place_of(m->attachment, o));
    bool wanted = at >= 0 && count(m, b) && !pshm_peek(&o->died) && (pshm_peek(&m->slot->flags) & PSHM_SLOT_FENCED);
    if (!wanted || !bias(m, b))
        return pshm_owner_give(m, o);
    m->used &= ~(1u << at);
    pshm_store(&m->slot->held[at], 0);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    return pshm_load(&o->word) == m->biased ? 0 : pshm_bias_leave_revoked(m, o);
}
