/* SPDX-License-Identifier: MIT
 *
 * Many at one condition: as many wake up as are notified, and no wake is lost whoever is killed or stopped.
 */
#include "helper_owner.h"

#include <polyshm/condition.h>

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

/* A buffer with room for a few, which is all numbers. */
#define ROOM 3u
#define REST 100u
#define WORKERS 6
#define KILLS 60

typedef struct store {
    uint32_t produced, consumed;
    uint32_t limit; /* of what is produced */
} store;

typedef struct shop {
    helper_world *world;
    store *store;
    pshm_condition filled, emptied;
    int role;
} shop;

static int shop_init(shop *s)
{
    int rc = pshm_condition_init(&s->filled, s->world->arena, "filled", 6, true, &s->world->lock, NULL);
    return rc ? rc : pshm_condition_init(&s->emptied, s->world->arena, "emptied", 7, true, &s->world->lock, NULL);
}

static void shop_fini(shop *s)
{
    pshm_condition_fini(&s->filled);
    pshm_condition_fini(&s->emptied);
}

/* What the lock guards is whole after any death. */
static int lock_again(shop *s, int rc)
{
    pshm_death death;
    while (rc == -EINTR || rc == -EOWNERDEAD) {
        rc = rc == -EINTR ? pshm_mutex_acquire(&s->world->lock, PSHM_FOREVER, &death)
                          : pshm_mutex_recover(&s->world->lock, PSHM_FOREVER, &death);
        if (!rc && death.died)
            rc = pshm_mutex_consistent(&s->world->lock);
        if (rc == PSHM_ENOTOWNER || rc == -EBUSY)
            return rc;
    }
    return rc;
}

static int wait_on(shop *s, pshm_condition *c)
{
    pshm_condition_ticket ticket = {0};
    pshm_death death;
    int rc = -EINTR;
    while (rc == -EINTR)
        rc = pshm_condition_wait(c, &ticket, PSHM_FOREVER, &death);
    return lock_again(s, rc);
}

static bool is_over(const store *b)
{
    return b->consumed == b->limit;
}

/* One step of a worker, with the lock held. 0, or 1 at the end. */
static int work(shop *s)
{
    store *b = s->store;
    bool consumes = s->role % 2;
    pshm_condition *awaited = consumes ? &s->filled : &s->emptied, *told = consumes ? &s->emptied : &s->filled;
    while (!is_over(b) &&
           (consumes ? b->consumed == b->produced : b->produced - b->consumed == ROOM || b->produced == b->limit))
        CHECK(wait_on(s, awaited) == 0);
    if (is_over(b))
        return 1;
    CHECK(b->produced - b->consumed <= ROOM && b->produced <= b->limit);
    if (consumes)
        b->consumed++;
    else
        b->produced++;
    CHECK(pshm_condition_notify(told, 1) == 0);
    if (is_over(b))
        CHECK(pshm_condition_notify_all(&s->filled) == 0 && pshm_condition_notify_all(&s->emptied) == 0);
    return is_over(b);
}

static int worker(void *context)
{
    shop *s = context;
    int over = 0;
    while (!over) {
        CHECK(lock_again(s, -EINTR) == 0);
        over = work(s);
        CHECK(pshm_mutex_release(&s->world->lock) == 0);
    }
    return 0;
}

/* Kills and stops at random, and puts a new worker in the place of each. */
static void trouble(shop *s, pid_t pids[WORKERS], unsigned seed)
{
    for (int i = 0; i < KILLS; i++) {
        int who = rand_r(&seed) % WORKERS;
        usleep(500 + (unsigned)rand_r(&seed) % 4000);
        if (i % 3 == 0) {
            kill(pids[who], SIGSTOP);
            usleep((unsigned)rand_r(&seed) % 5000);
            kill(pids[who], SIGCONT);
            continue;
        }
        kill(pids[who], SIGKILL);
        assert_int_equal(helper_wait(pids[who]), 256 + SIGKILL);
        s->role = who;
        pids[who] = helper_fork(worker, s);
    }
}

static void test_no_wake_is_lost(helper_world *world)
{
    shop s = {.world = world, .store = helper_memory(sizeof(store))};
    pid_t pids[WORKERS];
    assert_rc(shop_init(&s), 0);
    s.store->limit = UINT32_MAX;
    for (int i = 0; i < WORKERS; i++) {
        s.role = i;
        pids[i] = helper_fork(worker, &s);
    }
    trouble(&s, pids, (unsigned)world->kind[0]);
    assert_true(s.store->consumed > 0);
    assert_rc(lock_again(&s, -EINTR), 0);
    s.store->limit = s.store->produced + REST;
    assert_rc(pshm_mutex_release(&world->lock), 0);
    for (int i = 0; i < 60000 && !is_over(s.store); i++)
        usleep(1000);
    if (!is_over(s.store)) {
        print_error("produced %u, consumed %u: all sleep\n", s.store->produced, s.store->consumed);
        for (int i = 0; i < WORKERS; i++)
            helper_kill(pids[i]);
        fail();
    }
    for (int i = 0; i < WORKERS; i++)
        assert_int_equal(helper_wait(pids[i]), 0);
    assert_int_equal(s.store->produced, s.store->limit);
    shop_fini(&s);
    helper_memory_end(s.store, sizeof(store));
}

/* ---- how many wake up ---- */

typedef struct sleeper {
    shop *shop;
    uint32_t *awake; /* guarded by the lock */
    int rc;
} sleeper;

static void *sleep_once(void *context)
{
    sleeper *me = context;
    pshm_condition_ticket ticket = {0};
    pshm_death death;
    me->rc = lock_again(me->shop, -EINTR);
    for (me->rc = me->rc ? me->rc : -EINTR; me->rc == -EINTR;)
        me->rc = pshm_condition_wait(&me->shop->filled, &ticket, PSHM_FOREVER, &death);
    if (!me->rc) {
        ++*me->awake;
        me->rc = pshm_mutex_release(&me->shop->world->lock);
    }
    return NULL;
}

static uint32_t awake_now(shop *s, const uint32_t *awake)
{
    assert_rc(lock_again(s, -EINTR), 0);
    uint32_t count = *awake;
    assert_rc(pshm_mutex_release(&s->world->lock), 0);
    return count;
}

static void notify(shop *s, uint32_t count)
{
    assert_rc(lock_again(s, -EINTR), 0);
    if (count)
        assert_rc(pshm_condition_notify(&s->filled, count), 0);
    else
        assert_rc(pshm_condition_notify_all(&s->filled), 0);
    assert_rc(pshm_mutex_release(&s->world->lock), 0);
}

static void test_so_many_wake(helper_world *world)
{
    enum { SLEEPERS = 8 };
    pthread_t threads[SLEEPERS];
    sleeper sleepers[SLEEPERS];
    uint32_t awake = 0, asleep = 0;
    shop s = {.world = world};
    assert_rc(shop_init(&s), 0);
    for (int i = 0; i < SLEEPERS; i++) {
        sleepers[i] = (sleeper){&s, &awake, 1};
        assert_int_equal(pthread_create(&threads[i], NULL, sleep_once, &sleepers[i]), 0);
    }
    while (asleep < SLEEPERS) {
        pshm_participant *all;
        size_t count;
        assert_rc(pshm_arena_list_participants(world->arena, &all, &count), 0);
        asleep = 0;
        for (size_t i = 0; i < count; i++)
            asleep += !strcmp(all[i].waits, "filled");
        pshm_participants_free(all);
    }
    assert_int_equal(awake_now(&s, &awake), 0);
    notify(&s, 1);
    while (awake_now(&s, &awake) < 1)
        usleep(100);
    notify(&s, 3);
    while (awake_now(&s, &awake) < 4)
        usleep(100);
    notify(&s, 0);
    for (int i = 0; i < SLEEPERS; i++) {
        pthread_join(threads[i], NULL);
        assert_rc(sleepers[i].rc, 0);
    }
    assert_int_equal(awake, SLEEPERS);
    shop_fini(&s);
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_no_wake_is_lost)
EACH_KIND(test_so_many_wake)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(each_test_no_wake_is_lost), TEST(each_test_so_many_wake)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
