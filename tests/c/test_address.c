/* SPDX-License-Identifier: MIT */
#include "helper.h"

#include <limits.h>

typedef struct good {
    const char *text;
    pshm_segment_kind kind;
    pshm_sysv_by by;
    int32_t number;
    const char *name;
} good;

static const good goods[] = {
    {"posix:/a", PSHM_SEGMENT_POSIX, PSHM_SYSV_KEY, 0, "/a"},
    {"posix:/a.b:c d", PSHM_SEGMENT_POSIX, PSHM_SYSV_KEY, 0, "/a.b:c d"},
    {"posix:/...", PSHM_SEGMENT_POSIX, PSHM_SYSV_KEY, 0, "/..."},
    {"sysv:0x1234", PSHM_SEGMENT_SYSV, PSHM_SYSV_KEY, 0x1234, ""},
    {"sysv:0XaB", PSHM_SEGMENT_SYSV, PSHM_SYSV_KEY, 0xab, ""},
    {"sysv:4660", PSHM_SEGMENT_SYSV, PSHM_SYSV_KEY, 4660, ""},
    {"sysv:0xffffffff", PSHM_SEGMENT_SYSV, PSHM_SYSV_KEY, -1, ""},
    {"sysv:/etc/passwd#A", PSHM_SEGMENT_SYSV, PSHM_SYSV_FTOK, 'A', "/etc/passwd"},
    {"sysv:/a#b#c", PSHM_SEGMENT_SYSV, PSHM_SYSV_FTOK, 'c', "/a#b"},
    {"sysv:/a#0x23", PSHM_SEGMENT_SYSV, PSHM_SYSV_FTOK, '#', "/a"},
    {"sysv:/a#0x41", PSHM_SEGMENT_SYSV, PSHM_SYSV_FTOK, 0x41, "/a"},
    {"sysv:/a#0xff", PSHM_SEGMENT_SYSV, PSHM_SYSV_FTOK, 0xff, "/a"},
    {"sysv:private", PSHM_SEGMENT_SYSV, PSHM_SYSV_PRIVATE, 0, ""},
    {"sysv:id=42", PSHM_SEGMENT_SYSV, PSHM_SYSV_ID, 42, ""},
    {"sysv:id=0", PSHM_SEGMENT_SYSV, PSHM_SYSV_ID, 0, ""},
    {"file:a", PSHM_SEGMENT_FILE, PSHM_SYSV_KEY, 0, "a"},
    {"file:/x:y", PSHM_SEGMENT_FILE, PSHM_SYSV_KEY, 0, "/x:y"},
    {"anon:", PSHM_SEGMENT_ANON, PSHM_SYSV_KEY, 0, ""},
    {"zero:", PSHM_SEGMENT_ZERO, PSHM_SYSV_KEY, 0, ""},
    {"memfd:", PSHM_SEGMENT_MEMFD, PSHM_SYSV_KEY, 0, ""},
    {"memfd:a/b", PSHM_SEGMENT_MEMFD, PSHM_SYSV_KEY, 0, "a/b"},
    {"fd:7", PSHM_SEGMENT_FD, PSHM_SYSV_KEY, 7, ""},
    {"fd:2147483647", PSHM_SEGMENT_FD, PSHM_SYSV_KEY, INT32_MAX, ""},
};

static void test_addresses(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof goods / sizeof *goods; i++) {
        pshm_address a;
        const good *g = &goods[i];
        assert_rc(pshm_address_parse(g->text, strlen(g->text), &a), 0);
        assert_int_equal(a.kind, g->kind);
        assert_int_equal(a.number, g->number);
        assert_string_equal(a.name, g->name);
        if (a.kind == PSHM_SEGMENT_SYSV)
            assert_int_equal(a.by, g->by);
    }
}

static void test_what_is_no_address(void **state)
{
    static const struct {
        const char *text;
        size_t length; /* 0: that of the text */
        int code;
    } bads[] = {
        {"", 0, PSHM_EADDRESS},
        {"posix", 0, PSHM_EADDRESS},
        {"/name", 0, PSHM_EADDRESS},
        {"shm:/name", 0, PSHM_EADDRESS},
        {"POSIX:/name", 0, PSHM_EADDRESS},
        {" posix:/name", 0, PSHM_EADDRESS},
        {":x", 0, PSHM_EADDRESS},
        {"posix:", 0, PSHM_ENAME},
        {"posix:/", 0, PSHM_ENAME},
        {"posix:name", 0, PSHM_ENAME},
        {"posix:/a/b", 0, PSHM_ENAME},
        {"posix:/a/", 0, PSHM_ENAME},
        {"posix://a", 0, PSHM_ENAME},
        {"posix:/.", 0, PSHM_ENAME},
        {"posix:/..", 0, PSHM_ENAME},
        {"posix:/a\0b", 10, PSHM_ENUL},
        {"posix:/a\0", 9, PSHM_ENUL},
        {"file:a\0b", 8, PSHM_ENUL},
        {"memfd:\0", 7, PSHM_ENUL},
        {"sysv:", 0, PSHM_EADDRESS},
        {"sysv:0", 0, PSHM_EADDRESS},
        {"sysv:0x", 0, PSHM_EADDRESS},
        {"sysv:0x100000000", 0, PSHM_EADDRESS},
        {"sysv:-1", 0, PSHM_EADDRESS},
        {"sysv:12a", 0, PSHM_EADDRESS},
        {"sysv:id=", 0, PSHM_EADDRESS},
        {"sysv:id=-1", 0, PSHM_EADDRESS},
        {"sysv:id=2147483648", 0, PSHM_EADDRESS},
        {"sysv:id=0x10", 0, PSHM_EADDRESS},
        {"sysv:private2", 0, PSHM_EADDRESS},
        {"sysv:#A", 0, PSHM_EADDRESS},
        {"sysv:/a#", 0, PSHM_EPROJECT},
        {"sysv:/a##", 0, PSHM_EPROJECT},
        {"sysv:/a#AB", 0, PSHM_EPROJECT},
        {"sysv:/a#0x00", 0, PSHM_EPROJECT},
        {"sysv:/a#0x100", 0, PSHM_EPROJECT},
        {"sysv:/a#65", 0, PSHM_EPROJECT},
        {"file:", 0, PSHM_EADDRESS},
        {"anon:x", 0, PSHM_EADDRESS},
        {"zero:x", 0, PSHM_EADDRESS},
        {"fd:", 0, PSHM_EADDRESS},
        {"fd:-1", 0, PSHM_EADDRESS},
        {"fd:2147483648", 0, PSHM_EADDRESS},
        {"fd:0x7", 0, PSHM_EADDRESS},
        {"fd:7 ", 0, PSHM_EADDRESS},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
        pshm_address a;
        size_t length = bads[i].length ? bads[i].length : strlen(bads[i].text);
        int rc = pshm_address_parse(bads[i].text, length, &a);
        if (rc != bads[i].code)
            fail_msg("\"%s\": %s, expected %s", bads[i].text, pshm_error_name(rc), pshm_error_name(bads[i].code));
    }
}

/* `prefix` and so many letters. */
static int parse_long(const char *prefix, size_t letters)
{
    char text[2 * PATH_MAX];
    pshm_address a;
    size_t length = strlen(prefix);
    memcpy(text, prefix, length);
    memset(text + length, 'x', letters);
    int rc = pshm_address_parse(text, length + letters, &a);
    if (rc == 0)
        assert_memory_equal(a.name + strlen(a.name) - letters, text + length, letters);
    return rc;
}

static void test_longest_names(void **state)
{
    (void)state;
    assert_rc(parse_long("posix:/", 255), 0);
    assert_rc(parse_long("posix:/", 256), -ENAMETOOLONG);
    assert_rc(parse_long("memfd:", 249), 0);
    assert_rc(parse_long("memfd:", 250), -ENAMETOOLONG);
    assert_rc(parse_long("file:", PATH_MAX - 1), 0);
    assert_rc(parse_long("file:", PATH_MAX), -ENAMETOOLONG);
    assert_rc(parse_long("posix:/", PATH_MAX + 5), -ENAMETOOLONG);
}

static void test_kind_names(void **state)
{
    (void)state;
    int kinds = 0;
#define X(name, text)                                                                                                  \
    assert_string_equal(pshm_kind_name(PSHM_SEGMENT_##name), text);                                                    \
    kinds++;
    PSHM_SEGMENT_MAP(X)
#undef X
    assert_int_equal(kinds, PSHM_SEGMENT_KINDS);
    assert_null(pshm_kind_name(PSHM_SEGMENT_KINDS));
    assert_null(pshm_kind_name((pshm_segment_kind)-1));
}

static int size_of(const char *text, uint64_t *out)
{
    return pshm_size_parse(text, strlen(text), out);
}

static void test_sizes(void **state)
{
    uint64_t size = 7;
    (void)state;
    static const struct {
        const char *text;
        uint64_t size;
    } sizes[] = {{"0", 0},          {"4096", 4096},
                 {"64M", 64 << 20}, {"64m", 64 << 20},
                 {"3K", 3072},      {"2g", UINT64_C(2) << 30},
                 {"007", 7},        {"9223372036854775807", INT64_MAX}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_rc(size_of(sizes[i].text, &size), 0);
        assert_true(size == sizes[i].size);
    }
    static const char *const bads[] = {"", "K", "-1", "1T", "1 K", "1KB", "0x10", "1.5M", "64MM", " 1", "1\n"};
    size = 7;
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++)
        assert_rc(size_of(bads[i], &size), PSHM_ESIZE);
    assert_rc(size_of("9223372036854775808", &size), PSHM_ETOOBIG);
    assert_rc(size_of("18446744073709551616", &size), PSHM_ESIZE);
    assert_rc(size_of("9000000000G", &size), PSHM_ETOOBIG);
    assert_int_equal(size, 7);
}

static int mode_of(const char *text, uint32_t *out)
{
    return pshm_mode_parse(text, strlen(text), out);
}

static void test_modes(void **state)
{
    uint32_t mode = 1;
    (void)state;
    assert_rc(mode_of("600", &mode), 0);
    assert_int_equal(mode, 0600);
    assert_rc(mode_of("0666", &mode), 0);
    assert_int_equal(mode, 0666);
    assert_rc(mode_of("0o640", &mode), 0);
    assert_int_equal(mode, 0640);
    assert_rc(mode_of("0", &mode), 0);
    assert_int_equal(mode, 0);
    assert_rc(mode_of("777", &mode), 0);
    static const char *const bads[] = {"", "0o", "1000", "800", "rw", "-1", "0x1ff", "6 0"};
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++)
        assert_rc(mode_of(bads[i], &mode), PSHM_EMODE);
    assert_int_equal(mode, 0777);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_addresses),     TEST(test_what_is_no_address),
        TEST(test_longest_names), TEST(test_kind_names),
        TEST(test_sizes),         TEST(test_modes),
    };
    return cmocka_run_group_tests_name("address", tests, NULL, NULL);
}
