/* SPDX-License-Identifier: MIT
 *
 * The counter: every verb, waits and wakes, and counters that go away.
 */
#include "helper_owner.h"

#include <polyshm/counter.h>

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

static pshm_counter counter_of(helper_world *world)
{
    pshm_counter counter;
    bool created;
    assert_rc(pshm_counter_init(&counter, world->arena, "count", 5, true, &created), 0);
    return counter;
}

static int64_t in(double seconds)
{
    return pshm_deadline((int64_t)(seconds * 1e9));
}

static void test_verbs(helper_world *world)
{
    pshm_counter c = counter_of(world), d = counter_of(world);
    int64_t v = 77;
    assert_rc(pshm_counter_load(&c, &v), 0);
    assert_int_equal(v, 0);
    assert_rc(pshm_counter_add(&c, 5, &v), 0);
    assert_int_equal(v, 5);
    assert_rc(pshm_counter_add(&d, -8, &v), 0);
    assert_int_equal(v, -3);
    assert_rc(pshm_counter_exchange(&c, 10, &v), 0);
    assert_int_equal(v, -3);
    v = 9;
    assert_rc(pshm_counter_compare_exchange(&c, &v, 1), 0);
    assert_int_equal(v, 10);
    assert_rc(pshm_counter_compare_exchange(&d, &v, 11), 0);
    assert_int_equal(v, 10);
    assert_rc(pshm_counter_max(&c, 3, &v), 0);
    assert_int_equal(v, 11);
    assert_rc(pshm_counter_max(&c, 12, &v), 0);
    assert_int_equal(v, 12);
    assert_rc(pshm_counter_min(&c, 13, &v), 0);
    assert_int_equal(v, 12);
    assert_rc(pshm_counter_min(&c, -13, &v), 0);
    assert_int_equal(v, -13);
    assert_rc(pshm_counter_store(&c, INT64_MAX), 0);
    assert_rc(pshm_counter_add(&c, 1, &v), 0);
    assert_true(v == INT64_MIN);
    assert_rc(pshm_counter_sub(&c, 1, &v), 0);
    assert_true(v == INT64_MAX);
    assert_rc(pshm_counter_sub(&d, INT64_MIN, &v), 0);
    assert_int_equal(v, -1);
    assert_rc(pshm_counter_sub(&d, INT64_MIN, &v), 0);
    assert_true(v == INT64_MAX);
    assert_rc(pshm_counter_load(&d, &v), 0);
    assert_true(v == INT64_MAX);
    pshm_counter_fini(&c);
    pshm_counter_fini(&d);
}

static void test_names(helper_world *world)
{
    char longest[256];
    pshm_counter c;
    bool created = false;
    memset(longest, 'n', sizeof longest);
    assert_rc(pshm_counter_init(&c, world->arena, longest, 255, true, &created), 0);
    assert_true(created);
    pshm_counter_fini(&c);
    assert_rc(pshm_counter_init(&c, world->arena, longest, 255, true, NULL), 0);
    pshm_counter_fini(&c);
    assert_rc(pshm_counter_init(&c, world->arena, longest, 255, true, &created), 0);
    assert_false(created);
    pshm_counter_fini(&c);
    assert_rc(pshm_counter_init(&c, world->arena, longest, 256, true, NULL), PSHM_ENAMESIZE);
    assert_rc(pshm_counter_init(&c, world->arena, "", 0, true, &created), PSHM_ENAMESIZE);
    assert_rc(pshm_counter_init(&c, world->arena, "a\0b", 3, true, &created), PSHM_ENAMETEXT);
    assert_rc(pshm_counter_init(&c, world->arena, "\xc3", 1, true, &created), PSHM_ENAMETEXT);
    assert_rc(pshm_counter_init(&c, world->arena, "lock", 4, true, &created), PSHM_EKIND);
    assert_rc(pshm_counter_init(&c, world->arena, "none", 4, false, &created), PSHM_ENONAME);
    pshm_counter_fini(&c); /* of what was not opened: nothing */
}

/* ---- waiting ---- */

static void test_timeouts(helper_world *world)
{
    pshm_counter c = counter_of(world);
    assert_rc(pshm_counter_wait(&c, 0, 0), 0);
    assert_rc(pshm_counter_wait(&c, INT64_MIN, PSHM_FOREVER), 0);
    assert_rc(pshm_counter_wait(&c, 1, 0), -ETIMEDOUT);
    assert_rc(pshm_counter_wait(&c, 1, in(0.01)), -ETIMEDOUT);
    assert_rc(pshm_counter_wait(&c, 1, PSHM_FOREVER), -EINTR); /* a slice */
    assert_rc(pshm_counter_wait(&c, 1, in(10)), -EINTR);
    pshm_counter_fini(&c);
}

static int wait_long(pshm_counter *c, int64_t least)
{
    int rc = -EINTR;
    for (int slices = 0; rc == -EINTR && slices < 200; slices++)
        rc = pshm_counter_wait(c, least, PSHM_FOREVER);
    return rc;
}

static int turns(helper_world *world, int64_t first, int64_t count)
{
    pshm_counter c;
    bool created;
    int64_t now;
    CHECK(pshm_counter_init(&c, world->arena, "count", 5, true, &created) == 0);
    for (int64_t i = 0; i < count; i++) {
        CHECK(wait_long(&c, 2 * i + first) == 0);
        CHECK(pshm_counter_add(&c, 1, &now) == 0 && now == 2 * i + first + 1);
    }
    pshm_counter_fini(&c);
    return 0;
}

static int second_player(void *context)
{
    return turns(context, 1, 3000);
}

static void test_turns_of_two_processes(helper_world *world)
{
    pid_t other = helper_fork(second_player, world);
    turns(world, 0, 3000);
    assert_int_equal(helper_wait(other), 0);
}

typedef struct job {
    helper_world *world;
    int64_t least;
    int rc;
} job;

static void *waiter(void *context)
{
    job *j = context;
    pshm_counter c = counter_of(j->world);
    j->rc = wait_long(&c, j->least);
    pshm_counter_fini(&c);
    return NULL;
}

/* Each of many is woken by its own value, and none before. */
static void test_many_wait(helper_world *world)
{
    enum { WAITERS = 8 };
    pthread_t threads[WAITERS];
    job jobs[WAITERS];
    pshm_counter c = counter_of(world);
    int64_t now;
    for (int i = 0; i < WAITERS; i++) {
        jobs[i] = (job){world, i + 1, 1};
        assert_int_equal(pthread_create(&threads[i], NULL, waiter, &jobs[i]), 0);
    }
    for (int i = 0; i < WAITERS; i++) {
        for (int k = i; k < WAITERS; k++)
            assert_int_equal(__atomic_load_n(&jobs[k].rc, __ATOMIC_SEQ_CST), 1);
        assert_rc(pshm_counter_add(&c, 1, &now), 0);
        pthread_join(threads[i], NULL);
        assert_rc(jobs[i].rc, 0);
    }
    pshm_counter_fini(&c);
}

static int add_for_ever(void *context)
{
    helper_world *world = context;
    pshm_counter c;
    bool created;
    int64_t now;
    CHECK(pshm_counter_init(&c, world->arena, "count", 5, true, &created) == 0);
    for (;;)
        CHECK(pshm_counter_add(&c, 1, &now) == 0);
}

static int wait_for_ever(void *context)
{
    helper_world *world = context;
    pshm_counter c;
    bool created;
    CHECK(pshm_counter_init(&c, world->arena, "count", 5, true, &created) == 0);
    helper_step(world, 1);
    for (;;)
        CHECK(pshm_counter_wait(&c, INT64_MAX, PSHM_FOREVER) == -EINTR);
}

static void test_deaths(helper_world *world)
{
    pshm_counter c = counter_of(world);
    int64_t before, after, now;
    for (int i = 0; i < 5; i++) {
        world->stage->step = 0;
        pid_t adder = helper_fork(add_for_ever, world), sleeper = helper_fork(wait_for_ever, world);
        assert_true(helper_until_step(world, 1));
        assert_rc(pshm_counter_load(&c, &before), 0);
        assert_rc(wait_long(&c, before + 1000), 0);
        helper_kill(adder);
        helper_until_asleep(sleeper);
        helper_kill(sleeper);
        assert_rc(pshm_counter_load(&c, &after), 0);
        assert_rc(pshm_counter_add(&c, 1, &now), 0);
        assert_int_equal(now, after + 1);
    }
    pshm_counter_fini(&c);
}

/* ---- what goes ---- */

static void test_deleted(helper_world *world)
{
    pthread_t thread;
    pshm_counter c = counter_of(world), fresh;
    job j = {world, 5, 1};
    bool created = false;
    int64_t v = 0;
    assert_int_equal(pthread_create(&thread, NULL, waiter, &j), 0);
    for (bool asleep = false; !asleep;) {
        pshm_participant *all;
        size_t count;
        assert_rc(pshm_arena_list_participants(world->arena, &all, &count), 0);
        for (size_t i = 0; i < count; i++)
            asleep |= !strcmp(all[i].waits, "count");
        pshm_participants_free(all);
    }
    assert_rc(pshm_arena_delete(world->arena, "count", 5, NULL), 0);
    pthread_join(thread, NULL);
    assert_rc(j.rc, PSHM_EDELETED);
    assert_rc(pshm_object_check(&c.object), PSHM_EDELETED);
    assert_rc(pshm_counter_load(&c, &v), PSHM_EDELETED);
    assert_rc(pshm_counter_store(&c, 1), PSHM_EDELETED);
    assert_rc(pshm_counter_add(&c, 1, &v), PSHM_EDELETED);
    assert_rc(pshm_counter_exchange(&c, 1, &v), PSHM_EDELETED);
    assert_rc(pshm_counter_compare_exchange(&c, &v, 1), PSHM_EDELETED);
    assert_rc(pshm_counter_max(&c, 1, &v), PSHM_EDELETED);
    assert_rc(pshm_counter_min(&c, 1, &v), PSHM_EDELETED);
    assert_rc(pshm_counter_wait(&c, 0, 0), PSHM_EDELETED);
    assert_rc(pshm_counter_init(&fresh, world->arena, "count", 5, true, &created), 0);
    assert_true(created);
    assert_rc(pshm_counter_add(&fresh, 3, &v), 0);
    assert_int_equal(v, 3);
    assert_rc(pshm_counter_load(&c, &v), PSHM_EDELETED);
    pshm_counter_fini(&fresh);
    pshm_counter_fini(&c);
}

static void test_closed_and_readonly(helper_world *world)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *reader, *other;
    pshm_counter c = counter_of(world), seen, more;
    bool created;
    int64_t v;
    if (!strcmp(world->kind, "posix")) {
        const char *address = world->arena->address;
        assert_rc(pshm_arena_open(address, strlen(address), &options, &other), 0);
        options.access = PSHM_ACCESS_R;
        assert_rc(pshm_arena_open(address, strlen(address), &options, &reader), 0);
        assert_rc(pshm_counter_init(&more, other, "count", 5, false, &created), 0);
        assert_rc(pshm_counter_init(&seen, reader, "count", 5, false, &created), 0);
        assert_rc(pshm_counter_store(&c, 4), 0);
        assert_rc(pshm_counter_load(&seen, &v), 0);
        assert_int_equal(v, 4);
        assert_rc(pshm_counter_store(&seen, 5), PSHM_EREADONLY);
        assert_rc(pshm_counter_min(&seen, 5, &v), PSHM_EREADONLY);
        assert_rc(pshm_counter_compare_exchange(&seen, &v, 5), PSHM_EREADONLY);
        assert_rc(pshm_counter_wait(&seen, 4, 0), 0);
        assert_rc(pshm_counter_wait(&seen, 5, in(0.01)), -ETIMEDOUT);
        pshm_arena_close(other);
        pshm_arena_close(reader);
        assert_rc(pshm_counter_load(&seen, &v), PSHM_ECLOSED);
        assert_rc(pshm_counter_load(&more, &v), PSHM_ECLOSED);
        assert_rc(pshm_counter_add(&more, 1, &v), PSHM_ECLOSED);
        assert_rc(pshm_counter_wait(&more, 0, 0), PSHM_ECLOSED);
        assert_rc(pshm_counter_add(&c, 1, &v), 0);
        assert_int_equal(v, 5);
        pshm_counter_fini(&seen);
        pshm_counter_fini(&more);
        pshm_arena_release(other);
        pshm_arena_release(reader);
    }
    pshm_counter_fini(&c);
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_verbs)
EACH_KIND(test_names)
EACH_KIND(test_timeouts)
EACH_KIND(test_turns_of_two_processes)
EACH_KIND(test_many_wait)
EACH_KIND(test_deaths)
EACH_KIND(test_deleted)
EACH_KIND(test_closed_and_readonly)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_verbs),     TEST(each_test_names),
        TEST(each_test_timeouts),  TEST(each_test_turns_of_two_processes),
        TEST(each_test_many_wait), TEST(each_test_deaths),
        TEST(each_test_deleted),   TEST(each_test_closed_and_readonly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
