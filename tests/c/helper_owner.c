/* SPDX-License-Identifier: MIT */
#include "helper_owner.h"

#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/participant.h"
#include "os/futex.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

/* Slices that a proof may take: one of waiting, and one in which the system is asked. */
#define PROOF 2

helper_world helper_world_open(const char *kind)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    helper_world world = {.kind = kind, .stage = helper_memory(PAGE)};
    const char *address = strcmp(kind, "posix") == 0   ? helper_posix()
                          : strcmp(kind, "memfd") == 0 ? "memfd:proof"
                          : strcmp(kind, "sysv") == 0  ? "sysv:private"
                                                       : "anon:";
    bool created;
    options.size = 1 << 20;
    options.participants = 16;
    options.create = true;
    assert_rc(pshm_arena_open(address, strlen(address), &options, &world.arena), 0);
    assert_rc(pshm_mutex_init(&world.lock, world.arena, "lock", 4, true, PSHM_RECURSIVE_NO, &created), 0);
    return world;
}

void helper_world_end(helper_world *world)
{
    bool named = strcmp(world->kind, "posix") == 0 || strcmp(world->kind, "sysv") == 0;
    pshm_mutex_fini(&world->lock);
    if (named)
        assert_rc(pshm_arena_unlink(world->arena), 0);
    pshm_arena_close(world->arena);
    pshm_arena_release(world->arena);
    helper_memory_end(world->stage, PAGE);
}

void helper_each_kind(void (*function)(helper_world *world))
{
    static const char *const kinds[] = {"posix", "memfd", "sysv", "anon"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        print_message("on %s\n", kinds[i]);
        helper_world world = helper_world_open(kinds[i]);
        function(&world);
        helper_expect_clean(world.arena);
        helper_world_end(&world);
    }
}

void helper_step(helper_world *world, uint32_t step)
{
    __atomic_store_n(&world->stage->step, step, __ATOMIC_SEQ_CST);
}

bool helper_until_step(helper_world *world, uint32_t step)
{
    const struct timespec pause = {0, 500000};
    for (int i = 0; i < 40000; i++) {
        if (__atomic_load_n(&world->stage->step, __ATOMIC_SEQ_CST) >= step)
            return true;
        nanosleep(&pause, NULL);
    }
    return false;
}

void helper_until_waits(pshm_arena *arena, const char *name)
{
    for (bool found = false; !found;) {
        pshm_participant *all;
        size_t count;
        assert_rc(pshm_arena_list_participants(arena, &all, &count), 0);
        for (size_t i = 0; i < count; i++)
            found |= !strcmp(all[i].waits, name);
        pshm_participants_free(all);
    }
}

/* An empty call, which is refused for being one where the kernel knows it. */
static bool kernel_sleeps_on_many(void)
{
    return syscall(SYS_futex_waitv, NULL, 0, 0, NULL, CLOCK_MONOTONIC) >= 0 || (errno != ENOSYS && errno != EPERM);
}

bool helper_sleeps_on_life(pshm_arena *arena, pid_t pid)
{
    const struct timespec pause = {0, 500000};
    pshm_participant *all;
    size_t count;
    uint32_t *beacon = NULL, value;
    if (!kernel_sleeps_on_many()) {
        print_message("the kernel cannot sleep on two words: not looked\n");
        return true;
    }
    assert_rc(pshm_arena_list_participants(arena, &all, &count), 0);
    for (size_t i = 0; i < count; i++)
        if (all[i].pid == (uint32_t)pid)
            assert_true(pshm_id_beacon(arena->attachment, pshm_id_of(all[i].slot, all[i].generation), &beacon, &value));
    pshm_participants_free(all);
    assert_non_null(beacon);
    for (int i = 0; i < 2000; i++) {
        if (pshm_os_futex_wake(beacon, 1) == 1)
            return true;
        nanosleep(&pause, NULL);
    }
    return false;
}

void helper_kill(pid_t pid)
{
    kill(pid, SIGKILL);
    assert_int_equal(helper_wait(pid), 256 + SIGKILL);
}

int helper_acquire(pshm_mutex *lock, int slices, pshm_death *death)
{
    int rc = -EINTR;
    for (int i = 0; i < slices && rc == -EINTR; i++)
        rc = pshm_mutex_acquire(lock, PSHM_FOREVER, death);
    return rc;
}

int helper_recover(pshm_mutex *lock, int slices, pshm_death *death)
{
    int rc = -EINTR;
    for (int i = 0; i < slices && rc == -EINTR; i++)
        rc = pshm_mutex_recover(lock, PSHM_FOREVER, death);
    if (!rc && death->died)
        rc = pshm_mutex_consistent(lock);
    return rc;
}

void helper_expect_death(helper_world *world, uint32_t pid)
{
    pshm_death death = {false, 0, 0};
    /* The call in which it is proven is one more. */
    assert_rc(helper_acquire(&world->lock, PROOF + 1, &death), -EOWNERDEAD);
    assert_true(death.died);
    if (pid)
        assert_int_equal(death.pid, pid);
    assert_rc(helper_recover(&world->lock, 1, &death), 0);
    assert_true(death.died);
    assert_rc(pshm_mutex_release(&world->lock), 0);
    assert_rc(pshm_mutex_try(&world->lock, &death), 0);
    assert_false(death.died);
    assert_rc(pshm_mutex_release(&world->lock), 0);
}

void helper_expect_clean(pshm_arena *arena)
{
    char *report = NULL;
    size_t count = 0;
    assert_rc(pshm_arena_check(arena, &report, &count), 0);
    if (count)
        print_error("%s\n", report);
    pshm_report_free(report);
    assert_int_equal(count, 0);
}
