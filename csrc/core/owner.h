/* SPDX-License-Identifier: MIT
 *
 * Owner words: the one lock of an arena, under every mutex and every structure. layout.h has its bits; owner.c the proof
 * that it survives a death at any instruction.
 */
#ifndef PSHM_CORE_OWNER_H
#define PSHM_CORE_OWNER_H

#include "core/participant.h"

typedef struct pshm_death_of {
    bool died;
    uint32_t pid;         /* 0: not known */
    uint32_t participant; /* slot + 1; 0: not known */
} pshm_death_of;

typedef enum pshm_owner_mode {
    PSHM_OWNER_PLAIN,   /* a death is -EOWNERDEAD, and stays to be told */
    PSHM_OWNER_RECOVER, /* taken all the same; `died` of the owner word stays set until it is made good */
} pshm_owner_mode;

/* Is still true, for as long as the word may be taken: the object's serial, or NULL for what is never deleted. */
typedef struct pshm_owner_guard {
    const uint64_t *stamp;
    uint64_t serial;
} pshm_owner_guard;

/* Takes the word at `o`, waiting for a slice at the most. `deadline` INT64_MIN: without waiting, -EBUSY.
 * 0; PSHM_ERELOCK (mine already), PSHM_EDELETED, PSHM_EHOLDS, PSHM_ELOST, PSHM_ECORRUPT; -EOWNERDEAD, -EBUSY, -ETIMEDOUT,
 * -EINTR. */
int pshm_owner_take(pshm_member *m, pshm_owner *o, pshm_owner_mode mode, const pshm_owner_guard *guard,
                    int64_t deadline, pshm_death_of *death);
#define PSHM_OWNER_NOW INT64_MIN

/* Gives it back; where `died` is still set, a death stays to be told. PSHM_ENOTOWNER. */
int pshm_owner_give(pshm_member *m, pshm_owner *o);

/* Marks the word as that of a dead owner, or free, if `id` has it or wants it. Used by reclaim. */
void pshm_owner_abandon(const pshm_attachment *a, pshm_owner *o, uint32_t id, uint32_t pid, uint32_t slot);

/* Owner id of a word that is held, 0: nobody. */
static inline uint32_t pshm_owner_id(const pshm_owner *o)
{
    uint32_t low = (uint32_t)pshm_load(&o->word);
    return (low & PSHM_ID_SLOT) == PSHM_ID_ABANDONED ? 0 : low & PSHM_ID;
}

static inline uint64_t pshm_place_of(const pshm_attachment *a, const void *p)
{
    return (uint64_t)((const unsigned char *)p - a->base);
}

/* Notes that the member wants or has the lock, so that its death is seen there; the place in slot->held, -1: all taken.
 * A store that stands before the lock's own instruction. */
static inline int pshm_member_note(pshm_member *m, uint64_t place)
{
    if (PSHM_UNLIKELY(m->used == UINT32_MAX))
        return -1;
    int i = __builtin_ctz(~m->used);
    __atomic_store_n(&m->slot->held[i], place, __ATOMIC_RELEASE);
    return i;
}

/* The place in slot->held of a lock that the member has; -1: it has it not. */
static inline int pshm_member_holds(const pshm_member *m, uint64_t place)
{
    for (uint32_t left = m->used; left; left &= left - 1) {
        int i = __builtin_ctz(left);
        if ((pshm_peek(&m->slot->held[i]) & PSHM_HELD_PLACE) == place)
            return i;
    }
    return -1;
}

/* A lock of the arena's own: taken whatever it takes, in slices; *repair: somebody died in it, so put it right, then
 * call pshm_owner_repaired. */
int pshm_owner_enter(pshm_member *m, pshm_owner *o, bool *repair);
static inline void pshm_owner_repaired(pshm_owner *o)
{
    pshm_store(&o->died, 0);
}

#endif
