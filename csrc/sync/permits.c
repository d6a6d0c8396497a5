/* SPDX-License-Identifier: MIT
 *
 * Permits. How many a thread has stands in its own slot, beside the place of the mark; `free` is a number that spares the
 * others the sum of these. What survives a death at any instruction, and why:
 *
 *   acquire   guard; free -= n; own mark += n; guard
 *   release   (guard;) own mark -= n; (free += n; guard;) changes++; wake
 *   At every instant `free` and the marks of the living are together not more than there are, so nobody gets one that
 *   another has, and nothing is to be repaired. They can be less: after a death, or a release without the guard. So who
 *   finds too few counts: all but the sum of the marks of slots whose owner lives. That is exact under the guard, without
 *   which no mark grows.
 *   Who waits sleeps on `sleepers` and on the beacons of those who have some, so that a death wakes as a release does, and
 *   one between a release and its wake too. All who sleep are woken: who wants few may go on where who wants many may not.
 *   Who gives back does not wait for somebody who is stopped in the guard, and needs no place in its slot for it.
 */
#include <polyshm/permits.h>

#include <errno.h>
#include <limits.h>

#include "core/owner.h"
#include "core/waiting.h"
#include "os/clock.h"

#define KIND 5u

typedef struct body {
    uint32_t sleepers; /* of waiting.h; what is slept on */
    uint32_t changes;  /* releases: what a waiter goes by that does not sleep yet */
    pshm_owner guard;  /* of `free`, and of every mark that grows */
    uint32_t total;
    uint32_t free;    /* not more than there are */
    uint64_t mark[2]; /* zeros: its place stands in a slot, with the number of permits above it */
    uint64_t unused[2];
} body;

_Static_assert(sizeof(body) == 64 && offsetof(body, guard) == 8 && offsetof(body, mark) == 32, "layout");

static body *body_of(const pshm_permits *permits)
{
    return permits->object.body;
}

/* ---- counting ---- */

static uint32_t count_in(uint64_t held)
{
    return (uint32_t)(held >> PSHM_HELD_DEPTH_SHIFT);
}

/* How many the thread has. */
static uint32_t count_of(const pshm_member *m, uint64_t place)
{
    int at = m ? pshm_member_holds(m, place) : -1;
    return at < 0 ? 0 : count_in(pshm_peek(&m->slot->held[at]));
}

/* How many a slot says, whoever has it; `*id`: that one, as it was before. */
static uint64_t marked(const pshm_slot *slot, uint32_t index, uint64_t place, uint32_t *id)
{
    uint32_t stamp = pshm_load(&slot->stamp);
    uint64_t count = 0;
    *id = pshm_id_of(index, stamp >> PSHM_GENERATION_SHIFT);
    if ((stamp & PSHM_PHASE) != PSHM_PHASE_TAKEN)
        return 0;
    for (uint32_t i = 0; i < PSHM_HELD; i++) {
        uint64_t held = pshm_load(&slot->held[i]);
        if ((held & PSHM_HELD_PLACE) == place)
            count += count_in(held);
    }
    return count;
}

/* All but what the living have. Their beacons go to `out`, if it is not NULL. */
static uint32_t count_free(pshm_attachment *a, uint64_t place, uint32_t total, pshm_watch *out)
{
    uint64_t had = 0;
    uint32_t high = pshm_high_water(a), id, value, *beacon;
    for (uint32_t i = 0; i < high; i++) {
        uint64_t count = marked(pshm_slot_at(a, i), i, place, &id);
        if (!count)
            continue;
        bool alive = out ? pshm_id_beacon(a, id, &beacon, &value) : !pshm_id_is_dead(a, id);
        had += alive ? count : 0;
        if (alive && out)
            pshm_watch_add(out, beacon, value);
    }
    return had < total ? total - (uint32_t)had : 0;
}

/* There were too few, and the beacons of all who have some shine: asks for the second proof, once a slice. true: one of
 * them is dead. Without the guard, as it asks the system. */
static bool is_one_dead_after_all(pshm_member *m, uint64_t place)
{
    pshm_attachment *a = m->attachment;
    int64_t now = pshm_os_now();
    uint32_t high = pshm_high_water(a), id;
    bool found = false;
    if (m->asked_at != place) {
        m->asked_at = place;
        m->asked_since = now;
    }
    if (now - m->asked_since < PSHM_SLICE_NS - PSHM_SLICE_NS / 100)
        return false;
    m->asked_since = now;
    for (uint32_t i = 0; i < high; i++)
        if (i != m->index && marked(pshm_slot_at(a, i), i, place, &id) && pshm_id_prove_dead(a, id))
            found = true;
    return found;
}

/* ---- handles ---- */

static int watch(const pshm_object *object, int64_t least, pshm_watch *out);

int pshm_permits_init(pshm_permits *permits, pshm_arena *arena, const char *name, size_t length, bool create,
                      int64_t total, bool *created)
{
    const bool any = total == PSHM_PERMITS_ANY;
    bool made = false;
    *permits = (pshm_permits){.place = 0};
    if (!any && (total < 1 || total > PSHM_PERMITS_MAX))
        return total < 1 ? PSHM_ETOOFEW : PSHM_ETOOMANY;
    const uint32_t all = any ? 0 : (uint32_t)total;
    const body first = {.total = all, .free = all};
    const pshm_wish wish = {.name = name,
                            .name_size = length,
                            .kind = KIND,
                            .create = create && !any,
                            .body = &first,
                            .body_size = sizeof first,
                            .body_prefix = sizeof first,
                            .watch = watch};
    uint32_t flags;
    int rc = pshm_object_open(&permits->object, arena, &wish, &flags, &made);
    if (rc)
        return rc == PSHM_ENONAME && create && any ? PSHM_ENOCOUNT : rc;
    permits->place = pshm_place_of(arena->attachment, body_of(permits)->mark);
    permits->total = pshm_load(&body_of(permits)->total);
    if (permits->total < 1 || permits->total > PSHM_PERMITS_MAX)
        rc = *arena->attachment->lost ? PSHM_ELOST : PSHM_ECORRUPT;
    else if (!any && permits->total != all)
        rc = PSHM_EPARAMETER;
    if (rc)
        pshm_permits_fini(permits);
    else if (created)
        *created = made;
    return rc;
}

void pshm_permits_fini(pshm_permits *permits)
{
    pshm_object_fini(&permits->object);
}

/* ---- acquiring ---- */

#define TOO_FEW 1 /* no code of the core is positive */

/* Under the guard. */
static int take(pshm_member *m, const pshm_permits *permits, uint32_t n)
{
    body *b = body_of(permits);
    int at = pshm_member_holds(m, permits->place);
    if (at < 0) {
        at = pshm_member_note(m, permits->place);
        if (at < 0)
            return PSHM_EHOLDS;
        m->used |= 1u << at;
    }
    uint64_t *held = &m->slot->held[at];
    pshm_store(&b->free, pshm_peek(&b->free) - n);
    pshm_store(held, pshm_peek(held) + ((uint64_t)n << PSHM_HELD_DEPTH_SHIFT));
    return 0;
}

/* Who only tries sleeps so long for the guard: whoever has it is done long before, or was put aside for a moment. */
#define SOON INT64_C(5000000)

/* The guard, without a sleep, or with one of `patience`. */
static int enter_soon(pshm_member *m, pshm_owner *guard, int64_t patience, bool *repair)
{
    pshm_death_of death;
    int rc = -EBUSY;
    for (int i = 0; rc == -EBUSY && i < PSHM_OS_YIELDS; i++) {
        if (i)
            pshm_os_yield();
        rc = pshm_owner_take(m, guard, PSHM_OWNER_RECOVER, NULL, PSHM_OWNER_NOW, &death);
    }
    if (rc == -EBUSY && patience)
        rc = pshm_owner_take(m, guard, PSHM_OWNER_RECOVER, NULL, pshm_os_now() + patience, &death);
    *repair = rc == 0 && pshm_peek(&guard->died);
    return rc;
}

/* Once. TOO_FEW: what to sleep on goes to `out`, if it is not NULL. `soon`: it only tries. */
static int attempt(pshm_member *m, const pshm_permits *permits, uint32_t n, bool soon, pshm_watch *out)
{
    body *b = body_of(permits);
    bool repair;
    if (out) {
        out->count = 0;
        pshm_watch_add(out, &b->sleepers, pshm_sleeps(&b->sleepers, PSHM_SLEEPS_TAKER));
    }
    soon = soon && PSHM_UNLIKELY(pshm_peek(&b->guard.word));
    int rc = soon ? enter_soon(m, &b->guard, SOON, &repair) : pshm_owner_enter(m, &b->guard, &repair);
    if (PSHM_UNLIKELY(rc))
        return rc;
    uint32_t left = pshm_peek(&b->free);
    if (PSHM_UNLIKELY(left < n || left > permits->total || repair)) {
        left = count_free(m->attachment, permits->place, permits->total, out);
        pshm_store(&b->free, left);
    }
    rc = left < n ? TOO_FEW : take(m, permits, n);
    if (PSHM_UNLIKELY(repair)) /* there was nothing to put right */
        pshm_owner_repaired(&b->guard);
    pshm_owner_give(m, &b->guard);
    return rc;
}

static int sleep_on(pshm_member *m, const body *b, const pshm_watch *words, int64_t until)
{
    unsigned which = 0;
    pshm_store(&m->slot->waits, pshm_place_of(m->attachment, &b->sleepers));
    int rc = pshm_os_futex_wait_many(words->words, words->count, until, &which);
    pshm_store(&m->slot->waits, 0);
    if (rc == 0 && which > 0) /* a death: the kernel wakes one; there may be more */
        pshm_os_futex_wake(words->words[which].word, INT_MAX);
    return rc == -EAGAIN ? 0 : rc;
}

/* There were too few. */
static int wait_for(pshm_member *m, const pshm_permits *permits, uint32_t n, int64_t deadline)
{
    const body *b = body_of(permits);
    int64_t start = pshm_os_now(), slice = start + PSHM_SLICE_NS, until = deadline < slice ? deadline : slice;
    pshm_watch words;
    bool again = is_one_dead_after_all(m, permits->place);
    if (deadline <= start && !again)
        return -ETIMEDOUT;
    uint32_t seen = pshm_load(&b->changes);
    int rc = attempt(m, permits, n, deadline == PSHM_OWNER_NOW, NULL);
    for (int i = 0; rc == TOO_FEW && i < PSHM_OS_YIELDS && pshm_os_now() < start + PSHM_OS_YIELDS_NS; i++) {
        pshm_os_yield();
        uint32_t now = pshm_load(&b->changes);
        rc = now == seen ? TOO_FEW : attempt(m, permits, n, false, NULL);
        seen = now;
    }
    while (rc == TOO_FEW) {
        if (pshm_os_now() >= until)
            return until == deadline ? -ETIMEDOUT : -EINTR;
        rc = attempt(m, permits, n, false, &words);
        if (rc != TOO_FEW)
            break;
        int woken = sleep_on(m, b, &words, until);
        again = woken && is_one_dead_after_all(m, permits->place);
        rc = permits->object.arena->closed ? PSHM_ECLOSED : pshm_object_stands(&permits->object);
        if (!rc && again) /* whatever the time */
            rc = attempt(m, permits, n, false, NULL);
        else if (!rc)
            rc = woken == -EINTR ? -EINTR : TOO_FEW;
    }
    return rc;
}

static int acquire(pshm_permits *permits, int64_t n, int64_t deadline)
{
    pshm_member *m;
    if (PSHM_UNLIKELY(n < 1))
        return PSHM_ETOOFEW;
    if (PSHM_UNLIKELY(n > permits->total))
        return permits->object.arena ? PSHM_ETOOMANY : PSHM_ECLOSED;
    int rc = pshm_object_enter(&permits->object, &m);
    if (PSHM_UNLIKELY(rc))
        return rc;
    uint32_t wanted = (uint32_t)n;
    if (PSHM_UNLIKELY(count_of(m, permits->place) + wanted > permits->total)) {
        rc = deadline == PSHM_OWNER_NOW ? -ETIMEDOUT : PSHM_ESELFWAIT;
    } else {
        rc = attempt(m, permits, wanted, deadline == PSHM_OWNER_NOW, NULL);
        if (rc == TOO_FEW)
            rc = wait_for(m, permits, wanted, deadline);
    }
    pshm_object_leave(m);
    if (PSHM_UNLIKELY(*m->attachment->lost) && rc == 0) {
        (void)pshm_permits_release(permits, n); /* others may have the page yet */
        rc = PSHM_ELOST;
    }
    return rc;
}

int pshm_permits_try(pshm_permits *permits, int64_t n)
{
    int rc = acquire(permits, n, PSHM_OWNER_NOW);
    return rc == -ETIMEDOUT || rc == -EINTR ? -EBUSY : rc;
}

int pshm_permits_acquire(pshm_permits *permits, int64_t n, int64_t deadline)
{
    int rc = acquire(permits, n, deadline < 0 ? 0 : deadline);
    /* Somebody is stopped in the guard. */
    return rc == -EINTR && deadline <= pshm_os_now() ? -ETIMEDOUT : rc;
}

/* ---- giving back ---- */

/* The calling thread, on a closed arena too, for as long as it has some. */
static pshm_member *holder(const pshm_permits *permits)
{
    const pshm_arena *arena = permits->object.arena;
    pshm_member *m = arena ? pshm_member_quick(arena->attachment) : NULL;
    return PSHM_LIKELY(m != NULL) || !arena ? m : pshm_member_known(arena->attachment);
}

int pshm_permits_release(pshm_permits *permits, int64_t n)
{
    pshm_member *m = holder(permits);
    int at = m ? pshm_member_holds(m, permits->place) : -1; /* once: others may overwrite it */
    uint32_t had = at < 0 ? 0 : count_in(pshm_peek(&m->slot->held[at]));
    if (PSHM_UNLIKELY(n < 1))
        return PSHM_ETOOFEW;
    if (PSHM_UNLIKELY(n > had))
        return PSHM_ENOTOWNER;
    body *b = body_of(permits);
    uint64_t *held = &m->slot->held[at], now = permits->place | (uint64_t)(had - (uint32_t)n) << PSHM_HELD_DEPTH_SHIFT;
    bool repair, guarded = enter_soon(m, &b->guard, 0, &repair) == 0;
    pshm_store(held, now);
    if (guarded) {
        uint32_t left = pshm_peek(&b->free), room = permits->total - (uint32_t)n;
        pshm_store(&b->free, (left < room ? left : room) + (uint32_t)n);
        if (PSHM_UNLIKELY(repair))
            pshm_owner_repaired(&b->guard);
        pshm_owner_give(m, &b->guard);
    }
    __atomic_add_fetch(&b->changes, 1, __ATOMIC_SEQ_CST);
    pshm_wake(&b->sleepers, &b->sleepers, INT_MAX);
    if (!count_in(now)) { /* until here it kept the object's memory */
        m->used &= ~(1u << at);
        pshm_store(held, 0);
    }
    int rc = pshm_attachment_verify(m->attachment);
    if (PSHM_UNLIKELY(permits->object.arena->closed))
        pshm_members_tidy(); /* what was held kept the mapping */
    return rc;
}

/* ---- looking ---- */

int pshm_permits_available(pshm_permits *permits, uint32_t *count)
{
    const pshm_object *object = &permits->object;
    bool pinned;
    int rc = pshm_object_look(object, &pinned);
    if (rc)
        return rc;
    *count = count_free(object->arena->attachment, permits->place, permits->total, NULL);
    rc = pshm_object_stands(object);
    pshm_arena_unlook(object->arena, pinned);
    return rc;
}

int pshm_permits_held(pshm_permits *permits, uint32_t *count)
{
    bool pinned;
    *count = count_of(holder(permits), permits->place);
    if (*count)
        return 0;
    int rc = pshm_object_look(&permits->object, &pinned);
    if (!rc)
        pshm_arena_unlook(permits->object.arena, pinned);
    return rc;
}

static int watch(const pshm_object *object, int64_t least, pshm_watch *out)
{
    pshm_arena *arena = object->arena;
    pshm_member *m = NULL;
    bool pinned = false;
    int rc = arena->readonly ? pshm_object_look(object, &pinned) : pshm_object_enter(object, &m);
    if (rc)
        return rc;
    pshm_attachment *a = arena->attachment;
    body *b = object->body;
    uint64_t place = pshm_place_of(a, b->mark);
    uint32_t total = pshm_load(&b->total);
    if (m)
        pshm_watch_add(out, &b->sleepers, pshm_sleeps(&b->sleepers, PSHM_SLEEPS_WATCHER));
    int64_t left = count_free(a, place, total, m ? out : NULL);
    least = least < 1 ? 1 : least;
    if (m && left < least && is_one_dead_after_all(m, place))
        left = count_free(a, place, total, NULL);
    rc = least > total ? PSHM_ETOOMANY : left >= least;
    int stood = pshm_object_stands(object);
    if (m)
        pshm_object_leave(m);
    else
        pshm_arena_unlook(arena, pinned);
    return stood ? stood : rc;
}
