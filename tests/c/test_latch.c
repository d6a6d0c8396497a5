/* SPDX-License-Identifier: MIT
 *
 * The latch: every verb, who waits for 0, deaths, and latches that go away.
 */
#include "helper_owner.h"

#include <polyshm/latch.h>
#include <polyshm/wait.h>

#include <pthread.h>
#include <signal.h>
#include <time.h>

#define NAME "ready"

static int init(pshm_latch *l, pshm_arena *arena, int64_t count, bool *created)
{
    return pshm_latch_init(l, arena, NAME, strlen(NAME), true, count, created);
}

static pshm_latch latch_of(helper_world *world, int64_t count)
{
    pshm_latch l;
    assert_rc(init(&l, world->arena, count, NULL), 0);
    return l;
}

static int64_t in(double seconds)
{
    return pshm_deadline((int64_t)(seconds * 1e9));
}

static void expect_left(pshm_latch *l, uint32_t wanted)
{
    uint32_t left = ~wanted;
    assert_rc(pshm_latch_count(l, &left), 0);
    assert_int_equal(left, wanted);
}

static void count_down(pshm_latch *l, uint64_t n, uint32_t wanted)
{
    uint32_t left = ~wanted;
    assert_rc(pshm_latch_count_down(l, n, &left), 0);
    assert_int_equal(left, wanted);
}

static int wait_long(pshm_latch *l)
{
    int rc = -EINTR;
    for (int slices = 0; rc == -EINTR && slices < 300; slices++)
        rc = pshm_latch_wait(l, PSHM_FOREVER);
    return rc;
}

static void test_verbs(helper_world *world)
{
    pshm_latch l = latch_of(world, 10), m = latch_of(world, PSHM_LATCH_ANY);
    uint32_t left;
    expect_left(&m, 10);
    count_down(&l, 1, 9);
    count_down(&m, 4, 5);
    assert_rc(pshm_latch_count_down(&l, 0, &left), PSHM_ETOOFEW);
    expect_left(&l, 5);
    assert_rc(pshm_latch_wait(&l, 0), -ETIMEDOUT);
    assert_rc(pshm_latch_wait(&l, in(0.01)), -ETIMEDOUT);
    assert_rc(pshm_latch_wait(&l, PSHM_FOREVER), -EINTR); /* a slice */
    count_down(&l, 5, 0);
    assert_rc(pshm_latch_wait(&m, 0), 0);
    assert_rc(pshm_latch_wait(&m, PSHM_FOREVER), 0);
    count_down(&m, 1, 0); /* there it stays */
    expect_left(&l, 0);
    pshm_latch_fini(&l);
    pshm_latch_fini(&m);
    assert_rc(pshm_arena_delete(world->arena, NAME, strlen(NAME), NULL), 0);
    static const uint64_t more[] = {3, UINT32_MAX, UINT64_C(1) << 32, UINT64_MAX};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        l = latch_of(world, 2);
        count_down(&l, more[i], 0);
        assert_rc(pshm_latch_wait(&l, 0), 0);
        pshm_latch_fini(&l);
        assert_rc(pshm_arena_delete(world->arena, NAME, strlen(NAME), NULL), 0);
    }
}

static void test_parameters(helper_world *world)
{
    pshm_latch l;
    pshm_arena *a = world->arena;
    bool created = true;
    assert_rc(pshm_latch_init(&l, a, NAME, 5, false, 1, &created), PSHM_ENONAME);
    assert_false(created);
    assert_rc(init(&l, a, PSHM_LATCH_ANY, &created), PSHM_ENOCOUNT); /* of a new one it has to be said */
    assert_rc(pshm_latch_init(&l, a, NAME, 5, false, PSHM_LATCH_ANY, &created), PSHM_ENONAME);
    assert_rc(init(&l, a, PSHM_LATCH_MAX + 1, &created), PSHM_ETOOMANY);
    assert_rc(init(&l, a, PSHM_LATCH_MAX, &created), 0);
    assert_true(created);
    count_down(&l, (uint64_t)PSHM_LATCH_MAX - 1, 1);
    pshm_latch_fini(&l);
    assert_rc(init(&l, a, 1, &created), PSHM_EPARAMETER);
    assert_rc(init(&l, a, PSHM_LATCH_MAX, &created), 0); /* what it began with, not what is left */
    assert_false(created);
    pshm_latch_fini(&l);
    assert_rc(init(&l, a, 0, NULL), PSHM_EPARAMETER);
    pshm_latch_fini(&l); /* of what was not opened: nothing */
    assert_rc(pshm_arena_delete(a, NAME, 5, NULL), 0);
    assert_rc(init(&l, a, 0, &created), 0);
    assert_true(created);
    assert_rc(pshm_latch_wait(&l, 0), 0); /* open from the beginning */
    pshm_latch_fini(&l);
    assert_rc(pshm_latch_init(&l, a, "lock", 4, true, 1, NULL), PSHM_EKIND);
    assert_rc(pshm_latch_init(&l, a, "", 0, true, 1, NULL), PSHM_ENAMESIZE);
    assert_rc(pshm_latch_init(&l, a, "a\0b", 3, true, 1, NULL), PSHM_ENAMETEXT);
}

/* ---- who waits ---- */

typedef struct job {
    helper_world *world;
    uint32_t *done;
    int rc;
} job;

static void *waiter(void *context)
{
    job *j = context;
    pshm_latch l = latch_of(j->world, PSHM_LATCH_ANY);
    j->rc = wait_long(&l);
    pshm_latch_fini(&l);
    __atomic_add_fetch(j->done, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void test_all_are_let_go_at_0(helper_world *world)
{
    enum { WAITERS = 8 };
    pthread_t threads[WAITERS];
    job jobs[WAITERS];
    uint32_t done = 0;
    pshm_latch l = latch_of(world, WAITERS);
    for (int i = 0; i < WAITERS; i++) {
        jobs[i] = (job){world, &done, 1};
        assert_int_equal(pthread_create(&threads[i], NULL, waiter, &jobs[i]), 0);
    }
    helper_until_waits(world->arena, NAME);
    for (uint32_t left = WAITERS; left--;) {
        assert_int_equal(__atomic_load_n(&done, __ATOMIC_SEQ_CST), 0);
        count_down(&l, 1, left);
    }
    for (int i = 0; i < WAITERS; i++) {
        pthread_join(threads[i], NULL);
        assert_rc(jobs[i].rc, 0);
    }
    pshm_latch_fini(&l);
}

/* Processes that count down at once: every one counts, one brings it to 0, and all see that. */
enum { ROUNDS = 200, PROCESSES = 3 };

static int count_and_wait(void *context)
{
    helper_world *world = context;
    for (int i = 0; i < ROUNDS; i++) {
        char name[16];
        pshm_latch l;
        uint32_t left;
        size_t length = (size_t)snprintf(name, sizeof name, "round %d", i);
        CHECK(pshm_latch_init(&l, world->arena, name, length, true, 2 * PROCESSES, NULL) == 0);
        for (int twice = 0; twice < 2; twice++) {
            CHECK(pshm_latch_count_down(&l, 1, &left) == 0);
            if (!left)
                __atomic_add_fetch(&world->stage->number, 1, __ATOMIC_SEQ_CST);
        }
        CHECK(wait_long(&l) == 0);
        pshm_latch_fini(&l);
    }
    return 0;
}

static void test_processes_that_count(helper_world *world)
{
    pid_t all[PROCESSES];
    world->stage->number = 0;
    for (int i = 0; i < PROCESSES; i++)
        all[i] = helper_fork(count_and_wait, world);
    for (int i = 0; i < PROCESSES; i++)
        assert_int_equal(helper_wait(all[i]), 0);
    assert_int_equal(world->stage->number, ROUNDS);
}

/* ---- pshm_wait ---- */

static void *count_when_asleep(void *context)
{
    job *j = context;
    uint32_t left;
    pshm_latch l = latch_of(j->world, PSHM_LATCH_ANY);
    helper_until_waits(j->world->arena, NAME);
    j->rc = pshm_latch_count_down(&l, 1, &left);
    pshm_latch_fini(&l);
    return NULL;
}

static void test_waitable(helper_world *world)
{
    pshm_latch l = latch_of(world, 1);
    const pshm_waitable it = {.object = &l.object};
    bool ready = true;
    size_t failed;
    assert_rc(pshm_waitable_ready(&it), 0);
    assert_rc(pshm_wait(&it, 1, in(0.01), &ready, &failed), -ETIMEDOUT);
    assert_false(ready);
    pthread_t thread, counter;
    uint32_t done = 0;
    job waiting = {world, &done, 1}, counting = {world, NULL, 1};
    assert_int_equal(pthread_create(&thread, NULL, waiter, &waiting), 0);
    assert_int_equal(pthread_create(&counter, NULL, count_when_asleep, &counting), 0);
    int rc = -EINTR;
    while (rc == -EINTR)
        rc = pshm_wait(&it, 1, PSHM_FOREVER, &ready, &failed);
    assert_rc(rc, 1);
    assert_true(ready);
    pthread_join(thread, NULL);
    pthread_join(counter, NULL);
    assert_rc(waiting.rc, 0);
    assert_rc(counting.rc, 0);
    assert_rc(pshm_waitable_ready(&it), 1);
    pshm_latch_fini(&l);
}

/* ---- deaths ---- */

static int wait_for_ever(void *context)
{
    helper_world *world = context;
    pshm_latch l;
    CHECK(init(&l, world->arena, PSHM_LATCH_ANY, NULL) == 0);
    for (;;)
        CHECK(pshm_latch_wait(&l, PSHM_FOREVER) == -EINTR);
}

static int count_for_ever(void *context)
{
    helper_world *world = context;
    pshm_latch l;
    uint32_t left, before = 0;
    CHECK(init(&l, world->arena, PSHM_LATCH_ANY, NULL) == 0);
    for (;;) {
        CHECK(pshm_latch_count_down(&l, 1, &left) == 0 && (!before || left == before - 1));
        before = left;
        __atomic_add_fetch(&world->stage->number, 1, __ATOMIC_SEQ_CST);
    }
}

/* What a dead one has counted stays counted; at the most the last one it had not told of. */
static void test_deaths(helper_world *world)
{
    const struct timespec pause = {0, 2000000};
    pshm_latch l = latch_of(world, PSHM_LATCH_MAX);
    uint32_t left, told = 0;
    for (int i = 0; i < 10; i++) {
        uint32_t before;
        assert_rc(pshm_latch_count(&l, &before), 0);
        world->stage->number = 0;
        pid_t counter = helper_fork(count_for_ever, world);
        nanosleep(&pause, NULL);
        helper_kill(counter);
        assert_rc(pshm_latch_count(&l, &left), 0);
        told = world->stage->number;
        assert_true(before - left == told || before - left == told + 1);
    }
    pid_t sleeper = helper_fork(wait_for_ever, world);
    helper_until_waits(world->arena, NAME);
    helper_kill(sleeper);
    count_down(&l, left, 0);
    assert_rc(wait_long(&l), 0);
    pshm_latch_fini(&l);
}

/* ---- what goes ---- */

static void test_deleted(helper_world *world)
{
    pthread_t thread;
    uint32_t done = 0, left;
    job j = {world, &done, 1};
    bool created = false;
    pshm_latch l = latch_of(world, 1), fresh;
    assert_int_equal(pthread_create(&thread, NULL, waiter, &j), 0);
    helper_until_waits(world->arena, NAME);
    assert_rc(pshm_arena_delete(world->arena, NAME, strlen(NAME), NULL), 0);
    pthread_join(thread, NULL);
    assert_rc(j.rc, PSHM_EDELETED);
    assert_rc(pshm_latch_count_down(&l, 1, &left), PSHM_EDELETED);
    assert_rc(pshm_latch_count(&l, &left), PSHM_EDELETED);
    assert_rc(pshm_latch_wait(&l, 0), PSHM_EDELETED);
    assert_rc(pshm_waitable_ready(&(pshm_waitable){.object = &l.object}), PSHM_EDELETED);
    assert_rc(init(&fresh, world->arena, 3, &created), 0);
    assert_true(created);
    assert_rc(pshm_latch_count_down(&l, 1, &left), PSHM_EDELETED);
    expect_left(&fresh, 3);
    pshm_latch_fini(&fresh);
    pshm_latch_fini(&l);
}

static void test_closed_and_readonly(helper_world *world)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *reader, *other;
    pshm_latch l = latch_of(world, 2), seen, more;
    uint32_t left;
    if (!strcmp(world->kind, "posix")) {
        const char *address = world->arena->address;
        assert_rc(pshm_arena_open(address, strlen(address), &options, &other), 0);
        options.access = PSHM_ACCESS_R;
        assert_rc(pshm_arena_open(address, strlen(address), &options, &reader), 0);
        assert_rc(init(&more, other, PSHM_LATCH_ANY, NULL), 0);
        assert_rc(init(&seen, reader, 2, NULL), 0);
        assert_rc(pshm_latch_init(&(pshm_latch){0}, reader, "none", 4, true, 1, NULL), PSHM_EREADONLY);
        expect_left(&seen, 2);
        assert_rc(pshm_latch_count_down(&seen, 1, &left), PSHM_EREADONLY);
        assert_rc(pshm_latch_wait(&seen, in(0.01)), -ETIMEDOUT);
        assert_rc(pshm_waitable_ready(&(pshm_waitable){.object = &seen.object}), 0);
        count_down(&more, 2, 0);
        assert_rc(pshm_latch_wait(&seen, 0), 0);
        assert_rc(pshm_waitable_ready(&(pshm_waitable){.object = &seen.object}), 1);
        pshm_arena_close(other);
        pshm_arena_close(reader);
        assert_rc(pshm_latch_count(&seen, &left), PSHM_ECLOSED);
        assert_rc(pshm_latch_wait(&seen, 0), PSHM_ECLOSED);
        assert_rc(pshm_latch_count(&more, &left), PSHM_ECLOSED);
        assert_rc(pshm_latch_count_down(&more, 1, &left), PSHM_ECLOSED);
        assert_rc(pshm_latch_wait(&more, 0), PSHM_ECLOSED);
        expect_left(&l, 0);
        pshm_latch_fini(&seen);
        pshm_latch_fini(&more);
        pshm_arena_release(other);
        pshm_arena_release(reader);
    }
    pshm_latch_fini(&l);
}

static int use_inherited(void *context)
{
    pshm_latch *l = context;
    uint32_t left;
    CHECK(pshm_latch_wait(l, 0) == -ETIMEDOUT);
    CHECK(pshm_latch_count_down(l, 1, &left) == 0 && left == 0);
    return 0;
}

static void test_forked(helper_world *world)
{
    pshm_latch l = latch_of(world, 1);
    helper_in_child(use_inherited, &l);
    expect_left(&l, 0);
    pshm_latch_fini(&l);
}

/* Any count is one. */
static void test_hostile_bytes(helper_world *world)
{
    pshm_latch l = latch_of(world, 1);
    uint32_t *words = l.object.body; /* sleepers, count, initial: docs/layout.rst */
    words[0] = words[1] = UINT32_MAX;
    assert_rc(pshm_latch_wait(&l, in(0.003)), -ETIMEDOUT);
    count_down(&l, 1, UINT32_MAX - 1);
    count_down(&l, UINT64_MAX, 0);
    assert_rc(pshm_latch_wait(&l, 0), 0);
    words[2] = UINT32_MAX;
    assert_rc(init(&(pshm_latch){0}, world->arena, 1, NULL), PSHM_EPARAMETER);
    words[2] = 1;
    pshm_latch_fini(&l);
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_verbs)
EACH_KIND(test_parameters)
EACH_KIND(test_all_are_let_go_at_0)
EACH_KIND(test_processes_that_count)
EACH_KIND(test_waitable)
EACH_KIND(test_deaths)
EACH_KIND(test_deleted)
EACH_KIND(test_closed_and_readonly)
EACH_KIND(test_forked)
EACH_KIND(test_hostile_bytes)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_verbs),
        TEST(each_test_parameters),
        TEST(each_test_all_are_let_go_at_0),
        TEST(each_test_processes_that_count),
        TEST(each_test_waitable),
        TEST(each_test_deaths),
        TEST(each_test_deleted),
        TEST(each_test_closed_and_readonly),
        TEST(each_test_forked),
        TEST(each_test_hostile_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
