/* SPDX-License-Identifier: MIT */
#include "helper.h"

#include <time.h>

static void test_table(void **state)
{
    (void)state;
#define X(name, number, class_, text)                                                                                  \
    assert_int_equal(PSHM_##name, number);                                                                             \
    assert_string_equal(pshm_error_name(number), #name);                                                               \
    assert_string_equal(pshm_error_text(number), text);                                                                \
    assert_int_equal(pshm_error_class(number), PSHM_CLASS_##class_);                                                   \
    assert_true(number <= -1000); /* far from every errno */
    PSHM_ERROR_MAP(X)
#undef X
}

static void test_errno(void **state)
{
    (void)state;
    assert_string_equal(pshm_error_name(-ENOENT), "ENOENT");
    assert_string_equal(pshm_error_name(-EOWNERDEAD), "EOWNERDEAD");
    assert_string_equal(pshm_error_text(-ENOENT), "No such file or directory");
    assert_int_equal(pshm_error_class(-ENOENT), PSHM_CLASS_OS);
    assert_int_equal(pshm_error_class(-ETIMEDOUT), PSHM_CLASS_OS);
}

static void test_what_is_no_code(void **state)
{
    static const int strangers[] = {1, 2, 1000, -999, -1006, -5000, INT32_MAX, INT32_MIN + 1};
    (void)state;
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++) {
        assert_string_equal(pshm_error_name(strangers[i]), "UNKNOWN");
        assert_string_equal(pshm_error_text(strangers[i]), "unknown error");
        assert_int_equal(pshm_error_class(strangers[i]), PSHM_CLASS_OS);
    }
}

static void test_version(void **state)
{
    (void)state;
    assert_string_equal(pshm_version(), PSHM_VERSION);
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

static void test_deadlines(void **state)
{
    (void)state;
    int64_t before = now(), deadline = pshm_deadline(SECOND);
    assert_true(deadline >= before + SECOND && deadline <= now() + SECOND);
    assert_true(pshm_deadline(0) >= before);
    assert_true(pshm_deadline(-1) == PSHM_FOREVER);
    assert_true(pshm_deadline(INT64_MIN) == PSHM_FOREVER);
    assert_true(pshm_deadline(PSHM_FOREVER) == PSHM_FOREVER);
    assert_true(pshm_deadline(INT64_MAX - 1) == PSHM_FOREVER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_table), TEST(test_errno), TEST(test_what_is_no_code), TEST(test_version), TEST(test_deadlines),
    };
    return cmocka_run_group_tests_name("error", tests, NULL, NULL);
}
