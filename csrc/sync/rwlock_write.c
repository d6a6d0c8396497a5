/* SPDX-License-Identifier: MIT
 *
 * The read-write lock's other half: waiting for those who read, and what a writer's death leaves.
 */
#include "sync/rwlock.h"

#include <errno.h>

#include "os/clock.h"

/* ---- waiting for readers ---- */

typedef struct waiting {
    int64_t deadline, slice; /* `slice` 0: it begins with the first sleep */
    int64_t yields;          /* until then it yields; 0: not yet */
    unsigned turns;
} waiting;

/* Sleeps until the reader has gone, or died, or `until`. 0 or what the futex said. */
static int sleep_on(const pshm_rwlock *rwlock, pshm_member *m, const pshm_reader *r, int64_t until)
{
    uint32_t *beacon, value;
    bool died;
    if (!pshm_id_beacon(m->attachment, r->id, &beacon, &value))
        return 0;
    pshm_store(&m->slot->waits, rwlock->place);
    int rc = pshm_os_futex_wait_two(futex_of(r->held), (uint32_t)r->value, beacon, value, until, &died);
    pshm_store(&m->slot->waits, 0);
    if (rc == 0 && died) /* the kernel wakes one; there may be more */
        pshm_os_futex_wake(beacon, INT_MAX);
    return rc;
}

/* 0: look again; or how the wait ends. */
static int wait_for(const pshm_rwlock *rwlock, pshm_member *m, const pshm_reader *r, waiting *w)
{
    int64_t now = pshm_os_now();
    if (m->looked_at != r->id && pshm_id_is_this_thread(m->attachment, r->id))
        return PSHM_ERELOCK; /* through another copy of the core in this process */
    pshm_member_looks_at(m, r->id, now);
    if (!w->yields) {
        w->yields = now + PSHM_OS_YIELDS_NS;
        w->slice = w->slice ? w->slice : now + PSHM_SLICE_NS;
    }
    int64_t until = w->deadline < w->slice ? w->deadline : w->slice;
    if (now < until && now < w->yields && w->turns++ < PSHM_OS_YIELDS) {
        pshm_os_yield();
        return 0;
    }
    int rc = now < until ? sleep_on(rwlock, m, r, until) : -ETIMEDOUT;
    if ((rc != -ETIMEDOUT && rc != -EINTR) || pshm_member_proves_dead(m, r->id))
        return 0;
    if (w->deadline == PSHM_OWNER_NOW)
        return -EBUSY;
    return rc == -ETIMEDOUT && until == w->deadline ? -ETIMEDOUT : -EINTR;
}

/* Until nobody reads. */
static int drain(const pshm_rwlock *rwlock, pshm_member *m, waiting *w)
{
    const pshm_owner_guard guard = guard_of(rwlock);
    pshm_reader r = {.index = 0};
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    while (pshm_rwlock_find_reader(rwlock, m, r.index, &r)) {
        if (*m->gone)
            return PSHM_ELOST;
        if (pshm_load(guard.stamp) != guard.serial)
            return PSHM_EDELETED;
        int rc = wait_for(rwlock, m, &r, w);
        if (rc)
            return rc;
    }
    return 0;
}

/* ---- writing ---- */

/* The word is the thread's, and nobody enters: waits for those who read. */
static int settle(const pshm_rwlock *rwlock, pshm_member *m, waiting *w)
{
    pshm_owner *o = writer_of(rwlock);
    int rc = drain(rwlock, m, w);
    if (!rc) {
        rc = pshm_owner_settle(m, o);
        if (rc == PSHM_ENOTOWNER)
            rc = PSHM_ECORRUPT;
    }
    if (rc == -EINTR) /* it comes again: nobody else is to slip in meanwhile */
        pshm_store(&((body *)rwlock->object.body)->wished, pshm_os_now());
    if (rc)
        pshm_owner_give_as(m, o, rc == -EINTR ? PSHM_OWNER_WAKE_NONE : PSHM_OWNER_WAKE_ALL);
    return rc;
}

/* By a thread that has nothing of the lock. */
static int write_first(pshm_rwlock *rwlock, pshm_member *m, pshm_owner_mode mode, int64_t deadline, pshm_death *death)
{
    const pshm_owner_guard guard = guard_of(rwlock);
    pshm_owner *o = writer_of(rwlock);
    waiting w = {.deadline = deadline};
    pshm_death_of told;
    if (deadline == PSHM_OWNER_NOW) { /* who only tries does not stand in the way of others who do */
        int rc = drain(rwlock, m, &w);
        if (rc)
            return rc;
    } else if (!pshm_owner_is_open(pshm_load(&o->word))) {
        w.slice = pshm_os_now() + PSHM_SLICE_NS;
    }
    /* Whom it looked at before, and since when, perhaps by the last call. */
    uint32_t looked_at = m->looked_at;
    int64_t looked_since = m->looked_since;
    int rc = pshm_owner_take(m, o, mode | PSHM_OWNER_PENDING, &guard, deadline, &told);
    if (!rc) {
        m->looked_at = looked_at;
        m->looked_since = looked_since;
        rc = settle(rwlock, m, &w);
        if (!rc)
            m->looked_at = 0;
    }
    if (!rc || rc == -EOWNERDEAD)
        *death = (pshm_death){told.died, told.pid, told.participant};
    return rc;
}

static int write_as(pshm_rwlock *rwlock, pshm_owner_mode mode, int64_t deadline, pshm_death *death)
{
    pshm_member *m;
    *death = (pshm_death){false, 0, 0};
    int rc = pshm_object_enter(&rwlock->object, &m);
    if (rc)
        return rc;
    bool mine = pshm_member_holds(m, note_of(rwlock)) >= 0 || writes(rwlock, m);
    rc = mine ? PSHM_ERELOCK : write_first(rwlock, m, mode, deadline, death);
    pshm_object_leave(m);
    if (PSHM_UNLIKELY(*m->gone) && rc == 0) {
        pshm_owner_give_as(m, writer_of(rwlock), PSHM_OWNER_WAKE_ALL); /* others may have the page yet */
        rc = PSHM_ELOST;
    }
    return rc;
}

int pshm_rwlock_write_try(pshm_rwlock *rwlock, pshm_death *death)
{
    return write_as(rwlock, PSHM_OWNER_PLAIN, PSHM_OWNER_NOW, death);
}

int pshm_rwlock_write_acquire(pshm_rwlock *rwlock, int64_t deadline, pshm_death *death)
{
    return write_as(rwlock, PSHM_OWNER_PLAIN, deadline, death);
}

int pshm_rwlock_write_recover(pshm_rwlock *rwlock, int64_t deadline, pshm_death *death)
{
    return write_as(rwlock, PSHM_OWNER_RECOVER, deadline, death);
}

/* ---- from one to the other ---- */

/* The thread that writes reads too, and nobody else until the word is given back. */
static int add_note(const pshm_rwlock *rwlock, pshm_member *m, uint64_t more)
{
    if (m->used == UINT32_MAX)
        return PSHM_EHOLDS;
    int at = __builtin_ctz(~m->used);
    m->used |= 1u << at;
    pshm_store(&m->slot->held[at], note_of(rwlock) | more);
    return 0;
}

static int to_reading(const pshm_rwlock *rwlock, pshm_member *m)
{
    int rc = pshm_owner_give_as(m, writer_of(rwlock), PSHM_OWNER_WAKE_ALL);
    int at = pshm_member_holds(m, note_of(rwlock));
    if (rc && at >= 0)
        unnote(m, at, rwlock);
    return rc ? rc : pshm_attachment_verify(m->attachment);
}

int pshm_rwlock_downgrade(pshm_rwlock *rwlock)
{
    pshm_member *m = member_of(rwlock);
    if (!m || !writes(rwlock, m) || pshm_member_holds(m, note_of(rwlock)) >= 0)
        return PSHM_ENOTOWNER;
    if (*m->gone)
        return PSHM_ELOST;
    if (pshm_peek(&writer_of(rwlock)->died))
        return -EOWNERDEAD;
    int rc = add_note(rwlock, m, WROTE);
    return rc ? rc : to_reading(rwlock, m);
}

/* A death is to be told: as a writer, which reads too. Where somebody else was faster it just reads. */
static int recover(pshm_rwlock *rwlock, pshm_death *death)
{
    pshm_member *m = member_of(rwlock);
    int rc = write_as(rwlock, PSHM_OWNER_RECOVER, PSHM_OWNER_NOW, death);
    if (rc)
        return rc == -EBUSY ? -EINTR : rc;
    rc = add_note(rwlock, m, 0);
    if (rc)
        pshm_owner_give_as(m, writer_of(rwlock), PSHM_OWNER_WAKE_ALL);
    else if (!death->died)
        rc = to_reading(rwlock, m);
    return rc;
}

int pshm_rwlock_read_recover(pshm_rwlock *rwlock, int64_t deadline, pshm_death *death)
{
    int rc = pshm_rwlock_read_acquire(rwlock, deadline, death);
    return rc == -EOWNERDEAD ? recover(rwlock, death) : rc;
}

/* Takes the mark away. PSHM_ENOTOWNER: somebody has overwritten the word. */
static int make_good(const pshm_rwlock *rwlock, const pshm_member *m)
{
    pshm_owner *o = writer_of(rwlock);
    if (pshm_owner_id(o) != m->me)
        return *m->gone ? PSHM_ELOST : PSHM_ENOTOWNER;
    pshm_store(&o->died, 0);
    return pshm_attachment_verify(m->attachment);
}

int pshm_rwlock_read_consistent(pshm_rwlock *rwlock)
{
    pshm_member *m = member_of(rwlock);
    if (!m || pshm_member_holds(m, note_of(rwlock)) < 0)
        return PSHM_ENOTOWNER;
    if (!writes(rwlock, m))
        return pshm_attachment_verify(m->attachment);
    int rc = make_good(rwlock, m);
    return rc ? rc : to_reading(rwlock, m);
}

int pshm_rwlock_write_consistent(pshm_rwlock *rwlock)
{
    pshm_member *m = member_of(rwlock);
    bool ours = m && writes(rwlock, m) && pshm_member_holds(m, note_of(rwlock)) < 0;
    return ours ? make_good(rwlock, m) : PSHM_ENOTOWNER;
}

int pshm_rwlock_write_release(pshm_rwlock *rwlock)
{
    pshm_member *m = member_of(rwlock);
    if (PSHM_UNLIKELY(!m))
        return PSHM_ENOTOWNER;
    int at = pshm_member_holds(m, note_of(rwlock));
    if (PSHM_UNLIKELY(at >= 0)) { /* downgraded since */
        uint64_t *held = &m->slot->held[at];
        if (!(pshm_peek(held) & WROTE))
            return PSHM_ENOTOWNER;
        pshm_store(held, pshm_peek(held) & ~WROTE);
        return pshm_rwlock_read_release(rwlock);
    }
    int rc = pshm_owner_give_as(m, writer_of(rwlock), PSHM_OWNER_WAKE_ALL);
    if (!rc)
        rc = pshm_attachment_verify(m->attachment);
    tidy(rwlock);
    return rc;
}
