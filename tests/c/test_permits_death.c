/* SPDX-License-Identifier: MIT
 *
 * Permits whose holders die, stop, end or fork, and permits that are deleted or closed while they are held.
 */
#include "helper_owner.h"

#include <polyshm/permits.h>

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/owner.h"
#include "core/waiting.h"
#include "os/clock.h"

static pshm_permits permits_of(helper_world *world, int64_t total)
{
    pshm_permits permits;
    assert_rc(pshm_permits_init(&permits, world->arena, "permits", 7, true, total, NULL), 0);
    return permits;
}

static uint32_t available(pshm_permits *permits)
{
    uint32_t found = 99;
    assert_rc(pshm_permits_available(permits, &found), 0);
    return found;
}

/* ---- holders ---- */

typedef struct holder {
    helper_world *world;
    int64_t n;
    bool silently; /* the kernel will not tell its death by the beacon */
} holder;

static int hold(void *context)
{
    const holder *h = context;
    pshm_permits p;
    CHECK(pshm_permits_init(&p, h->world->arena, "permits", 7, false, PSHM_PERMITS_ANY, NULL) == 0);
    CHECK(pshm_permits_try(&p, h->n) == 0);
    if (h->silently) {
        static struct robust_list_head nothing;
        nothing.list.next = &nothing.list;
        CHECK(syscall(SYS_set_robust_list, &nothing, sizeof nothing) == 0);
    }
    helper_step(h->world, 1);
    for (;;)
        pause();
}

static pid_t holder_of(helper_world *world, int64_t n, bool silently)
{
    holder h = {world, n, silently};
    helper_step(world, 0);
    pid_t pid = helper_fork(hold, &h);
    assert_true(helper_until_step(world, 1));
    return pid;
}

/* What the dead had is there at once, together with what was free before; nothing is told. */
static void test_death(helper_world *world)
{
    pshm_permits p = permits_of(world, 5);
    for (int i = 0; i < 3; i++) {
        pid_t first = holder_of(world, 2, false), second = holder_of(world, 2, false);
        assert_int_equal(available(&p), 1);
        assert_rc(pshm_permits_try(&p, 2), -EBUSY);
        helper_kill(first);
        assert_int_equal(available(&p), 3);
        assert_rc(pshm_permits_try(&p, 4), -EBUSY);
        assert_rc(pshm_permits_try(&p, 3), 0);
        helper_kill(second);
        assert_rc(pshm_permits_acquire(&p, 2, 0), 0);
        assert_rc(pshm_permits_release(&p, 5), 0);
        assert_int_equal(available(&p), 5);
    }
    pshm_permits_fini(&p);
}

static int wait_for_two(void *context)
{
    helper_world *world = context;
    pshm_permits p;
    int rc = -EINTR;
    CHECK(pshm_permits_init(&p, world->arena, "permits", 7, false, PSHM_PERMITS_ANY, NULL) == 0);
    for (int i = 0; rc == -EINTR && i < 200; i++)
        rc = pshm_permits_acquire(&p, 2, PSHM_FOREVER);
    CHECK(rc == 0 && pshm_permits_release(&p, 2) == 0);
    pshm_permits_fini(&p);
    return 0;
}

/* Who waits sleeps on the life of each that has some. (That it gets them in the end would say nothing: it counts anew at
 * the end of a slice too.) */
static void test_death_wakes(helper_world *world)
{
    pshm_permits p = permits_of(world, 3);
    pid_t keeper = holder_of(world, 1, false), victim = holder_of(world, 2, false);
    pid_t waiter = helper_fork(wait_for_two, world);
    helper_until_waits(world->arena, "permits");
    assert_true(helper_sleeps_on_life(world->arena, keeper));
    assert_true(helper_sleeps_on_life(world->arena, victim));
    helper_kill(victim);
    assert_int_equal(helper_wait(waiter), 0);
    helper_kill(keeper);
    assert_int_equal(available(&p), 3);
    pshm_permits_fini(&p);
}

/* The same for who only watches. */
static void test_death_is_watched(helper_world *world)
{
    pshm_permits p = permits_of(world, 3);
    pshm_watch words = {.count = 0};
    unsigned which = 99;
    pid_t victim = holder_of(world, 3, false);
    assert_int_equal(p.object.watch(&p.object, 1, &words), 0);
    assert_int_equal(words.count, 2);
    helper_kill(victim);
    int rc = pshm_os_futex_wait_many(words.words, words.count, pshm_os_now() + 20 * SECOND, &which);
    assert_true(rc == 0 || rc == -EAGAIN);
    words.count = 0;
    assert_int_equal(p.object.watch(&p.object, 3, &words), 1);
    pshm_permits_fini(&p);
}

/* The beacon still shines: whoever finds too few asks the system, once it has found so for a slice. */
static void test_silent_death(helper_world *world)
{
    pshm_permits p = permits_of(world, 3);
    pshm_watch words;
    for (int how = 0; how < 4; how++) {
        int rc = -EBUSY;
        helper_kill(holder_of(world, 2, true));
        for (int i = 0; i < 2 && how == 0 && rc; i++)
            rc = pshm_permits_acquire(&p, 2, PSHM_FOREVER);
        for (int i = 0; i < 400 && how == 1 && rc == -EBUSY; i++) {
            usleep(1000);
            rc = pshm_permits_try(&p, 2);
        }
        for (int i = 0; i < 400 && how == 2 && rc; i++)
            rc = pshm_permits_acquire(&p, 2, pshm_os_now() + SECOND / 1000);
        for (int i = 0; i < 400 && how == 3 && rc; i++) {
            words.count = 0;
            usleep(1000);
            rc = p.object.watch(&p.object, 2, &words) != 1;
        }
        assert_rc(rc, 0);
        assert_rc(pshm_permits_release(&p, 2), how == 3 ? PSHM_ENOTOWNER : 0);
        assert_int_equal(available(&p), 3);
    }
    pshm_permits_fini(&p);
}

static void test_stopped(helper_world *world)
{
    pshm_permits p = permits_of(world, 3);
    int status;
    pid_t pid = holder_of(world, 2, false);
    kill(pid, SIGSTOP);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    for (int i = 0; i < 4; i++)
        assert_rc(pshm_permits_acquire(&p, 2, PSHM_FOREVER), -EINTR);
    assert_int_equal(available(&p), 1);
    assert_rc(pshm_permits_try(&p, 1), 0);
    assert_rc(pshm_permits_release(&p, 1), 0);
    helper_kill(pid);
    assert_rc(pshm_permits_try(&p, 3), 0);
    assert_rc(pshm_permits_release(&p, 3), 0);
    pshm_permits_fini(&p);
}

/* As csrc/sync/permits.c has it. */
static pshm_owner *guard_of(const pshm_permits *permits)
{
    return (pshm_owner *)(void *)((unsigned char *)permits->object.body + 8);
}

static int enter_guard_and_stay(void *context)
{
    helper_world *world = context;
    pshm_permits p;
    pshm_member *m;
    bool repair;
    CHECK(pshm_permits_init(&p, world->arena, "permits", 7, false, PSHM_PERMITS_ANY, NULL) == 0);
    CHECK(pshm_member_of(world->arena->attachment, &m) == 0);
    CHECK(pshm_owner_enter(m, guard_of(&p), &repair) == 0);
    helper_step(world, 1);
    for (;;)
        pause();
}

/* Somebody is stopped in the middle of acquiring: who only tries does not wait for that. */
static void test_stopped_in_the_middle(helper_world *world)
{
    pshm_permits p = permits_of(world, 3);
    int64_t best = INT64_MAX;
    helper_step(world, 0);
    pid_t pid = helper_fork(enter_guard_and_stay, world);
    assert_true(helper_until_step(world, 1));
    for (int i = 0; i < 5; i++) {
        int64_t start = pshm_os_now();
        assert_rc(pshm_permits_try(&p, 1), -EBUSY);
        int64_t took = pshm_os_now() - start;
        best = took < best ? took : best;
    }
    assert_true(best < PSHM_SLICE_NS / 2);
    assert_rc(pshm_permits_acquire(&p, 1, PSHM_FOREVER), -EINTR);
    helper_kill(pid);
    assert_rc(pshm_permits_try(&p, 3), 0);
    assert_rc(pshm_permits_release(&p, 3), 0);
    pshm_permits_fini(&p);
}

/* ---- threads and children ---- */

static void *end_while_holding(void *context)
{
    assert_rc(pshm_permits_try(context, 2), 0);
    return NULL;
}

static void test_thread_ends(helper_world *world)
{
    pshm_permits p = permits_of(world, 3);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, end_while_holding, &p), 0);
    pthread_join(thread, NULL);
    assert_int_equal(available(&p), 3);
    assert_rc(pshm_permits_try(&p, 3), 0);
    assert_rc(pshm_permits_release(&p, 3), 0);
    pshm_permits_fini(&p);
}

static int hold_nothing(void *context)
{
    pshm_permits *p = context;
    uint32_t held = 9;
    CHECK(pshm_permits_held(p, &held) == 0 && held == 0);
    CHECK(pshm_permits_release(p, 1) == PSHM_ENOTOWNER);
    CHECK(pshm_permits_try(p, 2) == -EBUSY);
    CHECK(pshm_permits_try(p, 1) == 0);
    CHECK(pshm_permits_release(p, 2) == PSHM_ENOTOWNER);
    CHECK(pshm_permits_held(p, &held) == 0 && held == 1);
    return 0; /* and ends, holding it */
}

static void test_fork(helper_world *world)
{
    pshm_permits p = permits_of(world, 3);
    assert_rc(pshm_permits_try(&p, 2), 0);
    helper_in_child(hold_nothing, &p);
    assert_int_equal(available(&p), 1);
    assert_rc(pshm_permits_try(&p, 1), 0);
    assert_rc(pshm_permits_release(&p, 3), 0);
    pshm_permits_fini(&p);
}

/* ---- what goes ---- */

typedef struct job {
    helper_world *world;
    int rc;
} job;

static void *wait_long(void *context)
{
    job *j = context;
    pshm_permits p = permits_of(j->world, PSHM_PERMITS_ANY);
    helper_step(j->world, 1);
    for (int i = 0; i < 200 && j->rc == -EINTR; i++)
        j->rc = pshm_permits_acquire(&p, 3, PSHM_FOREVER);
    pshm_permits_fini(&p);
    return NULL;
}

static void test_deleted(helper_world *world)
{
    pshm_permits p = permits_of(world, 3), fresh;
    pthread_t thread;
    job j = {world, -EINTR};
    uint32_t count;
    helper_step(world, 0);
    assert_rc(pshm_permits_try(&p, 2), 0);
    assert_int_equal(pthread_create(&thread, NULL, wait_long, &j), 0);
    assert_true(helper_until_step(world, 1));
    assert_rc(pshm_arena_delete(world->arena, "permits", 7, &p.object), 0);
    pthread_join(thread, NULL);
    assert_rc(j.rc, PSHM_EDELETED);
    assert_rc(pshm_permits_try(&p, 1), PSHM_EDELETED);
    assert_rc(pshm_permits_acquire(&p, 1, PSHM_FOREVER), PSHM_EDELETED);
    assert_rc(pshm_permits_available(&p, &count), PSHM_EDELETED);
    fresh = permits_of(world, 2);
    assert_ptr_not_equal(fresh.object.body, p.object.body); /* that is kept for who has some */
    assert_rc(pshm_permits_try(&fresh, 2), 0);
    assert_rc(pshm_permits_held(&p, &count), 0);
    assert_int_equal(count, 2);
    assert_rc(pshm_permits_release(&p, 1), 0);
    assert_rc(pshm_permits_release(&p, 1), 0);
    assert_rc(pshm_permits_release(&p, 1), PSHM_ENOTOWNER);
    assert_rc(pshm_permits_held(&p, &count), PSHM_EDELETED);
    assert_rc(pshm_permits_held(&fresh, &count), 0);
    assert_int_equal(count, 2);
    assert_rc(pshm_permits_release(&fresh, 2), 0);
    pshm_permits_fini(&fresh);
    pshm_permits_fini(&p);
}

static void test_closed_and_readonly(helper_world *world)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *other, *reader;
    pshm_permits p = permits_of(world, 3), more, seen;
    pshm_watch words = {.count = 0};
    const char *address = world->arena->address;
    uint32_t count;
    if (!strcmp(world->kind, "posix")) {
        assert_rc(pshm_arena_open(address, strlen(address), &options, &other), 0);
        options.access = PSHM_ACCESS_R;
        assert_rc(pshm_arena_open(address, strlen(address), &options, &reader), 0);
        assert_rc(pshm_permits_init(&more, other, "permits", 7, false, 3, NULL), 0);
        assert_rc(pshm_permits_init(&seen, reader, "permits", 7, false, 3, NULL), 0);
        assert_rc(pshm_permits_try(&more, 2), 0);
        assert_int_equal(available(&seen), 1);
        assert_rc(pshm_permits_try(&seen, 1), PSHM_EREADONLY);
        assert_rc(pshm_permits_acquire(&seen, 1, PSHM_FOREVER), PSHM_EREADONLY);
        assert_rc(pshm_permits_release(&seen, 1), PSHM_ENOTOWNER);
        assert_int_equal(seen.object.watch(&seen.object, 1, &words), 1);
        assert_int_equal(seen.object.watch(&seen.object, 2, &words), 0);
        assert_int_equal(words.count, 0);
        pshm_arena_close(other);
        pshm_arena_close(reader);
        assert_rc(pshm_permits_try(&more, 1), PSHM_ECLOSED);
        assert_rc(pshm_permits_available(&more, &count), PSHM_ECLOSED);
        assert_rc(pshm_permits_held(&more, &count), 0);
        assert_int_equal(count, 2);
        assert_rc(pshm_permits_release(&more, 1), 0);
        assert_rc(pshm_permits_release(&more, 1), 0);
        assert_rc(pshm_permits_held(&more, &count), PSHM_ECLOSED);
        assert_int_equal(available(&p), 3);
        pshm_permits_fini(&more);
        pshm_permits_fini(&seen);
        pshm_arena_release(other);
        pshm_arena_release(reader);
    }
    pshm_permits_fini(&p);
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_death)
EACH_KIND(test_death_wakes)
EACH_KIND(test_death_is_watched)
EACH_KIND(test_silent_death)
EACH_KIND(test_stopped)
EACH_KIND(test_stopped_in_the_middle)
EACH_KIND(test_thread_ends)
EACH_KIND(test_fork)
EACH_KIND(test_deleted)
EACH_KIND(test_closed_and_readonly)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_death),        TEST(each_test_death_wakes), TEST(each_test_death_is_watched),
        TEST(each_test_silent_death), TEST(each_test_stopped),     TEST(each_test_stopped_in_the_middle),
        TEST(each_test_thread_ends),  TEST(each_test_fork),        TEST(each_test_closed_and_readonly),
        TEST(each_test_deleted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
