/* SPDX-License-Identifier: MIT
 *
 * Waiting for several things at once under the step-and-kill driver: who waits is killed at each of its states, and whoever
 * changes what is waited for. The same of a notifier that the kernel has. See driver.h; not for valgrind and the
 * sanitizers.
 */
#include <polyshm/counter.h>
#include <polyshm/notifier.h>

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 8
#define MINUTE INT64_C(60000000000)

static pshm_counter counter, other;
static pshm_mutex mutex;

static int prepare(void)
{
    pshm_counter_fini(&counter);
    pshm_counter_fini(&other);
    pshm_mutex_fini(&mutex);
    int rc = pshm_counter_init(&counter, crash_here.arena, "counter", 7, true, NULL);
    if (!rc)
        rc = pshm_counter_init(&other, crash_here.arena, "other", 5, true, NULL);
    if (!rc)
        rc = pshm_mutex_init(&mutex, crash_here.arena, "mutex", 5, true, PSHM_RECURSIVE_NO, NULL);
    return rc ? rc : pshm_counter_store(&counter, 0);
}

static const pshm_waitable *all_of_them(void)
{
    static pshm_waitable all[3];
    all[0] = (pshm_waitable){.object = &other.object, .least = 1};
    all[1] = (pshm_waitable){.object = &mutex.object};
    all[2] = (pshm_waitable){.object = &counter.object, .least = 1};
    return all;
}

static int add(void)
{
    int64_t now;
    return pshm_counter_add(&counter, 1, &now);
}

static int acquire_and_release(void)
{
    pshm_death death;
    int rc = CRASH_PATIENTLY(pshm_mutex_acquire(&mutex, pshm_deadline(MINUTE), &death));
    if (rc == -EOWNERDEAD) /* a partner's */
        return 0;
    return rc ? rc : pshm_mutex_release(&mutex);
}

/* ---- helpers: they live on, whatever becomes of the victim ---- */

/* Waits for all of them, until the counter is raised or it is clear that it never will be. */
static int waiter(void *context)
{
    bool ready[3];
    size_t failed;
    (void)context;
    crash_noted->ready = 1;
    for (;;) {
        int rc = pshm_wait(all_of_them(), 3, pshm_deadline(INT64_C(20000000)), ready, &failed);
        if (rc < 0 && rc != -EINTR && rc != -ETIMEDOUT)
            return crash_fail("waiter: %s", pshm_error_name(rc));
        if ((rc > 0 && ready[2]) || crash_noted->go)
            return 0;
    }
}

static void have_waiter(void)
{
    pid_t pid = crash_spawn(waiter, NULL);
    while (pid > 0 && !crash_noted->ready)
        usleep(100);
    usleep(1000);
}

static int raiser(void *context)
{
    (void)context;
    while (!crash_noted->go)
        usleep(200);
    int rc = add();
    return rc ? crash_fail("raiser: %s", pshm_error_name(rc)) : 0;
}

/* Has the mutex, so that the victim waits for that too; and gives it back when it has raised the counter. */
static int holder(void *context)
{
    pshm_death death;
    int rc = CRASH_PATIENTLY(pshm_mutex_acquire(&mutex, pshm_deadline(MINUTE), &death));
    if (rc)
        return crash_fail("holder: %s", pshm_error_name(rc));
    crash_noted->ready = 1;
    rc = raiser(context);
    int given = pshm_mutex_release(&mutex);
    return rc || !given ? rc : crash_fail("holder, release: %s", pshm_error_name(given));
}

static void have_holder(void)
{
    pid_t pid = crash_spawn(holder, NULL);
    while (pid > 0 && !crash_noted->ready)
        usleep(100);
}

/* ---- victims ---- */

static int wait_for_all(void)
{
    bool ready[3];
    size_t failed;
    int rc = CRASH_PATIENTLY(pshm_wait(all_of_them(), 3, pshm_deadline(MINUTE), ready, &failed));
    return rc > 0 ? 0 : rc;
}

/* Some turns of an event loop, in which it may be told. */
static int be_told(void)
{
    pshm_notifier *n;
    uint64_t token;
    int rc = pshm_notifier_open(&n);
    if (rc)
        return rc;
    for (unsigned i = 0; !rc && i < 3; i++)
        rc = pshm_notifier_add(n, &all_of_them()[i], i);
    for (int i = 0; !rc && i < 3; i++) {
        struct pollfd poller = {pshm_notifier_fd(n), POLLIN, 0};
        poll(&poller, 1, 50);
        rc = pshm_notifier_take(n, &token, 1);
    }
    pshm_notifier_close(n);
    return rc > 0 ? 0 : rc;
}

/* The lock can be had, and the counter has a value that somebody gave it. */
static const char *is_whole(const crash_facts *facts)
{
    pshm_death death;
    int64_t value = -1;
    (void)facts;
    int rc = pshm_counter_load(&counter, &value);
    if (rc || value < 0 || value > 1)
        return rc ? crash_wrong("load", rc) : "the counter has a value that nobody gave it";
    rc = CRASH_PATIENTLY(pshm_mutex_recover(&mutex, pshm_deadline(MINUTE), &death));
    if (!rc && death.died)
        rc = pshm_mutex_consistent(&mutex);
    if (!rc)
        rc = pshm_mutex_release(&mutex);
    if (!rc)
        rc = pshm_counter_store(&counter, 0);
    return rc ? crash_wrong("mutex", rc) : NULL;
}

#define MODES (CRASH_STATES | CRASH_STOP)

static const crash_work works[] = {
    {"wait: for a counter and a mutex", MODES, .reset = have_holder, .operate = wait_for_all, .verify = is_whole},
    {"wait: ready at once", MODES, .operate = wait_for_all, .verify = is_whole},
    {"counter: add, several waited for", MODES, .reset = have_waiter, .operate = add, .verify = is_whole},
    {"mutex: acquire and release, several waited for", MODES, .reset = have_waiter, .operate = acquire_and_release,
     .verify = is_whole},
    {"notifier: add and take", MODES, .reset = have_holder, .operate = be_told, .verify = is_whole},
};

int main(int argc, char **argv)
{
    (void)argc;
    crash_init(argv);
    for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
        crash_work work = works[i];
        work.prepare = prepare;
        crash_work_run(&work, SIZE, PARTICIPANTS);
    }
    return crash_report();
}
