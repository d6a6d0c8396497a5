/* SPDX-License-Identifier: MIT
 *
 * The verbs of the condition under the step-and-kill driver: who notifies dies with the mutex, who waits dies on its way in
 * or out, and conditions that are deleted under a call. See driver.h; not for valgrind and the sanitizers.
 */
#include <errno.h>
#include <unistd.h>

#include <polyshm/condition.h>

#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 8

static pshm_condition condition;
static pshm_mutex mutex;

static int prepare(void)
{
    pshm_condition_fini(&condition);
    pshm_mutex_fini(&mutex);
    int rc = pshm_mutex_init(&mutex, crash_here.arena, "mutex", 5, true, PSHM_RECURSIVE_YES, NULL);
    return rc ? rc : pshm_condition_init(&condition, crash_here.arena, "condition", 9, true, &mutex, NULL);
}

static int64_t soon(void)
{
    return pshm_deadline(INT64_C(5000000000));
}

/* Takes the mutex, whoever died with it. */
static int lock(void)
{
    pshm_death death;
    int rc = CRASH_PATIENTLY(pshm_mutex_recover(&mutex, soon(), &death));
    return !rc && death.died ? pshm_mutex_consistent(&mutex) : rc;
}

static int lock_twice(void)
{
    int rc = lock();
    return rc ? rc : lock();
}

static int unlock_twice(void)
{
    int rc = pshm_mutex_release(&mutex);
    return rc ? rc : pshm_mutex_release(&mutex);
}

/* As one that waits with a repair does. */
static int wait_here(void)
{
    pshm_condition_ticket ticket = {0};
    pshm_death death;
    int rc = -EINTR;
    while (rc == -EINTR)
        rc = pshm_condition_wait(&condition, &ticket, PSHM_FOREVER, &death);
    if (rc != -EOWNERDEAD)
        return rc;
    rc = lock();
    return rc ? rc : pshm_condition_end(&condition, &ticket, PSHM_FOREVER, &death);
}

/* Everything works, and nobody is inside. */
static const char *is_whole(const crash_facts *facts)
{
    pshm_condition_ticket ticket = {0};
    pshm_death death;
    (void)facts;
    int rc = lock_twice();
    if (!rc)
        rc = pshm_condition_begin(&condition, &ticket);
    if (!rc)
        rc = lock();
    if (!rc)
        rc = pshm_condition_notify(&condition, 1);
    if (!rc)
        rc = pshm_mutex_release(&mutex);
    if (!rc)
        rc = CRASH_PATIENTLY(pshm_condition_sleep(&condition, &ticket, soon()));
    if (!rc)
        rc = pshm_condition_end(&condition, &ticket, 0, &death);
    if (!rc)
        rc = unlock_twice();
    if (!rc && pshm_mutex_release(&mutex) != PSHM_ENOTOWNER)
        return "the mutex came back with another depth";
    return rc ? crash_wrong("in use again", rc) : NULL;
}

/* ---- who notifies dies ---- */

static int sleeper(void *context)
{
    (void)context;
    int rc = lock_twice();
    __atomic_fetch_add(&crash_noted->ready, 1, __ATOMIC_SEQ_CST);
    if (!rc)
        rc = wait_here();
    if (!rc)
        rc = unlock_twice();
    return rc ? crash_fail("sleeper: %s", pshm_error_name(rc)) : 0;
}

static void have_sleepers(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        pid_t pid = crash_spawn(sleeper, NULL);
        while (pid > 0 && crash_noted->ready <= i)
            usleep(100);
        crash_wait_asleep(pid);
    }
}

static void have_one_sleeper(void)
{
    have_sleepers(1);
}

static void have_two_sleepers(void)
{
    have_sleepers(2);
}

static int notify(void)
{
    int rc = pshm_condition_notify(&condition, 1);
    return rc ? rc : pshm_mutex_release(&mutex);
}

static int notify_all(void)
{
    int rc = pshm_condition_notify_all(&condition);
    return rc ? rc : pshm_mutex_release(&mutex);
}

static int make_good(void)
{
    int rc = lock();
    return rc ? rc : pshm_mutex_release(&mutex);
}

/* ---- who waits dies ---- */

/* Notifies if the victim is not in its way. */
static int notify_beside(void)
{
    pshm_death death;
    int rc = pshm_mutex_try(&mutex, &death);
    if (rc == -EBUSY || rc == -EOWNERDEAD)
        return 0;
    if (!rc)
        rc = pshm_condition_notify(&condition, 1);
    if (!rc)
        rc = pshm_mutex_release(&mutex);
    crash_noted->done = !rc;
    return rc ? crash_fail("partner, notify: %s", pshm_error_name(rc)) : 0;
}

/* Once the victim sleeps, or is over: nobody need notify whom the partner has. */
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

static int wait_and_go(void)
{
    int rc = wait_here();
    return rc ? rc : unlock_twice();
}

static int give_up(void)
{
    pshm_condition_ticket ticket = {0};
    pshm_death death;
    int rc = pshm_condition_wait(&condition, &ticket, 0, &death);
    return rc == -ETIMEDOUT ? unlock_twice() : rc ? rc : -EIO;
}

/* ---- made, and deleted under a call ---- */

static int make(void)
{
    pshm_condition made;
    int rc = pshm_condition_init(&made, crash_here.arena, "made", 4, true, &mutex, NULL);
    pshm_condition_fini(&made);
    return rc;
}

static const char *is_made(const crash_facts *facts)
{
    pshm_condition made;
    bool created = true;
    int rc = CRASH_PATIENTLY(pshm_condition_init(&made, crash_here.arena, "made", 4, true, &mutex, &created));
    pshm_condition_fini(&made);
    if (!rc && !facts->killed && created)
        return "what was made is gone";
    return rc ? crash_wrong("init", rc) : is_whole(facts);
}

#define BLOCKS 8

static int notify_deleted(void)
{
    int rc = pshm_condition_notify(&condition, 1);
    return rc == PSHM_EDELETED ? 0 : rc;
}

static int begin_deleted(void)
{
    pshm_condition_ticket ticket = {0};
    pshm_death death;
    int rc = pshm_condition_begin(&condition, &ticket);
    if (rc == PSHM_EDELETED)
        return 0;
    (void)pshm_condition_sleep(&condition, &ticket, 0);
    return rc ? rc : pshm_condition_end(&condition, &ticket, PSHM_FOREVER, &death);
}

static int delete_and_reuse(void)
{
    int rc = CRASH_PATIENTLY(pshm_arena_delete(crash_here.arena, "condition", 9, NULL));
    for (unsigned i = 0; !rc && i < BLOCKS; i++)
        rc = CRASH_PATIENTLY(pshm_heap_alloc_into(crash_here.arena, pshm_heap_root(i), 128));
    return rc && rc != -EAGAIN ? crash_fail("partner, delete: %s", pshm_error_name(rc)) : 0;
}

/* The blocks that took the object's place are still zero, and can be freed. The name is there again at the end. */
static const char *is_untouched(const crash_facts *facts)
{
    pshm_condition again;
    (void)facts;
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
    int rc = CRASH_PATIENTLY(pshm_condition_init(&again, crash_here.arena, "condition", 9, true, &mutex, NULL));
    pshm_condition_fini(&again);
    return rc ? crash_wrong("again", rc) : NULL;
}

#define SHORT (CRASH_STATES | CRASH_EVERY | CRASH_STOP)

static const crash_work works[] = {
    {"condition: notify", SHORT | CRASH_REPAIR, .set_up = lock, .operate = notify, .repair = make_good,
     .verify = is_whole},
    {"condition: notify one who sleeps", SHORT, .reset = have_one_sleeper, .set_up = lock, .operate = notify,
     .verify = is_whole},
    {"condition: notify_all, two sleep", CRASH_STATES | CRASH_STOP, .reset = have_two_sleepers, .set_up = lock,
     .operate = notify_all, .verify = is_whole},
    {"condition: wait", CRASH_STATES | CRASH_STOP, .reset = have_notifier, .set_up = lock_twice, .operate = wait_and_go,
     .partner = notify_beside, .verify = is_whole},
    {"condition: wait, and a timeout", SHORT, .set_up = lock_twice, .operate = give_up, .verify = is_whole},
    {"condition: make", CRASH_STATES | CRASH_STOP, .operate = make, .verify = is_made},
    {"condition: notify, deleted meanwhile", CRASH_STOP, .set_up = lock, .operate = notify_deleted,
     .partner = delete_and_reuse, .verify = is_untouched},
    {"condition: wait, deleted meanwhile", CRASH_STOP, .set_up = lock, .operate = begin_deleted,
     .partner = delete_and_reuse, .verify = is_untouched},
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
