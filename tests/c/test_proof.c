/* SPDX-License-Identifier: MIT
 *
 * Proof of death where the kernel's word does not come by itself: robust lists that lead nowhere, memory that was taken
 * away before its thread had ended, threads of processes that live on. And no proof where there is no death.
 */
#include "helper_owner.h"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_process_mrelease
#define SYS_process_mrelease 448
#endif

/* ---- ways to keep the kernel from telling ---- */

/* Some library's robust mutex, still locked, whose memory is gone. It was locked last, so it comes first in the list. */
static void cut_by_unmapping(void)
{
    pthread_mutexattr_t attributes;
    pthread_mutex_t *mutex = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mutex != MAP_FAILED);
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    CHECK(pthread_mutex_init(mutex, &attributes) == 0 && pthread_mutex_lock(mutex) == 0);
    CHECK(munmap(mutex, PAGE) == 0);
}

static void cut_by_clearing(void)
{
    static struct robust_list_head nothing;
    nothing.list.next = &nothing.list;
    CHECK(syscall(SYS_set_robust_list, &nothing, sizeof nothing) == 0);
}

static void cut_nothing(void)
{
}

typedef struct victim {
    helper_world *world;
    void (*cut)(void);
} victim;

/* ---- whole processes ---- */

static int hold_until_killed(void *context)
{
    const victim *v = context;
    pshm_death death;
    CHECK(pshm_mutex_try(&v->world->lock, &death) == 0);
    v->cut();
    helper_step(v->world, 1);
    for (;;)
        pause();
}

static pid_t start_victim(helper_world *world, void (*cut)(void))
{
    victim v = {world, cut};
    helper_step(world, 0);
    pid_t pid = helper_fork(hold_until_killed, &v);
    assert_true(helper_until_step(world, 1));
    return pid;
}

static void lose_process(helper_world *world, void (*cut)(void))
{
    pid_t pid = start_victim(world, cut);
    helper_kill(pid);
    helper_expect_death(world, (uint32_t)pid);
}

static void with_unmapped(helper_world *world)
{
    lose_process(world, cut_by_unmapping);
}

static void test_process_with_an_unmapped_mutex(void **state)
{
    (void)state;
    helper_each_kind(with_unmapped);
}

static void with_cleared(helper_world *world)
{
    lose_process(world, cut_by_clearing);
}

static void test_process_with_a_cleared_list(void **state)
{
    (void)state;
    helper_each_kind(with_cleared);
}

/* Its parent has not waited for it: its entry in /proc is still there. */
static void as_zombie(helper_world *world)
{
    siginfo_t info;
    pid_t pid = start_victim(world, cut_by_clearing);
    kill(pid, SIGKILL);
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    helper_expect_death(world, (uint32_t)pid);
    assert_int_equal(helper_wait(pid), 256 + SIGKILL);
}

static void test_zombie(void **state)
{
    (void)state;
    helper_each_kind(as_zombie);
}

#define MUCH (UINT64_C(96) << 20)

static void touch_much(void)
{
    char *memory = mmap(NULL, MUCH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    memset(memory, 1, MUCH);
}

static bool mrelease_is_missing;

/* As systemd-oomd and Android do: the memory goes before the threads have come to their end. */
static void released(helper_world *world)
{
    for (int i = 0; i < 5 && !mrelease_is_missing; i++) {
        pid_t pid = start_victim(world, touch_much);
        int fd = (int)syscall(SYS_pidfd_open, pid, 0);
        kill(pid, SIGKILL);
        long rc = fd < 0 ? -1 : syscall(SYS_process_mrelease, fd, 0);
        mrelease_is_missing = (fd < 0 || rc < 0) && (errno == ENOSYS || errno == EPERM);
        if (fd >= 0)
            close(fd);
        assert_int_equal(helper_wait(pid), 256 + SIGKILL);
        helper_expect_death(world, (uint32_t)pid);
    }
}

static void test_process_whose_memory_is_taken(void **state)
{
    (void)state;
    helper_each_kind(released);
    if (mrelease_is_missing) {
        print_message("skipped: this system has no process_mrelease(2)\n");
        skip();
    }
}

/* ---- threads of a process that lives on ---- */

static void *hold_in_thread(void *context)
{
    const victim *v = context;
    pshm_death death;
    CHECK(pshm_mutex_try(&v->world->lock, &death) == 0);
    v->cut();
    return NULL;
}

static int lose_thread(void *context)
{
    const victim *v = context;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, hold_in_thread, context) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    helper_step(v->world, 1);
    CHECK(helper_until_step(v->world, 2));
    pshm_death death; /* the process itself goes on */
    CHECK(helper_acquire(&v->world->lock, 1, &death) == 0 && pshm_mutex_release(&v->world->lock) == 0);
    return 0;
}

static void lose_thread_of_another(helper_world *world, void (*cut)(void))
{
    victim v = {world, cut};
    helper_step(world, 0);
    pid_t pid = helper_fork(lose_thread, &v);
    assert_true(helper_until_step(world, 1));
    helper_expect_death(world, (uint32_t)pid);
    helper_step(world, 2);
    assert_int_equal(helper_wait(pid), 0);
}

static void lose_own_thread(helper_world *world, void (*cut)(void))
{
    victim v = {world, cut};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, hold_in_thread, &v), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    helper_expect_death(world, (uint32_t)getpid());
}

static void with_thread(helper_world *world)
{
    lose_thread_of_another(world, cut_nothing);
    lose_own_thread(world, cut_nothing);
}

static void test_thread(void **state)
{
    (void)state;
    helper_each_kind(with_thread);
}

static void with_thread_cut(helper_world *world)
{
    lose_thread_of_another(world, cut_by_unmapping);
    lose_thread_of_another(world, cut_by_clearing);
    lose_own_thread(world, cut_by_unmapping);
    lose_own_thread(world, cut_by_clearing);
}

static void test_thread_whose_list_is_cut(void **state)
{
    (void)state;
    helper_each_kind(with_thread_cut);
}

/* A thread that was one moment ago is gone for whoever waits for it too. */
static void waited_for(helper_world *world)
{
    victim v = {world, cut_by_clearing};
    pshm_participant *all;
    size_t count;
    pid_t pid = start_victim(world, v.cut);
    assert_rc(pshm_arena_list_participants(world->arena, &all, &count), 0);
    size_t at = 0;
    while (at < count && all[at].pid != (uint32_t)pid)
        at++;
    assert_true(at < count && all[at].alive && all[at].holding == 1);
    assert_string_equal(all[at].holds[0].name, "lock");
    uint32_t slot = all[at].slot, generation = all[at].generation;
    pshm_participants_free(all);
    assert_rc(pshm_participant_wait(world->arena, slot, generation, PSHM_FOREVER), -EINTR);
    helper_kill(pid);
    int rc = -EINTR;
    for (int i = 0; i < 3 && rc == -EINTR; i++)
        rc = pshm_participant_wait(world->arena, slot, generation, PSHM_FOREVER);
    assert_rc(rc, 0);
    helper_expect_death(world, (uint32_t)pid);
}

static void test_wait_for_a_death(void **state)
{
    (void)state;
    helper_each_kind(waited_for);
}

/* How many participants are said to live. */
static unsigned living(pshm_arena *arena)
{
    pshm_participant *all;
    size_t count;
    unsigned alive = 0;
    assert_rc(pshm_arena_list_participants(arena, &all, &count), 0);
    for (size_t i = 0; i < count; i++)
        alive += all[i].alive;
    pshm_participants_free(all);
    return alive;
}

/* Whoever looks sees no ghost, and neither does one who may not write. */
static void looked_at(helper_world *world, const char *address)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *readonly;
    pshm_participant *all;
    size_t count;
    options.access = PSHM_ACCESS_R;
    assert_rc(pshm_participant_detach(world->arena), 0);
    pid_t pid = start_victim(world, cut_by_clearing);
    assert_rc(pshm_arena_open(address, strlen(address), &options, &readonly), 0);
    assert_rc(pshm_arena_list_participants(readonly, &all, &count), 0);
    assert_int_equal(count, 1);
    uint32_t slot = all[0].slot, generation = all[0].generation;
    pshm_participants_free(all);
    assert_rc(pshm_participant_wait(readonly, slot, generation, PSHM_FOREVER), -EINTR);
    helper_kill(pid);
    assert_rc(pshm_participant_wait(readonly, slot, generation, PSHM_FOREVER), 0);
    assert_int_equal(living(readonly), 0);
    pshm_arena_close(readonly);
    pshm_arena_release(readonly);
    assert_int_equal(living(world->arena), 0);
    helper_expect_death(world, (uint32_t)pid);
}

static void test_look_at_the_dead(void **state)
{
    (void)state;
    helper_world world = helper_world_open("posix");
    looked_at(&world, world.arena->address);
    helper_world_end(&world);
    world = helper_world_open("sysv");
    char address[32];
    snprintf(address, sizeof address, "sysv:id=%d", (int)world.arena->segment->id);
    looked_at(&world, address);
    helper_world_end(&world);
}

/* ---- no death ---- */

/* Slices: for one kind of arena long, for the others less. */
#define PAUSED_LONG 30
#define PAUSED 5

static int hold_and_release(void *context)
{
    helper_world *world = context;
    pshm_death death;
    CHECK(pshm_mutex_try(&world->lock, &death) == 0);
    helper_step(world, 1);
    CHECK(helper_until_step(world, 2));
    CHECK(pshm_mutex_release(&world->lock) == 0);
    return 0;
}

static void stopped(helper_world *world)
{
    static unsigned kinds;
    pshm_death death;
    helper_step(world, 0);
    pid_t pid = helper_fork(hold_and_release, world);
    assert_true(helper_until_step(world, 1));
    siginfo_t info;
    kill(pid, SIGSTOP);
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WSTOPPED), 0);
    assert_rc(helper_acquire(&world->lock, kinds++ ? PAUSED : PAUSED_LONG, &death), -EINTR);
    assert_false(death.died);
    uint32_t owner = 0;
    assert_rc(pshm_mutex_owner(&world->lock, &owner), 0);
    assert_int_equal(owner, pid);
    helper_step(world, 2);
    assert_rc(pshm_mutex_try(&world->lock, &death), -EBUSY);
    kill(pid, SIGCONT);
    assert_rc(helper_acquire(&world->lock, 100, &death), 0);
    assert_rc(pshm_mutex_release(&world->lock), 0);
    assert_int_equal(helper_wait(pid), 0);
}

static void test_stopped_is_not_dead(void **state)
{
    (void)state;
    helper_each_kind(stopped);
}

/* As daemons do: the file locks of the arena go with the rest. */
static int hold_without_descriptors(void *context)
{
    helper_world *world = context;
    CHECK(pshm_participant_attach(world->arena) == 0);
    CHECK(syscall(SYS_close_range, 3u, ~0u, 0u) == 0);
    return hold_and_release(context);
}

static void closed(helper_world *world)
{
    pshm_death death;
    helper_step(world, 0);
    pid_t pid = helper_fork(hold_without_descriptors, world);
    assert_true(helper_until_step(world, 1));
    assert_rc(helper_acquire(&world->lock, PAUSED, &death), -EINTR);
    helper_step(world, 2);
    assert_rc(helper_acquire(&world->lock, 100, &death), 0);
    assert_rc(pshm_mutex_release(&world->lock), 0);
    assert_int_equal(helper_wait(pid), 0);
}

static void test_closed_descriptors_are_no_death(void **state)
{
    (void)state;
    helper_each_kind(closed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_process_with_an_unmapped_mutex),
        TEST(test_process_with_a_cleared_list),
        TEST(test_zombie),
        TEST(test_process_whose_memory_is_taken),
        TEST(test_thread),
        TEST(test_thread_whose_list_is_cut),
        TEST(test_wait_for_a_death),
        TEST(test_look_at_the_dead),
        TEST(test_stopped_is_not_dead),
        TEST(test_closed_descriptors_are_no_death),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
