/* SPDX-License-Identifier: MIT
 *
 * Opening segments of every kind with every option, and the bytes in them. Creation under a race and in full or
 * exhausted systems: test_creation.c. Pages: test_pages.c. The object behind: test_object.c. Closing: test_close.c.
 */
#include "helper.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEY "sysv:0x7c5a1e03"

static int expect_zeros_then_write(pshm_segment *s)
{
    unsigned char bytes[100], zeros[100] = {0};
    CHECK(pshm_segment_read(s, s->size - 100, bytes, 100) == 0);
    CHECK(memcmp(bytes, zeros, 100) == 0);
    CHECK(pshm_segment_write(s, s->size - 5, "hello", 5) == 0);
    CHECK(pshm_segment_read(s, s->size - 5, bytes, 5) == 0);
    CHECK(memcmp(bytes, "hello", 5) == 0);
    return 0;
}

/* Every kind, made, used, and seen by a second handle where there is a name. */
static void test_every_kind(void **state)
{
    (void)state;
    char file[64], posix[64];
    strcpy(file, helper_file());
    strcpy(posix, helper_posix());
    const struct {
        const char *address;
        pshm_segment_kind kind;
        bool named, descriptor;
    } kinds[] = {
        {posix, PSHM_SEGMENT_POSIX, true, true},
        {file, PSHM_SEGMENT_FILE, true, true},
        {KEY, PSHM_SEGMENT_SYSV, true, false},
        {"sysv:private", PSHM_SEGMENT_SYSV, false, false},
        {"anon:", PSHM_SEGMENT_ANON, false, false},
        {"zero:", PSHM_SEGMENT_ZERO, false, false},
        {"memfd:thing", PSHM_SEGMENT_MEMFD, false, true},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        pshm_options options = helper_sized(10000);
        pshm_segment *s = helper_segment(kinds[i].address, &options);
        assert_int_equal(s->kind, kinds[i].kind);
        assert_string_equal(s->address, kinds[i].address);
        assert_string_equal(s->name, strchr(kinds[i].address, ':') + 1);
        assert_int_equal(s->size, 10000);
        assert_true(s->created && !s->readonly && !s->closed && !s->lost);
        assert_int_equal(s->rights, PSHM_READ | PSHM_WRITE);
        assert_int_equal(s->map_rights, PSHM_READ | PSHM_WRITE);
        assert_int_equal(s->fd >= 0, kinds[i].descriptor);
        assert_int_equal(s->id >= 0, kinds[i].kind == PSHM_SEGMENT_SYSV);
        if (s->fd >= 0)
            assert_true(fcntl(s->fd, F_GETFD) & FD_CLOEXEC);
        expect_zeros_then_write(s);
        if (kinds[i].named) {
            pshm_segment *other = helper_segment(kinds[i].address, NULL);
            char bytes[5];
            assert_false(other->created);
            assert_int_equal(other->size, 10000);
            assert_rc(pshm_segment_read(other, 9995, bytes, 5), 0);
            assert_memory_equal(bytes, "hello", 5);
            helper_end(other);
        }
        helper_end_unlink(s);
    }
}

static int add_in_child(void *context)
{
    pshm_segment *s = context;
    s->base[0]++;
    return pshm_segment_write(s, 1, "child", 5);
}

static void test_forked_child_shares(void **state)
{
    static const char *const kinds[] = {"anon:", "zero:", "sysv:private", "memfd:m"};
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        pshm_options options = helper_sized(PAGE);
        pshm_segment *s = helper_segment(kinds[i], &options);
        s->base[0] = 41;
        helper_in_child(add_in_child, s);
        assert_int_equal(s->base[0], 42);
        assert_memory_equal(s->base + 1, "child", 5);
        helper_end_unlink(s);
    }
}

static void test_create_and_exclusive(void **state)
{
    char file[64], posix[64];
    (void)state;
    strcpy(file, helper_file());
    strcpy(posix, helper_posix());
    const char *const kinds[] = {posix, file, KEY};
    for (size_t i = 0; i < 3; i++) {
        pshm_segment *s = NULL, *other = NULL;
        pshm_options options = PSHM_OPTIONS_INIT;
        assert_rc(helper_open(kinds[i], &options, &s), -ENOENT);
        assert_null(s);
        options.create = true;
        assert_rc(helper_open(kinds[i], &options, &s), PSHM_ENOSIZE);
        options.size = 5000;
        options.exclusive = true;
        options.create = false; /* exclusive is enough */
        s = helper_segment(kinds[i], &options);
        assert_true(s->created);
        assert_rc(helper_open(kinds[i], &options, &other), -EEXIST);
        options.create = true;
        options.exclusive = false;
        options.size = 3000; /* a window of what exists, which is not resized */
        other = helper_segment(kinds[i], &options);
        assert_false(other->created);
        assert_int_equal(other->size, 3000);
        helper_end(other);
        options.size = 5001;
        assert_rc(helper_open(kinds[i], &options, &other), PSHM_EWINDOW);
        options.size = PSHM_UNSET; /* no size is needed where it exists */
        other = helper_segment(kinds[i], &options);
        assert_int_equal(other->size, 5000);
        helper_end(other);
        helper_end_unlink(s);
    }
}

static void test_kinds_that_always_create(void **state)
{
    static const char *const kinds[] = {"anon:", "zero:", "memfd:m", "sysv:private"};
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        pshm_segment *s = NULL;
        pshm_options options = PSHM_OPTIONS_INIT;
        assert_rc(helper_open(kinds[i], NULL, &s), PSHM_ENOSIZE);
        options.size = 1;
        s = helper_segment(kinds[i], &options);
        assert_true(s->created);
        assert_int_equal(s->size, 1);
        helper_end_unlink(s);
    }
}

static void test_windows(void **state)
{
    /* Offsets that no page begins at, and ends likewise. */
    static const struct {
        uint64_t offset, size, expected;
        int code;
    } windows[] = {
        {0, PSHM_UNSET, 20000, 0},
        {1, PSHM_UNSET, 19999, 0},
        {4095, 2, 2, 0},
        {4096, 4096, 4096, 0},
        {5000, 10000, 10000, 0},
        {12345, PSHM_UNSET, 7655, 0},
        {19999, 1, 1, 0},
        {19999, 2, 0, PSHM_EWINDOW},
        {20000, PSHM_UNSET, 0, PSHM_EZEROSIZE},
        {20000, 1, 0, PSHM_EWINDOW},
        {20001, PSHM_UNSET, 0, PSHM_EWINDOW},
        {0, 20001, 0, PSHM_EWINDOW},
        {0, 0, 0, PSHM_EZEROSIZE},
        {UINT64_C(1) << 47, 1, 0, PSHM_ETOOBIG},
        {UINT64_MAX, 1, 0, PSHM_ETOOBIG},
        {1, UINT64_MAX - 1, 0, PSHM_ETOOBIG},
        {(UINT64_C(1) << 47) - 4096, 8192, 0, PSHM_ETOOBIG},
        {PAGE, (UINT64_C(1) << 47) - PAGE, 0, PSHM_EWINDOW},
    };
    char file[64], posix[64];
    (void)state;
    strcpy(file, helper_file());
    strcpy(posix, helper_posix());
    const char *const kinds[] = {posix, file, KEY};
    for (size_t k = 0; k < 3; k++) {
        pshm_options options = helper_sized(20000);
        pshm_segment *whole = helper_segment(kinds[k], &options);
        for (uint64_t i = 0; i < 20000; i++)
            whole->base[i] = (unsigned char)(i * 7 % 251);
        for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
            pshm_segment *s = NULL;
            options = (pshm_options)PSHM_OPTIONS_INIT;
            options.offset = windows[i].offset;
            options.size = windows[i].size;
            assert_rc(helper_open(kinds[k], &options, &s), windows[i].code);
            if (windows[i].code)
                continue;
            assert_int_equal(s->size, windows[i].expected);
            assert_memory_equal(s->base, whole->base + windows[i].offset, s->size);
            s->base[s->size - 1] ^= 1;
            assert_memory_equal(s->base, whole->base + windows[i].offset, s->size);
            helper_end(s);
        }
        helper_end_unlink(whole);
    }
}

/* What is created ends where the window does. */
static void test_offset_of_what_is_created(void **state)
{
    (void)state;
    const char *name = helper_file();
    struct stat st;
    pshm_options options = helper_sized(100);
    options.offset = 5000;
    pshm_segment *s = helper_segment(name, &options);
    assert_int_equal(s->size, 100);
    assert_int_equal(fstat(s->fd, &st), 0);
    assert_int_equal(st.st_size, 5100);
    expect_zeros_then_write(s);
    helper_end_unlink(s);
    assert_rc(helper_open("anon:", &options, &s), PSHM_EOFFSET);
    assert_rc(helper_open("zero:", &options, &s), PSHM_EOFFSET);
}

static void test_access(void **state)
{
    char file[64], posix[64];
    (void)state;
    strcpy(file, helper_file());
    strcpy(posix, helper_posix());
    const char *const kinds[] = {posix, file, KEY};
    for (size_t k = 0; k < 3; k++) {
        char bytes[5];
        pshm_options options = helper_sized(10000);
        pshm_segment *whole = helper_segment(kinds[k], &options), *s = NULL;
        assert_rc(pshm_segment_write(whole, 0, "hello", 5), 0);
        options = (pshm_options)PSHM_OPTIONS_INIT;

        options.access = PSHM_ACCESS_R;
        s = helper_segment(kinds[k], &options);
        assert_true(s->readonly);
        assert_int_equal(s->rights, PSHM_READ);
        assert_rc(pshm_segment_read(s, 0, bytes, 5), 0);
        assert_memory_equal(bytes, "hello", 5);
        assert_rc(pshm_segment_write(s, 0, "x", 1), PSHM_EREADONLY);
        assert_rc(pshm_segment_fill(s, 0, 0, 1), PSHM_EREADONLY);
        assert_rc(pshm_segment_copy(s, 0, 1, 1), PSHM_EREADONLY);
        assert_rc(pshm_segment_protect(s, PSHM_ACCESS_RW, 0, 10000), -EACCES);
        assert_int_equal(s->rights, PSHM_READ);
        helper_end(s);

        options.access = PSHM_ACCESS_NONE;
        s = helper_segment(kinds[k], &options);
        assert_int_equal(s->rights, 0);
        assert_false(s->readonly);
        assert_rc(pshm_segment_read(s, 0, bytes, 5), PSHM_ENOACCESS);
        assert_rc(pshm_segment_write(s, 0, "x", 1), PSHM_ENOACCESS);
        assert_rc(pshm_segment_protect(s, PSHM_ACCESS_RW, 0, 10000), 0);
        assert_rc(pshm_segment_write(s, 5, "!", 1), 0);
        assert_int_equal(whole->base[5], '!');
        helper_end(s);

        options.access = PSHM_ACCESS_COPY;
        if (whole->fd < 0) {
            assert_rc(helper_open(kinds[k], &options, &s), -EOPNOTSUPP);
        } else {
            s = helper_segment(kinds[k], &options);
            assert_rc(pshm_segment_write(s, 0, "HELLO", 5), 0);
            assert_memory_equal(s->base, "HELLO!", 6);
            assert_memory_equal(whole->base, "hello!", 6);
            helper_end(s);
        }
        options.access = (pshm_access)4;
        assert_rc(helper_open(kinds[k], &options, &s), PSHM_EACCESSNAME);
        helper_end_unlink(whole);
    }
}

/* A file that may only be read can be mapped r, copy and none. */
static void test_read_only_file(void **state)
{
    (void)state;
    const char *name = helper_file();
    pshm_options options = helper_sized(PAGE);
    options.mode = 0444;
    pshm_segment *s = helper_segment(name, &options), *other = NULL;
    assert_rc(pshm_segment_write(s, 0, "made", 4), 0); /* its maker may write */
    char address[32];
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", s->fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    snprintf(address, sizeof address, "fd:%d", fd);
    options = (pshm_options)PSHM_OPTIONS_INIT;
    assert_rc(helper_open(address, &options, &other), -EACCES);
    options.access = PSHM_ACCESS_R;
    other = helper_segment(address, &options);
    assert_rc(pshm_segment_resize(other, 2 * PAGE), PSHM_EREADONLY);
    helper_end(other);
    options.access = PSHM_ACCESS_COPY;
    other = helper_segment(address, &options);
    assert_rc(pshm_segment_write(other, 0, "MADE", 4), 0);
    assert_memory_equal(s->base, "made", 4);
    helper_end(other);
    options.access = PSHM_ACCESS_NONE;
    other = helper_segment(address, &options);
    assert_rc(pshm_segment_protect(other, PSHM_ACCESS_RW, 0, PAGE), -EACCES);
    assert_rc(pshm_segment_protect(other, PSHM_ACCESS_R, 0, PAGE), 0);
    assert_memory_equal(other->base, "made", 4);
    helper_end(other);
    close(fd);
    helper_end_unlink(s);
}

static void test_mode_is_not_narrowed(void **state)
{
    char file[64], posix[64];
    (void)state;
    strcpy(file, helper_file());
    strcpy(posix, helper_posix());
    const char *const kinds[] = {posix, file, KEY, "memfd:m"};
    static const uint32_t modes[] = {0666, 0640, 0600, 0777, 0};
    mode_t old = umask(077);
    for (size_t k = 0; k < 4; k++) {
        for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
            if (kinds[k] == (const char *)KEY && !(modes[i] & 0600))
                continue; /* who made it could not attach it either, but for root */
            if (k == 3 && (modes[i] & 0111))
                continue; /* sealed: see test_executable_memfd */
            pshm_options options = helper_sized(PAGE);
            pshm_stat st;
            options.mode = modes[i];
            pshm_segment *s = helper_segment(kinds[k], &options);
            assert_rc(pshm_segment_stat(s, &st), 0);
            assert_int_equal(st.mode, modes[i]);
            helper_end_unlink(s);
        }
        pshm_options options = helper_sized(PAGE);
        pshm_stat st;
        pshm_segment *s = helper_segment(kinds[k], &options);
        assert_rc(pshm_segment_stat(s, &st), 0);
        if (k < 3)
            assert_int_equal(st.mode, 0600);
        helper_end_unlink(s);
        options.mode = 01777;
        assert_rc(helper_open(kinds[k], &options, &s), PSHM_EMODE);
    }
    umask(old);
}

/* Without `exec` a memfd is sealed against ever being executable. */
static void test_executable_memfd(void **state)
{
    (void)state;
    pshm_stat st;
    pshm_segment *s = NULL;
    pshm_options options = helper_sized(PAGE);
    options.mode = 0700;
    int rc = helper_open("memfd:m", &options, &s);
    if (rc == 0) { /* a kernel before 6.3 */
        helper_end(s);
    } else {
        assert_rc(rc, -EPERM);
    }
    options.exec = true;
    s = helper_segment("memfd:m", &options);
    assert_rc(pshm_segment_stat(s, &st), 0);
    assert_int_equal(st.mode, 0700);
    helper_end(s);
}

/* The mode of what exists is left alone. */
static void test_mode_of_what_exists(void **state)
{
    (void)state;
    const char *name = helper_posix();
    pshm_stat st;
    pshm_options options = helper_sized(PAGE);
    pshm_segment *s = helper_segment(name, &options);
    options.mode = 0666;
    pshm_segment *other = helper_segment(name, &options);
    assert_rc(pshm_segment_stat(other, &st), 0);
    assert_int_equal(st.mode, 0600);
    helper_end(other);
    helper_end_unlink(s);
}

static int open_as_nobody(void *context)
{
    pshm_segment *s;
    CHECK(setgid(65534) == 0 && setuid(65534) == 0);
    CHECK(helper_open(context, NULL, &s) == -EACCES);
    return 0;
}

static void test_permission_is_asked(void **state)
{
    char posix[64];
    (void)state;
    if (geteuid() != 0) {
        print_message("skipped: needs root, to become somebody else\n");
        skip();
    }
    strcpy(posix, helper_posix());
    char *const kinds[] = {posix, (char *)(uintptr_t)KEY};
    for (size_t k = 0; k < 2; k++) {
        pshm_options options = helper_sized(PAGE);
        pshm_segment *s = helper_segment(kinds[k], &options);
        helper_in_child(open_as_nobody, kinds[k]);
        helper_end_unlink(s);
    }
}

static void test_exec(void **state)
{
    /* mov $42, %eax; ret, or the same for aarch64. */
#if defined(__x86_64__)
    static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
#else
    static const unsigned char code[] = {0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6};
#endif
    static const char *const kinds[] = {"anon:", "zero:", "sysv:private", "memfd:code"};
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        pshm_options options = helper_sized(PAGE);
        pshm_segment *s = NULL;
        int (*function)(void);
        if (strncmp(kinds[i], "sysv", 4) == 0 && helper_valgrind_lacks("SHM_EXEC"))
            continue;
        options.exec = true;
        int rc = helper_open(kinds[i], &options, &s);
        if (rc == -EPERM || rc == -EACCES) {
            print_message("%s: this machine maps nothing executable: %s\n", kinds[i], pshm_error_text(rc));
            continue;
        }
        assert_rc(rc, 0);
        memcpy(s->base, code, sizeof code);
        __builtin___clear_cache((char *)s->base, (char *)s->base + sizeof code);
        memcpy(&function, &s->base, sizeof function);
        assert_int_equal(function(), 42);
        assert_rc(pshm_segment_protect(s, PSHM_ACCESS_R, 0, PAGE), 0);
        assert_int_equal(function(), 42);
        helper_end_unlink(s);
    }
}

/* How many KiB /proc/self/smaps says of a field for the mapping at an address. */
static long smaps(const void *address, const char *field)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    char line[512];
    bool here = false;
    long value = -1;
    while (file && fgets(line, sizeof line, file)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            here = (uintptr_t)address >= start && (uintptr_t)address < end;
        else if (here && strncmp(line, field, strlen(field)) == 0)
            value = atol(line + strlen(field) + 1);
    }
    if (file)
        fclose(file);
    return value;
}

static void test_populate_and_locked(void **state)
{
    static const char *const kinds[] = {"anon:", "zero:", "sysv:private", "memfd:m"};
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        pshm_options options = helper_sized(64 * PAGE);
        pshm_segment *s = helper_segment(kinds[i], &options);
        assert_int_equal(smaps(s->base, "Rss:"), 0);
        helper_end_unlink(s);
        options.populate = true;
        s = helper_segment(kinds[i], &options);
        assert_int_equal(smaps(s->base, "Rss:"), 256);
        assert_int_equal(smaps(s->base, "Locked:"), 0);
        helper_end_unlink(s);
        options.populate = false;
        options.locked = true;
        s = helper_segment(kinds[i], &options);
        if (helper_mlock_works()) {
            assert_int_equal(smaps(s->base, "Rss:"), 256);
            assert_true(smaps(s->base, "Locked:") > 0);
        }
        helper_end_unlink(s);
        options.locked = false;
        options.populate = true;
        options.access = PSHM_ACCESS_NONE; /* nothing to populate, and no error */
        s = helper_segment(kinds[i], &options);
        assert_int_equal(smaps(s->base, "Rss:"), 0);
        helper_end_unlink(s);
    }
}

static void test_reserve(void **state)
{
    char file[64], posix[64];
    (void)state;
    strcpy(file, helper_file());
    strcpy(posix, helper_posix());
    const char *const kinds[] = {posix, file, "memfd:m"};
    for (size_t k = 0; k < 3; k++) {
        for (int reserve = -1; reserve <= 1; reserve++) {
            pshm_options options = helper_sized(100 * PAGE);
            pshm_stat st;
            options.reserve = reserve;
            pshm_segment *s = helper_segment(kinds[k], &options);
            assert_rc(pshm_segment_stat(s, &st), 0);
            assert_int_equal(st.size, 100 * PAGE);
            if (reserve)
                assert_true(st.allocated >= (int64_t)(100 * PAGE));
            else
                assert_true(st.allocated < (int64_t)(100 * PAGE));
            helper_end_unlink(s);
        }
    }
}

/* A place where nothing is: reserved by nobody, given back just now. */
static uint64_t free_place(uint64_t align)
{
    void *p = mmap(NULL, 64 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    munmap(p, 64 * PAGE);
    return ((uint64_t)(uintptr_t)p + align - 1) & ~(align - 1);
}

static void test_at_and_round(void **state)
{
    static const char *const kinds[] = {"anon:", "zero:", "memfd:m", "sysv:private"};
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        pshm_options options = helper_sized(4 * PAGE);
        pshm_segment *s = NULL, *other = NULL;
        uint64_t at = free_place(PAGE);
        options.at = at;
        s = helper_segment(kinds[i], &options);
        assert_int_equal((uintptr_t)s->base, at);
        /* Never replaces what is mapped. */
        int rc = helper_open(kinds[i], &options, &other);
        assert_true(rc == -EEXIST || rc == -EINVAL);
        memset(s->base, 7, s->size);
        helper_end_unlink(s);
        options.at = at + 123;
        assert_rc(helper_open(kinds[i], &options, &other), -EINVAL);
        options.round = true;
        s = helper_segment(kinds[i], &options);
        assert_int_equal((uintptr_t)s->base, at & ~(uint64_t)(SHMLBA - 1));
        helper_end_unlink(s);
    }
}

/* `at` is where the page is mapped that the window begins in. */
static void test_at_with_an_offset(void **state)
{
    (void)state;
    const char *name = helper_posix();
    pshm_options options = helper_sized(4 * PAGE);
    pshm_segment *whole = helper_segment(name, &options);
    options.at = free_place(PAGE);
    options.offset = PAGE + 10;
    options.size = 100;
    pshm_segment *s = helper_segment(name, &options);
    assert_int_equal((uintptr_t)s->base, options.at + 10);
    helper_end(s);
    helper_end_unlink(whole);
}

static void test_options_that_do_not_fit(void **state)
{
    (void)state;
    const char *name = helper_posix();
    pshm_segment *s = NULL;
    pshm_options options = helper_sized(PAGE);
    options.exclusive = true;
    assert_rc(helper_open("fd:0", &options, &s), PSHM_EEXCLUSIVE);
    assert_rc(helper_open("sysv:id=0", &options, &s), PSHM_EEXCLUSIVE);
    options.exclusive = false;
    options.hugepages = 1;
    assert_rc(helper_open(name, &options, &s), -EOPNOTSUPP);
    assert_rc(helper_open("file:/tmp/polyshm-c-none", &options, &s), -EOPNOTSUPP);
    assert_rc(helper_open("fd:0", &options, &s), -EOPNOTSUPP);
    options.hugepages = 3000000; /* no power of two */
    assert_rc(helper_open("anon:", &options, &s), PSHM_EHUGEPAGES);
    assert_null(s);
}

/* The number of free huge pages of the default size; -1: there are none at all here. */
static long free_huge_pages(long *kib)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    long left = -1;
    *kib = 0;
    while (file && fgets(line, sizeof line, file)) {
        sscanf(line, "HugePages_Free: %ld", &left);
        sscanf(line, "Hugepagesize: %ld", kib);
    }
    if (file)
        fclose(file);
    return left;
}

static void test_huge_pages(void **state)
{
    static const char *const kinds[] = {"anon:", "zero:", "memfd:huge", "sysv:private"};
    long kib, left = free_huge_pages(&kib);
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strncmp(kinds[i], "sysv", 4) == 0 && helper_valgrind_lacks("SHM_HUGETLB"))
            continue;
        for (int named = 0; named < 2; named++) {
            pshm_options options = helper_sized(10000);
            pshm_segment *s = NULL;
            options.hugepages = named && kib ? (uint64_t)kib * 1024 : 1;
            int rc = helper_open(kinds[i], &options, &s);
            if (left > 0 && rc == 0) {
                assert_int_equal(s->size, 10000);
                expect_zeros_then_write(s);
                assert_int_equal(smaps(s->base, "KernelPageSize:"), kib);
                helper_end_unlink(s);
            } else if (left > 0) {
                assert_true(rc == -EPERM && geteuid() != 0); /* SHM_HUGETLB wants a privilege */
            } else {
                /* The pool is empty, or the kernel has none: said now, not at the first touch. */
                assert_true(rc == -ENOMEM || rc == -EOPNOTSUPP || rc == -ENOSPC || rc == -ENOSYS ||
                            (rc == -EPERM && geteuid() != 0));
            }
        }
    }
    if (left <= 0)
        print_message("the pool of huge pages is empty: only the error was tested\n");
}

static void test_more_memory_than_there_is(void **state)
{
    char posix[64];
    (void)state;
    strcpy(posix, helper_posix());
    const char *const kinds[] = {posix, KEY, "sysv:private", "anon:", "zero:", "memfd:m"};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        pshm_options options = helper_sized(UINT64_C(1) << 46);
        pshm_segment *s = NULL;
        int rc = helper_open(kinds[k], &options, &s);
        assert_true(rc == -ENOMEM || (k == 0 && rc == -ENOSPC)); /* /dev/shm has a limit of its own */
        assert_null(s);
    }
    assert_rc(pshm_exists(posix, strlen(posix)), 0);
    pshm_options options = helper_sized((UINT64_C(1) << 47) + 1);
    pshm_segment *s = NULL;
    assert_rc(helper_open("anon:", &options, &s), PSHM_ETOOBIG);
    /* Address space is there for what nobody reserves. */
    if (helper_valgrind_lacks("a mapping of a terabyte"))
        return;
    options = helper_sized(UINT64_C(1) << 40);
    options.reserve = 0;
    s = helper_segment("memfd:sparse", &options);
    assert_rc(pshm_segment_write(s, s->size - 1, "x", 1), 0);
    helper_end(s);
}

static void test_what_cannot_be_opened(void **state)
{
    static const struct {
        const char *address;
        int code;
    } bads[] = {
        {"posix:/polyshm-c-none", -ENOENT},
        {"file:/nowhere/at/all", -ENOENT},
        {"file:/etc/passwd/x", -ENOTDIR},
        {"file:/tmp", -EISDIR},
        {"fd:999999", -EBADF},
        {"sysv:id=2147483600", -ENOENT},
        {"sysv:/nowhere#A", -ENOENT},
        {"sysv:0x7c5a1eff", -ENOENT},
        {"posix:nothing", PSHM_ENAME},
        {"nothing", PSHM_EADDRESS},
        {"posix:/a\nb", -ENOENT},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
        pshm_segment *s = NULL;
        assert_rc(helper_open(bads[i].address, NULL, &s), bads[i].code);
        assert_null(s);
    }
    pshm_segment *s = NULL;
    assert_rc(pshm_segment_open("posix:/a\0b", 10, NULL, &s), PSHM_ENUL);
    /* An empty file has nothing to map. */
    int fd = memfd_create("empty", MFD_CLOEXEC);
    char address[32];
    snprintf(address, sizeof address, "fd:%d", fd);
    assert_rc(helper_open(address, NULL, &s), PSHM_EZEROSIZE);
    close(fd);
    int pipes[2];
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    snprintf(address, sizeof address, "fd:%d", pipes[0]);
    assert_rc(helper_open(address, NULL, &s), -ENODEV);
    close(pipes[0]);
    close(pipes[1]);
}

static void test_posix_does_not_follow_links(void **state)
{
    (void)state;
    const char *name = helper_posix();
    char path[80];
    pshm_segment *s = NULL;
    snprintf(path, sizeof path, "/dev/shm%s", name + 6);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    pshm_options options = PSHM_OPTIONS_INIT;
    options.access = PSHM_ACCESS_R;
    assert_rc(helper_open(name, &options, &s), -ELOOP);
    assert_int_equal(unlink(path), 0);
}

/* A character device has no end: the window says how much. */
static void test_device(void **state)
{
    pshm_segment *s = NULL;
    (void)state;
    assert_rc(helper_open("file:/dev/zero", NULL, &s), PSHM_EZEROSIZE);
    pshm_options options = PSHM_OPTIONS_INIT;
    options.size = 3 * PAGE;
    s = helper_segment("file:/dev/zero", &options);
    assert_false(s->created);
    expect_zeros_then_write(s);
    helper_end(s);
}

static void test_descriptor(void **state)
{
    char address[32];
    (void)state;
    pshm_options options = helper_sized(10000);
    pshm_segment *s = helper_segment("memfd:m", &options);
    snprintf(address, sizeof address, "fd:%d", s->fd);
    pshm_segment *other = helper_segment(address, NULL);
    assert_int_equal(other->kind, PSHM_SEGMENT_FD);
    assert_int_equal(other->size, 10000);
    assert_int_not_equal(other->fd, s->fd); /* a descriptor of its own: the caller's stays the caller's */
    assert_true(fcntl(other->fd, F_GETFD) & FD_CLOEXEC);
    int theirs = s->fd;
    s->base[7] = 7;
    helper_end(s);
    assert_int_equal(fcntl(theirs, F_GETFD), -1);
    assert_int_equal(other->base[7], 7);
    helper_end(other);
}

static void test_memfd_is_sealed_against_shrinking(void **state)
{
    (void)state;
    pshm_options options = helper_sized(10000);
    pshm_segment *s = helper_segment("memfd:m", &options);
    assert_true(fcntl(s->fd, F_GET_SEALS) & F_SEAL_SHRINK);
    assert_int_equal(ftruncate(s->fd, 100), -1);
    assert_int_equal(errno, EPERM);
    assert_rc(pshm_segment_resize(s, 9999), -EPERM);
    assert_int_equal(s->size, 10000);
    assert_rc(pshm_segment_resize(s, 20000), 0);
    s->base[19999] = 1;
    assert_int_equal(fcntl(s->fd, F_ADD_SEALS, F_SEAL_GROW), 0);
    assert_rc(pshm_segment_resize(s, 30000), -EPERM);
    assert_int_equal(s->size, 20000);
    helper_end(s);
}

/* Sealed against writing: shared mappings that may write are refused, by the kernel. */
static void test_sealed_against_writing(void **state)
{
    char address[32];
    pshm_segment *s = NULL;
    (void)state;
    int fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, PAGE), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
    snprintf(address, sizeof address, "fd:%d", fd);
    assert_rc(helper_open(address, NULL, &s), -EPERM);
    pshm_options options = PSHM_OPTIONS_INIT;
    options.access = PSHM_ACCESS_COPY;
    s = helper_segment(address, &options);
    assert_rc(pshm_segment_write(s, 0, "x", 1), 0);
    helper_end(s);
    close(fd);
}

static void test_inherit_across_exec(void **state)
{
    char number[16], output[64];
    (void)state;
    for (int inherit = 0; inherit < 2; inherit++) {
        pshm_options options = helper_sized(PAGE);
        options.inherit = inherit;
        pshm_segment *s = helper_segment("memfd:m", &options);
        assert_rc(pshm_segment_write(s, 100, "inherited", 9), 0);
        snprintf(number, sizeof number, "%d", s->fd);
        int code = helper_run(output, sizeof output, helper_program("foreign_map"), "fd", number, "read", "100", "9",
                              NULL);
        assert_int_equal(code == 0, inherit);
        if (inherit)
            assert_string_equal(output, "inherited");
        helper_end(s);
    }
    /* Also for what is created by name, and for a descriptor that is taken over. */
    pshm_options options = helper_sized(PAGE);
    options.inherit = true;
    pshm_segment *s = helper_segment(helper_posix(), &options);
    assert_false(fcntl(s->fd, F_GETFD) & FD_CLOEXEC);
    snprintf(number, sizeof number, "fd:%d", s->fd);
    pshm_segment *other = helper_segment(number, &options);
    assert_false(fcntl(other->fd, F_GETFD) & FD_CLOEXEC);
    helper_end(other);
    helper_end_unlink(s);
}

static void test_foreign_programs(void **state)
{
    char file[64], posix[64], output[64], id[16];
    (void)state;
    strcpy(file, helper_file());
    strcpy(posix, helper_posix());
    const struct {
        const char *address, *kind, *name;
    } kinds[] = {{posix, "posix", posix + 6},
                 {file, "file", file + 5},
                 {KEY, "sysv", KEY + 5},
                 {"sysv:private", "id", id}};
    for (size_t i = 0; i < 4; i++) {
        pshm_options options = helper_sized(10000);
        pshm_segment *s = helper_segment(kinds[i].address, &options);
        snprintf(id, sizeof id, "%d", (int)s->id);
        assert_rc(pshm_segment_write(s, 9000, "from us", 7), 0);
        const char *program = helper_program("foreign_map");
        assert_int_equal(helper_run(output, sizeof output, program, kinds[i].kind, kinds[i].name, "read", "9000", "7",
                                    NULL),
                         0);
        assert_string_equal(output, "from us");
        assert_int_equal(helper_run(NULL, 0, program, kinds[i].kind, kinds[i].name, "write", "1", "from them", NULL),
                         0);
        assert_memory_equal(s->base, "\0from them", 11);
        helper_end_unlink(s);
    }
}

static int send_descriptor(int socket, int fd)
{
    char control[CMSG_SPACE(sizeof fd)] = {0}, byte = 'x';
    struct iovec part = {&byte, 1};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return sendmsg(socket, &m, 0) == 1 ? 0 : -1;
}

static int receive_descriptor(int socket)
{
    char control[CMSG_SPACE(sizeof(int))] = {0}, byte;
    struct iovec part = {&byte, 1};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int fd = -1;
    if (recvmsg(socket, &m, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&m))
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    return fd;
}

static int use_sent(void *context)
{
    char address[32];
    pshm_segment *s = NULL;
    int fd = receive_descriptor(*(int *)context);
    CHECK(fd >= 0);
    snprintf(address, sizeof address, "fd:%d", fd);
    CHECK(helper_open(address, NULL, &s) == 0);
    close(fd);
    CHECK(s->size == 10000 && memcmp(s->base, "over a socket", 13) == 0);
    memcpy(s->base, "and back", 8);
    helper_end(s);
    return 0;
}

static void test_descriptor_over_a_socket(void **state)
{
    int sockets[2];
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    pid_t child = helper_fork(use_sent, &sockets[1]); /* before there is anything to inherit */
    pshm_options options = helper_sized(10000);
    pshm_segment *s = helper_segment("memfd:sent", &options);
    memcpy(s->base, "over a socket", 13);
    assert_int_equal(send_descriptor(sockets[0], s->fd), 0);
    assert_int_equal(helper_wait(child), 0);
    assert_memory_equal(s->base, "and back", 8);
    helper_end(s);
    close(sockets[0]);
    close(sockets[1]);
}

static void test_read_write_fill_copy_find(void **state)
{
    unsigned char buffer[300];
    int64_t at = 5;
    (void)state;
    pshm_options options = helper_sized(10000);
    pshm_segment *s = helper_segment("anon:", &options);
    assert_rc(pshm_segment_fill(s, 'x', 100, 50), 0);
    assert_rc(pshm_segment_read(s, 99, buffer, 52), 0);
    assert_int_equal(buffer[0], 0);
    assert_int_equal(buffer[1], 'x');
    assert_int_equal(buffer[50], 'x');
    assert_int_equal(buffer[51], 0);
    assert_rc(pshm_segment_write(s, 0, "0123456789", 10), 0);
    assert_rc(pshm_segment_copy(s, 2, 0, 8), 0); /* over itself */
    assert_memory_equal(s->base, "0101234567", 10);
    assert_rc(pshm_segment_copy(s, 0, 2, 8), 0);
    assert_memory_equal(s->base, "0123456767", 10);
    assert_rc(pshm_segment_write(s, 5000, s->base, 10), 0);
    assert_rc(pshm_segment_find(s, "0123", 4, 0, 10000, &at), 0);
    assert_int_equal(at, 0);
    assert_rc(pshm_segment_find(s, "0123", 4, 1, 10000, &at), 0);
    assert_int_equal(at, 5000);
    assert_rc(pshm_segment_find(s, "0123", 4, 1, 5003, &at), 0); /* it would have to lie wholly inside */
    assert_int_equal(at, -1);
    assert_rc(pshm_segment_find(s, "", 0, 17, 20, &at), 0);
    assert_int_equal(at, 17);
    assert_rc(pshm_segment_find(s, "absent", 6, 0, 10000, &at), 0);
    assert_int_equal(at, -1);
    assert_rc(pshm_segment_find(s, "0", 1, 50, 40, &at), 0); /* an empty range */
    assert_int_equal(at, -1);
    helper_end(s);
}

static void test_bounds(void **state)
{
    static const struct {
        uint64_t offset, size;
    } outside[] = {{10000, 1},       {10001, 0},
                   {9999, 2},        {0, 10001},
                   {UINT64_MAX, 1},  {UINT64_MAX, UINT64_MAX},
                   {1, UINT64_MAX},  {5000, UINT64_MAX - 4000},
                   {(uint64_t)-1, 0}};
    unsigned char byte = 1;
    int64_t at;
    (void)state;
    pshm_options options = helper_sized(10000);
    pshm_segment *s = helper_segment("anon:", &options);
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        uint64_t offset = outside[i].offset, size = outside[i].size;
        assert_rc(pshm_segment_check(s, offset, size, PSHM_READ), PSHM_EBOUNDS);
        assert_rc(pshm_segment_refuse(s, offset, size, PSHM_READ), PSHM_EBOUNDS);
        assert_rc(pshm_segment_read(s, offset, &byte, size), PSHM_EBOUNDS);
        assert_rc(pshm_segment_write(s, offset, &byte, size), PSHM_EBOUNDS);
        assert_rc(pshm_segment_fill(s, 1, offset, size), PSHM_EBOUNDS);
        assert_rc(pshm_segment_copy(s, offset, 0, size), PSHM_EBOUNDS);
        assert_rc(pshm_segment_copy(s, 0, offset, size), PSHM_EBOUNDS);
        assert_rc(pshm_segment_flush(s, offset, size, true, false), PSHM_EBOUNDS);
        assert_rc(pshm_segment_protect(s, PSHM_ACCESS_R, offset, size), PSHM_EBOUNDS);
        assert_rc(pshm_segment_advise(s, "normal", offset, size), PSHM_EBOUNDS);
        assert_int_equal(pshm_segment_rights(s, offset, size), 0);
        if (size != PSHM_UNSET) {
            assert_rc(pshm_segment_pin(s, offset, size, false), PSHM_EBOUNDS);
            assert_rc(pshm_segment_unpin(s, offset, size), PSHM_EBOUNDS);
        }
    }
    assert_rc(pshm_segment_find(s, "x", 1, 0, 10001, &at), PSHM_EBOUNDS);
    assert_rc(pshm_segment_find(s, "x", 1, 10001, 10002, &at), PSHM_EBOUNDS);
    assert_rc(pshm_segment_check(s, 10000, 0, PSHM_READ | PSHM_WRITE), 0);
    assert_rc(pshm_segment_read(s, 10000, &byte, 0), 0);
    assert_rc(pshm_segment_check(s, 0, 10000, PSHM_READ | PSHM_WRITE), 0);
    assert_rc(pshm_segment_verify(s), 0);
    helper_end(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_every_kind),
        TEST(test_forked_child_shares),
        TEST(test_create_and_exclusive),
        TEST(test_kinds_that_always_create),
        TEST(test_windows),
        TEST(test_offset_of_what_is_created),
        TEST(test_access),
        TEST(test_read_only_file),
        TEST(test_mode_is_not_narrowed),
        TEST(test_executable_memfd),
        TEST(test_mode_of_what_exists),
        TEST(test_permission_is_asked),
        TEST(test_exec),
        TEST(test_populate_and_locked),
        TEST(test_reserve),
        TEST(test_at_and_round),
        TEST(test_at_with_an_offset),
        TEST(test_options_that_do_not_fit),
        TEST(test_huge_pages),
        TEST(test_more_memory_than_there_is),
        TEST(test_what_cannot_be_opened),
        TEST(test_posix_does_not_follow_links),
        TEST(test_device),
        TEST(test_descriptor),
        TEST(test_memfd_is_sealed_against_shrinking),
        TEST(test_sealed_against_writing),
        TEST(test_inherit_across_exec),
        TEST(test_foreign_programs),
        TEST(test_descriptor_over_a_socket),
        TEST(test_read_write_fill_copy_find),
        TEST(test_bounds),
    };
    return cmocka_run_group_tests_name("segment", tests, NULL, NULL);
}
