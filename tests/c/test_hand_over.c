/* SPDX-License-Identifier: MIT
 *
 * The arena's mutex is fair enough: a waiter that lost the race several times asks for it, and gets it next. What is
 * counted is turns, not time.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "helper.h"

#include <polyshm/mutex.h>

#define GREEDY 3
#define TURNS 20
#define MOST 60

static struct notes {
    volatile uint32_t stop;
    volatile uint64_t turns;   /* of the greedy, under the lock */
    volatile uint64_t since;   /* of them, since the patient one has asked */
    volatile uint64_t most;    /* of `since` */
    volatile uint64_t granted; /* how often the patient one had asked before it got the lock */
} * notes;

static pshm_arena *arena;
static pshm_mutex mutex;

static int set_up(void **state)
{
    bool created;
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    (void)state;
    options.size = 1 << 20;
    notes = mmap(NULL, sizeof *notes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset((void *)notes, 0, sizeof *notes);
    return notes == MAP_FAILED || pshm_arena_open("anon:", 5, &options, &arena) ||
           pshm_mutex_init(&mutex, arena, "m", 1, true, PSHM_RECURSIVE_NO, &created);
}

static int tear_down(void **state)
{
    (void)state;
    pshm_mutex_fini(&mutex);
    pshm_arena_close(arena);
    pshm_arena_release(arena);
    munmap(notes, sizeof *notes);
    return 0;
}

/* The half of the owner word that names who has asked; layout.rst, "Owner words". */
static uint32_t asks(void)
{
    return (uint32_t)(__atomic_load_n((uint64_t *)mutex.object.body, __ATOMIC_ACQUIRE) >> 32);
}

static void take(void)
{
    pshm_death death;
    int rc = pshm_mutex_try(&mutex, &death);
    while (rc == -EBUSY || rc == -EINTR)
        rc = pshm_mutex_acquire(&mutex, PSHM_FOREVER, &death);
    if (rc)
        _exit(3);
}

/* Takes it again as soon as it has let go: whoever sleeps has no chance of its own. */
static void be_greedy(void)
{
    while (!notes->stop) {
        take();
        notes->turns++;
        for (volatile int i = 0; i < 200; i++)
            continue;
        if (asks()) {
            if (++notes->since > notes->most)
                notes->most = notes->since;
        }
        if (pshm_mutex_release(&mutex))
            _exit(4);
    }
    _exit(0);
}

static void be_patient(void)
{
    const struct timespec pause = {0, 200000};
    for (int i = 0; i < TURNS; i++) {
        take();
        notes->since = 0;
        if (pshm_mutex_release(&mutex))
            _exit(4);
        nanosleep(&pause, NULL);
    }
    _exit(0);
}

static pid_t start(void (*part)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        part();
    }
    return pid;
}

static void expect_end(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void test_a_few_turns_at_the_most(void **state)
{
    pid_t greedy[GREEDY];
    (void)state;
    if (helper_valgrind_lacks("processes that run at the same time"))
        return;
    for (int i = 0; i < GREEDY; i++)
        greedy[i] = start(be_greedy);
    expect_end(start(be_patient));
    notes->stop = 1;
    for (int i = 0; i < GREEDY; i++)
        expect_end(greedy[i]);
    assert_true(notes->most <= MOST);
}

/* Waits for the lock once, and says so. */
static void wait_once(void)
{
    const struct sched_param none = {.sched_priority = 0};
    sched_setscheduler(0, SCHED_BATCH, &none); /* who wakes it goes on running */
    take();
    notes->since = 1;
    _exit(pshm_mutex_release(&mutex) ? 4 : 0);
}

/* The same without chance: one takes the lock back before the other is awake, until that one asks. */
static void test_who_asks_is_next(void **state)
{
    (void)state;
    cpu_set_t before, one;
    /* On one processor, so that who is woken is not there at once. */
    sched_getaffinity(0, sizeof before, &before);
    CPU_ZERO(&one);
    CPU_SET((unsigned)sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    for (int round = 0;; round++) {
        pshm_death death;
        assert_true(round < 1000);
        notes->since = 0;
        take();
        pid_t waiter = start(wait_once);
        bool ours = true;
        while (ours && !asks()) {
            helper_until_asleep(waiter);
            if (asks())
                break;
            assert_int_equal(pshm_mutex_release(&mutex), 0);
            ours = pshm_mutex_try(&mutex, &death) == 0;
            if (ours && notes->since) { /* it has come and gone in between */
                assert_int_equal(pshm_mutex_release(&mutex), 0);
                ours = false;
            }
        }
        if (!ours) { /* it was awake in time, and has had no need to ask */
            expect_end(waiter);
            continue;
        }
        assert_int_equal(pshm_mutex_release(&mutex), 0);
        /* Nobody may come between: it is the waiter's before it knows. */
        int rc = pshm_mutex_try(&mutex, &death);
        assert_true(rc == -EBUSY || notes->since);
        if (rc == 0)
            assert_int_equal(pshm_mutex_release(&mutex), 0);
        expect_end(waiter);
        assert_true(notes->since);
        sched_setaffinity(0, sizeof before, &before);
        return;
    }
}

/* Waits for the lock until it is killed. */
static void wait_for_ever(void)
{
    take();
    pause();
    _exit(5);
}

static void test_who_asked_and_died_is_passed_over(void **state)
{
    (void)state;
    pid_t greedy = start(be_greedy);
    for (int i = 0; i < 50; i++) {
        pid_t pid = start(wait_for_ever);
        for (int j = 0; j < 2000 && !asks(); j++)
            sched_yield();
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        assert_true(WIFSIGNALED(status));
        /* It may have had the lock by then: that is an owner's death like any other. */
        pshm_death death;
        int rc;
        do
            rc = pshm_mutex_recover(&mutex, PSHM_FOREVER, &death);
        while (rc == -EINTR);
        assert_int_equal(rc, 0);
        assert_int_equal(pshm_mutex_consistent(&mutex), 0);
        assert_int_equal(pshm_mutex_release(&mutex), 0);
        if (waitpid(greedy, &status, WNOHANG) == greedy) /* it met the death, and says so */
            greedy = start(be_greedy);
    }
    notes->stop = 1;
    kill(greedy, SIGKILL);
    waitpid(greedy, NULL, 0);
    char *report;
    size_t count;
    assert_int_equal(pshm_arena_check(arena, &report, &count), 0);
    assert_int_equal(count, 0);
    pshm_report_free(report);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_few_turns_at_the_most, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_who_asks_is_next, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_who_asked_and_died_is_passed_over, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
