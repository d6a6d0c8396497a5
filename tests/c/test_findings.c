/* SPDX-License-Identifier: MIT */
#include "helper.h"

#include <stdlib.h>

#include "core/findings.h"

static void test_lines(void **state)
{
    (void)state;
    pshm_findings f = {0};
    pshm_find(&f, 4096, "%s is %d", "this", -1);
    assert_string_equal(f.text, "at 4096: this is -1\n");
    pshm_find(&f, UINT64_MAX, "that");
    assert_string_equal(f.text, "at 4096: this is -1\nat 18446744073709551615: that\n");
    assert_true(f.count == 2 && f.size == strlen(f.text) && !f.out_of_memory);
    free(f.text);
}

static void test_many_and_long(void **state)
{
    (void)state;
    pshm_findings f = {0};
    char text[5000], line[5100];
    size_t size = 0;
    memset(text, 'x', sizeof text - 1);
    for (int i = 0; i < 3000; i++) {
        int length = i % 5000;
        pshm_find(&f, (uint64_t)i, "%.*s", length, text);
        size += (size_t)snprintf(line, sizeof line, "at %d: %.*s\n", i, length, text);
    }
    assert_int_equal(f.count, 3000);
    assert_true(f.size == size && strlen(f.text) == size);
    assert_string_equal(f.text + size - strlen(line), line);
    assert_int_equal(strncmp(f.text, "at 0: \nat 1: x\nat 2: xx\n", 23), 0);
    free(f.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_lines),
        TEST(test_many_and_long),
    };
    return cmocka_run_group_tests_name("findings", tests, NULL, NULL);
}
