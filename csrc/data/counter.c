/* SPDX-License-Identifier: MIT
 *
 * The counter: one word, and one that says whether anybody sleeps for it. A death leaves the word as the instruction did;
 * one between the change and the wake costs the sleepers a slice.
 */
#include <polyshm/counter.h>

#include <limits.h>

#include "core/waiting.h"

#define KIND 2u
typedef struct body {
    uint32_t sleepers; /* of waiting.h; what is slept on */
    uint32_t reserved;
    uint64_t value; /* two's complement */
    uint64_t unused[6];
} body;

_Static_assert(sizeof(body) == 64, "layout");

static body *body_of(const pshm_counter *counter)
{
    return counter->object.body;
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
    pshm_wake(&b->sleepers, &b->sleepers, INT_MAX);
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

int pshm_counter_sub(pshm_counter *counter, int64_t by, int64_t *now)
{
    pshm_member *m;
    int rc = pshm_object_enter(&counter->object, &m);
    if (PSHM_UNLIKELY(rc))
        return rc;
    body *b = body_of(counter);
    *now = (int64_t)__atomic_sub_fetch(&b->value, (uint64_t)by, __ATOMIC_SEQ_CST);
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

static int look(pshm_waiting *waiting, bool write, uint32_t *value)
{
    (void)write;
    const body *b = waiting->object->body;
    (void)value;
    return (int64_t)__atomic_load_n(&b->value, __ATOMIC_SEQ_CST) < waiting->least;
}

static pshm_waiting waiting_for(const pshm_object *object, int64_t least)
{
    body *b = pshm_waited_body(object);
    return (pshm_waiting){.object = object,
                          .word = &b->sleepers,
                          .sleepers = &b->sleepers,
                          .how = PSHM_SLEEPS_WATCHER,
                          .look = look,
                          .least = least};
}

int pshm_counter_wait(pshm_counter *counter, int64_t least, int64_t deadline)
{
    pshm_waiting waiting = waiting_for(&counter->object, least);
    return pshm_wait_for(&waiting, deadline);
}

static int watch(const pshm_object *object, int64_t least, pshm_watch *out)
{
    const pshm_waiting waiting = waiting_for(object, least);
    return pshm_watch_word(&waiting, out);
}

int pshm_counter_init(pshm_counter *counter, pshm_arena *arena, const char *name, size_t length, bool create,
                      bool *created)
{
    const pshm_wish wish = {
        .name = name, .name_size = length, .kind = KIND, .create = create, .body_size = sizeof(body), .watch = watch};
    uint32_t flags;
    *counter = (pshm_counter){.object = {.kind = KIND}};
    return pshm_object_open(&counter->object, arena, &wish, &flags, created);
}

void pshm_counter_fini(pshm_counter *counter)
{
    pshm_object_fini(&counter->object);
}
