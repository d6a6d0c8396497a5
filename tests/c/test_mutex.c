/* SPDX-License-Identifier: MIT
 *
 * The mutex on raw memory, but for death at every instruction: that is tests/crash.
 */
#include "helper.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <polyshm/mutex.h>

#define OFFSET 64

static pshm_segment *fresh(bool serial)
{
    pshm_options options = helper_sized(PAGE);
    options.serial = serial;
    return helper_segment("memfd:mutex", &options);
}

/* In place: a handle has an address that the segment may know. */
static void make(pshm_segment_mutex *mutex, pshm_segment *s, pshm_recursive recursive)
{
    assert_rc(pshm_segment_mutex_init(mutex, s, OFFSET, true, recursive), 0);
}

static void end(pshm_segment_mutex *mutex, pshm_segment *s)
{
    pshm_segment_mutex_fini(mutex);
    helper_end(s);
}

static void test_verbs(void **state)
{
    (void)state;
    for (int serial = 0; serial < 2; serial++) {
        pshm_segment *s = fresh(serial);
        pshm_segment_mutex m, other;
        make(&m, s, PSHM_RECURSIVE_NO);
        pshm_death death = {true, 9, 0};
        uint32_t pid = 9;
        assert_true(m.marked && !m.recursive);
        assert_rc(pshm_segment_mutex_init(&other, s, OFFSET, false, PSHM_RECURSIVE_ANY), 0);
        assert_true(other.marked && !other.recursive);
        assert_rc(pshm_segment_mutex_locked(&m), 0);
        assert_rc(pshm_segment_mutex_owner(&m, &pid), 0);
        assert_int_equal(pid, 0);
        assert_rc(pshm_segment_mutex_try(&m, &death), 0);
        assert_false(death.died);
        assert_rc(pshm_segment_mutex_locked(&other), 1);
        assert_rc(pshm_segment_mutex_owner(&other, &pid), 0);
        assert_int_equal(pid, getpid());
        /* The owner again: told at once, through whichever handle. */
        assert_rc(pshm_segment_mutex_try(&m, &death), PSHM_ERELOCK);
        assert_rc(pshm_segment_mutex_acquire(&m, PSHM_FOREVER, &death), PSHM_ERELOCK);
        assert_rc(pshm_segment_mutex_recover(&m, PSHM_FOREVER, &death), PSHM_ERELOCK);
        assert_rc(pshm_segment_mutex_try(&other, &death), PSHM_ERELOCK);
        /* Only the handle that acquired releases. */
        assert_rc(pshm_segment_mutex_release(&other), PSHM_ENOTOWNER);
        assert_rc(pshm_segment_mutex_consistent(&other), PSHM_ENOTOWNER);
        assert_rc(pshm_segment_mutex_consistent(&m), 0);
        assert_rc(pshm_segment_mutex_release(&m), 0);
        assert_rc(pshm_segment_mutex_release(&m), PSHM_ENOTOWNER);
        assert_rc(pshm_segment_mutex_consistent(&m), PSHM_ENOTOWNER);
        assert_rc(pshm_segment_mutex_acquire(&other, 0, &death), 0); /* free: a deadline does not matter */
        assert_rc(pshm_segment_mutex_release(&other), 0);
        assert_rc(pshm_segment_mutex_recover(&m, PSHM_FOREVER, &death), 0);
        assert_false(death.died);
        assert_rc(pshm_segment_mutex_release(&m), 0);
        pshm_segment_mutex_fini(&other);
        end(&m, s);
    }
}

static void test_recursive(void **state)
{
    (void)state;
    for (int serial = 0; serial < 2; serial++) {
        pshm_segment *s = fresh(serial);
        pshm_segment_mutex m, other;
        make(&m, s, PSHM_RECURSIVE_YES);
        pshm_death death;
        uint32_t pid;
        assert_true(m.recursive);
        assert_rc(pshm_segment_mutex_init(&other, s, OFFSET, false, PSHM_RECURSIVE_NO), PSHM_ERECURSIVE);
        assert_rc(pshm_segment_mutex_init(&other, s, OFFSET, false, PSHM_RECURSIVE_YES), 0);
        for (int i = 0; i < 5; i++)
            assert_rc(pshm_segment_mutex_try(&m, &death), 0);
        assert_rc(pshm_segment_mutex_acquire(&m, PSHM_FOREVER, &death), 0);
        assert_rc(pshm_segment_mutex_recover(&m, PSHM_FOREVER, &death), 0);
        for (int i = 0; i < 7; i++) {
            assert_rc(pshm_segment_mutex_locked(&other), 1);
            assert_rc(pshm_segment_mutex_owner(&other, &pid), 0);
            assert_int_equal(pid, getpid());
            assert_rc(pshm_segment_mutex_release(&m), 0);
        }
        assert_rc(pshm_segment_mutex_locked(&other), 0);
        assert_rc(pshm_segment_mutex_release(&m), PSHM_ENOTOWNER);
        pshm_segment_mutex_fini(&other);
        end(&m, s);
    }
    pshm_segment *s = fresh(true);
    pshm_segment_mutex m, other;
    make(&m, s, PSHM_RECURSIVE_NO);
    assert_rc(pshm_segment_mutex_init(&other, s, OFFSET, false, PSHM_RECURSIVE_YES), PSHM_ERECURSIVE);
    end(&m, s);
}

/* glibc counts to 2^32 - 1; put there by hand. */
static void test_too_deep(void **state)
{
    (void)state;
    pshm_segment *s = fresh(true);
    pshm_segment_mutex m;
    make(&m, s, PSHM_RECURSIVE_YES);
    pshm_death death;
    assert_rc(pshm_segment_mutex_try(&m, &death), 0);
    pthread_mutex_t *raw = (pthread_mutex_t *)(void *)(s->base + OFFSET);
    raw->__data.__count = UINT32_MAX;
    assert_rc(pshm_segment_mutex_try(&m, &death), -EAGAIN);
    assert_rc(pshm_segment_mutex_acquire(&m, PSHM_FOREVER, &death), -EAGAIN);
    raw->__data.__count = 1;
    assert_rc(pshm_segment_mutex_release(&m), 0);
    end(&m, s);
}

static void test_places(void **state)
{
    (void)state;
    pshm_segment *s = fresh(true);
    pshm_segment_mutex m;
    pshm_death death;
    assert_rc(pshm_segment_mutex_init(&m, s, OFFSET + 4, true, PSHM_RECURSIVE_NO), PSHM_EALIGN);
    assert_rc(pshm_segment_mutex_init(&m, s, PAGE - PSHM_MUTEX_SIZE + 8, true, PSHM_RECURSIVE_NO), PSHM_EBOUNDS);
    assert_rc(pshm_segment_mutex_init(&m, s, UINT64_MAX - 7, true, PSHM_RECURSIVE_NO), PSHM_EBOUNDS);
    assert_rc(pshm_segment_mutex_init(&m, s, PAGE - PSHM_MUTEX_SIZE, true, PSHM_RECURSIVE_NO), 0);
    assert_rc(pshm_segment_mutex_try(&m, &death), 0);
    assert_rc(pshm_segment_mutex_release(&m), 0);
    pshm_segment_mutex_fini(&m);
    char address[32];
    snprintf(address, sizeof address, "fd:%d", s->fd);
    pshm_options options = PSHM_OPTIONS_INIT;
    options.access = PSHM_ACCESS_R;
    pshm_segment *reader = helper_segment(address, &options);
    assert_rc(pshm_segment_mutex_init(&m, reader, 0, false, PSHM_RECURSIVE_ANY), PSHM_EREADONLY);
    helper_end(reader);
    assert_rc(pshm_segment_protect(s, PSHM_ACCESS_NONE, 0, PAGE), 0);
    assert_rc(pshm_segment_mutex_init(&m, s, 0, false, PSHM_RECURSIVE_ANY), PSHM_ENOACCESS);
    assert_rc(pshm_segment_protect(s, PSHM_ACCESS_RW, 0, PAGE), 0);
    pshm_segment_close(s);
    assert_rc(pshm_segment_mutex_init(&m, s, 0, true, PSHM_RECURSIVE_NO), PSHM_ECLOSED);
    pshm_segment_release(s);
}

static void init_raw(void *at, int shared, int robust, int type)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, shared);
    pthread_mutexattr_setrobust(&attributes, robust);
    pthread_mutexattr_settype(&attributes, type);
    assert_int_equal(pthread_mutex_init(at, &attributes), 0);
    pthread_mutexattr_destroy(&attributes);
}

static void test_what_is_no_mutex(void **state)
{
    (void)state;
    pshm_segment *s = fresh(true);
    pshm_segment_mutex m;
    pshm_death death;
    assert_rc(pshm_segment_mutex_init(&m, s, OFFSET, false, PSHM_RECURSIVE_ANY), PSHM_ENOTMUTEX); /* zeros */
    memset(s->base, 0xff, PAGE);
    assert_rc(pshm_segment_mutex_init(&m, s, OFFSET, false, PSHM_RECURSIVE_ANY), PSHM_ENOTMUTEX);
    static const int types[] = {PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_ERRORCHECK, PTHREAD_MUTEX_RECURSIVE};
    for (int i = 0; i < 3; i++) {
        for (int shared = 0; shared < 2; shared++) { /* what is robust glibc makes shared too */
            memset(s->base, 0, PAGE);
            init_raw(s->base + OFFSET, shared ? PTHREAD_PROCESS_SHARED : PTHREAD_PROCESS_PRIVATE, PTHREAD_MUTEX_STALLED,
                     types[i]);
            assert_rc(pshm_segment_mutex_init(&m, s, OFFSET, false, PSHM_RECURSIVE_ANY), PSHM_ENOTMUTEX);
        }
    }
    srand(7);
    for (int i = 0; i < 20000; i++) {
        for (uint64_t j = 0; j < PSHM_MUTEX_SIZE; j++)
            s->base[OFFSET + j] = (unsigned char)rand();
        int rc = pshm_segment_mutex_init(&m, s, OFFSET, false, PSHM_RECURSIVE_ANY);
        if (rc == 0)
            pshm_segment_mutex_fini(&m); /* by chance the kind is right: nothing more is asked of it */
        else
            assert_rc(rc, PSHM_ENOTMUTEX);
    }
    /* Overwritten under a handle: each use asks again. */
    make(&m, s, PSHM_RECURSIVE_NO);
    memset(s->base, 0, PAGE);
    uint32_t pid;
    assert_rc(pshm_segment_mutex_try(&m, &death), PSHM_ENOTMUTEX);
    assert_rc(pshm_segment_mutex_acquire(&m, PSHM_FOREVER, &death), PSHM_ENOTMUTEX);
    assert_rc(pshm_segment_mutex_recover(&m, PSHM_FOREVER, &death), PSHM_ENOTMUTEX);
    assert_rc(pshm_segment_mutex_locked(&m), PSHM_ENOTMUTEX);
    assert_rc(pshm_segment_mutex_owner(&m, &pid), PSHM_ENOTMUTEX);
    end(&m, s);
}

static void test_created_over_what_is_held(void **state)
{
    (void)state;
    pshm_segment *s = fresh(true);
    pshm_segment_mutex m, again;
    make(&m, s, PSHM_RECURSIVE_NO);
    pshm_death death;
    assert_rc(pshm_segment_mutex_try(&m, &death), 0);
    assert_rc(pshm_segment_mutex_init(&again, s, OFFSET, true, PSHM_RECURSIVE_NO), PSHM_EHELD);
    assert_rc(pshm_segment_mutex_release(&m), 0);
    assert_rc(pshm_segment_mutex_init(&again, s, OFFSET, true, PSHM_RECURSIVE_NO), 0);
    pshm_segment_mutex_fini(&again);
    end(&m, s);
}

static int64_t now(void)
{
    return pshm_deadline(0);
}

/* What children do with the lock. */
typedef struct job {
    pshm_segment *segment;
    pshm_segment_mutex *mutex; /* inherited */
    volatile uint32_t *held;
} job;

static int hold_until_killed(void *context)
{
    job *j = context;
    pshm_death death;
    CHECK(pshm_segment_mutex_try(j->mutex, &death) == 0);
    *j->held = 1;
    for (;;)
        pause();
}

static pid_t holder(job *j)
{
    *j->held = 0;
    pid_t child = helper_fork(hold_until_killed, j);
    while (!*j->held)
        usleep(200);
    return child;
}

static void kill_and_wait(pid_t child)
{
    kill(child, SIGKILL);
    assert_int_equal(helper_wait(child), 256 + SIGKILL);
}

static void test_waits(void **state)
{
    (void)state;
    pshm_segment *s = fresh(true);
    pshm_segment_mutex m;
    make(&m, s, PSHM_RECURSIVE_NO);
    pshm_death death;
    uint32_t pid;
    job j = {s, &m, (uint32_t *)(void *)s->base};
    pid_t child = holder(&j);
    assert_rc(pshm_segment_mutex_locked(&m), 1);
    assert_rc(pshm_segment_mutex_owner(&m, &pid), 0);
    assert_int_equal(pid, child);
    assert_rc(pshm_segment_mutex_try(&m, &death), -EBUSY);
    assert_rc(pshm_segment_mutex_acquire(&m, 0, &death), -ETIMEDOUT);
    int64_t start = now();
    assert_rc(pshm_segment_mutex_acquire(&m, start + 30000000, &death), -ETIMEDOUT);
    assert_in_range(now() - start, 30000000, SECOND);
    start = now();
    assert_rc(pshm_segment_mutex_acquire(&m, PSHM_FOREVER, &death), -EINTR); /* a slice */
    assert_in_range(now() - start, PSHM_SLICE_NS / 2, SECOND);
    assert_rc(pshm_segment_mutex_recover(&m, now() + 1000000, &death), -ETIMEDOUT);
    assert_rc(pshm_segment_mutex_release(&m), PSHM_ENOTOWNER);
    kill_and_wait(child);
    assert_rc(pshm_segment_mutex_locked(&m), 0);
    end(&m, s);
}

static void test_owner_death(void **state)
{
    (void)state;
    for (int serial = 0; serial < 2; serial++) {
        for (int recursive = 0; recursive < 2; recursive++) {
            pshm_segment *s = fresh(serial);
            pshm_segment_mutex m;
            make(&m, s, recursive ? PSHM_RECURSIVE_YES : PSHM_RECURSIVE_NO);
            pshm_death death;
            uint32_t pid;
            job j = {s, &m, (uint32_t *)(void *)s->base};
            pid_t child = holder(&j);
            kill_and_wait(child);
            assert_rc(pshm_segment_mutex_locked(&m), 0);
            /* Everybody is told, as often as they ask, and nobody holds it. */
            for (int i = 0; i < 3; i++) {
                int rc = i ? pshm_segment_mutex_acquire(&m, PSHM_FOREVER, &death) : pshm_segment_mutex_try(&m, &death);
                assert_rc(rc, -EOWNERDEAD);
                assert_true(death.died);
                assert_int_equal(death.pid, child);
                assert_rc(pshm_segment_mutex_release(&m), PSHM_ENOTOWNER);
                assert_rc(pshm_segment_mutex_consistent(&m), PSHM_ENOTOWNER);
                assert_rc(pshm_segment_mutex_locked(&m), 0);
            }
            /* A repair that gave up leaves the mark. */
            assert_rc(pshm_segment_mutex_recover(&m, PSHM_FOREVER, &death), 0);
            assert_true(death.died && death.pid == (uint32_t)child);
            assert_rc(pshm_segment_mutex_owner(&m, &pid), 0);
            assert_int_equal(pid, getpid());
            assert_rc(pshm_segment_mutex_release(&m), 0);
            assert_rc(pshm_segment_mutex_try(&m, &death), -EOWNERDEAD);
            /* One that did not takes it away. */
            assert_rc(pshm_segment_mutex_recover(&m, PSHM_FOREVER, &death), 0);
            assert_rc(pshm_segment_mutex_consistent(&m), 0);
            assert_rc(pshm_segment_mutex_release(&m), 0);
            assert_rc(pshm_segment_mutex_try(&m, &death), 0);
            assert_false(death.died);
            assert_rc(pshm_segment_mutex_release(&m), 0);
            /* Another death while it is marked: the first is told, until it is repaired. */
            child = holder(&j);
            kill_and_wait(child);
            assert_rc(pshm_segment_mutex_recover(&m, PSHM_FOREVER, &death), 0);
            assert_rc(pshm_segment_mutex_consistent(&m), 0);
            assert_rc(pshm_segment_mutex_release(&m), 0);
            end(&m, s);
        }
    }
}

/* The first to be told may be asleep. */
static int wait_for_it(void *context)
{
    job *j = context;
    pshm_death death;
    int rc;
    do
        rc = pshm_segment_mutex_acquire(j->mutex, pshm_deadline(20 * SECOND), &death);
    while (rc == -EINTR);
    return rc == -EOWNERDEAD ? 42 : rc != 0;
}

static void test_death_wakes_a_sleeper(void **state)
{
    (void)state;
    pshm_segment *s = fresh(true);
    pshm_segment_mutex m;
    make(&m, s, PSHM_RECURSIVE_NO);
    job j = {s, &m, (uint32_t *)(void *)s->base};
    pid_t child = holder(&j), waiters[3];
    for (int i = 0; i < 3; i++)
        waiters[i] = helper_fork(wait_for_it, &j);
    for (int i = 0; i < 3; i++)
        helper_until_asleep(waiters[i]);
    kill_and_wait(child);
    for (int i = 0; i < 3; i++)
        assert_int_equal(helper_wait(waiters[i]), 42);
    end(&m, s);
}

static int exit_while_holding(void *context)
{
    pshm_death death;
    return pshm_segment_mutex_try(((job *)context)->mutex, &death) != 0;
}

static int exec_while_holding(void *context)
{
    pshm_death death;
    CHECK(pshm_segment_mutex_try(((job *)context)->mutex, &death) == 0);
    *((job *)context)->held = 1;
    execl("/bin/sleep", "sleep", "60", (char *)NULL);
    return 1;
}

static void *end_while_holding(void *context)
{
    pshm_death death;
    return pshm_segment_mutex_try(context, &death) ? (void *)1 : NULL;
}

static void repair(pshm_segment_mutex *m, uint32_t pid)
{
    pshm_death death;
    int rc;
    do
        rc = pshm_segment_mutex_recover(m, pshm_deadline(20 * SECOND), &death);
    while (rc == -EINTR);
    assert_rc(rc, 0);
    assert_true(death.died);
    assert_int_equal(death.pid, pid);
    assert_rc(pshm_segment_mutex_consistent(m), 0);
    assert_rc(pshm_segment_mutex_release(m), 0);
    assert_rc(pshm_segment_mutex_try(m, &death), 0);
    assert_rc(pshm_segment_mutex_release(m), 0);
}

/* Exit, exec and the end of a thread are deaths, though the process may live on. */
static void test_other_ways_to_die(void **state)
{
    (void)state;
    for (int serial = 0; serial < 2; serial++) {
        pshm_segment *s = fresh(serial);
        pshm_segment_mutex m;
        make(&m, s, PSHM_RECURSIVE_NO);
        job j = {s, &m, (uint32_t *)(void *)s->base};
        pid_t child = helper_fork(exit_while_holding, &j);
        assert_int_equal(helper_wait(child), 0);
        repair(&m, (uint32_t)child);
        *j.held = 0;
        child = helper_fork(exec_while_holding, &j);
        while (!*j.held)
            usleep(200);
        repair(&m, (uint32_t)child);
        kill_and_wait(child);
        /* Through the very handle that this thread goes on with. */
        for (int i = 0; i < 3; i++) {
            pthread_t thread;
            void *result;
            assert_int_equal(pthread_create(&thread, NULL, end_while_holding, &m), 0);
            pthread_join(thread, &result);
            assert_null(result);
            assert_rc(pshm_segment_mutex_release(&m), PSHM_ENOTOWNER);
            repair(&m, (uint32_t)getpid());
        }
        unsigned char *base = s->base;
        pshm_segment_retain(s);
        end(&m, s);
        (void)base;
        assert_null(s->base); /* no user was left inside by those that died */
        pshm_segment_release(s);
    }
}

static void *close_after_death(void *context)
{
    job *j = context;
    pshm_death death;
    int rc;
    do
        rc = pshm_segment_mutex_recover(j->mutex, pshm_deadline(20 * SECOND), &death);
    while (rc == -EINTR);
    if (rc || !death.died || pshm_segment_mutex_consistent(j->mutex) || pshm_segment_mutex_release(j->mutex))
        _exit(1);
    pshm_segment_mutex_fini(j->mutex);
    pshm_segment_retain(j->segment);
    pshm_segment_close(j->segment);
    if (j->segment->base)
        _exit(2);
    kill(getpid(),
         SIGKILL); /* at an exit valgrind would miss what it finds in no stack, the first thread's being gone */
    return NULL;
}

/* The first thread of a process stays as a zombie while others go on. */
static int leader_ends_while_holding(void *context)
{
    job *j = context;
    pshm_death death;
    CHECK(pshm_segment_mutex_try(j->mutex, &death) == 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, close_after_death, j) == 0);
    pthread_exit(NULL);
}

/* The kernel gives a dying thread's locks back long before its id is free. */
static void test_a_thread_that_is_dying(void **state)
{
    (void)state;
    static pshm_segment_mutex m; /* not in the stack of a thread that ends while others use them */
    static job j;
    for (int serial = 0; serial < 2; serial++) {
        pshm_segment *s = fresh(serial);
        make(&m, s, PSHM_RECURSIVE_NO);
        j = (job){s, &m, (uint32_t *)(void *)s->base};
        assert_int_equal(helper_wait(helper_fork(leader_ends_while_holding, &j)), 256 + SIGKILL);
        end(&m, s);
    }
}

static int is_not_the_childs(void *context)
{
    job *j = context;
    pshm_death death;
    uint32_t pid;
    CHECK(pshm_segment_mutex_release(j->mutex) == PSHM_ENOTOWNER);
    CHECK(pshm_segment_mutex_consistent(j->mutex) == PSHM_ENOTOWNER);
    CHECK(pshm_segment_mutex_try(j->mutex, &death) == -EBUSY);
    CHECK(pshm_segment_mutex_owner(j->mutex, &pid) == 0 && pid == (uint32_t)getppid());
    *j->held = 1;
    int rc;
    do
        rc = pshm_segment_mutex_acquire(j->mutex, pshm_deadline(20 * SECOND), &death);
    while (rc == -EINTR);
    CHECK(rc == 0 && !death.died);
    CHECK(pshm_segment_mutex_owner(j->mutex, &pid) == 0 && pid == (uint32_t)getpid());
    CHECK(pshm_segment_mutex_release(j->mutex) == 0);
    pshm_segment_mutex_fini(j->mutex);
    helper_end(j->segment);
    return 0;
}

static void test_fork_while_holding(void **state)
{
    (void)state;
    for (int serial = 0; serial < 2; serial++) {
        pshm_segment *s = fresh(serial);
        pshm_segment_mutex m;
        make(&m, s, PSHM_RECURSIVE_NO);
        pshm_death death;
        job j = {s, &m, (uint32_t *)(void *)s->base};
        assert_rc(pshm_segment_mutex_try(&m, &death), 0);
        pid_t child = helper_fork(is_not_the_childs, &j);
        while (!*j.held)
            usleep(200);
        assert_rc(pshm_segment_mutex_release(&m), 0);
        assert_int_equal(helper_wait(child), 0);
        assert_rc(pshm_segment_mutex_try(&m, &death), 0);
        assert_rc(pshm_segment_mutex_release(&m), 0);
        end(&m, s);
    }
}

/* A thread that is not the owner cannot release, not even through the owner's handle. */
static void *release_of_another(void *context)
{
    pshm_death death;
    pshm_segment_mutex *m = context;
    bool right = pshm_segment_mutex_release(m) == PSHM_ENOTOWNER &&
                 pshm_segment_mutex_consistent(m) == PSHM_ENOTOWNER && pshm_segment_mutex_try(m, &death) == -EBUSY;
    return right ? NULL : (void *)1;
}

static void test_release_from_another_thread(void **state)
{
    (void)state;
    for (int recursive = 0; recursive < 2; recursive++) {
        pshm_segment *s = fresh(false);
        pshm_segment_mutex m;
        make(&m, s, recursive ? PSHM_RECURSIVE_YES : PSHM_RECURSIVE_NO);
        pshm_death death;
        pthread_t thread;
        void *result;
        assert_rc(pshm_segment_mutex_try(&m, &death), 0);
        assert_int_equal(pthread_create(&thread, NULL, release_of_another, &m), 0);
        pthread_join(thread, &result);
        assert_null(result);
        assert_rc(pshm_segment_mutex_release(&m), 0);
        end(&m, s);
    }
}

#define ROUNDS 20000

static int count(void *context)
{
    job *j = context;
    volatile uint64_t *counter = (uint64_t *)(void *)j->segment->base;
    pshm_death death;
    for (int i = 0; i < ROUNDS; i++) {
        int rc;
        do
            rc = pshm_segment_mutex_acquire(j->mutex, PSHM_FOREVER, &death);
        while (rc == -EINTR);
        CHECK(rc == 0);
        *counter = *counter + 1;
        CHECK(pshm_segment_mutex_release(j->mutex) == 0);
    }
    return 0;
}

static void *count_in_thread(void *context)
{
    count(context);
    return NULL;
}

static void test_exclusion(void **state)
{
    enum { THREADS = 2, PROCESSES = 2 };
    (void)state;
    pshm_segment *s = fresh(false);
    pshm_segment_mutex m;
    make(&m, s, PSHM_RECURSIVE_NO);
    job j = {s, &m, NULL};
    pid_t children[PROCESSES];
    pthread_t threads[THREADS];
    for (int i = 0; i < PROCESSES; i++)
        children[i] = helper_fork(count, &j);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_in_thread, &j), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < PROCESSES; i++)
        assert_int_equal(helper_wait(children[i]), 0);
    assert_int_equal(*(uint64_t *)(void *)s->base, (THREADS + PROCESSES) * ROUNDS);
    end(&m, s);
}

static void test_close_while_held(void **state)
{
    (void)state;
    for (int serial = 0; serial < 2; serial++) {
        for (int recursive = 0; recursive < 2; recursive++) {
            pshm_segment *s = fresh(serial);
            pshm_segment_mutex m;
            make(&m, s, recursive ? PSHM_RECURSIVE_YES : PSHM_RECURSIVE_NO);
            pshm_death death;
            char address[32];
            snprintf(address, sizeof address, "fd:%d", s->fd);
            pshm_segment *other = helper_segment(address, NULL);
            pshm_segment_mutex theirs;
            assert_rc(pshm_segment_mutex_init(&theirs, other, OFFSET, false, PSHM_RECURSIVE_ANY), 0);
            for (int i = 0; i <= recursive; i++)
                assert_rc(pshm_segment_mutex_try(&m, &death), 0);
            pshm_segment_close(s);
            assert_non_null(s->base);
            assert_rc(pshm_segment_mutex_try(&m, &death), PSHM_ECLOSED);
            assert_rc(pshm_segment_mutex_acquire(&m, PSHM_FOREVER, &death), PSHM_ECLOSED);
            assert_rc(pshm_segment_mutex_locked(&m), PSHM_ECLOSED);
            assert_rc(pshm_segment_mutex_locked(&theirs), 1);
            assert_rc(pshm_segment_mutex_consistent(&m), 0);
            for (int i = 0; i <= recursive; i++) {
                assert_non_null(s->base);
                assert_rc(pshm_segment_mutex_release(&m), 0);
            }
            assert_null(s->base); /* the last one out */
            assert_rc(pshm_segment_mutex_release(&m), PSHM_ENOTOWNER);
            assert_rc(pshm_segment_mutex_try(&theirs, &death), 0);
            assert_rc(pshm_segment_mutex_release(&theirs), 0);
            pshm_segment_mutex_fini(&m);
            pshm_segment_release(s);
            end(&theirs, other);
        }
    }
}

/* A held lock keeps the pages, where they are and with their rights. */
static void test_pages_under_a_held_lock(void **state)
{
    (void)state;
    for (int serial = 0; serial < 2; serial++) {
        pshm_options options = helper_sized(4 * PAGE);
        options.serial = serial;
        pshm_segment *s = helper_segment(helper_posix(), &options);
        pshm_segment_mutex m;
        make(&m, s, PSHM_RECURSIVE_NO);
        pshm_death death;
        assert_rc(pshm_segment_mutex_try(&m, &death), 0);
        assert_rc(pshm_segment_resize(s, PAGE), PSHM_EBUFFERS);
        assert_rc(pshm_segment_protect(s, PSHM_ACCESS_R, 0, PAGE), PSHM_EBUFFERS);
        assert_rc(pshm_segment_advise(s, "remove", 0, 4 * PAGE), PSHM_EBUFFERS);
        /* Growing moves the handle on, not the lock. */
        assert_rc(pshm_segment_resize(s, 4096 * PAGE), 0);
        assert_rc(pshm_segment_mutex_locked(&m), 1);
        assert_rc(pshm_segment_mutex_try(&m, &death), PSHM_ERELOCK);
        assert_rc(pshm_segment_mutex_release(&m), 0);
        assert_rc(pshm_segment_mutex_try(&m, &death), 0);
        assert_rc(pshm_segment_mutex_release(&m), 0);
        assert_rc(pshm_segment_protect(s, PSHM_ACCESS_R, 0, PAGE), 0);
        assert_rc(pshm_segment_mutex_try(&m, &death), PSHM_EREADONLY);
        pshm_segment_mutex_fini(&m);
        helper_end_unlink(s);
    }
}

static int foreign(char *output, size_t size, const pshm_segment *s, const char *verb, const char *argument)
{
    char number[16], offset[16];
    snprintf(number, sizeof number, "%d", s->fd);
    snprintf(offset, sizeof offset, "%d", OFFSET);
    return helper_run(output, size, helper_program("foreign_map"), "fd", number, verb, offset, argument, NULL);
}

static pshm_segment *inherited(void)
{
    pshm_options options = helper_sized(PAGE);
    options.inherit = true;
    options.serial = true;
    return helper_segment("memfd:mutex", &options);
}

/* One that a program without polyshm made: the same lock, and not a byte behind it is touched. */
static void test_foreign_mutex(void **state)
{
    static const char *const kinds[] = {"sr", "srn", "src", "sre"};
    (void)state;
    for (int k = 0; k < 4; k++) {
        pshm_segment *s = inherited();
        pshm_segment_mutex m;
        pshm_death death;
        uint32_t pid = 9;
        char output[64];
        unsigned char behind[64];
        memset(s->base, 0x5a, PAGE);
        memset(s->base, 0, 8); /* its counter */
        assert_int_equal(foreign(NULL, 0, s, "init", kinds[k]), 0);
        memset(behind, 0x5a, sizeof behind);
        assert_rc(pshm_segment_mutex_init(&m, s, OFFSET, false, PSHM_RECURSIVE_ANY), 0);
        assert_false(m.marked);
        assert_int_equal(m.recursive, k == 2);
        assert_rc(pshm_segment_mutex_try(&m, &death), 0);
        assert_rc(pshm_segment_mutex_locked(&m), 1);
        assert_rc(pshm_segment_mutex_owner(&m, &pid), 0);
        assert_int_equal(pid, 0); /* nothing says who */
        assert_rc(pshm_segment_mutex_try(&m, &death), k == 2 ? 0 : PSHM_ERELOCK);
        assert_rc(pshm_segment_mutex_release(&m), 0);
        if (k == 2)
            assert_rc(pshm_segment_mutex_release(&m), 0);
        assert_int_equal(foreign(output, sizeof output, s, "lock", "0"), 0);
        assert_string_equal(output, "locked\n");
        assert_int_equal(*(uint64_t *)(void *)s->base, 1);
        /* It dies: told once, without a name. */
        assert_int_equal(foreign(NULL, 0, s, "abandon", "die"), 256 + SIGKILL);
        assert_rc(pshm_segment_mutex_try(&m, &death), -EOWNERDEAD);
        assert_true(death.died && death.pid == 0);
        assert_rc(pshm_segment_mutex_try(&m, &death), 0);
        assert_false(death.died);
        assert_rc(pshm_segment_mutex_release(&m), 0);
        assert_int_equal(foreign(NULL, 0, s, "abandon", "die"), 256 + SIGKILL);
        assert_rc(pshm_segment_mutex_recover(&m, PSHM_FOREVER, &death), 0);
        assert_true(death.died && death.pid == 0);
        assert_rc(pshm_segment_mutex_consistent(&m), 0);
        assert_rc(pshm_segment_mutex_release(&m), 0);
        /* It gives up: nobody can have it again, and that is said. */
        assert_int_equal(foreign(NULL, 0, s, "abandon", "die"), 256 + SIGKILL);
        assert_int_equal(foreign(NULL, 0, s, "abandon", "giveup"), 0);
        assert_rc(pshm_segment_mutex_try(&m, &death), -ENOTRECOVERABLE);
        assert_rc(pshm_segment_mutex_acquire(&m, PSHM_FOREVER, &death), -ENOTRECOVERABLE);
        assert_rc(pshm_segment_mutex_recover(&m, PSHM_FOREVER, &death), -ENOTRECOVERABLE);
        assert_int_equal(foreign(output, sizeof output, s, "lock", "0"), 0);
        assert_string_equal(output, "ENOTRECOVERABLE\n");
        assert_memory_equal(s->base + OFFSET + sizeof(pthread_mutex_t), behind, sizeof behind);
        end(&m, s);
    }
}

/* At the very end of the segment there is no room for a mark of ours, nor need there be. */
static void test_foreign_mutex_at_the_end(void **state)
{
    (void)state;
    pshm_segment *s = fresh(true);
    pshm_segment_mutex m;
    pshm_death death;
    uint64_t offset = PAGE - sizeof(pthread_mutex_t);
    init_raw(s->base + offset, PTHREAD_PROCESS_SHARED, PTHREAD_MUTEX_ROBUST, PTHREAD_MUTEX_NORMAL);
    assert_rc(pshm_segment_mutex_init(&m, s, offset, false, PSHM_RECURSIVE_ANY), 0);
    assert_false(m.marked);
    assert_rc(pshm_segment_mutex_try(&m, &death), 0);
    assert_rc(pshm_segment_mutex_release(&m), 0);
    end(&m, s);
}

/* And one of ours, shared with a program that knows pthread_mutex_lock alone. */
static void test_ours_used_by_a_foreign_program(void **state)
{
    (void)state;
    for (int recursive = 0; recursive < 2; recursive++) {
        pshm_segment *s = inherited();
        pshm_segment_mutex m;
        make(&m, s, recursive ? PSHM_RECURSIVE_YES : PSHM_RECURSIVE_NO);
        pshm_death death;
        char output[64];
        job j = {s, &m, (uint32_t *)(void *)(s->base + 2048)};
        assert_int_equal(foreign(output, sizeof output, s, "lock", "0"), 0);
        assert_string_equal(output, "locked\n");
        assert_rc(pshm_segment_mutex_try(&m, &death), 0);
        assert_rc(pshm_segment_mutex_release(&m), 0);
        /* It dies holding it: the mark has no pid for it. */
        assert_int_equal(foreign(NULL, 0, s, "abandon", "die"), 256 + SIGKILL);
        assert_rc(pshm_segment_mutex_try(&m, &death), -EOWNERDEAD);
        assert_true(death.died && death.pid == 0);
        assert_rc(pshm_segment_mutex_try(&m, &death), -EOWNERDEAD); /* marked by us */
        repair(&m, 0);
        /* One of ours dies: the program is told by pthread, and takes it for good; ours go on. */
        pid_t child = holder(&j);
        kill_and_wait(child);
        assert_int_equal(foreign(output, sizeof output, s, "lock", "0"), 0);
        assert_string_equal(output, "EOWNERDEAD\n");
        assert_rc(pshm_segment_mutex_try(&m, &death), 0);
        assert_rc(pshm_segment_mutex_release(&m), 0);
        end(&m, s);
    }
}

static volatile sig_atomic_t signals;

static void on_signal(int number)
{
    (void)number;
    signals++;
}

static void test_signals_during_a_wait(void **state)
{
    (void)state;
    pshm_segment *s = fresh(true);
    pshm_segment_mutex m;
    make(&m, s, PSHM_RECURSIVE_NO);
    pshm_death death;
    job j = {s, &m, (uint32_t *)(void *)s->base};
    pid_t child = holder(&j);
    struct sigaction action = {.sa_handler = on_signal}; /* for good: one may still be on its way at the end */
    sigaction(SIGALRM, &action, NULL);
    ualarm(5000, 5000);
    int64_t start = now();
    assert_rc(pshm_segment_mutex_acquire(&m, PSHM_FOREVER, &death), -EINTR);
    assert_true(now() - start < SECOND);
    start = now();
    assert_rc(pshm_segment_mutex_acquire(&m, start + 50000000, &death), -ETIMEDOUT);
    assert_true(now() - start >= 50000000);
    ualarm(0, 0);
    assert_true(signals > 1);
    kill_and_wait(child);
    repair(&m, (uint32_t)child);
    end(&m, s);
}

/* Several at once, given back in any order. */
static void test_many_locks(void **state)
{
    enum { MANY = 20 };
    (void)state;
    pshm_options options = helper_sized(PAGE);
    options.serial = true;
    pshm_segment *s = helper_segment("anon:", &options);
    pshm_segment_mutex m[MANY];
    pshm_death death;
    for (uint64_t i = 0; i < MANY; i++) {
        assert_rc(pshm_segment_mutex_init(&m[i], s, i * PSHM_MUTEX_SIZE, true, PSHM_RECURSIVE_NO), 0);
        assert_rc(pshm_segment_mutex_try(&m[i], &death), 0);
    }
    pshm_segment_close(s);
    for (int i = 0; i < MANY; i++) {
        int at = i * 7 % MANY;
        assert_non_null(s->base);
        assert_rc(pshm_segment_mutex_release(&m[at]), 0);
        pshm_segment_mutex_fini(&m[at]);
    }
    assert_null(s->base);
    pshm_segment_release(s);
}

/* The handle may end before the lock does: it stays held, and its memory mapped. */
static void test_handle_ends_while_held(void **state)
{
    (void)state;
    for (int serial = 0; serial < 2; serial++) {
        pshm_segment *s = fresh(serial);
        pshm_segment_mutex m, other;
        make(&m, s, PSHM_RECURSIVE_NO);
        pshm_death death;
        assert_rc(pshm_segment_mutex_try(&m, &death), 0);
        pshm_segment_mutex_fini(&m);
        assert_rc(pshm_segment_mutex_init(&other, s, OFFSET, false, PSHM_RECURSIVE_ANY), 0);
        assert_rc(pshm_segment_mutex_locked(&other), 1);
        assert_rc(pshm_segment_mutex_release(&other), PSHM_ENOTOWNER);
        /* It belongs to this thread for ever; by hand, so that this process can go on. */
        assert_int_equal(pthread_mutex_unlock((pthread_mutex_t *)(void *)(s->base + OFFSET)), 0);
        pshm_segment_leave(s, serial ? PSHM_USE_LENT : PSHM_USE_RAW);
        end(&other, s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_verbs),
        TEST(test_recursive),
        TEST(test_too_deep),
        TEST(test_places),
        TEST(test_what_is_no_mutex),
        TEST(test_created_over_what_is_held),
        TEST(test_waits),
        TEST(test_owner_death),
        TEST(test_death_wakes_a_sleeper),
        TEST(test_a_thread_that_is_dying),
        TEST(test_other_ways_to_die),
        TEST(test_fork_while_holding),
        TEST(test_release_from_another_thread),
        TEST(test_exclusion),
        TEST(test_close_while_held),
        TEST(test_pages_under_a_held_lock),
        TEST(test_foreign_mutex),
        TEST(test_foreign_mutex_at_the_end),
        TEST(test_ours_used_by_a_foreign_program),
        TEST(test_signals_during_a_wait),
        TEST(test_many_locks),
        TEST(test_handle_ends_while_held),
    };
    return cmocka_run_group_tests_name("mutex", tests, NULL, NULL);
}
