/* SPDX-License-Identifier: MIT
 *
 * The verbs of the barrier under the step-and-kill driver, of both policies, alone and with another who waits or comes. See
 * driver.h; not for valgrind and the sanitizers.
 */
#include <polyshm/barrier.h>

#include <errno.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 8
#define LONG INT64_C(60000000000)

static pshm_barrier barrier;
static pshm_barrier_ticket ticket;

static int prepare_as(pshm_on_death on_death)
{
    pshm_barrier_fini(&barrier);
    return pshm_barrier_init(&barrier, crash_here.arena, "barrier", 7, true, 2, on_death, NULL);
}

static int prepare_breaking(void)
{
    return prepare_as(PSHM_ON_DEATH_BREAK);
}

static int prepare_shrinking(void)
{
    return prepare_as(PSHM_ON_DEATH_SHRINK);
}

/* One that comes, breaks it, and dies: nobody else is a member of what it leaves broken. */
static int come_and_break(void *context)
{
    (void)context;
    int rc = pshm_barrier_arrive(&barrier, &ticket, PSHM_FOREVER);
    return rc ? rc : pshm_barrier_abort(&barrier);
}

static int leave_broken(int rc)
{
    int status = 1;
    pid_t pid = rc ? -1 : crash_fork(come_and_break, NULL);
    return rc ? rc : crash_wait(pid, &status, 2000) == pid && !status ? 0 : -EIO;
}

static int prepare_broken_breaking(void)
{
    return leave_broken(prepare_breaking());
}

static int prepare_broken_shrinking(void)
{
    return leave_broken(prepare_shrinking());
}

static bool breaks(void)
{
    return barrier.on_death == PSHM_ON_DEATH_BREAK;
}

/* The victim is stopped at the table: nobody gets there. */
static bool is_blocked(void)
{
    const void *guard = (const char *)barrier.object.body + 8;
    pid_t victim = crash_noted->victim;
    return victim && victim != getpid() && crash_owner_is(&crash_here, guard, victim);
}

static int pass(int64_t timeout)
{
    pshm_barrier_ticket mine;
    int64_t deadline = pshm_deadline(timeout);
    int rc;
    do
        rc = pshm_barrier_arrive(&barrier, &mine, PSHM_FOREVER);
    while (rc == -EINTR && !is_blocked());
    if (!rc)
        do
            rc = pshm_barrier_sleep(&barrier, &mine, deadline);
        while (rc == -EINTR && !is_blocked());
    return rc ? rc : (int)mine.index;
}

/* ---- what has to hold ---- */

static int companion(void *context)
{
    (void)context;
    int rc = pass(INT64_C(1500000000));
    return rc < 0 ? crash_fail("companion: %s", pshm_error_name(rc)) : rc;
}

/* Two new ones pass it together, with a number each; nobody else is a member. */
static const char *is_as_new(const crash_facts *facts)
{
    (void)facts;
    int rc, status;
    for (int i = 0; i < 2; i++) {
        pid_t pid = crash_fork(companion, NULL);
        rc = pass(INT64_C(1500000000));
        if (crash_wait(pid, &status, 2000) != pid || !WIFEXITED(status))
            return "the companion did not pass";
        if (rc < 0)
            return crash_wrong("wait", rc);
        if (rc + WEXITSTATUS(status) != 1)
            return "two have one number";
        rc = pshm_barrier_leave(&barrier);
        if (rc)
            return crash_wrong("leave", rc);
    }
    return pshm_barrier_waiting(&barrier) == 0 && pshm_barrier_broken(&barrier) == 0 ? NULL : "it is not as new";
}

/* The same once it is reset, whatever was done to it. */
static const char *is_sound(const crash_facts *facts)
{
    int rc = CRASH_PATIENTLY(pshm_barrier_reset(&barrier));
    return rc ? crash_wrong("reset", rc) : is_as_new(facts);
}

/* Who comes beside the victim: does not wait for ever, and is told of nothing that is not so. */
static int come_beside(void)
{
    int rc = pass(INT64_C(5000000));
    if (rc >= 0 || rc == -ETIMEDOUT || rc == PSHM_EBROKEN || rc == PSHM_EPARTIES || rc == -EAGAIN)
        return 0;
    if (rc == -EINTR && is_blocked())
        return 0;
    return crash_fail("partner: %s", pshm_error_name(rc));
}

/* ---- the verbs ---- */

/* What others, who came beside, may have made of it. */
static int lenient(int rc)
{
    return rc == PSHM_EBROKEN || rc == PSHM_EPARTIES ? 0 : rc;
}

static int arrive(void)
{
    return lenient(CRASH_PATIENTLY(pshm_barrier_arrive(&barrier, &ticket, PSHM_FOREVER)));
}

static int withdraw(void)
{
    return CRASH_PATIENTLY(pshm_barrier_withdraw(&barrier, &ticket));
}

static int join(void)
{
    return lenient(CRASH_PATIENTLY(pshm_barrier_join(&barrier)));
}

static int join_as_new(void)
{
    return CRASH_PATIENTLY(pshm_barrier_join(&barrier));
}

static int leave(void)
{
    return CRASH_PATIENTLY(pshm_barrier_leave(&barrier));
}

static int abort_it(void)
{
    return pshm_barrier_abort(&barrier);
}

static int reset_it(void)
{
    return CRASH_PATIENTLY(pshm_barrier_reset(&barrier));
}

static int wait_long(void)
{
    int rc = pass(LONG);
    return rc > 0 ? 0 : lenient(rc);
}

static int wait_short(void)
{
    int rc = pass(INT64_C(2000000));
    return rc > 0 || rc == -ETIMEDOUT ? 0 : lenient(rc);
}

/* ---- with another ---- */

/* What they were told. */
enum { WAITER_PASSED = 1, WAITER_BROKEN = 2, VICTIM_PASSED = 4, VICTIM_BROKEN = 8 };

static int note(int64_t what)
{
    __atomic_fetch_or(&crash_noted->done, what, __ATOMIC_SEQ_CST);
    return 0;
}

/* The last one to come, which is stopped, and the barrier is broken beside it. */
static int wait_and_note(void)
{
    int rc = pass(INT64_C(200000000));
    if (rc == -ETIMEDOUT) /* the waiter was told so, and is gone: this is the first of a new group */
        return 0;
    return rc >= 0 ? note(VICTIM_PASSED) : rc == PSHM_EBROKEN ? note(VICTIM_BROKEN) : rc;
}

static int abort_beside(void)
{
    int rc = pshm_barrier_abort(&barrier);
    return rc ? crash_fail("partner: %s", pshm_error_name(rc)) : 0;
}

/* Both have passed, or none has. */
static const char *is_one_story(const crash_facts *facts)
{
    int64_t told = crash_noted->done;
    if ((told & WAITER_PASSED && told & VICTIM_BROKEN) || (told & WAITER_BROKEN && told & VICTIM_PASSED))
        return "one has passed, and the other is told that it is broken";
    return is_sound(facts);
}

/* Waits before the victim comes: it passes, or is told that the victim is dead. */
static int waiter(void *context)
{
    pshm_barrier_ticket mine;
    (void)context;
    int rc = CRASH_PATIENTLY(pshm_barrier_arrive(&barrier, &mine, PSHM_FOREVER));
    int64_t deadline = pshm_deadline(LONG);
    crash_noted->ready = 1;
    while (!rc) {
        rc = pshm_barrier_sleep(&barrier, &mine, deadline);
        if (!rc)
            return note(WAITER_PASSED);
        /* A victim that died before it had come is nobody to the barrier. */
        if (rc == -EINTR && crash_noted->go && pshm_deadline(0) > deadline - LONG + INT64_C(150000000))
            return CRASH_PATIENTLY(pshm_barrier_abort(&barrier));
        rc = rc == -EINTR ? 0 : rc;
    }
    return rc == PSHM_EBROKEN ? note(WAITER_BROKEN) : crash_fail("waiter: %s", pshm_error_name(rc));
}

static void have_waiter(void)
{
    pid_t pid = crash_spawn(waiter, NULL);
    while (pid > 0 && !crash_noted->ready)
        usleep(100);
    crash_wait_asleep(pid);
}

/* The same who has passed once with the victim, so that both are members. */
static int waiter_again(void *context)
{
    int rc = pass(LONG);
    return rc < 0 ? crash_fail("waiter, first: %s", pshm_error_name(rc)) : waiter(context);
}

static void have_member(void)
{
    crash_spawn(waiter_again, NULL);
}

static int become_members(void)
{
    int rc = pass(LONG);
    while (!crash_noted->ready)
        usleep(100);
    return rc < 0 ? rc : 0;
}

/* Of two members one dies: the other must not wait for it. */
static int strict_waiter(void *context)
{
    (void)context;
    int rc = pass(LONG);
    crash_noted->ready = 1;
    if (rc >= 0)
        rc = pass(LONG);
    return rc >= 0 || (rc == PSHM_EBROKEN && breaks()) ? 0 : crash_fail("member: %s", pshm_error_name(rc));
}

static void have_strict_member(void)
{
    crash_spawn(strict_waiter, NULL);
}

/* Comes when the victim sleeps, or is over. */
static int comer(void *context)
{
    (void)context;
    while (!crash_noted->go)
        usleep(200);
    int rc = pass(INT64_C(200000000));
    return rc >= 0 || rc == -ETIMEDOUT || rc == PSHM_EBROKEN ? 0 : crash_fail("comer: %s", pshm_error_name(rc));
}

static void have_comer(void)
{
    crash_spawn(comer, NULL);
}

#define SHORT (CRASH_STATES | CRASH_STOP)
#define ALONE (CRASH_STATES | CRASH_EVERY | CRASH_STOP | CRASH_REPAIR)

#define WORKS(policy, prepared, prepared_broken)                                                                       \
    {                                                                                                                  \
        "barrier, " policy ": join", ALONE,         .prepare = prepared, .operate = join,                              \
        .partner = come_beside,      .repair = join},                                                                  \
        {"barrier, " policy ": join after a dead group",                                                               \
         CRASH_STATES | CRASH_EVERY | CRASH_REPAIR,                                                                    \
         .prepare = prepared_broken,                                                                                   \
         .operate = join_as_new,                                                                                       \
         .repair = join_as_new,                                                                                        \
         .verify = is_as_new},                                                                                         \
        {"barrier, " policy ": arrive", ALONE,           .prepare = prepared, .operate = arrive,                       \
         .partner = come_beside,        .repair = arrive},                                                             \
        {"barrier, " policy ": arrive as the last",                                                                    \
         SHORT,                                                                                                        \
         .prepare = prepared,                                                                                          \
         .reset = have_waiter,                                                                                         \
         .operate = arrive,                                                                                            \
         .partner = come_beside},                                                                                      \
        {"barrier, " policy ": come as the last, aborted meanwhile",                                                   \
         CRASH_STOP,                                                                                                   \
         .prepare = prepared,                                                                                          \
         .reset = have_waiter,                                                                                         \
         .operate = wait_and_note,                                                                                     \
         .partner = abort_beside,                                                                                      \
         .verify = is_one_story},                                                                                      \
        {"barrier, " policy ": arrive as a member",                                                                    \
         SHORT,                                                                                                        \
         .prepare = prepared,                                                                                          \
         .reset = have_member,                                                                                         \
         .set_up = become_members,                                                                                     \
         .operate = arrive,                                                                                            \
         .partner = come_beside},                                                                                      \
        {"barrier, " policy ": wait for a member",                                                                     \
         CRASH_STATES,                                                                                                 \
         .prepare = prepared,                                                                                          \
         .reset = have_strict_member,                                                                                  \
         .set_up = become_members,                                                                                     \
         .operate = wait_long},                                                                                        \
        {"barrier, " policy ": wait for who comes",                                                                    \
         SHORT,                                                                                                        \
         .prepare = prepared,                                                                                          \
         .reset = have_comer,                                                                                          \
         .operate = wait_short,                                                                                        \
         .partner = come_beside},                                                                                      \
        {"barrier, " policy ": wait in vain", SHORT, .prepare = prepared, .operate = wait_short,                       \
         .partner = come_beside},                                                                                      \
        {"barrier, " policy ": withdraw",                                                                              \
         SHORT | CRASH_REPAIR,                                                                                         \
         .prepare = prepared,                                                                                          \
         .set_up = arrive,                                                                                             \
         .operate = withdraw,                                                                                          \
         .partner = come_beside,                                                                                       \
         .repair = arrive},                                                                                            \
        {"barrier, " policy ": leave", SHORT | CRASH_REPAIR, .prepare = prepared, .set_up = join, .operate = leave,    \
         .partner = come_beside,       .repair = join},                                                                \
        {"barrier, " policy ": abort", SHORT, .prepare = prepared, .reset = have_waiter, .operate = abort_it},         \
    {                                                                                                                  \
        "barrier, " policy ": reset", SHORT, .prepare = prepared, .reset = have_waiter, .operate = reset_it            \
    }

static const crash_work works[] = {WORKS("break", prepare_breaking, prepare_broken_breaking),
                                   WORKS("shrink", prepare_shrinking, prepare_broken_shrinking)};

int main(int argc, char **argv)
{
    (void)argc;
    crash_init(argv);
    for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
        crash_work work = works[i];
        work.verify = work.verify ? work.verify : is_sound;
        crash_work_run(&work, SIZE, PARTICIPANTS);
    }
    return crash_report();
}
