/* SPDX-License-Identifier: MIT
 *
 * Two processes that are both number 1 of a PID namespace of their own, as in two containers: a lock, an owner's death
 * and its proof know them apart.
 */
#include "helper_owner.h"

#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ALONE "a PID namespace of its own needs rights"
#define KILLED (128 + SIGKILL)
#define REFUSED 1000 /* a step */

/* What one of them does. */
typedef struct part {
    helper_world *world;
    int (*play)(helper_world *world);
} part;

/* Makes the namespace and waits for its first process, whose number outside is told. */
static int make_space(void *context)
{
    const part *p = context;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (helper_unshare(CLONE_NEWPID | CLONE_NEWNS)) {
        helper_step(p->world, REFUSED);
        return HELPER_NOT_ALLOWED;
    }
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        CHECK(getpid() == 1);
        (void)mount("proc", "/proc", "proc", 0, NULL); /* its own, as a container has */
        _exit(p->play(p->world));
    }
    __atomic_store_n(&p->world->stage->number, (uint32_t)pid, __ATOMIC_SEQ_CST);
    int code = helper_wait(pid);
    return code > 256 ? 128 + code - 256 : code;
}

static pid_t start(helper_world *world, int (*play)(helper_world *world))
{
    part p = {world, play};
    return helper_fork(make_space, &p);
}

/* Until the first of them is there; false: it may not be. */
static bool is_there(helper_world *world)
{
    return helper_until_step(world, 1) && world->stage->step != REFUSED;
}

static int hold(helper_world *world)
{
    pshm_death death;
    CHECK(pshm_mutex_try(&world->lock, &death) == 0);
    helper_step(world, 1);
    for (;;)
        pause();
}

/* The list that the kernel would go through is another, empty one. */
static int hold_unseen(helper_world *world)
{
    static struct robust_list_head nothing;
    pshm_death death;
    nothing.list.next = &nothing.list;
    CHECK(pshm_mutex_try(&world->lock, &death) == 0);
    CHECK(syscall(SYS_set_robust_list, &nothing, sizeof nothing) == 0);
    helper_step(world, 1);
    for (;;)
        pause();
}

static pshm_participant other_than_self(pshm_arena *arena)
{
    pshm_participant *all, other = {0};
    size_t count, selves = 0, others = 0;
    CHECK(pshm_participant_attach(arena) == 0);
    CHECK(pshm_arena_list_participants(arena, &all, &count) == 0);
    for (size_t i = 0; i < count; i++) {
        selves += all[i].self;
        if (!all[i].self && all[i].pid == 1 && all[i].holding) {
            others++;
            other = all[i];
        }
    }
    pshm_participants_free(all);
    CHECK(selves == 1 && others == 1);
    return other;
}

/* The other one has the same numbers, and the lock. */
static int outlive(helper_world *world)
{
    pshm_death death;
    uint32_t owner = 0;
    pshm_participant other = other_than_self(world->arena);
    CHECK(other.alive && other.pid == 1 && other.thread == 1);
    CHECK(other.holding == 1 && strcmp(other.holds[0].name, "lock") == 0);
    CHECK(pshm_mutex_try(&world->lock, &death) == -EBUSY);
    CHECK(pshm_mutex_release(&world->lock) == PSHM_ENOTOWNER);
    CHECK(helper_acquire(&world->lock, 3, &death) == -EINTR);
    CHECK(pshm_mutex_owner(&world->lock, &owner) == 0 && owner == 1);
    CHECK(pshm_participant_wait(world->arena, other.slot, other.generation, pshm_deadline(SECOND / 4)) == -EINTR);
    helper_step(world, 2); /* it is killed now */
    int rc = -EINTR;
    for (int i = 0; i < 50 && rc == -EINTR; i++)
        rc = pshm_participant_wait(world->arena, other.slot, other.generation, PSHM_FOREVER);
    CHECK(rc == 0);
    CHECK(helper_acquire(&world->lock, 1, &death) == -EOWNERDEAD);
    CHECK(death.pid == 1 && death.participant == other.slot + 1);
    CHECK(helper_recover(&world->lock, 1, &death) == 0 && death.died);
    CHECK(pshm_mutex_release(&world->lock) == 0);
    CHECK(pshm_mutex_try(&world->lock, &death) == 0 && pshm_mutex_release(&world->lock) == 0);
    return 0;
}

static void meet(const char *kind, int (*holder)(helper_world *world))
{
    print_message("on %s\n", kind);
    helper_world world = helper_world_open(kind);
    pid_t first = start(&world, holder);
    int code = 0;
    if (!is_there(&world)) {
        code = helper_wait(first);
    } else {
        /* number is set beside it */
        uint32_t pid;
        while (!(pid = __atomic_load_n(&world.stage->number, __ATOMIC_SEQ_CST)))
            usleep(500);
        pid_t second = start(&world, outlive);
        bool met = helper_until_step(&world, 2);
        kill((pid_t)pid, SIGKILL);
        assert_int_equal(helper_wait(first), KILLED);
        assert_int_equal(helper_wait(second), 0);
        assert_true(met);
        helper_expect_clean(world.arena);
    }
    helper_world_end(&world);
    if (code == HELPER_NOT_ALLOWED) {
        print_message("skipped: %s\n", ALONE);
        skip();
    }
    assert_int_equal(code, 0);
}

static void test_death(void **state)
{
    (void)state;
    meet("posix", hold);
    meet("memfd", hold);
    meet("sysv", hold);
    meet("anon", hold);
}

/* Neither the list nor /proc can tell: the lock on a byte of the file does. */
static void test_death_by_record_lock(void **state)
{
    (void)state;
    meet("posix", hold_unseen);
    meet("memfd", hold_unseen);
}

#define TURNS 2000

static int take_turns(helper_world *world)
{
    pshm_death death;
    uint32_t *number = &world->stage[1].number;
    for (int i = 0; i < TURNS; i++) {
        CHECK(helper_acquire(&world->lock, 100, &death) == 0);
        uint32_t n = *(volatile uint32_t *)number;
        if (i % 50 == 0)
            usleep(300);
        *(volatile uint32_t *)number = n + 1;
        CHECK(pshm_mutex_release(&world->lock) == 0);
    }
    return 0;
}

static void test_turns(void **state)
{
    (void)state;
    helper_world world = helper_world_open("posix");
    pid_t first = start(&world, take_turns), second = start(&world, take_turns);
    int one = helper_wait(first), other = helper_wait(second);
    uint32_t turns = world.stage[1].number;
    helper_expect_clean(world.arena);
    helper_world_end(&world);
    if (one == HELPER_NOT_ALLOWED) {
        print_message("skipped: %s\n", ALONE);
        skip();
    }
    assert_int_equal(one, 0);
    assert_int_equal(other, 0);
    assert_int_equal(turns, 2 * TURNS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_death),
        TEST(test_death_by_record_lock),
        TEST(test_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
