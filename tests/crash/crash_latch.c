/* SPDX-License-Identifier: MIT
 *
 * The verbs of the latch under the step-and-kill driver. See driver.h; not for valgrind and the sanitizers.
 */
#include <errno.h>
#include <unistd.h>

#include <polyshm/latch.h>

#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 8

static pshm_latch latch;
static uint32_t begin;

static int prepare(void)
{
    pshm_latch_fini(&latch);
    return pshm_latch_init(&latch, crash_here.arena, "latch", 5, true, begin, NULL);
}

static int count_down(uint64_t n)
{
    uint32_t left;
    return pshm_latch_count_down(&latch, n, &left);
}

static int count_two(void)
{
    return count_down(2);
}

static int count_all(void)
{
    return count_down(UINT64_MAX);
}

static int wait_long(void)
{
    return CRASH_PATIENTLY(pshm_latch_wait(&latch, pshm_deadline(INT64_C(60000000000))));
}

/* The partner's are three each. */
static int count_beside(void)
{
    int rc = count_down(3);
    if (!rc)
        crash_noted->done += 3;
    return rc ? crash_fail("partner: %s", pshm_error_name(rc)) : 0;
}

static const char *is_whole(const crash_facts *facts, uint32_t by)
{
    uint32_t left = 0, others = (uint32_t)crash_noted->done;
    int rc = pshm_latch_count(&latch, &left);
    if (rc)
        return crash_wrong("count", rc);
    uint32_t without = others < begin ? begin - others : 0, with = by < without ? without - by : 0;
    if (left != with && (!facts->killed || left != without))
        return "the latch has a count that nobody gave it";
    rc = pshm_latch_wait(&latch, 0);
    if (rc != (left ? -ETIMEDOUT : 0))
        return crash_wrong("wait", rc);
    rc = count_all();
    if (!rc)
        rc = pshm_latch_wait(&latch, 0);
    return rc ? crash_wrong("open", rc) : NULL;
}

static const char *is_two_less(const crash_facts *facts)
{
    return is_whole(facts, 2);
}

static const char *is_open(const crash_facts *facts)
{
    return is_whole(facts, begin);
}

/* ---- with two that sleep ---- */

static int sleeper(void *context)
{
    (void)context;
    int rc;
    __atomic_add_fetch(&crash_noted->ready, 1, __ATOMIC_SEQ_CST);
    do {
        rc = pshm_latch_wait(&latch, pshm_deadline(INT64_C(20000000)));
        if (crash_noted->go && rc == -ETIMEDOUT)
            return 0; /* it never came to 0 */
    } while (rc == -EINTR || rc == -ETIMEDOUT);
    uint32_t left = 1;
    if (!rc)
        rc = pshm_latch_count(&latch, &left);
    return rc || left ? crash_fail("sleeper: %s, %u left", pshm_error_name(rc), left) : 0;
}

static void have_sleepers(void)
{
    pid_t first = crash_spawn(sleeper, NULL), second = crash_spawn(sleeper, NULL);
    while (first > 0 && second > 0 && crash_noted->ready < 2)
        usleep(100);
    crash_wait_asleep(first);
    crash_wait_asleep(second);
}

/* The other way round: the victim waits. */
static int opener(void *context)
{
    (void)context;
    while (!crash_noted->go)
        usleep(200);
    int rc = count_all();
    return rc ? crash_fail("opener: %s", pshm_error_name(rc)) : 0;
}

static void have_opener(void)
{
    crash_spawn(opener, NULL);
}

static const char *was_opened(const crash_facts *facts)
{
    (void)facts;
    return is_whole(&(crash_facts){.killed = false}, begin);
}

#define SHORT (CRASH_STATES | CRASH_EVERY | CRASH_STOP)
#define LONG (CRASH_STATES | CRASH_STOP)

static const struct {
    uint32_t begin;
    crash_work work;
} works[] = {
    {40, {"latch: count_down", SHORT, .operate = count_two, .partner = count_beside, .verify = is_two_less}},
    {4, {"latch: count_down to 0", SHORT, .operate = count_two, .partner = count_beside, .verify = is_two_less}},
    {2, {"latch: count_down with sleepers", LONG, .reset = have_sleepers, .operate = count_two, .verify = is_two_less}},
    {4,
     {"latch: count_down beside another", LONG, .reset = have_sleepers, .operate = count_two, .partner = count_beside,
      .verify = is_two_less}},
    {9, {"latch: count_down of more", SHORT, .operate = count_all, .partner = count_beside, .verify = is_open}},
    {1, {"latch: wait", LONG, .reset = have_opener, .operate = wait_long, .verify = was_opened}},
};

int main(int argc, char **argv)
{
    (void)argc;
    crash_init(argv);
    for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
        crash_work work = works[i].work;
        work.prepare = prepare;
        begin = works[i].begin;
        crash_work_run(&work, SIZE, PARTICIPANTS);
    }
    return crash_report();
}
