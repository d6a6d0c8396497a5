/* SPDX-License-Identifier: MIT
 *
 * Conditions that are broken on purpose, one way each: the driver has to find every one of them, and the same thing done
 * right has to pass. See driver.h; not for valgrind and the sanitizers.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include <polyshm/condition.h>

#include "core/participant.h"
#include "core/waiting.h"
#include "driver_work.h"
#include "sync/mutex.h"

#define SIZE 65536

/* What is wrong. */
typedef enum fault {
    SOUND,
    NOTED_LAST,   /* who waits notes the number once the mutex is released */
    FLAG_LAST,    /* who waits says so once the mutex is released */
    DEATH_UNSEEN, /* who sleeps does not look whether somebody died with the mutex */
} fault;

static fault broken;
static pshm_condition condition;

/* As in condition.c. */
typedef struct body {
    uint32_t sequence;
    uint32_t sleepers;
} body;

static int prepare(void)
{
    pshm_mutex mutex;
    pshm_condition_fini(&condition);
    int rc = pshm_mutex_init(&mutex, crash_here.arena, "mutex", 5, true, PSHM_RECURSIVE_NO, NULL);
    if (!rc)
        rc = pshm_condition_init(&condition, crash_here.arena, "condition", 9, true, &mutex, NULL);
    pshm_mutex_fini(&mutex);
    return rc;
}

static int lock(void)
{
    pshm_death death;
    int rc = CRASH_PATIENTLY(pshm_mutex_recover(&condition.mutex, pshm_deadline(INT64_C(5000000000)), &death));
    return !rc && death.died ? pshm_mutex_consistent(&condition.mutex) : rc;
}

static int look(pshm_waiting *w, bool write, uint32_t *value)
{
    const body *b = condition.object.body;
    (void)write;
    *value = (uint32_t)w->least;
    if (__atomic_load_n(&b->sequence, __ATOMIC_SEQ_CST) != *value)
        return 0;
    return broken == DEATH_UNSEEN || !pshm_mutex_is_in_trouble(&condition.mutex);
}

static int wait_here(void)
{
    body *b = condition.object.body;
    uint32_t depth;
    pshm_death death;
    if (broken != FLAG_LAST)
        pshm_sleeps(&b->sleepers, PSHM_SLEEPS_TAKER);
    uint32_t sequence = __atomic_load_n(&b->sequence, __ATOMIC_SEQ_CST);
    int rc = pshm_mutex_let_go(&condition.mutex, 0, &depth);
    if (rc)
        return rc;
    if (broken == FLAG_LAST)
        pshm_sleeps(&b->sleepers, PSHM_SLEEPS_TAKER);
    if (broken == NOTED_LAST)
        sequence = __atomic_load_n(&b->sequence, __ATOMIC_SEQ_CST);
    pshm_waiting w = {.object = &condition.object,
                      .word = &b->sequence,
                      .sleepers = &b->sleepers,
                      .how = PSHM_SLEEPS_TAKER,
                      .look = look,
                      .least = sequence};
    for (rc = -EINTR; rc == -EINTR;)
        rc = pshm_wait_for(&w, PSHM_FOREVER);
    for (rc = rc ? rc : -EINTR; rc == -EINTR;)
        rc = pshm_mutex_recover(&condition.mutex, PSHM_FOREVER, &death);
    if (!rc && death.died)
        rc = pshm_mutex_consistent(&condition.mutex);
    return rc ? rc : pshm_mutex_release(&condition.mutex);
}

static int notify(void)
{
    body *b = condition.object.body;
    if (__atomic_load_n(&b->sleepers, __ATOMIC_SEQ_CST) & PSHM_SLEEPS) {
        __atomic_fetch_add(&b->sequence, 1, __ATOMIC_SEQ_CST);
        pshm_wake_slowly(&b->sleepers, &b->sequence, 1);
    }
    return pshm_mutex_release(&condition.mutex);
}

/* ---- who waits is stopped, and somebody notifies ---- */

static int notify_beside(void)
{
    pshm_death death;
    int rc = pshm_mutex_try(&condition.mutex, &death);
    if (rc == -EBUSY || rc == -EOWNERDEAD)
        return 0;
    if (!rc)
        rc = notify();
    crash_noted->done = !rc;
    return rc ? crash_fail("partner, notify: %s", pshm_error_name(rc)) : 0;
}

static int notifier(void *context)
{
    (void)context;
    while (!crash_noted->go)
        usleep(200);
    int rc = crash_noted->done ? 0 : lock();
    if (!rc && !crash_noted->done)
        rc = notify();
    return rc ? crash_fail("notifier: %s", pshm_error_name(rc)) : 0;
}

static void have_notifier(void)
{
    crash_spawn(notifier, NULL);
}

static const crash_work waiting = {
    .reset = have_notifier, .prepare = prepare, .set_up = lock, .operate = wait_here, .partner = notify_beside};

/* ---- who notifies dies ---- */

static int sleeper(void *context)
{
    (void)context;
    int rc = lock();
    crash_noted->ready = 1;
    if (!rc)
        rc = wait_here();
    return rc ? crash_fail("sleeper: %s", pshm_error_name(rc)) : 0;
}

static void have_sleeper(void)
{
    pid_t pid = crash_spawn(sleeper, NULL);
    while (pid > 0 && !crash_noted->ready)
        usleep(100);
    crash_wait_asleep(pid);
}

/* The death is not made good by who survives: only the sleeper may. */
static const crash_work notifying = {.reset = have_sleeper, .prepare = prepare, .set_up = lock, .operate = notify};

static const struct expectation {
    const char *name;
    fault fault;
    const crash_work *work;
    const crash_row *(*mode)(const crash_case *c);
} expectations[] = {
    {"the number noted after the release", NOTED_LAST, &waiting, crash_stop},
    {"the flag up after the release", FLAG_LAST, &waiting, crash_stop},
    {"a death that no sleeper sees", DEATH_UNSEEN, &notifying, crash_states},
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
        crash_quiet = !sound;
        crash_deadline_ms = sound ? 2000 : 600;
        work.name = sound ? "sound" : e->name;
        work.reset = NULL;
        const crash_case *c = crash_work_case(&work, SIZE, 5);
        work.reset = e->work->reset;
        broken = sound ? SOUND : e->fault;
        if (!e->mode(c)->failures == sound)
            continue;
        printf("FAILED: %s \"%s\"\n", sound ? "a fault was found where there is none, beside" : "not found:", e->name);
        wrong++;
    }
    printf("%d faults missed or invented\n", wrong);
    return wrong != 0;
}
