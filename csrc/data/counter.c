/* SPDX-License-Identifier: MIT
 *
 * The counter: one word, and one that says whether anybody sleeps for it. A death leaves the word as the instruction did;
 * one between the change and the wake costs the sleepers a slice.
 */
#include <polyshm/counter.h>

#include <errno.h>
#include <limits.h>

#include "core/directory.h"
#include "core/owner.h"
#include "os/clock.h"
#include "os/futex.h"

#define KIND 2u
/* How often one looks that may not write, and so cannot ask to be woken. */
#define LOOK INT64_C(2000000)

typedef struct body {
    uint64_t value;    /* two's complement; its first half is what is slept on */
    uint32_t sleepers; /* not 0: somebody may sleep */
    uint32_t unused[13];
} body;

_Static_assert(sizeof(body) == 64, "layout");

static body *body_of(const pshm_counter *counter)
{
    return counter->object.body;
}

int pshm_counter_init(pshm_counter *counter, pshm_arena *arena, const char *name, size_t length, bool create,
                      bool *created)
{
    const pshm_wish wish = {
        .name = name, .name_size = length, .kind = KIND, .create = create, .body_size = sizeof(body)};
    uint32_t flags;
    *counter = (pshm_counter){.object = {.kind = KIND}};
    return pshm_object_open(&counter->object, arena, &wish, &flags, created);
}

void pshm_counter_fini(pshm_counter *counter)
{
    pshm_object_fini(&counter->object);
}

int pshm_counter_load(pshm_counter *counter, int64_t *value)
{
    bool pinned;
    int rc = pshm_object_look(&counter->object, &pinned);
    if (PSHM_UNLIKELY(rc))
        return rc;
    *value = (int64_t)__atomic_load_n(&body_of(counter)->value, __ATOMIC_SEQ_CST);
    rc = pshm_object_stands(&counter->object);
    pshm_arena_unlook(counter->object.arena, pinned);
    return rc;
}

/* The value was changed: wakes who waits, and ends the call. */
static inline int done(pshm_member *m, body *b)
{
    if (PSHM_UNLIKELY(pshm_peek(&b->sleepers))) {
        pshm_store(&b->sleepers, 0);
        pshm_os_futex_wake((const uint32_t *)(const void *)&b->value, INT_MAX);
    }
    pshm_object_leave(m);
    return pshm_attachment_verify(m->attachment);
}

int pshm_counter_add(pshm_counter *counter, int64_t by, int64_t *now)
{
    pshm_member *m;
    int rc = pshm_object_enter(&counter->object, &m);
    if (PSHM_UNLIKELY(rc))
        return rc;
    body *b = body_of(counter);
    *now = (int64_t)__atomic_add_fetch(&b->value, (uint64_t)by, __ATOMIC_SEQ_CST);
    return done(m, b);
}

int pshm_counter_exchange(pshm_counter *counter, int64_t value, int64_t *previous)
{
    pshm_member *m;
    int rc = pshm_object_enter(&counter->object, &m);
    if (rc)
        return rc;
    body *b = body_of(counter);
    *previous = (int64_t)__atomic_exchange_n(&b->value, (uint64_t)value, __ATOMIC_SEQ_CST);
    return done(m, b);
}

int pshm_counter_store(pshm_counter *counter, int64_t value)
{
    int64_t previous;
    return pshm_counter_exchange(counter, value, &previous);
}

int pshm_counter_compare_exchange(pshm_counter *counter, int64_t *expected, int64_t desired)
{
    pshm_member *m;
    int rc = pshm_object_enter(&counter->object, &m);
    if (rc)
        return rc;
    body *b = body_of(counter);
    uint64_t found = (uint64_t)*expected;
    __atomic_compare_exchange_n(&b->value, &found, (uint64_t)desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    *expected = (int64_t)found;
    return done(m, b);
}

/* Sets the value to the larger (`sign` 1) or smaller (-1) of what it is and `value`. */
static int limit(pshm_counter *counter, int64_t value, bool larger, int64_t *now)
{
    pshm_member *m;
    int rc = pshm_object_enter(&counter->object, &m);
    if (rc)
        return rc;
    body *b = body_of(counter);
    uint64_t found = __atomic_load_n(&b->value, __ATOMIC_SEQ_CST);
    while ((larger ? (int64_t)found < value : (int64_t)found > value) &&
           !__atomic_compare_exchange_n(&b->value, &found, (uint64_t)value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        continue;
    bool changed = larger ? (int64_t)found < value : (int64_t)found > value;
    *now = changed ? value : (int64_t)found;
    return done(m, b);
}

int pshm_counter_max(pshm_counter *counter, int64_t value, int64_t *now)
{
    return limit(counter, value, true, now);
}

int pshm_counter_min(pshm_counter *counter, int64_t value, int64_t *now)
{
    return limit(counter, value, false, now);
}

/* 0: it is; 1: not yet; else an error. A member keeps the mapping itself: pshm_counter_load, where it finds the arena closed
 * by another thread, would end the membership under the wait. */
static int look(pshm_counter *counter, const pshm_member *m, int64_t least, uint64_t *found)
{
    int64_t value = 0;
    int rc;
    if (m) {
        value = (int64_t)__atomic_load_n(&body_of(counter)->value, __ATOMIC_SEQ_CST);
        rc = counter->object.arena->closed ? PSHM_ECLOSED : pshm_object_stands(&counter->object);
    } else {
        rc = pshm_counter_load(counter, &value);
    }
    *found = (uint64_t)value;
    return rc ? rc : value < least;
}

/* Sleeps until the value changes. The flag goes up before the last look, and whoever changes the value looks at the flag
 * after that: so one of the two sees the other. */
static int sleep_on(pshm_counter *counter, pshm_member *m, int64_t least, int64_t until)
{
    body *b = body_of(counter);
    uint64_t found;
    __atomic_store_n(&b->sleepers, 1, __ATOMIC_SEQ_CST);
    int rc = look(counter, m, least, &found);
    if (rc != 1)
        return rc;
    pshm_store(&m->slot->waits, pshm_place_of(m->attachment, b));
    rc = pshm_os_futex_wait((const uint32_t *)(const void *)&b->value, (uint32_t)found, until);
    pshm_store(&m->slot->waits, 0);
    return rc == -EINTR ? rc : 1;
}

static int wait_as(pshm_counter *counter, pshm_member *m, int64_t least, int64_t deadline)
{
    uint64_t found;
    int64_t now = pshm_os_now(), slice = now + PSHM_SLICE_NS;
    int rc = look(counter, m, least, &found);
    if (rc == 1 && deadline <= now)
        return -ETIMEDOUT;
    for (int i = 0; rc == 1 && i < PSHM_OS_YIELDS && pshm_os_now() < now + PSHM_OS_YIELDS_NS; i++) {
        pshm_os_yield();
        rc = look(counter, m, least, &found);
    }
    int64_t until = deadline < slice ? deadline : slice;
    while (rc == 1) {
        now = pshm_os_now();
        if (now >= until)
            return until == deadline ? -ETIMEDOUT : -EINTR;
        if (m) {
            rc = sleep_on(counter, m, least, until);
        } else {
            pshm_os_sleep_until(now + LOOK < until ? now + LOOK : until);
            rc = look(counter, m, least, &found);
        }
    }
    return rc;
}

int pshm_counter_wait(pshm_counter *counter, int64_t least, int64_t deadline)
{
    pshm_arena *arena = counter->object.arena;
    pshm_member *m = NULL;
    int rc = arena->readonly ? pshm_arena_enter(arena) : pshm_object_enter(&counter->object, &m);
    if (rc)
        return rc;
    rc = wait_as(counter, m, least, deadline);
    if (m)
        pshm_object_leave(m);
    else
        pshm_arena_leave(arena);
    return rc;
}
