/* SPDX-License-Identifier: MIT
 *
 * The verbs of the semaphore under the step-and-kill driver. See driver.h; not for valgrind and the sanitizers.
 */
#include <errno.h>
#include <unistd.h>

#include <polyshm/semaphore.h>

#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 8
#define START 40

static pshm_semaphore semaphore;
static bool empty; /* it begins with nothing free */

static int prepare(void)
{
    pshm_semaphore_fini(&semaphore);
    return pshm_semaphore_init(&semaphore, crash_here.arena, "semaphore", 9, true, empty ? 0 : START, NULL);
}

static int attempt(void)
{
    return pshm_semaphore_try(&semaphore);
}

static int acquire(void)
{
    return CRASH_PATIENTLY(pshm_semaphore_acquire(&semaphore, pshm_deadline(INT64_C(60000000000))));
}

static int release(void)
{
    return pshm_semaphore_release(&semaphore, 2);
}

static int release_one(void)
{
    return pshm_semaphore_release(&semaphore, 1);
}

/* One of as many as there can be. */
static int overflow(void)
{
    int rc = pshm_semaphore_release(&semaphore, (uint64_t)PSHM_SEMAPHORE_MAX);
    return rc == PSHM_ETOOMANY ? 0 : rc ? rc : -EIO;
}

/* The partner's are 100 each; and one that is taken is given back. */
static int use_beside(void)
{
    int rc = pshm_semaphore_release(&semaphore, 100);
    if (!rc)
        crash_noted->done += 100;
    if (!rc)
        rc = pshm_semaphore_try(&semaphore);
    if (!rc)
        rc = pshm_semaphore_release(&semaphore, 1);
    return rc ? crash_fail("partner: %s", pshm_error_name(rc)) : 0;
}

static const char *back_to(uint32_t value, uint32_t wanted)
{
    int rc = 0;
    for (; !rc && value > wanted; value--)
        rc = pshm_semaphore_try(&semaphore);
    if (!rc && value < wanted)
        rc = pshm_semaphore_release(&semaphore, wanted - value);
    return rc ? crash_wrong("back", rc) : NULL;
}

/* All is done or nothing, beside what the partner released. */
static const char *is_whole(const crash_facts *facts, int64_t by)
{
    uint32_t value = 0;
    int rc = pshm_semaphore_value(&semaphore, &value);
    int64_t without = (empty ? 0 : START) + crash_noted->done;
    if (rc)
        return crash_wrong("value", rc);
    if (value != without + by && (!facts->killed || value != without))
        return "the semaphore has a value that nobody gave it";
    return back_to(value, START);
}

static const char *is_taken(const crash_facts *facts)
{
    return is_whole(facts, -1);
}

static const char *is_released(const crash_facts *facts)
{
    return is_whole(facts, 2);
}

static const char *is_as_before(const crash_facts *facts)
{
    return is_whole(facts, 0);
}

/* ---- with two that sleep; and the victim may be stopped when it has not woken them yet ---- */

static int sleeper(void *context)
{
    (void)context;
    int rc;
    __atomic_add_fetch(&crash_noted->ready, 1, __ATOMIC_SEQ_CST);
    do {
        rc = pshm_semaphore_acquire(&semaphore, pshm_deadline(INT64_C(20000000)));
        if (crash_noted->go && rc == -ETIMEDOUT)
            return 0; /* it never came */
    } while (rc == -EINTR || rc == -ETIMEDOUT);
    if (!rc)
        __atomic_sub_fetch(&crash_noted->done, 1, __ATOMIC_SEQ_CST);
    return rc ? crash_fail("sleeper: %s", pshm_error_name(rc)) : 0;
}

static void have_sleepers(void)
{
    pid_t first = crash_spawn(sleeper, NULL), second = crash_spawn(sleeper, NULL);
    while (first > 0 && second > 0 && crash_noted->ready < 2)
        usleep(100);
    crash_wait_asleep(first);
    crash_wait_asleep(second);
}

/* What the sleepers took is noted in `done`, so that it is all the same who did. */
static const char *is_released_to(const crash_facts *facts)
{
    return is_whole(facts, 2);
}

static int release_beside(void)
{
    int rc = release_one();
    if (!rc)
        __atomic_add_fetch(&crash_noted->done, 1, __ATOMIC_SEQ_CST);
    return rc ? crash_fail("partner, release: %s", pshm_error_name(rc)) : 0;
}

/* The other way round: the victim waits. */
static int releaser(void *context)
{
    (void)context;
    while (!crash_noted->go)
        usleep(200);
    int rc = release_one();
    if (!rc)
        __atomic_add_fetch(&crash_noted->done, 1, __ATOMIC_SEQ_CST);
    return rc ? crash_fail("releaser: %s", pshm_error_name(rc)) : 0;
}

static void have_releaser(void)
{
    crash_spawn(releaser, NULL);
}

#define SHORT (CRASH_STATES | CRASH_EVERY | CRASH_STOP)
#define LONG (CRASH_STATES | CRASH_STOP)

static const struct {
    crash_work work;
    bool empty;
} works[] = {
    {{"semaphore: try", SHORT, .operate = attempt, .partner = use_beside, .verify = is_taken}, false},
    {{"semaphore: acquire", SHORT, .operate = acquire, .partner = use_beside, .verify = is_taken}, false},
    {{"semaphore: release", SHORT, .operate = release, .partner = use_beside, .verify = is_released}, false},
    {{"semaphore: release of too many", SHORT, .operate = overflow, .partner = use_beside, .verify = is_as_before},
     false},
    {{"semaphore: release with sleepers", LONG, .reset = have_sleepers, .operate = release, .partner = release_beside,
      .verify = is_released_to},
     true},
    {{"semaphore: acquire that waits", LONG, .reset = have_releaser, .operate = acquire, .verify = is_taken}, true},
};

int main(int argc, char **argv)
{
    (void)argc;
    crash_init(argv);
    for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
        crash_work work = works[i].work;
        work.prepare = prepare;
        empty = works[i].empty;
        crash_work_run(&work, SIZE, PARTICIPANTS);
    }
    return crash_report();
}
