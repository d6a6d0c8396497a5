/* SPDX-License-Identifier: MIT
 *
 * Once: done by one, waited for by the others; failing, dying and ending in the middle, and what goes away meanwhile.
 */
#include "helper_owner.h"

#include <polyshm/once.h>

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/owner.h"
#include "core/waiting.h"
#include "os/clock.h"

static pshm_once once_of(helper_world *world)
{
    pshm_once once;
    assert_rc(pshm_once_init(&once, world->arena, "once", 4, true, NULL), 0);
    return once;
}

static int64_t in(double seconds)
{
    return pshm_deadline((int64_t)(seconds * 1e9));
}

static int begin(pshm_once *once)
{
    int rc = -EINTR;
    for (int i = 0; rc == -EINTR && i < 200; i++)
        rc = pshm_once_begin(once, PSHM_FOREVER);
    return rc;
}

static void test_names(helper_world *world)
{
    pshm_once o;
    bool created = false;
    assert_rc(pshm_once_init(&o, world->arena, "once", 4, false, &created), PSHM_ENONAME);
    assert_rc(pshm_once_finish(&o, true), PSHM_ENOTOWNER);
    assert_rc(pshm_once_init(&o, world->arena, "once", 4, true, &created), 0);
    assert_true(created);
    pshm_once_fini(&o);
    pshm_once_fini(&o); /* of what is not open: nothing */
    assert_rc(pshm_once_init(&o, world->arena, "once", 4, true, &created), 0);
    assert_false(created);
    pshm_once_fini(&o);
    assert_rc(pshm_once_init(&o, world->arena, "lock", 4, true, &created), PSHM_EKIND);
    assert_rc(pshm_once_init(&o, world->arena, "", 0, true, &created), PSHM_ENAMESIZE);
}

static void *begin_elsewhere(void *context)
{
    pshm_once *o = context;
    assert_rc(pshm_once_begin(o, 0), -ETIMEDOUT);
    assert_rc(pshm_once_begin(o, in(0.01)), -ETIMEDOUT);
    assert_rc(pshm_once_begin(o, PSHM_FOREVER), -EINTR); /* a slice */
    assert_rc(pshm_once_finish(o, true), PSHM_ENOTOWNER);
    assert_rc(pshm_once_done(o), 0);
    return NULL;
}

static void test_verbs(helper_world *world)
{
    pshm_once o = once_of(world), other = once_of(world);
    pthread_t thread;
    assert_int_equal(pshm_once_done(&o), 0);
    assert_rc(pshm_once_finish(&o, true), PSHM_ENOTOWNER);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pshm_once_begin(&o, i ? 0 : PSHM_FOREVER), 0);
        assert_rc(pshm_once_begin(&o, 0), PSHM_ESELFWAIT);
        assert_rc(pshm_once_begin(&other, PSHM_FOREVER), PSHM_ESELFWAIT);
        assert_rc(pshm_participant_detach(world->arena), PSHM_EHELD);
        assert_int_equal(pthread_create(&thread, NULL, begin_elsewhere, &o), 0);
        pthread_join(thread, NULL);
        assert_rc(pshm_once_finish(&o, i == 2), 0);
        assert_rc(pshm_once_finish(&o, true), PSHM_ENOTOWNER);
        assert_int_equal(pshm_once_done(&other), i == 2);
    }
    assert_rc(pshm_participant_detach(world->arena), 0);
    assert_int_equal(pshm_once_begin(&o, 0), 1);
    assert_int_equal(pshm_once_begin(&other, PSHM_FOREVER), 1);
    assert_int_equal(pshm_once_done(&o), 1);
    assert_rc(pshm_once_finish(&o, false), PSHM_ENOTOWNER);
    pshm_once_fini(&other);
    pshm_once_fini(&o);
}

/* ---- many at once ---- */

static int do_it(void *context)
{
    helper_world *world = context;
    pshm_once o;
    CHECK(pshm_once_init(&o, world->arena, "once", 4, false, NULL) == 0);
    int rc = begin(&o);
    CHECK(rc == 0 || rc == 1);
    if (rc == 0) {
        /* The first three fail. */
        bool well = __atomic_add_fetch(&world->stage->number, 1, __ATOMIC_SEQ_CST) > 3;
        CHECK(__atomic_add_fetch(&world->stage->step, 1, __ATOMIC_SEQ_CST) == 1);
        usleep(1000);
        __atomic_sub_fetch(&world->stage->step, 1, __ATOMIC_SEQ_CST);
        CHECK(pshm_once_finish(&o, well) == 0);
        if (!well)
            rc = do_it(world);
    }
    CHECK(pshm_once_done(&o) == 1);
    pshm_once_fini(&o);
    return 0;
}

static void *do_it_in_thread(void *context)
{
    do_it(context);
    return NULL;
}

static void test_one_does_it(helper_world *world)
{
    enum { EACH = 3 };
    pshm_once o = once_of(world);
    pthread_t threads[EACH];
    pid_t children[EACH];
    world->stage->number = world->stage->step = 0;
    for (int i = 0; i < EACH; i++)
        children[i] = helper_fork(do_it, world);
    for (int i = 0; i < EACH; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, do_it_in_thread, world), 0);
    for (int i = 0; i < EACH; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(helper_wait(children[i]), 0);
    }
    assert_int_equal(world->stage->number, 4);
    pshm_once_fini(&o);
}

/* ---- death ---- */

static int begin_and_stay(void *context)
{
    helper_world *world = context;
    pshm_once o;
    CHECK(pshm_once_init(&o, world->arena, "once", 4, false, NULL) == 0);
    CHECK(pshm_once_begin(&o, 0) == 0);
    helper_step(world, 1);
    for (;;)
        pause();
}

static pid_t runner_of(helper_world *world)
{
    helper_step(world, 0);
    pid_t pid = helper_fork(begin_and_stay, world);
    assert_true(helper_until_step(world, 1));
    return pid;
}

static int wait_for_turn(void *context)
{
    helper_world *world = context;
    pshm_once o;
    CHECK(pshm_once_init(&o, world->arena, "once", 4, false, NULL) == 0);
    CHECK(begin(&o) == 0 && pshm_once_finish(&o, false) == 0);
    pshm_once_fini(&o);
    return 0;
}

/* The next one begins anew and is told nothing. Who waits sleeps on the life of who does it. */
static void test_death(helper_world *world)
{
    pshm_once o = once_of(world);
    pid_t victim = runner_of(world);
    assert_rc(pshm_once_begin(&o, 0), -ETIMEDOUT);
    pid_t waiter = helper_fork(wait_for_turn, world);
    helper_until_waits(world->arena, "once");
    assert_true(helper_sleeps_on_life(world->arena, victim));
    helper_kill(victim);
    assert_int_equal(helper_wait(waiter), 0);
    helper_kill(runner_of(world));
    assert_int_equal(pshm_once_done(&o), 0);
    assert_int_equal(pshm_once_begin(&o, 0), 0);
    assert_rc(pshm_once_finish(&o, true), 0);
    assert_int_equal(pshm_once_begin(&o, 0), 1);
    pshm_once_fini(&o);
}

static void test_stopped(helper_world *world)
{
    pshm_once o = once_of(world);
    int status;
    pid_t pid = runner_of(world);
    kill(pid, SIGSTOP);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    for (int i = 0; i < 4; i++)
        assert_rc(pshm_once_begin(&o, PSHM_FOREVER), -EINTR);
    helper_kill(pid);
    assert_int_equal(pshm_once_begin(&o, 0), 0);
    assert_rc(pshm_once_finish(&o, true), 0);
    pshm_once_fini(&o);
}

static void *end_in_the_middle(void *context)
{
    assert_int_equal(pshm_once_begin(context, 0), 0);
    return NULL;
}

static int finish_in_child(void *context)
{
    CHECK(pshm_once_finish(context, true) == PSHM_ENOTOWNER);
    CHECK(pshm_once_begin(context, 0) == -ETIMEDOUT);
    return 0;
}

static void test_threads_and_children(helper_world *world)
{
    pshm_once o = once_of(world);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, end_in_the_middle, &o), 0);
    pthread_join(thread, NULL);
    assert_int_equal(pshm_once_begin(&o, 0), 0);
    helper_in_child(finish_in_child, &o);
    assert_int_equal(pshm_once_done(&o), 0);
    assert_rc(pshm_once_finish(&o, true), 0);
    pshm_once_fini(&o);
}

/* ---- what goes ---- */

typedef struct job {
    helper_world *world;
    int rc;
} job;

static void *wait_long(void *context)
{
    job *j = context;
    pshm_once o = once_of(j->world);
    helper_step(j->world, 1);
    j->rc = begin(&o);
    pshm_once_fini(&o);
    return NULL;
}

static void test_deleted(helper_world *world)
{
    pshm_once o = once_of(world), fresh;
    pthread_t thread;
    job j = {world, 9};
    helper_step(world, 0);
    assert_int_equal(pshm_once_begin(&o, 0), 0);
    assert_int_equal(pthread_create(&thread, NULL, wait_long, &j), 0);
    assert_true(helper_until_step(world, 1));
    assert_rc(pshm_arena_delete(world->arena, "once", 4, &o.object), 0);
    pthread_join(thread, NULL);
    assert_rc(j.rc, PSHM_EDELETED);
    assert_rc(pshm_once_begin(&o, 0), PSHM_EDELETED);
    assert_rc(pshm_once_done(&o), PSHM_EDELETED);
    fresh = once_of(world);
    assert_rc(pshm_once_finish(&o, true), 0);
    assert_rc(pshm_once_finish(&o, true), PSHM_ENOTOWNER);
    assert_int_equal(pshm_once_done(&fresh), 0);
    pshm_once_fini(&fresh);
    pshm_once_fini(&o);
}

static void test_closed_and_readonly(helper_world *world)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *other, *reader;
    pshm_once o = once_of(world), more, seen;
    const char *address = world->arena->address;
    pshm_watch words = {.count = 0};
    if (!strcmp(world->kind, "posix")) {
        assert_rc(pshm_arena_open(address, strlen(address), &options, &other), 0);
        options.access = PSHM_ACCESS_R;
        assert_rc(pshm_arena_open(address, strlen(address), &options, &reader), 0);
        assert_rc(pshm_once_init(&more, other, "once", 4, false, NULL), 0);
        assert_rc(pshm_once_init(&seen, reader, "once", 4, false, NULL), 0);
        assert_rc(pshm_once_begin(&seen, 0), PSHM_EREADONLY);
        assert_int_equal(seen.object.watch(&seen.object, 0, &words), 0);
        assert_int_equal(words.count, 0);
        assert_int_equal(pshm_once_begin(&more, 0), 0);
        pshm_arena_close(other);
        assert_rc(pshm_once_begin(&more, 0), PSHM_ECLOSED);
        assert_rc(pshm_once_done(&more), PSHM_ECLOSED);
        assert_rc(pshm_once_finish(&more, true), 0);
        assert_int_equal(pshm_once_begin(&seen, 0), 1); /* nothing is left to be written */
        assert_int_equal(seen.object.watch(&seen.object, 0, &words), 1);
        pshm_arena_close(reader);
        assert_rc(pshm_once_done(&seen), PSHM_ECLOSED);
        pshm_once_fini(&more);
        pshm_once_fini(&seen);
        pshm_arena_release(other);
        pshm_arena_release(reader);
    }
    pshm_once_fini(&o);
}

/* ---- watching, and bytes that cannot be ---- */

static int watched(pshm_once *o, pshm_watch *words)
{
    words->count = 0;
    return o->object.watch(&o->object, 0, words);
}

static void test_watch(helper_world *world)
{
    pshm_once o = once_of(world);
    pshm_watch words;
    unsigned which;
    assert_int_equal(watched(&o, &words), 0);
    assert_int_equal(words.count, 2);
    assert_int_equal(pshm_once_begin(&o, 0), 0);
    assert_int_equal(watched(&o, &words), 0);
    assert_int_equal(pshm_os_futex_wait_many(words.words, words.count, pshm_os_now() + 1000, &which), -ETIMEDOUT);
    assert_rc(pshm_once_finish(&o, true), 0);
    assert_int_equal(pshm_os_futex_wait_many(words.words, words.count, pshm_os_now() + SECOND, &which), -EAGAIN);
    assert_int_equal(watched(&o, &words), 1);
    pshm_once_fini(&o);
}

static void test_any_bytes(helper_world *world)
{
    pshm_once o = once_of(world);
    uint64_t *words = o.object.body;
    srand(9);
    for (int i = 0; i < 3000; i++) {
        unsigned char *at = (unsigned char *)o.object.body + (unsigned)rand() % 32;
        __atomic_store_n(at, (unsigned char)rand(), __ATOMIC_RELAXED);
        if (i % 2)
            __atomic_store_n(&words[2], 0, __ATOMIC_RELAXED);
        int rc = pshm_once_begin(&o, pshm_deadline(1000));
        assert_true(rc <= 1);
        if (rc == 0)
            (void)pshm_once_finish(&o, i % 3);
    }
    memset(o.object.body, 0, 64);
    assert_int_equal(pshm_once_begin(&o, 0), 0);
    words[0] = 0; /* the word is not its any more */
    assert_rc(pshm_once_finish(&o, true), PSHM_ENOTOWNER);
    assert_int_equal(pshm_once_done(&o), 0);
    pshm_once_fini(&o);
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_names)
EACH_KIND(test_verbs)
EACH_KIND(test_one_does_it)
EACH_KIND(test_death)
EACH_KIND(test_stopped)
EACH_KIND(test_threads_and_children)
EACH_KIND(test_deleted)
EACH_KIND(test_closed_and_readonly)
EACH_KIND(test_watch)
EACH_KIND(test_any_bytes)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_names),       TEST(each_test_verbs),
        TEST(each_test_one_does_it), TEST(each_test_death),
        TEST(each_test_stopped),     TEST(each_test_threads_and_children),
        TEST(each_test_deleted),     TEST(each_test_closed_and_readonly),
        TEST(each_test_watch),       TEST(each_test_any_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
