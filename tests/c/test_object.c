/* SPDX-License-Identifier: MIT
 *
 * The object behind a segment: resize, stat, set, unlink, identity, and the same by address; the list of all.
 */
#include "helper.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KEY "sysv:0x7c5a1e06"

static int64_t object_size(const pshm_segment *s)
{
    struct stat st;
    assert_int_equal(fstat(s->fd, &st), 0);
    return st.st_size;
}

static void test_grow_and_shrink(void **state)
{
    char names[2][64];
    (void)state;
    strcpy(names[0], helper_posix());
    strcpy(names[1], helper_file());
    for (int k = 0; k < 2; k++) {
        pshm_options options = helper_sized(10000);
        pshm_segment *s = helper_segment(names[k], &options), *other = helper_segment(names[k], NULL);
        static const uint64_t sizes[] = {10001, 12288, 50000, 1 << 20, 50000, 4097, 1, 30000, 30000};
        s->base[0] = 'a';
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            uint32_t epoch = s->epoch;
            assert_rc(pshm_segment_resize(s, sizes[i]), 0);
            assert_int_equal(s->size, sizes[i]);
            assert_int_not_equal(s->epoch, epoch);
            assert_int_equal(object_size(s), sizes[i]);
            assert_int_equal(s->base[0], 'a');
            s->base[sizes[i] - 1] = 'a';
            assert_rc(pshm_segment_check(s, 0, sizes[i] + 1, PSHM_READ), PSHM_EBOUNDS);
            pshm_stat st;
            assert_rc(pshm_segment_stat(s, &st), 0);
            assert_true(st.allocated >= (int64_t)sizes[i]); /* growth is reserved */
        }
        assert_int_equal(other->size, 10000); /* what others have mapped stays */
        assert_int_equal(other->base[0], 'a');
        helper_end(other);
        assert_rc(pshm_segment_resize(s, 0), PSHM_EZEROSIZE);
        assert_rc(pshm_segment_resize(s, (UINT64_C(1) << 47) + 1), PSHM_ETOOBIG);
        int rc = pshm_segment_resize(s, UINT64_C(1) << 46);
        assert_true(rc == -ENOSPC || rc == (k ? -EFBIG : -ENOMEM));
        assert_int_equal(s->size, 30000);
        assert_int_equal(object_size(s), 30000);
        helper_end_unlink(s);
    }
}

static void test_resize_of_a_window(void **state)
{
    (void)state;
    const char *name = helper_posix();
    pshm_options options = helper_sized(20000);
    pshm_segment *whole = helper_segment(name, &options);
    options = (pshm_options)PSHM_OPTIONS_INIT;
    options.offset = 5000;
    options.size = 100;
    pshm_segment *s = helper_segment(name, &options);
    assert_rc(pshm_segment_write(s, 99, "x", 1), 0);
    assert_rc(pshm_segment_resize(s, 200), 0); /* the window ends where the object does now */
    assert_int_equal(object_size(whole), 5200);
    assert_int_equal(s->base[99], 'x');
    assert_rc(pshm_segment_resize(s, 40000), 0);
    assert_int_equal(object_size(whole), 45000);
    assert_int_equal(s->base[99], 'x');
    s->base[39999] = 'y';
    helper_end(s);
    helper_end_unlink(whole);
}

static void test_resize_unreserved(void **state)
{
    (void)state;
    pshm_stat st;
    pshm_options options = helper_sized(PAGE);
    options.reserve = 0;
    pshm_segment *s = helper_segment(helper_posix(), &options);
    assert_rc(pshm_segment_resize(s, 100 * PAGE), 0);
    assert_rc(pshm_segment_stat(s, &st), 0);
    assert_int_equal(st.allocated, 0);
    helper_end_unlink(s);
}

static void test_resize_with_users_inside(void **state)
{
    (void)state;
    pshm_options options = helper_sized(4 * PAGE);
    pshm_segment *s = helper_segment(helper_posix(), &options);
    assert_rc(pshm_segment_enter(s, PSHM_USE_RAW), 0);
    volatile unsigned char *raw = s->base;
    raw[0] = 'r';
    assert_rc(pshm_segment_resize(s, PAGE), PSHM_EBUFFERS);
    assert_int_equal(s->size, 4 * PAGE);
    /* Growing leaves the old mapping to those who are inside, and both are the same memory. */
    for (uint64_t pages = 8; pages <= 1024; pages *= 2) {
        assert_rc(pshm_segment_resize(s, pages * PAGE), 0);
        assert_int_equal(s->base[0], raw[0]);
        raw[0]++;
        assert_int_equal(s->base[0], raw[0]);
        s->base[pages * PAGE - 1] = 1;
    }
    pshm_segment_leave(s, PSHM_USE_RAW);
    /* Who asks before each access is told by the epoch. */
    assert_rc(pshm_segment_enter(s, PSHM_USE_CHECKED), 0);
    uint32_t epoch = s->epoch;
    assert_rc(pshm_segment_resize(s, PAGE), 0);
    assert_int_not_equal(s->epoch, epoch);
    assert_int_equal(pshm_segment_rights(s, PAGE, 1), 0);
    pshm_segment_leave(s, PSHM_USE_CHECKED);
    helper_end_unlink(s);
}

static void test_resize_with_parts_protected(void **state)
{
    (void)state;
    if (helper_valgrind_lacks("mremap(2) of a mapping with several rights"))
        return;
    pshm_options options = helper_sized(4 * PAGE);
    pshm_segment *s = helper_segment(helper_posix(), &options);
    assert_rc(pshm_segment_protect(s, PSHM_ACCESS_R, PAGE, PAGE), 0);
    for (int raw = 0; raw < 2; raw++) {
        if (raw)
            assert_rc(pshm_segment_enter(s, PSHM_USE_RAW), 0);
        assert_rc(pshm_segment_resize(s, (8 + 8 * (uint64_t)raw) * PAGE), 0);
        assert_rc(pshm_segment_write(s, PAGE, "x", 1), PSHM_EREADONLY);
        assert_rc(pshm_segment_write(s, 0, "x", 1), 0);
        assert_rc(pshm_segment_write(s, s->size - 1, "x", 1), 0);
        if (raw)
            pshm_segment_leave(s, PSHM_USE_RAW);
    }
    assert_rc(pshm_segment_resize(s, PAGE), 0);
    assert_rc(pshm_segment_write(s, PAGE - 1, "x", 1), 0);
    assert_rc(pshm_segment_resize(s, 2 * PAGE), 0);
    helper_end_unlink(s);
}

static void test_resize_of_copy_on_write(void **state)
{
    (void)state;
    const char *name = helper_file();
    pshm_options options = helper_sized(4 * PAGE);
    pshm_segment *whole = helper_segment(name, &options);
    memset(whole->base, 'a', whole->size);
    /* A descriptor that may write is needed for it: copy on write asks for none, so the kernel says no. */
    options = (pshm_options)PSHM_OPTIONS_INIT;
    options.access = PSHM_ACCESS_COPY;
    pshm_segment *s = helper_segment(name, &options);
    assert_rc(pshm_segment_resize(s, 8 * PAGE), PSHM_EREADONLY);
    helper_end(s);
    char address[32];
    snprintf(address, sizeof address, "fd:%d", whole->fd);
    s = helper_segment(address, &options);
    s->base[0] = 'b';
    assert_rc(pshm_segment_resize(s, 1024 * PAGE), 0);
    assert_int_equal(s->base[0], 'b');
    assert_int_equal(s->base[1], 'a');
    assert_int_equal(whole->base[0], 'a');
    helper_end(s);
    helper_end_unlink(whole);
}

static void test_resize_where_it_cannot_be(void **state)
{
    static const char *const kinds[] = {"anon:", "zero:", "sysv:private"};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        pshm_options options = helper_sized(PAGE);
        pshm_segment *s = helper_segment(kinds[i], &options);
        assert_rc(pshm_segment_resize(s, 2 * PAGE), -EOPNOTSUPP);
        helper_end_unlink(s);
    }
    const char *name = helper_posix();
    pshm_options options = helper_sized(PAGE);
    pshm_segment *s = helper_segment(name, &options);
    options = (pshm_options)PSHM_OPTIONS_INIT;
    options.access = PSHM_ACCESS_R;
    pshm_segment *reader = helper_segment(name, &options);
    assert_rc(pshm_segment_resize(reader, 2 * PAGE), PSHM_EREADONLY);
    helper_end(reader);
    pshm_segment_retain(s);
    helper_end_unlink(s);
    assert_rc(pshm_segment_resize(s, 2 * PAGE), PSHM_ECLOSED);
    pshm_segment_release(s);
}

static int attach_and_detach(void *context)
{
    pshm_segment *s = NULL;
    CHECK(helper_open(context, NULL, &s) == 0);
    helper_end(s);
    return 0;
}

static void test_stat_of_system_v(void **state)
{
    pshm_stat st;
    (void)state;
    int64_t now = time(NULL);
    pshm_options options = helper_sized(10000);
    options.mode = 0640;
    pshm_segment *s = helper_segment(KEY, &options);
    assert_rc(pshm_segment_stat(s, &st), 0);
    assert_int_equal(st.kind, PSHM_SEGMENT_SYSV);
    assert_string_equal(st.address, KEY);
    assert_int_equal(st.size, 10000);
    assert_int_equal(st.mode, 0640);
    assert_int_equal(st.key, 0x7c5a1e06);
    assert_int_equal(st.id, s->id);
    assert_int_equal(st.uid, geteuid());
    assert_int_equal(st.gid, getegid());
    assert_int_equal(st.cuid, geteuid());
    assert_int_equal(st.cgid, getegid());
    assert_int_equal(st.attaches, 1);
    assert_int_equal(st.creator_pid, getpid());
    assert_int_equal(st.last_pid, getpid());
    assert_true(st.attach_time >= now && st.change_time >= now);
    assert_int_equal(st.detach_time, 0);
    assert_true(st.inode == PSHM_NONE && st.device == PSHM_NONE && st.links == PSHM_NONE);
    pid_t child = helper_fork(attach_and_detach, (void *)(uintptr_t)KEY);
    assert_int_equal(helper_wait(child), 0);
    assert_rc(pshm_stat_address(KEY, strlen(KEY), &st), 0);
    assert_int_equal(st.last_pid, child);
    assert_true(st.detach_time >= now);
    assert_int_equal(st.attaches, 1);

    assert_rc(pshm_segment_set(s, -1, -1, 0600), 0);
    assert_rc(pshm_segment_stat(s, &st), 0);
    assert_int_equal(st.mode, 0600);
    assert_int_equal(st.uid, geteuid());
    if (geteuid() == 0) {
        assert_rc(pshm_segment_set(s, 1234, 4321, PSHM_MODE_UNSET), 0);
        assert_rc(pshm_segment_stat(s, &st), 0);
        assert_true(st.uid == 1234 && st.gid == 4321 && st.cuid == 0 && st.mode == 0600);
    }
    assert_rc(pshm_segment_set(s, -1, -1, 01000), PSHM_EMODE);
    assert_rc(pshm_segment_set(s, -2, -1, 0600), PSHM_EOWNERID);
    assert_rc(pshm_segment_set(s, INT64_C(1) << 32, -1, 0600), PSHM_EOWNERID);
    assert_rc(pshm_segment_set(s, -1, -2, 0600), PSHM_EOWNERID);
    helper_end_unlink(s);
}

static void test_stat_of_files(void **state)
{
    char names[3][64] = {"", "", "memfd:m"};
    (void)state;
    strcpy(names[0], helper_posix());
    strcpy(names[1], helper_file());
    for (int k = 0; k < 3; k++) {
        pshm_stat st;
        struct stat plain;
        pshm_options options = helper_sized(10000);
        pshm_segment *s = helper_segment(names[k], &options);
        assert_rc(pshm_segment_stat(s, &st), 0);
        assert_int_equal(fstat(s->fd, &plain), 0);
        assert_string_equal(st.address, names[k]);
        assert_true(st.size == 10000 && st.uid == plain.st_uid && st.gid == plain.st_gid);
        assert_true((uint64_t)st.device == plain.st_dev && (uint64_t)st.inode == plain.st_ino);
        assert_true(st.links == (k < 2) && st.allocated == plain.st_blocks * 512);
        assert_true(st.access_time == plain.st_atime && st.modify_time == plain.st_mtime &&
                    st.change_time == plain.st_ctime);
        assert_true(st.key == PSHM_NONE && st.id == PSHM_NONE && st.attaches == PSHM_NONE &&
                    st.creator_pid == PSHM_NONE);
        assert_rc(pshm_segment_set(s, -1, -1, 0640), 0);
        assert_rc(pshm_segment_stat(s, &st), 0);
        assert_int_equal(st.mode, 0640);
        if (geteuid() == 0) {
            assert_rc(pshm_segment_set(s, 1234, -1, PSHM_MODE_UNSET), 0);
            assert_rc(pshm_segment_stat(s, &st), 0);
            assert_true(st.uid == 1234 && st.gid == plain.st_gid && st.mode == 0640);
        }
        assert_rc(pshm_segment_set(s, -1, -1, 07777), PSHM_EMODE);
        helper_end_unlink(s);
    }
}

static void test_stat_of_the_nameless(void **state)
{
    static const char *const kinds[] = {"anon:", "zero:"};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        pshm_stat st;
        uint64_t device = 1, inode = 1;
        pshm_options options = helper_sized(10000);
        pshm_segment *s = helper_segment(kinds[i], &options);
        assert_rc(pshm_segment_stat(s, &st), 0);
        assert_int_equal(st.size, 10000);
        assert_true(st.mode == PSHM_NONE && st.uid == PSHM_NONE && st.inode == PSHM_NONE);
        assert_rc(pshm_segment_set(s, -1, -1, 0600), -EOPNOTSUPP);
        assert_rc(pshm_segment_identity(s, &device, &inode), 0);
        assert_true(device == 0 && inode == 0);
        assert_rc(pshm_segment_unlink(s), 0);
        assert_rc(pshm_segment_unlink(s), 0);
        helper_end(s);
    }
}

static void test_unlink(void **state)
{
    char names[2][64];
    (void)state;
    strcpy(names[0], helper_posix());
    strcpy(names[1], helper_file());
    for (int k = 0; k < 2; k++) {
        size_t length = strlen(names[k]);
        pshm_options options = helper_sized(PAGE);
        pshm_segment *s = helper_segment(names[k], &options);
        assert_rc(pshm_exists(names[k], length), 1);
        assert_rc(pshm_segment_unlink(s), 0);
        assert_rc(pshm_exists(names[k], length), 0);
        assert_rc(pshm_segment_unlink(s), -ENOENT);
        s->base[0] = 'a'; /* the memory goes with its last user */
        /* Another object of the name is not ours to remove. */
        pshm_segment *other = helper_segment(names[k], &options);
        assert_rc(pshm_segment_unlink(s), -ENOENT);
        assert_rc(pshm_exists(names[k], length), 1);
        assert_int_equal(other->base[0], 0);
        uint64_t device[2], inode[2];
        assert_rc(pshm_segment_identity(s, &device[0], &inode[0]), 0);
        assert_rc(pshm_segment_identity(other, &device[1], &inode[1]), 0);
        assert_true(device[0] == device[1] && inode[0] != inode[1]);
        helper_end(s);
        helper_end(other);
        assert_rc(pshm_unlink(names[k], length), 0);
        assert_rc(pshm_unlink(names[k], length), -ENOENT);
    }
}

static void test_unlink_of_system_v(void **state)
{
    pshm_stat st;
    (void)state;
    pshm_options options = helper_sized(PAGE);
    pshm_segment *s = helper_segment(KEY, &options), *other = NULL;
    char by_id[32];
    snprintf(by_id, sizeof by_id, "sysv:id=%d", (int)s->id);
    other = helper_segment(by_id, NULL);
    assert_int_equal(other->id, s->id);
    uint64_t device[2], inode[2];
    assert_rc(pshm_segment_identity(s, &device[0], &inode[0]), 0);
    assert_rc(pshm_segment_identity(other, &device[1], &inode[1]), 0);
    assert_true(inode[0] == inode[1] && device[0] == device[1]);
    assert_rc(pshm_exists(KEY, strlen(KEY)), 1);
    assert_rc(pshm_exists(by_id, strlen(by_id)), 1);
    assert_rc(pshm_segment_unlink(s), 0);
    /* The key is free, the id is dead at once, the memory goes with the last detach. */
    assert_rc(pshm_exists(KEY, strlen(KEY)), 0);
    assert_rc(pshm_exists(by_id, strlen(by_id)), 0);
    assert_rc(pshm_stat_address(by_id, strlen(by_id), &st), -EIDRM);
    pshm_segment *late = NULL;
    assert_rc(helper_open(by_id, NULL, &late), -EIDRM);
    assert_rc(helper_open(KEY, NULL, &late), -ENOENT);
    assert_rc(pshm_segment_unlink(other), -EIDRM);
    assert_rc(pshm_unlink(by_id, strlen(by_id)), -EIDRM);
    assert_rc(pshm_segment_stat(s, &st), 0); /* who is attached may ask */
    assert_int_equal(st.attaches, 2);
    s->base[0] = 'a';
    assert_int_equal(other->base[0], 'a');
    helper_end(s);
    helper_end(other);
    assert_rc(pshm_stat_address(by_id, strlen(by_id), &st), -ENOENT);
    assert_rc(pshm_unlink(by_id, strlen(by_id)), -ENOENT);
    assert_rc(pshm_unlink(KEY, strlen(KEY)), -ENOENT);
}

static void test_ftok(void **state)
{
    char address[2][128], hash[128];
    (void)state;
    const char *file = helper_file();
    pshm_options options = helper_sized(PAGE);
    pshm_segment *at = helper_segment(file, &options);
    snprintf(address[0], sizeof address[0], "sysv:%s#A", file + 5);
    snprintf(address[1], sizeof address[1], "sysv:%s#0x41", file + 5);
    pshm_segment *s = helper_segment(address[0], &options), *other = helper_segment(address[1], NULL);
    assert_int_equal(s->id, other->id);
    pshm_stat st;
    assert_rc(pshm_stat_address(address[0], strlen(address[0]), &st), 0);
    assert_int_equal(st.key, (uint32_t)ftok(file + 5, 'A'));
    snprintf(hash, sizeof hash, "sysv:0x%x", (unsigned)st.key);
    assert_rc(pshm_exists(hash, strlen(hash)), 1);
    helper_end(other);
    helper_end(s);
    assert_rc(pshm_unlink(address[1], strlen(address[1])), 0);
    helper_end_unlink(at);
}

static void test_without_attaching(void **state)
{
    pshm_stat st;
    (void)state;
    static const struct {
        const char *address;
        int stat, exists;
    } cases[] = {
        {"posix:/polyshm-c-none", -ENOENT, 0},
        {"file:/nowhere", -ENOENT, 0},
        {"file:/etc/passwd/x", -ENOTDIR, 0},
        {"sysv:0x7c5a1eff", -ENOENT, 0},
        {"sysv:id=2147483600", -ENOENT, 0},
        {"sysv:/nowhere#A", -ENOENT, 0},
        {"fd:999999", -EBADF, 0},
        {"anon:", -EOPNOTSUPP, -EOPNOTSUPP},
        {"zero:", -EOPNOTSUPP, -EOPNOTSUPP},
        {"memfd:x", -EOPNOTSUPP, -EOPNOTSUPP},
        {"sysv:private", -EOPNOTSUPP, -EOPNOTSUPP},
        {"posix:bad", PSHM_ENAME, PSHM_ENAME},
        {"nothing", PSHM_EADDRESS, PSHM_EADDRESS},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *address = cases[i].address;
        assert_rc(pshm_stat_address(address, strlen(address), &st), cases[i].stat);
        assert_rc(pshm_exists(address, strlen(address)), cases[i].exists);
        int rc = pshm_unlink(address, strlen(address));
        assert_rc(rc, strncmp(address, "fd:", 3) ? cases[i].stat : -EOPNOTSUPP);
    }
    assert_rc(pshm_exists("file:/etc/passwd", 16), 1);
    assert_rc(pshm_stat_address("file:/etc/passwd", 16, &st), 0);
    assert_string_equal(st.address, "file:/etc/passwd");
    pshm_options options = helper_sized(PAGE);
    pshm_segment *s = helper_segment("memfd:m", &options);
    char address[32];
    snprintf(address, sizeof address, "fd:%d", s->fd);
    assert_rc(pshm_exists(address, strlen(address)), 1);
    assert_rc(pshm_stat_address(address, strlen(address), &st), 0);
    assert_int_equal(st.size, PAGE);
    helper_end(s);
}

static const pshm_stat *find_in(const pshm_stat *all, size_t count, const char *address)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(all[i].address, address) == 0)
            return &all[i];
    return NULL;
}

static void test_list(void **state)
{
    pshm_stat *all = NULL;
    size_t count = 0;
    char posix[64], id[32];
    (void)state;
    strcpy(posix, helper_posix());
    pshm_options options = helper_sized(10000);
    options.mode = 0640;
    pshm_segment *s[3] = {helper_segment(posix, &options), helper_segment(KEY, &options),
                          helper_segment("sysv:private", &options)};
    snprintf(id, sizeof id, "sysv:id=%d", (int)s[2]->id);
    const char *const names[] = {posix, KEY, id};
    assert_rc(pshm_list(&all, &count), 0);
    for (int i = 0; i < 3; i++) {
        const pshm_stat *st = find_in(all, count, names[i]);
        assert_non_null(st);
        assert_int_equal(st->kind, i ? PSHM_SEGMENT_SYSV : PSHM_SEGMENT_POSIX);
        assert_true(st->size == 10000 && st->mode == 0640 && st->uid == geteuid());
        if (i)
            assert_true(st->id == s[i]->id && st->attaches == 1 && st->creator_pid == getpid());
        pshm_segment *again = helper_segment(st->address, NULL); /* an address of the list can be opened */
        helper_end(again);
    }
    pshm_list_free(all);
    for (int i = 0; i < 3; i++)
        helper_end_unlink(s[i]);
    assert_rc(pshm_list(&all, &count), 0);
    for (int i = 0; i < 3; i++)
        assert_null(find_in(all, count, names[i]));
    pshm_list_free(all);
    pshm_list_free(NULL);
}

static void test_closed(void **state)
{
    (void)state;
    pshm_stat st;
    uint64_t device, inode;
    pshm_options options = helper_sized(PAGE);
    pshm_segment *s = helper_segment("memfd:m", &options);
    pshm_segment_close(s);
    assert_rc(pshm_segment_stat(s, &st), PSHM_ECLOSED);
    assert_rc(pshm_segment_set(s, -1, -1, 0600), PSHM_ECLOSED);
    assert_rc(pshm_segment_unlink(s), PSHM_ECLOSED);
    assert_rc(pshm_segment_identity(s, &device, &inode), PSHM_ECLOSED);
    assert_rc(pshm_segment_resize(s, 1), PSHM_ECLOSED);
    pshm_segment_release(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_grow_and_shrink),
        TEST(test_resize_of_a_window),
        TEST(test_resize_unreserved),
        TEST(test_resize_with_users_inside),
        TEST(test_resize_with_parts_protected),
        TEST(test_resize_of_copy_on_write),
        TEST(test_resize_where_it_cannot_be),
        TEST(test_stat_of_system_v),
        TEST(test_stat_of_files),
        TEST(test_stat_of_the_nameless),
        TEST(test_unlink),
        TEST(test_unlink_of_system_v),
        TEST(test_ftok),
        TEST(test_without_attaching),
        TEST(test_list),
        TEST(test_closed),
    };
    return cmocka_run_group_tests_name("object", tests, NULL, NULL);
}
