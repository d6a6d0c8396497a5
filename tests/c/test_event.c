/* SPDX-License-Identifier: MIT
 *
 * The event, of both kinds: every verb, who waits and who is let go, deaths, and events that go away.
 */
#include "helper_owner.h"

#include <polyshm/event.h>
#include <polyshm/wait.h>

#include <pthread.h>
#include <signal.h>
#include <time.h>

#define NAME "go"
#define MANUAL PSHM_AUTOMATIC_NO
#define AUTO PSHM_AUTOMATIC_YES

static int init(pshm_event *e, pshm_arena *arena, pshm_automatic automatic, bool *created)
{
    return pshm_event_init(e, arena, NAME, strlen(NAME), true, automatic, created);
}

static pshm_event event_of(helper_world *world, pshm_automatic automatic)
{
    pshm_event e;
    assert_rc(init(&e, world->arena, automatic, NULL), 0);
    return e;
}

/* Both kinds in one world: away with the one before. */
static void delete_it(helper_world *world, pshm_event *e)
{
    pshm_event_fini(e);
    assert_rc(pshm_arena_delete(world->arena, NAME, strlen(NAME), NULL), 0);
}

static int64_t in(double seconds)
{
    return pshm_deadline((int64_t)(seconds * 1e9));
}

static uint32_t since_of(pshm_event *e)
{
    uint32_t since = 77;
    assert_rc(pshm_event_since(e, &since), 0);
    return since;
}

static int wait_long(pshm_event *e, uint32_t since)
{
    int rc = -EINTR;
    for (int slices = 0; rc == -EINTR && slices < 300; slices++)
        rc = pshm_event_wait(e, since, PSHM_FOREVER);
    return rc;
}

static void test_verbs(helper_world *world)
{
    pshm_event e = event_of(world, MANUAL), f = event_of(world, PSHM_AUTOMATIC_ANY);
    assert_false(e.automatic || f.automatic);
    assert_rc(pshm_event_is_set(&e), 0);
    assert_rc(pshm_event_wait(&e, since_of(&e), 0), -ETIMEDOUT);
    assert_rc(pshm_event_clear(&e), 0); /* it is clear */
    assert_rc(pshm_event_wait(&e, since_of(&e), in(0.01)), -ETIMEDOUT);
    assert_rc(pshm_event_set(&f), 0);
    assert_rc(pshm_event_set(&f), 0); /* it is set */
    assert_rc(pshm_event_is_set(&e), 1);
    for (int i = 0; i < 3; i++)
        assert_rc(pshm_event_wait(&e, since_of(&e), 0), 0);
    assert_rc(pshm_event_is_set(&e), 1);
    assert_rc(pshm_event_clear(&e), 0);
    assert_rc(pshm_event_is_set(&f), 0);
    assert_rc(pshm_event_wait(&e, since_of(&e), 0), -ETIMEDOUT);
    assert_rc(pshm_event_wait(&e, since_of(&e), PSHM_FOREVER), -EINTR); /* a slice */
    pshm_event_fini(&e);
    pshm_event_fini(&f);
}

static void test_verbs_of_one_that_clears_itself(helper_world *world)
{
    pshm_event e = event_of(world, AUTO), f = event_of(world, PSHM_AUTOMATIC_ANY);
    assert_true(e.automatic && f.automatic);
    assert_rc(pshm_event_wait(&e, since_of(&e), 0), -ETIMEDOUT);
    for (int i = 0; i < 3; i++) {
        assert_rc(pshm_event_set(&e), 0);
        assert_rc(pshm_event_set(&e), 0); /* once is enough: it counts as one */
        assert_rc(pshm_event_is_set(&e), 1);
        assert_rc(pshm_event_wait(&f, since_of(&f), PSHM_FOREVER), 0);
        assert_rc(pshm_event_is_set(&e), 0);
        assert_rc(pshm_event_wait(&e, since_of(&e), 0), -ETIMEDOUT);
    }
    uint32_t since = since_of(&e);
    assert_rc(pshm_event_set(&e), 0);
    assert_rc(pshm_event_clear(&e), 0);
    assert_rc(pshm_event_wait(&e, since, 0), -ETIMEDOUT); /* what was cleared cannot be taken */
    assert_rc(pshm_event_wait(&e, since, PSHM_FOREVER), -EINTR);
    pshm_event_fini(&e);
    pshm_event_fini(&f);
}

/* One that was set since the wait began lets go, in a later slice too, however soon it was cleared. */
static void test_since(helper_world *world)
{
    pshm_event e = event_of(world, MANUAL);
    for (int i = 0; i < 3; i++) {
        uint32_t since = since_of(&e);
        assert_rc(pshm_event_wait(&e, since, 0), -ETIMEDOUT);
        assert_rc(pshm_event_set(&e), 0);
        assert_rc(pshm_event_clear(&e), 0);
        assert_rc(pshm_event_wait(&e, since, 0), 0);
        assert_rc(pshm_event_wait(&e, since_of(&e), 0), -ETIMEDOUT);
    }
    assert_rc(pshm_event_set(&e), 0);
    uint32_t since = since_of(&e);
    assert_rc(pshm_event_clear(&e), 0);
    assert_rc(pshm_event_wait(&e, since, 0), 0); /* it was set when the wait began */
    pshm_event_fini(&e);
}

/* The number wraps. */
static void test_since_at_the_end(helper_world *world)
{
    pshm_event e = event_of(world, MANUAL);
    uint32_t *words = e.object.body; /* sleepers, state: docs/layout.rst */
    words[1] = UINT32_MAX - 1;       /* clear, after as many times as it counts */
    uint32_t since = since_of(&e);
    assert_rc(pshm_event_wait(&e, since, 0), -ETIMEDOUT);
    assert_rc(pshm_event_set(&e), 0);
    assert_int_equal(words[1], 1);
    assert_rc(pshm_event_wait(&e, since_of(&e), 0), 0);
    uint32_t set = since_of(&e);
    assert_rc(pshm_event_clear(&e), 0);
    assert_rc(pshm_event_wait(&e, since, 0), 0);
    assert_rc(pshm_event_wait(&e, set, 0), 0);
    assert_rc(pshm_event_wait(&e, since_of(&e), 0), -ETIMEDOUT);
    pshm_event_fini(&e);
}

static void test_parameters(helper_world *world)
{
    pshm_event e;
    pshm_arena *a = world->arena;
    bool created = true;
    assert_rc(pshm_event_init(&e, a, NAME, 2, false, AUTO, &created), PSHM_ENONAME);
    assert_false(created);
    assert_rc(init(&e, a, PSHM_AUTOMATIC_ANY, &created), 0);
    assert_true(created);
    assert_false(e.automatic);
    pshm_event_fini(&e);
    assert_rc(init(&e, a, MANUAL, &created), 0);
    assert_false(created);
    pshm_event_fini(&e);
    assert_rc(init(&e, a, AUTO, &created), PSHM_EPARAMETER);
    pshm_event_fini(&e); /* of what was not opened: nothing */
    assert_rc(pshm_arena_delete(a, NAME, 2, NULL), 0);
    assert_rc(init(&e, a, AUTO, &created), 0);
    assert_true(created);
    pshm_event_fini(&e);
    assert_rc(init(&e, a, MANUAL, NULL), PSHM_EPARAMETER);
    assert_rc(init(&e, a, PSHM_AUTOMATIC_ANY, NULL), 0);
    assert_true(e.automatic);
    pshm_event_fini(&e);
    assert_rc(pshm_event_init(&e, a, "lock", 4, true, MANUAL, NULL), PSHM_EKIND);
    assert_rc(pshm_event_init(&e, a, "", 0, true, MANUAL, NULL), PSHM_ENAMESIZE);
    assert_rc(pshm_event_init(&e, a, "a\0b", 3, true, MANUAL, NULL), PSHM_ENAMETEXT);
}

/* ---- who is let go ---- */

typedef struct job {
    helper_world *world;
    uint32_t *done;
    int rc;
} job;

static void *waiter(void *context)
{
    job *j = context;
    pshm_event e = event_of(j->world, PSHM_AUTOMATIC_ANY);
    j->rc = wait_long(&e, since_of(&e));
    pshm_event_fini(&e);
    __atomic_add_fetch(j->done, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

enum { WAITERS = 8 };

static void begin(helper_world *world, pthread_t *threads, job *jobs, uint32_t *done)
{
    *done = 0;
    for (int i = 0; i < WAITERS; i++) {
        jobs[i] = (job){world, done, 1};
        assert_int_equal(pthread_create(&threads[i], NULL, waiter, &jobs[i]), 0);
    }
    helper_until_waits(world->arena, NAME);
}

static void end(pthread_t *threads, job *jobs)
{
    for (int i = 0; i < WAITERS; i++) {
        pthread_join(threads[i], NULL);
        assert_rc(jobs[i].rc, 0);
    }
}

static void test_all_are_let_go(helper_world *world)
{
    pthread_t threads[WAITERS];
    job jobs[WAITERS];
    uint32_t done;
    pshm_event e = event_of(world, MANUAL);
    begin(world, threads, jobs, &done);
    assert_int_equal(__atomic_load_n(&done, __ATOMIC_SEQ_CST), 0);
    assert_rc(pshm_event_set(&e), 0);
    end(threads, jobs);
    pshm_event_fini(&e);
}

static void test_one_for_each_time(helper_world *world)
{
    const struct timespec pause = {0, 200000};
    pthread_t threads[WAITERS];
    job jobs[WAITERS];
    uint32_t done;
    pshm_event e = event_of(world, AUTO);
    begin(world, threads, jobs, &done);
    for (uint32_t n = 1; n <= WAITERS; n++) {
        assert_rc(pshm_event_set(&e), 0);
        while (__atomic_load_n(&done, __ATOMIC_SEQ_CST) < n)
            nanosleep(&pause, NULL);
        assert_int_equal(__atomic_load_n(&done, __ATOMIC_SEQ_CST), n);
        assert_rc(pshm_event_is_set(&e), 0);
    }
    end(threads, jobs);
    pshm_event_fini(&e);
}

/* Two processes take turns, each with an event of its own that clears itself: no set is lost. */
static int player(helper_world *world, const char *mine, const char *others)
{
    pshm_event a, b;
    CHECK(pshm_event_init(&a, world->arena, mine, strlen(mine), true, AUTO, NULL) == 0);
    CHECK(pshm_event_init(&b, world->arena, others, strlen(others), true, AUTO, NULL) == 0);
    for (int i = 0; i < 3000; i++) {
        CHECK(wait_long(&a, 0) == 0);
        CHECK(pshm_event_set(&b) == 0);
    }
    pshm_event_fini(&a);
    pshm_event_fini(&b);
    return 0;
}

static int second_player(void *context)
{
    return player(context, "second", "first");
}

static void test_turns_of_two_processes(helper_world *world)
{
    pshm_event first;
    assert_rc(pshm_event_init(&first, world->arena, "first", 5, true, AUTO, NULL), 0);
    pid_t other = helper_fork(second_player, world);
    assert_rc(pshm_event_set(&first), 0);
    player(world, "first", "second");
    assert_int_equal(helper_wait(other), 0);
    assert_rc(pshm_event_is_set(&first), 1); /* the last turn is nobody's */
    pshm_event_fini(&first);
}

/* Set and cleared at once, all the time: each of it ends a wait that began before. */
static int pulse(void *context)
{
    helper_world *world = context;
    pshm_event e;
    CHECK(init(&e, world->arena, MANUAL, NULL) == 0);
    for (;;) {
        CHECK(pshm_event_set(&e) == 0 && pshm_event_clear(&e) == 0);
        sched_yield();
    }
}

static void test_pulses(helper_world *world)
{
    pshm_event e = event_of(world, MANUAL);
    pid_t other = helper_fork(pulse, world);
    for (int i = 0; i < 1000; i++)
        assert_rc(wait_long(&e, since_of(&e)), 0);
    helper_kill(other);
    pshm_event_fini(&e);
}

/* ---- pshm_wait ---- */

static void *set_when_asleep(void *context)
{
    job *j = context;
    pshm_event e = event_of(j->world, PSHM_AUTOMATIC_ANY);
    helper_until_waits(j->world->arena, NAME);
    j->rc = pshm_event_set(&e);
    pshm_event_fini(&e);
    return NULL;
}

static void test_waitable(helper_world *world)
{
    for (int automatic = 0; automatic < 2; automatic++) {
        pshm_event e = event_of(world, automatic);
        const pshm_waitable it = {.object = &e.object};
        bool ready = true;
        size_t failed;
        assert_rc(pshm_waitable_ready(&it), 0);
        assert_rc(pshm_wait(&it, 1, in(0.01), &ready, &failed), -ETIMEDOUT);
        assert_false(ready);
        pthread_t thread, setter;
        uint32_t done = 0;
        job waiting = {world, &done, 1}, setting = {world, NULL, 1};
        assert_int_equal(pthread_create(&thread, NULL, waiter, &waiting), 0);
        assert_int_equal(pthread_create(&setter, NULL, set_when_asleep, &setting), 0);
        pthread_join(thread, NULL);
        pthread_join(setter, NULL);
        assert_rc(waiting.rc, 0);
        assert_rc(setting.rc, 0);
        assert_rc(pshm_waitable_ready(&it), !automatic);
        assert_rc(pshm_event_set(&e), 0);
        assert_rc(pshm_wait(&it, 1, PSHM_FOREVER, &ready, &failed), 1);
        assert_true(ready);
        assert_rc(pshm_event_is_set(&e), 1); /* it takes nothing */
        assert_rc(pshm_event_clear(&e), 0);
        assert_rc(pshm_waitable_ready(&it), 0);
        delete_it(world, &e);
    }
}

/* ---- deaths ---- */

static int wait_for_ever(void *context)
{
    helper_world *world = context;
    pshm_event e;
    uint32_t since;
    CHECK(init(&e, world->arena, PSHM_AUTOMATIC_ANY, NULL) == 0);
    CHECK(pshm_event_since(&e, &since) == 0);
    for (;;)
        CHECK(pshm_event_wait(&e, since, PSHM_FOREVER) == -EINTR);
}

static int set_and_clear(void *context)
{
    helper_world *world = context;
    pshm_event e;
    CHECK(init(&e, world->arena, PSHM_AUTOMATIC_ANY, NULL) == 0);
    for (;;) {
        CHECK(pshm_event_set(&e) == 0);
        if (e.automatic)
            CHECK(pshm_event_wait(&e, 0, 0) == 0);
        else
            CHECK(pshm_event_clear(&e) == 0);
    }
}

static void test_deaths(helper_world *world)
{
    const struct timespec pause = {0, 2000000};
    for (int i = 0; i < 8; i++) {
        pshm_event e = event_of(world, i % 2);
        pid_t busy = helper_fork(set_and_clear, world);
        nanosleep(&pause, NULL);
        helper_kill(busy);
        assert_rc(pshm_event_clear(&e), 0);
        pid_t sleeper = helper_fork(wait_for_ever, world);
        helper_until_waits(world->arena, NAME);
        helper_kill(sleeper);
        assert_rc(pshm_event_set(&e), 0);
        assert_rc(wait_long(&e, since_of(&e)), 0);
        assert_rc(pshm_event_is_set(&e), !(i % 2));
        delete_it(world, &e);
    }
}

/* Of one that clears itself the one who is woken dies of it: the set is still there for the next. */
static void test_the_one_who_was_woken_dies(helper_world *world)
{
    pthread_t thread;
    uint32_t done = 0;
    job j = {world, &done, 1};
    pshm_event e = event_of(world, AUTO);
    pid_t first = helper_fork(wait_for_ever, world);
    helper_until_waits(world->arena, NAME);
    kill(first, SIGSTOP);
    assert_int_equal(pthread_create(&thread, NULL, waiter, &j), 0);
    assert_rc(pshm_event_set(&e), 0);
    helper_kill(first);
    pthread_join(thread, NULL);
    assert_rc(j.rc, 0);
    assert_rc(pshm_event_is_set(&e), 0);
    pshm_event_fini(&e);
}

/* ---- what goes ---- */

static void test_deleted(helper_world *world)
{
    for (int automatic = 0; automatic < 2; automatic++) {
        pthread_t thread;
        uint32_t done = 0, since;
        job j = {world, &done, 1};
        bool created = false;
        pshm_event e = event_of(world, automatic), fresh;
        assert_int_equal(pthread_create(&thread, NULL, waiter, &j), 0);
        helper_until_waits(world->arena, NAME);
        assert_rc(pshm_arena_delete(world->arena, NAME, strlen(NAME), NULL), 0);
        pthread_join(thread, NULL);
        assert_rc(j.rc, PSHM_EDELETED);
        assert_rc(pshm_event_set(&e), PSHM_EDELETED);
        assert_rc(pshm_event_clear(&e), PSHM_EDELETED);
        assert_rc(pshm_event_is_set(&e), PSHM_EDELETED);
        assert_rc(pshm_event_since(&e, &since), PSHM_EDELETED);
        assert_rc(pshm_event_wait(&e, 0, 0), PSHM_EDELETED);
        assert_rc(pshm_waitable_ready(&(pshm_waitable){.object = &e.object}), PSHM_EDELETED);
        assert_rc(init(&fresh, world->arena, !automatic, &created), 0);
        assert_true(created);
        assert_rc(pshm_event_set(&fresh), 0);
        assert_rc(pshm_event_is_set(&e), PSHM_EDELETED);
        pshm_event_fini(&e);
        delete_it(world, &fresh);
    }
}

static void test_closed_and_readonly(helper_world *world)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    if (strcmp(world->kind, "posix") != 0)
        return; /* a second handle needs a name */
    for (int automatic = 0; automatic < 2; automatic++) {
        pshm_arena *reader, *other;
        const char *address = world->arena->address;
        pshm_event e = event_of(world, automatic), seen, more;
        options.access = PSHM_ACCESS_RW;
        assert_rc(pshm_arena_open(address, strlen(address), &options, &other), 0);
        options.access = PSHM_ACCESS_R;
        assert_rc(pshm_arena_open(address, strlen(address), &options, &reader), 0);
        assert_rc(init(&more, other, PSHM_AUTOMATIC_ANY, NULL), 0);
        assert_rc(init(&seen, reader, automatic, NULL), 0);
        assert_rc(pshm_event_init(&(pshm_event){0}, reader, "none", 4, true, MANUAL, NULL), PSHM_EREADONLY);
        assert_rc(pshm_event_set(&seen), PSHM_EREADONLY);
        assert_rc(pshm_event_clear(&seen), PSHM_EREADONLY);
        assert_rc(pshm_event_is_set(&seen), 0);
        uint32_t since = since_of(&seen);
        assert_rc(pshm_event_wait(&seen, since, 0), automatic ? PSHM_EREADONLY : -ETIMEDOUT);
        assert_rc(pshm_event_wait(&seen, since, in(0.01)), automatic ? PSHM_EREADONLY : -ETIMEDOUT);
        assert_rc(pshm_event_set(&e), 0);
        const pshm_waitable it = {.object = &seen.object};
        assert_rc(pshm_waitable_ready(&it), 1);
        assert_rc(pshm_event_clear(&e), 0);
        assert_rc(pshm_waitable_ready(&it), 0);
        assert_rc(pshm_event_wait(&seen, since, PSHM_FOREVER), automatic ? PSHM_EREADONLY : 0);
        pshm_arena_close(other);
        pshm_arena_close(reader);
        assert_rc(pshm_event_is_set(&seen), PSHM_ECLOSED);
        assert_rc(pshm_event_wait(&seen, 0, 0), PSHM_ECLOSED);
        assert_rc(pshm_event_wait(&more, 0, 0), PSHM_ECLOSED);
        assert_rc(pshm_event_set(&more), PSHM_ECLOSED);
        assert_rc(pshm_event_clear(&more), PSHM_ECLOSED);
        assert_rc(pshm_event_since(&more, &since), PSHM_ECLOSED);
        pshm_event_fini(&seen);
        pshm_event_fini(&more);
        pshm_arena_release(other);
        pshm_arena_release(reader);
        delete_it(world, &e);
    }
}

/* Whoever may only read waits too: it looks. */
static void *wait_reading(void *context)
{
    job *j = context;
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *reader;
    pshm_event e;
    options.access = PSHM_ACCESS_R;
    const char *address = j->world->arena->address;
    CHECK(pshm_arena_open(address, strlen(address), &options, &reader) == 0);
    CHECK(init(&e, reader, MANUAL, NULL) == 0);
    uint32_t since = since_of(&e);
    helper_step(j->world, 1);
    j->rc = wait_long(&e, since);
    pshm_event_fini(&e);
    pshm_arena_close(reader);
    pshm_arena_release(reader);
    return NULL;
}

static void test_a_reader_waits(helper_world *world)
{
    pthread_t thread;
    job j = {world, NULL, 1};
    if (strcmp(world->kind, "posix") != 0)
        return;
    pshm_event e = event_of(world, MANUAL);
    assert_int_equal(pthread_create(&thread, NULL, wait_reading, &j), 0);
    assert_true(helper_until_step(world, 1));
    assert_rc(pshm_event_set(&e), 0);
    assert_rc(pshm_event_clear(&e), 0);
    pthread_join(thread, NULL);
    assert_rc(j.rc, 0);
    pshm_event_fini(&e);
}

static int use_inherited(void *context)
{
    pshm_event *e = context;
    CHECK(pshm_event_is_set(e) == 1);
    CHECK(pshm_event_clear(e) == 0);
    CHECK(pshm_event_wait(e, 0, 0) == 0); /* it was set since */
    return 0;
}

static void test_forked(helper_world *world)
{
    pshm_event e = event_of(world, MANUAL);
    assert_rc(pshm_event_set(&e), 0);
    helper_in_child(use_inherited, &e);
    assert_rc(pshm_event_is_set(&e), 0);
    pshm_event_fini(&e);
}

/* Any state is one, and any flags are no more than a wake-up too many. */
static void test_hostile_bytes(helper_world *world)
{
    for (int automatic = 0; automatic < 2; automatic++) {
        pshm_event e = event_of(world, automatic);
        uint32_t *words = e.object.body;
        for (uint32_t i = 0; i < 64; i++) {
            words[0] = i & 1 ? UINT32_MAX << i % 32 : UINT32_MAX >> i % 32;
            words[1] = i & 2 ? UINT32_MAX << i % 32 : UINT32_MAX >> i % 32;
            int rc = pshm_event_wait(&e, since_of(&e), 0);
            assert_true(rc == 0 || rc == -ETIMEDOUT);
            assert_rc(pshm_event_set(&e), 0);
            assert_rc(pshm_event_is_set(&e), 1);
            assert_rc(pshm_event_wait(&e, since_of(&e), 0), 0);
            assert_rc(pshm_event_clear(&e), 0);
            assert_rc(pshm_event_is_set(&e), 0);
        }
        words[0] = UINT32_MAX;
        assert_rc(pshm_event_wait(&e, since_of(&e), in(0.003)), -ETIMEDOUT);
        delete_it(world, &e);
    }
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_verbs)
EACH_KIND(test_verbs_of_one_that_clears_itself)
EACH_KIND(test_since)
EACH_KIND(test_since_at_the_end)
EACH_KIND(test_parameters)
EACH_KIND(test_all_are_let_go)
EACH_KIND(test_one_for_each_time)
EACH_KIND(test_turns_of_two_processes)
EACH_KIND(test_pulses)
EACH_KIND(test_waitable)
EACH_KIND(test_deaths)
EACH_KIND(test_the_one_who_was_woken_dies)
EACH_KIND(test_deleted)
EACH_KIND(test_closed_and_readonly)
EACH_KIND(test_a_reader_waits)
EACH_KIND(test_forked)
EACH_KIND(test_hostile_bytes)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_verbs),
        TEST(each_test_verbs_of_one_that_clears_itself),
        TEST(each_test_since),
        TEST(each_test_since_at_the_end),
        TEST(each_test_parameters),
        TEST(each_test_all_are_let_go),
        TEST(each_test_one_for_each_time),
        TEST(each_test_turns_of_two_processes),
        TEST(each_test_pulses),
        TEST(each_test_waitable),
        TEST(each_test_deaths),
        TEST(each_test_the_one_who_was_woken_dies),
        TEST(each_test_deleted),
        TEST(each_test_closed_and_readonly),
        TEST(each_test_a_reader_waits),
        TEST(each_test_forked),
        TEST(each_test_hostile_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
