/* SPDX-License-Identifier: MIT
 *
 * Creating where others create, open, remove and die at the same time, and in systems that are full: each of those in
 * namespaces of its own.
 */
#include "helper.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEY "sysv:0x7c5a1e04"
#define ROUNDS 2000
#define SIZE (3 * PAGE + 17)

static const char *raced;

/* Two that do the same at the same time. */
static struct race {
    pthread_barrier_t barrier;
    volatile uint32_t created[2];
} * race;

static void racer(int me, bool exclusive)
{
    pshm_options options = helper_sized(SIZE);
    options.exclusive = exclusive;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        pshm_segment *s = NULL;
        pthread_barrier_wait(&race->barrier);
        int rc = helper_open(raced, &options, &s);
        if (!exclusive || rc != -EEXIST) {
            CHECK(rc == 0 && s->size == SIZE);
            if (s->created)
                race->created[me]++;
            s->base[SIZE - 1]++;
        }
        pthread_barrier_wait(&race->barrier);
        if (me == 0)
            CHECK(pshm_unlink(raced, strlen(raced)) == 0);
        if (rc == 0)
            helper_end(s);
        pthread_barrier_wait(&race->barrier);
    }
}

static int second_racer(void *context)
{
    racer(1, *(bool *)context);
    return 0;
}

/* Of two that create at once, one does; the other opens what is whole, or is told that it exists. */
static void run_race(const char *name)
{
    for (int exclusive = 0; exclusive < 2; exclusive++) {
        bool option = exclusive;
        raced = name;
        race = helper_memory(sizeof *race);
        pthread_barrierattr_t attributes;
        pthread_barrierattr_init(&attributes);
        pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        pthread_barrier_init(&race->barrier, &attributes, 2);
        pthread_barrierattr_destroy(&attributes);
        pid_t other = helper_fork(second_racer, &option);
        racer(0, option);
        assert_int_equal(helper_wait(other), 0);
        assert_int_equal(race->created[0] + race->created[1], ROUNDS);
        pthread_barrier_destroy(&race->barrier);
        helper_memory_end(race, sizeof *race);
    }
}

static void test_two_creators(void **state)
{
    (void)state;
    run_race(helper_posix());
    run_race(helper_file());
    run_race(KEY);
}

static int make_and_remove(void *context)
{
    pshm_options options = helper_sized(SIZE);
    for (int i = 0; i < 10000; i++) {
        pshm_segment *s = NULL;
        int rc = helper_open(context, &options, &s);
        if (rc)
            fprintf(stderr, "%s: %s\n", (const char *)context, pshm_error_name(rc));
        CHECK(rc == 0 && s->size == SIZE);
        rc = pshm_segment_unlink(s);
        CHECK(rc == 0 || rc == -ENOENT || rc == -EIDRM || rc == -EINVAL);
        helper_end(s);
    }
    return 0;
}

/* Who creates or opens always gets one of the two, however often somebody takes the name away. */
static void test_create_or_open_while_others_remove(void **state)
{
    char names[3][64] = {"", "", KEY};
    (void)state;
    strcpy(names[0], helper_posix());
    strcpy(names[1], helper_file());
    for (int k = 0; k < 3; k++) {
        pid_t other = helper_fork(make_and_remove, names[k]);
        int mine = helper_wait(helper_fork(make_and_remove, names[k])), theirs = helper_wait(other);
        pshm_unlink(names[k], strlen(names[k]));
        assert_int_equal(mine, 0);
        assert_int_equal(theirs, 0);
    }
}

/* One creates and removes all the time; who opens sees nothing or all of it, with its mode and its size. */
static int create_for_ever(void *context)
{
    pshm_options options = helper_sized(SIZE);
    options.mode = 0640;
    for (;;) {
        pshm_segment *s = NULL;
        CHECK(helper_open(context, &options, &s) == 0);
        CHECK(s->created);
        helper_end_unlink(s);
    }
}

static void open_all_the_time(const char *name)
{
    unsigned seen = 0;
    pid_t creator = helper_fork(create_for_ever, (void *)(uintptr_t)name);
    for (int i = 0; i < 20000 || (!seen && i < 200000); i++) {
        pshm_segment *s = NULL;
        pshm_stat st;
        int rc = helper_open(name, NULL, &s);
        if (rc == -ENOENT || rc == -EIDRM)
            continue;
        assert_rc(rc, 0);
        seen++;
        assert_int_equal(s->size, SIZE);
        assert_rc(pshm_segment_stat(s, &st), 0);
        assert_int_equal(st.mode, 0640);
        assert_int_equal(st.size, SIZE);
        s->base[SIZE - 1] = 1; /* which is there */
        assert_int_equal(s->lost, 0);
        helper_end(s);
    }
    kill(creator, SIGKILL);
    helper_wait(creator);
    int rc = pshm_unlink(name, strlen(name)); /* it died as it liked */
    assert_true(rc == 0 || rc == -ENOENT);
    assert_true(seen > 0);
}

static void test_no_half_made_object_is_seen(void **state)
{
    (void)state;
    open_all_the_time(helper_posix());
    open_all_the_time(helper_file());
    open_all_the_time(KEY);
}

/* Killed at any moment, a creator leaves a whole object or none. (With a larger one it is nearly always at it.) */
static void test_killed_creator(void **state)
{
    (void)state;
    char names[2][64];
    strcpy(names[0], helper_posix());
    strcpy(names[1], helper_file());
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < 150; i++) {
            pid_t creator = helper_fork(create_for_ever, names[k]);
            usleep((useconds_t)(rand() % 3000));
            kill(creator, SIGKILL);
            helper_wait(creator);
            pshm_segment *s = NULL;
            int rc = helper_open(names[k], NULL, &s);
            if (rc == -ENOENT)
                continue;
            assert_rc(rc, 0);
            assert_int_equal(s->size, SIZE);
            helper_end_unlink(s);
        }
    }
}

/* What fails on the way leaves no name behind. */
static void test_failed_creation(void **state)
{
    char names[2][64];
    (void)state;
    strcpy(names[0], helper_posix());
    strcpy(names[1], helper_file());
    for (int k = 0; k < 2; k++) {
        pshm_segment *s = NULL;
        pshm_options options = helper_sized(PAGE);
        options.at = (uint64_t)(uintptr_t)&names & ~(PAGE - 1); /* the stack lies there */
        assert_rc(helper_open(names[k], &options, &s), -EEXIST);
        assert_rc(pshm_exists(names[k], strlen(names[k])), 0);
    }
    pshm_segment *s = NULL;
    pshm_options options = helper_sized(PAGE);
    options.at = (uint64_t)(uintptr_t)&names & ~(PAGE - 1);
    assert_rc(helper_open(KEY, &options, &s), -EINVAL);
    assert_rc(pshm_exists(KEY, strlen(KEY)), 0);
}

static int use_full_shm(void *context)
{
    pshm_segment *s = NULL, *small = NULL;
    struct statfs fs;
    (void)context;
    helper_sigbus();
    if (helper_unshare(CLONE_NEWNS) || mount("none", "/dev/shm", "tmpfs", 0, "size=1M"))
        return HELPER_NOT_ALLOWED;
    CHECK(statfs("/dev/shm", &fs) == 0 && (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize == 1 << 20);
    pshm_options options = helper_sized(2 << 20);
    CHECK(helper_open("posix:/polyshm-c-big", &options, &s) == -ENOSPC);
    CHECK(pshm_exists("posix:/polyshm-c-big", 20) == 0);
    CHECK(statfs("/dev/shm", &fs) == 0 && fs.f_bfree == fs.f_blocks); /* nothing of it is left */
    options.size = 512 << 10;
    CHECK(helper_open("posix:/polyshm-c-half", &options, &small) == 0);
    /* Neither does growing beyond it leave anything. */
    CHECK(pshm_segment_resize(small, 2 << 20) == -ENOSPC);
    CHECK(small->size == 512 << 10);
    pshm_stat st;
    CHECK(pshm_segment_stat(small, &st) == 0 && st.size == 512 << 10 && st.allocated == 512 << 10);
    memset(small->base, 1, small->size);
    /* Unreserved, it is made, and is lost when it is touched. */
    options.size = 2 << 20;
    options.reserve = 0;
    CHECK(helper_open("posix:/polyshm-c-big", &options, &s) == 0);
    CHECK(pshm_segment_fill(s, 1, 0, 2 << 20) == PSHM_ELOST);
    CHECK(s->lost);
    helper_end(s);
    helper_end(small);
    return 0;
}

static void test_full_dev_shm(void **state)
{
    (void)state;
    helper_in_namespace(use_full_shm, "no mount namespace of its own");
}

static int exhaust_ids(void *context)
{
    pshm_segment *s[3] = {NULL};
    (void)context;
    if (helper_unshare(CLONE_NEWIPC))
        return HELPER_NOT_ALLOWED;
    FILE *limit = fopen("/proc/sys/kernel/shmmni", "w");
    if (!limit || fprintf(limit, "2\n") < 0 || fclose(limit))
        return HELPER_NOT_ALLOWED;
    pshm_options options = helper_sized(PAGE);
    CHECK(helper_open("sysv:private", &options, &s[0]) == 0);
    CHECK(helper_open(KEY, &options, &s[1]) == 0);
    CHECK(helper_open("sysv:private", &options, &s[2]) == -ENOSPC);
    CHECK(helper_open("sysv:0x7c5a1e05", &options, &s[2]) == -ENOSPC);
    CHECK(pshm_segment_unlink(s[0]) == 0);
    helper_end(s[0]);
    CHECK(helper_open("sysv:private", &options, &s[2]) == 0);
    CHECK(pshm_segment_unlink(s[1]) == 0 && pshm_segment_unlink(s[2]) == 0);
    helper_end(s[1]);
    helper_end(s[2]);
    return 0;
}

static void test_exhausted_ids(void **state)
{
    (void)state;
    helper_in_namespace(exhaust_ids, "no IPC namespace of its own");
}

static int use_without_shm(void *context)
{
    pshm_segment *s = NULL;
    pshm_stat *all = NULL;
    size_t count = 9;
    (void)context;
    if (helper_unshare(CLONE_NEWNS) || mount("none", "/dev", "tmpfs", 0, "size=1M"))
        return HELPER_NOT_ALLOWED;
    pshm_options options = helper_sized(PAGE);
    CHECK(helper_open("posix:/polyshm-c-x", &options, &s) == -ENOENT);
    CHECK(helper_open("zero:", &options, &s) == -ENOENT);
    CHECK(pshm_list(&all, &count) == 0); /* there are none */
    pshm_list_free(all);
    return 0;
}

static void test_no_dev_shm(void **state)
{
    (void)state;
    helper_in_namespace(use_without_shm, "no mount namespace of its own");
}

/* A file system without O_TMPFILE: a name that nobody knows first, and that one is gone afterwards. */
static int create_without_tmpfile(void *context)
{
    pshm_segment *s = NULL, *other = NULL;
    char output[256] = "";
    (void)context;
    CHECK(mkdir("/tmp/polyshm-c-overlay", 0700) == 0 || errno == EEXIST);
    if (helper_unshare(CLONE_NEWNS) || mount("none", "/tmp/polyshm-c-overlay", "ramfs", 0, ""))
        return HELPER_NOT_ALLOWED;
    pshm_options options = helper_sized(SIZE);
    options.mode = 0644;
    options.exclusive = true;
    CHECK(helper_open("file:/tmp/polyshm-c-overlay/x", &options, &s) == 0);
    CHECK(s->created && s->size == SIZE);
    CHECK(helper_open("file:/tmp/polyshm-c-overlay/x", &options, &other) == -EEXIST);
    helper_run(output, sizeof output, "/bin/ls", "-A", "/tmp/polyshm-c-overlay", NULL);
    CHECK(strcmp(output, "x\n") == 0);
    helper_end_unlink(s);
    return 0;
}

static void test_without_tmpfile(void **state)
{
    (void)state;
    int code = helper_wait(helper_fork(create_without_tmpfile, NULL));
    rmdir("/tmp/polyshm-c-overlay");
    if (code == HELPER_NOT_ALLOWED) {
        print_message("skipped: no mount namespace of its own\n");
        skip();
    }
    assert_int_equal(code, 0);
}

static int open_with_few_descriptors(void *context)
{
    struct rlimit few = {3, 3};
    pshm_segment *s = NULL;
    pshm_options options = helper_sized(PAGE);
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    CHECK(helper_open(context, &options, &s) == -EMFILE);
    CHECK(helper_open("memfd:m", &options, &s) == -EMFILE);
    return 0;
}

static int lock_without_permission(void *context)
{
    struct rlimit none = {0, 0};
    pshm_segment *s = NULL;
    pshm_options options = helper_sized(PAGE);
    CHECK(setrlimit(RLIMIT_MEMLOCK, &none) == 0);
    CHECK(geteuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0));
    options.locked = true;
    if (helper_mlock_works())
        CHECK(helper_open("anon:", &options, &s) == -EPERM);
    options.locked = false;
    CHECK(helper_open("anon:", &options, &s) == 0);
    if (helper_mlock_works())
        CHECK(pshm_segment_pin(s, 0, PAGE, false) == -EPERM);
    if (!helper_valgrind_lacks("mlock2(2)"))
        CHECK(pshm_segment_pin(s, 0, PAGE, true) == -EPERM);
    helper_end(s);
    (void)context;
    return 0;
}

static void test_limits(void **state)
{
    (void)state;
    if (!helper_valgrind_lacks("limits on descriptors"))
        helper_in_child(open_with_few_descriptors, (void *)(uintptr_t)helper_posix());
    helper_in_child(lock_without_permission, NULL);
}

/* A signal every millisecond does not keep a large reservation from its end. */
static void on_signal(int number)
{
    (void)number;
}

static void test_signals_during_reservation(void **state)
{
    (void)state;
    struct sigaction action = {.sa_handler = on_signal}; /* for good: one may still be on its way at the end */
    sigaction(SIGALRM, &action, NULL);
    ualarm(1000, 1000);
    pshm_options options = helper_sized(200 << 20);
    pshm_segment *s = NULL;
    int rc = helper_open(helper_posix(), &options, &s);
    ualarm(0, 0);
    if (rc == -ENOMEM || rc == -ENOSPC) {
        print_message("skipped: less than 200 MiB of memory\n");
        skip();
    }
    assert_rc(rc, 0);
    helper_end_unlink(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_two_creators),
        TEST(test_no_half_made_object_is_seen),
        TEST(test_create_or_open_while_others_remove),
        TEST(test_killed_creator),
        TEST(test_failed_creation),
        TEST(test_full_dev_shm),
        TEST(test_exhausted_ids),
        TEST(test_no_dev_shm),
        TEST(test_without_tmpfile),
        TEST(test_limits),
        TEST(test_signals_during_reservation),
    };
    return cmocka_run_group_tests_name("creation", tests, NULL, NULL);
}
