/* SPDX-License-Identifier: MIT
 *
 * core/waiting.h from inside: what happens between a look and the sleep, whom a wake reaches, and when the flags go down.
 * Sleepers here have no slices, so that a wake that is missing is not made up for.
 */
#include "helper_owner.h"

#include <polyshm/semaphore.h>

#include <pthread.h>
#include <time.h>

#include "core/waiting.h"

static pshm_semaphore semaphore_of(pshm_arena *arena)
{
    pshm_semaphore semaphore;
    assert_rc(pshm_semaphore_init(&semaphore, arena, "free", 4, true, 0, NULL), 0);
    return semaphore;
}

/* docs/layout.rst: a body begins with it. */
static uint32_t *sleepers_of(const pshm_semaphore *semaphore)
{
    return semaphore->object.body;
}

static uint32_t flags_of(const pshm_semaphore *semaphore)
{
    return __atomic_load_n(sleepers_of(semaphore), __ATOMIC_SEQ_CST) & PSHM_SLEEPS;
}

/* ---- between the look and the sleep ---- */

typedef struct scene {
    pshm_waiting waiting;
    pshm_semaphore *semaphore;
    bool others_sleep; /* when it falls asleep */
    unsigned looks;    /* from that on after which it sleeps */
} scene;

/* Others release and acquire: the value is what it was, and they have found nobody asleep. */
static void *release_and_acquire(void *context)
{
    const scene *s = context;
    CHECK(pshm_semaphore_release(s->semaphore, 1) == 0 && pshm_semaphore_try(s->semaphore) == 0);
    CHECK(flags_of(s->semaphore) == 0);
    if (s->others_sleep)
        pshm_sleeps(sleepers_of(s->semaphore), s->waiting.how);
    return NULL;
}

static int look(pshm_waiting *waiting, bool write, uint32_t *value)
{
    scene *s = (scene *)waiting;
    pthread_t others;
    (void)write;
    *value = 0; /* of the semaphore */
    if (s->looks)
        return ++s->looks < 3; /* the second one is after the sleep, which has to be none */
    if (!flags_of(s->semaphore))
        return 1;
    s->looks = 1;
    assert_int_equal(pthread_create(&others, NULL, release_and_acquire, s), 0);
    pthread_join(others, NULL);
    return 1;
}

static void expect_no_sleep(helper_world *world, uint32_t how, bool others_sleep)
{
    pshm_semaphore semaphore = semaphore_of(world->arena);
    int rc = -EINTR;
    /* Of a machine that is busy a slice may be over for other reasons. */
    for (int attempts = 0; rc == -EINTR && attempts < 20; attempts++) {
        scene s = {.waiting = {.object = &semaphore.object,
                               .word = sleepers_of(&semaphore),
                               .sleepers = sleepers_of(&semaphore),
                               .how = how,
                               .look = look},
                   .semaphore = &semaphore,
                   .others_sleep = others_sleep};
        *sleepers_of(&semaphore) = 0;
        rc = pshm_wait_for(&s.waiting, PSHM_FOREVER);
    }
    assert_rc(rc, 0);
    pshm_semaphore_fini(&semaphore);
}

/* Whoever fell asleep then would not be woken by the next release. */
static void test_nobody_sleeps_under_a_flag_that_is_down(helper_world *world)
{
    expect_no_sleep(world, PSHM_SLEEPS_TAKER, false);
    expect_no_sleep(world, PSHM_SLEEPS_WATCHER, false);
}

/* Nor under one that somebody else has put up again, who may have seen what this one has not. */
static void test_nobody_sleeps_under_the_flag_of_another(helper_world *world)
{
    expect_no_sleep(world, PSHM_SLEEPS_TAKER, true);
    expect_no_sleep(world, PSHM_SLEEPS_WATCHER, true);
}

/* ---- whom a wake reaches ---- */

typedef struct sleeper {
    pthread_t thread;
    pshm_semaphore *semaphore;
    uint32_t how, state; /* 1: about to sleep, 2: has slept */
} sleeper;

static void *sleep_long(void *context)
{
    sleeper *s = context;
    uint32_t at = pshm_sleeps(sleepers_of(s->semaphore), s->how);
    __atomic_store_n(&s->state, 1, __ATOMIC_SEQ_CST);
    int rc = pshm_os_futex_wait(sleepers_of(s->semaphore), at, pshm_deadline(20 * SECOND));
    CHECK(rc == 0 || rc == -EAGAIN);
    __atomic_store_n(&s->state, 2, __ATOMIC_SEQ_CST);
    return NULL;
}

static void until_asleep(const sleeper *s)
{
    const struct timespec pause = {0, 20000000};
    while (!__atomic_load_n(&s->state, __ATOMIC_SEQ_CST))
        nanosleep(&pause, NULL);
    nanosleep(&pause, NULL); /* if that is too short, it does not fall asleep, and what is tested is easier */
}

static void begin(sleeper *s, pshm_semaphore *semaphore, uint32_t how)
{
    *s = (sleeper){.semaphore = semaphore, .how = how};
    assert_int_equal(pthread_create(&s->thread, NULL, sleep_long, s), 0);
    until_asleep(s);
}

static unsigned awake(const sleeper *all, unsigned count)
{
    unsigned n = 0;
    for (unsigned i = 0; i < count; i++)
        n += __atomic_load_n(&all[i].state, __ATOMIC_SEQ_CST) == 2;
    return n;
}

static void until_awake(const sleeper *all, unsigned count, unsigned wanted)
{
    const struct timespec pause = {0, 1000000};
    for (int i = 0; i < 10000 && awake(all, count) < wanted; i++)
        nanosleep(&pause, NULL);
    assert_int_equal(awake(all, count), wanted);
}

static void test_takers_are_woken_one_by_one(helper_world *world)
{
    enum { TAKERS = 4 };
    pshm_semaphore semaphore = semaphore_of(world->arena);
    sleeper all[TAKERS];
    for (unsigned i = 0; i < TAKERS; i++)
        begin(&all[i], &semaphore, PSHM_SLEEPS_TAKER);
    for (unsigned i = 0; i < TAKERS; i++) {
        assert_int_equal(awake(all, TAKERS), i);
        assert_int_equal(flags_of(&semaphore), PSHM_SLEEPS_TAKER); /* for as long as one sleeps */
        pshm_wake(sleepers_of(&semaphore), sleepers_of(&semaphore), 1);
        until_awake(all, TAKERS, i + 1);
    }
    uint32_t before = *sleepers_of(&semaphore);
    pshm_wake(sleepers_of(&semaphore), sleepers_of(&semaphore), 1);
    assert_int_equal(flags_of(&semaphore), 0);
    assert_int_not_equal(*sleepers_of(&semaphore), before & ~PSHM_SLEEPS);
    for (unsigned i = 0; i < TAKERS; i++)
        pthread_join(all[i].thread, NULL);
    pshm_semaphore_fini(&semaphore);
}

/* A watcher takes nothing: the wake is not for it alone. */
static void test_a_watcher_is_woken_with_all(helper_world *world)
{
    pshm_semaphore semaphore = semaphore_of(world->arena);
    sleeper all[3];
    begin(&all[0], &semaphore, PSHM_SLEEPS_TAKER);
    begin(&all[1], &semaphore, PSHM_SLEEPS_WATCHER);
    begin(&all[2], &semaphore, PSHM_SLEEPS_TAKER);
    pshm_wake(sleepers_of(&semaphore), sleepers_of(&semaphore), 1);
    assert_int_equal(flags_of(&semaphore), 0);
    until_awake(all, 3, 3);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(all[i].thread, NULL);
    pshm_semaphore_fini(&semaphore);
}

/* ---- who is woken and may not take ---- */

static void *acquire(void *context)
{
    pshm_semaphore *semaphore = context;
    int rc = -EINTR;
    while (rc == -EINTR)
        rc = pshm_semaphore_acquire(semaphore, PSHM_FOREVER);
    CHECK(rc == PSHM_ECLOSED);
    return NULL;
}

static void test_a_wake_of_one_whose_arena_was_closed_goes_on(helper_world *world)
{
    if (strcmp(world->kind, "posix") != 0)
        return; /* a second handle needs a name */
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *other;
    const char *address = world->arena->address;
    pthread_t first;
    assert_rc(pshm_arena_open(address, strlen(address), &options, &other), 0);
    pshm_semaphore semaphore = semaphore_of(world->arena), closed = semaphore_of(other);
    sleeper second;
    assert_int_equal(pthread_create(&first, NULL, acquire, &closed), 0);
    helper_until_waits(world->arena, "free");
    begin(&second, &semaphore, PSHM_SLEEPS_TAKER);
    pshm_arena_close(other);
    assert_rc(pshm_semaphore_release(&semaphore, 1), 0);
    pthread_join(first, NULL);
    until_awake(&second, 1, 1);
    pthread_join(second.thread, NULL);
    pshm_semaphore_fini(&closed);
    pshm_arena_release(other);
    pshm_semaphore_fini(&semaphore);
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_nobody_sleeps_under_a_flag_that_is_down)
EACH_KIND(test_nobody_sleeps_under_the_flag_of_another)
EACH_KIND(test_takers_are_woken_one_by_one)
EACH_KIND(test_a_watcher_is_woken_with_all)
EACH_KIND(test_a_wake_of_one_whose_arena_was_closed_goes_on)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_nobody_sleeps_under_a_flag_that_is_down),
        TEST(each_test_nobody_sleeps_under_the_flag_of_another),
        TEST(each_test_takers_are_woken_one_by_one),
        TEST(each_test_a_watcher_is_woken_with_all),
        TEST(each_test_a_wake_of_one_whose_arena_was_closed_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
