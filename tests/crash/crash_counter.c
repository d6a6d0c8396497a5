/* SPDX-License-Identifier: MIT
 *
 * The verbs of the counter under the step-and-kill driver, and objects that are deleted under a call. See driver.h; not
 * for valgrind and the sanitizers.
 */
#include <errno.h>
#include <unistd.h>

#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 8
#define START 40

static pshm_counter counter;
static pshm_mutex mutex;

static int prepare(void)
{
    bool created;
    pshm_counter_fini(&counter);
    pshm_mutex_fini(&mutex);
    int rc = pshm_counter_init(&counter, crash_here.arena, "counter", 7, true, &created);
    if (!rc)
        rc = pshm_mutex_init(&mutex, crash_here.arena, "mutex", 5, true, PSHM_RECURSIVE_NO, &created);
    return rc ? rc : pshm_counter_store(&counter, START);
}

static int add(void)
{
    int64_t now;
    return pshm_counter_add(&counter, 2, &now);
}

static int exchange(void)
{
    int64_t previous = 0;
    int rc = pshm_counter_exchange(&counter, START + 2, &previous);
    return rc ? rc : (int)(previous % 2);
}

static int compare_exchange(void)
{
    int64_t seen = START;
    return pshm_counter_compare_exchange(&counter, &seen, START + 2);
}

static int raise_it(void)
{
    int64_t now;
    return pshm_counter_max(&counter, START + 2, &now);
}

static int lower(void)
{
    int64_t now;
    return pshm_counter_min(&counter, START - 2, &now);
}

/* The partner's are 100 each. */
static int add_beside(void)
{
    int64_t now;
    int rc = pshm_counter_add(&counter, 100, &now);
    if (!rc)
        crash_noted->done += 100;
    return rc ? crash_fail("partner, add: %s", pshm_error_name(rc)) : 0;
}

static const char *is_whole(const crash_facts *facts, int64_t before, int64_t after)
{
    int64_t value = -1;
    int rc = pshm_counter_load(&counter, &value);
    if (rc)
        return crash_wrong("load", rc);
    if (value != after && (!facts->killed || value != before))
        return "the counter has a value that nobody gave it";
    rc = pshm_counter_store(&counter, START);
    return rc ? crash_wrong("store", rc) : NULL;
}

static const char *is_added(const crash_facts *facts)
{
    int64_t others = crash_noted->done;
    return is_whole(facts, START + others, START + 2 + others);
}

/* What the victim puts there is there, or gone under what the partner added. */
static const char *is_put(const crash_facts *facts)
{
    int64_t value = -1, others = crash_noted->done;
    int rc = pshm_counter_load(&counter, &value);
    if (rc)
        return crash_wrong("load", rc);
    bool right = value == START + 2 || value == START + 2 + others || (facts->killed && value == START + others);
    return right ? NULL : "the counter has a value that nobody gave it";
}

/* It may have found another value than it expected, or one that is higher or lower already. */
static const char *is_put_or_not(const crash_facts *facts)
{
    crash_facts lenient = *facts;
    lenient.killed = true;
    return is_put(&lenient);
}

static const char *is_lowered(const crash_facts *facts)
{
    int64_t value = -1, others = crash_noted->done;
    int rc = pshm_counter_load(&counter, &value);
    if (rc)
        return crash_wrong("load", rc);
    bool right = value == START - 2 || value == START - 2 + others || (facts->killed && value == START + others);
    return right ? NULL : "the counter has a value that nobody gave it";
}

/* ---- with a sleeper ---- */

static int sleeper(void *context)
{
    (void)context;
    int rc;
    crash_noted->ready = 1;
    do {
        rc = pshm_counter_wait(&counter, START + 2, pshm_deadline(INT64_C(20000000)));
        if (crash_noted->go && rc == -ETIMEDOUT)
            return 0; /* it never came */
    } while (rc == -EINTR || rc == -ETIMEDOUT);
    return rc ? crash_fail("sleeper: %s", pshm_error_name(rc)) : 0;
}

static void have_sleeper(void)
{
    pid_t pid = crash_spawn(sleeper, NULL);
    while (pid > 0 && !crash_noted->ready)
        usleep(100);
    crash_wait_asleep(pid);
}

/* The other way round: the victim waits. */
static int raiser(void *context)
{
    (void)context;
    while (!crash_noted->go)
        usleep(200);
    int rc = add();
    return rc ? crash_fail("raiser: %s", pshm_error_name(rc)) : 0;
}

static void have_raiser(void)
{
    crash_spawn(raiser, NULL);
}

static int wait_for_raise(void)
{
    return CRASH_PATIENTLY(pshm_counter_wait(&counter, START + 2, pshm_deadline(INT64_C(60000000000))));
}

static const char *is_raised(const crash_facts *facts)
{
    (void)facts;
    return is_whole(&(crash_facts){.killed = false}, START, START + 2);
}

/* ---- deleted, and its memory given to somebody else, while a call on it is under way ---- */

static int lock(void)
{
    pshm_death death;
    int rc = pshm_mutex_try(&mutex, &death);
    if (rc == 0)
        rc = pshm_mutex_release(&mutex);
    return rc == PSHM_EDELETED ? 0 : rc;
}

static int add_to_deleted(void)
{
    int rc = add();
    return rc == PSHM_EDELETED ? 0 : rc;
}

#define BLOCKS 8

static int delete_and_reuse(const char *name, size_t length)
{
    int rc = CRASH_PATIENTLY(pshm_arena_delete(crash_here.arena, name, length, NULL));
    for (unsigned i = 0; !rc && i < BLOCKS; i++)
        rc = CRASH_PATIENTLY(pshm_heap_alloc_into(crash_here.arena, pshm_heap_root(i), 128));
    return rc && rc != -EAGAIN ? crash_fail("partner, delete: %s", pshm_error_name(rc)) : 0;
}

static int delete_counter(void)
{
    return delete_and_reuse("counter", 7);
}

static int delete_mutex(void)
{
    return delete_and_reuse("mutex", 5);
}

/* The blocks that took the object's place are still zero, and can be freed. The names are there again at the end. */
static const char *is_untouched(const crash_facts *facts)
{
    bool created;
    pshm_counter c;
    pshm_mutex m;
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
    int rc = CRASH_PATIENTLY(pshm_counter_init(&c, crash_here.arena, "counter", 7, true, &created));
    if (!rc)
        rc = CRASH_PATIENTLY(pshm_mutex_init(&m, crash_here.arena, "mutex", 5, true, PSHM_RECURSIVE_NO, &created));
    return rc ? crash_wrong("again", rc) : NULL;
}

#define SHORT (CRASH_STATES | CRASH_EVERY | CRASH_STOP)

static const crash_work works[] = {
    {"counter: add", SHORT, .operate = add, .partner = add_beside, .verify = is_added},
    {"counter: exchange", SHORT, .operate = exchange, .partner = add_beside, .verify = is_put},
    {"counter: compare_exchange", SHORT, .operate = compare_exchange, .partner = add_beside, .verify = is_put_or_not},
    {"counter: max", SHORT, .operate = raise_it, .partner = add_beside, .verify = is_put_or_not},
    {"counter: min", SHORT, .operate = lower, .partner = add_beside, .verify = is_lowered},
    {"counter: add with a sleeper", CRASH_STATES | CRASH_STOP, .reset = have_sleeper, .operate = add,
     .verify = is_added},
    {"counter: wait", CRASH_STATES | CRASH_STOP, .reset = have_raiser, .operate = wait_for_raise, .verify = is_raised},
    {"counter: add, deleted meanwhile", CRASH_STOP, .operate = add_to_deleted, .partner = delete_counter,
     .verify = is_untouched},
    {"mutex: try, deleted meanwhile", CRASH_STOP, .operate = lock, .partner = delete_mutex, .verify = is_untouched},
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
