/* SPDX-License-Identifier: MIT
 *
 * Deaths around the read-write lock: of a reader, of a writer that waits and of one that writes; told to readers and
 * writers, made good by either; proof where the kernel's word does not come, and none where there is no death.
 */
#include "helper_owner.h"

#include <polyshm/rwlock.h>

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/layout.h"

typedef int wait_verb(pshm_rwlock *, int64_t, pshm_death *);

static pshm_rwlock rw;
static pshm_death death;

/* Calls again while a slice is over. */
static int patiently(wait_verb *verb, int slices)
{
    int rc = -EINTR;
    for (int i = 0; i < slices && rc == -EINTR; i++)
        rc = verb(&rw, PSHM_FOREVER, &death);
    return rc;
}

static uint32_t low_of_word(void)
{
    return (uint32_t)__atomic_load_n((uint64_t *)rw.object.body, __ATOMIC_SEQ_CST);
}

static void until_pending(void)
{
    for (int i = 0; i < 40000 && !((low_of_word() & PSHM_ID_SLOT) && (low_of_word() & PSHM_ID_GRANTED)); i++)
        usleep(500);
    assert_true(low_of_word() & PSHM_ID_GRANTED);
}

/* Nobody has it, and nobody died. */
static void expect_free(void)
{
    assert_rc(pshm_rwlock_read_try(&rw, &death), 0);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    assert_rc(pshm_rwlock_write_try(&rw, &death), 0);
    assert_rc(pshm_rwlock_write_release(&rw), 0);
    assert_int_equal(pshm_rwlock_read_locked(&rw), 0);
    assert_int_equal(pshm_rwlock_write_locked(&rw), 0);
}

/* ---- victims ---- */

typedef struct victim {
    helper_world *world;
    wait_verb *take;
    bool downgrade, cut;
} victim;

/* The kernel is not told what the thread holds. */
static void cut_by_clearing(void)
{
    static struct robust_list_head nothing;
    nothing.list.next = &nothing.list;
    CHECK(syscall(SYS_set_robust_list, &nothing, sizeof nothing) == 0);
}

static int hold(void *context)
{
    const victim *v = context;
    int rc = patiently(v->take, 200);
    CHECK(rc == 0 && (!v->downgrade || pshm_rwlock_downgrade(&rw) == 0));
    if (v->cut)
        cut_by_clearing();
    helper_step(v->world, 1);
    for (;;)
        pause();
}

static pid_t start(helper_world *world, wait_verb *take)
{
    victim v = {.world = world, .take = take};
    helper_step(world, 0);
    return helper_fork(hold, &v);
}

static pid_t one_that_holds(victim v)
{
    helper_step(v.world, 0);
    pid_t pid = helper_fork(hold, &v);
    assert_true(helper_until_step(v.world, 1));
    return pid;
}

static uint32_t killed_while_writing(helper_world *world)
{
    pid_t pid = one_that_holds((victim){.world = world, .take = pshm_rwlock_write_acquire});
    helper_kill(pid);
    return (uint32_t)pid;
}

/* ---- deaths that are nothing ---- */

static void test_reader(helper_world *world)
{
    for (int how = 0; how < 3; how++) {
        wait_verb *take = how ? pshm_rwlock_read_acquire : pshm_rwlock_write_acquire;
        pid_t pid = one_that_holds((victim){.world = world, .take = take, .downgrade = !how});
        assert_int_equal(pshm_rwlock_read_locked(&rw), 1);
        assert_rc(pshm_rwlock_write_try(&rw, &death), -EBUSY);
        helper_kill(pid);
        assert_int_equal(pshm_rwlock_read_locked(&rw), 0);
        if (how == 2) /* whatever is done first */
            assert_rc(pshm_rwlock_write_acquire(&rw, 0, &death), 0);
        else
            assert_rc(pshm_rwlock_write_try(&rw, &death), 0);
        assert_false(death.died);
        assert_rc(pshm_rwlock_write_release(&rw), 0);
        expect_free();
    }
}

static int write_once(void *context)
{
    helper_world *world = context;
    CHECK(patiently(pshm_rwlock_write_acquire, 200) == 0 && !death.died);
    CHECK(pshm_rwlock_write_release(&rw) == 0);
    helper_step(world, 2);
    return 0;
}

static void test_reader_that_is_waited_for(helper_world *world)
{
    pid_t first = one_that_holds((victim){.world = world, .take = pshm_rwlock_read_acquire});
    pid_t second = one_that_holds((victim){.world = world, .take = pshm_rwlock_read_acquire});
    pid_t writer = helper_fork(write_once, world);
    until_pending();
    helper_until_asleep(writer);
    helper_kill(first);
    helper_kill(second);
    assert_int_equal(helper_wait(writer), 0);
    expect_free();
}

static void *read_and_end(void *context)
{
    (void)context;
    assert_rc(pshm_rwlock_read_try(&rw, &death), 0);
    return NULL;
}

static void test_end_of_a_thread(helper_world *world)
{
    pthread_t thread;
    (void)world;
    assert_int_equal(pthread_create(&thread, NULL, read_and_end, NULL), 0);
    pthread_join(thread, NULL);
    assert_rc(patiently(pshm_rwlock_write_acquire, 3), 0);
    assert_false(death.died);
    assert_rc(pshm_rwlock_write_release(&rw), 0);
}

static int read_once(void *context)
{
    helper_world *world = context;
    helper_step(world, 2);
    CHECK(patiently(pshm_rwlock_read_acquire, 200) == 0 && !death.died);
    CHECK(pshm_rwlock_read_release(&rw) == 0);
    return 0;
}

/* A writer that dies while it waits for readers was never inside: in its slice, and between two of them. */
static void test_writer_that_waits(helper_world *world)
{
    for (int how = 0; how < 3; how++) {
        assert_rc(pshm_rwlock_read_try(&rw, &death), 0);
        pid_t writer = start(world, pshm_rwlock_write_acquire);
        until_pending();
        pid_t reader = how ? helper_fork(read_once, world) : 0, other = how == 2 ? helper_fork(write_once, world) : 0;
        if (how)
            assert_true(helper_until_step(world, 2));
        if (other)
            helper_until_asleep(other);
        helper_kill(writer);
        if (how != 2)
            assert_rc(patiently(pshm_rwlock_read_acquire, 2), 0); /* again */
        if (how != 2)
            assert_rc(pshm_rwlock_read_release(&rw), 0);
        if (!how)
            assert_rc(pshm_rwlock_read_release(&rw), 0);
        if (how == 1)
            assert_int_equal(helper_wait(reader), 0); /* while this one still reads */
        if (how)
            assert_rc(pshm_rwlock_read_release(&rw), 0);
        if (how == 2) {
            assert_int_equal(helper_wait(reader), 0);
            assert_int_equal(helper_wait(other), 0);
        }
        expect_free();
    }
}

static int wish_and_stay(void *context)
{
    helper_world *world = context;
    CHECK(pshm_rwlock_write_acquire(&rw, PSHM_FOREVER, &death) == -EINTR);
    helper_step(world, 1);
    for (;;)
        pause();
}

/* What it left in the word is a wish of nobody. */
static void test_writer_between_two_slices(helper_world *world)
{
    assert_rc(pshm_rwlock_read_try(&rw, &death), 0);
    helper_step(world, 0);
    pid_t writer = helper_fork(wish_and_stay, world);
    assert_true(helper_until_step(world, 1));
    assert_true(*(uint64_t *)rw.object.body >> 32);
    helper_kill(writer);
    helper_in_child(read_once, world);
    assert_int_equal(*(uint64_t *)rw.object.body >> 32, 0);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    expect_free();
}

/* ---- deaths that are told ---- */

static void expect_told(uint32_t pid)
{
    static wait_verb *const verbs[] = {pshm_rwlock_read_acquire, pshm_rwlock_write_acquire};
    uint32_t owner = 1;
    for (int i = 0; i < 4; i++) {
        death = (pshm_death){false, 0, 0};
        assert_rc(i < 2   ? verbs[i](&rw, PSHM_FOREVER, &death)
                  : i < 3 ? pshm_rwlock_read_try(&rw, &death)
                          : pshm_rwlock_write_try(&rw, &death),
                  -EOWNERDEAD);
        assert_true(death.died && death.pid == pid && death.participant);
    }
    assert_int_equal(pshm_rwlock_read_locked(&rw), 0);
    assert_int_equal(pshm_rwlock_write_locked(&rw), 0);
    assert_rc(pshm_rwlock_write_owner(&rw, &owner), 0);
    assert_int_equal(owner, 0);
    assert_rc(pshm_rwlock_read_release(&rw), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_write_release(&rw), PSHM_ENOTOWNER);
}

static void recover(wait_verb *verb, uint32_t pid)
{
    death = (pshm_death){false, 0, 0};
    assert_rc(patiently(verb, 3), 0);
    assert_true(death.died && death.pid == pid && death.participant);
}

static int is_shut_out(void *context)
{
    (void)context;
    CHECK(pshm_rwlock_read_try(&rw, &death) == -EBUSY);
    CHECK(pshm_rwlock_read_recover(&rw, 0, &death) == -ETIMEDOUT);
    CHECK(pshm_rwlock_write_try(&rw, &death) == -EBUSY);
    return 0;
}

static int may_read(void *context)
{
    (void)context;
    CHECK(pshm_rwlock_read_try(&rw, &death) == 0 && !death.died);
    CHECK(pshm_rwlock_read_release(&rw) == 0);
    CHECK(pshm_rwlock_write_try(&rw, &death) == -EBUSY);
    return 0;
}

static void test_writer(helper_world *world)
{
    uint32_t pid = killed_while_writing(world);
    expect_told(pid);
    expect_told(pid); /* as often as anybody asks */
    recover(pshm_rwlock_write_recover, pid);
    assert_int_equal(pshm_rwlock_write_locked(&rw), 1);
    helper_in_child(is_shut_out, NULL);
    assert_rc(pshm_rwlock_downgrade(&rw), -EOWNERDEAD);
    assert_rc(pshm_rwlock_read_consistent(&rw), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_write_release(&rw), 0); /* not made good: the mark stays */
    expect_told(pid);
    /* Who dies in the repair is not the one who left the data torn. */
    for (int i = 0; i < 2; i++) {
        helper_kill(
            one_that_holds((victim){.world = world, .take = i ? pshm_rwlock_read_recover : pshm_rwlock_write_recover}));
        expect_told(pid);
    }
    recover(pshm_rwlock_write_recover, pid);
    assert_rc(pshm_rwlock_write_consistent(&rw), 0);
    assert_rc(pshm_rwlock_downgrade(&rw), 0);
    helper_in_child(may_read, NULL);
    assert_rc(pshm_rwlock_write_release(&rw), 0);
    expect_free();
}

static void test_recovered_by_a_reader(helper_world *world)
{
    uint32_t pid = killed_while_writing(world);
    recover(pshm_rwlock_read_recover, pid);
    helper_in_child(is_shut_out, NULL);
    assert_rc(pshm_rwlock_read_try(&rw, &death), 0); /* again, as who reads may */
    assert_false(death.died);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    assert_rc(pshm_rwlock_write_release(&rw), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_write_consistent(&rw), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_downgrade(&rw), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_read_release(&rw), 0); /* not made good */
    expect_told(pid);
    recover(pshm_rwlock_read_recover, pid);
    assert_rc(pshm_rwlock_read_consistent(&rw), 0);
    helper_in_child(may_read, NULL);
    assert_rc(pshm_rwlock_write_try(&rw, &death), PSHM_ERELOCK);
    assert_rc(pshm_rwlock_read_consistent(&rw), 0);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    assert_rc(pshm_rwlock_read_release(&rw), PSHM_ENOTOWNER);
    expect_free();
    /* Nothing to recover: it reads beside others. */
    assert_rc(pshm_rwlock_read_recover(&rw, PSHM_FOREVER, &death), 0);
    assert_false(death.died);
    helper_in_child(may_read, NULL);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
}

/* Two places of a thread's are needed to recover as a reader. */
static void test_no_room_to_recover(helper_world *world)
{
    enum { MOST = PSHM_HOLDS_MAX - 1 };
    pshm_rwlock others[MOST];
    uint32_t pid = killed_while_writing(world);
    for (int i = 0; i < MOST; i++) {
        char name[16];
        int length = snprintf(name, sizeof name, "other %d", i);
        assert_rc(pshm_rwlock_init(&others[i], world->arena, name, (size_t)length, true, NULL), 0);
    }
    for (int i = 0; i < MOST; i++)
        assert_rc(pshm_rwlock_read_try(&others[i], &death), 0);
    assert_rc(pshm_rwlock_read_recover(&rw, PSHM_FOREVER, &death), PSHM_EHOLDS);
    expect_told(pid);
    for (int i = 0; i < MOST; i++) {
        assert_rc(pshm_rwlock_read_release(&others[i]), 0);
        pshm_rwlock_fini(&others[i]);
    }
    recover(pshm_rwlock_read_recover, pid);
    assert_rc(pshm_rwlock_read_consistent(&rw), 0);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
}

static void *write_and_end(void *context)
{
    (void)context;
    assert_rc(pshm_rwlock_write_try(&rw, &death), 0);
    return NULL;
}

static void test_end_of_a_writing_thread(helper_world *world)
{
    pthread_t thread;
    (void)world;
    assert_int_equal(pthread_create(&thread, NULL, write_and_end, NULL), 0);
    pthread_join(thread, NULL);
    assert_rc(patiently(pshm_rwlock_read_acquire, 3), -EOWNERDEAD);
    recover(pshm_rwlock_write_recover, (uint32_t)getpid());
    assert_rc(pshm_rwlock_write_consistent(&rw), 0);
    assert_rc(pshm_rwlock_write_release(&rw), 0);
}

static int is_told(void *context)
{
    const victim *v = context;
    CHECK(patiently(v->take, 200) == -EOWNERDEAD && death.died);
    return 0;
}

/* Those who wait when it dies are told, all of them. */
static void test_writer_that_is_waited_for(helper_world *world)
{
    victim reads = {.world = world, .take = pshm_rwlock_read_acquire};
    victim writes = {.world = world, .take = pshm_rwlock_write_acquire};
    pid_t writer = one_that_holds(writes), waiters[3];
    for (int i = 0; i < 3; i++)
        waiters[i] = helper_fork(is_told, i ? &reads : &writes);
    for (int i = 0; i < 3; i++)
        helper_until_asleep(waiters[i]);
    helper_kill(writer);
    for (int i = 0; i < 3; i++)
        assert_int_equal(helper_wait(waiters[i]), 0);
    recover(pshm_rwlock_write_recover, (uint32_t)writer);
    assert_rc(pshm_rwlock_write_consistent(&rw), 0);
    assert_rc(pshm_rwlock_write_release(&rw), 0);
}

/* ---- proof ---- */

/* Slices: one of waiting, one in which the system is asked, and the call in which it is proven. */
#define PROOF 3

static void test_reader_whose_list_is_cut(helper_world *world)
{
    for (int how = 0; how < 2; how++) {
        pid_t pid = one_that_holds((victim){.world = world, .take = pshm_rwlock_read_acquire, .cut = true});
        helper_kill(pid);
        if (how) { /* who only ever tries asks too */
            int rc = -EBUSY;
            for (int i = 0; i < 40 && rc == -EBUSY; i++) {
                rc = pshm_rwlock_write_try(&rw, &death);
                usleep(10000);
            }
            assert_rc(rc, 0);
        } else {
            assert_rc(patiently(pshm_rwlock_write_acquire, PROOF), 0);
        }
        assert_false(death.died);
        assert_rc(pshm_rwlock_write_release(&rw), 0);
        expect_free();
    }
}

/* Waiting for a writer and then, in the same slice, for such a reader. */
static void test_two_whose_lists_are_cut(helper_world *world)
{
    victim v = {.world = world, .take = pshm_rwlock_read_acquire, .cut = true};
    pid_t pids[2] = {one_that_holds(v), one_that_holds(v)};
    for (int i = 0; i < 2; i++)
        helper_kill(pids[i]);
    assert_rc(patiently(pshm_rwlock_write_acquire, 2 * PROOF), 0);
    assert_rc(pshm_rwlock_write_release(&rw), 0);
    v.take = pshm_rwlock_write_acquire;
    helper_kill(one_that_holds(v));
    assert_rc(patiently(pshm_rwlock_read_acquire, PROOF), -EOWNERDEAD);
    assert_rc(patiently(pshm_rwlock_read_recover, 1), 0);
    assert_rc(pshm_rwlock_read_consistent(&rw), 0);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
}

/* Slices: for one kind of arena long, for the others less. */
#define PAUSED_LONG 30
#define PAUSED 5

static int read_and_release(void *context)
{
    helper_world *world = context;
    CHECK(pshm_rwlock_read_try(&rw, &death) == 0);
    helper_step(world, 1);
    CHECK(helper_until_step(world, 2));
    CHECK(pshm_rwlock_read_release(&rw) == 0);
    return 0;
}

static void test_stopped_is_not_dead(helper_world *world)
{
    static unsigned kinds;
    helper_step(world, 0);
    pid_t pid = helper_fork(read_and_release, world);
    assert_true(helper_until_step(world, 1));
    siginfo_t info;
    kill(pid, SIGSTOP);
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WSTOPPED), 0);
    assert_rc(patiently(pshm_rwlock_write_acquire, kinds++ ? PAUSED : PAUSED_LONG), -EINTR);
    assert_int_equal(pshm_rwlock_read_locked(&rw), 1);
    helper_step(world, 2);
    assert_rc(pshm_rwlock_write_try(&rw, &death), -EBUSY);
    kill(pid, SIGCONT);
    assert_rc(patiently(pshm_rwlock_write_acquire, 100), 0);
    assert_rc(pshm_rwlock_write_release(&rw), 0);
    assert_int_equal(helper_wait(pid), 0);
}

/* ---- forks ---- */

/* What the parent has is not the child's, on either side. */
static int has_nothing(void *context)
{
    (void)context;
    CHECK(pshm_rwlock_read_release(&rw) == PSHM_ENOTOWNER);
    CHECK(pshm_rwlock_write_release(&rw) == PSHM_ENOTOWNER);
    CHECK(pshm_rwlock_downgrade(&rw) == PSHM_ENOTOWNER);
    CHECK(pshm_rwlock_write_try(&rw, &death) == -EBUSY);
    return 0;
}

static void test_fork(helper_world *world)
{
    (void)world;
    assert_rc(pshm_rwlock_read_try(&rw, &death), 0);
    helper_in_child(has_nothing, NULL);
    helper_in_child(may_read, NULL);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    assert_rc(pshm_rwlock_write_try(&rw, &death), 0);
    helper_in_child(has_nothing, NULL);
    helper_in_child(is_shut_out, NULL);
    assert_rc(pshm_rwlock_write_release(&rw), 0);
}

#define EACH_KIND(function)                                                                                            \
    static void with_##function(helper_world *world)                                                                   \
    {                                                                                                                  \
        assert_rc(pshm_rwlock_init(&rw, world->arena, "rw", 2, true, NULL), 0);                                        \
        function(world);                                                                                               \
        pshm_rwlock_fini(&rw);                                                                                         \
    }                                                                                                                  \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(with_##function);                                                                             \
    }

EACH_KIND(test_reader)
EACH_KIND(test_reader_that_is_waited_for)
EACH_KIND(test_end_of_a_thread)
EACH_KIND(test_writer_that_waits)
EACH_KIND(test_writer_between_two_slices)
EACH_KIND(test_writer)
EACH_KIND(test_recovered_by_a_reader)
EACH_KIND(test_no_room_to_recover)
EACH_KIND(test_end_of_a_writing_thread)
EACH_KIND(test_writer_that_is_waited_for)
EACH_KIND(test_reader_whose_list_is_cut)
EACH_KIND(test_two_whose_lists_are_cut)
EACH_KIND(test_stopped_is_not_dead)
EACH_KIND(test_fork)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_reader),
        TEST(each_test_reader_that_is_waited_for),
        TEST(each_test_end_of_a_thread),
        TEST(each_test_writer_that_waits),
        TEST(each_test_writer_between_two_slices),
        TEST(each_test_writer),
        TEST(each_test_recovered_by_a_reader),
        TEST(each_test_no_room_to_recover),
        TEST(each_test_end_of_a_writing_thread),
        TEST(each_test_writer_that_is_waited_for),
        TEST(each_test_reader_whose_list_is_cut),
        TEST(each_test_two_whose_lists_are_cut),
        TEST(each_test_stopped_is_not_dead),
        TEST(each_test_fork),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
