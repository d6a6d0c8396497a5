/* SPDX-License-Identifier: MIT
 *
 * Permits and once, broken on purpose, one way each: the driver has to find every one of them, and the same thing done
 * right has to pass. See driver.h; not for valgrind and the sanitizers.
 */
#include <polyshm/once.h>
#include <polyshm/permits.h>

#include <errno.h>
#include <limits.h>
#include <stdio.h>

#include "core/owner.h"
#include "core/waiting.h"
#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 6
#define TOTAL 3

/* What is wrong. */
typedef enum fault {
    SOUND,
    FREE_FIRST,      /* permits: release says that they are free, without the guard, before its own mark is lower */
    NOT_COUNTED,     /* permits: who finds too few does not count what the dead had */
    UNMARKED,        /* permits: acquire leaves no mark, as a semaphore */
    FORGOTTEN_FIRST, /* permits: release forgets where they are before it has written into them for the last time */
    GIVEN_FIRST,     /* once: finish gives the word back before it says that it is done */
    DEATH_TOLD,      /* once: who comes after a death is told so, and does nothing */
} fault;

static fault broken;

/* As csrc/sync/permits.c has it. */
typedef struct permits_bytes {
    uint32_t sleepers, changes;
    pshm_owner guard;
    uint32_t total, free;
    uint64_t mark[2];
} permits_bytes;

/* As csrc/sync/once.c has it. */
typedef struct once_bytes {
    pshm_owner owner;
    uint32_t done, sleepers;
} once_bytes;

static pshm_permits permits;
static pshm_once once;

static int prepare(void)
{
    pshm_permits_fini(&permits);
    pshm_once_fini(&once);
    int rc = pshm_permits_init(&permits, crash_here.arena, "permits", 7, true, TOTAL, NULL);
    return rc ? rc : pshm_once_init(&once, crash_here.arena, "once", 4, true, NULL);
}

/* ---- permits ---- */

/* All but what the marks of the living say. */
static int64_t left(void)
{
    pshm_attachment *a = crash_here.arena->attachment;
    int64_t sum = 0;
    for (uint32_t i = 0; i < PARTICIPANTS; i++) {
        const pshm_slot *slot = pshm_slot_at(a, i);
        if (pshm_id_is_dead(a, pshm_id_of(i, pshm_load(&slot->stamp) >> PSHM_GENERATION_SHIFT)))
            continue;
        for (uint32_t k = 0; k < PSHM_HELD; k++) {
            uint64_t held = pshm_load(&slot->held[k]);
            sum += (held & PSHM_HELD_PLACE) == permits.place ? (int64_t)(held >> PSHM_HELD_DEPTH_SHIFT) : 0;
        }
    }
    return TOTAL - sum;
}

/* As pshm_permits_try. */
static int attempt(uint32_t n)
{
    permits_bytes *b = permits.object.body;
    pshm_member *m;
    bool repair;
    int rc = pshm_object_enter(&permits.object, &m);
    if (!rc)
        rc = CRASH_PATIENTLY(pshm_owner_enter(m, &b->guard, &repair));
    if (rc)
        return rc;
    if (b->free < n && broken != NOT_COUNTED)
        b->free = (uint32_t)left();
    rc = b->free < n ? -EBUSY : 0;
    if (!rc) {
        int at = pshm_member_holds(m, permits.place);
        at = at < 0 ? pshm_member_note(m, permits.place) : at;
        m->used |= 1u << at;
        uint64_t *held = &m->slot->held[at];
        pshm_store(&b->free, b->free - n);
        if (broken != UNMARKED)
            pshm_store(held, pshm_peek(held) + ((uint64_t)n << PSHM_HELD_DEPTH_SHIFT));
    }
    pshm_owner_repaired(&b->guard);
    pshm_owner_give(m, &b->guard);
    pshm_object_leave(m);
    return rc;
}

/* As pshm_permits_release, of all that it has. */
static int give_back(uint32_t n)
{
    permits_bytes *b = permits.object.body;
    pshm_member *m;
    int rc = pshm_member_of(crash_here.arena->attachment, &m), at = rc ? -1 : pshm_member_holds(m, permits.place);
    if (at < 0)
        return PSHM_ENOTOWNER;
    uint64_t *held = &m->slot->held[at];
    if (broken == FREE_FIRST)
        __atomic_add_fetch(&b->free, n, __ATOMIC_SEQ_CST);
    pshm_store(held, broken == FORGOTTEN_FIRST ? 0 : permits.place);
    __atomic_add_fetch(&b->changes, 1, __ATOMIC_SEQ_CST);
    pshm_wake(&b->sleepers, &b->sleepers, INT_MAX);
    m->used &= ~(1u << at);
    pshm_store(held, 0);
    return 0;
}

static int try_two(void)
{
    int rc = attempt(2);
    return rc == -EBUSY || rc == PSHM_EDELETED ? 0 : rc;
}

static int take_two(void)
{
    return attempt(2);
}

static int give_two(void)
{
    return give_back(2);
}

static int take_beside(void)
{
    int rc = attempt(2);
    if (rc == -EBUSY || rc == -EINTR)
        return 0;
    if (rc)
        return crash_fail("partner: %s", pshm_error_name(rc));
    return left() < 0 ? crash_fail("partner: more permits were given than there are") : 0;
}

static const char *is_whole(const crash_facts *facts)
{
    (void)facts;
    const permits_bytes *b = permits.object.body;
    int rc = attempt(TOTAL);
    if (rc)
        return crash_wrong("all that there are", rc);
    rc = attempt(1);
    if (rc != -EBUSY || left() != 0 || b->free != 0)
        return "more than there are";
    rc = give_back(TOTAL);
    return rc ? crash_wrong("release", rc) : NULL;
}

#define BLOCKS 8

static int delete_and_reuse(void)
{
    int rc = CRASH_PATIENTLY(pshm_arena_delete(crash_here.arena, "permits", 7, NULL));
    for (unsigned i = 0; !rc && i < BLOCKS; i++)
        rc = CRASH_PATIENTLY(pshm_heap_alloc_into(crash_here.arena, pshm_heap_root(i), 128));
    return rc && rc != -EAGAIN ? crash_fail("partner, delete: %s", pshm_error_name(rc)) : 0;
}

static const char *is_untouched(const crash_facts *facts)
{
    (void)facts;
    pshm_permits again;
    for (unsigned i = 0; i < BLOCKS; i++) {
        uint64_t place = 0, words[16];
        int rc = pshm_heap_read(crash_here.arena, pshm_heap_root(i), &place, sizeof place);
        if (!rc && !place)
            continue;
        if (!rc)
            rc = pshm_heap_read(crash_here.arena, place, words, sizeof words);
        for (size_t j = 0; !rc && j < sizeof words / sizeof *words; j++)
            if (words[j])
                return "a call on what was deleted wrote into somebody else's block";
        if (!rc)
            rc = CRASH_PATIENTLY(pshm_heap_free_from(crash_here.arena, pshm_heap_root(i)));
        if (rc)
            return crash_wrong("block", rc);
    }
    int rc = CRASH_PATIENTLY(pshm_permits_init(&again, crash_here.arena, "permits", 7, true, TOTAL, NULL));
    return rc ? crash_wrong("again", rc) : NULL;
}

/* ---- once ---- */

/* As pshm_once_begin. */
static int begin(int64_t timeout)
{
    once_bytes *b = once.object.body;
    pshm_member *m;
    pshm_death_of death;
    if (pshm_load(&b->done))
        return 1;
    int rc = pshm_object_enter(&once.object, &m);
    if (rc)
        return rc;
    rc = CRASH_PATIENTLY(pshm_owner_take(m, &b->owner, broken == DEATH_TOLD ? PSHM_OWNER_PLAIN : PSHM_OWNER_RECOVER,
                                         NULL, pshm_deadline(timeout), &death));
    if (rc == 0) {
        pshm_owner_repaired(&b->owner);
        rc = pshm_load(&b->done) != 0;
        if (rc)
            pshm_owner_give(m, &b->owner);
    }
    pshm_object_leave(m);
    return rc;
}

/* As pshm_once_finish. */
static int finish(void)
{
    once_bytes *b = once.object.body;
    pshm_member *m;
    int rc = pshm_member_of(crash_here.arena->attachment, &m);
    if (rc)
        return rc;
    crash_noted->done++;
    if (broken == GIVEN_FIRST)
        rc = pshm_owner_give_as(m, &b->owner, PSHM_OWNER_WAKE_ALL);
    pshm_store(&b->done, 1);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    return broken == GIVEN_FIRST ? rc : pshm_owner_give_as(m, &b->owner, PSHM_OWNER_WAKE_ALL);
}

static int run(void)
{
    int rc = begin(INT64_C(10000000000));
    return rc == 0 ? finish() : rc == 1 ? 0 : rc;
}

static int run_beside(void)
{
    int rc = begin(20000000);
    if (rc == 0)
        rc = finish();
    return rc == 0 || rc == 1 || rc == -ETIMEDOUT || rc == -EINTR ? 0 : crash_fail("partner: %s", pshm_error_name(rc));
}

static const char *is_once(const crash_facts *facts)
{
    int rc = begin(INT64_C(1000000000));
    if (rc == 0)
        rc = finish();
    if (rc < 0)
        return crash_wrong("begin, finish", rc);
    /* Who is killed may have come to the end, and not said so. */
    return crash_noted->done > 1 + facts->killed ? "it was done twice" : NULL;
}

/* ---- what has to be found ---- */

typedef const crash_row *crash_mode(const crash_case *c);

static const crash_work trying = {.operate = try_two, .partner = take_beside, .verify = is_whole};
static const crash_work giving = {.set_up = take_two, .operate = give_two, .partner = take_beside, .verify = is_whole};
static const crash_work deleting = {.set_up = take_two,
                                    .operate = give_two,
                                    .partner = delete_and_reuse,
                                    .verify = is_untouched};
static const crash_work running = {.operate = run, .partner = run_beside, .verify = is_once};

/* One fault, and the case and mode that have to find it. */
static const struct expectation {
    const char *name;
    fault fault;
    const crash_work *work;
    crash_mode *mode;
} expectations[] = {
    {"free before the mark is lower", FREE_FIRST, &giving, crash_stop},
    {"what the dead had is not counted", NOT_COUNTED, &trying, crash_states},
    {"no mark", UNMARKED, &trying, crash_states},
    {"forgotten before the last word", FORGOTTEN_FIRST, &deleting, crash_stop},
    {"given back before it is done", GIVEN_FIRST, &running, crash_stop},
    {"death told", DEATH_TOLD, &running, crash_states},
};

int main(int argc, char **argv)
{
    (void)argc;
    int wrong = 0;
    crash_init(argv);
    crash_failures_max = 3;
    for (size_t i = 0; i < 2 * sizeof expectations / sizeof *expectations; i++) {
        const struct expectation *e = &expectations[i / 2];
        bool sound = i % 2;
        crash_work work = *e->work;
        broken = SOUND; /* for the rehearsal */
        work.prepare = prepare;
        work.name = sound ? "sound" : e->name;
        const crash_case *c = crash_work_case(&work, SIZE, PARTICIPANTS);
        broken = sound ? SOUND : e->fault;
        crash_quiet = !sound;
        crash_deadline_ms = sound ? 2000 : 600;
        if (!e->mode(c)->failures == sound)
            continue;
        printf("FAILED: %s \"%s\"\n", sound ? "a fault was found where there is none, beside" : "not found:", e->name);
        wrong++;
    }
    printf("%d faults missed or invented\n", wrong);
    return wrong != 0;
}
