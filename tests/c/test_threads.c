/* SPDX-License-Identifier: MIT
 *
 * Threads that end with locks in their hands while their process lives on: what they leave is as much everybody's as what
 * a dead process leaves.
 */
#include "helper_owner.h"

#include <polyshm/heap.h>

#include <pthread.h>
#include <unistd.h>

#define LOST 40 /* more than there are slots */

static void *hold(void *context)
{
    helper_world *world = context;
    pshm_death death;
    CHECK(helper_recover(&world->lock, 100, &death) == 0);
    return NULL;
}

/* Every thread takes over from the one before, and ends so too. */
static int lose_threads(void *context)
{
    helper_world *world = context;
    pthread_t thread;
    for (int i = 0; i < LOST; i++)
        CHECK(pthread_create(&thread, NULL, hold, world) == 0 && pthread_join(thread, NULL) == 0);
    helper_step(world, 1);
    CHECK(helper_until_step(world, 2));
    return 0;
}

static int attach(void *context)
{
    helper_world *world = context;
    pshm_death death;
    CHECK(pshm_participant_attach(world->arena) == 0);
    CHECK(helper_acquire(&world->lock, 3, &death) == -EOWNERDEAD);
    return 0;
}

static void lost(helper_world *world)
{
    helper_step(world, 0);
    pid_t pid = helper_fork(lose_threads, world);
    assert_true(helper_until_step(world, 1));
    for (int i = 0; i < 3; i++)
        helper_in_child(attach, world);
    helper_step(world, 2);
    assert_int_equal(helper_wait(pid), 0);
    helper_expect_death(world, (uint32_t)pid);
}

static void test_slots(void **state)
{
    (void)state;
    helper_each_kind(lost);
}

/* ---- memory ---- */

static int lose_one(void *context)
{
    helper_world *world = context;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, hold, world) == 0 && pthread_join(thread, NULL) == 0);
    helper_step(world, 1);
    CHECK(helper_until_step(world, 2));
    return 0;
}

static uint64_t used(pshm_arena *arena)
{
    pshm_arena_stats stats;
    assert_rc(pshm_arena_stats_of(arena, &stats), 0);
    return stats.used;
}

/* The lock is deleted after the death was made good: its memory is free, though the process that it was in lives. */
static void deleted(helper_world *world)
{
    bool created;
    helper_step(world, 0);
    pid_t pid = helper_fork(lose_one, world);
    assert_true(helper_until_step(world, 1));
    helper_expect_death(world, (uint32_t)pid);
    uint64_t before = used(world->arena), size = 0;
    assert_rc(pshm_heap_block_size(world->arena, world->lock.object.place, &size), 0);
    assert_rc(pshm_arena_delete(world->arena, "lock", 4, NULL), 0);
    assert_int_equal(used(world->arena), before - size);
    helper_step(world, 2);
    assert_int_equal(helper_wait(pid), 0);
    pshm_mutex_fini(&world->lock);
    assert_rc(pshm_mutex_init(&world->lock, world->arena, "lock", 4, true, PSHM_RECURSIVE_NO, &created), 0);
}

static void test_memory(void **state)
{
    (void)state;
    helper_each_kind(deleted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_slots),
        TEST(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
