/* SPDX-License-Identifier: MIT
 *
 * The barrier, broken on purpose, one way each: the driver has to find every one of them, and the same thing done right has
 * to pass. See driver.h; not for valgrind and the sanitizers.
 */
#include <polyshm/barrier.h>

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/owner.h"
#include "core/waiting.h"
#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 8

/* What is wrong. */
typedef enum fault {
    SOUND,
    COUNTED, /* those who have come are counted, instead of asked of the table */
    NO_WAKE, /* the death of a member is nothing to who waits */
} fault;

static fault broken;

/* As csrc/sync/barrier.h has it, with a count where it has nothing. */
typedef struct bytes {
    uint32_t word, passed;
    pshm_owner guard;
    uint32_t parties, unused;
    uint64_t count, more[3];
    uint64_t members[2];
} bytes;

static pshm_barrier barrier;

static bytes *body(void)
{
    return barrier.object.body;
}

static int prepare(void)
{
    pshm_barrier_fini(&barrier);
    return pshm_barrier_init(&barrier, crash_here.arena, "barrier", 7, true, 2, PSHM_ON_DEATH_BREAK, NULL);
}

/* One phase as it must not be: who comes is counted, and the last one lets all go. */
static int pass_counted(int64_t timeout)
{
    bytes *b = body();
    uint32_t word = pshm_load(&b->word);
    uint64_t before = __atomic_fetch_add(&b->count, 1, __ATOMIC_SEQ_CST);
    if (before % 2) {
        __atomic_fetch_add(&b->word, 2, __ATOMIC_SEQ_CST);
        pshm_os_futex_wake(&b->word, INT_MAX);
        return 1;
    }
    int64_t deadline = pshm_deadline(timeout);
    while (pshm_load(&b->word) == word)
        if (pshm_os_futex_wait(&b->word, word, deadline) == -ETIMEDOUT)
            return PSHM_EBROKEN;
    return 0;
}

static int pass(int64_t timeout)
{
    pshm_barrier_ticket ticket;
    int64_t deadline = pshm_deadline(timeout);
    if (broken == COUNTED)
        return pass_counted(timeout);
    int rc = CRASH_PATIENTLY(pshm_barrier_arrive(&barrier, &ticket, PSHM_FOREVER));
    while (!rc) {
        if (broken == NO_WAKE && !ticket.passed) {
            uint32_t word = pshm_load(&body()->word);
            if (word >> 1 == ticket.phase && !(word & 1) &&
                pshm_os_futex_wait(&body()->word, word, deadline) == -ETIMEDOUT)
                return -ETIMEDOUT;
        }
        rc = pshm_barrier_sleep(&barrier, &ticket, broken == NO_WAKE ? pshm_deadline(100000000) : deadline);
        if (rc == -EINTR)
            rc = 0;
        else if (!rc)
            return (int)ticket.index;
    }
    return rc;
}

static int companion(void *context)
{
    (void)context;
    int rc = pass(INT64_C(400000000));
    return rc < 0 ? crash_fail("companion: %s", pshm_error_name(rc)) : rc;
}

static const char *is_sound(const crash_facts *facts)
{
    (void)facts;
    int rc = CRASH_PATIENTLY(pshm_barrier_reset(&barrier)), status;
    pid_t pid = rc ? -1 : crash_fork(companion, NULL);
    if (!rc)
        rc = pass(INT64_C(400000000));
    if (crash_wait(pid, &status, 1500) != pid || !WIFEXITED(status))
        return "the companion did not pass";
    if (rc < 0)
        return crash_wrong("wait", rc);
    return rc + WEXITSTATUS(status) == 1 ? NULL : "two have one number";
}

static int wait_alone(void)
{
    int rc = pass(INT64_C(2000000));
    return rc >= 0 || rc == -ETIMEDOUT || rc == PSHM_EBROKEN ? 0 : rc;
}

static int beside(void)
{
    return 0;
}

/* Two members: one of them dies, and the other must not wait for it. */
static int member(void *context)
{
    (void)context;
    int rc = pass(INT64_C(60000000000));
    crash_noted->ready = 1;
    if (rc >= 0)
        rc = pass(INT64_C(60000000000));
    return rc >= 0 || rc == PSHM_EBROKEN ? 0 : crash_fail("member: %s", pshm_error_name(rc));
}

static void have_member(void)
{
    crash_spawn(member, NULL);
}

static int become_members(void)
{
    int rc = pass(INT64_C(60000000000));
    while (!crash_noted->ready)
        usleep(100);
    return rc < 0 ? rc : 0;
}

static int wait_together(void)
{
    int rc = pass(INT64_C(60000000000));
    return rc >= 0 || rc == PSHM_EBROKEN ? 0 : rc;
}

typedef const crash_row *crash_mode(const crash_case *c);

static const crash_work alone = {.operate = wait_alone, .partner = beside, .verify = is_sound};
static const crash_work together = {.reset = have_member,
                                    .set_up = become_members,
                                    .operate = wait_together,
                                    .verify = is_sound};

/* One fault, and the case and mode that have to find it. */
static const struct expectation {
    const char *name;
    fault fault;
    const crash_work *work;
    crash_mode *mode;
} expectations[] = {
    {"counted", COUNTED, &alone, crash_states},
    {"a death wakes nobody", NO_WAKE, &together, crash_states},
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
        crash_deadline_ms = sound ? 2000 : 1000;
        if (!e->mode(c)->failures == sound)
            continue;
        printf("FAILED: %s \"%s\"\n", sound ? "a fault was found where there is none, beside" : "not found:", e->name);
        wrong++;
    }
    printf("%d faults missed or invented\n", wrong);
    return wrong != 0;
}
