/* SPDX-License-Identifier: MIT
 *
 * What works on whole pages of a segment: flush, protect, advise, pin.
 */
#include "helper.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static pshm_segment *of_pages(const char *address, uint64_t pages)
{
    pshm_options options = helper_sized(pages * PAGE);
    return helper_segment(address, &options);
}

/* KiB of a segment that are locked, where that can be seen. */
#define assert_locked(segment, kib)                                                                                    \
    do                                                                                                                 \
        if (helper_mlock_works())                                                                                      \
            assert_int_equal(smaps(segment, "Locked:"), kib);                                                          \
    while (0)

/* The sum of a field of /proc/self/smaps over all mappings that lie in a segment, in KiB. */
static long smaps(const pshm_segment *s, const char *field)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    char line[512];
    bool here = false;
    long sum = 0;
    while (file && fgets(line, sizeof line, file)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            here = start >= (uintptr_t)s->base && end <= (uintptr_t)s->base + s->size + PAGE;
        else if (here && strncmp(line, field, strlen(field)) == 0)
            sum += atol(line + strlen(field) + 1);
    }
    if (file)
        fclose(file);
    return sum;
}

/* The rights that /proc/self/maps shows at an address, such as "rw-s". */
static const char *rights_at(const void *address)
{
    static char rights[8];
    FILE *file = fopen("/proc/self/maps", "re");
    char line[512];
    strcpy(rights, "none");
    while (file && fgets(line, sizeof line, file)) {
        unsigned long start, end;
        char found[8];
        if (sscanf(line, "%lx-%lx %7s", &start, &end, found) == 3 && (uintptr_t)address >= start &&
            (uintptr_t)address < end)
            strcpy(rights, found);
    }
    if (file)
        fclose(file);
    return rights;
}

static void test_flush(void **state)
{
    (void)state;
    pshm_segment *s = of_pages(helper_file(), 10);
    char path[64], bytes[5];
    for (int wait = 0; wait < 2; wait++) {
        for (int invalidate = 0; invalidate < 2; invalidate++) {
            assert_rc(pshm_segment_write(s, 5000, "flush", 5), 0);
            assert_rc(pshm_segment_flush(s, 0, s->size, wait, invalidate), 0);
            assert_rc(pshm_segment_flush(s, 5001, 1, wait, invalidate), 0); /* rounded to pages */
            assert_rc(pshm_segment_flush(s, 10 * PAGE, 0, wait, invalidate), 0);
        }
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", s->fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, bytes, 5, 5000), 5);
    assert_memory_equal(bytes, "flush", 5);
    close(fd);
    /* Of memory that is locked the kernel invalidates nothing. */
    assert_rc(pshm_segment_pin(s, 0, PAGE, false), 0);
    if (helper_mlock_works())
        assert_rc(pshm_segment_flush(s, 0, PAGE, true, true), -EBUSY);
    assert_rc(pshm_segment_flush(s, 0, PAGE, true, false), 0);
    assert_rc(pshm_segment_unpin(s, 0, PAGE), 0);
    helper_end_unlink(s);
    static const char *const kinds[] = {"anon:", "zero:", "memfd:m", "sysv:private"};
    for (size_t i = 0; i < 4; i++) {
        s = of_pages(kinds[i], 2);
        assert_rc(pshm_segment_flush(s, 1, PAGE, true, false), 0);
        helper_end_unlink(s);
    }
}

/* A window that begins inside a page: the page is rounded from the mapping's start, not the window's. */
static void test_flush_of_an_unaligned_window(void **state)
{
    (void)state;
    const char *name = helper_file();
    pshm_segment *whole = of_pages(name, 4);
    pshm_options options = PSHM_OPTIONS_INIT;
    options.offset = 5000;
    pshm_segment *s = helper_segment(name, &options);
    assert_rc(pshm_segment_flush(s, 0, s->size, true, false), 0);
    assert_rc(pshm_segment_flush(s, s->size - 1, 1, true, false), 0);
    assert_rc(pshm_segment_protect(s, PSHM_ACCESS_R, 0, 1), 0);
    assert_string_equal(rights_at(s->base), "r--s");
    assert_string_equal(rights_at(s->base + PAGE), "rw-s");
    helper_end(s);
    helper_end_unlink(whole);
}

static void test_protect_parts(void **state)
{
    static const char *const kinds[] = {"anon:", "zero:", "memfd:m", "sysv:private"};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        unsigned char bytes[3 * PAGE];
        pshm_segment *s = of_pages(kinds[i], 8);
        uint32_t epoch = s->epoch;
        /* Rounded outward: bytes of pages 2 and 3. */
        assert_rc(pshm_segment_protect(s, PSHM_ACCESS_R, 3 * PAGE - 1, 2), 0);
        assert_int_not_equal(s->epoch, epoch);
        assert_int_equal(s->rights, PSHM_READ); /* what holds everywhere */
        assert_int_equal(s->map_rights, PSHM_READ);
        assert_string_equal(rights_at(s->base + 2 * PAGE - 1), "rw-s");
        assert_string_equal(rights_at(s->base + 2 * PAGE), "r--s");
        assert_string_equal(rights_at(s->base + 4 * PAGE - 1), "r--s");
        assert_string_equal(rights_at(s->base + 4 * PAGE), "rw-s");
        assert_int_equal(pshm_segment_rights(s, 0, 2 * PAGE), PSHM_READ | PSHM_WRITE);
        assert_int_equal(pshm_segment_rights(s, 0, 2 * PAGE + 1), PSHM_READ);
        assert_int_equal(pshm_segment_rights(s, 4 * PAGE, 4 * PAGE), PSHM_READ | PSHM_WRITE);
        /* The slow path lets pass what the part may do. */
        assert_rc(pshm_segment_write(s, PAGE, "x", 1), 0);
        assert_rc(pshm_segment_write(s, 2 * PAGE - 1, "xx", 2), PSHM_EREADONLY);
        assert_rc(pshm_segment_write(s, 3 * PAGE, "x", 1), PSHM_EREADONLY);
        assert_rc(pshm_segment_read(s, PAGE, bytes, 3 * PAGE), 0);
        assert_rc(pshm_segment_protect(s, PSHM_ACCESS_NONE, 3 * PAGE, 3 * PAGE), 0);
        assert_int_equal(s->rights, 0);
        assert_rc(pshm_segment_read(s, 2 * PAGE, bytes, PAGE), 0);
        assert_rc(pshm_segment_read(s, 2 * PAGE, bytes, PAGE + 1), PSHM_ENOACCESS);
        assert_rc(pshm_segment_write(s, 5 * PAGE, "x", 1), PSHM_ENOACCESS);
        assert_rc(pshm_segment_write(s, 6 * PAGE, "x", 1), 0);
        assert_int_equal(pshm_segment_rights(s, 3 * PAGE, 1), 0);
        assert_rc(pshm_segment_refuse(s, 6 * PAGE, 1, PSHM_WRITE), 0);
        /* All of it again: nothing is left of the parts. */
        assert_rc(pshm_segment_protect(s, PSHM_ACCESS_RW, 0, s->size), 0);
        assert_int_equal(s->rights, PSHM_READ | PSHM_WRITE);
        assert_rc(pshm_segment_write(s, 3 * PAGE, "x", 1), 0);
        /* Nothing: no change, and no error. */
        assert_rc(pshm_segment_protect(s, PSHM_ACCESS_NONE, PAGE, 0), 0);
        assert_int_equal(s->rights, PSHM_READ | PSHM_WRITE);
        assert_rc(pshm_segment_protect(s, PSHM_ACCESS_COPY, 0, PAGE), PSHM_EACCESSNAME);
        assert_rc(pshm_segment_protect(s, (pshm_access)9, 0, PAGE), PSHM_EACCESSNAME);
        helper_end_unlink(s);
    }
}

/* Every order of cuts ends in what a plain array of pages says. */
static void test_protect_at_random(void **state)
{
    enum { PAGES = 12 };
    static const pshm_access accesses[] = {PSHM_ACCESS_RW, PSHM_ACCESS_R, PSHM_ACCESS_NONE};
    static const uint32_t rights[] = {PSHM_READ | PSHM_WRITE, PSHM_READ, 0};
    (void)state;
    uint32_t model[PAGES];
    pshm_segment *s = of_pages("anon:", PAGES);
    srand(4);
    for (int i = 0; i < PAGES; i++)
        model[i] = PSHM_READ | PSHM_WRITE;
    for (int i = 0; i < 3000; i++) {
        unsigned from = (unsigned)rand() % PAGES, count = 1 + (unsigned)rand() % (PAGES - from);
        int what = rand() % 3;
        assert_rc(pshm_segment_protect(s, accesses[what], from * PAGE, count * PAGE), 0);
        uint32_t all = PSHM_READ | PSHM_WRITE;
        for (unsigned j = 0; j < PAGES; j++) {
            if (j >= from && j < from + count)
                model[j] = rights[what];
            assert_int_equal(pshm_segment_rights(s, j * PAGE, PAGE), model[j]);
            all &= model[j];
        }
        assert_int_equal(s->rights, all);
    }
    helper_end(s);
}

static void test_protect_with_somebody_inside(void **state)
{
    (void)state;
    pshm_segment *s = of_pages("anon:", 4);
    assert_rc(pshm_segment_enter(s, PSHM_USE_CHECKED), 0);
    assert_rc(pshm_segment_protect(s, PSHM_ACCESS_R, 0, PAGE), 0); /* who asks before each access is told */
    assert_rc(pshm_segment_enter(s, PSHM_USE_RAW), 0);
    assert_rc(pshm_segment_protect(s, PSHM_ACCESS_NONE, 0, PAGE), PSHM_EBUFFERS);
    assert_rc(pshm_segment_protect(s, PSHM_ACCESS_R, PAGE, PAGE), PSHM_EBUFFERS);
    assert_rc(pshm_segment_protect(s, PSHM_ACCESS_R, 0, PAGE), 0);  /* takes nothing away */
    assert_rc(pshm_segment_protect(s, PSHM_ACCESS_RW, 0, PAGE), 0); /* gives */
    pshm_segment_leave(s, PSHM_USE_RAW);
    assert_rc(pshm_segment_protect(s, PSHM_ACCESS_NONE, 0, PAGE), 0);
    pshm_segment_leave(s, PSHM_USE_CHECKED);
    helper_end(s);
}

/* What must be: every advice of the list is taken or refused by the kernel, on every kind, and no byte changes. */
static void test_every_advice(void **state)
{
    static const char *const kinds[] = {"anon:", "zero:", "memfd:m", "sysv:private"};
    (void)state;
    size_t count = 0;
    while (pshm_advice_name(count))
        count++;
    assert_true(count >= 20);
    assert_null(pshm_advice_name(count));
    assert_null(pshm_advice_name(SIZE_MAX));
    for (size_t k = 0; k < 4; k++) {
        for (size_t i = 0; i < count; i++) {
            const char *name = pshm_advice_name(i);
            pshm_segment *s = of_pages(kinds[k], 8);
            memset(s->base, 'a', s->size);
            int rc = pshm_segment_advise(s, name, 0, s->size);
            static const char *const always[] = {"normal",   "random", "sequential",    "willneed",      "dontneed",
                                                 "dontdump", "dodump", "cold",          "pageout",       "remove",
                                                 "dontfork", "dofork", "populate_read", "populate_write"};
            bool must = false;
            for (size_t j = 0; j < sizeof always / sizeof *always; j++)
                must |= strcmp(name, always[j]) == 0;
            if (must && rc)
                fail_msg("%s on %s: %s", name, kinds[k], pshm_error_name(rc));
            else if (rc && rc != -EINVAL && rc != -EBUSY && rc != -EPERM)
                fail_msg("%s on %s: %s", name, kinds[k], pshm_error_name(rc));
            /* remove punches a hole; everything else leaves shared bytes as they are. */
            unsigned char expected = strcmp(name, "remove") == 0 ? 0 : 'a';
            for (uint64_t at = 0; at < s->size; at += 1111)
                assert_int_equal(s->base[at], expected);
            helper_end_unlink(s);
        }
    }
}

static void test_slow_advice(void **state)
{
    (void)state;
    assert_true(pshm_advice_is_slow("willneed"));
    assert_true(pshm_advice_is_slow("pageout"));
    assert_true(pshm_advice_is_slow("populate_write"));
    assert_false(pshm_advice_is_slow("normal"));
    assert_false(pshm_advice_is_slow("dontfork"));
    assert_false(pshm_advice_is_slow("no such advice"));
}

static void test_advice_rounds(void **state)
{
    (void)state;
    pshm_segment *s = of_pages("memfd:m", 8);
    memset(s->base, 'a', s->size);
    /* Inward where it destroys: page 2 alone lies wholly inside. */
    assert_rc(pshm_segment_advise(s, "remove", PAGE + 1, 2 * PAGE + 10), 0);
    assert_int_equal(s->base[2 * PAGE - 1], 'a');
    assert_int_equal(s->base[2 * PAGE], 0);
    assert_int_equal(s->base[3 * PAGE - 1], 0);
    assert_int_equal(s->base[3 * PAGE], 'a');
    assert_rc(pshm_segment_advise(s, "remove", 4 * PAGE + 1, PAGE), 0); /* none does */
    assert_int_equal(s->base[5 * PAGE], 'a');
    /* Outward where it does not. */
    assert_rc(pshm_segment_advise(s, "pageout", 1, s->size - 2), 0);
    assert_rc(pshm_segment_advise(s, "normal", 8 * PAGE, 0), 0);
    helper_end(s);
}

static void test_advice_that_destroys_private_pages(void **state)
{
    (void)state;
    const char *name = helper_posix();
    pshm_segment *whole = of_pages(name, 2);
    memset(whole->base, 'a', whole->size);
    pshm_options options = PSHM_OPTIONS_INIT;
    options.access = PSHM_ACCESS_COPY;
    pshm_segment *s = helper_segment(name, &options);
    memset(s->base, 'b', s->size);
    assert_rc(pshm_segment_enter(s, PSHM_USE_RAW), 0);
    assert_rc(pshm_segment_advise(s, "dontneed", 0, s->size), PSHM_EBUFFERS);
    assert_rc(pshm_segment_advise(s, "remove", 0, s->size), PSHM_EBUFFERS);
    assert_rc(pshm_segment_advise(s, "willneed", 0, s->size), 0);
    pshm_segment_leave(s, PSHM_USE_RAW);
    assert_rc(pshm_segment_advise(s, "dontneed", 1, s->size - 1), 0); /* page 1 alone */
    assert_int_equal(s->base[0], 'b');
    assert_int_equal(s->base[PAGE], 'a');
    helper_end(s);
    /* On shared pages it drops nothing but the page tables, and may be given with somebody inside. */
    assert_rc(pshm_segment_enter(whole, PSHM_USE_RAW), 0);
    assert_rc(pshm_segment_advise(whole, "dontneed", 0, whole->size), 0);
    assert_int_equal(whole->base[0], 'a');
    pshm_segment_leave(whole, PSHM_USE_RAW);
    helper_end_unlink(whole);
}

static void test_advice_errors(void **state)
{
    (void)state;
    pshm_segment *s = of_pages("anon:", 2);
    assert_rc(pshm_segment_advise(s, "hwpoison", 0, PAGE), PSHM_EADVICE);
    assert_rc(pshm_segment_advise(s, "soft_offline", 0, PAGE), PSHM_EADVICE);
    assert_rc(pshm_segment_advise(s, "", 0, PAGE), PSHM_EADVICE);
    assert_rc(pshm_segment_advise(s, "WILLNEED", 0, PAGE), PSHM_EADVICE);
    assert_rc(pshm_segment_advise(s, "free", 0, PAGE), -EINVAL); /* of private anonymous memory alone */
    pshm_segment_retain(s);
    helper_end(s);
    assert_rc(pshm_segment_advise(s, "normal", 0, PAGE), PSHM_ECLOSED);
    assert_rc(pshm_segment_flush(s, 0, PAGE, true, false), PSHM_ECLOSED);
    assert_rc(pshm_segment_protect(s, PSHM_ACCESS_R, 0, PAGE), PSHM_ECLOSED);
    assert_rc(pshm_segment_pin(s, 0, PAGE, false), PSHM_ECLOSED);
    assert_rc(pshm_segment_unpin(s, 0, PAGE), PSHM_ECLOSED);
    pshm_segment_release(s);
}

static int is_refused_in_child(void *context)
{
    pshm_segment *s = context;
    char byte;
    CHECK(pshm_segment_read(s, 0, &byte, 1) == PSHM_ENOACCESS);
    CHECK(pshm_segment_write(s, 0, "x", 1) == PSHM_ENOACCESS);
    CHECK(pshm_segment_rights(s, 0, 1) == 0);
    helper_end(s); /* unmaps what is not there, and does not mind */
    return 0;
}

static int is_there_in_child(void *context)
{
    return pshm_segment_write(context, 0, "x", 1) != 0;
}

static void test_dontfork(void **state)
{
    (void)state;
    for (int parts = 0; parts < 2; parts++) {
        pshm_segment *s = of_pages("anon:", 4);
        if (parts)
            assert_rc(pshm_segment_protect(s, PSHM_ACCESS_R, 2 * PAGE, PAGE), 0);
        assert_rc(pshm_segment_advise(s, "dontfork", 0, s->size), 0);
        helper_in_child(is_refused_in_child, s);
        assert_rc(pshm_segment_write(s, 0, "y", 1), 0); /* the parent's is as it was */
        assert_rc(pshm_segment_advise(s, "dofork", 0, s->size), 0);
        helper_in_child(is_there_in_child, s);
        assert_int_equal(s->base[0], 'x');
        assert_rc(pshm_segment_enter(s, PSHM_USE_RAW), 0);
        assert_rc(pshm_segment_advise(s, "dontfork", 0, s->size), PSHM_EBUFFERS);
        pshm_segment_leave(s, PSHM_USE_RAW);
        helper_end(s);
    }
}

/* What is lent for longer than a call is refused where a forked child would find nothing there. */
static void test_lent(void **state)
{
    (void)state;
    pshm_segment *s = of_pages("anon:", 4);
    assert_rc(pshm_segment_enter(s, PSHM_USE_LENT), 0);
    assert_rc(pshm_segment_advise(s, "dontfork", 0, s->size), PSHM_EBUFFERS);
    assert_rc(pshm_segment_protect(s, PSHM_ACCESS_R, 0, PAGE), PSHM_EBUFFERS);
    pshm_segment_leave(s, PSHM_USE_LENT);
    assert_rc(pshm_segment_advise(s, "dontfork", 0, s->size), 0);
    assert_rc(pshm_segment_enter(s, PSHM_USE_LENT), PSHM_EDONTFORK);
    assert_rc(pshm_segment_enter(s, PSHM_USE_RAW), 0);
    pshm_segment_leave(s, PSHM_USE_RAW);
    assert_rc(pshm_segment_advise(s, "dofork", 0, s->size), 0);
    assert_rc(pshm_segment_enter(s, PSHM_USE_LENT), 0);
    unsigned char *base = s->base;
    pshm_segment_close(s);
    base[0] = 1;
    assert_rc(pshm_segment_enter(s, PSHM_USE_LENT), PSHM_ECLOSED);
    pshm_segment_leave(s, PSHM_USE_LENT);
    assert_null(s->base);
    pshm_segment_release(s);
}

static void test_pin(void **state)
{
    static const char *const kinds[] = {"anon:", "zero:", "memfd:m", "sysv:private"};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        pshm_segment *s = of_pages(kinds[i], 16);
        assert_rc(pshm_segment_pin(s, PAGE + 1, PAGE, false), 0);
        assert_locked(s, 8);
        assert_rc(pshm_segment_unpin(s, PAGE, 1), 0);
        assert_locked(s, 4);
        assert_rc(pshm_segment_unpin(s, 0, s->size), 0);
        assert_locked(s, 0);
        if (helper_valgrind_lacks("mlock2(2)")) {
            helper_end_unlink(s);
            continue;
        }
        assert_rc(pshm_segment_pin(s, 0, s->size, true), 0); /* those that are there, and others as they are touched */
        assert_locked(s, 8);
        s->base[0] = 1;
        assert_locked(s, 12);
        assert_rc(pshm_segment_unpin(s, 0, s->size), 0);
        assert_rc(pshm_segment_pin(s, 0, 0, false), 0);
        helper_end_unlink(s);
    }
}

static void test_pin_of_the_whole_segment(void **state)
{
    (void)state;
    pshm_segment *s = of_pages("anon:", 16);
    assert_rc(pshm_segment_pin(s, 0, PSHM_UNSET, false), 0);
    assert_locked(s, 64);
    assert_rc(pshm_segment_unpin(s, PAGE, PSHM_UNSET), 0); /* from there to the end */
    assert_locked(s, 4);
    helper_end(s);
    /* System V: SHM_LOCK, which the table of segments shows to everybody. */
    s = of_pages("sysv:private", 4);
    char line[512];
    bool seen = false;
    assert_rc(pshm_segment_pin(s, 0, PSHM_UNSET, false), 0);
    FILE *table = fopen("/proc/sysvipc/shm", "re");
    while (table && fgets(line, sizeof line, table)) {
        int id;
        unsigned mode;
        if (sscanf(line, "%*d %d %o", &id, &mode) == 2 && id == s->id)
            seen = (mode & 02000) != 0; /* SHM_LOCKED of sys/shm.h in the kernel */
    }
    if (table)
        fclose(table);
    assert_true(seen);
    assert_rc(pshm_segment_unpin(s, 0, PSHM_UNSET), 0);
    if (!helper_valgrind_lacks("mlock2(2)"))
        assert_rc(pshm_segment_pin(s, 0, PSHM_UNSET, true), 0); /* on fault: pages of this process */
    assert_rc(pshm_segment_unpin(s, 0, s->size), 0);
    helper_end_unlink(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_flush),
        TEST(test_flush_of_an_unaligned_window),
        TEST(test_protect_parts),
        TEST(test_protect_at_random),
        TEST(test_protect_with_somebody_inside),
        TEST(test_every_advice),
        TEST(test_slow_advice),
        TEST(test_advice_rounds),
        TEST(test_advice_that_destroys_private_pages),
        TEST(test_advice_errors),
        TEST(test_dontfork),
        TEST(test_lent),
        TEST(test_pin),
        TEST(test_pin_of_the_whole_segment),
    };
    return cmocka_run_group_tests_name("pages", tests, NULL, NULL);
}
