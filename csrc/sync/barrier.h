/* SPDX-License-Identifier: MIT
 *
 * The barrier's bytes, and what its two files share.
 */
#ifndef PSHM_SYNC_BARRIER_H
#define PSHM_SYNC_BARRIER_H

#include <polyshm/barrier.h>

#include "core/owner.h"
#include "core/waiting.h"

typedef struct pshm_barrier_body {
    uint32_t word; /* phase << 2 | PSHM_BARRIER_RESET | PSHM_BARRIER_BROKEN */
    uint32_t parties;
    pshm_owner guard;
    uint64_t unused[5];
    uint64_t members[]; /* one for each party */
} pshm_barrier_body;

_Static_assert(sizeof(pshm_barrier_body) == 64, "layout");

#define PSHM_BARRIER_BROKEN 1u
#define PSHM_BARRIER_RESET 2u /* the last phase did not end well */
#define PSHM_BARRIER_PHASE_SHIFT 2

/* A member: bits 0 to 14 slot + 1, 0: none; 15 to 44 generation of the slot; 45 to 62 phase, as much as there is room for;
 * bit 63: arrived in it. */
#define PSHM_MEMBER_GENERATION_SHIFT 15
#define PSHM_MEMBER_GENERATION (UINT64_C(0x3fffffff) << PSHM_MEMBER_GENERATION_SHIFT)
#define PSHM_MEMBER (PSHM_MEMBER_GENERATION | PSHM_ID_SLOT)
#define PSHM_MEMBER_PHASE_SHIFT 45
#define PSHM_MEMBER_ARRIVED (UINT64_C(1) << 63)

static inline pshm_barrier_body *pshm_barrier_body_of(const pshm_barrier *barrier)
{
    return barrier->object.body;
}

static inline bool pshm_barrier_has_arrived(uint64_t entry, uint32_t phase)
{
    return (entry & ~PSHM_MEMBER) ==
           (PSHM_MEMBER_ARRIVED | ((uint64_t)phase << PSHM_MEMBER_PHASE_SHIFT & ~PSHM_MEMBER_ARRIVED));
}

/* The id of a member's slot in its generation. */
static inline uint32_t pshm_barrier_id_of(uint64_t entry)
{
    uint32_t generation = (uint32_t)((entry & PSHM_MEMBER_GENERATION) >> PSHM_MEMBER_GENERATION_SHIFT);
    return pshm_id_of((uint32_t)(entry & PSHM_ID_SLOT) - 1, generation);
}

/* What names a thread in the table. */
uint64_t pshm_barrier_self(const pshm_member *m);
bool pshm_barrier_is_dead(const pshm_attachment *a, uint64_t entry);

/* The table as it is at a moment. */
typedef struct pshm_barrier_survey {
    uint64_t *mine, *open, *dead; /* the caller's entry; one of nobody, one of a dead one: NULL for none */
    uint32_t others;              /* who live, but for the caller */
    uint32_t gone;                /* dead members */
    uint32_t arrived;             /* have arrived in the phase, and live */
    uint32_t missed;              /* arrived, and died since */
} pshm_barrier_survey;

/* `m` NULL: for nobody in particular. */
void pshm_barrier_look(const pshm_barrier *barrier, const pshm_member *m, uint32_t phase, pshm_barrier_survey *out);

/* Breaks the phase that `word` says, unless it is over. */
void pshm_barrier_break(pshm_barrier_body *b, uint32_t word);

/* Under the guard, in a phase that is not broken: what the dead and those who have arrived make of it. 0: it goes on, or is
 * over; PSHM_EBROKEN. */
int pshm_barrier_settle(const pshm_barrier *barrier, uint32_t word, const pshm_barrier_survey *seen);

#endif
