/* SPDX-License-Identifier: MIT
 *
 * The condition: waits and notifications, the mutex given up and taken back with its depth, deaths of those who have the
 * mutex, and conditions and mutexes that go away. test_condition_crowd.c has many at once, and kills.
 */
#include "helper_owner.h"

#include <polyshm/condition.h>

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/waiting.h"

static int64_t in(double seconds)
{
    return pshm_deadline((int64_t)(seconds * 1e9));
}

static pshm_condition condition_of(helper_world *world)
{
    pshm_condition c;
    assert_rc(pshm_condition_init(&c, world->arena, "c", 1, true, &world->lock, NULL), 0);
    return c;
}

static void lock(pshm_condition *c)
{
    pshm_death death;
    assert_rc(helper_acquire(&c->mutex, 100, &death), 0);
}

static void unlock(pshm_condition *c)
{
    assert_rc(pshm_mutex_release(&c->mutex), 0);
}

static int wait_long(pshm_condition *c, int64_t deadline, pshm_death *death)
{
    pshm_condition_ticket ticket = {0};
    int rc = -EINTR;
    for (int slices = 0; rc == -EINTR && slices < 200; slices++)
        rc = pshm_condition_wait(c, &ticket, deadline, death);
    return rc;
}

/* Waits until so many threads sleep for the object of that name. */
static void until_asleep(helper_world *world, const char *name, size_t wanted)
{
    for (size_t asleep = 0; asleep < wanted;) {
        pshm_participant *all;
        size_t count;
        assert_rc(pshm_arena_list_participants(world->arena, &all, &count), 0);
        asleep = 0;
        for (size_t i = 0; i < count; i++)
            asleep += !strcmp(all[i].waits, name);
        pshm_participants_free(all);
        usleep(200);
    }
}

/* ---- opening ---- */

static void test_names(helper_world *world)
{
    pshm_arena *arena = world->arena;
    pshm_condition c, again;
    pshm_mutex other;
    bool created = true;
    assert_rc(pshm_condition_init(&c, arena, "c", 1, false, NULL, &created), PSHM_ENONAME);
    assert_false(created);
    assert_rc(pshm_condition_init(&c, arena, "c", 1, false, &world->lock, NULL), PSHM_ENONAME);
    assert_rc(pshm_condition_init(&c, arena, "c", 1, true, NULL, NULL), PSHM_ENOMUTEX);
    assert_rc(pshm_condition_init(&c, arena, "", 0, true, &world->lock, NULL), PSHM_ENAMESIZE);
    assert_rc(pshm_condition_init(&c, arena, "\xff", 1, true, &world->lock, NULL), PSHM_ENAMETEXT);
    assert_rc(pshm_condition_init(&c, arena, "lock", 4, true, &world->lock, NULL), PSHM_EKIND);
    pshm_condition_fini(&c); /* of what was not opened: nothing */
    assert_rc(pshm_condition_init(&c, arena, "c", 1, true, &world->lock, &created), 0);
    assert_true(created);
    assert_string_equal(c.mutex.object.name, "lock");
    assert_rc(pshm_condition_init(&again, arena, "c", 1, true, NULL, &created), 0);
    assert_false(created);
    assert_int_equal(again.mutex.place, world->lock.place);
    pshm_condition_fini(&again);
    assert_rc(pshm_mutex_init(&other, arena, "other", 5, true, PSHM_RECURSIVE_NO, NULL), 0);
    assert_rc(pshm_condition_init(&again, arena, "c", 1, true, &other, NULL), PSHM_EPARAMETER);
    assert_rc(pshm_condition_init(&again, arena, "c", 1, false, &other, NULL), PSHM_EPARAMETER);
    assert_rc(pshm_mutex_init(&again.mutex, arena, "c", 1, true, PSHM_RECURSIVE_NO, NULL), PSHM_EKIND);
    pshm_mutex_fini(&other);
    pshm_condition_fini(&c);
}

static void test_mutex_of_another_arena(helper_world *world)
{
    helper_world elsewhere = helper_world_open("anon");
    pshm_condition c;
    assert_rc(pshm_condition_init(&c, world->arena, "c", 1, true, &elsewhere.lock, NULL), PSHM_ENOMUTEX);
    pshm_condition there = condition_of(world);
    assert_rc(pshm_condition_init(&c, world->arena, "c", 1, true, &elsewhere.lock, NULL), PSHM_ENOMUTEX);
    pshm_condition_fini(&there);
    helper_world_end(&elsewhere);
}

static void test_deleted_mutex(helper_world *world)
{
    pshm_condition c = condition_of(world), again;
    pshm_mutex fresh;
    assert_rc(pshm_arena_delete(world->arena, "lock", 4, NULL), 0);
    assert_rc(pshm_condition_init(&again, world->arena, "c", 1, true, NULL, NULL), PSHM_EDELETED);
    assert_rc(pshm_condition_init(&again, world->arena, "new", 3, true, &world->lock, NULL), PSHM_EDELETED);
    /* Another one of that name, or in its place, is not that one. */
    assert_rc(pshm_mutex_init(&fresh, world->arena, "lock", 4, true, PSHM_RECURSIVE_NO, NULL), 0);
    assert_rc(pshm_condition_init(&again, world->arena, "c", 1, true, NULL, NULL), PSHM_EDELETED);
    assert_rc(pshm_condition_init(&again, world->arena, "c", 1, true, &fresh, NULL), PSHM_EPARAMETER);
    assert_rc(pshm_condition_notify(&c, 1), PSHM_ENOTOWNER);
    pshm_condition_fini(&c);
    assert_rc(pshm_arena_delete(world->arena, "c", 1, NULL), 0);
    assert_rc(pshm_condition_init(&again, world->arena, "c", 1, true, &fresh, NULL), 0);
    pshm_condition_fini(&again);
    pshm_mutex_fini(&fresh);
}

/* ---- verbs ---- */

static void test_without_the_mutex(helper_world *world)
{
    pshm_condition c = condition_of(world);
    pshm_condition_ticket ticket = {0};
    pshm_death death;
    for (int round = 0; round < 2; round++) {
        assert_rc(pshm_condition_begin(&c, &ticket), PSHM_ENOTOWNER);
        assert_rc(pshm_condition_wait(&c, &ticket, 0, &death), PSHM_ENOTOWNER);
        assert_rc(pshm_condition_notify(&c, 1), PSHM_ENOTOWNER);
        assert_rc(pshm_condition_notify_all(&c), PSHM_ENOTOWNER);
        lock(&c);
        assert_rc(pshm_condition_notify(&c, 0), 0);
        assert_rc(pshm_condition_notify(&c, 1), 0);
        assert_rc(pshm_condition_notify(&c, UINT32_MAX), 0);
        assert_rc(pshm_condition_notify_all(&c), 0);
        unlock(&c);
    }
    pshm_condition_fini(&c);
}

static void test_timeouts(helper_world *world)
{
    pshm_condition c = condition_of(world);
    pshm_condition_ticket ticket = {0};
    pshm_death death;
    lock(&c);
    assert_rc(pshm_condition_wait(&c, &ticket, 0, &death), -ETIMEDOUT);
    assert_rc(pshm_mutex_try(&world->lock, &death), PSHM_ERELOCK);
    assert_rc(pshm_condition_wait(&c, &ticket, in(0.01), &death), -ETIMEDOUT);
    assert_rc(pshm_condition_wait(&c, &ticket, in(0.15), &death), -EINTR); /* a slice */
    assert_int_equal(pshm_mutex_locked(&c.mutex), 0);
    assert_rc(pshm_condition_wait(&c, &ticket, 0, &death), -ETIMEDOUT);
    assert_int_equal(pshm_mutex_locked(&c.mutex), 1);
    /* Given up after a slice, as by a signal's handler. */
    assert_rc(pshm_condition_wait(&c, &ticket, PSHM_FOREVER, &death), -EINTR);
    assert_rc(pshm_condition_end(&c, &ticket, PSHM_FOREVER, &death), 0);
    assert_rc(pshm_condition_wait(&c, &ticket, in(0.01), &death), -ETIMEDOUT); /* a new one */
    unlock(&c);
    pshm_condition_fini(&c);
}

/* What is notified after the mutex was released wakes, whether the sleep has begun or not. */
static void test_nothing_is_missed(helper_world *world)
{
    pshm_condition c = condition_of(world), second = condition_of(world);
    pshm_condition_ticket one = {0}, two = {0};
    pshm_death death;
    lock(&c);
    assert_rc(pshm_condition_begin(&c, &one), 0);
    lock(&c);
    assert_rc(pshm_condition_begin(&second, &two), 0);
    assert_rc(pshm_condition_sleep(&c, &one, in(0.01)), -ETIMEDOUT);
    lock(&c);
    assert_rc(pshm_condition_notify(&c, 1), 0);
    unlock(&c);
    assert_rc(pshm_condition_sleep(&c, &one, 0), 0);
    assert_rc(pshm_condition_sleep(&c, &two, 0), 0); /* for no reason, as is allowed */
    assert_rc(pshm_condition_end(&c, &one, 0, &death), 0);
    unlock(&c);
    lock(&c);
    assert_rc(pshm_condition_begin(&c, &one), 0);
    assert_rc(pshm_condition_sleep(&c, &one, in(0.01)), -ETIMEDOUT); /* an old notification wakes nobody */
    assert_rc(pshm_condition_end(&c, &one, 0, &death), 0);
    unlock(&c);
    pshm_condition_fini(&second);
    pshm_condition_fini(&c);
}

static void test_depth(helper_world *world)
{
    pshm_condition c;
    pshm_mutex m;
    pshm_condition_ticket ticket = {0};
    pshm_death death;
    assert_rc(pshm_mutex_init(&m, world->arena, "again", 5, true, PSHM_RECURSIVE_YES, NULL), 0);
    assert_rc(pshm_condition_init(&c, world->arena, "c", 1, true, &m, NULL), 0);
    for (int depth = 1; depth < 5; depth++) {
        for (int i = 0; i < depth; i++)
            assert_rc(pshm_mutex_try(&m, &death), 0);
        assert_rc(pshm_condition_wait(&c, &ticket, PSHM_FOREVER, &death), -EINTR);
        assert_int_equal(pshm_mutex_locked(&m), 0);
        assert_rc(pshm_condition_end(&c, &ticket, PSHM_FOREVER, &death), 0);
        for (int i = 0; i < depth; i++) {
            assert_int_equal(pshm_mutex_locked(&m), 1);
            assert_rc(pshm_mutex_release(&m), 0);
        }
        assert_rc(pshm_mutex_release(&m), PSHM_ENOTOWNER);
    }
    pshm_condition_fini(&c);
    pshm_mutex_fini(&m);
}

static void test_tasks(helper_world *world)
{
    pshm_condition c = condition_of(world);
    pshm_condition_ticket first = {.task = 1}, second = {.task = 2};
    pshm_watch words = {.count = 0};
    pshm_death death;
    int64_t least;
    assert_rc(pshm_mutex_try_task(&c.mutex, 1, false, &death), 0);
    assert_rc(pshm_condition_begin(&c, &second), PSHM_ENOTOWNER);
    assert_rc(pshm_condition_now(&c, &least), 0);
    assert_rc(pshm_condition_begin(&c, &first), 0);
    assert_true(first.least == least);
    assert_int_equal(c.object.watch(&c.object, least, &words), 0);
    assert_int_equal(words.count, 1);
    assert_rc(pshm_mutex_try_task(&c.mutex, 2, false, &death), 0);
    assert_rc(pshm_condition_notify(&c, 1), 0);
    assert_int_equal(c.object.watch(&c.object, least, &words), 1);
    assert_rc(pshm_condition_end(&c, &first, INT64_MIN, &death), -EBUSY);
    assert_rc(pshm_mutex_release_task(&c.mutex, 2), 0);
    assert_rc(pshm_condition_end(&c, &first, INT64_MIN, &death), 0);
    assert_rc(pshm_mutex_release_task(&c.mutex, 2), PSHM_ENOTOWNER);
    assert_rc(pshm_mutex_release_task(&c.mutex, 1), 0);
    /* What is no ticket's cannot be waited for. */
    assert_rc(c.object.watch(&c.object, 0, &words), PSHM_EUNWAITABLE);
    assert_rc(c.object.watch(&c.object, INT64_MIN, &words), PSHM_EUNWAITABLE);
    assert_rc(c.object.watch(&c.object, -1, &words), PSHM_EUNWAITABLE);
    pshm_condition_fini(&c);
}

/* ---- deaths ---- */

static int die_with_lock(void *context)
{
    helper_world *world = context;
    pshm_death death;
    CHECK(pshm_mutex_acquire(&world->lock, PSHM_FOREVER, &death) == 0);
    kill(getpid(), SIGKILL);
    return 1;
}

typedef struct job {
    helper_world *world;
    pshm_death death;
    int rc;
} job;

static void *waiter(void *context)
{
    job *j = context;
    pshm_condition c;
    j->rc = pshm_condition_init(&c, j->world->arena, "c", 1, false, NULL, NULL);
    if (!j->rc) {
        j->rc = helper_acquire(&c.mutex, 200, &j->death);
        if (!j->rc)
            j->rc = wait_long(&c, PSHM_FOREVER, &j->death);
        if (!j->rc || j->rc == -ETIMEDOUT || pshm_mutex_locked(&c.mutex) == 1)
            (void)pshm_mutex_release(&c.mutex);
    }
    pshm_condition_fini(&c);
    return NULL;
}

#define WAITERS 3

static void have_waiters(helper_world *world, pthread_t threads[], job jobs[])
{
    for (int i = 0; i < WAITERS; i++) {
        jobs[i] = (job){world, {false, 0, 0}, 1};
        assert_int_equal(pthread_create(&threads[i], NULL, waiter, &jobs[i]), 0);
    }
    until_asleep(world, "c", WAITERS);
}

/* Who dies with the mutex may have changed something and not said so: all who wait wake up, and are told. */
static void test_owner_dies(helper_world *world)
{
    pshm_condition c = condition_of(world);
    pthread_t threads[WAITERS];
    job jobs[WAITERS];
    have_waiters(world, threads, jobs);
    pid_t victim = helper_fork(die_with_lock, world);
    assert_int_equal(helper_wait(victim), 256 + SIGKILL);
    for (int i = 0; i < WAITERS; i++) {
        pthread_join(threads[i], NULL);
        assert_rc(jobs[i].rc, -EOWNERDEAD);
        assert_int_equal(jobs[i].death.pid, victim);
    }
    helper_expect_death(world, (uint32_t)victim);
    pshm_condition_fini(&c);
}

static int die_unseen(void *context)
{
    static struct robust_list_head nothing;
    nothing.list.next = &nothing.list;
    helper_world *world = context;
    pshm_death death;
    CHECK(pshm_mutex_acquire(&world->lock, PSHM_FOREVER, &death) == 0);
    CHECK(syscall(SYS_set_robust_list, &nothing, sizeof nothing) == 0);
    kill(getpid(), SIGKILL);
    return 1;
}

/* The kernel cannot tell of the death: nobody but those who wait asks whether the owner lives. */
static void test_owner_dies_unseen(helper_world *world)
{
    pshm_condition c = condition_of(world);
    pthread_t threads[WAITERS];
    job jobs[WAITERS];
    have_waiters(world, threads, jobs);
    pid_t victim = helper_fork(die_unseen, world);
    assert_int_equal(helper_wait(victim), 256 + SIGKILL);
    for (int i = 0; i < WAITERS; i++) {
        pthread_join(threads[i], NULL);
        assert_rc(jobs[i].rc, -EOWNERDEAD);
        assert_int_equal(jobs[i].death.pid, victim);
    }
    helper_expect_death(world, (uint32_t)victim);
    pshm_condition_fini(&c);
}

/* Before one that waits can look, somebody has made the death good and says nothing: it wakes up all the same. */
static void test_owner_dies_and_another_repairs(helper_world *world)
{
    pshm_condition c = condition_of(world);
    pshm_condition_ticket ticket = {0};
    pshm_death death;
    lock(&c);
    assert_rc(pshm_condition_begin(&c, &ticket), 0);
    pid_t victim = helper_fork(die_with_lock, world);
    assert_int_equal(helper_wait(victim), 256 + SIGKILL);
    assert_rc(helper_recover(&world->lock, 3, &death), 0);
    assert_true(death.died);
    assert_rc(pshm_mutex_release(&world->lock), 0);
    assert_rc(pshm_condition_sleep(&c, &ticket, 0), 0);
    assert_rc(pshm_condition_end(&c, &ticket, 0, &death), 0);
    /* A ticket of after that waits again. */
    assert_rc(wait_long(&c, in(0.01), &death), -ETIMEDOUT);
    unlock(&c);
    pshm_condition_fini(&c);
}

/* The mutex is met marked, made good, and has its depth. */
static void test_recovers_with_depth(helper_world *world)
{
    helper_world inner = *world;
    pshm_condition c;
    pshm_condition_ticket ticket = {0};
    pshm_death death;
    assert_rc(pshm_mutex_init(&inner.lock, world->arena, "again", 5, true, PSHM_RECURSIVE_YES, NULL), 0);
    assert_rc(pshm_condition_init(&c, world->arena, "c", 1, true, &inner.lock, NULL), 0);
    lock(&c);
    lock(&c);
    assert_rc(pshm_condition_begin(&c, &ticket), 0);
    assert_int_equal(helper_wait(helper_fork(die_with_lock, &inner)), 256 + SIGKILL);
    assert_rc(pshm_condition_wait(&c, &ticket, PSHM_FOREVER, &death), -EOWNERDEAD);
    assert_true(death.died);
    assert_rc(pshm_mutex_release(&c.mutex), PSHM_ENOTOWNER);
    assert_rc(pshm_mutex_recover(&c.mutex, 0, &death), 0);
    assert_rc(pshm_mutex_consistent(&c.mutex), 0);
    assert_rc(pshm_condition_end(&c, &ticket, 0, &death), 0);
    unlock(&c);
    unlock(&c);
    assert_rc(pshm_mutex_release(&c.mutex), PSHM_ENOTOWNER);
    pshm_condition_fini(&c);
    pshm_mutex_fini(&inner.lock);
}

/* ---- what goes ---- */

static void test_condition_deleted(helper_world *world)
{
    pshm_condition c = condition_of(world), fresh;
    pthread_t threads[WAITERS];
    job jobs[WAITERS];
    pshm_death death;
    have_waiters(world, threads, jobs);
    assert_rc(pshm_arena_delete(world->arena, "c", 1, NULL), 0);
    for (int i = 0; i < WAITERS; i++) {
        pthread_join(threads[i], NULL);
        assert_rc(jobs[i].rc, PSHM_EDELETED);
    }
    assert_int_equal(pshm_mutex_locked(&world->lock), 0); /* each had it back and gave it */
    lock(&c);
    assert_rc(wait_long(&c, PSHM_FOREVER, &death), PSHM_EDELETED);
    assert_rc(pshm_condition_notify(&c, 1), PSHM_EDELETED);
    assert_rc(pshm_mutex_try(&world->lock, &death), PSHM_ERELOCK);
    unlock(&c);
    fresh = condition_of(world);
    pshm_condition_fini(&fresh);
    pshm_condition_fini(&c);
}

static void test_mutex_deleted(helper_world *world)
{
    pshm_condition c = condition_of(world);
    pthread_t threads[WAITERS];
    job jobs[WAITERS];
    have_waiters(world, threads, jobs);
    assert_rc(pshm_arena_delete(world->arena, "lock", 4, NULL), 0);
    for (int i = 0; i < WAITERS; i++) {
        pthread_join(threads[i], NULL);
        assert_rc(jobs[i].rc, PSHM_EDELETED);
    }
    pshm_condition_fini(&c);
}

static void *wait_on_handle(void *context)
{
    pshm_condition *c = context;
    pshm_death death;
    int rc = helper_acquire(&c->mutex, 10, &death);
    if (!rc)
        rc = wait_long(c, PSHM_FOREVER, &death);
    return (void *)(intptr_t)rc;
}

static void test_closed(helper_world *world)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    const char *address = world->arena->address;
    pshm_condition c, seen, keep = condition_of(world);
    pshm_arena *other, *reader;
    pthread_t thread;
    void *result;
    pshm_death death;
    if (!strcmp(world->kind, "posix")) {
        assert_rc(pshm_arena_open(address, strlen(address), &options, &other), 0);
        options.access = PSHM_ACCESS_R;
        assert_rc(pshm_arena_open(address, strlen(address), &options, &reader), 0);
        assert_rc(pshm_condition_init(&c, reader, "new", 3, true, NULL, NULL), PSHM_EREADONLY);
        assert_rc(pshm_condition_init(&seen, reader, "c", 1, false, NULL, NULL), 0);
        pshm_condition_ticket ticket = {0};
        assert_rc(pshm_condition_wait(&seen, &ticket, 0, &death), PSHM_EREADONLY);
        assert_rc(pshm_condition_notify(&seen, 1), PSHM_EREADONLY);
        assert_rc(pshm_condition_now(&seen, &ticket.least), PSHM_EREADONLY);
        assert_rc(pshm_condition_init(&c, other, "c", 1, false, &world->lock, NULL), 0);
        assert_int_equal(pthread_create(&thread, NULL, wait_on_handle, &c), 0);
        until_asleep(world, "c", 1);
        pshm_arena_close(other);
        pthread_join(thread, &result);
        assert_rc((int)(intptr_t)result, PSHM_ECLOSED);
        ticket = (pshm_condition_ticket){0};
        assert_rc(pshm_condition_wait(&c, &ticket, 0, &death), PSHM_ECLOSED);
        assert_rc(pshm_condition_notify(&c, 1), PSHM_ECLOSED);
        pshm_arena_close(reader);
        pshm_condition_fini(&seen);
        pshm_condition_fini(&c);
        pshm_arena_release(other);
        pshm_arena_release(reader);
    }
    pshm_condition_fini(&keep);
}

/* ---- bytes that somebody has overwritten ---- */

static int survive_bytes(void *context)
{
    helper_world *world = context;
    pshm_condition c = {0}, again;
    pshm_mutex m = {0};
    pshm_death death;
    char report[512];
    unsigned seed = world->stage->number;
    CHECK(pshm_mutex_init(&m, world->arena, "m", 1, true, PSHM_RECURSIVE_YES, NULL) == 0);
    CHECK(pshm_condition_init(&c, world->arena, "c", 1, true, &m, NULL) == 0);
    for (int round = 0; round < 300; round++) {
        unsigned char *bytes = rand_r(&seed) % 4 ? c.object.body : m.object.body;
        unsigned char kept[64];
        memcpy(kept, bytes, sizeof kept);
        for (int i = rand_r(&seed) % 4; i >= 0; i--)
            bytes[rand_r(&seed) % 64] = (unsigned char)rand_r(&seed);
        int rc = pshm_condition_init(&again, world->arena, "c", 1, true, NULL, NULL);
        snprintf(report, sizeof report, "%s", pshm_error_name(rc));
        if (!rc)
            pshm_condition_fini(&again);
        pshm_condition_ticket ticket = {0};
        rc = pshm_mutex_acquire(&m, in(0.0005), &death);
        for (int i = 0; !rc && i < 3; i++) {
            (void)pshm_condition_notify(&c, 1);
            bytes[rand_r(&seed) % 64] = (unsigned char)rand_r(&seed);
            rc = pshm_condition_wait(&c, &ticket, in(0.0005), &death);
            (void)pshm_condition_notify_all(&c);
        }
        for (int i = 0; i < 70000 && pshm_mutex_release(&m) == 0; i++)
            continue;
        memcpy(bytes, kept, sizeof kept);
    }
    pshm_condition_fini(&c);
    pshm_mutex_fini(&m);
    return 0;
}

static void test_hostile_bytes(helper_world *world)
{
    for (uint32_t seed = 1; seed <= 3; seed++) {
        world->stage->number = seed;
        helper_in_child(survive_bytes, world);
        (void)pshm_arena_delete(world->arena, "c", 1, NULL);
        (void)pshm_arena_delete(world->arena, "m", 1, NULL);
    }
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_names)
EACH_KIND(test_mutex_of_another_arena)
EACH_KIND(test_deleted_mutex)
EACH_KIND(test_without_the_mutex)
EACH_KIND(test_timeouts)
EACH_KIND(test_nothing_is_missed)
EACH_KIND(test_depth)
EACH_KIND(test_tasks)
EACH_KIND(test_owner_dies)
EACH_KIND(test_owner_dies_unseen)
EACH_KIND(test_owner_dies_and_another_repairs)
EACH_KIND(test_recovers_with_depth)
EACH_KIND(test_condition_deleted)
EACH_KIND(test_mutex_deleted)
EACH_KIND(test_closed)
EACH_KIND(test_hostile_bytes)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_names),
        TEST(each_test_mutex_of_another_arena),
        TEST(each_test_deleted_mutex),
        TEST(each_test_without_the_mutex),
        TEST(each_test_timeouts),
        TEST(each_test_nothing_is_missed),
        TEST(each_test_depth),
        TEST(each_test_tasks),
        TEST(each_test_owner_dies),
        TEST(each_test_owner_dies_unseen),
        TEST(each_test_owner_dies_and_another_repairs),
        TEST(each_test_recovers_with_depth),
        TEST(each_test_condition_deleted),
        TEST(each_test_mutex_deleted),
        TEST(each_test_closed),
        TEST(each_test_hostile_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
