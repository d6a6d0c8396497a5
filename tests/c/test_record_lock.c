/* SPDX-License-Identifier: MIT */
#include "helper.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <polyshm/record_lock.h>

static pshm_record_lock *lock_on(pshm_segment *s, uint64_t offset, uint64_t size, bool shared)
{
    pshm_record_lock *lock = NULL;
    assert_rc(pshm_record_lock_new(s, offset, size, shared, &lock), 0);
    return lock;
}

static pshm_segment *fresh(void)
{
    pshm_options options = helper_sized(10000);
    return helper_segment(helper_file(), &options);
}

static void test_every_kind(void **state)
{
    char names[3][64] = {"", "", "memfd:m"};
    (void)state;
    strcpy(names[0], helper_posix());
    strcpy(names[1], helper_file());
    for (int k = 0; k < 3; k++) {
        pshm_options options = helper_sized(10000);
        pshm_segment *s = helper_segment(names[k], &options);
        pshm_record_lock *a = lock_on(s, 0, PSHM_UNSET, false), *b = lock_on(s, 0, PSHM_UNSET, false);
        assert_rc(pshm_record_lock_locked(a), 0);
        assert_rc(pshm_record_lock_try(a), 0);
        assert_rc(pshm_record_lock_try(a), PSHM_EHELD);
        assert_rc(pshm_record_lock_acquire(a, PSHM_FOREVER), PSHM_EHELD);
        assert_rc(pshm_record_lock_try(b), -EBUSY); /* two objects exclude each other, in one thread too */
        assert_rc(pshm_record_lock_locked(a), 1);
        assert_rc(pshm_record_lock_locked(b), 1);
        assert_rc(pshm_record_lock_release(b), PSHM_ENOTOWNER);
        assert_rc(pshm_record_lock_release(a), 0);
        assert_rc(pshm_record_lock_release(a), PSHM_ENOTOWNER);
        assert_rc(pshm_record_lock_locked(b), 0);
        assert_rc(pshm_record_lock_try(b), 0);
        pshm_record_lock_free(b); /* releases */
        assert_rc(pshm_record_lock_try(a), 0);
        pshm_record_lock_free(a);
        helper_end_unlink(s);
    }
    static const char *const none[] = {"anon:", "zero:", "sysv:private"};
    for (int k = 0; k < 3; k++) {
        pshm_options options = helper_sized(PAGE);
        pshm_segment *s = helper_segment(none[k], &options);
        pshm_record_lock *lock = NULL;
        assert_rc(pshm_record_lock_new(s, 0, PSHM_UNSET, false, &lock), -EOPNOTSUPP);
        assert_null(lock);
        helper_end_unlink(s);
    }
}

static void test_shared_and_exclusive(void **state)
{
    (void)state;
    pshm_segment *s = fresh();
    pshm_record_lock *r1 = lock_on(s, 0, 100, true), *r2 = lock_on(s, 50, 100, true), *w = lock_on(s, 99, 1, false);
    assert_rc(pshm_record_lock_try(r1), 0);
    assert_rc(pshm_record_lock_locked(r2), 0);
    assert_rc(pshm_record_lock_try(r2), 0);
    assert_rc(pshm_record_lock_try(w), -EBUSY);
    assert_rc(pshm_record_lock_release(r1), 0);
    assert_rc(pshm_record_lock_try(w), -EBUSY);
    assert_rc(pshm_record_lock_release(r2), 0);
    assert_rc(pshm_record_lock_try(w), 0);
    assert_rc(pshm_record_lock_try(r1), -EBUSY);
    assert_rc(pshm_record_lock_locked(r1), 1);
    assert_rc(pshm_record_lock_release(w), 0);
    pshm_record_lock_free(r1);
    pshm_record_lock_free(r2);
    pshm_record_lock_free(w);
    helper_end_unlink(s);
}

static void test_ranges(void **state)
{
    (void)state;
    pshm_segment *s = fresh();
    pshm_record_lock *a = lock_on(s, 10, 20, false), *before = lock_on(s, 0, 10, false),
                     *after = lock_on(s, 30, PSHM_UNSET, false), *over = lock_on(s, 29, 2, false), *none = NULL;
    assert_rc(pshm_record_lock_try(a), 0);
    assert_rc(pshm_record_lock_try(before), 0);
    assert_rc(pshm_record_lock_try(after), 0);
    assert_rc(pshm_record_lock_try(over), -EBUSY);
    pshm_record_lock_free(a);
    assert_rc(pshm_record_lock_try(over), -EBUSY);
    pshm_record_lock_free(after);
    assert_rc(pshm_record_lock_try(over), 0);
    pshm_record_lock_free(before);
    pshm_record_lock_free(over);
    assert_rc(pshm_record_lock_new(s, 10000, 1, false, &none), PSHM_EBOUNDS);
    assert_rc(pshm_record_lock_new(s, 0, 10001, false, &none), PSHM_EBOUNDS);
    assert_rc(pshm_record_lock_new(s, UINT64_MAX, 2, false, &none), PSHM_EBOUNDS);
    assert_rc(pshm_record_lock_new(s, 0, 0, false, &none), PSHM_EZEROSIZE);
    assert_rc(pshm_record_lock_new(s, 10000, PSHM_UNSET, false, &none), PSHM_EZEROSIZE);
    assert_int_not_equal(pshm_record_lock_new(s, 20000, PSHM_UNSET, false, &none), 0);
    assert_null(none);
    helper_end_unlink(s);
}

/* Others meet it at the window's offset in the file. */
static int plain_fcntl(const pshm_segment *s, short type, off_t start, off_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", s->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = size};
    int rc = fcntl(fd, F_OFD_SETLK, &lock) ? errno : 0;
    close(fd);
    return rc;
}

static void test_foreign_locks(void **state)
{
    (void)state;
    pshm_segment *whole = fresh();
    pshm_options options = PSHM_OPTIONS_INIT;
    options.offset = 5000;
    options.size = 1000;
    pshm_segment *s = helper_segment(whole->address, &options);
    pshm_record_lock *lock = lock_on(s, 100, 10, false);
    assert_rc(pshm_record_lock_try(lock), 0);
    assert_int_equal(plain_fcntl(s, F_WRLCK, 5100, 1), EAGAIN);
    assert_int_equal(plain_fcntl(s, F_RDLCK, 5109, 1), EAGAIN);
    assert_int_equal(plain_fcntl(s, F_WRLCK, 5099, 1), 0);
    assert_int_equal(plain_fcntl(s, F_WRLCK, 5110, 1), 0);
    pshm_record_lock_free(lock);
    assert_int_equal(plain_fcntl(s, F_WRLCK, 5100, 1), 0);
    helper_end(s);
    helper_end_unlink(whole);
}

static void test_rights(void **state)
{
    (void)state;
    pshm_segment *whole = fresh();
    pshm_options options = PSHM_OPTIONS_INIT;
    options.access = PSHM_ACCESS_R;
    pshm_segment *s = helper_segment(whole->address, &options);
    pshm_record_lock *lock = NULL;
    assert_rc(pshm_record_lock_new(s, 0, 10, false, &lock), PSHM_EREADONLY);
    lock = lock_on(s, 0, 10, true);
    assert_rc(pshm_record_lock_try(lock), 0);
    pshm_record_lock_free(lock);
    helper_end(s);
    helper_end_unlink(whole);
}

static int64_t now(void)
{
    return pshm_deadline(0);
}

static void test_waits(void **state)
{
    (void)state;
    pshm_segment *s = fresh();
    pshm_record_lock *a = lock_on(s, 0, 10, false), *b = lock_on(s, 0, 10, false);
    assert_rc(pshm_record_lock_acquire(a, 0), 0); /* a deadline that is over does not matter where it is free */
    assert_rc(pshm_record_lock_acquire(b, 0), -ETIMEDOUT);
    int64_t start = now();
    assert_rc(pshm_record_lock_acquire(b, start + 30000000), -ETIMEDOUT);
    assert_in_range(now() - start, 30000000, SECOND);
    start = now();
    assert_rc(pshm_record_lock_acquire(b, PSHM_FOREVER), -EINTR);
    assert_in_range(now() - start, PSHM_SLICE_NS / 2, SECOND);
    assert_rc(pshm_record_lock_release(a), 0);
    assert_rc(pshm_record_lock_acquire(b, PSHM_FOREVER), 0);
    pshm_record_lock_free(a);
    pshm_record_lock_free(b);
    helper_end_unlink(s);
}

static int acquire_in_child(void *context)
{
    pshm_record_lock *lock = NULL;
    CHECK(pshm_record_lock_new(context, 0, 10, false, &lock) == 0);
    int rc;
    do
        rc = pshm_record_lock_acquire(lock, pshm_deadline(20 * SECOND));
    while (rc == -EINTR);
    CHECK(rc == 0);
    return 0; /* and ends with it held */
}

static int hold_for_ever(void *context)
{
    pshm_record_lock *lock = NULL;
    CHECK(pshm_record_lock_new(context, 0, 10, false, &lock) == 0);
    CHECK(pshm_record_lock_try(lock) == 0);
    for (;;)
        pause();
}

static void test_processes(void **state)
{
    (void)state;
    pshm_segment *s = fresh();
    pshm_record_lock *lock = lock_on(s, 0, 10, false);
    assert_rc(pshm_record_lock_try(lock), 0);
    pid_t waiter = helper_fork(acquire_in_child, s);
    helper_until_asleep(waiter);
    assert_rc(pshm_record_lock_release(lock), 0);
    assert_int_equal(helper_wait(waiter), 0);
    assert_rc(pshm_record_lock_try(lock), 0); /* which the other's end released */
    assert_rc(pshm_record_lock_release(lock), 0);
    pid_t holder = helper_fork(hold_for_ever, s);
    while (pshm_record_lock_locked(lock) == 0)
        usleep(1000);
    assert_rc(pshm_record_lock_try(lock), -EBUSY);
    kill(holder, SIGKILL);
    helper_wait(holder);
    assert_rc(pshm_record_lock_try(lock), 0);
    pshm_record_lock_free(lock);
    helper_end_unlink(s);
}

/* The lock of the parent stays the parent's: the child has it not, is kept out, and does not keep it alive. */
static struct forked {
    pshm_segment *segment;
    pshm_record_lock *lock;
    int ready[2];
} forked;

static int try_inherited(void *context)
{
    char byte;
    (void)context;
    CHECK(pshm_record_lock_release(forked.lock) == PSHM_ENOTOWNER);
    CHECK(pshm_record_lock_locked(forked.lock) == 1);
    CHECK(pshm_record_lock_try(forked.lock) == -EBUSY);
    CHECK(read(forked.ready[0], &byte, 1) == 1); /* now the parent has freed its own */
    CHECK(pshm_record_lock_try(forked.lock) == 0);
    CHECK(pshm_record_lock_release(forked.lock) == 0);
    pshm_record_lock_free(forked.lock);
    return 0;
}

static void test_fork_while_holding(void **state)
{
    (void)state;
    forked.segment = fresh();
    forked.lock = lock_on(forked.segment, 0, 10, false);
    assert_int_equal(pipe2(forked.ready, O_CLOEXEC), 0);
    assert_rc(pshm_record_lock_try(forked.lock), 0);
    pid_t child = helper_fork(try_inherited, NULL);
    helper_until_asleep(child);
    pshm_record_lock_free(forked.lock); /* releases it, though the child lives */
    assert_int_equal(write(forked.ready[1], "x", 1), 1);
    assert_int_equal(helper_wait(child), 0);
    close(forked.ready[0]);
    close(forked.ready[1]);
    helper_end_unlink(forked.segment);
}

static void test_closed_segment(void **state)
{
    (void)state;
    pshm_segment *s = fresh();
    char address[64];
    strcpy(address, s->address);
    pshm_record_lock *held = lock_on(s, 0, 10, false), *idle = lock_on(s, 20, 10, false), *late = NULL;
    assert_rc(pshm_record_lock_try(held), 0);
    pshm_segment_close(s);
    assert_rc(pshm_record_lock_new(s, 0, 10, false, &late), PSHM_ECLOSED);
    assert_rc(pshm_record_lock_try(idle), PSHM_ECLOSED);
    assert_rc(pshm_record_lock_acquire(idle, PSHM_FOREVER), PSHM_ECLOSED);
    assert_rc(pshm_record_lock_locked(held), PSHM_ECLOSED);
    pshm_segment *other = helper_segment(address, NULL);
    pshm_record_lock *third = lock_on(other, 0, 10, false);
    assert_rc(pshm_record_lock_try(third), -EBUSY); /* it goes on */
    assert_rc(pshm_record_lock_release(held), 0);
    assert_rc(pshm_record_lock_try(third), 0);
    pshm_record_lock_free(third);
    pshm_segment_release(s);
    pshm_record_lock_free(held); /* the last to know the struct */
    pshm_record_lock_free(idle);
    helper_end_unlink(other);
}

static int lock_without_descriptors(void *context)
{
    struct rlimit few = {3, 3};
    pshm_record_lock *lock = NULL;
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    CHECK(pshm_record_lock_new(context, 0, 10, false, &lock) == -EMFILE);
    CHECK(lock == NULL);
    return 0;
}

static void test_no_descriptors(void **state)
{
    (void)state;
    if (helper_valgrind_lacks("limits on descriptors"))
        return;
    pshm_segment *s = fresh();
    helper_in_child(lock_without_descriptors, s);
    helper_end_unlink(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_every_kind),     TEST(test_shared_and_exclusive),
        TEST(test_ranges),         TEST(test_foreign_locks),
        TEST(test_rights),         TEST(test_waits),
        TEST(test_processes),      TEST(test_fork_while_holding),
        TEST(test_closed_segment), TEST(test_no_descriptors),
    };
    return cmocka_run_group_tests_name("record lock", tests, NULL, NULL);
}
