/* SPDX-License-Identifier: MIT
 *
 * The read-write lock of an arena: an owner word for who writes, and in the slot of each reader a note that it reads. What
 * survives a death at any instruction, and why:
 *
 *   read      held = place | SHARED; the word is free -> in, else held = 0, and wait until it is
 *   release   held = 0; if somebody has the word: wake who sleeps on held
 *   write     word: free -> me, pending; until nobody's slot says that he reads; word: entered
 *   The reader notes and then looks at the word, the writer has the word and then looks at the notes, both sequentially
 *   consistent: so one of the two sees the other, and a reader that sees the writer takes its note back. After the writer
 *   has the word no note stays that was not there before.
 *   A note is worth what its slot is: dead, and it is nothing. There is no count that a death could leave wrong.
 *   While it is pending the word of a dead writer is just free again. From its last step on the death is told.
 *   When a slice is over the word is given back, but with the writer's wish to have it again: new readers let it pass, for a
 *   slice from then on, those too that only try. The time of the wish stands beside the word, and is good for this alone.
 */
#include "sync/rwlock.h"

#include <errno.h>

#include "os/clock.h"

#define KIND 3u

int pshm_rwlock_init(pshm_rwlock *rwlock, pshm_arena *arena, const char *name, size_t length, bool create,
                     bool *created)
{
    pshm_wish wish = {.name = name, .name_size = length, .kind = KIND, .create = create, .body_size = sizeof(body)};
    uint32_t flags;
    *rwlock = (pshm_rwlock){.place = 0};
    int rc = pshm_object_open(&rwlock->object, arena, &wish, &flags, created);
    if (!rc)
        rwlock->place = pshm_place_of(arena->attachment, writer_of(rwlock));
    return rc;
}

void pshm_rwlock_fini(pshm_rwlock *rwlock)
{
    pshm_object_fini(&rwlock->object);
}

/* ---- reading ---- */

/* The thread has something of the lock already. */
static int read_again(const pshm_rwlock *rwlock, pshm_member *m)
{
    int at = pshm_member_holds(m, note_of(rwlock));
    if (at < 0)
        return PSHM_ERELOCK;
    uint64_t *held = &m->slot->held[at];
    if ((pshm_peek(held) & DEPTH_MASK) == DEPTH_MASK)
        return PSHM_EDEPTH;
    pshm_store(held, pshm_peek(held) + DEPTH_ONE);
    return 0;
}

static int read_first(pshm_rwlock *rwlock, pshm_member *m, int64_t deadline, pshm_death *death)
{
    const pshm_owner_guard guard = guard_of(rwlock);
    int64_t until = deadline;
    if (m->used == UINT32_MAX)
        return PSHM_EHOLDS;
    if (deadline != PSHM_OWNER_NOW) {
        int64_t slice = pshm_os_now() + PSHM_SLICE_NS;
        until = deadline < slice ? deadline : slice;
    }
    for (;;) {
        pshm_death_of told;
        int rc = pshm_owner_take(m, writer_of(rwlock), PSHM_OWNER_PASS, &guard, until, &told);
        *death = (pshm_death){told.died, told.pid, told.participant};
        if (rc)
            return rc == -ETIMEDOUT && until != deadline ? -EINTR : rc;
        int at = __builtin_ctz(~m->used);
        m->used |= 1u << at;
        if (note(m, at, rwlock))
            return 0;
        unnote(m, at, rwlock);
    }
}

static int read_slowly(pshm_rwlock *rwlock, int64_t deadline, pshm_death *death)
{
    pshm_member *m;
    *death = (pshm_death){false, 0, 0};
    int rc = pshm_object_enter(&rwlock->object, &m);
    if (rc)
        return rc;
    bool again = pshm_member_holds(m, note_of(rwlock)) >= 0 || writes(rwlock, m);
    rc = again ? read_again(rwlock, m) : read_first(rwlock, m, deadline, death);
    pshm_object_leave(m);
    if (PSHM_UNLIKELY(*m->gone) && rc == 0) {
        (void)pshm_rwlock_read_release(rwlock);
        rc = PSHM_ELOST;
    }
    return rc;
}

int pshm_rwlock_read_try(pshm_rwlock *rwlock, pshm_death *death)
{
    const pshm_object *object = &rwlock->object;
    pshm_member *m = pshm_object_member_quick(object);
    if (PSHM_UNLIKELY(!m || m->used))
        return read_slowly(rwlock, PSHM_OWNER_NOW, death);
    const volatile uint32_t *gone = m->gone;
    bool in = note(m, 0, rwlock);
    if (PSHM_LIKELY(in && pshm_load(object->stamp) == object->serial && !*gone)) {
        m->used = 1;
        death->died = false;
        return 0;
    }
    unnote(m, 0, rwlock);
    return *gone ? PSHM_ELOST : read_slowly(rwlock, PSHM_OWNER_NOW, death);
}

int pshm_rwlock_read_acquire(pshm_rwlock *rwlock, int64_t deadline, pshm_death *death)
{
    return read_slowly(rwlock, deadline, death);
}

int pshm_rwlock_read_release(pshm_rwlock *rwlock)
{
    pshm_member *m = member_of(rwlock);
    int at = PSHM_LIKELY(m != NULL) ? pshm_member_holds(m, note_of(rwlock)) : -1;
    if (PSHM_UNLIKELY(at < 0))
        return PSHM_ENOTOWNER;
    uint64_t *held = &m->slot->held[at];
    const volatile uint32_t *gone = m->gone;
    int rc = 0;
    if (PSHM_UNLIKELY(pshm_peek(held) & DEPTH_MASK)) {
        pshm_store(held, pshm_peek(held) - DEPTH_ONE);
        return pshm_attachment_verify(m->attachment);
    }
    if (PSHM_UNLIKELY(m->used & ~(1u << at)) && writes(rwlock, m)) /* it was to recover: the mark stays */
        rc = pshm_owner_give_as(m, writer_of(rwlock), PSHM_OWNER_WAKE_ALL);
    unnote(m, at, rwlock);
    if (PSHM_UNLIKELY(*gone))
        rc = PSHM_ELOST;
    tidy(rwlock);
    return rc;
}

/* ---- looking ---- */

/* The generation that is asked for is that of before the
 * note was seen: whoever has the slot since has seen the writer. */
bool pshm_rwlock_find_reader(const pshm_rwlock *rwlock, const pshm_member *self, uint32_t from, pshm_reader *out)
{
    const pshm_attachment *a = rwlock->object.arena->attachment;
    uint32_t high = pshm_high_water(a);
    for (uint32_t i = from; i < high; i++) {
        const pshm_slot *slot = pshm_slot_at(a, i);
        uint32_t stamp = pshm_load(&slot->stamp), id = pshm_id_of(i, stamp >> PSHM_GENERATION_SHIFT);
        if ((stamp & PSHM_PHASE) != PSHM_PHASE_TAKEN || (self && self->index == i))
            continue;
        for (uint32_t n = 0; n < PSHM_HELD; n++) {
            uint64_t value = pshm_load(&slot->held[n]);
            if ((value & PSHM_HELD_PLACE) != note_of(rwlock) || pshm_id_is_dead(a, id))
                continue;
            *out = (pshm_reader){i, id, &slot->held[n], value};
            return true;
        }
    }
    return false;
}

int pshm_rwlock_read_locked(pshm_rwlock *rwlock)
{
    const pshm_object *object = &rwlock->object;
    bool pinned;
    pshm_reader r;
    int rc = pshm_object_look(object, &pinned);
    if (rc)
        return rc;
    bool found = pshm_rwlock_find_reader(rwlock, NULL, 0, &r);
    rc = pshm_object_stands(object);
    pshm_arena_unlook(object->arena, pinned);
    return rc ? rc : found;
}

/* The living writer's id and, where it is asked for, its pid; 0 for nobody. */
static int writer(const pshm_rwlock *rwlock, uint32_t *id, uint32_t *pid)
{
    const pshm_object *object = &rwlock->object;
    bool pinned;
    int rc = pshm_object_look(object, &pinned);
    if (rc)
        return rc;
    const pshm_attachment *a = object->arena->attachment;
    uint32_t low = (uint32_t)pshm_load(&writer_of(rwlock)->word);
    *id = low & PSHM_ID_GRANTED || (low & PSHM_ID_SLOT) == PSHM_ID_ABANDONED ? 0 : low & PSHM_ID;
    if (*id && pshm_id_is_dead(a, *id))
        *id = 0;
    *pid = *id ? pshm_id_pid(a, *id) : 0;
    rc = pshm_object_stands(object);
    pshm_arena_unlook(object->arena, pinned);
    return rc;
}

int pshm_rwlock_write_locked(pshm_rwlock *rwlock)
{
    uint32_t id, pid;
    int rc = writer(rwlock, &id, &pid);
    return rc ? rc : id != 0;
}

int pshm_rwlock_write_owner(pshm_rwlock *rwlock, uint32_t *pid)
{
    uint32_t id, found;
    int rc = writer(rwlock, &id, &found);
    if (!rc)
        *pid = found;
    return rc;
}
