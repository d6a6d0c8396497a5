/* SPDX-License-Identifier: MIT
 *
 * Who holds a lock when processes change under it: exec, fork, a bare clone(2) that runs no hooks, and two copies of the
 * library in one process.
 */
#include "helper_owner.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- exec ---- */

static int hold_and_exec(void *context)
{
    helper_world *world = context;
    pshm_death death;
    CHECK(pshm_mutex_try(&world->lock, &death) == 0);
    helper_step(world, 1);
    execl("/bin/sleep", "sleep", "60", (char *)NULL);
    return 1;
}

/* The program that comes after it has the same pid, and holds nothing. */
static void exec_holding(helper_world *world)
{
    helper_step(world, 0);
    pid_t pid = helper_fork(hold_and_exec, world);
    assert_true(helper_until_step(world, 1));
    helper_until_asleep(pid);
    helper_expect_death(world, (uint32_t)pid);
    helper_kill(pid);
}

static void test_exec(void **state)
{
    (void)state;
    helper_each_kind(exec_holding);
}

/* ---- fork and clone ---- */

/* A child of a process that holds the lock: it has no part in that. */
static int be_another(void *context)
{
    helper_world *world = context;
    pshm_death death;
    uint32_t owner = 0;
    pshm_participant *all;
    size_t count, selves = 0;
    CHECK(pshm_mutex_release(&world->lock) == PSHM_ENOTOWNER);
    CHECK(pshm_mutex_try(&world->lock, &death) == -EBUSY);
    CHECK(pshm_mutex_owner(&world->lock, &owner) == 0 && owner == (uint32_t)getppid());
    CHECK(pshm_participant_attach(world->arena) == 0);
    CHECK(pshm_arena_list_participants(world->arena, &all, &count) == 0);
    for (size_t i = 0; i < count; i++)
        if (all[i].self) {
            selves++;
            CHECK(all[i].pid == (uint32_t)getpid() && all[i].holding == 0);
        }
    CHECK(selves == 1);
    pshm_participants_free(all);
    helper_step(world, 2);
    /* The parent releases, and this one is next; it is killed while holding. */
    CHECK(helper_acquire(&world->lock, 100, &death) == 0);
    helper_step(world, 3);
    for (;;)
        pause();
}

static void fork_holding_by(helper_world *world, pid_t (*make)(helper_world *world))
{
    pshm_death death;
    helper_step(world, 0);
    assert_rc(pshm_mutex_try(&world->lock, &death), 0);
    pid_t pid = make(world);
    assert_true(helper_until_step(world, 2));
    assert_rc(pshm_mutex_release(&world->lock), 0);
    assert_true(helper_until_step(world, 3));
    assert_rc(helper_acquire(&world->lock, 1, &death), -EINTR);
    helper_kill(pid);
    helper_expect_death(world, (uint32_t)pid);
}

static pid_t by_fork(helper_world *world)
{
    return helper_fork(be_another, world);
}

/* As the runtimes of some languages do, and containers: past libc, which knows nothing of it. */
static pid_t clone_that(helper_child *function, helper_world *world)
{
    fflush(stdout);
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(function(world));
    assert_true(pid > 0);
    return pid;
}

static pid_t by_clone(helper_world *world)
{
    return clone_that(be_another, world);
}

static void fork_holding(helper_world *world)
{
    fork_holding_by(world, by_fork);
}

static void clone_holding(helper_world *world)
{
    fork_holding_by(world, by_clone);
}

static void test_fork(void **state)
{
    (void)state;
    helper_each_kind(fork_holding);
}

static void test_clone(void **state)
{
    (void)state;
    if (helper_valgrind_lacks("clone(2) without a stack"))
        return;
    helper_each_kind(clone_holding);
}

/* As many come and go as there are slots, and more. */
static int come_and_go(void *context)
{
    helper_world *world = context;
    CHECK(pshm_participant_attach(world->arena) == 0);
    CHECK(pshm_participant_detach(world->arena) == 0);
    return 0;
}

static int hold_and_die(void *context)
{
    helper_world *world = context;
    pshm_death death;
    CHECK(pshm_mutex_try(&world->lock, &death) == 0);
    kill(getpid(), SIGKILL);
    return 1;
}

/* Has the slot that the clone had, and gives it back after the clone's parent has given back its own. */
static int stay(void *context)
{
    helper_world *world = context;
    CHECK(pshm_participant_attach(world->arena) == 0);
    helper_step(world, 1);
    CHECK(helper_until_step(world, 2));
    CHECK(pshm_participant_detach(world->arena) == 0);
    return 0;
}

/* Where the list of robust mutexes that the calling thread's beacon is in goes on: glibc's pointers, in the arena. */
static const void *before_own_beacon(pshm_arena *arena)
{
    pshm_participant *all;
    size_t count;
    const pthread_mutex_t *beacon = NULL;
    assert_rc(pshm_participant_attach(arena), 0);
    assert_rc(pshm_arena_list_participants(arena, &all, &count), 0);
    for (size_t i = 0; i < count; i++)
        if (all[i].self)
            beacon = (const void *)(arena->segment->base + PAGE + all[i].slot * UINT64_C(64));
    pshm_participants_free(all);
    assert_non_null(beacon);
    return beacon->__data.__list.__prev;
}

static void clones_come_and_go(helper_world *world)
{
    for (int i = 0; i < 20; i++)
        assert_int_equal(helper_wait(clone_that(come_and_go, world)), 0);
    for (int i = 0; i < 3; i++) {
        const void *before = before_own_beacon(world->arena);
        pid_t pid = clone_that(hold_and_die, world);
        assert_int_equal(helper_wait(pid), 256 + SIGKILL);
        assert_ptr_equal(before_own_beacon(world->arena), before); /* it wrote nothing into its parent's list */
        helper_expect_death(world, (uint32_t)pid);
        helper_step(world, 0);
        pid_t other = helper_fork(stay, world);
        assert_true(helper_until_step(world, 1));
        assert_rc(pshm_participant_detach(world->arena), 0);
        helper_step(world, 2);
        assert_int_equal(helper_wait(other), 0);
    }
}

static void test_clones_come_and_go(void **state)
{
    (void)state;
    if (helper_valgrind_lacks("clone(2) without a stack"))
        return;
    helper_each_kind(clones_come_and_go);
}

/* The parent dies while its child, which has copies of its descriptors, lives on. */
static pid_t (*make_child)(helper_world *world);

static int wait_for_parent(helper_world *world)
{
    pshm_death death;
    uint32_t parent = world->stage->number;
    CHECK(pshm_mutex_try(&world->lock, &death) == -EBUSY);
    helper_step(world, 1);
    CHECK(helper_acquire(&world->lock, 100, &death) == -EOWNERDEAD && death.pid == parent);
    CHECK(helper_recover(&world->lock, 1, &death) == 0 && pshm_mutex_release(&world->lock) == 0);
    helper_step(world, 3);
    return 0;
}

static int wait_for_parent_forked(void *context)
{
    return wait_for_parent(context);
}

static pid_t heir_by_fork(helper_world *world)
{
    return helper_fork(wait_for_parent_forked, world);
}

static pid_t heir_by_clone(helper_world *world)
{
    return clone_that(wait_for_parent_forked, world);
}

static int leave_a_child(void *context)
{
    helper_world *world = context;
    pshm_death death;
    CHECK(pshm_mutex_try(&world->lock, &death) == 0);
    world->stage->number = (uint32_t)getpid();
    CHECK(make_child(world) > 0);
    CHECK(helper_until_step(world, 1));
    kill(getpid(), SIGKILL);
    return 1;
}

static void parent_dies(helper_world *world)
{
    helper_step(world, 0);
    pid_t pid = helper_fork(leave_a_child, world);
    assert_int_equal(helper_wait(pid), 256 + SIGKILL);
    assert_true(helper_until_step(world, 3));
}

static void test_parent_dies(void **state)
{
    (void)state;
    make_child = heir_by_fork;
    helper_each_kind(parent_dies);
}

static void test_parent_of_a_clone_dies(void **state)
{
    (void)state;
    if (helper_valgrind_lacks("clone(2) without a stack"))
        return;
    make_child = heir_by_clone;
    helper_each_kind(parent_dies);
}

/* ---- two copies of the library ---- */

typedef struct copy {
    void *handle;
    pshm_arena *arena;
    pshm_mutex lock;
    int (*arena_open)(const char *address, size_t length, const pshm_arena_options *options, pshm_arena **out);
    void (*arena_close)(pshm_arena *arena);
    void (*arena_release)(pshm_arena *arena);
    int (*mutex_init)(pshm_mutex *mutex, pshm_arena *arena, const char *name, size_t length, bool create,
                      pshm_recursive recursive, bool *created);
    void (*mutex_fini)(pshm_mutex *mutex);
    int (*mutex_try)(pshm_mutex *mutex, pshm_death *death);
    int (*mutex_acquire)(pshm_mutex *mutex, int64_t deadline, pshm_death *death);
    int (*mutex_recover)(pshm_mutex *mutex, int64_t deadline, pshm_death *death);
    int (*mutex_consistent)(pshm_mutex *mutex);
    int (*mutex_release)(pshm_mutex *mutex);
    int (*participant_detach)(pshm_arena *arena);
} copy;

static void copy_file(const char *from, const char *to)
{
    static char bytes[65536];
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
    ssize_t got;
    CHECK(in >= 0 && out >= 0);
    while ((got = read(in, bytes, sizeof bytes)) > 0)
        CHECK(write(out, bytes, (size_t)got) == got);
    close(in);
    close(out);
}

#define LOAD(c, name) CHECK(((c)->name = (__typeof__((c)->name))dlsym((c)->handle, "pshm_" #name)) != NULL)

static void load(copy *c, const char *library, const char *path, const char *address)
{
    bool created;
    copy_file(library, path);
    c->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    unlink(path);
    if (!c->handle)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(c->handle != NULL);
    LOAD(c, arena_open);
    LOAD(c, arena_close);
    LOAD(c, arena_release);
    LOAD(c, mutex_init);
    LOAD(c, mutex_fini);
    LOAD(c, mutex_try);
    LOAD(c, mutex_acquire);
    LOAD(c, mutex_recover);
    LOAD(c, mutex_consistent);
    LOAD(c, mutex_release);
    LOAD(c, participant_detach);
    CHECK(c->arena_open(address, strlen(address), NULL, &c->arena) == 0);
    CHECK(c->mutex_init(&c->lock, c->arena, "lock", 4, false, PSHM_RECURSIVE_NO, &created) == 0);
}

static int acquire(copy *c, int slices, pshm_death *death)
{
    int rc = -EINTR;
    for (int i = 0; i < slices && rc == -EINTR; i++)
        rc = c->mutex_acquire(&c->lock, pshm_deadline(SECOND), death);
    return rc;
}

static void *hold_by(void *context)
{
    copy *c = context;
    pshm_death death;
    CHECK(c->mutex_try(&c->lock, &death) == 0);
    return NULL;
}

static int use_two(void *context)
{
    static copy one, two;
    pshm_death death;
    pthread_t thread;
    helper_world *world = context;
    char library[4096], path[64];
    snprintf(library, sizeof library, "%s", helper_program("../libpolyshm.so"));
    snprintf(path, sizeof path, "/tmp/polyshm-c-%d-one.so", (int)getppid());
    load(&one, library, path, world->arena->address);
    snprintf(path, sizeof path, "/tmp/polyshm-c-%d-two.so", (int)getppid());
    load(&two, library, path, world->arena->address);
    CHECK((void *)one.mutex_try != (void *)two.mutex_try);

    /* One thread, and two participants that know of each other. */
    CHECK(one.mutex_try(&one.lock, &death) == 0);
    CHECK(two.mutex_try(&two.lock, &death) == -EBUSY);
    CHECK(acquire(&two, 1, &death) == PSHM_ERELOCK);
    CHECK(two.mutex_recover(&two.lock, PSHM_FOREVER, &death) == PSHM_ERELOCK);
    CHECK(two.mutex_release(&two.lock) == PSHM_ENOTOWNER);
    CHECK(one.mutex_release(&one.lock) == 0);
    CHECK(two.mutex_try(&two.lock, &death) == 0);
    CHECK(acquire(&one, 1, &death) == PSHM_ERELOCK);
    CHECK(two.mutex_release(&two.lock) == 0);

    /* A thread that ends with the lock of one copy is dead for the other. */
    CHECK(pthread_create(&thread, NULL, hold_by, &one) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(acquire(&two, 3, &death) == -EOWNERDEAD && death.pid == (uint32_t)getpid());
    CHECK(one.mutex_recover(&one.lock, PSHM_FOREVER, &death) == 0 && death.died);
    CHECK(one.mutex_consistent(&one.lock) == 0);

    /* Closed while it is held: still a lock for the other, until it is given back. */
    one.arena_close(one.arena);
    CHECK(two.mutex_try(&two.lock, &death) == -EBUSY);
    CHECK(acquire(&two, 1, &death) == PSHM_ERELOCK);
    CHECK(one.mutex_try(&one.lock, &death) == PSHM_ECLOSED);
    CHECK(one.mutex_release(&one.lock) == 0);
    one.mutex_fini(&one.lock);
    one.arena_release(one.arena);
    CHECK(acquire(&two, 1, &death) == 0);
    two.arena_close(two.arena);
    two.arena_release(two.arena);
    helper_step(world, 1);
    for (;;)
        pause(); /* killed with the lock of a closed arena */
}

static void test_two_copies(void **state)
{
    (void)state;
    helper_world world = helper_world_open("posix");
    pid_t pid = helper_fork(use_two, &world);
    assert_true(helper_until_step(&world, 1));
    helper_kill(pid);
    helper_expect_death(&world, (uint32_t)pid);
    helper_expect_clean(world.arena);
    helper_world_end(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_exec),        TEST(test_fork),
        TEST(test_clone),       TEST(test_clones_come_and_go),
        TEST(test_parent_dies), TEST(test_parent_of_a_clone_dies),
        TEST(test_two_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
