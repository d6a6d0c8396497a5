/* SPDX-License-Identifier: MIT */
#include "helper.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <polyshm/atomic.h>

static pshm_segment *words(void)
{
    pshm_options options = helper_sized(PAGE);
    return helper_segment("anon:", &options);
}

static void test_types(void **state)
{
    pshm_word word;
    (void)state;
#define X(name, token, ctype)                                                                                          \
    assert_rc(pshm_word_parse(token, 3, &word), 0);                                                                    \
    assert_int_equal(word, PSHM_WORD_##name);                                                                          \
    assert_int_equal(pshm_word_size(word), sizeof(ctype));
    PSHM_WORD_MAP(X)
#undef X
    static const char *const bads[] = {"", "i", "i8", "u16", "f64", "<i32", "i322", "I32"};
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++)
        assert_rc(pshm_word_parse(bads[i], strlen(bads[i]), &word), PSHM_ETYPE);
    assert_rc(pshm_word_parse("i32", 2, &word), PSHM_ETYPE);
}

static void test_places(void **state)
{
    (void)state;
    pshm_segment *s = words();
    assert_rc(pshm_atomic_check(s, PSHM_WORD_U32, 0), 0);
    assert_rc(pshm_atomic_check(s, PSHM_WORD_I32, PAGE - 4), 0);
    assert_rc(pshm_atomic_check(s, PSHM_WORD_U64, PAGE - 8), 0);
    assert_rc(pshm_atomic_check(s, PSHM_WORD_I32, 4), 0);
    assert_rc(pshm_atomic_check(s, PSHM_WORD_I64, 4), PSHM_EALIGN);
    assert_rc(pshm_atomic_check(s, PSHM_WORD_U32, 2), PSHM_EALIGN);
    assert_rc(pshm_atomic_check(s, PSHM_WORD_U32, PAGE - 3), PSHM_EBOUNDS);
    assert_rc(pshm_atomic_check(s, PSHM_WORD_U64, PAGE - 4), PSHM_EBOUNDS);
    assert_rc(pshm_atomic_check(s, PSHM_WORD_U64, UINT64_MAX - 7), PSHM_EBOUNDS);
    assert_rc(pshm_segment_protect(s, PSHM_ACCESS_NONE, 0, PAGE), 0);
    assert_rc(pshm_atomic_check(s, PSHM_WORD_U32, 0), PSHM_ENOACCESS);
    pshm_segment_retain(s);
    helper_end(s);
    assert_rc(pshm_atomic_check(s, PSHM_WORD_U32, 0), PSHM_ECLOSED);
    assert_rc(pshm_atomic_wait(s, 0, 0, 0), PSHM_ECLOSED);
    assert_rc(pshm_atomic_notify(s, 0, 1), PSHM_ECLOSED);
    pshm_segment_release(s);
}

/* A window that begins at an odd place of the file: the address has to be aligned, not the offset. */
static void test_alignment_is_that_of_the_address(void **state)
{
    (void)state;
    const char *name = helper_posix();
    pshm_options options = helper_sized(PAGE);
    pshm_segment *whole = helper_segment(name, &options);
    options.offset = 6;
    options.size = 64;
    pshm_segment *s = helper_segment(name, &options);
    assert_rc(pshm_atomic_check(s, PSHM_WORD_U32, 0), PSHM_EALIGN);
    assert_rc(pshm_atomic_check(s, PSHM_WORD_U32, 2), 0);
    assert_rc(pshm_atomic_check(s, PSHM_WORD_U64, 2), 0);
    assert_rc(pshm_atomic_check(s, PSHM_WORD_U64, 6), PSHM_EALIGN);
    helper_end(s);
    helper_end_unlink(whole);
}

#define OPERATIONS(bits)                                                                                               \
    static void test_operations_##bits(void **state)                                                                   \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        const uint##bits##_t all = (uint##bits##_t) - 1;                                                               \
        pshm_segment *s = words();                                                                                     \
        void *at = s->base + 8;                                                                                        \
        uint##bits##_t expected;                                                                                       \
        assert_true(pshm_atomic_load##bits(at) == 0);                                                                  \
        pshm_atomic_store##bits(at, 5);                                                                                \
        assert_true(pshm_atomic_load##bits(at) == 5);                                                                  \
        assert_true(pshm_atomic_add##bits(at, 3) == 5);                                                                \
        assert_true(pshm_atomic_sub##bits(at, 9) == 8);                                                                \
        assert_true(pshm_atomic_load##bits(at) == all);                                                                \
        assert_true(pshm_atomic_add##bits(at, 2) == all);                                                              \
        assert_true(pshm_atomic_or##bits(at, 0xf0) == 1);                                                              \
        assert_true(pshm_atomic_and##bits(at, 0x31) == 0xf1);                                                          \
        assert_true(pshm_atomic_xor##bits(at, 0xff) == 0x31);                                                          \
        assert_true(pshm_atomic_exchange##bits(at, 7) == 0xce);                                                        \
        expected = 6;                                                                                                  \
        assert_false(pshm_atomic_compare_exchange##bits(at, &expected, 1));                                            \
        assert_true(expected == 7 && pshm_atomic_load##bits(at) == 7);                                                 \
        assert_true(pshm_atomic_compare_exchange##bits(at, &expected, all));                                           \
        assert_true(expected == 7 && pshm_atomic_load##bits(at) == all);                                               \
        /* Nothing around it was touched. */                                                                           \
        for (int i = 0; i < 32; i++)                                                                                   \
            if (i < 8 || i >= 8 + bits / 8)                                                                            \
                assert_int_equal(s->base[i], 0);                                                                       \
        helper_end(s);                                                                                                 \
    }

OPERATIONS(32)
OPERATIONS(64)

#define ROUNDS 20000

static int add_many(void *context)
{
    pshm_segment *s = context;
    for (int i = 0; i < ROUNDS; i++) {
        pshm_atomic_add32(s->base, 1);
        pshm_atomic_sub64(s->base + 8, 1);
    }
    return 0;
}

static void *add_many_in_thread(void *context)
{
    add_many(context);
    return NULL;
}

static void test_processes_and_threads(void **state)
{
    (void)state;
    pshm_segment *s = words();
    pthread_t thread;
    pid_t child = helper_fork(add_many, s);
    assert_int_equal(pthread_create(&thread, NULL, add_many_in_thread, s), 0);
    add_many(s);
    pthread_join(thread, NULL);
    assert_int_equal(helper_wait(child), 0);
    assert_int_equal(pshm_atomic_load32(s->base), 3 * ROUNDS);
    assert_true((int64_t)pshm_atomic_load64(s->base + 8) == -3 * ROUNDS);
    helper_end(s);
}

static int64_t now(void)
{
    return pshm_deadline(0);
}

static void test_wait_that_needs_none_or_is_too_long(void **state)
{
    (void)state;
    pshm_segment *s = words();
    assert_rc(pshm_atomic_wait(s, 0, 1, PSHM_FOREVER), 0);
    assert_rc(pshm_atomic_wait(s, 0, 0, 0), -ETIMEDOUT);
    assert_rc(pshm_atomic_wait(s, 2, 0, 0), PSHM_EALIGN);
    assert_rc(pshm_atomic_wait(s, PAGE, 0, 0), PSHM_EBOUNDS);
    int64_t start = now();
    assert_rc(pshm_atomic_wait(s, 0, 0, start + 30000000), -ETIMEDOUT);
    assert_true(now() - start >= 30000000);
    /* A slice ends, whatever the deadline. */
    start = now();
    assert_rc(pshm_atomic_wait(s, 0, 0, PSHM_FOREVER), -EINTR);
    assert_in_range(now() - start, PSHM_SLICE_NS / 2, 20 * PSHM_SLICE_NS);
    assert_rc(pshm_atomic_notify(s, 0, 1), 0);
    assert_rc(pshm_atomic_notify(s, 1, 1), PSHM_EALIGN);
    helper_end(s);
}

static int wait_for_change(void *context)
{
    pshm_segment *s = context;
    int64_t deadline = pshm_deadline(20 * SECOND);
    int rc;
    do
        rc = pshm_atomic_wait(s, 0, 0, deadline);
    while (rc == -EINTR);
    return rc != 0;
}

static void test_notify_wakes_as_many_as_it_says(void **state)
{
    (void)state;
    pshm_segment *s = words();
    pid_t waiters[3];
    for (int i = 0; i < 3; i++)
        waiters[i] = helper_fork(wait_for_change, s);
    for (int i = 0; i < 3; i++)
        helper_until_asleep(waiters[i]);
    /* Somebody may be between two slices: ask until all three were seen asleep at once. */
    int woken = 0;
    for (int i = 0; i < 100 && woken < 3; i++) {
        woken = 0;
        for (int one; woken < 3 && (one = pshm_atomic_notify(s, 0, 1)) == 1;)
            woken++;
        usleep(2000);
    }
    assert_int_equal(woken, 3);
    pshm_atomic_store32(s->base, 1);
    int rc = pshm_atomic_notify(s, 0, INT32_MAX);
    assert_in_range(rc, 0, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(helper_wait(waiters[i]), 0);
    helper_end(s);
}

static void on_signal(int number)
{
    (void)number;
}

static void test_signal_ends_a_slice(void **state)
{
    (void)state;
    pshm_segment *s = words();
    struct sigaction action = {.sa_handler = on_signal}; /* for good: one may still be on its way at the end */
    sigaction(SIGALRM, &action, NULL);
    ualarm(20000, 0);
    int64_t start = now();
    assert_rc(pshm_atomic_wait(s, 0, 0, PSHM_FOREVER), -EINTR);
    assert_true(now() - start < 20 * PSHM_SLICE_NS);
    helper_end(s);
}

/* A waiter that may only read. */
static void test_wait_on_read_only_memory(void **state)
{
    (void)state;
    const char *name = helper_posix();
    pshm_options options = helper_sized(PAGE);
    pshm_segment *s = helper_segment(name, &options);
    options = (pshm_options)PSHM_OPTIONS_INIT;
    options.access = PSHM_ACCESS_R;
    pshm_segment *reader = helper_segment(name, &options);
    pid_t child = helper_fork(wait_for_change, reader);
    helper_until_asleep(child);
    pshm_atomic_store32(s->base, 9);
    assert_in_range(pshm_atomic_notify(s, 0, 1), 0, 1);
    assert_int_equal(helper_wait(child), 0);
    helper_end(reader);
    helper_end_unlink(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_types),
        TEST(test_places),
        TEST(test_alignment_is_that_of_the_address),
        TEST(test_operations_32),
        TEST(test_operations_64),
        TEST(test_processes_and_threads),
        TEST(test_wait_that_needs_none_or_is_too_long),
        TEST(test_notify_wakes_as_many_as_it_says),
        TEST(test_signal_ends_a_slice),
        TEST(test_wait_on_read_only_memory),
    };
    return cmocka_run_group_tests_name("atomic", tests, NULL, NULL);
}
