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
    /* Low half, which is slept on: phase << 1 | PSHM_BARRIER_BROKEN. High half: the phase after the last that was passed.
     * Who waits in a phase is waited for in the next one, so that this stays until all have seen it. */
    uint64_t state;
    pshm_owner guard;
    uint32_t parties;
    uint32_t unused[9];
    uint64_t members[]; /* one for each party */
} pshm_barrier_body;

_Static_assert(sizeof(pshm_barrier_body) == 64, "layout");

#define PSHM_BARRIER_BROKEN 1u
#define PSHM_BARRIER_PHASE_SHIFT 1
#define PSHM_BARRIER_PHASES 0x7fffffffu /* a mask */
#define PSHM_BARRIER_PASSED_SHIFT 32

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

static inline const uint32_t *pshm_barrier_futex(const pshm_barrier_body *b)
{
    return (const uint32_t *)(const void *)&b->state;
}

static inline uint32_t pshm_barrier_phase(uint64_t state)
{
    return (uint32_t)state >> PSHM_BARRIER_PHASE_SHIFT;
}

/* What it is in the phase after that of `state`. */
static inline uint64_t pshm_barrier_next(uint64_t state, bool passed)
{
    uint32_t phase = (pshm_barrier_phase(state) + 1) & PSHM_BARRIER_PHASES;
    uint64_t last = passed ? phase : state >> PSHM_BARRIER_PASSED_SHIFT;
    return last << PSHM_BARRIER_PASSED_SHIFT | phase << PSHM_BARRIER_PHASE_SHIFT;
}

/* How a phase stands in which the caller has arrived: 0: passed; 1: not yet; PSHM_EBROKEN. */
static inline int pshm_barrier_fate(uint32_t phase, uint64_t state)
{
    if (pshm_barrier_phase(state) == phase)
        return state & PSHM_BARRIER_BROKEN ? PSHM_EBROKEN : 1;
    uint32_t since = ((uint32_t)(state >> PSHM_BARRIER_PASSED_SHIFT) - phase - 1) & PSHM_BARRIER_PHASES;
    return since <= PSHM_BARRIER_PHASES / 2 ? 0 : PSHM_EBROKEN;
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

/* Breaks the phase of `state`, unless it is over. */
void pshm_barrier_break(pshm_barrier_body *b, uint64_t state);

/* Under the guard, in a phase that is not broken: what the dead and those who have arrived make of it. 0: it goes on, or is
 * over; PSHM_EBROKEN. */
int pshm_barrier_settle(const pshm_barrier *barrier, uint64_t state, const pshm_barrier_survey *seen);

#endif
