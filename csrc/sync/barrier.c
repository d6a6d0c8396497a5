/* SPDX-License-Identifier: MIT
 *
 * The barrier. What survives a death at any instruction, and why:
 *
 *   Each member has one word in the table: who it is, and the phase it arrived in. `state` is the phase itself. Joining,
 *   arriving and leaving are one store to the member's own word, and the end of a phase is one CAS of `state`; how many have
 *   arrived, and how many are waited for, is asked of the table each time. So there is no state between two of them, and
 *   whoever takes the guard over from a death has nothing to put right. The guard is there so that two who arrive at once
 *   get two places and two numbers.
 *   Only where members are forgotten are there more steps than one. Who resets breaks the phase first, and who finds that
 *   all are dead begins a new one first: a death among the next steps leaves what the next one to come does again.
 *   Who waits sleeps on the beacons of those it waits for: one of them who dies on its way, or after it has arrived and
 *   before it woke the others, wakes them by that.
 *   A member is named by its whole generation, for its word may stand there long after its slot was given to others.
 */
#include "sync/barrier.h"

#include <errno.h>
#include <limits.h>

#include "os/clock.h"

#define KIND 8u
#define SHRINK 1u /* a flag of the object's head */

/* ---- opening ---- */

int pshm_barrier_init(pshm_barrier *barrier, pshm_arena *arena, const char *name, size_t length, bool create,
                      uint64_t parties, pshm_on_death on_death, bool *created)
{
    *barrier = (pshm_barrier){.object = {.kind = KIND}};
    if (parties > PSHM_PARTIES_MAX)
        return PSHM_ETOOMANY;
    const pshm_barrier_body first = {.parties = (uint32_t)parties};
    const pshm_wish wish = {.name = name,
                            .name_size = length,
                            .kind = KIND,
                            .create = create && parties,
                            .flags = on_death == PSHM_ON_DEATH_SHRINK ? SHRINK : 0,
                            .body = &first,
                            .body_prefix = sizeof first,
                            .body_size = sizeof(pshm_barrier_body) + parties * sizeof(uint64_t),
                            .body_least = sizeof(pshm_barrier_body)};
    uint32_t flags;
    int rc = pshm_object_open(&barrier->object, arena, &wish, &flags, created);
    if (rc)
        return rc == PSHM_ENONAME && create && !parties ? PSHM_ENOCOUNT : rc;
    barrier->parties = pshm_peek(&pshm_barrier_body_of(barrier)->parties);
    barrier->on_death = flags & SHRINK ? PSHM_ON_DEATH_SHRINK : PSHM_ON_DEATH_BREAK;
    uint64_t room = (barrier->object.body_size - sizeof(pshm_barrier_body)) / sizeof(uint64_t);
    if (!barrier->parties || barrier->parties > PSHM_PARTIES_MAX || barrier->parties > room)
        rc = PSHM_ECORRUPT;
    else if ((parties && barrier->parties != parties) ||
             (on_death != PSHM_ON_DEATH_UNSET && barrier->on_death != on_death))
        rc = PSHM_EPARAMETER;
    if (rc)
        pshm_barrier_fini(barrier);
    return rc;
}

void pshm_barrier_fini(pshm_barrier *barrier)
{
    pshm_object_fini(&barrier->object);
}

const char *pshm_on_death_name(pshm_on_death on_death)
{
    static const char *const names[] = {
#define X(name, text) text,
        PSHM_ON_DEATH_MAP(X)
#undef X
    };
    return on_death >= 0 && on_death < PSHM_ON_DEATHS ? names[on_death] : NULL;
}

/* ---- members ---- */

uint64_t pshm_barrier_self(const pshm_member *m)
{
    uint64_t generation = pshm_load(&m->slot->stamp) >> PSHM_GENERATION_SHIFT;
    return (m->index + 1) | (generation << PSHM_MEMBER_GENERATION_SHIFT & PSHM_MEMBER_GENERATION);
}

static uint64_t arrival(uint32_t phase)
{
    return PSHM_MEMBER_ARRIVED | ((uint64_t)phase << PSHM_MEMBER_PHASE_SHIFT & ~PSHM_MEMBER_ARRIVED);
}

bool pshm_barrier_is_dead(const pshm_attachment *a, uint64_t entry)
{
    uint32_t index = (uint32_t)(entry & PSHM_ID_SLOT) - 1;
    if (index >= a->at.participants)
        return true;
    uint64_t generation = pshm_load(&pshm_slot_at(a, index)->stamp) >> PSHM_GENERATION_SHIFT;
    return generation != (entry & PSHM_MEMBER_GENERATION) >> PSHM_MEMBER_GENERATION_SHIFT ||
           pshm_id_is_dead(a, pshm_barrier_id_of(entry));
}

void pshm_barrier_look(const pshm_barrier *barrier, const pshm_member *m, uint32_t phase, pshm_barrier_survey *out)
{
    pshm_barrier_body *b = pshm_barrier_body_of(barrier);
    const uint64_t me = m ? pshm_barrier_self(m) : 0;
    *out = (pshm_barrier_survey){0};
    for (uint32_t i = 0; i < barrier->parties; i++) {
        uint64_t *at = &b->members[i], entry = pshm_load(at);
        if (!(entry & PSHM_ID_SLOT)) {
            out->open = out->open ? out->open : at;
            continue;
        }
        bool arrived = pshm_barrier_has_arrived(entry, phase);
        if ((entry & PSHM_MEMBER) == me) {
            out->mine = at;
            out->arrived += arrived;
        } else if (pshm_barrier_is_dead(barrier->object.arena->attachment, entry)) {
            out->dead = at;
            out->gone++;
            out->missed += arrived;
        } else {
            out->others++;
            out->arrived += arrived;
        }
    }
}

static void wake_all(const pshm_barrier_body *b)
{
    pshm_os_futex_wake(pshm_barrier_futex(b), INT_MAX);
}

void pshm_barrier_break(pshm_barrier_body *b, uint64_t state)
{
    if (pshm_cas(&b->state, &state, state | PSHM_BARRIER_BROKEN))
        wake_all(b);
}

int pshm_barrier_settle(const pshm_barrier *barrier, uint64_t state, const pshm_barrier_survey *seen)
{
    pshm_barrier_body *b = pshm_barrier_body_of(barrier);
    if (seen->gone && barrier->on_death == PSHM_ON_DEATH_BREAK) {
        pshm_barrier_break(b, state);
        return PSHM_EBROKEN;
    }
    if (seen->arrived && seen->arrived + seen->gone >= barrier->parties &&
        pshm_cas(&b->state, &state, pshm_barrier_next(state, true)))
        wake_all(b);
    return 0;
}

static int enter_guard(const pshm_barrier *barrier, pshm_member **m)
{
    bool repair;
    int rc = pshm_object_enter(&barrier->object, m);
    if (rc)
        return rc;
    pshm_barrier_body *b = pshm_barrier_body_of(barrier);
    rc = pshm_owner_enter(*m, &b->guard, &repair);
    if (rc)
        pshm_object_leave(*m);
    else if (repair)
        pshm_owner_repaired(&b->guard);
    return rc;
}

static int leave_guard(const pshm_barrier *barrier, pshm_member *m, int rc)
{
    int given = pshm_owner_give(m, &pshm_barrier_body_of(barrier)->guard);
    pshm_object_leave(m);
    return rc ? rc : given;
}

/* The first of a new group: what the old one left is forgotten. */
static void forget(const pshm_barrier *barrier, uint64_t *state)
{
    pshm_barrier_body *b = pshm_barrier_body_of(barrier);
    uint64_t fresh = pshm_barrier_next(*state, false);
    if (pshm_cas(&b->state, state, fresh)) /* or else it was aborted just now, by who lives */
        *state = fresh;
    for (uint32_t i = 0; i < barrier->parties; i++)
        pshm_store(&b->members[i], 0);
}

/* Under the guard: has an entry after this, and *state and *seen are what holds then. */
static int join(const pshm_barrier *barrier, const pshm_member *m, uint64_t *state, pshm_barrier_survey *seen)
{
    pshm_barrier_body *b = pshm_barrier_body_of(barrier);
    *state = pshm_load(&b->state);
    pshm_barrier_look(barrier, m, pshm_barrier_phase(*state), seen);
    if (!seen->mine && !seen->others && seen->gone) {
        forget(barrier, state);
        pshm_barrier_look(barrier, m, pshm_barrier_phase(*state), seen);
    }
    if (*state & PSHM_BARRIER_BROKEN)
        return PSHM_EBROKEN;
    if (seen->mine)
        return 0;
    if (barrier->on_death == PSHM_ON_DEATH_BREAK && seen->gone)
        return pshm_barrier_settle(barrier, *state, seen);
    uint64_t *at = seen->open ? seen->open : seen->dead;
    if (!at)
        return PSHM_EPARTIES;
    seen->gone -= at == seen->dead;
    seen->mine = at;
    pshm_store(at, pshm_barrier_self(m));
    wake_all(b); /* who waits has one more beacon to sleep on */
    return 0;
}

int pshm_barrier_join(pshm_barrier *barrier)
{
    pshm_member *m;
    uint64_t state;
    pshm_barrier_survey seen;
    int rc = enter_guard(barrier, &m);
    return rc ? rc : leave_guard(barrier, m, join(barrier, m, &state, &seen));
}

int pshm_barrier_leave(pshm_barrier *barrier)
{
    pshm_member *m;
    pshm_barrier_survey seen;
    int rc = enter_guard(barrier, &m);
    if (rc)
        return rc;
    pshm_barrier_look(barrier, m, 0, &seen);
    if (seen.mine)
        pshm_store(seen.mine, 0);
    return leave_guard(barrier, m, 0);
}

/* ---- waiting ---- */

int pshm_barrier_arrive(pshm_barrier *barrier, pshm_barrier_ticket *ticket, int64_t deadline)
{
    pshm_member *m;
    uint64_t state;
    pshm_barrier_survey seen;
    int rc = enter_guard(barrier, &m);
    if (rc == -EINTR && pshm_os_now() >= deadline) { /* somebody is stopped at the table */
        rc = pshm_barrier_abort(barrier);
        return rc ? rc : -ETIMEDOUT;
    }
    if (rc)
        return rc;
    rc = join(barrier, m, &state, &seen);
    if (!rc) {
        uint32_t phase = pshm_barrier_phase(state);
        bool again = pshm_barrier_has_arrived(pshm_peek(seen.mine), phase);
        *ticket = (pshm_barrier_ticket){.phase = phase, .index = seen.arrived + seen.missed - again};
        pshm_store(seen.mine, pshm_barrier_self(m) | arrival(phase));
        seen.arrived += !again;
        rc = pshm_barrier_settle(barrier, state, &seen);
        ticket->passed = !rc && !pshm_barrier_fate(phase, pshm_load(&pshm_barrier_body_of(barrier)->state));
    }
    return leave_guard(barrier, m, rc);
}

int pshm_barrier_withdraw(pshm_barrier *barrier, const pshm_barrier_ticket *ticket)
{
    pshm_member *m;
    pshm_barrier_survey seen;
    int rc = enter_guard(barrier, &m);
    if (rc)
        return rc;
    pshm_barrier_look(barrier, m, ticket->phase, &seen);
    if (seen.mine && pshm_barrier_phase(pshm_load(&pshm_barrier_body_of(barrier)->state)) == ticket->phase)
        pshm_store(seen.mine, pshm_barrier_self(m));
    return leave_guard(barrier, m, 0);
}

/* ---- for all ---- */

/* One CAS, which needs no guard: whoever ends a phase under it does so by one too. */
int pshm_barrier_abort(pshm_barrier *barrier)
{
    pshm_member *m;
    int rc = pshm_object_enter(&barrier->object, &m);
    if (rc)
        return rc;
    pshm_barrier_body *b = pshm_barrier_body_of(barrier);
    uint64_t state = pshm_load(&b->state);
    while (!pshm_cas(&b->state, &state, state | PSHM_BARRIER_BROKEN))
        continue;
    wake_all(b);
    pshm_object_leave(m);
    return pshm_attachment_verify(m->attachment);
}

/* Whoever arrived has not, and whoever is dead is no member, where that would break the new phase too. The phase is broken
 * before that: otherwise a death among these steps would leave those who wait without what they wait for. */
static void clear(const pshm_barrier *barrier)
{
    const pshm_attachment *a = barrier->object.arena->attachment;
    pshm_barrier_body *b = pshm_barrier_body_of(barrier);
    for (uint32_t i = 0; i < barrier->parties; i++) {
        uint64_t entry = pshm_load(&b->members[i]), next = entry & PSHM_MEMBER;
        if (barrier->on_death == PSHM_ON_DEATH_BREAK && pshm_barrier_is_dead(a, entry))
            next = 0;
        if (next != entry)
            pshm_store(&b->members[i], next);
    }
}

int pshm_barrier_reset(pshm_barrier *barrier)
{
    pshm_member *m;
    int rc = enter_guard(barrier, &m);
    if (rc)
        return rc;
    pshm_barrier_body *b = pshm_barrier_body_of(barrier);
    uint64_t state = pshm_load(&b->state);
    while (!pshm_cas(&b->state, &state, state | PSHM_BARRIER_BROKEN))
        continue;
    wake_all(b);
    clear(barrier);
    state |= PSHM_BARRIER_BROKEN;
    pshm_cas(&b->state, &state, pshm_barrier_next(state, false)); /* nobody else changes what is broken */
    return leave_guard(barrier, m, 0);
}

/* Its state, and how many have arrived in its phase. */
static int look_at(const pshm_barrier *barrier, uint64_t *state, uint32_t *arrived)
{
    bool pinned;
    pshm_barrier_survey seen;
    int rc = pshm_object_look(&barrier->object, &pinned);
    if (rc)
        return rc;
    *state = pshm_load(&pshm_barrier_body_of(barrier)->state);
    pshm_barrier_look(barrier, NULL, pshm_barrier_phase(*state), &seen);
    *arrived = seen.arrived;
    rc = pshm_object_stands(&barrier->object);
    pshm_arena_unlook(barrier->object.arena, pinned);
    return rc;
}

int pshm_barrier_waiting(pshm_barrier *barrier)
{
    uint64_t state;
    uint32_t arrived;
    int rc = look_at(barrier, &state, &arrived);
    return rc ? rc : state & PSHM_BARRIER_BROKEN ? 0 : (int)arrived;
}

int pshm_barrier_broken(pshm_barrier *barrier)
{
    uint64_t state;
    uint32_t arrived;
    int rc = look_at(barrier, &state, &arrived);
    return rc ? rc : (state & PSHM_BARRIER_BROKEN) != 0;
}
