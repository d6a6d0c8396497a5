/* SPDX-License-Identifier: MIT
 *
 * Waiting for several things at once: what is ready, wakes from each of many, takers that share a lock with those who only
 * wait, deaths, and what goes away meanwhile.
 */
#include "helper_owner.h"

#include <polyshm/counter.h>
#include <polyshm/wait.h>

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum { MANY = 300 };

static pshm_counter counter_named(pshm_arena *arena, const char *name)
{
    pshm_counter counter;
    assert_rc(pshm_counter_init(&counter, arena, name, strlen(name), true, NULL), 0);
    return counter;
}

static pshm_waitable from(const pshm_counter *counter, int64_t least)
{
    return (pshm_waitable){.object = &counter->object, .least = least};
}

static int64_t in(double seconds)
{
    return pshm_deadline((int64_t)(seconds * 1e9));
}

static int wait_long(const pshm_waitable *all, size_t count, bool *ready, size_t *failed)
{
    int rc = -EINTR;
    for (int slices = 0; rc == -EINTR && slices < 200; slices++)
        rc = pshm_wait(all, count, PSHM_FOREVER, ready, failed);
    return rc;
}

static void test_what_is_ready(helper_world *world)
{
    pshm_counter c = counter_named(world->arena, "c"), d = counter_named(world->arena, "d");
    const pshm_waitable all[] = {from(&c, 1), {.object = &world->lock.object}, from(&d, -1), from(&d, 7)};
    bool ready[4];
    size_t failed = 77;
    assert_rc(pshm_wait(all, 4, 0, ready, &failed), 2);
    assert_true(!ready[0] && ready[1] && ready[2] && !ready[3]);
    assert_rc(pshm_counter_store(&d, 7), 0);
    assert_rc(pshm_wait(all, 4, PSHM_FOREVER, ready, &failed), 3);
    assert_true(!ready[0] && ready[1] && ready[2] && ready[3]);
    assert_rc(pshm_waitable_ready(&all[0]), 0);
    assert_rc(pshm_waitable_ready(&all[1]), 1);
    assert_rc(pshm_wait(all, 1, 0, ready, &failed), -ETIMEDOUT);
    assert_rc(pshm_wait(all, 1, in(0.01), ready, &failed), -ETIMEDOUT);
    assert_rc(pshm_wait(all, 1, PSHM_FOREVER, ready, &failed), -EINTR);
    assert_rc(pshm_wait(NULL, 0, 0, NULL, &failed), -ETIMEDOUT);
    assert_rc(pshm_wait(NULL, 0, in(0.01), NULL, &failed), -ETIMEDOUT);
    assert_rc(pshm_wait(NULL, 0, PSHM_FOREVER, NULL, &failed), -EINTR);
    pshm_counter_fini(&c);
    pshm_counter_fini(&d);
}

static int raise_each(void *context)
{
    const helper_world *world = context;
    char name[16];
    for (uint32_t i = 0; i < MANY; i += 29) {
        while (__atomic_load_n(&world->stage->step, __ATOMIC_SEQ_CST) <= i)
            usleep(500);
        usleep(300);
        snprintf(name, sizeof name, "c%u", i);
        pshm_counter c;
        CHECK(pshm_counter_init(&c, world->arena, name, strlen(name), false, NULL) == 0);
        CHECK(pshm_counter_store(&c, 1) == 0);
        pshm_counter_fini(&c);
    }
    return 0;
}

/* More than one call of the system sleeps on. */
static void test_each_of_many(helper_world *world)
{
    static pshm_counter counters[MANY];
    static pshm_waitable all[MANY];
    static bool ready[MANY];
    char name[16];
    size_t failed;
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "c%u", i);
        counters[i] = counter_named(world->arena, name);
        all[i] = from(&counters[i], 1);
    }
    helper_step(world, 0);
    pid_t other = helper_fork(raise_each, world);
    for (uint32_t i = 0; i < MANY; i += 29) {
        helper_step(world, i + 1);
        assert_rc(wait_long(all, MANY, ready, &failed), 1);
        assert_true(ready[i]);
        assert_rc(pshm_counter_store(&counters[i], 0), 0);
    }
    assert_int_equal(helper_wait(other), 0);
    for (unsigned i = 0; i < MANY; i++)
        pshm_counter_fini(&counters[i]);
}

static void test_several_arenas(helper_world *world)
{
    helper_world other = helper_world_open("anon");
    pshm_counter c = counter_named(world->arena, "c"), d = counter_named(other.arena, "d");
    const pshm_waitable all[] = {from(&c, 1), from(&d, 1)};
    bool ready[2];
    size_t failed;
    assert_rc(pshm_wait(all, 2, 0, ready, &failed), -ETIMEDOUT);
    assert_rc(pshm_counter_store(&d, 1), 0);
    assert_rc(pshm_wait(all, 2, 0, ready, &failed), 1);
    assert_true(ready[1]);
    pshm_arena_close(other.arena);
    assert_rc(pshm_wait(all, 2, 0, ready, &failed), PSHM_ECLOSED);
    assert_int_equal(failed, 1);
    pshm_counter_fini(&c);
    pshm_counter_fini(&d);
    pshm_mutex_fini(&other.lock);
    pshm_arena_release(other.arena);
    helper_memory_end(other.stage, PAGE);
}

/* ---- a lock between those who take it and those who only wait ---- */

#define TURNS 300

static int take_turns(void *context)
{
    helper_world *world = context;
    pshm_death death;
    for (int i = 0; i < TURNS; i++) {
        CHECK(helper_acquire(&world->lock, 200, &death) == 0);
        uint32_t n = *(volatile uint32_t *)&world->stage->number;
        if (i % 16 == 0)
            usleep(200);
        *(volatile uint32_t *)&world->stage->number = n + 1;
        CHECK(pshm_mutex_release(&world->lock) == 0);
    }
    return 0;
}

static int wait_then_try(void *context)
{
    helper_world *world = context;
    pshm_counter c = counter_named(world->arena, "c");
    const pshm_waitable all[] = {from(&c, 1), {.object = &world->lock.object}};
    pshm_death death;
    bool ready[2];
    size_t failed;
    for (int i = 0; i < TURNS;) {
        CHECK(wait_long(all, 2, ready, &failed) == 1 && ready[1]);
        int rc = pshm_mutex_try(&world->lock, &death);
        CHECK(rc == 0 || rc == -EBUSY);
        if (rc)
            continue;
        *(volatile uint32_t *)&world->stage->number += 1;
        CHECK(pshm_mutex_release(&world->lock) == 0);
        i++;
    }
    pshm_counter_fini(&c);
    return 0;
}

static void test_turns(helper_world *world)
{
    pid_t pids[4];
    world->stage->number = 0;
    for (int i = 0; i < 4; i++)
        pids[i] = helper_fork(i % 2 ? take_turns : wait_then_try, world);
    for (int i = 0; i < 4; i++)
        assert_int_equal(helper_wait(pids[i]), 0);
    assert_int_equal(world->stage->number, 4 * TURNS);
}

static int wait_for_ever(void *context)
{
    helper_world *world = context;
    pshm_counter c = counter_named(world->arena, "c");
    const pshm_waitable all[] = {from(&c, INT64_MAX), {.object = &world->lock.object}};
    bool ready[2];
    size_t failed;
    helper_step(world, 1);
    while (pshm_wait(all, 2, PSHM_FOREVER, ready, &failed) != PSHM_ECLOSED)
        continue;
    return 1;
}

/* One who waits for much and is killed, or stopped with the wake that came for the next one, holds nobody up. */
static void test_waiter_dies(helper_world *world)
{
    pshm_death death;
    for (int i = 0; i < 4; i++) {
        assert_rc(pshm_mutex_try(&world->lock, &death), 0);
        helper_step(world, 0);
        pid_t waiter = helper_fork(wait_for_ever, world);
        assert_true(helper_until_step(world, 1));
        helper_until_asleep(waiter);
        pid_t taker = helper_fork(take_turns, world);
        helper_until_asleep(taker);
        if (i % 2)
            kill(waiter, SIGSTOP);
        else
            helper_kill(waiter);
        assert_rc(pshm_mutex_release(&world->lock), 0);
        assert_int_equal(helper_wait(taker), 0);
        if (i % 2)
            helper_kill(waiter);
    }
}

static int hold(void *context)
{
    helper_world *world = context;
    pshm_death death;
    CHECK(pshm_mutex_try(&world->lock, &death) == 0);
    helper_step(world, 1);
    for (;;)
        pause();
}

static pshm_waitable participant_of(helper_world *world, pid_t pid)
{
    pshm_participant *all;
    size_t count;
    pshm_waitable who = {.arena = world->arena};
    assert_rc(pshm_arena_list_participants(world->arena, &all, &count), 0);
    for (size_t i = 0; i < count; i++)
        if (all[i].pid == (uint32_t)pid && all[i].alive) {
            who.slot = all[i].slot;
            who.generation = all[i].generation;
        }
    pshm_participants_free(all);
    return who;
}

typedef struct kill_job {
    pid_t pid;
} kill_job;

static void *kill_soon(void *context)
{
    const kill_job *job = context;
    usleep(5000);
    kill(job->pid, SIGKILL);
    return NULL;
}

static void test_deaths(helper_world *world)
{
    pshm_counter c = counter_named(world->arena, "c");
    pthread_t thread;
    bool ready[3];
    size_t failed;
    pshm_death death;
    for (int i = 0; i < 5; i++) {
        helper_step(world, 0);
        kill_job job = {helper_fork(hold, world)};
        assert_true(helper_until_step(world, 1));
        const pshm_waitable all[] = {from(&c, 1), participant_of(world, job.pid), {.object = &world->lock.object}};
        assert_rc(pshm_wait(all, 3, 0, ready, &failed), -ETIMEDOUT);
        assert_int_equal(pthread_create(&thread, NULL, kill_soon, &job), 0);
        int rc = wait_long(all, 3, ready, &failed);
        assert_in_range(rc, 1, 2);
        assert_false(ready[0]);
        pthread_join(thread, NULL);
        assert_int_equal(helper_wait(job.pid), 256 + SIGKILL);
        assert_rc(pshm_wait(all, 3, 0, ready, &failed), 2);
        assert_true(ready[1] && ready[2]);
        assert_rc(helper_recover(&world->lock, 3, &death), 0);
        assert_rc(pshm_mutex_release(&world->lock), 0);
    }
    const pshm_waitable nobody = {.arena = world->arena, .slot = UINT32_MAX};
    assert_rc(pshm_waitable_ready(&nobody), 1);
    pshm_counter_fini(&c);
}

/* ---- what goes ---- */

typedef struct job {
    const pshm_waitable *all;
    size_t count, failed;
    int rc;
} job;

static void *wait_in_thread(void *context)
{
    job *j = context;
    bool ready[4];
    j->rc = wait_long(j->all, j->count, ready, &j->failed);
    return NULL;
}

static void test_deleted(helper_world *world)
{
    pshm_counter c = counter_named(world->arena, "c"), d = counter_named(world->arena, "d");
    const pshm_waitable all[] = {from(&c, 1), from(&d, 1), from(&c, 2)};
    job j = {.all = all, .count = 3};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, wait_in_thread, &j), 0);
    usleep(5000);
    assert_rc(pshm_arena_delete(world->arena, "d", 1, NULL), 0);
    pthread_join(thread, NULL);
    assert_rc(j.rc, PSHM_EDELETED);
    assert_int_equal(j.failed, 1);
    pshm_counter_fini(&d);
    assert_rc(pshm_waitable_ready(&all[1]), PSHM_ECLOSED); /* a handle that is not open */
    pshm_counter_fini(&c);
}

static void test_closed_and_readonly(helper_world *world)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *other;
    pshm_counter c = counter_named(world->arena, "c"), seen;
    pshm_mutex lock;
    pthread_t thread;
    pshm_death death;
    bool ready[2];
    size_t failed;
    if (!strcmp(world->kind, "posix")) {
        const char *address = world->arena->address;
        options.access = PSHM_ACCESS_R;
        assert_rc(pshm_arena_open(address, strlen(address), &options, &other), 0);
        assert_rc(pshm_counter_init(&seen, other, "c", 1, false, NULL), 0);
        assert_rc(pshm_mutex_init(&lock, other, "lock", 4, false, PSHM_RECURSIVE_ANY, NULL), 0);
        const pshm_waitable all[] = {from(&seen, 1), {.object = &lock.object}};
        assert_rc(pshm_wait(all, 2, 0, ready, &failed), 1);
        assert_true(ready[1]);
        assert_rc(pshm_mutex_try(&world->lock, &death), 0);
        assert_rc(pshm_wait(all, 2, in(0.01), ready, &failed), -ETIMEDOUT);
        job j = {.all = all, .count = 2};
        assert_int_equal(pthread_create(&thread, NULL, wait_in_thread, &j), 0);
        assert_rc(pshm_mutex_release(&world->lock), 0);
        pthread_join(thread, NULL);
        assert_rc(j.rc, 1);
        j.count = 1;
        assert_int_equal(pthread_create(&thread, NULL, wait_in_thread, &j), 0);
        usleep(5000);
        pshm_arena_close(other);
        pthread_join(thread, NULL);
        assert_rc(j.rc, PSHM_ECLOSED);
        pshm_counter_fini(&seen);
        pshm_mutex_fini(&lock);
        pshm_arena_release(other);
    }
    pshm_counter_fini(&c);
}

static void test_what_cannot_be(helper_world *world)
{
    pshm_counter c = counter_named(world->arena, "c");
    pshm_object plain = c.object;
    const pshm_waitable nothing[] = {from(&c, 1), {.object = NULL}}, object[] = {from(&c, 1), {.object = &plain}};
    bool ready[2];
    size_t failed;
    plain.watch = NULL;
    assert_rc(pshm_wait(nothing, 2, 0, ready, &failed), PSHM_EUNWAITABLE);
    assert_int_equal(failed, 1);
    assert_rc(pshm_wait(object, 2, 0, ready, &failed), PSHM_EUNWAITABLE);
    assert_int_equal(failed, 1);
    assert_rc(pshm_waitable_ready(&object[1]), PSHM_EUNWAITABLE);
    pshm_counter_fini(&c);
}

/* A recursive one can be had by its owner. */
static void test_recursive(helper_world *world)
{
    pshm_mutex lock;
    pshm_death death;
    assert_rc(pshm_mutex_init(&lock, world->arena, "again", 5, true, PSHM_RECURSIVE_YES, NULL), 0);
    const pshm_waitable w = {.object = &lock.object};
    assert_rc(pshm_mutex_try(&lock, &death), 0);
    assert_rc(pshm_waitable_ready(&w), 1);
    assert_rc(pshm_mutex_release(&lock), 0);
    assert_rc(pshm_mutex_try_task(&lock, 5, false, &death), 0);
    assert_rc(pshm_waitable_ready(&w), 0);
    assert_rc(pshm_mutex_release_task(&lock, 5), 0);
    pshm_mutex_fini(&lock);
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_what_is_ready)
EACH_KIND(test_each_of_many)
EACH_KIND(test_several_arenas)
EACH_KIND(test_turns)
EACH_KIND(test_waiter_dies)
EACH_KIND(test_deaths)
EACH_KIND(test_deleted)
EACH_KIND(test_closed_and_readonly)
EACH_KIND(test_what_cannot_be)
EACH_KIND(test_recursive)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_what_is_ready), TEST(each_test_each_of_many),        TEST(each_test_several_arenas),
        TEST(each_test_turns),         TEST(each_test_waiter_dies),         TEST(each_test_deaths),
        TEST(each_test_deleted),       TEST(each_test_closed_and_readonly), TEST(each_test_what_cannot_be),
        TEST(each_test_recursive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
