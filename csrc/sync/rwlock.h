/* SPDX-License-Identifier: MIT
 *
 * What reading and writing have in common: the body, and a reader's note. rwlock.c says what survives.
 */
#ifndef PSHM_SYNC_RWLOCK_H
#define PSHM_SYNC_RWLOCK_H

#include <limits.h>

#include <polyshm/rwlock.h>

#include "core/directory.h"
#include "core/owner.h"
#include "os/futex.h"

typedef struct body {
    pshm_owner writer;
    int64_t wished; /* when a writer last gave it back that comes again */
    uint64_t unused[5];
} body;

_Static_assert(sizeof(body) == 64, "layout");

/* Beside the place of a reader's note: how often it reads beyond the first time, and that one of these was writing. */
#define DEPTH_ONE (UINT64_C(1) << PSHM_HELD_DEPTH_SHIFT)
#define WROTE (UINT64_C(1) << 63)
#define DEPTH_MASK (~PSHM_HELD_PLACE & ~WROTE)

static inline pshm_owner *writer_of(const pshm_rwlock *rwlock)
{
    return &((body *)rwlock->object.body)->writer;
}

static inline uint64_t note_of(const pshm_rwlock *rwlock)
{
    return rwlock->place | PSHM_HELD_SHARED;
}

static inline pshm_owner_guard guard_of(const pshm_rwlock *rwlock)
{
    const body *b = rwlock->object.body;
    return (pshm_owner_guard){.stamp = rwlock->object.stamp, .serial = rwlock->object.serial, .wished = &b->wished};
}

static inline const uint32_t *futex_of(const uint64_t *held)
{
    return (const uint32_t *)(const void *)held; /* the low half, as in owner.c */
}

/* The calling thread, if it has anything of the lock: on a closed arena too, for as long as it is held. */
static inline __attribute__((always_inline)) pshm_member *member_of(const pshm_rwlock *rwlock)
{
    return pshm_object_member_known(&rwlock->object);
}

static inline bool writes(const pshm_rwlock *rwlock, const pshm_member *m)
{
    return pshm_member_holds(m, rwlock->place) >= 0;
}

static inline void tidy(const pshm_rwlock *rwlock)
{
    if (PSHM_UNLIKELY(rwlock->object.arena->closed))
        pshm_members_tidy(); /* what was held kept the mapping */
}

/* Notes that the thread reads, and looks whether it may. */
static inline bool note(pshm_member *m, int at, const pshm_rwlock *rwlock)
{
    (void)__atomic_exchange_n(&m->slot->held[at], note_of(rwlock), __ATOMIC_SEQ_CST);
    return pshm_owner_is_open(__atomic_load_n(&writer_of(rwlock)->word, __ATOMIC_SEQ_CST));
}

/* Takes it back, and wakes the writer that waits for that. */
static inline void unnote(pshm_member *m, int at, const pshm_rwlock *rwlock)
{
    uint64_t *held = &m->slot->held[at];
    m->used &= ~(1u << at);
    (void)__atomic_exchange_n(held, 0, __ATOMIC_SEQ_CST);
    if (PSHM_UNLIKELY(__atomic_load_n(&writer_of(rwlock)->word, __ATOMIC_SEQ_CST) & PSHM_ID_SLOT))
        pshm_os_futex_wake(futex_of(held), INT_MAX);
}

/* A living one. */
typedef struct pshm_reader {
    uint32_t index, id;
    const uint64_t *held;
    uint64_t value;
} pshm_reader;

/* The first one in a slot from `from` on, but for `self`. */
bool pshm_rwlock_find_reader(const pshm_rwlock *rwlock, const pshm_member *self, uint32_t from, pshm_reader *out);

#endif
