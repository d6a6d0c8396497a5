/* SPDX-License-Identifier: MIT
 *
 * The mutex of an arena: every verb and every refusal, owner death as it is told, deleted and closed under its holder.
 * test_proof.c has deaths that are hard to prove, test_hand_over.c has fairness.
 */
#include "helper_owner.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static int init(pshm_mutex *mutex, pshm_arena *arena, const char *name, bool create, pshm_recursive recursive)
{
    bool created;
    return pshm_mutex_init(mutex, arena, name, strlen(name), create, recursive, &created);
}

static pshm_mutex recursive_in(pshm_arena *arena)
{
    pshm_mutex mutex;
    assert_rc(init(&mutex, arena, "again", true, PSHM_RECURSIVE_YES), 0);
    assert_true(mutex.recursive);
    return mutex;
}

static int64_t in(double seconds)
{
    return pshm_deadline((int64_t)(seconds * 1e9));
}

/* ---- opening ---- */

static void test_names(helper_world *world)
{
    pshm_arena *arena = world->arena;
    pshm_mutex m;
    bool created = false;
    assert_rc(pshm_mutex_init(&m, arena, "m", 1, true, PSHM_RECURSIVE_ANY, &created), 0);
    assert_true(created && !m.recursive);
    pshm_mutex_fini(&m);
    assert_rc(pshm_mutex_init(&m, arena, "m", 1, true, PSHM_RECURSIVE_NO, &created), 0);
    assert_false(created);
    pshm_mutex_fini(&m);
    assert_rc(init(&m, arena, "m", true, PSHM_RECURSIVE_YES), PSHM_ERECURSIVE);
    assert_rc(init(&m, arena, "none", false, PSHM_RECURSIVE_ANY), PSHM_ENONAME);
    assert_rc(init(&m, arena, "", true, PSHM_RECURSIVE_ANY), PSHM_ENAMESIZE);
    assert_rc(init(&m, arena, "\xff", true, PSHM_RECURSIVE_ANY), PSHM_ENAMETEXT);
    pshm_mutex again = recursive_in(arena);
    assert_rc(init(&m, arena, "again", true, PSHM_RECURSIVE_NO), PSHM_ERECURSIVE);
    assert_rc(init(&m, arena, "again", false, PSHM_RECURSIVE_ANY), 0);
    assert_true(m.recursive);
    pshm_mutex_fini(&m);
    pshm_mutex_fini(&again);
}

/* ---- verbs ---- */

static void *try_elsewhere(void *context)
{
    helper_world *world = context;
    pshm_death death = {true, 9, 9};
    uint32_t pid = 0;
    assert_rc(pshm_mutex_try(&world->lock, &death), -EBUSY);
    assert_false(death.died);
    assert_rc(pshm_mutex_acquire(&world->lock, 0, &death), -ETIMEDOUT);
    assert_rc(pshm_mutex_acquire(&world->lock, in(0.01), &death), -ETIMEDOUT);
    assert_rc(pshm_mutex_recover(&world->lock, in(0.01), &death), -ETIMEDOUT);
    assert_rc(pshm_mutex_acquire(&world->lock, PSHM_FOREVER, &death), -EINTR); /* a slice */
    assert_rc(pshm_mutex_release(&world->lock), PSHM_ENOTOWNER);
    assert_rc(pshm_mutex_consistent(&world->lock), PSHM_ENOTOWNER);
    assert_int_equal(pshm_mutex_locked(&world->lock), 1);
    assert_rc(pshm_mutex_owner(&world->lock, &pid), 0);
    assert_int_equal(pid, getpid());
    return NULL;
}

static void test_verbs(helper_world *world)
{
    pthread_t thread;
    pshm_death death = {true, 9, 9};
    uint32_t pid = 1;
    assert_int_equal(pshm_mutex_locked(&world->lock), 0);
    assert_rc(pshm_mutex_owner(&world->lock, &pid), 0);
    assert_int_equal(pid, 0);
    assert_rc(pshm_mutex_release(&world->lock), PSHM_ENOTOWNER);
    assert_rc(pshm_mutex_consistent(&world->lock), PSHM_ENOTOWNER);
    for (int how = 0; how < 3; how++) {
        death = (pshm_death){true, 9, 9};
        assert_rc(how == 0   ? pshm_mutex_try(&world->lock, &death)
                  : how == 1 ? pshm_mutex_acquire(&world->lock, 0, &death)
                             : pshm_mutex_recover(&world->lock, PSHM_FOREVER, &death),
                  0);
        assert_false(death.died);
        assert_int_equal(pshm_mutex_locked(&world->lock), 1);
        assert_rc(pshm_mutex_try(&world->lock, &death), PSHM_ERELOCK);
        assert_rc(pshm_mutex_acquire(&world->lock, 0, &death), PSHM_ERELOCK);
        assert_rc(pshm_mutex_recover(&world->lock, PSHM_FOREVER, &death), PSHM_ERELOCK);
        assert_int_equal(pthread_create(&thread, NULL, try_elsewhere, world), 0);
        pthread_join(thread, NULL);
        assert_rc(pshm_mutex_consistent(&world->lock), 0); /* nothing to be said */
        assert_rc(pshm_mutex_release(&world->lock), 0);
    }
    assert_rc(pshm_mutex_release(&world->lock), PSHM_ENOTOWNER);
}

static void test_recursive(helper_world *world)
{
    pshm_mutex m = recursive_in(world->arena);
    pshm_death death;
    for (int i = 0; i < 65536; i++)
        assert_rc(pshm_mutex_try(&m, &death), 0);
    assert_rc(pshm_mutex_try(&m, &death), PSHM_EDEPTH);
    assert_rc(pshm_mutex_acquire(&m, PSHM_FOREVER, &death), PSHM_EDEPTH);
    for (int i = 0; i < 65536; i++) {
        assert_int_equal(pshm_mutex_locked(&m), 1);
        assert_rc(pshm_mutex_release(&m), 0);
    }
    assert_int_equal(pshm_mutex_locked(&m), 0);
    assert_rc(pshm_mutex_release(&m), PSHM_ENOTOWNER);
    pshm_mutex_fini(&m);
}

/* Two handles are one lock; a handle that ends leaves it held. */
static void test_handles(helper_world *world)
{
    pshm_mutex other;
    pshm_death death;
    assert_rc(init(&other, world->arena, "lock", false, PSHM_RECURSIVE_ANY), 0);
    assert_rc(pshm_mutex_try(&other, &death), 0);
    assert_rc(pshm_mutex_try(&world->lock, &death), PSHM_ERELOCK);
    pshm_mutex_fini(&other);
    assert_int_equal(pshm_mutex_locked(&world->lock), 1);
    assert_rc(pshm_mutex_release(&world->lock), 0);
}

static void test_as_many_as_a_thread_can_hold(helper_world *world)
{
    enum { MOST = PSHM_HOLDS_MAX };
    pshm_mutex locks[MOST + 1];
    pshm_death death;
    for (int i = 0; i <= MOST; i++) {
        char name[16];
        snprintf(name, sizeof name, "lock %d", i);
        assert_rc(init(&locks[i], world->arena, name, true, PSHM_RECURSIVE_NO), 0);
    }
    for (int i = 0; i < MOST; i++)
        assert_rc(pshm_mutex_try(&locks[i], &death), 0);
    assert_rc(pshm_mutex_try(&locks[MOST], &death), PSHM_EHOLDS);
    assert_rc(pshm_mutex_acquire(&locks[MOST], PSHM_FOREVER, &death), PSHM_EHOLDS);
    assert_rc(pshm_mutex_release(&locks[7]), 0);
    assert_rc(pshm_mutex_try(&locks[MOST], &death), 0);
    assert_rc(pshm_mutex_try(&locks[7], &death), PSHM_EHOLDS);
    for (int i = 0; i <= MOST; i++) {
        if (i != 7)
            assert_rc(pshm_mutex_release(&locks[i]), 0);
        pshm_mutex_fini(&locks[i]);
    }
}

/* ---- exclusion ---- */

#define TURNS 20000

static int count_up(void *context)
{
    helper_world *world = context;
    pshm_death death;
    for (int i = 0; i < TURNS; i++) {
        int rc;
        do
            rc = pshm_mutex_acquire(&world->lock, PSHM_FOREVER, &death);
        while (rc == -EINTR);
        CHECK(rc == 0);
        world->stage->number++;
        CHECK(pshm_mutex_release(&world->lock) == 0);
    }
    return 0;
}

static void *count_up_in_thread(void *context)
{
    count_up(context);
    return NULL;
}

static void test_exclusion(helper_world *world)
{
    pthread_t threads[2];
    pid_t children[2];
    world->stage->number = 0;
    for (int i = 0; i < 2; i++)
        children[i] = helper_fork(count_up, world);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_up_in_thread, world), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(helper_wait(children[i]), 0);
    }
    assert_int_equal(world->stage->number, 4 * TURNS);
}

/* ---- death ---- */

static int hold(void *context)
{
    helper_world *world = context;
    pshm_death death;
    CHECK(helper_acquire(&world->lock, 50, &death) == 0);
    helper_step(world, 1);
    for (;;)
        pause();
}

static int recover_and_hold(void *context)
{
    helper_world *world = context;
    pshm_death death;
    CHECK(pshm_mutex_recover(&world->lock, PSHM_FOREVER, &death) == 0 && death.died);
    helper_step(world, 1);
    for (;;)
        pause();
}

static uint32_t killed_while_it(helper_child *function, helper_world *world)
{
    helper_step(world, 0);
    pid_t child = helper_fork(function, world);
    assert_true(helper_until_step(world, 1));
    helper_kill(child);
    return (uint32_t)child;
}

static void expect_told(helper_world *world, uint32_t pid)
{
    pshm_death death = {false, 0, 0};
    uint32_t owner = 1;
    assert_rc(pshm_mutex_try(&world->lock, &death), -EOWNERDEAD);
    assert_true(death.died && death.pid == pid && death.participant);
    death = (pshm_death){false, 0, 0};
    assert_rc(pshm_mutex_acquire(&world->lock, PSHM_FOREVER, &death), -EOWNERDEAD);
    assert_true(death.died && death.pid == pid && death.participant);
    assert_int_equal(pshm_mutex_locked(&world->lock), 0);
    assert_rc(pshm_mutex_owner(&world->lock, &owner), 0);
    assert_int_equal(owner, 0);
    assert_rc(pshm_mutex_release(&world->lock), PSHM_ENOTOWNER);
}

static void recover(helper_world *world, uint32_t pid)
{
    pshm_death death = {false, 0, 0};
    assert_rc(pshm_mutex_recover(&world->lock, PSHM_FOREVER, &death), 0);
    assert_true(death.died && death.pid == pid && death.participant);
    assert_int_equal(pshm_mutex_locked(&world->lock), 1);
}

static void test_death(helper_world *world)
{
    uint32_t first = killed_while_it(hold, world);
    expect_told(world, first);
    expect_told(world, first); /* as often as anybody asks */
    recover(world, first);
    assert_rc(pshm_mutex_release(&world->lock), 0); /* not made good: the mark stays */
    expect_told(world, first);
    /* Who dies in the repair is not the one who left the data torn. */
    killed_while_it(recover_and_hold, world);
    expect_told(world, first);
    killed_while_it(recover_and_hold, world);
    recover(world, first);
    assert_rc(pshm_mutex_consistent(&world->lock), 0);
    assert_rc(pshm_mutex_release(&world->lock), 0);
    pshm_death death = {true, 9, 9};
    assert_rc(pshm_mutex_recover(&world->lock, PSHM_FOREVER, &death), 0);
    assert_false(death.died);
    assert_rc(pshm_mutex_release(&world->lock), 0);
    /* One that is met by who recovers first, and one after all was made good. */
    uint32_t second = killed_while_it(hold, world);
    recover(world, second);
    assert_rc(pshm_mutex_consistent(&world->lock), 0);
    assert_rc(pshm_mutex_release(&world->lock), 0);
    helper_expect_death(world, killed_while_it(hold, world));
}

static void *end_while_holding(void *context)
{
    helper_world *world = context;
    pshm_death death;
    assert_rc(pshm_mutex_try(&world->lock, &death), 0);
    return NULL;
}

static void test_death_of_a_thread(helper_world *world)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, end_while_holding, world), 0);
    pthread_join(thread, NULL);
    helper_expect_death(world, (uint32_t)getpid());
}

static int hold_recursively(void *context)
{
    helper_world *world = context;
    pshm_mutex m;
    pshm_death death;
    CHECK(init(&m, world->arena, "again", false, PSHM_RECURSIVE_ANY) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(pshm_mutex_try(&m, &death) == 0);
    return raise(SIGKILL);
}

static void test_death_of_a_recursive_owner(helper_world *world)
{
    pshm_mutex m = recursive_in(world->arena);
    pshm_death death;
    pid_t child = helper_fork(hold_recursively, world);
    assert_int_equal(helper_wait(child), 256 + SIGKILL);
    assert_rc(pshm_mutex_try(&m, &death), -EOWNERDEAD);
    assert_int_equal(death.pid, child);
    assert_rc(pshm_mutex_recover(&m, PSHM_FOREVER, &death), 0);
    assert_true(death.died);
    assert_rc(pshm_mutex_try(&m, &death), 0); /* again, and nobody died meanwhile */
    assert_false(death.died);
    assert_rc(pshm_mutex_release(&m), 0);
    assert_rc(pshm_mutex_consistent(&m), 0);
    assert_rc(pshm_mutex_release(&m), 0);
    assert_int_equal(pshm_mutex_locked(&m), 0);
    pshm_mutex_fini(&m);
}

/* ---- what goes ---- */

typedef struct job {
    helper_world *world;
    int rc;
} job;

static void *wait_long(void *context)
{
    job *j = context;
    pshm_death death;
    helper_step(j->world, 1);
    j->rc = helper_acquire(&j->world->lock, 200, &death);
    return NULL;
}

static void test_deleted(helper_world *world)
{
    pthread_t thread;
    pshm_mutex fresh;
    pshm_death death;
    uint32_t pid;
    job j = {world, 1};
    helper_step(world, 0);
    assert_rc(pshm_mutex_try(&world->lock, &death), 0);
    assert_int_equal(pthread_create(&thread, NULL, wait_long, &j), 0);
    assert_true(helper_until_step(world, 1));
    assert_rc(pshm_arena_delete(world->arena, "lock", 4, &world->lock.object), 0);
    pthread_join(thread, NULL);
    assert_rc(j.rc, PSHM_EDELETED);
    assert_rc(pshm_mutex_try(&world->lock, &death), PSHM_EDELETED);
    assert_rc(pshm_mutex_acquire(&world->lock, 0, &death), PSHM_EDELETED);
    assert_rc(pshm_mutex_recover(&world->lock, 0, &death), PSHM_EDELETED);
    assert_rc(pshm_mutex_locked(&world->lock), PSHM_EDELETED);
    assert_rc(pshm_mutex_owner(&world->lock, &pid), PSHM_EDELETED);
    /* Another of that name; the old handle does not delete it. */
    assert_rc(init(&fresh, world->arena, "lock", true, PSHM_RECURSIVE_NO), 0);
    assert_rc(pshm_arena_delete(world->arena, "lock", 4, &world->lock.object), PSHM_EDELETED);
    assert_rc(pshm_mutex_try(&fresh, &death), 0);
    assert_rc(pshm_mutex_release(&world->lock), 0); /* what was held can be given back */
    assert_rc(pshm_mutex_release(&world->lock), PSHM_ENOTOWNER);
    assert_int_equal(pshm_mutex_locked(&fresh), 1);
    assert_rc(pshm_mutex_release(&fresh), 0);
    pshm_mutex_fini(&fresh);
}

static void test_readonly(helper_world *world)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *reader;
    pshm_mutex m;
    pshm_death death;
    uint32_t pid;
    if (strcmp(world->kind, "posix"))
        return;
    options.access = PSHM_ACCESS_R;
    assert_rc(pshm_arena_open(world->arena->address, strlen(world->arena->address), &options, &reader), 0);
    assert_rc(init(&m, reader, "new", true, PSHM_RECURSIVE_NO), PSHM_EREADONLY);
    assert_rc(init(&m, reader, "lock", false, PSHM_RECURSIVE_NO), 0);
    assert_rc(pshm_mutex_try(&m, &death), PSHM_EREADONLY);
    assert_rc(pshm_mutex_acquire(&m, 0, &death), PSHM_EREADONLY);
    assert_rc(pshm_mutex_recover(&m, 0, &death), PSHM_EREADONLY);
    assert_int_equal(pshm_mutex_locked(&m), 0);
    assert_rc(pshm_mutex_try(&world->lock, &death), 0);
    assert_int_equal(pshm_mutex_locked(&m), 1);
    assert_rc(pshm_mutex_owner(&m, &pid), 0);
    assert_int_equal(pid, getpid());
    assert_rc(pshm_mutex_release(&world->lock), 0);
    helper_expect_death(world, killed_while_it(hold, world));
    pshm_mutex_fini(&m);
    pshm_arena_close(reader);
    pshm_arena_release(reader);
}

/* A second handle on the arena is closed while a lock of it is held. */
static void test_closed(helper_world *world)
{
    pshm_arena *other;
    pshm_mutex m;
    pshm_death death;
    uint32_t pid;
    if (strcmp(world->kind, "posix"))
        return;
    assert_rc(pshm_arena_open(world->arena->address, strlen(world->arena->address), NULL, &other), 0);
    assert_rc(init(&m, other, "lock", false, PSHM_RECURSIVE_NO), 0);
    assert_rc(pshm_mutex_try(&m, &death), 0);
    pshm_arena_close(other);
    assert_rc(pshm_mutex_try(&m, &death), PSHM_ECLOSED);
    assert_rc(pshm_mutex_acquire(&m, PSHM_FOREVER, &death), PSHM_ECLOSED);
    assert_rc(pshm_mutex_locked(&m), PSHM_ECLOSED);
    assert_rc(pshm_mutex_owner(&m, &pid), PSHM_ECLOSED);
    assert_int_equal(pshm_mutex_locked(&world->lock), 1);
    assert_rc(pshm_mutex_release(&m), 0);
    assert_int_equal(pshm_mutex_locked(&world->lock), 0);
    pshm_mutex_fini(&m);
    pshm_arena_release(other);
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_names)
EACH_KIND(test_verbs)
EACH_KIND(test_recursive)
EACH_KIND(test_handles)
EACH_KIND(test_as_many_as_a_thread_can_hold)
EACH_KIND(test_exclusion)
EACH_KIND(test_death)
EACH_KIND(test_death_of_a_thread)
EACH_KIND(test_death_of_a_recursive_owner)
EACH_KIND(test_deleted)
EACH_KIND(test_readonly)
EACH_KIND(test_closed)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_names),
        TEST(each_test_verbs),
        TEST(each_test_recursive),
        TEST(each_test_handles),
        TEST(each_test_as_many_as_a_thread_can_hold),
        TEST(each_test_exclusion),
        TEST(each_test_death),
        TEST(each_test_death_of_a_thread),
        TEST(each_test_death_of_a_recursive_owner),
        TEST(each_test_deleted),
        TEST(each_test_readonly),
        TEST(each_test_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
