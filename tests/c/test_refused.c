/* SPDX-License-Identifier: MIT
 *
 * Where a filter of system calls refuses futex_waitv(2) and io_uring_setup(2), as those of containers do that do not know
 * them: contention, hand-over and owner death go on with a plain futex and a look at the beacon once a slice; who waits for
 * several things, or watches them, looks at them in turns.
 */
#include "helper_owner.h"

#include <polyshm/counter.h>
#include <polyshm/notifier.h>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif
#define NOT_HERE 77

static int answer;

/* futex_waitv and io_uring_setup end with `answer` from now on. */
static bool refuse(void)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex_waitv, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ((uint32_t)answer & SECCOMP_RET_DATA)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof program / sizeof *program, .filter = program};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
        return false;
    CHECK(syscall(SYS_futex_waitv, NULL, 0, 0, NULL, 0) == -1 && errno == answer);
    return true;
}

#define WORKERS 3
#define TURNS 300

/* Now and then with a pause inside, so that the others do sleep. */
static int take_turns(void *context)
{
    helper_world *world = context;
    pshm_death death;
    if (!refuse())
        return NOT_HERE;
    for (int i = 0; i < TURNS; i++) {
        CHECK(helper_acquire(&world->lock, 100, &death) == 0);
        uint32_t n = *(volatile uint32_t *)&world->stage->number;
        if (i % 10 == 0)
            usleep(200);
        *(volatile uint32_t *)&world->stage->number = n + 1;
        CHECK(pshm_mutex_release(&world->lock) == 0);
    }
    return 0;
}

static int hold(void *context)
{
    helper_world *world = context;
    pshm_death death;
    CHECK(pshm_mutex_try(&world->lock, &death) == 0);
    helper_step(world, 1);
    for (;;)
        pause();
}

static int survive(void *context)
{
    helper_world *world = context;
    pshm_death death;
    if (!refuse())
        return NOT_HERE;
    /* It sleeps when the owner is killed. */
    CHECK(helper_acquire(&world->lock, 100, &death) == -EOWNERDEAD && death.pid == world->stage->number);
    return 0;
}

static void contend(helper_world *world)
{
    pid_t pids[WORKERS];
    world->stage->number = 0;
    for (int i = 0; i < WORKERS; i++)
        pids[i] = helper_fork(take_turns, world);
    int code = 0;
    for (int i = 0; i < WORKERS; i++) {
        int rc = helper_wait(pids[i]);
        code = rc ? rc : code;
    }
    if (code == NOT_HERE) {
        print_message("skipped: seccomp is not allowed here\n");
        helper_world_end(world);
        skip();
    }
    assert_int_equal(code, 0);
    assert_int_equal(world->stage->number, WORKERS * TURNS);
}

static void meet_a_death(helper_world *world)
{
    helper_step(world, 0);
    pid_t owner = helper_fork(hold, world);
    world->stage->number = (uint32_t)owner;
    assert_true(helper_until_step(world, 1));
    pid_t survivor = helper_fork(survive, world);
    helper_until_asleep(survivor);
    helper_kill(owner);
    assert_int_equal(helper_wait(survivor), 0);
    helper_expect_death(world, (uint32_t)owner);
}

/* Each of several counters is raised by the parent, one after the other. */
#define COUNTERS 5

static pshm_counter counter_of(const helper_world *world, int i)
{
    pshm_counter c;
    const char name[2] = {(char)('a' + i), '\0'};
    CHECK(pshm_counter_init(&c, world->arena, name, 1, true, NULL) == 0);
    return c;
}

static int next_of_many(const pshm_waitable *all)
{
    bool ready[COUNTERS];
    size_t failed;
    int rc = -EINTR;
    for (int slices = 0; rc == -EINTR && slices < 200; slices++)
        rc = pshm_wait(all, COUNTERS, PSHM_FOREVER, ready, &failed);
    CHECK(rc == 1);
    for (int i = 0; i < COUNTERS; i++)
        if (ready[i])
            return i;
    return -1;
}

static int next_told(pshm_notifier *n)
{
    uint64_t token;
    for (int i = 0; i < 200; i++) {
        struct pollfd poller = {pshm_notifier_fd(n), POLLIN, 0};
        CHECK(poll(&poller, 1, 20000) == 1);
        int rc = pshm_notifier_take(n, &token, 1);
        CHECK(rc >= 0);
        if (rc)
            return (int)token;
    }
    return -1;
}

static int wait_for_many(void *context)
{
    helper_world *world = context;
    pshm_counter counters[COUNTERS];
    pshm_waitable all[COUNTERS];
    pshm_notifier *n;
    if (!refuse())
        return NOT_HERE;
    for (int i = 0; i < COUNTERS; i++) {
        counters[i] = counter_of(world, i);
        all[i] = (pshm_waitable){.object = &counters[i].object, .least = 1};
    }
    for (int i = 0; i < COUNTERS; i++) {
        helper_step(world, (uint32_t)i + 1);
        CHECK(next_of_many(all) == i);
        CHECK(pshm_counter_store(&counters[i], 0) == 0);
    }
    CHECK(pshm_notifier_open(&n) == 0);
    for (int i = 0; i < COUNTERS; i++)
        CHECK(pshm_notifier_add(n, &all[i], (uint64_t)i) == 0);
    for (int i = 0; i < COUNTERS; i++) {
        helper_step(world, (uint32_t)(COUNTERS + i) + 1);
        CHECK(next_told(n) == i);
    }
    pshm_notifier_close(n);
    for (int i = 0; i < COUNTERS; i++)
        pshm_counter_fini(&counters[i]);
    return 0;
}

static void raise_in_turn(helper_world *world)
{
    helper_step(world, 0);
    pid_t waiter = helper_fork(wait_for_many, world);
    for (int i = 0; i < 2 * COUNTERS; i++) {
        pshm_counter c = counter_of(world, i % COUNTERS);
        assert_true(helper_until_step(world, (uint32_t)i + 1));
        usleep(3000);
        assert_rc(pshm_counter_store(&c, 1), 0);
        pshm_counter_fini(&c);
    }
    assert_int_equal(helper_wait(waiter), 0);
}

static void test_without(int code)
{
    helper_world world = helper_world_open("posix");
    answer = code;
    contend(&world);
    meet_a_death(&world);
    raise_in_turn(&world);
    helper_expect_clean(world.arena);
    helper_world_end(&world);
}

static void test_not_there(void **state)
{
    (void)state;
    test_without(ENOSYS);
}

static void test_not_permitted(void **state)
{
    (void)state;
    if (helper_valgrind_lacks("futex_waitv(2), whatever a filter says"))
        return;
    test_without(EPERM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_not_there),
        TEST(test_not_permitted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
