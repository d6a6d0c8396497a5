/* SPDX-License-Identifier: MIT
 *
 * The semaphore: every verb, who waits and who is woken, deaths, and semaphores that go away. core/waiting.h from inside is in
 * test_waiting.c.
 */
#include "helper_owner.h"

#include <polyshm/semaphore.h>
#include <polyshm/wait.h>

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#define NAME "free"

static int init(pshm_semaphore *s, pshm_arena *arena, int64_t value, bool *created)
{
    return pshm_semaphore_init(s, arena, NAME, strlen(NAME), true, value, created);
}

static pshm_semaphore semaphore_of(helper_world *world, int64_t value)
{
    pshm_semaphore s;
    assert_rc(init(&s, world->arena, value, NULL), 0);
    return s;
}

static int64_t in(double seconds)
{
    return pshm_deadline((int64_t)(seconds * 1e9));
}

static void expect_free(pshm_semaphore *s, uint32_t wanted)
{
    uint32_t value = ~wanted;
    assert_rc(pshm_semaphore_value(s, &value), 0);
    assert_int_equal(value, wanted);
}

static int acquire_long(pshm_semaphore *s)
{
    int rc = -EINTR;
    for (int slices = 0; rc == -EINTR && slices < 300; slices++)
        rc = pshm_semaphore_acquire(s, PSHM_FOREVER);
    return rc;
}

static void test_verbs(helper_world *world)
{
    pshm_semaphore s = semaphore_of(world, 2), t = semaphore_of(world, PSHM_SEMAPHORE_ANY);
    expect_free(&t, 2);
    assert_rc(pshm_semaphore_try(&s), 0);
    assert_rc(pshm_semaphore_acquire(&t, 0), 0);
    expect_free(&s, 0);
    assert_rc(pshm_semaphore_try(&s), -EBUSY);
    assert_rc(pshm_semaphore_acquire(&s, 0), -ETIMEDOUT);
    assert_rc(pshm_semaphore_release(&t, 1), 0);
    assert_rc(pshm_semaphore_acquire(&s, PSHM_FOREVER), 0);
    assert_rc(pshm_semaphore_release(&s, 5), 0); /* nobody owns it: more than were taken, and beyond the first value */
    expect_free(&t, 5);
    assert_rc(pshm_semaphore_release(&s, 0), PSHM_ETOOFEW);
    assert_rc(pshm_semaphore_release(&s, (uint64_t)PSHM_SEMAPHORE_MAX), PSHM_ETOOMANY);
    assert_rc(pshm_semaphore_release(&s, UINT64_MAX), PSHM_ETOOMANY);
    assert_rc(pshm_semaphore_release(&s, UINT64_C(1) << 32), PSHM_ETOOMANY);
    expect_free(&s, 5);
    assert_rc(pshm_semaphore_release(&s, (uint64_t)PSHM_SEMAPHORE_MAX - 5), 0);
    assert_rc(pshm_semaphore_release(&s, 1), PSHM_ETOOMANY);
    expect_free(&s, (uint32_t)PSHM_SEMAPHORE_MAX);
    assert_rc(pshm_semaphore_try(&s), 0);
    assert_rc(pshm_semaphore_release(&s, 1), 0);
    pshm_semaphore_fini(&s);
    pshm_semaphore_fini(&t);
}

static void test_parameters(helper_world *world)
{
    pshm_semaphore s;
    pshm_arena *a = world->arena;
    bool created = true;
    assert_rc(pshm_semaphore_init(&s, a, NAME, 4, false, 1, &created), PSHM_ENONAME);
    assert_false(created);
    assert_rc(init(&s, a, PSHM_SEMAPHORE_MAX + 1, &created), PSHM_ETOOMANY);
    assert_rc(init(&s, a, PSHM_SEMAPHORE_ANY, &created), 0);
    assert_true(created);
    expect_free(&s, 1);
    assert_rc(pshm_semaphore_try(&s), 0);
    pshm_semaphore_fini(&s);
    assert_rc(init(&s, a, 1, &created), 0); /* what it began with, not what it is */
    assert_false(created);
    expect_free(&s, 0);
    pshm_semaphore_fini(&s);
    assert_rc(init(&s, a, 0, &created), PSHM_EPARAMETER);
    assert_rc(pshm_semaphore_init(&s, a, NAME, 4, false, 2, NULL), PSHM_EPARAMETER);
    pshm_semaphore_fini(&s); /* of what was not opened: nothing */
    assert_rc(pshm_arena_delete(a, NAME, 4, NULL), 0);
    assert_rc(init(&s, a, PSHM_SEMAPHORE_MAX, &created), 0);
    expect_free(&s, (uint32_t)PSHM_SEMAPHORE_MAX);
    pshm_semaphore_fini(&s);
    assert_rc(pshm_semaphore_init(&s, a, "lock", 4, true, 1, NULL), PSHM_EKIND);
    assert_rc(pshm_semaphore_init(&s, a, "", 0, true, 1, NULL), PSHM_ENAMESIZE);
    assert_rc(pshm_semaphore_init(&s, a, "a\0b", 3, true, 1, NULL), PSHM_ENAMETEXT);
}

static void test_timeouts(helper_world *world)
{
    pshm_semaphore s = semaphore_of(world, 0);
    assert_rc(pshm_semaphore_acquire(&s, 0), -ETIMEDOUT);
    assert_rc(pshm_semaphore_acquire(&s, INT64_MIN), -ETIMEDOUT);
    assert_rc(pshm_semaphore_acquire(&s, in(0.01)), -ETIMEDOUT);
    assert_rc(pshm_semaphore_acquire(&s, PSHM_FOREVER), -EINTR); /* a slice */
    assert_rc(pshm_semaphore_acquire(&s, in(10)), -EINTR);
    expect_free(&s, 0);
    pshm_semaphore_fini(&s);
}

/* ---- as a limit on how many are inside ---- */

enum { ROUNDS = 3000, PROCESSES = 3 };

static int go_in_and_out(void *context)
{
    helper_world *world = context;
    pshm_semaphore s;
    CHECK(init(&s, world->arena, 2, NULL) == 0);
    for (int i = 0; i < ROUNDS; i++) {
        CHECK(acquire_long(&s) == 0);
        CHECK(__atomic_add_fetch(&world->stage->number, 1, __ATOMIC_SEQ_CST) <= 2);
        __atomic_sub_fetch(&world->stage->number, 1, __ATOMIC_SEQ_CST);
        CHECK(pshm_semaphore_release(&s, 1) == 0);
    }
    pshm_semaphore_fini(&s);
    return 0;
}

static void test_no_more_inside_than_it_says(helper_world *world)
{
    pid_t all[PROCESSES];
    pshm_semaphore s = semaphore_of(world, 2);
    world->stage->number = 0;
    for (int i = 0; i < PROCESSES; i++)
        all[i] = helper_fork(go_in_and_out, world);
    for (int i = 0; i < PROCESSES; i++)
        assert_int_equal(helper_wait(all[i]), 0);
    expect_free(&s, 2);
    pshm_semaphore_fini(&s);
}

/* ---- whom a release reaches ---- */

typedef struct job {
    helper_world *world;
    uint32_t *done;
    int rc;
} job;

static void *waiter(void *context)
{
    job *j = context;
    pshm_semaphore s = semaphore_of(j->world, PSHM_SEMAPHORE_ANY);
    j->rc = acquire_long(&s);
    pshm_semaphore_fini(&s);
    __atomic_add_fetch(j->done, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void test_as_many_as_are_released(helper_world *world)
{
    enum { WAITERS = 9, AT_ONCE = 3 };
    const struct timespec pause = {0, 200000};
    pthread_t threads[WAITERS];
    job jobs[WAITERS];
    uint32_t done = 0;
    pshm_semaphore s = semaphore_of(world, 0);
    for (int i = 0; i < WAITERS; i++) {
        jobs[i] = (job){world, &done, 1};
        assert_int_equal(pthread_create(&threads[i], NULL, waiter, &jobs[i]), 0);
    }
    helper_until_waits(world->arena, NAME);
    for (uint32_t n = AT_ONCE; n <= WAITERS; n += AT_ONCE) {
        assert_rc(pshm_semaphore_release(&s, AT_ONCE), 0);
        while (__atomic_load_n(&done, __ATOMIC_SEQ_CST) < n)
            nanosleep(&pause, NULL);
        assert_int_equal(__atomic_load_n(&done, __ATOMIC_SEQ_CST), n);
        expect_free(&s, 0);
    }
    for (int i = 0; i < WAITERS; i++) {
        pthread_join(threads[i], NULL);
        assert_rc(jobs[i].rc, 0);
    }
    pshm_semaphore_fini(&s);
}

/* Timeouts that end as a release comes: what is not taken is still there. */
static void *waiter_in_a_hurry(void *context)
{
    job *j = context;
    pshm_semaphore s = semaphore_of(j->world, PSHM_SEMAPHORE_ANY);
    j->rc = 0;
    for (int i = 0; i < 400; i++) {
        int rc = pshm_semaphore_acquire(&s, pshm_deadline(i % 40 * INT64_C(10000)));
        CHECK(rc == 0 || rc == -ETIMEDOUT || rc == -EINTR);
        j->rc += rc == 0;
    }
    pshm_semaphore_fini(&s);
    return NULL;
}

static void test_timeouts_that_meet_a_release(helper_world *world)
{
    enum { WAITERS = 3, RELEASES = 600 };
    const struct timespec pause = {0, 30000};
    pthread_t threads[WAITERS];
    job jobs[WAITERS];
    pshm_semaphore s = semaphore_of(world, 0);
    for (int i = 0; i < WAITERS; i++) {
        jobs[i] = (job){world, NULL, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, waiter_in_a_hurry, &jobs[i]), 0);
    }
    for (int i = 0; i < RELEASES; i++) {
        assert_rc(pshm_semaphore_release(&s, 1), 0);
        nanosleep(&pause, NULL);
    }
    int taken = 0;
    for (int i = 0; i < WAITERS; i++) {
        pthread_join(threads[i], NULL);
        taken += jobs[i].rc;
    }
    expect_free(&s, (uint32_t)(RELEASES - taken));
    pshm_semaphore_fini(&s);
}

static void nothing(int signal)
{
    (void)signal;
}

/* A signal ends the call, or is not noticed; either way what is released is taken once. */
static void test_signals(helper_world *world)
{
    struct sigaction action = {.sa_handler = nothing}, before;
    pthread_t thread;
    uint32_t done = 0;
    job j = {world, &done, 1};
    pshm_semaphore s = semaphore_of(world, 0);
    sigaction(SIGUSR1, &action, &before);
    assert_int_equal(pthread_create(&thread, NULL, waiter, &j), 0);
    helper_until_waits(world->arena, NAME);
    for (int i = 0; i < 100; i++)
        assert_int_equal(pthread_kill(thread, SIGUSR1), 0);
    assert_int_equal(__atomic_load_n(&done, __ATOMIC_SEQ_CST), 0);
    assert_rc(pshm_semaphore_release(&s, 1), 0);
    pthread_join(thread, NULL);
    sigaction(SIGUSR1, &before, NULL);
    assert_rc(j.rc, 0);
    expect_free(&s, 0);
    pshm_semaphore_fini(&s);
}

/* ---- pshm_wait ---- */

static void *release_when_asleep(void *context)
{
    job *j = context;
    pshm_semaphore s = semaphore_of(j->world, PSHM_SEMAPHORE_ANY);
    helper_until_waits(j->world->arena, NAME);
    j->rc = pshm_semaphore_release(&s, 1);
    pshm_semaphore_fini(&s);
    return NULL;
}

static void test_waitable(helper_world *world)
{
    pshm_semaphore s = semaphore_of(world, 0);
    const pshm_waitable it = {.object = &s.object};
    bool ready = true;
    size_t failed;
    assert_rc(pshm_waitable_ready(&it), 0);
    assert_rc(pshm_wait(&it, 1, in(0.01), &ready, &failed), -ETIMEDOUT);
    assert_false(ready);
    /* Beside one that takes. */
    pthread_t taker, releaser;
    uint32_t done = 0;
    job taking = {world, &done, 1}, releasing = {world, NULL, 1};
    assert_int_equal(pthread_create(&taker, NULL, waiter, &taking), 0);
    assert_int_equal(pthread_create(&releaser, NULL, release_when_asleep, &releasing), 0);
    pthread_join(taker, NULL);
    pthread_join(releaser, NULL);
    assert_rc(taking.rc, 0);
    assert_rc(releasing.rc, 0);
    assert_rc(pshm_semaphore_release(&s, 1), 0);
    assert_rc(pshm_wait(&it, 1, PSHM_FOREVER, &ready, &failed), 1);
    assert_true(ready);
    expect_free(&s, 1); /* it takes nothing */
    assert_rc(pshm_waitable_ready(&it), 1);
    pshm_semaphore_fini(&s);
    assert_rc(pshm_waitable_ready(&it), PSHM_ECLOSED);
}

/* ---- deaths ---- */

static int take_and_give(void *context)
{
    helper_world *world = context;
    pshm_semaphore s;
    CHECK(init(&s, world->arena, PSHM_SEMAPHORE_ANY, NULL) == 0);
    for (;;) {
        CHECK(acquire_long(&s) == 0);
        CHECK(pshm_semaphore_release(&s, 1) == 0);
    }
}

static int wait_for_ever(void *context)
{
    helper_world *world = context;
    pshm_semaphore s;
    CHECK(init(&s, world->arena, PSHM_SEMAPHORE_ANY, NULL) == 0);
    for (;;)
        CHECK(pshm_semaphore_acquire(&s, PSHM_FOREVER) == -EINTR);
}

/* Nobody owns it: what a dead one took stays taken, which is one or none. */
static void test_deaths(helper_world *world)
{
    const struct timespec pause = {0, 3000000};
    pshm_semaphore s = semaphore_of(world, 3);
    for (int i = 0; i < 10; i++) {
        uint32_t value;
        pid_t first = helper_fork(take_and_give, world), second = helper_fork(take_and_give, world);
        nanosleep(&pause, NULL);
        helper_kill(first);
        helper_kill(second);
        assert_rc(pshm_semaphore_value(&s, &value), 0);
        assert_true(value >= 1 && value <= 3);
        if (value < 3)
            assert_rc(pshm_semaphore_release(&s, 3 - value), 0);
    }
    for (int i = 0; i < 3; i++)
        assert_rc(pshm_semaphore_try(&s), 0);
    pid_t sleeper = helper_fork(wait_for_ever, world);
    helper_until_waits(world->arena, NAME);
    helper_kill(sleeper);
    assert_rc(pshm_semaphore_release(&s, 1), 0);
    assert_rc(acquire_long(&s), 0);
    expect_free(&s, 0);
    pshm_semaphore_fini(&s);
}

/* The one who is woken dies of it, stopped as it is: the next one gets what it was woken for. */
static void test_the_one_who_was_woken_dies(helper_world *world)
{
    pthread_t thread;
    uint32_t done = 0;
    job j = {world, &done, 1};
    pshm_semaphore s = semaphore_of(world, 0);
    pid_t first = helper_fork(wait_for_ever, world);
    helper_until_waits(world->arena, NAME);
    kill(first, SIGSTOP);
    assert_int_equal(pthread_create(&thread, NULL, waiter, &j), 0);
    assert_rc(pshm_semaphore_release(&s, 1), 0);
    helper_kill(first);
    pthread_join(thread, NULL);
    assert_rc(j.rc, 0);
    expect_free(&s, 0);
    pshm_semaphore_fini(&s);
}

/* ---- what goes ---- */

static void test_deleted(helper_world *world)
{
    pthread_t thread;
    uint32_t done = 0, value;
    job j = {world, &done, 1};
    bool created = false;
    pshm_semaphore s = semaphore_of(world, 0), fresh;
    assert_int_equal(pthread_create(&thread, NULL, waiter, &j), 0);
    helper_until_waits(world->arena, NAME);
    assert_rc(pshm_arena_delete(world->arena, NAME, strlen(NAME), NULL), 0);
    pthread_join(thread, NULL);
    assert_rc(j.rc, PSHM_EDELETED);
    assert_rc(pshm_semaphore_try(&s), PSHM_EDELETED);
    assert_rc(pshm_semaphore_acquire(&s, 0), PSHM_EDELETED);
    assert_rc(pshm_semaphore_release(&s, 1), PSHM_EDELETED);
    assert_rc(pshm_semaphore_value(&s, &value), PSHM_EDELETED);
    assert_rc(pshm_waitable_ready(&(pshm_waitable){.object = &s.object}), PSHM_EDELETED);
    assert_rc(init(&fresh, world->arena, 4, &created), 0);
    assert_true(created);
    assert_rc(pshm_semaphore_try(&s), PSHM_EDELETED);
    expect_free(&fresh, 4);
    pshm_semaphore_fini(&fresh);
    pshm_semaphore_fini(&s);
}

static void test_closed_and_readonly(helper_world *world)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *reader, *other;
    pshm_semaphore s = semaphore_of(world, 1), seen, more;
    uint32_t value;
    if (!strcmp(world->kind, "posix")) {
        const char *address = world->arena->address;
        assert_rc(pshm_arena_open(address, strlen(address), &options, &other), 0);
        options.access = PSHM_ACCESS_R;
        assert_rc(pshm_arena_open(address, strlen(address), &options, &reader), 0);
        assert_rc(init(&more, other, PSHM_SEMAPHORE_ANY, NULL), 0);
        assert_rc(init(&seen, reader, 1, NULL), 0);
        assert_rc(pshm_semaphore_init(&(pshm_semaphore){0}, reader, "none", 4, true, 1, NULL), PSHM_EREADONLY);
        expect_free(&seen, 1);
        assert_rc(pshm_semaphore_try(&seen), PSHM_EREADONLY);
        assert_rc(pshm_semaphore_acquire(&seen, PSHM_FOREVER), PSHM_EREADONLY);
        assert_rc(pshm_semaphore_release(&seen, 1), PSHM_EREADONLY);
        const pshm_waitable it = {.object = &seen.object};
        assert_rc(pshm_waitable_ready(&it), 1); /* to look is no more than that */
        assert_rc(pshm_semaphore_try(&s), 0);
        assert_rc(pshm_waitable_ready(&it), 0);
        assert_rc(pshm_semaphore_release(&s, 1), 0);
        pshm_arena_close(other);
        pshm_arena_close(reader);
        assert_rc(pshm_semaphore_value(&seen, &value), PSHM_ECLOSED);
        assert_rc(pshm_semaphore_acquire(&seen, 0), PSHM_ECLOSED);
        assert_rc(pshm_semaphore_value(&more, &value), PSHM_ECLOSED);
        assert_rc(pshm_semaphore_try(&more), PSHM_ECLOSED);
        assert_rc(pshm_semaphore_acquire(&more, 0), PSHM_ECLOSED);
        assert_rc(pshm_semaphore_release(&more, 1), PSHM_ECLOSED);
        expect_free(&s, 1);
        pshm_semaphore_fini(&seen);
        pshm_semaphore_fini(&more);
        pshm_arena_release(other);
        pshm_arena_release(reader);
    }
    pshm_semaphore_fini(&s);
}

/* A forked child goes on with what its parent opened, and what it takes is taken. */
static int use_inherited(void *context)
{
    pshm_semaphore *s = context;
    CHECK(pshm_semaphore_try(s) == 0);
    CHECK(pshm_semaphore_try(s) == -EBUSY);
    CHECK(pshm_semaphore_acquire(s, in(0.01)) == -ETIMEDOUT);
    return 0;
}

static void test_forked(helper_world *world)
{
    pshm_semaphore s = semaphore_of(world, 1);
    helper_in_child(use_inherited, &s);
    expect_free(&s, 0);
    assert_rc(pshm_semaphore_release(&s, 1), 0); /* whoever took it */
    pshm_semaphore_fini(&s);
}

/* Bytes that cannot be: codes, or a number of free places, and no more than that. */
static void test_hostile_bytes(helper_world *world)
{
    pshm_semaphore s = semaphore_of(world, 1);
    uint32_t *words = s.object.body, value; /* sleepers, value, initial: docs/layout.rst */
    words[1] = UINT32_MAX;
    assert_rc(pshm_semaphore_release(&s, 1), PSHM_ETOOMANY);
    assert_rc(pshm_semaphore_try(&s), 0);
    assert_rc(pshm_semaphore_value(&s, &value), 0);
    words[0] = UINT32_MAX;
    words[1] = 0;
    assert_rc(pshm_semaphore_acquire(&s, in(0.005)), -ETIMEDOUT);
    assert_rc(pshm_semaphore_release(&s, 1), 0);
    assert_rc(pshm_semaphore_acquire(&s, 0), 0);
    words[2] = UINT32_MAX;
    assert_rc(init(&(pshm_semaphore){0}, world->arena, 1, NULL), PSHM_EPARAMETER);
    words[2] = 1;
    pshm_semaphore_fini(&s);
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_verbs)
EACH_KIND(test_parameters)
EACH_KIND(test_timeouts)
EACH_KIND(test_no_more_inside_than_it_says)
EACH_KIND(test_as_many_as_are_released)
EACH_KIND(test_timeouts_that_meet_a_release)
EACH_KIND(test_signals)
EACH_KIND(test_waitable)
EACH_KIND(test_deaths)
EACH_KIND(test_the_one_who_was_woken_dies)
EACH_KIND(test_deleted)
EACH_KIND(test_closed_and_readonly)
EACH_KIND(test_forked)
EACH_KIND(test_hostile_bytes)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_verbs),
        TEST(each_test_parameters),
        TEST(each_test_timeouts),
        TEST(each_test_no_more_inside_than_it_says),
        TEST(each_test_as_many_as_are_released),
        TEST(each_test_timeouts_that_meet_a_release),
        TEST(each_test_signals),
        TEST(each_test_waitable),
        TEST(each_test_deaths),
        TEST(each_test_the_one_who_was_woken_dies),
        TEST(each_test_deleted),
        TEST(each_test_closed_and_readonly),
        TEST(each_test_forked),
        TEST(each_test_hostile_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
