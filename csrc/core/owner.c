/* SPDX-License-Identifier: MIT
 *
 * Owner words. What survives a death at any instruction, and why:
 *
 *   take     held = place; word: free -> me                  (one CAS)
 *   give     word: me -> free, to whom asked, or abandoned   (one CAS); held = 0; wake
 *   The word alone says who has the lock, so there is no state between two of them. `held` is written before and cleared
 *   after, so whoever puts the slot of the dead right finds every word that it may have.
 *   A death is seen by the dark beacon or the moved generation of the owner named. It is told by whoever meets it, with one
 *   CAS to "abandoned, by this pid", and stays told until somebody takes the word to recover. That one keeps the pid in
 *   `died` until what the lock guards is whole: released before, or dead before, the word is abandoned again, with that pid:
 *   it names the one who left the data torn (or, if somebody died between the CAS and that store, him).
 *   A wake that dies with the releaser: the sleeper sleeps on the releaser's beacon too. One that dies with the woken:
 *   the next sleeper's slice is over within 100 ms.
 *   Hand-over: a waiter who lost the race several times puts its id beside the owner's, by the same CAS as everything.
 *   The releaser's CAS makes it the owner, with a flag until it has seen it: dead before that, it never was inside, and
 *   the word is just free again. Who stops waiting takes his id out, by CAS, or finds that the lock is his.
 */
#include "core/owner.h"

#include <errno.h>
#include <limits.h>

#include "core/bias.h"
#include "core/waiting.h"
#include "os/clock.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the low half comes first, where futex(2) looks");

/* So many lost races, and it asks to be handed the lock. */
#define PATIENCE 4

static uint32_t low_of(uint64_t word)
{
    return (uint32_t)word;
}

static uint32_t high_of(uint64_t word)
{
    return (uint32_t)(word >> 32);
}

static uint64_t word_of(uint32_t low, uint32_t high)
{
    return low | (uint64_t)high << 32;
}

/* Of a dead owner: a death that it had taken over and not made good is still the one to be told. */
static pshm_death_of death_in(const pshm_owner *o, uint32_t pid, uint32_t slot)
{
    uint64_t died = pshm_load(&o->died);
    if (!died)
        return (pshm_death_of){true, pid, slot + 1};
    return (pshm_death_of){true, (uint32_t)died, (uint32_t)(died >> PSHM_OWNER_DIED_SLOT_SHIFT) & PSHM_ID_SLOT};
}

static uint32_t abandoned_by(uint32_t participant)
{
    return PSHM_ID_ABANDONED | (participant << PSHM_ID_GENERATION_SHIFT & PSHM_ID_GENERATION);
}

static bool is_abandoned(uint32_t low)
{
    return (low & PSHM_ID_SLOT) == PSHM_ID_ABANDONED;
}

static const uint32_t *futex_of(const pshm_owner *o)
{
    return (const uint32_t *)(const void *)&o->word;
}

static void note_death(pshm_owner *o, const pshm_death_of *death)
{
    pshm_store(&o->died, PSHM_OWNER_DIED | death->pid | (uint64_t)death->participant << PSHM_OWNER_DIED_SLOT_SHIFT);
}

/* One CAS came too late: look again. No code of the core is positive. */
#define AGAIN 1

/* The word names an owner who is proven dead. */
static int meet_dead(pshm_member *m, pshm_owner *o, uint64_t word, pshm_owner_mode mode, uint32_t flags,
                     pshm_death_of *death)
{
    uint32_t low = low_of(word), id = low & PSHM_ID, sleepers = low & PSHM_ID_WAITERS;
    if (low & PSHM_ID_GRANTED) { /* it never knew that it had the lock */
        pshm_cas(&o->word, &word, word_of(sleepers, 0));
        return AGAIN;
    }
    uint32_t slot = (id & PSHM_ID_SLOT) - 1;
    /* Asked before the word is changed: the slot is not given to another before the word says that it is abandoned. */
    *death = death_in(o, pshm_id_pid(m->attachment, id), slot);
    if (mode & PSHM_OWNER_RECOVER) {
        if (!pshm_cas(&o->word, &word, word_of(m->me | sleepers | flags, 0)))
            return AGAIN;
        note_death(o, death);
        return 0;
    }
    if (!pshm_cas(&o->word, &word, word_of(abandoned_by(death->participant) | sleepers, death->pid)))
        return AGAIN;
    if (sleepers)
        pshm_os_futex_wake(futex_of(o), INT_MAX);
    return -EOWNERDEAD;
}

/* The word is free, and a death is still to be told. */
static int meet_abandoned(pshm_member *m, pshm_owner *o, uint64_t word, pshm_owner_mode mode, uint32_t flags,
                          pshm_death_of *death)
{
    uint32_t low = low_of(word);
    *death = (pshm_death_of){true, high_of(word), (low & PSHM_ID_GENERATION) >> PSHM_ID_GENERATION_SHIFT};
    if (!(mode & PSHM_OWNER_RECOVER))
        return -EOWNERDEAD;
    if (!pshm_cas(&o->word, &word, word_of(m->me | (low & PSHM_ID_WAITERS) | flags, 0)))
        return AGAIN;
    note_death(o, death);
    return 0;
}

/* What of GRANTED goes from a word when it is taken. */
static uint64_t seen(pshm_owner_mode mode)
{
    return mode & PSHM_OWNER_PENDING ? 0 : PSHM_ID_GRANTED;
}

/* Takes back the wish to be handed the lock. true: it was granted meanwhile, so the lock is ours. */
static bool give_up(const pshm_member *m, pshm_owner *o, pshm_owner_mode mode)
{
    uint64_t word = pshm_load(&o->word);
    for (;;) {
        uint32_t low = low_of(word);
        if ((low & PSHM_ID) == m->me && (low & PSHM_ID_GRANTED)) {
            if (pshm_cas(&o->word, &word, word & ~seen(mode)))
                return true;
        } else if (is_abandoned(low) || high_of(word) != m->me) {
            return false;
        } else if (pshm_cas(&o->word, &word, word_of(low, 0))) {
            return false;
        }
    }
}

/* Sleeps until the word changes, its owner (or who takes it again) dies, a signal comes, or `until`. 0 or what the futex
 * said. */
static int sleep_on(pshm_member *m, pshm_owner *o, uint64_t word, pshm_owner_mode mode, int64_t until)
{
    uint32_t low = low_of(word) | PSHM_ID_WAITERS, high = high_of(word), *beacon, value;
    bool died;
    if (!high && m->lost >= PATIENCE && !(mode & PSHM_OWNER_PASS))
        high = m->me;
    if (word_of(low, high) != word && !pshm_cas(&o->word, &word, word_of(low, high)))
        return 0;
    if (!pshm_id_beacon(m->attachment, low & PSHM_ID_SLOT ? low & PSHM_ID : high & PSHM_ID, &beacon, &value))
        return 0;
    pshm_store(&m->slot->waits, pshm_place_of(m->attachment, o));
    int rc = pshm_os_futex_wait_two(futex_of(o), low, beacon, value, until, &died);
    pshm_store(&m->slot->waits, 0);
    if (rc == 0 && died) /* the kernel wakes one; there may be more */
        pshm_os_futex_wake(beacon, INT_MAX);
    m->lost++;
    return rc;
}

bool pshm_member_proves_dead(pshm_member *m, uint32_t id)
{
    int64_t now = pshm_os_now();
    if (id != m->looked_at || now - m->looked_since < PSHM_SLICE_NS - PSHM_SLICE_NS / 100)
        return false;
    m->looked_since = now;
    return pshm_id_prove_dead(m->attachment, id);
}

static bool is_dead_after_all(pshm_member *m, uint64_t word)
{
    return pshm_member_proves_dead(m, low_of(word) & PSHM_ID);
}

typedef struct waiting {
    int64_t deadline, slice;
    unsigned turns;
    uint32_t flags; /* WAITERS once it has slept: there may be others */
} waiting;

/* The owner lives. AGAIN, or how the wait ends. */
static int wait_for(pshm_member *m, pshm_owner *o, uint64_t word, pshm_owner_mode mode, waiting *w)
{
    int64_t now = pshm_os_now();
    if (!w->turns) {
        pshm_member_looks_at(m, low_of(word) & PSHM_ID, now);
        if (w->deadline <= now && is_dead_after_all(m, word)) /* who only ever tries asks too */
            return AGAIN;
        if (w->deadline <= now)
            return w->deadline == PSHM_OWNER_NOW ? -EBUSY : -ETIMEDOUT;
        w->slice = now + PSHM_SLICE_NS;
        if (pshm_id_is_this_thread(m->attachment, low_of(word) & PSHM_ID))
            return PSHM_ERELOCK; /* through another copy of the core in this process */
    }
    bool early = now < w->slice - PSHM_SLICE_NS + PSHM_OS_YIELDS_NS;
    if (w->turns++ < PSHM_OS_YIELDS && early && m->lost < PATIENCE) {
        pshm_os_yield();
        return AGAIN;
    }
    int64_t until = w->deadline < w->slice ? w->deadline : w->slice;
    int rc = now < until ? sleep_on(m, o, word, mode, until) : -ETIMEDOUT;
    w->flags = PSHM_ID_WAITERS;
    if (rc != -ETIMEDOUT && rc != -EINTR)
        return AGAIN;
    if (is_dead_after_all(m, word)) /* after a signal too: there may be one in each slice */
        return AGAIN;
    if (give_up(m, o, mode))
        return 0;
    return rc == -ETIMEDOUT && until == w->deadline ? -ETIMEDOUT : -EINTR;
}

/* Free, but for one who takes it again at once, and is let pass: for a slice, he may have changed his mind. */
static int let_pass(pshm_member *m, pshm_owner *o, uint64_t word, const pshm_owner_guard *guard, int64_t deadline)
{
    uint32_t id = high_of(word) & PSHM_ID;
    int64_t now = pshm_os_now(), wished = guard && guard->wished ? pshm_load(guard->wished) : 0;
    bool over = (uint64_t)now - (uint64_t)wished >= PSHM_SLICE_NS; /* of any bytes */
    if (id == m->me || over || pshm_id_is_dead(m->attachment, id)) {
        pshm_cas(&o->word, &word, word_of(low_of(word), 0));
        return AGAIN;
    }
    if (deadline <= now)
        return deadline == PSHM_OWNER_NOW ? -EBUSY : -ETIMEDOUT;
    int64_t until = wished + PSHM_SLICE_NS;
    return sleep_on(m, o, word, PSHM_OWNER_PASS, deadline < until ? deadline : until) == -EINTR ? -EINTR : AGAIN;
}

static int take(pshm_member *m, pshm_owner *o, pshm_owner_mode mode, const pshm_owner_guard *guard, int64_t deadline,
                pshm_death_of *death)
{
    const pshm_attachment *a = m->attachment;
    const uint32_t pending = mode & PSHM_OWNER_PENDING ? PSHM_ID_GRANTED : 0;
    waiting w = {.deadline = deadline, .flags = mode & PSHM_OWNER_WATCHED ? PSHM_ID_WAITERS : 0};
    int rc = AGAIN;
    while (rc == AGAIN) {
        bool deleted = guard && pshm_load(guard->stamp) != guard->serial;
        if (deleted || *a->lost) {
            if (give_up(m, o, mode))
                pshm_owner_give(m, o);
            return *a->lost ? PSHM_ELOST : PSHM_EDELETED;
        }
        uint64_t word = pshm_load(&o->word);
        uint32_t low = low_of(word), id = low & PSHM_ID;
        if (!(low & PSHM_ID_SLOT) && (mode & PSHM_OWNER_PASS))
            rc = high_of(word) ? let_pass(m, o, word, guard, deadline) : 0;
        else if (!(low & PSHM_ID_SLOT))
            rc = pshm_cas(&o->word, &word, word_of(m->me | pending | (low & PSHM_ID_WAITERS) | w.flags, 0)) ? 0 : AGAIN;
        else if (is_abandoned(low))
            rc = meet_abandoned(m, o, word, mode, w.flags, death);
        else if (id == m->me && !(low & PSHM_ID_GRANTED))
            rc = PSHM_ERELOCK;
        else if (id == m->me)
            rc = pshm_cas(&o->word, &word, (pshm_bias_is_on(word) ? low : word) & ~seen(mode)) ? 0 : AGAIN;
        else if (pshm_id_is_dead(a, id))
            rc = meet_dead(m, o, word, mode, w.flags, death);
        else if (!pshm_bias_is_on(word))
            rc = wait_for(m, o, word, mode, &w);
        else if ((rc = pshm_bias_revoke(m, o, word, m->me | pending | w.flags)) == -EBUSY)
            rc = wait_for(m, o, word, mode, &w);
        else
            rc = rc ? AGAIN : 0;
    }
    return rc;
}

int pshm_owner_take(pshm_member *m, pshm_owner *o, pshm_owner_mode mode, const pshm_owner_guard *guard,
                    int64_t deadline, pshm_death_of *death)
{
    uint64_t place = pshm_place_of(m->attachment, o);
    *death = (pshm_death_of){false, 0, 0};
    if (mode & PSHM_OWNER_PASS)
        return take(m, o, mode, guard, deadline, death);
    int at = pshm_member_note(m, place);
    if (at < 0)
        return PSHM_EHOLDS;
    if (m->wanted != place) {
        m->wanted = place;
        m->lost = 0;
    }
    m->used |= 1u << at; /* before it is: give_up may find the lock granted, and give it back */
    int rc = take(m, o, mode, guard, deadline, death);
    if (rc == 0) {
        m->lost = m->looked_at = 0;
        return 0;
    }
    m->used &= ~(1u << at);
    pshm_store(&m->slot->held[at], 0);
    return rc;
}

/* What the word becomes when its owner lets go. */
static uint64_t successor(const pshm_attachment *a, uint64_t word, uint64_t died)
{
    uint32_t sleepers = low_of(word) & PSHM_ID_WAITERS, asks = high_of(word) & PSHM_ID;
    if (died)
        return word_of(abandoned_by((uint32_t)(died >> PSHM_OWNER_DIED_SLOT_SHIFT)), (uint32_t)died);
    if (asks && !is_abandoned(asks) && !pshm_id_is_dead(a, asks))
        return word_of(asks | PSHM_ID_GRANTED | sleepers, 0);
    return 0;
}

int pshm_owner_settle(pshm_member *m, pshm_owner *o)
{
    uint64_t word = pshm_load(&o->word);
    while ((low_of(word) & PSHM_ID) == m->me)
        if (!(low_of(word) & PSHM_ID_GRANTED) || pshm_cas(&o->word, &word, word & ~(uint64_t)PSHM_ID_GRANTED))
            return 0;
    return *m->attachment->lost ? PSHM_ELOST : PSHM_ENOTOWNER; /* somebody has overwritten it */
}

int pshm_owner_give_as(pshm_member *m, pshm_owner *o, pshm_owner_wake wake)
{
    int at = pshm_member_holds(m, pshm_place_of(m->attachment, o));
    if (at < 0)
        return PSHM_ENOTOWNER;
    uint64_t word = pshm_load(&o->word), next;
    bool mine;
    do {
        mine = (low_of(word) & PSHM_ID) == m->me;
        next = successor(m->attachment, word, pshm_peek(&o->died));
        if (!next && wake == PSHM_OWNER_WAKE_NONE)
            next = word_of(low_of(word) & PSHM_ID_WAITERS, m->me);
    } while (mine && !pshm_cas(&o->word, &word, next));
    m->used &= ~(1u << at);
    pshm_store(&m->slot->held[at], 0);
    if (!mine) /* somebody has overwritten it */
        return *m->attachment->lost ? PSHM_ELOST : PSHM_ENOTOWNER;
    bool all = wake == PSHM_OWNER_WAKE_ALL || (low_of(next) & ~PSHM_ID_WAITERS);
    if ((low_of(word) & PSHM_ID_WAITERS) && (all || wake == PSHM_OWNER_WAKE_ONE))
        pshm_os_futex_wake(futex_of(o), all ? INT_MAX : 1);
    return 0;
}

int pshm_owner_watch(pshm_member *m, pshm_owner *o, pshm_watch *watch)
{
    uint64_t word = pshm_load(&o->word);
    for (;;) {
        bool is_free = !(low_of(word) & PSHM_ID_SLOT);
        if (is_abandoned(low_of(word)) || (is_free && !watch->again))
            return 1;
        /* Of a free one too, for those who were not woken: whoever takes it now does not know of them. */
        if (!(low_of(word) & PSHM_ID_WAITERS) && !pshm_cas(&o->word, &word, word | PSHM_ID_WAITERS))
            continue;
        if (is_free)
            return 1;
        break;
    }
    uint32_t low = low_of(word) | PSHM_ID_WAITERS;
    pshm_watch_add(watch, futex_of(o), low);
    return !pshm_watch_life(watch, m->attachment, low & PSHM_ID);
}

void pshm_owner_abandon(const pshm_attachment *a, pshm_owner *o, uint32_t id, uint32_t pid, uint32_t slot)
{
    (void)a;
    uint64_t word = pshm_load(&o->word);
    for (;;) {
        uint32_t low = low_of(word), sleepers = low & PSHM_ID_WAITERS;
        uint64_t next = word;
        if (is_abandoned(low))
            return;
        const pshm_death_of death = death_in(o, pid, slot);
        if ((low & PSHM_ID) == id)
            next = low & PSHM_ID_GRANTED ? word_of(sleepers, 0)
                                         : word_of(abandoned_by(death.participant) | sleepers, death.pid);
        else if (high_of(word) == id)
            next = word_of(low, 0);
        if (next == word)
            return;
        if (!pshm_cas(&o->word, &word, next))
            continue;
        if (sleepers && low_of(next) != low)
            pshm_os_futex_wake(futex_of(o), INT_MAX);
        return;
    }
}

int pshm_owner_enter(pshm_member *m, pshm_owner *o, bool *repair)
{
    uint64_t nobody = 0;
    pshm_death_of death;
    *repair = false;
    int at = pshm_member_note(m, pshm_place_of(m->attachment, o));
    if (at < 0)
        return PSHM_EHOLDS;
    if (PSHM_LIKELY(pshm_cas(&o->word, &nobody, m->me))) {
        m->used |= 1u << at;
        return 0;
    }
    pshm_store(&m->slot->held[at], 0);
    int rc = pshm_owner_take(m, o, PSHM_OWNER_RECOVER, NULL, PSHM_FOREVER, &death);
    *repair = rc == 0 && pshm_peek(&o->died);
    return rc;
}
