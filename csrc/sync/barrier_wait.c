/* SPDX-License-Identifier: MIT
 *
 * The barrier for whoever has arrived: sleeping, and seeing to it that the dead are not waited for.
 */
#include "sync/barrier.h"

#include <errno.h>
#include <limits.h>

#include "os/clock.h"

/* Does the death of who stands in an entry concern who waits? */
static bool matters(const pshm_barrier *barrier, uint64_t me, uint32_t phase, uint64_t entry)
{
    bool arrived = pshm_barrier_has_arrived(entry, phase);
    return (entry & PSHM_ID_SLOT) && (entry & PSHM_MEMBER) != me &&
           !(arrived && barrier->on_death == PSHM_ON_DEATH_SHRINK);
}

/* What to sleep on; true: somebody is dead that was not known to be. */
static bool gather(const pshm_barrier *barrier, const pshm_member *m, uint64_t state, pshm_watch *watch)
{
    pshm_attachment *a = m->attachment;
    const pshm_barrier_body *b = pshm_barrier_body_of(barrier);
    const uint32_t phase = pshm_barrier_phase(state);
    const uint64_t me = pshm_barrier_self(m);
    bool shrinks = barrier->on_death == PSHM_ON_DEATH_SHRINK;
    *watch = (pshm_watch){.count = 0};
    pshm_watch_add(watch, pshm_barrier_futex(b), (uint32_t)state);
    pshm_barrier_survey seen;
    pshm_barrier_look(barrier, m, phase, &seen);
    if (shrinks ? seen.arrived + seen.gone >= barrier->parties : seen.gone)
        return true;
    for (uint32_t i = 0; i < barrier->parties && watch->count < PSHM_OS_FUTEX_MANY; i++) {
        uint64_t entry = pshm_load(&b->members[i]);
        if (!matters(barrier, me, phase, entry) || (shrinks && pshm_barrier_is_dead(a, entry)))
            continue;
        if (pshm_barrier_is_dead(a, entry) || !pshm_watch_life(watch, a, pshm_barrier_id_of(entry)))
            return true;
    }
    return false;
}

/* So many are asked for in a slice: where a crowd waits for a crowd, each for others. */
#define ASKED 8

/* Asks the system about those whose death matters, after a whole slice. */
static void prove(const pshm_barrier *barrier, const pshm_member *m, pshm_barrier_ticket *ticket)
{
    const uint64_t me = pshm_barrier_self(m);
    uint32_t i = ticket->asked < barrier->parties ? ticket->asked : 0, asked = 0;
    for (uint32_t n = 0; n < barrier->parties && asked < ASKED; n++) {
        uint64_t entry = pshm_load(&pshm_barrier_body_of(barrier)->members[i]);
        i = i + 1 < barrier->parties ? i + 1 : 0;
        if (!matters(barrier, me, ticket->phase, entry) || pshm_barrier_is_dead(m->attachment, entry))
            continue;
        pshm_id_prove_dead(m->attachment, pshm_barrier_id_of(entry));
        asked++;
    }
    ticket->asked = i;
}

/* Breaks the phase, unless it is over. */
static int give_up(pshm_barrier_body *b, const pshm_barrier_ticket *ticket)
{
    uint64_t state = pshm_load(&b->state);
    int rc = pshm_barrier_fate(ticket->phase, state);
    if (rc != 1)
        return rc;
    pshm_barrier_break(b, state);
    rc = pshm_barrier_fate(ticket->phase, pshm_load(&b->state));
    return rc ? -ETIMEDOUT : 0;
}

/* By a member who waits: what is to be done by whoever sees it. `late`: its time is over. */
static int intervene(pshm_barrier *barrier, pshm_member *m, const pshm_barrier_ticket *ticket, bool late)
{
    bool repair;
    pshm_barrier_body *b = pshm_barrier_body_of(barrier);
    int rc = pshm_owner_enter(m, &b->guard, &repair);
    if (rc)
        return rc == -EINTR && late ? give_up(b, ticket) : rc; /* somebody is stopped at the table */
    if (repair)
        pshm_owner_repaired(&b->guard);
    uint64_t state = pshm_load(&b->state);
    pshm_barrier_survey seen;
    rc = pshm_barrier_fate(ticket->phase, state);
    if (rc == 1) {
        pshm_barrier_look(barrier, m, ticket->phase, &seen);
        rc = pshm_barrier_settle(barrier, state, &seen);
        rc = rc ? rc : pshm_barrier_fate(ticket->phase, pshm_load(&b->state));
    }
    if (rc == 1 && late)
        rc = give_up(b, ticket);
    int given = pshm_owner_give(m, &b->guard);
    return rc < 0 ? rc : given ? given : rc;
}

static int sleep_until(pshm_barrier *barrier, pshm_member *m, const pshm_barrier_ticket *ticket, int64_t until)
{
    pshm_watch watch;
    unsigned which;
    uint64_t state = pshm_load(&pshm_barrier_body_of(barrier)->state);
    int rc = pshm_barrier_fate(ticket->phase, state);
    if (rc != 1)
        return rc;
    if (gather(barrier, m, state, &watch))
        return intervene(barrier, m, ticket, false);
    pshm_store(&m->slot->waits, pshm_place_of(m->attachment, pshm_barrier_body_of(barrier)));
    rc = pshm_os_futex_wait_many(watch.words, watch.count, until, &which);
    pshm_store(&m->slot->waits, 0);
    if (rc == 0 && which > 0) /* the kernel wakes one; there may be more */
        pshm_os_futex_wake(watch.words[which].word, INT_MAX);
    return rc == -EINTR ? rc : 1;
}

static int sleep_for(pshm_barrier *barrier, pshm_member *m, pshm_barrier_ticket *ticket, int64_t deadline)
{
    const pshm_object *object = &barrier->object;
    int64_t start = pshm_os_now(), slice = start + PSHM_SLICE_NS, until = deadline < slice ? deadline : slice;
    for (int i = 0;; i++) {
        int rc = object->arena->closed ? PSHM_ECLOSED : pshm_object_stands(object);
        if (!rc)
            rc = pshm_barrier_fate(ticket->phase, pshm_load(&pshm_barrier_body_of(barrier)->state));
        if (rc != 1)
            return rc;
        int64_t now = pshm_os_now();
        if (now >= until) {
            if (until == slice)
                prove(barrier, m, ticket);
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
