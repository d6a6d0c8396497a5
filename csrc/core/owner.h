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

/* How to take. */
typedef enum pshm_owner_mode {
    PSHM_OWNER_PLAIN = 0,   /* a death is -EOWNERDEAD, and stays to be told */
    PSHM_OWNER_RECOVER = 1, /* taken all the same; `died` of the owner word stays set until it is made good */
    PSHM_OWNER_PASS = 2,    /* not taken: only waited for until nobody has it, or is about to */
    /* Added to the first two: taken, but not entered yet. A death before pshm_owner_settle leaves the word free, as if it
     * had never been taken; but for one that came after another death, which is told again. */
    PSHM_OWNER_PENDING = 4,
    PSHM_OWNER_WATCHED = 8, /* added to all: it was waited for by pshm_owner_watch, and others may sleep too */
} pshm_owner_mode;

/* Is still true, for as long as the word may be taken: the object's serial, or NULL for what is never deleted. */
typedef struct pshm_owner_guard {
    const uint64_t *stamp;
    uint64_t serial;
    const int64_t *wished; /* when somebody gave it back by PSHM_OWNER_WAKE_NONE; NULL: nobody does */
} pshm_owner_guard;

/* Takes the word at `o`, waiting for a slice at the most. `deadline` INT64_MIN: without waiting, -EBUSY.
 * 0; PSHM_ERELOCK (mine already), PSHM_EDELETED, PSHM_EHOLDS, PSHM_ELOST, PSHM_ECORRUPT; -EOWNERDEAD, -EBUSY, -ETIMEDOUT,
 * -EINTR. */
int pshm_owner_take(pshm_member *m, pshm_owner *o, pshm_owner_mode mode, const pshm_owner_guard *guard,
                    int64_t deadline, pshm_death_of *death);
#define PSHM_OWNER_NOW INT64_MIN

/* Enters what was taken as pending: from now on a death is told. PSHM_ENOTOWNER, PSHM_ELOST. */
int pshm_owner_settle(pshm_member *m, pshm_owner *o);

/* Whom it wakes that sleeps. */
typedef enum pshm_owner_wake {
    PSHM_OWNER_WAKE_ONE,
    PSHM_OWNER_WAKE_ALL, /* where not all who sleep want to take it */
    PSHM_OWNER_WAKE_NONE, /* where it is taken again at once: PSHM_OWNER_PASS waits for that, though for one slice alone */
} pshm_owner_wake;

/* Gives it back; where `died` is still set, a death stays to be told. PSHM_ENOTOWNER. */
int pshm_owner_give_as(pshm_member *m, pshm_owner *o, pshm_owner_wake wake);
static inline int pshm_owner_give(pshm_member *m, pshm_owner *o)
{
    return pshm_owner_give_as(m, o, PSHM_OWNER_WAKE_ONE);
}

/* For a noun's `watch`: 1: an attempt to take it would not have to wait; 0: it would, and the words to sleep on are added. */
struct pshm_watch;
int pshm_owner_watch(pshm_member *m, pshm_owner *o, struct pshm_watch *watch);

/* Marks the word as that of a dead owner, or free, if `id` has it or wants it. Used by reclaim. */
void pshm_owner_abandon(const pshm_attachment *a, pshm_owner *o, uint32_t id, uint32_t pid, uint32_t slot);

/* Owner id of a word that is held, 0: nobody. */
static inline uint32_t pshm_owner_id(const pshm_owner *o)
{
    uint32_t low = (uint32_t)pshm_load(&o->word);
    return (low & PSHM_ID_SLOT) == PSHM_ID_ABANDONED ? 0 : low & PSHM_ID;
}

/* Has nobody the word, so that PSHM_OWNER_PASS would not wait? */
static inline bool pshm_owner_is_open(uint64_t word)
{
    return !(word & ~(uint64_t)PSHM_ID_WAITERS);
}

/* The member waits for the owner `id`: from now on, or still. */
static inline void pshm_member_looks_at(pshm_member *m, uint32_t id, int64_t now)
{
    if (m->looked_at != id) {
        m->looked_at = id;
        m->looked_since = now;
    }
}

/* Its beacon shines, though it was waited for for a whole slice: asks for the second proof, once a slice. */
bool pshm_member_proves_dead(pshm_member *m, uint32_t id);

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
