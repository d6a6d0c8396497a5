/* SPDX-License-Identifier: MIT
 *
 * The verbs of once under the step-and-kill driver, with others who wait, and one that is deleted in the middle. See
 * driver.h; not for valgrind and the sanitizers.
 */
#include <polyshm/once.h>

#include <errno.h>
#include <unistd.h>

#include "core/owner.h"
#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 8
#define LONG INT64_C(60000000000)

static pshm_once once;

static int prepare(void)
{
    pshm_once_fini(&once);
    return pshm_once_init(&once, crash_here.arena, "once", 4, true, NULL);
}

/* ---- what has to hold ---- */

/* What is to be done once: counts those who came to its end and were told that it is done by that. */
static int finish(void)
{
    int rc = pshm_once_finish(&once, true);
    if (!rc)
        crash_noted->done++;
    return rc;
}

/* Whoever is stopped in the middle may be so for longer than others are patient. */
static int begin_at_last(void)
{
    const int64_t deadline = pshm_deadline(LONG);
    int rc;
    do
        rc = pshm_once_begin(&once, deadline);
    while (rc == -EINTR);
    return rc;
}

static int run(void)
{
    int rc = begin_at_last();
    return rc == 0 ? finish() : rc == 1 ? 0 : rc;
}

/* Nobody does it beside the victim. */
static int run_beside(void)
{
    int rc = -EINTR;
    for (int i = 0; i < 20 && (rc == -EINTR || rc == -ETIMEDOUT); i++)
        rc = pshm_once_begin(&once, pshm_deadline(1000000));
    if (rc == -EINTR || rc == -ETIMEDOUT)
        return crash_owner_is(&crash_here, once.object.body, crash_noted->victim)
                   ? 0
                   : crash_fail("partner: waits for nobody");
    if (rc == 0)
        rc = finish();
    return rc == 0 || rc == 1 ? 0 : crash_fail("partner: %s", pshm_error_name(rc));
}

/* It can be done, if it is not done; it is done by one alone, and the dead may have come to the end too. */
static const char *is_once(const crash_facts *facts)
{
    int done = pshm_once_done(&once);
    if (done < 0)
        return crash_wrong("done", done);
    if (!done && crash_noted->done)
        return "it was done, and is not";
    if (!done && !facts->killed)
        return "the victim has not done it";
    int rc = CRASH_PATIENTLY(pshm_once_begin(&once, pshm_deadline(LONG)));
    if (rc != done)
        return crash_wrong("begin", rc);
    if (rc == 0)
        rc = finish();
    if (rc < 0)
        return crash_wrong("finish", rc);
    if (crash_noted->done > 1)
        return "it was done twice";
    return pshm_once_done(&once) == 1 && pshm_once_begin(&once, 0) == 1 ? NULL : "done, and not done";
}

/* The same where the victim fails to do it. */
static const char *is_open(const crash_facts *facts)
{
    crash_facts lenient = *facts;
    lenient.killed = true;
    return is_once(&lenient);
}

/* ---- alone ---- */

static int begin(void)
{
    int rc = begin_at_last();
    return rc == 1 ? 0 : rc;
}

static int do_it(void)
{
    return finish();
}

static int fail(void)
{
    return pshm_once_finish(&once, false);
}

static int prepare_done(void)
{
    int rc = prepare();
    if (!rc)
        rc = pshm_once_begin(&once, 0);
    return rc ? rc : pshm_once_finish(&once, true);
}

static int die_in_the_middle(void *context)
{
    (void)context;
    _exit(pshm_once_begin(&once, 0) != 0);
}

static int prepare_dead(void)
{
    int rc = prepare(), status = 0;
    pid_t pid = crash_fork(die_in_the_middle, NULL);
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

static int waiter(void *context)
{
    (void)context;
    while (!crash_noted->ready && !crash_noted->go)
        usleep(100);
    int rc = run();
    return rc ? crash_fail("waiter: %s", pshm_error_name(rc)) : 0;
}

static void have_waiters(void)
{
    crash_spawn(waiter, NULL);
    crash_spawn(waiter, NULL);
}

static int begin_before_waiters(void)
{
    int rc = begin();
    crash_noted->ready = 1;
    until_somebody_sleeps();
    return rc;
}

static int run_when_told(bool well)
{
    int rc = begin();
    crash_noted->ready = 1;
    while (!crash_noted->go)
        usleep(200);
    if (!rc && well)
        rc = finish();
    return rc ? crash_fail("runner: %s", pshm_error_name(rc)) : 0;
}

static int runner(void *context)
{
    (void)context;
    return run_when_told(true);
}

/* Ends in the middle. */
static int mortal(void *context)
{
    (void)context;
    return run_when_told(false);
}

static void have_runner(void)
{
    crash_spawn(runner, NULL);
    while (!crash_noted->ready)
        usleep(100);
}

static void have_mortal(void)
{
    crash_spawn(mortal, NULL);
    while (!crash_noted->ready)
        usleep(100);
}

/* ---- deleted meanwhile ---- */

#define BLOCKS 8

static int delete_and_reuse(void)
{
    int rc = CRASH_PATIENTLY(pshm_arena_delete(crash_here.arena, "once", 4, NULL));
    for (unsigned i = 0; !rc && i < BLOCKS; i++)
        rc = CRASH_PATIENTLY(pshm_heap_alloc_into(crash_here.arena, pshm_heap_root(i), 128));
    return rc && rc != -EAGAIN ? crash_fail("partner, delete: %s", pshm_error_name(rc)) : 0;
}

static int begin_deleted(void)
{
    int rc = begin();
    return rc == PSHM_EDELETED ? 0 : rc;
}

/* The blocks that took its place are still zero, and can be freed. The name is there again at the end. */
static const char *is_untouched(const crash_facts *facts)
{
    (void)facts;
    pshm_once again;
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
    int rc = CRASH_PATIENTLY(pshm_once_init(&again, crash_here.arena, "once", 4, true, NULL));
    return rc ? crash_wrong("again", rc) : NULL;
}

#define SHORT (CRASH_STATES | CRASH_EVERY | CRASH_STOP)
#define LONGER (CRASH_STATES | CRASH_STOP)

static const crash_work works[] = {
    {"once: begin", SHORT, .operate = begin, .partner = run_beside, .verify = is_open},
    {"once: begin what is done", SHORT, .prepare = prepare_done, .operate = begin, .partner = run_beside},
    {"once: finish", SHORT, .set_up = begin, .operate = do_it, .partner = run_beside},
    {"once: finish, failed", SHORT, .set_up = begin, .operate = fail, .partner = run_beside, .verify = is_open},
    {"once: begin, finish", LONGER, .operate = run, .partner = run_beside},
    {"once: begin, finish after a death", SHORT | CRASH_REPAIR, .prepare = prepare_dead, .operate = run,
     .partner = run_beside, .repair = run},
    {"once: begin, another does it", LONGER, .reset = have_runner, .operate = run},
    {"once: begin, another dies", LONGER, .reset = have_mortal, .operate = run},
    {"once: finish with waiters", LONGER, .reset = have_waiters, .set_up = begin_before_waiters, .operate = do_it},
    {"once: finish, failed, with waiters", LONGER, .reset = have_waiters, .set_up = begin_before_waiters,
     .operate = fail},
    {"once: begin, deleted meanwhile", CRASH_STOP, .operate = begin_deleted, .partner = delete_and_reuse,
     .verify = is_untouched},
    {"once: finish, deleted meanwhile", CRASH_STOP, .set_up = begin, .operate = do_it, .partner = delete_and_reuse,
     .verify = is_untouched},
};

int main(int argc, char **argv)
{
    (void)argc;
    crash_init(argv);
    for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
        crash_work work = works[i];
        work.prepare = work.prepare ? work.prepare : prepare;
        work.verify = work.verify ? work.verify : is_once;
        crash_work_run(&work, SIZE, PARTICIPANTS);
    }
    return crash_report();
}
