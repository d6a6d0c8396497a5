/* SPDX-License-Identifier: MIT
 *
 * The barrier for whoever has arrived: sleeping, and seeing to it that the dead are not waited for.
 */
#include "sync/barrier.h"

#include <errno.h>
#include <limits.h>

#include "os/clock.h"

/* How the phase of a ticket stands: 0: passed; 1: not yet; PSHM_EBROKEN. Where it was reset, the next one cannot have
 * passed: its members are waited for, and one of them is here. */
static int fate(const pshm_barrier_ticket *ticket, uint32_t word)
{
    if (word >> PSHM_BARRIER_PHASE_SHIFT != ticket->phase)
        return word & PSHM_BARRIER_RESET ? PSHM_EBROKEN : 0;
    return word & PSHM_BARRIER_BROKEN ? PSHM_EBROKEN : 1;
}

/* What to sleep on; true: somebody is dead that was not known to be. */
static bool gather(const pshm_barrier *barrier, const pshm_member *m, uint32_t word, pshm_watch *watch)
{
    pshm_attachment *a = m->attachment;
    const pshm_barrier_body *b = pshm_barrier_body_of(barrier);
    const uint64_t me = pshm_barrier_self(m);
    bool shrinks = barrier->on_death == PSHM_ON_DEATH_SHRINK;
    watch->count = 0;
    pshm_watch_add(watch, &b->word, word);
    pshm_barrier_survey seen;
    pshm_barrier_look(barrier, m, word >> PSHM_BARRIER_PHASE_SHIFT, &seen);
    if (shrinks ? seen.arrived + seen.gone >= barrier->parties : seen.gone)
        return true;
    for (uint32_t i = 0; i < barrier->parties && watch->count < PSHM_OS_FUTEX_MANY; i++) {
        uint64_t entry = pshm_load(&b->members[i]);
        uint32_t *beacon, value;
        if (!(entry & PSHM_ID_SLOT) || (entry & PSHM_MEMBER) == me ||
            (shrinks && pshm_barrier_has_arrived(entry, word >> PSHM_BARRIER_PHASE_SHIFT)))
            continue;
        if (!pshm_barrier_is_dead(a, entry) && pshm_id_beacon(a, pshm_barrier_id_of(entry), &beacon, &value))
            pshm_watch_add(watch, beacon, value);
        else if (!shrinks)
            return true;
    }
    return false;
}

/* Asks the system about those who are waited for, whom a whole slice has not brought. */
static void prove(const pshm_barrier *barrier, const pshm_member *m, uint32_t phase)
{
    for (uint32_t i = 0; i < barrier->parties; i++) {
        uint64_t entry = pshm_load(&pshm_barrier_body_of(barrier)->members[i]);
        if ((entry & PSHM_ID_SLOT) && !pshm_barrier_has_arrived(entry, phase) &&
            !pshm_barrier_is_dead(m->attachment, entry))
            pshm_id_prove_dead(m->attachment, pshm_barrier_id_of(entry));
    }
}

/* By a member who waits: what is to be done by whoever sees it. `late`: its time is over. */
static int intervene(pshm_barrier *barrier, pshm_member *m, const pshm_barrier_ticket *ticket, bool late)
{
    bool repair;
    pshm_barrier_body *b = pshm_barrier_body_of(barrier);
    int rc = pshm_owner_enter(m, &b->guard, &repair);
    if (rc)
        return rc;
    if (repair)
        pshm_owner_repaired(&b->guard);
    uint32_t word = pshm_load(&b->word);
    pshm_barrier_survey seen;
    rc = fate(ticket, word);
    if (rc == 1) {
        pshm_barrier_look(barrier, m, ticket->phase, &seen);
        rc = pshm_barrier_settle(barrier, word, &seen);
        word = pshm_load(&b->word);
        rc = rc ? rc : fate(ticket, word);
    }
    if (rc == 1 && late) {
        pshm_barrier_break(b, word);
        rc = -ETIMEDOUT;
    }
    int given = pshm_owner_give(m, &b->guard);
    return rc < 0 ? rc : given ? given : rc;
}

static int sleep_until(pshm_barrier *barrier, pshm_member *m, const pshm_barrier_ticket *ticket, int64_t until)
{
    pshm_watch watch;
    unsigned which;
    uint32_t word = pshm_load(&pshm_barrier_body_of(barrier)->word);
    int rc = fate(ticket, word);
    if (rc != 1)
        return rc;
    if (gather(barrier, m, word, &watch))
        return intervene(barrier, m, ticket, false);
    pshm_store(&m->slot->waits, pshm_place_of(m->attachment, pshm_barrier_body_of(barrier)));
    rc = pshm_os_futex_wait_many(watch.words, watch.count, until, &which);
    pshm_store(&m->slot->waits, 0);
    if (rc == 0 && which > 0) /* the kernel wakes one; there may be more */
        pshm_os_futex_wake(watch.words[which].word, INT_MAX);
    return rc == -EINTR ? rc : 1;
}

static int sleep_for(pshm_barrier *barrier, pshm_member *m, const pshm_barrier_ticket *ticket, int64_t deadline)
{
    const pshm_object *object = &barrier->object;
    int64_t start = pshm_os_now(), slice = start + PSHM_SLICE_NS, until = deadline < slice ? deadline : slice;
    for (int i = 0;; i++) {
        int rc = object->arena->closed ? PSHM_ECLOSED : pshm_object_stands(object);
        if (!rc)
            rc = fate(ticket, pshm_load(&pshm_barrier_body_of(barrier)->word));
        if (rc != 1)
            return rc;
        int64_t now = pshm_os_now();
        if (now >= until) {
            if (until == slice)
                prove(barrier, m, ticket->phase);
            return until == deadline ? intervene(barrier, m, ticket, true) : -EINTR;
        }
        if (i < PSHM_OS_YIELDS && now < start + PSHM_OS_YIELDS_NS) {
            pshm_os_yield();
            continue;
        }
        rc = sleep_until(barrier, m, ticket, until);
        if (rc != 1)
            return rc;
    }
}

int pshm_barrier_sleep(pshm_barrier *barrier, pshm_barrier_ticket *ticket, int64_t deadline)
{
    pshm_member *m;
    if (ticket->passed)
        return 0;
    int rc = pshm_object_enter(&barrier->object, &m);
    if (rc)
        return rc;
    rc = sleep_for(barrier, m, ticket, deadline);
    ticket->passed = rc == 0;
    pshm_object_leave(m);
    return rc;
}
