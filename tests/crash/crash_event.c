/* SPDX-License-Identifier: MIT
 *
 * The verbs of the event, of both kinds, under the step-and-kill driver. See driver.h; not for valgrind and the sanitizers.
 */
#include <errno.h>
#include <unistd.h>

#include <polyshm/event.h>

#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 8

static pshm_event event;
static pshm_automatic automatic;
static bool begins_set;

static int prepare(void)
{
    pshm_event_fini(&event);
    int rc = pshm_event_init(&event, crash_here.arena, "event", 5, true, automatic, NULL);
    return !rc && begins_set ? pshm_event_set(&event) : rc;
}

static int set(void)
{
    return pshm_event_set(&event);
}

static int clear(void)
{
    return pshm_event_clear(&event);
}

static int wait_long(void)
{
    uint32_t since = 0;
    int rc = pshm_event_since(&event, &since);
    return rc ? rc : CRASH_PATIENTLY(pshm_event_wait(&event, since, pshm_deadline(INT64_C(60000000000))));
}

/* Of one that clears itself: if it was not taken by the partner. */
static int take(void)
{
    int rc = pshm_event_wait(&event, 0, 0);
    return rc == -ETIMEDOUT ? 0 : rc;
}

/* ---- what it is then ---- */

static const char *is(int wanted, bool or_not)
{
    int rc = pshm_event_is_set(&event);
    if (rc < 0)
        return crash_wrong("is_set", rc);
    if (rc != wanted && !or_not)
        return wanted ? "it should be set" : "it should be clear";
    /* And it goes on as an event does. */
    uint32_t since = 0;
    if ((rc = pshm_event_clear(&event)) || (rc = pshm_event_since(&event, &since)))
        return crash_wrong("clear", rc);
    if ((rc = pshm_event_wait(&event, since, 0)) != -ETIMEDOUT)
        return crash_wrong("wait for one that is clear", rc);
    if ((rc = pshm_event_set(&event)) || (rc = pshm_event_wait(&event, since, 0)))
        return crash_wrong("set and wait", rc);
    return pshm_event_is_set(&event) == (automatic != PSHM_AUTOMATIC_YES) ? NULL : "it was set, and is not";
}

static const char *is_set_now(const crash_facts *facts)
{
    return is(1, facts->killed);
}

static const char *is_clear_now(const crash_facts *facts)
{
    return is(0, facts->killed);
}

static const char *is_either(const crash_facts *facts)
{
    (void)facts;
    return is(0, true);
}

static int set_and_clear_beside(void)
{
    int rc = pshm_event_set(&event);
    if (!rc)
        rc = pshm_event_clear(&event);
    return rc ? crash_fail("partner: %s", pshm_error_name(rc)) : 0;
}

/* ---- with two that sleep ---- */

static int sleeper(void *context)
{
    (void)context;
    uint32_t since = 0;
    int rc = pshm_event_since(&event, &since);
    __atomic_add_fetch(&crash_noted->ready, 1, __ATOMIC_SEQ_CST);
    if (rc)
        return crash_fail("sleeper, since: %s", pshm_error_name(rc));
    do {
        rc = pshm_event_wait(&event, since, pshm_deadline(INT64_C(20000000)));
        if (crash_noted->go && rc == -ETIMEDOUT)
            return 0; /* it never came, or another got it */
    } while (rc == -EINTR || rc == -ETIMEDOUT);
    if (!rc)
        __atomic_add_fetch(&crash_noted->done, 1, __ATOMIC_SEQ_CST);
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

/* All who slept went on, or none. */
static const char *all_went_on(const crash_facts *facts)
{
    if (crash_noted->done != (pshm_event_is_set(&event) == 1 ? 2 : 0))
        return "not all who slept went on";
    return is(1, facts->killed);
}

/* One went on, who took the set. */
static const char *one_went_on(const crash_facts *facts)
{
    int left = pshm_event_is_set(&event);
    if (left < 0)
        return crash_wrong("is_set", left);
    if (left + crash_noted->done > 1 || (!facts->killed && left + crash_noted->done != 1))
        return "not one of those who slept went on";
    return is(0, true);
}

/* Two were set, one of them by the partner, perhaps before it was taken. */
static const char *one_or_two_went_on(const crash_facts *facts)
{
    int left = pshm_event_is_set(&event);
    if (left < 0)
        return crash_wrong("is_set", left);
    if (left + crash_noted->done < (facts->victim ? 1 : 0) || left + crash_noted->done > 2)
        return "not one or two of those who slept went on";
    return is(0, true);
}

static int set_beside(void)
{
    int rc = pshm_event_set(&event);
    return rc ? crash_fail("partner, set: %s", pshm_error_name(rc)) : 0;
}

static int setter(void *context)
{
    (void)context;
    while (!crash_noted->go)
        usleep(200);
    int rc = pshm_event_set(&event);
    return rc ? crash_fail("setter: %s", pshm_error_name(rc)) : 0;
}

static void have_setter(void)
{
    crash_spawn(setter, NULL);
}

#define SHORT (CRASH_STATES | CRASH_EVERY | CRASH_STOP)
#define LONG (CRASH_STATES | CRASH_STOP)
#define MANUAL PSHM_AUTOMATIC_NO
#define AUTO PSHM_AUTOMATIC_YES

static const struct {
    pshm_automatic automatic;
    bool set;
    crash_work work;
} works[] = {
    {MANUAL, false, {"event: set", SHORT, .operate = set, .partner = set_and_clear_beside, .verify = is_either}},
    {MANUAL, false, {"event: set alone", CRASH_STATES, .operate = set, .verify = is_set_now}},
    {MANUAL, true, {"event: clear", SHORT, .operate = clear, .partner = set_and_clear_beside, .verify = is_clear_now}},
    {AUTO, true, {"event: take of auto", SHORT, .operate = take, .partner = set_beside, .verify = is_either}},
    {AUTO, true, {"event: take of auto, alone", CRASH_STATES, .operate = take, .verify = is_clear_now}},
    {MANUAL, false, {"event: set with sleepers", LONG, .reset = have_sleepers, .operate = set, .verify = all_went_on}},
    {AUTO,
     false,
     {"event: set of auto with sleepers", CRASH_STATES, .reset = have_sleepers, .operate = set, .verify = one_went_on}},
    {AUTO,
     false,
     {"event: set of auto beside another", CRASH_STOP, .reset = have_sleepers, .operate = set, .partner = set_beside,
      .verify = one_or_two_went_on}},
    {MANUAL, false, {"event: wait", LONG, .reset = have_setter, .operate = wait_long, .verify = is_set_now}},
    {AUTO, false, {"event: wait of auto", LONG, .reset = have_setter, .operate = wait_long, .verify = is_clear_now}},
};

int main(int argc, char **argv)
{
    (void)argc;
    crash_init(argv);
    for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
        crash_work work = works[i].work;
        work.prepare = prepare;
        automatic = works[i].automatic;
        begins_set = works[i].set;
        crash_work_run(&work, SIZE, PARTICIPANTS);
    }
    return crash_report();
}
