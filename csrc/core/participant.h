/* SPDX-License-Identifier: MIT
 *
 * The table of slots: taking one, proof of death, and putting right what the dead leave. For core/ and sync/.
 */
#ifndef PSHM_CORE_PARTICIPANT_H
#define PSHM_CORE_PARTICIPANT_H

#include "core/attachment.h"

/* Takes a free slot, or one whose owner is dead. PSHM_EPARTICIPANTS, PSHM_ELOST;
 * -EAGAIN: somebody has locked the whole file. */
int pshm_slot_take(pshm_attachment *a, uint32_t language, uint32_t *index, uint32_t *generation);

/* Gives it back: only for the thread that took it, which holds nothing. false: the beacon was lost with its memory, which
 * must stay mapped for as long as the thread lives. */
bool pshm_slot_give(pshm_attachment *a, uint32_t index);

/* What names the owner of a slot in a generation of it. */
static inline uint32_t pshm_id_of(uint32_t index, uint32_t generation)
{
    return (index + 1) | (generation << PSHM_ID_GENERATION_SHIFT & PSHM_ID_GENERATION);
}

/* Is the owner of an id (PSHM_ID of an owner word) proven dead? By its slot's generation and its beacon. */
bool pshm_id_is_dead(const pshm_attachment *a, uint32_t id);

/* The second proof, for when the beacon still says alive after a slice: record lock, /proc. A dead one's beacon is set
 * so that everybody sees it from now on, where the arena may be written. Asks the system, so not often. */
bool pshm_id_prove_dead(pshm_attachment *a, uint32_t id);

/* Is the id that of the calling thread, perhaps through another copy of the core in this process? */
bool pshm_id_is_this_thread(const pshm_attachment *a, uint32_t id);

/* pid behind an id that is or was just alive; 0: not known. */
uint32_t pshm_id_pid(const pshm_attachment *a, uint32_t id);

/* The word to sleep on beside an object's: the beacon of `id`, with the bit that makes the kernel wake at its death.
 * false: it is dead, or no more. */
bool pshm_id_beacon(pshm_attachment *a, uint32_t id, uint32_t **word, uint32_t *value);

/* Puts right what the owner of a slot left if it is dead: its locks are marked abandoned, its slot is free.
 * false: it lives, or somebody else is at it. */
bool pshm_slot_reclaim(pshm_attachment *a, uint32_t index);

/* Is any slot, dead or alive, at work on the bytes of [place, place + size), so that they must not be freed? Makes sure
 * first that whoever comes from now on sees what the caller stored before. */
bool pshm_is_busy(pshm_attachment *a, uint64_t place, uint64_t size);

/* Is there a lock at a place that a slot names? One of the arena's own, or in an object that is there: a name is noted
 * before it is asked whether the object was deleted, and what has its memory now is not to be touched. */
bool pshm_is_lock(const pshm_attachment *a, uint64_t place);

/* Under the exclusive flock of an arena that nobody else uses: all slots are those of the dead. */
void pshm_slots_reset(pshm_attachment *a);

/* Slots that were ever taken, as far as they can be believed. */
static inline uint32_t pshm_high_water(const pshm_attachment *a)
{
    uint32_t high = pshm_load(&a->head->high_water);
    return high < a->at.participants ? high : a->at.participants;
}

static inline pshm_slot *pshm_slot_at(const pshm_attachment *a, uint32_t index)
{
    return (pshm_slot *)pshm_at(a, a->at.slots) + index;
}

#endif
