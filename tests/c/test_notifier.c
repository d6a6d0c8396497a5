/* SPDX-License-Identifier: MIT
 *
 * Notifiers, each test with the kernel's ring and with threads: what is told and what is not, many watches, removal,
 * deaths, forks, other threads, and things that go away.
 */
#include "helper_owner.h"

#include <polyshm/counter.h>
#include <polyshm/event.h>
#include <polyshm/notifier.h>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/waiting.h"

static pshm_counter counter_named(helper_world *world, const char *name)
{
    pshm_counter counter;
    assert_rc(pshm_counter_init(&counter, world->arena, name, strlen(name), true, NULL), 0);
    return counter;
}

static pshm_notifier *opened(void)
{
    pshm_notifier *n;
    assert_rc(pshm_notifier_open(&n), 0);
    return n;
}

static pshm_waitable from(const pshm_counter *counter, int64_t least)
{
    return (pshm_waitable){.object = &counter->object, .least = least};
}

/* Is it readable now, or within `ms`? */
static bool is_readable(const pshm_notifier *n, int ms)
{
    struct pollfd poller = {pshm_notifier_fd(n), POLLIN, 0};
    return poll(&poller, 1, ms) == 1 && (poller.revents & POLLIN);
}

/* The next token, whatever wakes there are besides; 0: none in some seconds. */
static uint64_t next_token(pshm_notifier *n)
{
    uint64_t token = 0;
    for (int i = 0; i < 200; i++) {
        assert_true(is_readable(n, 20000));
        int rc = pshm_notifier_take(n, &token, 1);
        assert_in_range(rc, 0, 1);
        if (rc == 1)
            return token;
    }
    return 0;
}

/* Nothing is told now: what is readable was a slice. */
static void expect_quiet(pshm_notifier *n)
{
    uint64_t token;
    assert_rc(pshm_notifier_take(n, &token, 1), 0);
}

static void test_tells_once(helper_world *world)
{
    pshm_counter c = counter_named(world, "count"), d = counter_named(world, "other");
    const pshm_waitable w = from(&c, 5), v = from(&d, 1), now = from(&c, 0);
    pshm_notifier *n = opened();
    int64_t value;
    assert_true(fcntl(pshm_notifier_fd(n), F_GETFD) & FD_CLOEXEC);
    assert_false(is_readable(n, 0));
    assert_rc(pshm_notifier_add(n, &now, 1), 1);
    assert_rc(pshm_notifier_remove(n, 1), -ENOENT);
    assert_rc(pshm_notifier_add(n, &w, 7), 0);
    assert_rc(pshm_notifier_add(n, &v, 7), -EEXIST);
    assert_rc(pshm_notifier_add(n, &v, 8), 0);
    expect_quiet(n);
    assert_rc(pshm_counter_store(&c, 4), 0); /* too little */
    expect_quiet(n);
    assert_rc(pshm_counter_add(&c, 1, &value), 0);
    assert_int_equal(next_token(n), 7);
    expect_quiet(n);
    assert_rc(pshm_notifier_remove(n, 7), -ENOENT);
    assert_rc(pshm_counter_add(&d, 1, &value), 0);
    assert_int_equal(next_token(n), 8);
    (void)is_readable(n, 250); /* the end of the slice that had begun; after that nothing is watched, so no slices */
    expect_quiet(n);
    assert_false(is_readable(n, 250));
    assert_rc(pshm_counter_store(&d, 0), 0);
    assert_rc(pshm_notifier_add(n, &v, 8), 0);
    assert_rc(pshm_notifier_remove(n, 8), 0);
    assert_rc(pshm_counter_store(&d, 1), 0);
    expect_quiet(n);
    pshm_notifier_close(n);
    pshm_counter_fini(&c);
    pshm_counter_fini(&d);
}

/* Who is told sleeps no more: the next one to set it need not look for sleepers. */
static void test_leaves_no_flag(helper_world *world)
{
    pshm_event event;
    assert_rc(pshm_event_init(&event, world->arena, "event", 5, true, PSHM_AUTOMATIC_YES, NULL), 0);
    const pshm_waitable w = {.object = &event.object};
    const uint32_t *sleepers = event.object.body;
    pshm_notifier *n = opened();
    assert_rc(pshm_notifier_add(n, &w, 1), 0);
    assert_true(pshm_sleeping(sleepers));
    assert_rc(pshm_event_set(&event), 0);
    assert_int_equal(next_token(n), 1);
    assert_false(pshm_sleeping(sleepers));
    assert_rc(pshm_notifier_add(n, &w, 1), 1);
    assert_false(pshm_sleeping(sleepers));
    pshm_notifier_close(n);
    pshm_event_fini(&event);
}

enum { MANY = 1000 };

static void test_many_of_one(helper_world *world)
{
    static bool told[MANY + 1];
    pshm_counter c = counter_named(world, "count");
    pshm_notifier *n = opened();
    uint64_t tokens[64];
    memset(told, 0, sizeof told);
    for (int i = 1; i <= MANY; i++) {
        const pshm_waitable w = from(&c, i <= MANY / 2 ? 1 : 2);
        assert_rc(pshm_notifier_add(n, &w, (uint64_t)i), 0);
    }
    for (int round = 1; round <= 2; round++) {
        assert_rc(pshm_counter_store(&c, round), 0);
        for (int left = MANY / 2; left;) {
            assert_true(is_readable(n, 20000));
            int rc = pshm_notifier_take(n, tokens, 64);
            assert_in_range(rc, 0, 64);
            for (int i = 0; i < rc; i++) {
                assert_in_range(tokens[i], round == 1 ? 1 : MANY / 2 + 1, round == 1 ? MANY / 2 : MANY);
                assert_false(told[tokens[i]]);
                told[tokens[i]] = true;
            }
            left -= rc;
        }
    }
    expect_quiet(n);
    pshm_notifier_close(n);
    pshm_counter_fini(&c);
}

static void test_one_of_many(helper_world *world)
{
    static pshm_counter all[MANY];
    pshm_notifier *n = opened();
    char name[16];
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "c%d", i);
        all[i] = counter_named(world, name);
        const pshm_waitable w = from(&all[i], 1);
        assert_rc(pshm_notifier_add(n, &w, (uint64_t)i), 0);
    }
    for (int i = 0; i < MANY; i += 37) {
        assert_rc(pshm_counter_store(&all[i], 1), 0);
        assert_int_equal(next_token(n), i);
    }
    for (int i = 1; i < MANY; i += 37)
        assert_rc(pshm_notifier_remove(n, (uint64_t)i), 0);
    for (int i = 2; i < MANY; i += 37) {
        assert_rc(pshm_counter_store(&all[i], 1), 0);
        assert_int_equal(next_token(n), i);
    }
    pshm_notifier_close(n); /* with what is still watched */
    for (int i = 0; i < MANY; i++)
        pshm_counter_fini(&all[i]);
}

/* ---- mutexes, deaths ---- */

static const pshm_waitable *lock_of(const helper_world *world)
{
    static pshm_waitable w;
    w = (pshm_waitable){.object = &world->lock.object};
    return &w;
}

static int hold(void *context)
{
    helper_world *world = context;
    pshm_death death;
    CHECK(pshm_mutex_try(&world->lock, &death) == 0);
    helper_step(world, 1);
    CHECK(helper_until_step(world, 2));
    CHECK(pshm_mutex_release(&world->lock) == 0);
    return 0;
}

static int hold_until_killed(void *context)
{
    helper_world *world = context;
    pshm_death death;
    CHECK(pshm_mutex_try(&world->lock, &death) == 0);
    helper_step(world, 1);
    for (;;)
        pause();
}

static pid_t holder_of(helper_world *world, helper_child *function)
{
    helper_step(world, 0);
    pid_t pid = helper_fork(function, world);
    assert_true(helper_until_step(world, 1));
    return pid;
}

static void test_mutex(helper_world *world)
{
    pshm_notifier *n = opened();
    pshm_death death;
    assert_rc(pshm_notifier_add(n, lock_of(world), 3), 1);
    pid_t owner = holder_of(world, hold);
    assert_rc(pshm_notifier_add(n, lock_of(world), 3), 0);
    expect_quiet(n);
    helper_step(world, 2);
    assert_int_equal(next_token(n), 3);
    assert_rc(pshm_mutex_try(&world->lock, &death), 0);
    assert_rc(pshm_mutex_release(&world->lock), 0);
    assert_int_equal(helper_wait(owner), 0);
    pshm_notifier_close(n);
}

/* The death of an owner is told to all who watch, and that of a participant. */
static void test_deaths(helper_world *world)
{
    pshm_notifier *n = opened();
    pshm_death death;
    pshm_participant *all;
    size_t count;
    pshm_waitable who = {.object = NULL, .arena = world->arena};
    pid_t owner = holder_of(world, hold_until_killed);
    assert_rc(pshm_arena_list_participants(world->arena, &all, &count), 0);
    for (size_t i = 0; i < count; i++)
        if (all[i].pid == (uint32_t)owner && all[i].alive) {
            who.slot = all[i].slot;
            who.generation = all[i].generation;
        }
    pshm_participants_free(all);
    for (uint64_t i = 0; i < 5; i++) {
        assert_rc(pshm_notifier_add(n, lock_of(world), 10 + i), 0);
        assert_rc(pshm_notifier_add(n, &who, 20 + i), 0);
    }
    expect_quiet(n);
    helper_kill(owner);
    uint64_t sum = 0;
    for (int i = 0; i < 10; i++)
        sum += next_token(n);
    assert_int_equal(sum, 5 * 30 + 2 * (0 + 1 + 2 + 3 + 4));
    assert_rc(pshm_notifier_add(n, &who, 1), 1);
    assert_rc(pshm_notifier_add(n, lock_of(world), 1), 1);
    assert_rc(pshm_mutex_try(&world->lock, &death), -EOWNERDEAD);
    assert_rc(helper_recover(&world->lock, 3, &death), 0);
    assert_rc(pshm_mutex_release(&world->lock), 0);
    pshm_notifier_close(n);
}

static int take_in_turn(void *context)
{
    helper_world *world = context;
    pshm_death death;
    uint64_t token;
    pshm_notifier *n;
    CHECK(pshm_notifier_open(&n) == 0);
    for (int i = 0; i < 200; i++) {
        while (pshm_mutex_try(&world->lock, &death) == -EBUSY) {
            int rc = pshm_notifier_add(n, lock_of(world), 1);
            CHECK(rc == 0 || rc == 1);
            while (rc == 0) {
                struct pollfd poller = {pshm_notifier_fd(n), POLLIN, 0};
                CHECK(poll(&poller, 1, 20000) == 1);
                rc = pshm_notifier_take(n, &token, 1);
            }
            CHECK(rc == 1);
        }
        uint32_t number = *(volatile uint32_t *)&world->stage->number;
        if (i % 16 == 0)
            usleep(300);
        *(volatile uint32_t *)&world->stage->number = number + 1;
        CHECK(pshm_mutex_release(&world->lock) == 0);
    }
    pshm_notifier_close(n);
    return 0;
}

/* Those who watch and those who sleep take turns at one lock. */
static void test_turns(helper_world *world)
{
    pid_t watchers[3];
    pshm_death death;
    world->stage->number = 0;
    for (int i = 0; i < 3; i++)
        watchers[i] = helper_fork(take_in_turn, world);
    for (int i = 0; i < 200; i++) {
        assert_rc(helper_acquire(&world->lock, 200, &death), 0);
        world->stage->number++;
        assert_rc(pshm_mutex_release(&world->lock), 0);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(helper_wait(watchers[i]), 0);
    assert_int_equal(world->stage->number, 800);
}

static int watch_until_killed(void *context)
{
    helper_world *world = context;
    pshm_notifier *n;
    CHECK(pshm_notifier_open(&n) == 0);
    CHECK(pshm_notifier_add(n, lock_of(world), 1) == 0);
    helper_step(world, 1);
    for (;;)
        pause();
}

/* Who has a notifier and dies, or never looks at it again, keeps nobody from the lock for longer than a slice. */
static void test_watcher_dies(helper_world *world)
{
    pshm_death death;
    for (int i = 0; i < 3; i++) {
        assert_rc(pshm_mutex_try(&world->lock, &death), 0);
        pid_t watcher = holder_of(world, watch_until_killed);
        pid_t taker = helper_fork(take_in_turn, world);
        helper_until_asleep(taker);
        if (i)
            helper_kill(watcher);
        assert_rc(pshm_mutex_release(&world->lock), 0);
        assert_int_equal(helper_wait(taker), 0);
        if (!i)
            helper_kill(watcher);
    }
}

/* ---- what goes ---- */

static void test_deleted_and_closed(helper_world *world)
{
    pshm_counter c = counter_named(world, "count"), seen;
    const pshm_waitable w = from(&c, 5), v = from(&seen, 5);
    pshm_notifier *n = opened();
    assert_rc(pshm_notifier_add(n, &w, 1), 0);
    assert_rc(pshm_arena_delete(world->arena, "count", 5, NULL), 0);
    assert_int_equal(next_token(n), 1);
    assert_rc(pshm_notifier_add(n, &w, 1), PSHM_EDELETED);
    pshm_counter_fini(&c);
    if (!strcmp(world->kind, "posix")) {
        pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
        const char *address = world->arena->address;
        pshm_arena *other;
        c = counter_named(world, "count");
        for (int readonly = 0; readonly < 2; readonly++) {
            options.access = readonly ? PSHM_ACCESS_R : PSHM_ACCESS_RW;
            assert_rc(pshm_arena_open(address, strlen(address), &options, &other), 0);
            assert_rc(pshm_counter_init(&seen, other, "count", 5, false, NULL), 0);
            assert_rc(pshm_counter_store(&c, 0), 0);
            assert_rc(pshm_notifier_add(n, &v, 2), 0);
            expect_quiet(n);
            assert_rc(pshm_counter_store(&c, 5), 0);
            assert_int_equal(next_token(n), 2);
            assert_rc(pshm_counter_store(&c, 0), 0);
            assert_rc(pshm_notifier_add(n, &v, 2), 0);
            pshm_arena_close(other);
            assert_int_equal(next_token(n), 2);
            assert_rc(pshm_notifier_add(n, &v, 2), PSHM_ECLOSED);
            pshm_counter_fini(&seen);
            pshm_arena_release(other);
        }
        pshm_counter_fini(&c);
    }
    const pshm_waitable nothing = {.object = NULL};
    assert_rc(pshm_notifier_add(n, &nothing, 1), PSHM_EUNWAITABLE);
    pshm_notifier_close(n);
}

/* ---- forks and threads ---- */

typedef struct both {
    helper_world *world;
    pshm_notifier *n;
} both;

static int use_in_child(void *context)
{
    const both *b = context;
    pshm_counter c = counter_named(b->world, "count");
    const pshm_waitable w = from(&c, 2);
    uint64_t token;
    CHECK(pshm_notifier_add(b->n, &w, 9) == PSHM_ECLOSED);
    CHECK(pshm_notifier_remove(b->n, 1) == PSHM_ECLOSED);
    CHECK(pshm_notifier_take(b->n, &token, 1) == PSHM_ECLOSED);
    pshm_notifier_close(b->n);
    pshm_notifier *own;
    CHECK(pshm_notifier_open(&own) == 0 && pshm_notifier_add(own, &w, 9) == 0);
    CHECK(pshm_counter_store(&c, 2) == 0);
    int rc = 0;
    for (int i = 0; i < 100 && rc == 0; i++) {
        struct pollfd poller = {pshm_notifier_fd(own), POLLIN, 0};
        CHECK(poll(&poller, 1, 20000) == 1);
        rc = pshm_notifier_take(own, &token, 1);
    }
    CHECK(rc == 1 && token == 9);
    pshm_notifier_close(own);
    pshm_counter_fini(&c);
    return 0;
}

/* The child's is closed, whatever it does to it; the parent's goes on. */
static void test_fork(helper_world *world)
{
    pshm_counter c = counter_named(world, "count");
    const pshm_waitable w = from(&c, 2), v = from(&c, 3);
    both b = {world, opened()};
    assert_rc(pshm_notifier_add(b.n, &w, 1), 0);
    assert_rc(pshm_notifier_add(b.n, &v, 2), 0);
#ifdef __SANITIZE_ADDRESS__
    usleep(100000); /* a thread that has just begun may be in its allocator, whose locks a fork does not free */
#endif
    helper_in_child(use_in_child, &b);
    assert_int_equal(next_token(b.n), 1);
    expect_quiet(b.n);
    assert_rc(pshm_counter_store(&c, 3), 0);
    assert_int_equal(next_token(b.n), 2);
    pshm_notifier_close(b.n);
    pshm_counter_fini(&c);
}

typedef struct job {
    pshm_notifier *n;
    pshm_waitable w;
    uint64_t token;
    int rc;
} job;

static void *add_in_thread(void *context)
{
    job *j = context;
    j->rc = pshm_notifier_add(j->n, &j->w, j->token);
    return NULL;
}

static void *take_in_thread(void *context)
{
    job *j = context;
    j->token = next_token(j->n);
    return NULL;
}

/* What one thread has added is told to another, when the first has ended too. */
static void test_threads(helper_world *world)
{
    pshm_counter c = counter_named(world, "count");
    pshm_notifier *n = opened();
    pthread_t thread;
    for (int i = 0; i < 4; i++) {
        job j = {.n = n, .w = from(&c, 2 * i + 1), .token = 5};
        assert_int_equal(pthread_create(&thread, NULL, add_in_thread, &j), 0);
        pthread_join(thread, NULL);
        assert_rc(j.rc, 0);
        j.w.least++;
        assert_rc(pshm_notifier_add(n, &j.w, 6), 0);
        expect_quiet(n);
        assert_rc(pshm_counter_store(&c, 2 * i + 1), 0);
        assert_int_equal(next_token(n), 5);
        assert_int_equal(pthread_create(&thread, NULL, take_in_thread, &j), 0);
        assert_rc(pshm_counter_store(&c, 2 * i + 2), 0);
        pthread_join(thread, NULL);
        assert_int_equal(j.token, 6);
    }
    const pshm_waitable w = from(&c, 100);
    assert_rc(pshm_notifier_add(n, &w, 1), 0);
    pshm_notifier_close(n);
    pshm_counter_fini(&c);
}

static void *close_in_thread(void *context)
{
    pshm_notifier_close(context);
    return NULL;
}

static void test_closed_by_another_thread(helper_world *world)
{
    pshm_counter c = counter_named(world, "count");
    const pshm_waitable w = from(&c, 1);
    pthread_t thread;
    for (int i = 0; i < 20; i++) {
        pshm_notifier *n = opened();
        assert_rc(pshm_notifier_add(n, &w, 1), 0);
        assert_rc(pshm_notifier_add(n, &w, 2), 0);
        assert_int_equal(pthread_create(&thread, NULL, close_in_thread, n), 0);
        pthread_join(thread, NULL);
    }
    pshm_counter_fini(&c);
}

enum { STORM = 4 };

typedef struct storm {
    pshm_counter counters[STORM];
    bool over;
} storm;

static void *raise_all(void *context)
{
    storm *s = context;
    for (unsigned i = 0; !__atomic_load_n(&s->over, __ATOMIC_RELAXED); i++) {
        int64_t value;
        pshm_counter *c = &s->counters[i % STORM];
        assert_rc(pshm_counter_load(c, &value), 0);
        for (volatile unsigned pause = value ? 0 : i * 2654435761u >> 20; pause; pause--)
            continue;
        if (!value)
            assert_rc(pshm_counter_store(c, 1), 0);
    }
    return NULL;
}

/* However many wakes come while others are fetched, each is signalled. One that was not would also hide all later ones,
 * those of the slices too, so that the poll ends in vain. */
static void test_wakes_during_a_take(helper_world *world)
{
    const int times = helper_valgrind_lacks("time for many wakes") ? 20 : 4000;
    storm s = {.over = false};
    pshm_notifier *n = opened();
    pthread_t thread;
    for (int i = 0; i < STORM; i++) {
        char name[16];
        snprintf(name, sizeof name, "c%d", i);
        s.counters[i] = counter_named(world, name);
        const pshm_waitable w = from(&s.counters[i], 1);
        assert_rc(pshm_notifier_add(n, &w, (uint64_t)i), 0);
    }
    assert_int_equal(pthread_create(&thread, NULL, raise_all, &s), 0);
    for (int told = 0; told < times;) {
        uint64_t tokens[STORM];
        assert_true(is_readable(n, 5000));
        int rc = pshm_notifier_take(n, tokens, STORM);
        assert_in_range(rc, 0, STORM);
        told += rc;
        for (int i = 0; i < rc; i++) {
            const pshm_waitable w = from(&s.counters[tokens[i]], 1);
            do
                assert_rc(pshm_counter_store(&s.counters[tokens[i]], 0), 0);
            while (pshm_notifier_add(n, &w, tokens[i]) == 1);
        }
    }
    __atomic_store_n(&s.over, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    pshm_notifier_close(n);
    for (int i = 0; i < STORM; i++)
        pshm_counter_fini(&s.counters[i]);
}

/* Signals come to the program's own threads, whatever a notifier has. */
static void test_signals_are_blocked(helper_world *world)
{
    pshm_counter c = counter_named(world, "count");
    const pshm_waitable w = from(&c, 1);
    pshm_notifier *n = opened();
    sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    assert_int_equal(pthread_sigmask(SIG_BLOCK, &set, &before), 0);
    assert_rc(pshm_notifier_add(n, &w, 1), 0);
    kill(getpid(), SIGUSR1); /* it would end the program in a thread that lets it through */
    assert_rc(pshm_counter_store(&c, 1), 0);
    assert_int_equal(next_token(n), 1);
    assert_int_equal(sigwaitinfo(&set, NULL), SIGUSR1);
    assert_int_equal(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
    pshm_notifier_close(n);
    pshm_counter_fini(&c);
}

#define EACH_WAY(function)                                                                                             \
    static void function##_by_ring(void **state)                                                                       \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        unsetenv("POLYSHM_IO_URING");                                                                                  \
        helper_each_kind(function);                                                                                    \
    }                                                                                                                  \
    static void function##_by_threads(void **state)                                                                    \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        setenv("POLYSHM_IO_URING", "off", 1);                                                                          \
        helper_each_kind(function);                                                                                    \
        unsetenv("POLYSHM_IO_URING");                                                                                  \
    }

EACH_WAY(test_tells_once)
EACH_WAY(test_leaves_no_flag)
EACH_WAY(test_many_of_one)
EACH_WAY(test_one_of_many)
EACH_WAY(test_mutex)
EACH_WAY(test_deaths)
EACH_WAY(test_turns)
EACH_WAY(test_watcher_dies)
EACH_WAY(test_deleted_and_closed)
EACH_WAY(test_fork)
EACH_WAY(test_threads)
EACH_WAY(test_closed_by_another_thread)
EACH_WAY(test_signals_are_blocked)
EACH_WAY(test_wakes_during_a_take)

#define BOTH(function) TEST(function##_by_ring), TEST(function##_by_threads)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_tells_once),
        BOTH(test_leaves_no_flag),
        BOTH(test_many_of_one),
        BOTH(test_one_of_many),
        BOTH(test_mutex),
        BOTH(test_deaths),
        BOTH(test_turns),
        BOTH(test_watcher_dies),
        BOTH(test_deleted_and_closed),
        BOTH(test_fork),
        BOTH(test_threads),
        BOTH(test_closed_by_another_thread),
        BOTH(test_signals_are_blocked),
        BOTH(test_wakes_during_a_take),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
