/* SPDX-License-Identifier: MIT
 *
 * Semaphores, events and latches that are broken on purpose, one way each: the driver has to find every one of them, and the
 * same thing done right has to pass. Who sleeps here has no slices, so that a wake that is missing is not made up for. See
 * driver.h; not for valgrind and the sanitizers.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include <polyshm/event.h>
#include <polyshm/latch.h>
#include <polyshm/semaphore.h>

#include "core/owner.h"
#include "core/waiting.h"
#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 8
#define START 40
#define LONG INT64_C(20000000000)

/* What is wrong. */
typedef enum fault {
    SOUND,
    ONE_BY_ONE,      /* what releases or counts several does so one after the other */
    TAKEN_FIRST,     /* who acquires takes first, and gives back what was not there */
    LOOKED_FIRST,    /* who waits looks before its flag is up */
    VALUE_SLEPT_ON,  /* who waits sleeps on the value, which may be what it was */
    FLAG_DOWN_FIRST, /* who wakes one takes the flag down before, and puts it up again after it */
    SET_FIRST,       /* who sets an event counts that afterwards */
} fault;

static fault broken;

/* docs/layout.rst */
typedef struct words {
    uint32_t sleepers, value;
} words;

static pshm_semaphore semaphore;
static pshm_event event;
static pshm_latch latch;
static uint32_t begin;

static int make_semaphore(void)
{
    pshm_semaphore_fini(&semaphore);
    return pshm_semaphore_init(&semaphore, crash_here.arena, "semaphore", 9, true, begin, NULL);
}

static int make_event(void)
{
    pshm_event_fini(&event);
    return pshm_event_init(&event, crash_here.arena, "event", 5, true, PSHM_AUTOMATIC_NO, NULL);
}

static int make_latch(void)
{
    pshm_latch_fini(&latch);
    return pshm_latch_init(&latch, crash_here.arena, "latch", 5, true, START, NULL);
}

/* ---- changing a word ---- */

static int release_two(void)
{
    if (broken != ONE_BY_ONE)
        return pshm_semaphore_release(&semaphore, 2);
    int rc = pshm_semaphore_release(&semaphore, 1);
    return rc ? rc : pshm_semaphore_release(&semaphore, 1);
}

static int count_two(void)
{
    uint32_t left;
    if (broken != ONE_BY_ONE)
        return pshm_latch_count_down(&latch, 2, &left);
    int rc = pshm_latch_count_down(&latch, 1, &left);
    return rc ? rc : pshm_latch_count_down(&latch, 1, &left);
}

/* Of one where nothing is free. */
static int attempt(void)
{
    words *w = semaphore.object.body;
    if (broken != TAKEN_FIRST) {
        int rc = pshm_semaphore_try(&semaphore);
        return rc == -EBUSY ? 0 : rc;
    }
    if ((int32_t)__atomic_fetch_sub(&w->value, 1, __ATOMIC_SEQ_CST) <= 0)
        __atomic_fetch_add(&w->value, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static const char *is_whole(const crash_facts *facts, uint32_t value, uint32_t before, uint32_t after)
{
    return value == after || (facts->killed && value == before) ? NULL : "a value that nobody gave it";
}

static const char *is_released(const crash_facts *facts)
{
    uint32_t value;
    int rc = pshm_semaphore_value(&semaphore, &value);
    return rc ? crash_wrong("value", rc) : is_whole(facts, value, begin, begin + 2);
}

static const char *is_not_taken(const crash_facts *facts)
{
    uint32_t value;
    int rc = pshm_semaphore_value(&semaphore, &value);
    return rc ? crash_wrong("value", rc) : is_whole(facts, value, begin, begin);
}

static const char *is_counted(const crash_facts *facts)
{
    uint32_t left;
    int rc = pshm_latch_count(&latch, &left);
    return rc ? crash_wrong("count", rc) : is_whole(facts, left, START, START - 2);
}

static int set(void)
{
    words *w = event.object.body; /* `value`: its state */
    if (broken != SET_FIRST)
        return pshm_event_set(&event);
    __atomic_fetch_or(&w->value, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&w->value, 2, __ATOMIC_SEQ_CST);
    return 0;
}

/* A wait that began when it had never been set. */
static int clear_what_is_set(void)
{
    if (pshm_event_is_set(&event) != 1)
        return 0;
    int rc = pshm_event_clear(&event);
    if (!rc)
        rc = pshm_event_wait(&event, 0, 0);
    return rc ? crash_fail("partner: that it was set is not known: %s", pshm_error_name(rc)) : 0;
}

/* ---- sleeping, as waiting.c does ---- */

static int take(void)
{
    int rc = pshm_semaphore_try(&semaphore);
    return rc == -EBUSY ? 1 : rc;
}

static int sleep_until_taken(void)
{
    pshm_member *m;
    words *w = semaphore.object.body;
    int rc = pshm_member_of(crash_here.arena->attachment, &m);
    if (rc)
        return rc;
    for (bool slept = false;; slept = true) {
        uint32_t raised = 0;
        if (broken != LOOKED_FIRST)
            raised = pshm_sleeps(&w->sleepers, PSHM_SLEEPS_TAKER);
        rc = take();
        if (rc != 1) {
            if (!rc && slept && pshm_load(&w->value))
                pshm_wake(&w->sleepers, &w->sleepers, 1);
            return rc;
        }
        pshm_store(&m->slot->waits, pshm_place_of(m->attachment, w));
        if (broken == LOOKED_FIRST)
            raised = pshm_sleeps(&w->sleepers, PSHM_SLEEPS_TAKER);
        if (broken == VALUE_SLEPT_ON)
            pshm_os_futex_wait(&w->value, 0, pshm_deadline(LONG));
        else
            pshm_os_futex_wait(&w->sleepers, raised, pshm_deadline(LONG));
        pshm_store(&m->slot->waits, 0);
        if (crash_noted->done)
            return 0; /* for the helpers: it is over */
    }
}

static void wake(words *w, int count)
{
    const uint32_t *word = broken == VALUE_SLEPT_ON ? &w->value : &w->sleepers;
    if (broken != FLAG_DOWN_FIRST) {
        pshm_wake(&w->sleepers, word, count);
        return;
    }
    uint32_t how = __atomic_exchange_n(&w->sleepers, 0, __ATOMIC_SEQ_CST);
    if (how && pshm_os_futex_wake(word, count) >= count)
        pshm_sleeps(&w->sleepers, PSHM_SLEEPS_TAKER);
}

static int release_one(void)
{
    words *w = semaphore.object.body;
    __atomic_add_fetch(&w->value, 1, __ATOMIC_SEQ_CST);
    wake(w, 1);
    return 0;
}

/* ---- the victim sleeps ---- */

/* Unless the partner did. */
static int releaser(void *context)
{
    (void)context;
    while (!crash_noted->go)
        usleep(200);
    return crash_noted->ready ? 0 : release_one();
}

static void have_releaser(void)
{
    crash_spawn(releaser, NULL);
}

static int release_beside(void)
{
    crash_noted->ready = 1;
    return release_one();
}

/* Afterwards the value is what it was. */
static int release_and_take_beside(void)
{
    int rc = release_one();
    return !rc && !pshm_semaphore_try(&semaphore) ? 0 : crash_fail("partner: what was released was not to be had");
}

/* ---- the victim wakes ---- */

static int sleeper(void *context)
{
    (void)context;
    broken = SOUND; /* in this process */
    return sleep_until_taken();
}

static int closer(void *context)
{
    (void)context;
    words *w = semaphore.object.body;
    while (!crash_noted->go)
        usleep(200);
    crash_noted->done = 1;
    /* Whoever sleeps, whatever the flags say. */
    __atomic_fetch_add(&w->sleepers, PSHM_SLEEPS_STEP, __ATOMIC_SEQ_CST);
    pshm_os_futex_wake(&w->sleepers, INT_MAX);
    return 0;
}

static void have_sleepers(void)
{
    pid_t all[3];
    for (int i = 0; i < 3; i++)
        all[i] = crash_spawn(sleeper, NULL);
    crash_spawn(closer, NULL);
    for (int i = 0; i < 3; i++)
        crash_wait_asleep(all[i]);
}

/* All that is released is taken by those who sleep, though one who released is stopped. */
static int all_is_taken(void)
{
    words *w = semaphore.object.body;
    release_one();
    for (int i = 0; i < 500 && pshm_load(&w->value); i++)
        usleep(1000);
    return pshm_load(&w->value) ? crash_fail("partner: what it released woke nobody") : 0;
}

/* ---- what has to be found ---- */

typedef const crash_row *crash_mode(const crash_case *c);

static const crash_work release_work = {.prepare = make_semaphore, .operate = release_two, .verify = is_released};
static const crash_work try_work = {.prepare = make_semaphore, .operate = attempt, .verify = is_not_taken};
static const crash_work count_work = {.prepare = make_latch, .operate = count_two, .verify = is_counted};
static const crash_work set_work = {.prepare = make_event, .operate = set, .partner = clear_what_is_set};
static const crash_work sleep_work = {.prepare = make_semaphore,
                                      .reset = have_releaser,
                                      .operate = sleep_until_taken,
                                      .partner = release_beside};
static const crash_work sleep_again_work = {.prepare = make_semaphore,
                                            .reset = have_releaser,
                                            .operate = sleep_until_taken,
                                            .partner = release_and_take_beside};
static const crash_work wake_work = {.prepare = make_semaphore,
                                     .reset = have_sleepers,
                                     .operate = release_one,
                                     .partner = all_is_taken};

/* One fault, and the case and mode that have to find it. */
static const struct expectation {
    const char *name;
    fault fault;
    const crash_work *work;
    uint32_t begin;
    crash_mode *mode;
} expectations[] = {
    {"released one by one", ONE_BY_ONE, &release_work, START, crash_states},
    {"counted one by one", ONE_BY_ONE, &count_work, 0, crash_states},
    {"taken before there is any", TAKEN_FIRST, &try_work, 0, crash_states},
    {"set before it is counted", SET_FIRST, &set_work, 0, crash_stop},
    {"looked before the flag is up", LOOKED_FIRST, &sleep_work, 0, crash_stop},
    {"slept on the value", VALUE_SLEPT_ON, &sleep_again_work, 0, crash_stop},
    {"flag down before the wake", FLAG_DOWN_FIRST, &wake_work, 0, crash_stop},
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
        work.name = sound ? "sound" : e->name;
        begin = e->begin;
        broken = SOUND; /* for the rehearsal */
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
