/* SPDX-License-Identifier: MIT
 *
 * The mutex for owners that share a thread.
 */
#include "helper_owner.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_tasks(helper_world *world)
{
    pshm_mutex *m = &world->lock;
    pshm_death death;
    assert_rc(pshm_mutex_release_task(m, 1), PSHM_ENOTOWNER);
    assert_rc(pshm_mutex_consistent_task(m, 1), PSHM_ENOTOWNER);
    assert_false(pshm_mutex_held_by_task(m, 1));
    for (int i = 0; i < 2; i++) { /* told by somebody that it may try, or not */
        assert_rc(pshm_mutex_try_task(m, 1, i, &death), 0);
        assert_true(pshm_mutex_held_by_task(m, 1));
        assert_false(pshm_mutex_held_by_task(m, 0));
        assert_rc(pshm_mutex_try_task(m, 1, i, &death), PSHM_ERELOCK);
        assert_rc(pshm_mutex_try_task(m, 2, i, &death), -EBUSY);
        assert_rc(pshm_mutex_recover_task(m, 2, i, &death), -EBUSY);
        assert_rc(pshm_mutex_try(m, &death), PSHM_ERELOCK);
        assert_rc(pshm_mutex_acquire(m, PSHM_FOREVER, &death), PSHM_ERELOCK);
        assert_rc(pshm_mutex_release(m), PSHM_ENOTOWNER);
        assert_rc(pshm_mutex_release_task(m, 2), PSHM_ENOTOWNER);
        assert_rc(pshm_mutex_consistent_task(m, 2), PSHM_ENOTOWNER);
        assert_int_equal(pshm_mutex_locked(m), 1);
        assert_rc(pshm_mutex_release_task(m, 1), 0);
        assert_false(pshm_mutex_held_by_task(m, 1));
    }
    assert_rc(pshm_mutex_try(m, &death), 0);
    assert_true(pshm_mutex_held_by_task(m, 0));
    assert_rc(pshm_mutex_try_task(m, 1, false, &death), -EBUSY);
    assert_rc(pshm_mutex_release_task(m, 1), PSHM_ENOTOWNER);
    assert_rc(pshm_mutex_release(m), 0);
}

static void test_recursive(helper_world *world)
{
    pshm_mutex m;
    pshm_death death;
    assert_rc(pshm_mutex_init(&m, world->arena, "again", 5, true, PSHM_RECURSIVE_YES, NULL), 0);
    for (int i = 0; i < 3; i++)
        assert_rc(pshm_mutex_try_task(&m, 7, false, &death), 0);
    assert_rc(pshm_mutex_try_task(&m, 8, false, &death), -EBUSY);
    assert_rc(pshm_mutex_try(&m, &death), PSHM_ERELOCK);
    for (int i = 0; i < 3; i++)
        assert_rc(pshm_mutex_release_task(&m, 7), 0);
    assert_rc(pshm_mutex_release_task(&m, 7), PSHM_ENOTOWNER);
    assert_rc(pshm_mutex_try(&m, &death), 0);
    assert_rc(pshm_mutex_release(&m), 0);
    pshm_mutex_fini(&m);
}

/* A task's death is its process's: told to whoever comes, a thread or a task, and what was its is the next one's alone. */
static void test_death(helper_world *world)
{
    pshm_mutex *m = &world->lock;
    pshm_death death;
    for (int i = 0; i < 2; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            if (pshm_mutex_try_task(m, 99, false, &death))
                _exit(1);
            raise(SIGKILL);
        }
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_rc(pshm_mutex_try_task(m, 5, false, &death), -EOWNERDEAD);
        assert_int_equal(death.pid, pid);
        if (i) {
            assert_rc(pshm_mutex_recover_task(m, 5, false, &death), 0);
            assert_true(death.died);
            assert_rc(pshm_mutex_release_task(m, 5), 0); /* the mark stays */
            assert_rc(pshm_mutex_try(m, &death), -EOWNERDEAD);
            assert_rc(pshm_mutex_recover_task(m, 5, true, &death), 0);
            assert_rc(pshm_mutex_consistent(m), PSHM_ENOTOWNER);
            assert_rc(pshm_mutex_consistent_task(m, 5), 0);
            assert_rc(pshm_mutex_release_task(m, 5), 0);
        } else {
            assert_int_equal(helper_recover(m, 3, &death), 0);
            assert_rc(pshm_mutex_release(m), 0);
        }
        assert_rc(pshm_mutex_try(m, &death), 0);
        assert_rc(pshm_mutex_release(m), 0);
    }
    helper_expect_clean(world->arena);
}

typedef struct waiter {
    pshm_mutex *lock;
    int rc;
} waiter;

static void *wait_for_it(void *context)
{
    waiter *w = context;
    pshm_death death;
    w->rc = helper_acquire(w->lock, 100, &death);
    if (!w->rc)
        w->rc = pshm_mutex_release(w->lock);
    return NULL;
}

/* Threads that sleep are woken by a task's release, also where the task was told by a watch, so that it took a wake. */
static void test_with_threads(helper_world *world)
{
    pshm_death death;
    for (int i = 0; i < 2; i++) {
        waiter w = {&world->lock, -1};
        pthread_t thread;
        assert_rc(pshm_mutex_try_task(&world->lock, 3, i, &death), 0);
        assert_int_equal(pthread_create(&thread, NULL, wait_for_it, &w), 0);
        helper_until_waits(world->arena, "lock");
        assert_rc(pshm_mutex_release_task(&world->lock, 3), 0);
        pthread_join(thread, NULL);
        assert_rc(w.rc, 0);
    }
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_tasks)
EACH_KIND(test_recursive)
EACH_KIND(test_death)
EACH_KIND(test_with_threads)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(each_test_tasks), TEST(each_test_recursive), TEST(each_test_death),
                                       TEST(each_test_with_threads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
