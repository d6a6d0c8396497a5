/* SPDX-License-Identifier: MIT
 *
 * Files cut short under their mappings: no access of ours ends in SIGBUS.
 *
 * Under valgrind too, if that is told to keep all registers right at each access
 * (--vex-iropt-register-updates=allregs-at-mem-access): the handler returns into the middle of a copy.
 */
#include "helper.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <polyshm/atomic.h>
#include <polyshm/mutex.h>
#include <polyshm/record_lock.h>

static pshm_segment *of_pages(uint64_t pages)
{
    pshm_options options = helper_sized(pages * PAGE);
    helper_sigbus();
    pshm_segment *s = helper_segment(helper_file(), &options);
    memset(s->base, 'a', s->size);
    return s;
}

static void cut(const pshm_segment *s, uint64_t size)
{
    assert_int_equal(ftruncate(s->fd, (off_t)size), 0);
}

static void test_read_and_write(void **state)
{
    (void)state;
    unsigned char bytes[3 * PAGE];
    pshm_segment *s = of_pages(3);
    cut(s, PAGE);
    assert_int_equal(s->lost, 0);
    assert_rc(pshm_segment_read(s, 0, bytes, PAGE), 0); /* what is there is there */
    assert_rc(pshm_segment_verify(s), 0);
    memset(bytes, 'x', sizeof bytes);
    assert_rc(pshm_segment_read(s, 0, bytes, sizeof bytes), PSHM_ELOST);
    assert_int_equal(s->lost, 1);
    assert_int_equal(bytes[PAGE - 1], 'a');
    for (uint64_t i = PAGE; i < sizeof bytes; i++)
        assert_int_equal(bytes[i], 0);
    assert_rc(pshm_segment_verify(s), PSHM_ELOST);
    assert_rc(pshm_segment_write(s, 2 * PAGE, "x", 1), PSHM_ELOST);
    assert_rc(pshm_segment_read(s, 0, bytes, 1), PSHM_ELOST); /* and stays so */
    assert_rc(pshm_segment_resize(s, 2 * PAGE), PSHM_ELOST);
    helper_end_unlink(s);
}

typedef int operation(pshm_segment *s);

static int do_write(pshm_segment *s)
{
    return pshm_segment_write(s, PAGE - 1, "xyz", 3);
}

static int do_fill(pshm_segment *s)
{
    return pshm_segment_fill(s, 1, 0, s->size);
}

static int do_copy(pshm_segment *s)
{
    return pshm_segment_copy(s, 0, PAGE, PAGE);
}

static int do_copy_there(pshm_segment *s)
{
    return pshm_segment_copy(s, PAGE, 0, PAGE);
}

static int do_find(pshm_segment *s)
{
    int64_t at;
    return pshm_segment_find(s, "b", 1, 0, s->size, &at);
}

static int do_add(pshm_segment *s)
{
    pshm_atomic_add32(s->base + PAGE, 1);
    return pshm_segment_verify(s);
}

static int do_load(pshm_segment *s)
{
    assert_true(pshm_atomic_load64(s->base + PAGE) == 0);
    return pshm_segment_verify(s);
}

static int do_wait(pshm_segment *s)
{
    return pshm_atomic_wait(s, PAGE, 0, pshm_deadline(SECOND));
}

static int do_notify(pshm_segment *s)
{
    return pshm_atomic_notify(s, PAGE, 1);
}

static int do_mutex(pshm_segment *s)
{
    pshm_segment_mutex mutex;
    int rc = pshm_segment_mutex_init(&mutex, s, PAGE, false, PSHM_RECURSIVE_ANY);
    assert_rc(rc, PSHM_ELOST);
    return rc;
}

/* Each operation meets the cut first. */
static void test_every_operation(void **state)
{
    static operation *const operations[] = {do_write, do_fill, do_copy, do_copy_there, do_find,
                                            do_add,   do_load, do_wait, do_notify,     do_mutex};
    (void)state;
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        pshm_segment *s = of_pages(2);
        cut(s, PAGE);
        assert_rc(operations[i](s), PSHM_ELOST);
        assert_int_equal(s->lost, 1);
        helper_end_unlink(s);
    }
}

static void test_posix_and_other_handles(void **state)
{
    (void)state;
    helper_sigbus();
    const char *name = helper_posix();
    pshm_options options = helper_sized(4 * PAGE);
    pshm_segment *s = helper_segment(name, &options), *other = helper_segment(name, NULL);
    volatile char byte; /* what nobody looks at is not read */
    assert_rc(pshm_segment_resize(s, PAGE), 0);
    assert_rc(pshm_segment_read(other, 3 * PAGE, (void *)(uintptr_t)&byte, 1), PSHM_ELOST);
    assert_int_equal(byte, 0);
    assert_int_equal(s->lost, 0); /* a handle of its own */
    assert_rc(pshm_segment_read(s, 0, (void *)(uintptr_t)&byte, 1), 0);
    helper_end(other);
    helper_end_unlink(s);
}

/* A cut inside a page raises no signal: the rest of the page reads as zeros. A limit of the kernel's, documented. */
static void test_cut_inside_a_page(void **state)
{
    (void)state;
    unsigned char bytes[PAGE];
    pshm_segment *s = of_pages(1);
    cut(s, 100);
    assert_rc(pshm_segment_read(s, 0, bytes, PAGE), 0);
    assert_int_equal(bytes[99], 'a');
    assert_int_equal(bytes[100], 0);
    assert_int_equal(s->lost, 0);
    helper_end_unlink(s);
}

static void test_copy_on_write(void **state)
{
    (void)state;
    pshm_segment *whole = of_pages(3);
    pshm_options options = PSHM_OPTIONS_INIT;
    options.access = PSHM_ACCESS_COPY;
    pshm_segment *s = helper_segment(whole->address, &options);
    cut(whole, PAGE);
    assert_rc(pshm_segment_write(s, 0, "b", 1), 0);
    assert_rc(pshm_segment_write(s, 2 * PAGE, "b", 1), PSHM_ELOST);
    helper_end(s);
    helper_end_unlink(whole);
}

static void test_held_mutex(void **state)
{
    (void)state;
    pshm_segment_mutex mutex, second;
    pshm_death death;
    uint32_t pid;
    pshm_segment *s = of_pages(2);
    assert_rc(pshm_segment_mutex_init(&mutex, s, PAGE, true, PSHM_RECURSIVE_NO), 0);
    assert_rc(pshm_segment_mutex_init(&second, s, PAGE, false, PSHM_RECURSIVE_ANY), 0);
    cut(s, PAGE);
    assert_rc(pshm_segment_mutex_try(&mutex, &death), PSHM_ELOST);
    assert_rc(pshm_segment_mutex_acquire(&mutex, pshm_deadline(SECOND), &death), PSHM_ELOST);
    assert_rc(pshm_segment_mutex_recover(&mutex, pshm_deadline(SECOND), &death), PSHM_ELOST);
    assert_rc(pshm_segment_mutex_locked(&mutex), PSHM_ELOST);
    assert_rc(pshm_segment_mutex_owner(&mutex, &pid), PSHM_ELOST);
    pshm_segment_mutex_fini(&mutex);
    pshm_segment_mutex_fini(&second);
    helper_end_unlink(s);
}

/* Who holds it when it goes: the release says so, and the process goes on, to its end. */
static int hold_and_cut(void *context)
{
    pshm_segment *s = context;
    pshm_segment_mutex mutex;
    pshm_death death;
    CHECK(pshm_segment_mutex_init(&mutex, s, PAGE, true, PSHM_RECURSIVE_NO) == 0);
    CHECK(pshm_segment_mutex_try(&mutex, &death) == 0);
    CHECK(ftruncate(s->fd, PAGE) == 0);
    int rc = pshm_segment_mutex_consistent(&mutex);
    CHECK(rc == PSHM_ELOST || rc == PSHM_ENOTOWNER);
    rc = pshm_segment_mutex_release(&mutex);
    CHECK(rc == PSHM_ELOST || rc == PSHM_ENOTOWNER);
    pshm_segment_mutex_fini(&mutex);
    helper_end(s);
    return 0;
}

static void test_cut_while_held(void **state)
{
    (void)state;
    pshm_segment *s = of_pages(2);
    helper_in_child(hold_and_cut, s);
    helper_end_unlink(s);
}

static int wait_until_lost(void *context)
{
    pshm_segment *s = context;
    int rc;
    do
        rc = pshm_atomic_wait(s, PAGE, 0x61616161, pshm_deadline(20 * SECOND));
    while (rc == -EINTR);
    CHECK(rc == PSHM_ELOST);
    return 0;
}

static void test_cut_under_a_waiter(void **state)
{
    (void)state;
    pshm_segment *s = of_pages(2);
    pid_t waiter = helper_fork(wait_until_lost, s);
    helper_until_asleep(waiter);
    cut(s, PAGE);
    assert_int_equal(helper_wait(waiter), 0);
    helper_end_unlink(s);
}

static int wait_for_mutex_until_lost(void *context)
{
    pshm_segment *s = context;
    pshm_segment_mutex mutex;
    pshm_death death;
    int rc = pshm_segment_mutex_init(&mutex, s, PAGE, false, PSHM_RECURSIVE_ANY);
    CHECK(rc == 0);
    do
        rc = pshm_segment_mutex_acquire(&mutex, pshm_deadline(20 * SECOND), &death);
    while (rc == -EINTR);
    CHECK(rc == PSHM_ELOST);
    return 0;
}

/* Held by one, wanted by another: both are told, and neither is killed. */
static int hold_until_cut(void *context)
{
    pshm_segment *s = context;
    pshm_segment_mutex mutex;
    pshm_death death;
    CHECK(pshm_segment_mutex_init(&mutex, s, PAGE, true, PSHM_RECURSIVE_NO) == 0);
    CHECK(pshm_segment_mutex_try(&mutex, &death) == 0);
    pid_t waiter = helper_fork(wait_for_mutex_until_lost, s);
    helper_until_asleep(waiter);
    CHECK(ftruncate(s->fd, PAGE) == 0);
    CHECK(helper_wait(waiter) == 0);
    int rc = pshm_segment_mutex_release(&mutex);
    CHECK(rc == PSHM_ELOST || rc == PSHM_ENOTOWNER);
    pshm_segment_mutex_fini(&mutex);
    helper_end(s);
    return 0;
}

static void test_cut_under_a_held_mutex(void **state)
{
    (void)state;
    pshm_segment *s = of_pages(2);
    helper_in_child(hold_until_cut, s);
    helper_end_unlink(s);
}

/* Every thread at once, on handles that come and go. */
static void *read_all_the_time(void *context)
{
    unsigned *lost = context;
    for (int i = 0; i < 300; i++) {
        char name[64], bytes[100];
        pshm_options options = helper_sized(4 * PAGE);
        pshm_segment *s = NULL;
        snprintf(name, sizeof name, "memfd:%d", i);
        if (helper_open(name, &options, &s))
            return (void *)1;
        char address[32];
        int fd = memfd_create("cut", MFD_CLOEXEC);
        if (fd < 0 || ftruncate(fd, 4096 * 4))
            return (void *)2;
        pshm_segment *other = NULL;
        snprintf(address, sizeof address, "fd:%d", fd);
        if (helper_open(address, NULL, &other) || ftruncate(fd, 0))
            return (void *)3;
        if (pshm_segment_read(other, (unsigned)i % 4 * PAGE, bytes, 100) == PSHM_ELOST)
            ++*lost;
        if (pshm_segment_write(s, 0, bytes, 100) || s->lost)
            return (void *)4;
        helper_end(other);
        helper_end(s);
        close(fd);
    }
    return NULL;
}

static void test_threads(void **state)
{
    enum { THREADS = 4 };
    (void)state;
    pthread_t threads[THREADS];
    unsigned lost[THREADS] = {0};
    helper_sigbus();
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_all_the_time, &lost[i]), 0);
    for (int i = 0; i < THREADS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        assert_null(result);
        assert_int_equal(lost[i], 300);
    }
}

/* More mappings than the first block of the handler's table has room for. */
static void test_many_mappings(void **state)
{
    enum { MANY = 400 };
    static pshm_segment *all[MANY];
    (void)state;
    helper_sigbus();
    pshm_segment *whole = of_pages(2);
    for (int i = 0; i < MANY; i++)
        all[i] = helper_segment(whole->address, NULL);
    cut(whole, PAGE);
    for (int i = MANY - 1; i >= 0; i--) {
        volatile char byte;
        assert_rc(pshm_segment_read(all[i], PAGE, (void *)(uintptr_t)&byte, 1), PSHM_ELOST);
        assert_int_equal(byte, 0);
        assert_int_equal(i ? all[i - 1]->lost : 0, 0);
        helper_end(all[i]);
    }
    helper_end_unlink(whole);
}

/* What is not ours goes to who was there before, and kills where nobody was. */
static volatile sig_atomic_t foreign_faults;
static sigjmp_buf back;

static void foreign_handler(int number)
{
    (void)number;
    foreign_faults++;
    siglongjmp(back, 1);
}

static unsigned char *foreign_mapping(void)
{
    int fd = memfd_create("foreign", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)PAGE) == 0);
    unsigned char *p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED && ftruncate(fd, 0) == 0);
    close(fd);
    return p;
}

static int fault_on_foreign_memory(void *context)
{
    (void)context;
    helper_sigbus();
    return ((volatile unsigned char *)foreign_mapping())[0];
}

static int send_oneself_a_signal(void *context)
{
    (void)context;
    helper_sigbus();
    raise(SIGBUS);
    return 0;
}

/* A process that has had no mapping of ours: its handler is there first. */
static void exec_self(const char *what)
{
    execl("/proc/self/exe", "test_fault", what, (char *)NULL);
    _exit(9);
}

static int run_chained(void *context)
{
    (void)context;
    exec_self("chained");
    return 9;
}

static int run_off(void *context)
{
    (void)context;
    setenv("POLYSHM_SIGBUS", "off", 1);
    exec_self("off");
    return 9;
}

/* In a program started anew, before the first mapping of ours. */
static int chained(void)
{
    struct sigaction action = {.sa_handler = foreign_handler};
    pshm_segment *s = NULL;
    volatile char byte;
    pshm_options options = helper_sized(PAGE);
    CHECK(helper_open("posix:/polyshm-c-chained", &options, &s) == 0);
    CHECK(pshm_segment_unlink(s) == 0);
    /* The helper's constructor was first here: make room as if it had not been, and install through our own. */
    sigaction(SIGBUS, &action, NULL);
    if (sigsetjmp(back, 1) == 0) {
        byte = *(volatile char *)foreign_mapping();
    }
    CHECK(foreign_faults == 1);
    helper_sigbus();
    CHECK(ftruncate(s->fd, 0) == 0);
    CHECK(pshm_segment_read(s, 0, (void *)(uintptr_t)&byte, 1) == PSHM_ELOST);
    helper_end(s);
    return 0;
}

static int off(void)
{
    struct sigaction now;
    CHECK(sigaction(SIGBUS, NULL, &now) == 0 && now.sa_handler == SIG_DFL);
    return ((volatile unsigned char *)foreign_mapping())[0];
}

static void test_not_ours(void **state)
{
    (void)state;
    assert_int_equal(helper_wait(helper_fork(fault_on_foreign_memory, NULL)), 256 + SIGBUS);
    assert_int_equal(helper_wait(helper_fork(send_oneself_a_signal, NULL)), 256 + SIGBUS);
    if (helper_valgrind_lacks("/proc/self/exe for execve(2)"))
        return;
    assert_int_equal(helper_wait(helper_fork(run_chained, NULL)), 0);
    assert_int_equal(helper_wait(helper_fork(run_off, NULL)), 256 + SIGBUS);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_read_and_write),    TEST(test_every_operation),    TEST(test_posix_and_other_handles),
        TEST(test_cut_inside_a_page), TEST(test_copy_on_write),      TEST(test_held_mutex),
        TEST(test_cut_while_held),    TEST(test_cut_under_a_waiter), TEST(test_cut_under_a_held_mutex),
        TEST(test_threads),           TEST(test_many_mappings),      TEST(test_not_ours),
    };
    if (argc == 2)
        return strcmp(argv[1], "off") ? chained() : off();
    return cmocka_run_group_tests_name("fault", tests, NULL, NULL);
}
