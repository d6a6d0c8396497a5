/* SPDX-License-Identifier: MIT
 *
 * The verbs of permits under the step-and-kill driver, with holders and waiters, and permits that are deleted under a
 * call. See driver.h; not for valgrind and the sanitizers.
 */
#include <polyshm/permits.h>

#include <errno.h>
#include <unistd.h>

#include "core/owner.h"
#include "core/waiting.h"
#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 8
#define TOTAL 3
#define LONG INT64_C(60000000000)

static pshm_permits permits;

static int prepare(void)
{
    pshm_permits_fini(&permits);
    return pshm_permits_init(&permits, crash_here.arena, "permits", 7, true, TOTAL, NULL);
}

/* ---- what has to hold ---- */

static const pshm_owner *guard(void)
{
    return (const pshm_owner *)(const void *)((const char *)permits.object.body + 8);
}

/* From the bytes alone: what the marks of the living say together. */
static uint32_t marked(void)
{
    pshm_attachment *a = crash_here.arena->attachment;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < PARTICIPANTS; i++) {
        const pshm_slot *slot = pshm_slot_at(a, i);
        if (pshm_id_is_dead(a, pshm_id_of(i, pshm_load(&slot->stamp) >> PSHM_GENERATION_SHIFT)))
            continue;
        for (uint32_t k = 0; k < PSHM_HELD; k++) {
            uint64_t held = pshm_load(&slot->held[k]);
            sum += (held & PSHM_HELD_PLACE) == permits.place ? (uint32_t)(held >> PSHM_HELD_DEPTH_SHIFT) : 0;
        }
    }
    return sum;
}

/* Takes what can be had beside the victim: never what it has. */
static int take_beside(void)
{
    for (int64_t n = TOTAL; n; n--) {
        int rc = pshm_permits_acquire(&permits, n, pshm_deadline(1000000));
        if (rc == -ETIMEDOUT)
            continue;
        if (rc == -EINTR && crash_owner_is(&crash_here, guard(), crash_noted->victim))
            return 0; /* it is stopped in the guard */
        if (rc == -EINTR && ++n)
            continue;
        if (rc)
            return crash_fail("partner, acquire: %s", pshm_error_name(rc));
        uint32_t sum = marked();
        if (sum > TOTAL)
            return crash_fail("partner: %u permits were given, of %d", sum, TOTAL);
        rc = pshm_permits_release(&permits, n);
        return rc ? crash_fail("partner, release: %s", pshm_error_name(rc)) : 0;
    }
    return 0;
}

/* Whoever had some is dead: they can be had, all of them. */
static const char *is_whole(const crash_facts *facts)
{
    (void)facts;
    uint32_t count = 0;
    int rc = pshm_permits_available(&permits, &count);
    if (rc || count != TOTAL)
        return rc ? crash_wrong("available", rc) : "permits are missing";
    for (int i = 0; i < 2; i++) {
        rc = i ? pshm_permits_try(&permits, TOTAL) : CRASH_PATIENTLY(pshm_permits_acquire(&permits, TOTAL, 0));
        if (rc)
            return crash_wrong("all that there are", rc);
        rc = pshm_permits_try(&permits, 1);
        if (rc != -EBUSY)
            return crash_wrong("one more than there are", rc);
        rc = pshm_permits_release(&permits, TOTAL);
        if (rc)
            return crash_wrong("release", rc);
    }
    return pshm_load(&guard()->word) || pshm_load(&guard()->died) ? "the guard is not free" : NULL;
}

/* ---- alone ---- */

static int try_two(void)
{
    int rc = pshm_permits_try(&permits, 2);
    return rc == -EBUSY ? 0 : rc; /* a partner may have them */
}

/* Whoever is stopped in the middle may be so for longer than others are patient. */
static int take_two(void)
{
    const int64_t deadline = pshm_deadline(LONG);
    int rc;
    do
        rc = pshm_permits_acquire(&permits, 2, deadline);
    while (rc == -EINTR);
    return rc;
}

static int give_one(void)
{
    return pshm_permits_release(&permits, 1);
}

static int give_two(void)
{
    return pshm_permits_release(&permits, 2);
}

static int take_and_give(void)
{
    int rc = take_two();
    return rc ? rc : give_two();
}

/* ---- after a death ---- */

static int die_with_two(void *context)
{
    (void)context;
    _exit(pshm_permits_try(&permits, 2) != 0);
}

static int have_dead(void)
{
    int rc = prepare(), status = 0;
    pid_t pid = crash_fork(die_with_two, NULL);
    if (crash_wait(pid, &status, 2000) != pid || status)
        return -ECHILD;
    return rc;
}

/* ---- with others ---- */

static void until_somebody_sleeps(void)
{
    for (bool asleep = false; !asleep && !crash_noted->go; usleep(100))
        for (uint32_t i = 0; i < PARTICIPANTS; i++)
            asleep |= pshm_load(&pshm_slot_at(crash_here.arena->attachment, i)->waits) != 0;
}

/* Wants what the victim has, and gets it from it or from its death. */
static int waiter(void *context)
{
    (void)context;
    while (!crash_noted->ready && !crash_noted->go)
        usleep(100);
    int rc = take_two();
    if (!rc)
        rc = pshm_permits_release(&permits, 2);
    return rc ? crash_fail("waiter: %s", pshm_error_name(rc)) : 0;
}

static void have_waiter(void)
{
    crash_spawn(waiter, NULL);
}

static int hold_before_waiter(void)
{
    int rc = take_two();
    crash_noted->ready = 1;
    until_somebody_sleeps();
    return rc;
}

static int hold_until_told(bool give)
{
    int rc = take_two();
    crash_noted->ready = 1;
    while (!crash_noted->go)
        usleep(200);
    if (!rc && give)
        rc = give_two();
    return rc ? crash_fail("holder: %s", pshm_error_name(rc)) : 0;
}

static int holder(void *context)
{
    (void)context;
    return hold_until_told(true);
}

/* Ends without giving back. */
static int mortal(void *context)
{
    (void)context;
    return hold_until_told(false);
}

static void until_ready(void)
{
    while (!crash_noted->ready)
        usleep(100);
}

static void have_holder(void)
{
    crash_spawn(holder, NULL);
    until_ready();
}

static void have_mortal(void)
{
    crash_spawn(mortal, NULL);
    until_ready();
}

/* ---- deleted, and its memory given to somebody else, while a call on it is under way ---- */

#define BLOCKS 8

static int delete_and_reuse(void)
{
    int rc = CRASH_PATIENTLY(pshm_arena_delete(crash_here.arena, "permits", 7, NULL));
    for (unsigned i = 0; !rc && i < BLOCKS; i++)
        rc = CRASH_PATIENTLY(pshm_heap_alloc_into(crash_here.arena, pshm_heap_root(i), 128));
    return rc && rc != -EAGAIN ? crash_fail("partner, delete: %s", pshm_error_name(rc)) : 0;
}

static int try_deleted(void)
{
    int rc = try_two();
    return rc == PSHM_EDELETED ? 0 : rc;
}

/* The blocks that took its place are still zero, and can be freed. The name is there again at the end. */
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

/* ---- somebody is about to sleep, for more than the victim gives back ---- */

static int about_to_sleep(void)
{
    const pshm_waitable all_of_them = {.object = &permits.object, .least = TOTAL};
    pshm_watch watch = {.count = 0};
    int rc = pshm_waitable_watch(&all_of_them, &watch);
    if (rc < 0)
        return crash_fail("partner, watch: %s", pshm_error_name(rc));
    if (!rc) {
        uint64_t place = pshm_place_of(crash_here.arena->attachment, watch.words[0].word);
        crash_noted->done = (int64_t)(place << 32 | watch.words[0].value);
    }
    return 0;
}

/* It falls asleep now, and would not be woken if the flag was taken down before. */
static const char *is_seen_asleep(const crash_facts *facts)
{
    const uint32_t *words = permits.object.body; /* sleepers: docs/layout.rst */
    uint64_t noted = (uint64_t)crash_noted->done;
    const uint32_t *word = pshm_at(crash_here.arena->attachment, noted >> 32);
    if (noted && pshm_load(word) == (uint32_t)noted && !(words[0] & PSHM_SLEEPS))
        return "somebody would sleep under a flag that is down";
    return is_whole(facts);
}

#define SHORT (CRASH_STATES | CRASH_EVERY | CRASH_STOP)
#define LONGER (CRASH_STATES | CRASH_STOP)

static const crash_work works[] = {
    {"permits: try", SHORT, .operate = try_two, .partner = take_beside},
    {"permits: release", SHORT, .set_up = take_two, .operate = give_two, .partner = take_beside},
    {"permits: release one of two", SHORT, .set_up = take_two, .operate = give_one, .partner = take_beside},
    {"permits: acquire, release", LONGER | CRASH_REPAIR, .operate = take_and_give, .partner = take_beside,
     .repair = take_and_give},
    {"permits: try after a death", SHORT | CRASH_REPAIR, .prepare = have_dead, .operate = try_two,
     .partner = take_beside, .repair = take_and_give},
    {"permits: acquire, then released", LONGER, .reset = have_holder, .operate = take_two},
    {"permits: acquire, the holder dies", LONGER, .reset = have_mortal, .operate = take_two},
    {"permits: release with a waiter", LONGER, .reset = have_waiter, .set_up = hold_before_waiter, .operate = give_two},
    {"permits: release, watched meanwhile", CRASH_STOP, .set_up = take_two, .operate = give_one,
     .partner = about_to_sleep, .verify = is_seen_asleep},
    {"permits: try, deleted meanwhile", CRASH_STOP, .operate = try_deleted, .partner = delete_and_reuse,
     .verify = is_untouched},
    {"permits: release, deleted meanwhile", CRASH_STOP, .set_up = take_two, .operate = give_two,
     .partner = delete_and_reuse, .verify = is_untouched},
};

int main(int argc, char **argv)
{
    (void)argc;
    crash_init(argv);
    for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
        crash_work work = works[i];
        work.prepare = work.prepare ? work.prepare : prepare;
        work.verify = work.verify ? work.verify : is_whole;
        crash_work_run(&work, SIZE, PARTICIPANTS);
    }
    return crash_report();
}
