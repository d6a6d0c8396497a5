/* SPDX-License-Identifier: MIT
 *
 * Arenas as a whole: opening and creating in every order and by many at once, what is no arena or not one any more, the
 * end of their life, and what stats and check say.
 */
#include "helper.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <polyshm/counter.h>
#include <polyshm/heap.h>
#include <polyshm/mutex.h>
#include <polyshm/participant.h>

#include "core/owner.h"

#define MB (UINT64_C(1) << 20)
#define KEY "sysv:0x7c5a1e05"

static pshm_arena_options sized(uint64_t size)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    options.size = size;
    options.create = true;
    return options;
}

static pshm_arena_options reading(void)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    options.access = PSHM_ACCESS_R;
    return options;
}

static int open_arena(const char *address, const pshm_arena_options *options, pshm_arena **out)
{
    *out = NULL;
    return pshm_arena_open(address, strlen(address), options, out);
}

static pshm_arena *arena_at(const char *address, const pshm_arena_options *options)
{
    pshm_arena *arena;
    assert_rc(open_arena(address, options, &arena), 0);
    return arena;
}

static void end(pshm_arena *arena)
{
    pshm_arena_close(arena);
    pshm_arena_release(arena);
}

static void end_unlink(pshm_arena *arena)
{
    assert_rc(pshm_arena_unlink(arena), 0);
    end(arena);
}

/* The code of an open that fails, and leaves nothing. */
static int refusal(const char *address, const pshm_arena_options *options)
{
    pshm_arena *arena;
    int rc = open_arena(address, options, &arena);
    if (!rc)
        end(arena);
    return rc;
}

static pshm_counter counter_in(pshm_arena *arena, const char *name)
{
    pshm_counter counter;
    bool created;
    assert_rc(pshm_counter_init(&counter, arena, name, strlen(name), !arena->readonly, &created), 0);
    return counter;
}

static void add_counter(pshm_arena *arena, const char *name)
{
    pshm_counter counter = counter_in(arena, name);
    pshm_counter_fini(&counter);
}

static uint64_t objects(pshm_arena *arena)
{
    pshm_arena_stats stats;
    assert_rc(pshm_arena_stats_of(arena, &stats), 0);
    return stats.objects;
}

static size_t findings(pshm_arena *arena)
{
    char *report = NULL;
    size_t count = 0;
    assert_rc(pshm_arena_check(arena, &report, &count), 0);
    pshm_report_free(report);
    return count;
}

static const char *path_of(const char *address)
{
    static char path[128];
    if (!strncmp(address, "posix:", 6))
        snprintf(path, sizeof path, "/dev/shm%s", address + 6);
    else
        snprintf(path, sizeof path, "%s", address + 5);
    return path;
}

static void write_at(const char *address, uint64_t place, const void *bytes, size_t size)
{
    int fd = open(path_of(address), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, size, (off_t)place), size);
    close(fd);
}

static void write_word(const char *address, uint64_t place, uint64_t word)
{
    write_at(address, place, &word, sizeof word);
}

static uint64_t read_word(const char *address, uint64_t place)
{
    uint64_t word = 0;
    int fd = open(path_of(address), O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &word, sizeof word, (off_t)place), sizeof word);
    close(fd);
    return word;
}

static void zeros(const char *address, uint64_t size)
{
    int fd = open(path_of(address), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    close(fd);
}

/* ---- opening ---- */

static const char *const kinds[] = {"posix", "file", KEY, "sysv:private", "anon:", "zero:", "memfd:arena"};
#define KINDS (sizeof kinds / sizeof *kinds)

static const char *address_of(size_t kind)
{
    return kind == 0 ? helper_posix() : kind == 1 ? helper_file() : kinds[kind];
}

static bool is_named(size_t kind)
{
    return kind < 3;
}

static void test_every_kind(void **state)
{
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        const char *address = address_of(k);
        pshm_arena_options options = sized(MB);
        pshm_arena *arena = arena_at(address, &options);
        assert_true(arena->created && !arena->readonly && !arena->closed && arena->id);
        assert_int_equal(arena->life, PSHM_LIFE_KEEP);
        assert_int_equal(arena->segment->size, MB);
        assert_string_equal(arena->address, address);
        add_counter(arena, "here");
        if (is_named(k)) {
            pshm_arena *again = arena_at(address, &options), *plain = arena_at(address, NULL);
            assert_true(!again->created && !plain->created);
            assert_true(again->attachment == arena->attachment && plain->attachment == arena->attachment);
            assert_true(plain->id == arena->id);
            end(again);
            assert_int_equal(objects(plain), 1);
            end(plain);
        }
        assert_int_equal(findings(arena), 0);
        end_unlink(arena); /* of what has no name: nothing */
    }
}

static void test_defaults(void **state)
{
    (void)state;
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    const char *name = helper_posix();
    assert_rc(refusal(name, NULL), -ENOENT);
    options.create = true;
    options.reserve = 0;
    pshm_arena *arena = arena_at(name, &options);
    struct stat st;
    assert_int_equal(stat(path_of(name), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(st.st_size, PSHM_ARENA_SIZE);
    assert_int_equal(arena->participants, PSHM_ARENA_PARTICIPANTS);
    end_unlink(arena);
    options.size = MB;
    arena = arena_at(name, &options);
    assert_int_equal(arena->participants, 256);
    end_unlink(arena);
    options.mode = 0640;
    options.participants = 3;
    options.life = PSHM_LIFE_LAST_DETACH;
    arena = arena_at(name, &options);
    assert_int_equal(stat(path_of(name), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(arena->participants, 3);
    assert_int_equal(arena->life, PSHM_LIFE_LAST_DETACH);
    end(arena);
    assert_rc(refusal(name, NULL), -ENOENT);
}

static void test_wrong_options(void **state)
{
    (void)state;
    const char *name = helper_posix();
    pshm_arena_options options = sized(MB);
    options.access = PSHM_ACCESS_COPY;
    assert_rc(refusal(name, &options), PSHM_EACCESSNAME);
    options.access = PSHM_ACCESS_R;
    assert_rc(refusal(name, &options), PSHM_EREADONLY);
    options = sized(MB);
    options.life = PSHM_LIVES;
    assert_rc(refusal(name, &options), PSHM_ELIFE);
    options = sized(MB);
    options.participants = PSHM_PARTICIPANTS_MAX + 1;
    assert_rc(refusal(name, &options), PSHM_EPARTICIPANTCOUNT);
    options = sized(MB);
    options.participants = 10000;
    assert_rc(refusal(name, &options), PSHM_ETOOSMALL);
    options = sized(PAGE);
    assert_rc(refusal(name, &options), PSHM_ETOOSMALL);
    options.size = 0;
    assert_true(refusal(name, &options) != 0);
    options = sized(MB);
    options.mode = 01000;
    assert_rc(refusal(name, &options), PSHM_EMODE);
    assert_rc(refusal("nonsense", NULL), PSHM_EADDRESS);
    assert_rc(refusal("posix:/a/b", NULL), PSHM_ENAME);
    options = sized(MB);
    options.exclusive = true;
    assert_rc(refusal("fd:0", &options), PSHM_EEXCLUSIVE);
    assert_rc(refusal("sysv:id=0", &options), PSHM_EEXCLUSIVE);
    assert_rc(refusal(name, NULL), -ENOENT); /* nothing was made */
}

static void test_exclusive_and_parameters(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        const char *address = address_of(k);
        pshm_arena_options options = sized(MB), other;
        options.exclusive = true;
        options.participants = 9;
        pshm_arena *arena = arena_at(address, &options);
        assert_true(arena->created);
        assert_rc(refusal(address, &options), -EEXIST);
        for (int open_elsewhere = 0; open_elsewhere < 2; open_elsewhere++) {
            other = sized(2 * MB);
            assert_rc(refusal(address, &other), PSHM_EPARAMETER);
            other = sized(MB);
            other.participants = 8;
            assert_rc(refusal(address, &other), PSHM_EPARAMETER);
            other = sized(MB);
            other.life = PSHM_LIFE_LAST_DETACH;
            assert_rc(refusal(address, &other), PSHM_EPARAMETER);
            other.life = PSHM_LIFE_KEEP;
            other.participants = 9;
            assert_rc(refusal(address, &other), 0);
            if (!open_elsewhere)
                end(arena); /* and once more where the process has not mapped it */
        }
        assert_rc(refusal(address, &options), -EEXIST);
        end_unlink(arena_at(address, NULL));
    }
}

static void test_waiting_for_a_creator(void **state)
{
    (void)state;
    const char *name = helper_posix();
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    options.deadline = pshm_deadline(30 * 1000000);
    assert_rc(refusal(name, &options), -ENOENT);
    options.deadline = pshm_deadline(PSHM_FOREVER);
    assert_rc(refusal(name, &options), -EINTR); /* a slice is over */
    assert_rc(refusal(name, &options), -EINTR);
    pshm_arena_options making = sized(MB);
    pshm_arena *made = arena_at(name, &making);
    assert_rc(refusal(name, &options), 0);
    end_unlink(made);
}

/* ---- reading ---- */

static void test_readonly(void **state)
{
    (void)state;
    const pshm_arena_options r = reading();
    for (size_t k = 0; k < 3; k++) {
        const char *address = address_of(k);
        pshm_arena_options options = sized(MB);
        assert_rc(refusal(address, &r), -ENOENT);
        pshm_arena *arena = arena_at(address, &options), *reader = arena_at(address, &r);
        assert_true(reader->readonly && !reader->created);
        pshm_counter counter = counter_in(arena, "c"), seen = counter_in(reader, "c"), none;
        int64_t value;
        bool created;
        assert_rc(pshm_counter_add(&counter, 5, &value), 0);
        assert_rc(pshm_counter_load(&seen, &value), 0);
        assert_int_equal(value, 5);
        assert_rc(pshm_counter_add(&seen, 5, &value), PSHM_EREADONLY);
        assert_rc(pshm_counter_init(&none, reader, "d", 1, true, &created), PSHM_EREADONLY);
        assert_rc(pshm_counter_init(&none, reader, "d", 1, false, &created), PSHM_ENONAME);
        assert_rc(pshm_arena_delete(reader, "c", 1, NULL), PSHM_EREADONLY);
        assert_rc(pshm_heap_alloc_into(reader, pshm_heap_root(0), 8), PSHM_EREADONLY);
        assert_rc(pshm_participant_attach(reader), PSHM_EREADONLY);
        assert_int_equal(objects(reader), 1);
        assert_int_equal(findings(reader), 0);
        pshm_counter_fini(&counter);
        pshm_counter_fini(&seen);
        end(reader);
        end_unlink(arena);
    }
}

/* ---- what is no arena ---- */

static void test_foreign(void **state)
{
    (void)state;
    const pshm_arena_options r = reading();
    for (int k = 0; k < 2; k++) {
        const char *address = address_of((size_t)k);
        pshm_arena_options options = sized(MB);
        options.size = PSHM_UNSET;
        char text[9000];
        memset(text, 'x', sizeof text);
        for (size_t size = 1; size <= sizeof text; size = size * 3 + 100) {
            write_at(address, 0, text, size);
            assert_rc(refusal(address, NULL), PSHM_ENOTARENA);
            assert_rc(refusal(address, &r), PSHM_ENOTARENA);
            assert_rc(refusal(address, &options), PSHM_ENOTARENA);
            assert_int_equal(unlink(path_of(address)), 0);
        }
        /* Zeros that are somebody's file become one only if that is said, and if it is all zeros. */
        zeros(address, 300000);
        assert_rc(refusal(address, NULL), PSHM_ENOTARENA);
        assert_rc(refusal(address, &r), PSHM_ENOTARENA);
        write_at(address, 299999, "x", 1);
        assert_rc(refusal(address, &options), PSHM_ENOTARENA);
        write_at(address, 299999, "", 1);
        pshm_arena *arena = arena_at(address, &options);
        assert_true(arena->created);
        assert_int_equal(arena->segment->size, 300000);
        add_counter(arena, "c");
        assert_int_equal(findings(arena), 0);
        end_unlink(arena);
        zeros(address, 0);
        assert_rc(refusal(address, NULL), PSHM_ENOTARENA);
        zeros(address, PAGE);
        assert_rc(refusal(address, &options), PSHM_ETOOSMALL);
        assert_int_equal(read_word(address, 0), 0);
        assert_int_equal(unlink(path_of(address)), 0);
    }
}

static void test_system_v_memory(void **state)
{
    (void)state;
    const pshm_arena_options r = reading();
    pshm_options raw = helper_sized(MB);
    pshm_arena_options options = sized(PSHM_UNSET);
    pshm_segment *segment = helper_segment(KEY, &raw);
    assert_rc(refusal(KEY, NULL), -ENOENT); /* zeros: nobody has made it yet */
    assert_rc(refusal(KEY, &r), -ENOENT);
    pshm_arena *arena = arena_at(KEY, &options), *again = arena_at(KEY, &options);
    assert_true(arena->created && !again->created);
    add_counter(arena, "c");
    assert_int_equal(objects(again), 1);
    end(again);
    end(arena);
    assert_rc(refusal(KEY, &r), 0);
    segment->base[5]++;
    assert_rc(refusal(KEY, &options), PSHM_ENOTARENA);
    helper_end_unlink(segment);
}

/* The first id of an IPC namespace is 0. */
static int first_id(void *context)
{
    pshm_arena_options options = sized(MB);
    pshm_arena *arena, *again;
    (void)context;
    if (helper_unshare(CLONE_NEWIPC))
        return HELPER_NOT_ALLOWED;
    CHECK(open_arena(KEY, &options, &arena) == 0 && arena->created && arena->segment->id == 0);
    CHECK(open_arena("sysv:id=0", NULL, &again) == 0);
    CHECK(again->attachment == arena->attachment);
    pshm_arena_close(again);
    pshm_arena_release(again);
    CHECK(pshm_arena_unlink(arena) == 0);
    pshm_arena_close(arena);
    pshm_arena_release(arena);
    return 0;
}

static void test_first_system_v_id(void **state)
{
    (void)state;
    helper_in_namespace(first_id, "an IPC namespace of its own");
}

/* A header that says something else, each field. */
static void test_header(void **state)
{
    (void)state;
    static const struct {
        uint64_t place, word;
        int code;
    } wrong[] = {
        {offsetof(pshm_head, magic), 1, PSHM_ENOTARENA},
        {offsetof(pshm_head, magic), 0, PSHM_ENOTARENA},
        {offsetof(pshm_head, format), 2, PSHM_EFORMAT},
        {offsetof(pshm_head, format), 1 | UINT64_C(1) << 40, PSHM_EABI},
        {offsetof(pshm_head, setup), 0, PSHM_ECORRUPT},
        {offsetof(pshm_head, setup), ~UINT64_C(0), PSHM_ECORRUPT},
        {offsetof(pshm_head, setup), PSHM_SETUP_DONE, PSHM_ECORRUPT},
        {offsetof(pshm_head, setup), PSHM_SETUP_DONE | 30000, PSHM_ECORRUPT},
        {offsetof(pshm_head, setup), PSHM_SETUP_DONE | 5 | PSHM_SETUP_LIFE << PSHM_SETUP_LIFE_SHIFT, PSHM_ECORRUPT},
        {offsetof(pshm_head, size), MB - PAGE, PSHM_ETRUNCATED},
        {offsetof(pshm_head, size), 2 * MB, PSHM_ETRUNCATED},
        {offsetof(pshm_head, id), 0, PSHM_ECORRUPT},
    };
    const pshm_arena_options r = reading();
    const char *name = helper_posix();
    pshm_arena_options options = sized(MB);
    pshm_arena *arena = arena_at(name, &options);
    add_counter(arena, "c");
    end(arena);
    options.size = PSHM_UNSET;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        uint64_t before = read_word(name, wrong[i].place);
        write_word(name, wrong[i].place, wrong[i].word);
        print_message("at %d: %s\n", (int)wrong[i].place, pshm_error_name(wrong[i].code));
        assert_rc(refusal(name, NULL), wrong[i].code);
        assert_rc(refusal(name, &r), wrong[i].code);
        assert_rc(refusal(name, &options), wrong[i].code);
        assert_true(read_word(name, wrong[i].place) == wrong[i].word); /* nobody has mended it */
        write_word(name, wrong[i].place, before);
    }
    assert_int_equal(truncate(path_of(name), MB / 2), 0);
    assert_rc(refusal(name, NULL), PSHM_ETRUNCATED);
    assert_int_equal(truncate(path_of(name), MB + 1), 0);
    assert_rc(refusal(name, NULL), PSHM_ETRUNCATED);
    assert_int_equal(truncate(path_of(name), 100), 0);
    assert_rc(refusal(name, NULL), PSHM_ENOTARENA);
    assert_int_equal(unlink(path_of(name)), 0);
}

/* Whoever set it up was killed at some word: the next one that may write goes on. */
static void test_half_made(void **state)
{
    (void)state;
    const pshm_arena_options r = reading();
    for (int k = 0; k < 2; k++) {
        const char *address = address_of((size_t)k);
        pshm_arena_options options = sized(PSHM_UNSET);
        for (int done = 0; done < 5; done++) {
            zeros(address, MB);
            write_word(address, offsetof(pshm_head, setup), PSHM_SETUP_DONE | 7);
            if (done > 0)
                write_word(address, offsetof(pshm_head, format), PSHM_FORMAT);
            if (done > 1)
                write_word(address, offsetof(pshm_head, size), MB);
            if (done > 2)
                write_word(address, offsetof(pshm_head, id), 4711);
            if (done > 3)
                write_word(address, offsetof(pshm_head, seed), 99);
            if (done > 0) /* the other half of that word */
                write_word(address, offsetof(pshm_head, format), 1);
            assert_true(refusal(address, &r) != 0);
            assert_int_equal(read_word(address, 0), 0);
            pshm_arena *arena = arena_at(address, done % 2 ? &options : NULL);
            assert_int_equal(arena->participants, 7);
            if (done > 2)
                assert_int_equal(arena->id, 4711);
            add_counter(arena, "c");
            assert_int_equal(findings(arena), 0);
            end_unlink(arena);
        }
        /* That is somebody else's, who has a word there by chance. */
        zeros(address, MB);
        write_word(address, offsetof(pshm_head, setup), PSHM_SETUP_DONE | 7);
        write_word(address, offsetof(pshm_head, roots), 1);
        assert_rc(refusal(address, &options), PSHM_ENOTARENA);
        assert_int_equal(unlink(path_of(address)), 0);
    }
}

/* ---- another boot, another file ---- */

typedef struct hold {
    const char *address;
    uint32_t *ready;
} hold;

static void until(const uint32_t *word, uint32_t value)
{
    const struct timespec pause = {0, 500000};
    for (int i = 0; i < 40000 && __atomic_load_n(word, __ATOMIC_SEQ_CST) < value; i++)
        nanosleep(&pause, NULL);
}

static int hold_for_ever(void *context)
{
    hold *h = context;
    pshm_arena *arena;
    pshm_mutex lock;
    pshm_death death;
    bool created;
    CHECK(open_arena(h->address, NULL, &arena) == 0);
    CHECK(pshm_mutex_init(&lock, arena, "lock", 4, true, PSHM_RECURSIVE_NO, &created) == 0);
    CHECK(pshm_mutex_try(&lock, &death) == 0);
    __atomic_store_n(h->ready, 1, __ATOMIC_SEQ_CST);
    for (;;)
        pause();
}

static int try_lock(pshm_arena *arena, pshm_death *death)
{
    pshm_mutex lock;
    bool created;
    assert_rc(pshm_mutex_init(&lock, arena, "lock", 4, false, PSHM_RECURSIVE_NO, &created), 0);
    int rc = pshm_mutex_try(&lock, death);
    pshm_mutex_fini(&lock);
    return rc;
}

static size_t living(pshm_arena *arena)
{
    pshm_participant *all;
    size_t count, alive = 0;
    assert_rc(pshm_arena_list_participants(arena, &all, &count), 0);
    for (size_t i = 0; i < count; i++)
        alive += all[i].alive;
    pshm_participants_free(all);
    return alive;
}

/* The boot id of the header is another one, while nobody has it open: the slots are those of the dead, whatever their
 * beacons say. */
static void test_after_a_boot(void **state)
{
    (void)state;
    const pshm_arena_options r = reading();
    for (int k = 0; k < 2; k++) {
        pshm_arena_options options = sized(MB);
        hold h = {address_of((size_t)k), helper_memory(PAGE)};
        pshm_arena *arena = arena_at(h.address, &options);
        add_counter(arena, "kept");
        end(arena);
        pid_t holder = helper_fork(hold_for_ever, &h);
        until(h.ready, 1);
        /* As the disk has it after the machine went down: with a beacon that shines. */
        static unsigned char whole[MB];
        int fd = open(path_of(h.address), O_RDONLY | O_CLOEXEC);
        assert_int_equal(pread(fd, whole, sizeof whole, 0), sizeof whole);
        close(fd);
        kill(holder, SIGKILL);
        helper_wait(holder);
        write_at(h.address, 0, whole, sizeof whole);
        uint64_t boot = read_word(h.address, offsetof(pshm_head, boot));
        write_word(h.address, offsetof(pshm_head, boot), boot ^ 1);

        arena = arena_at(h.address, &r);
        assert_int_equal(living(arena), 0);
        assert_int_equal(objects(arena), 2);
        assert_int_equal(findings(arena), 0);
        end(arena);
        assert_true(read_word(h.address, offsetof(pshm_head, boot)) == (boot ^ 1));

        arena = arena_at(h.address, NULL);
        assert_true(read_word(h.address, offsetof(pshm_head, boot)) == boot);
        assert_int_equal(living(arena), 0);
        pshm_death death = {false, 0, 0};
        assert_rc(try_lock(arena, &death), -EOWNERDEAD);
        assert_int_equal(death.pid, holder);
        assert_int_equal(objects(arena), 2);
        assert_int_equal(findings(arena), 0);
        end_unlink(arena);
        helper_memory_end(h.ready, PAGE);
    }
}

/* A copy of a live arena: its participants live, and not in the copy. */
static void test_a_copy(void **state)
{
    (void)state;
    pshm_arena_options options = sized(MB);
    hold h = {strdup(helper_file()), helper_memory(PAGE)};
    char *copy = strdup(helper_file());
    static unsigned char whole[MB];
    end(arena_at(h.address, &options));
    pid_t holder = helper_fork(hold_for_ever, &h);
    until(h.ready, 1);
    int fd = open(path_of(h.address), O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, whole, sizeof whole, 0), sizeof whole);
    close(fd);
    write_at(copy, 0, whole, sizeof whole);

    pshm_death death = {false, 0, 0};
    pshm_arena *original = arena_at(h.address, NULL), *copied = arena_at(copy, NULL);
    assert_int_equal(living(original), 1);
    assert_int_equal(living(copied), 0);
    assert_rc(try_lock(copied, &death), -EOWNERDEAD);
    assert_int_equal(death.pid, holder);
    assert_rc(try_lock(original, &death), -EBUSY);
    assert_int_equal(findings(copied), 0);
    end_unlink(copied);
    kill(holder, SIGKILL);
    helper_wait(holder);
    assert_rc(try_lock(original, &death), -EOWNERDEAD);
    end_unlink(original);
    free((char *)(uintptr_t)h.address);
    free(copy);
    helper_memory_end(h.ready, PAGE);
}

/* It names another file, and somebody uses it nevertheless: nobody may be declared dead. */
static void test_used_by_another_way(void **state)
{
    (void)state;
    pshm_arena_options options = sized(MB);
    hold h = {helper_posix(), helper_memory(PAGE)};
    end(arena_at(h.address, &options));
    pid_t holder = helper_fork(hold_for_ever, &h);
    until(h.ready, 1);
    uint64_t inode = read_word(h.address, offsetof(pshm_head, inode));
    write_word(h.address, offsetof(pshm_head, inode), inode + 1);
    assert_rc(refusal(h.address, NULL), PSHM_EELSEWHERE);
    write_word(h.address, offsetof(pshm_head, inode), inode);
    pshm_arena *arena = arena_at(h.address, NULL);
    assert_int_equal(living(arena), 1);
    kill(holder, SIGKILL);
    helper_wait(holder);
    end_unlink(arena);
    helper_memory_end(h.ready, PAGE);
}

/* ---- many at once ---- */

#define ROUNDS 400

static struct race {
    pthread_barrier_t barrier;
    volatile uint32_t created[2];
    volatile uint64_t id[2];
} * race;
static const char *raced;

static void racer(int me)
{
    pshm_arena_options options = sized(64 << 10);
    options.reserve = 0;
    for (int round = 0; round < ROUNDS; round++) {
        pshm_arena *arena;
        pshm_counter counter;
        bool created;
        int64_t now;
        pthread_barrier_wait(&race->barrier);
        CHECK(open_arena(raced, &options, &arena) == 0);
        race->created[me] += arena->created;
        race->id[me] = arena->id;
        CHECK(pshm_counter_init(&counter, arena, "c", 1, true, &created) == 0);
        CHECK(pshm_counter_add(&counter, 1, &now) == 0);
        pthread_barrier_wait(&race->barrier);
        CHECK(race->id[0] == race->id[1]);
        CHECK(pshm_counter_load(&counter, &now) == 0 && now == 2);
        pshm_counter_fini(&counter);
        if (me == 0)
            CHECK(pshm_arena_unlink(arena) == 0);
        pshm_arena_close(arena);
        pshm_arena_release(arena);
        pthread_barrier_wait(&race->barrier);
    }
}

static int second_racer(void *context)
{
    (void)context;
    racer(1);
    return 0;
}

static void test_two_creators(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        pthread_barrierattr_t attributes;
        raced = address_of(k);
        race = helper_memory(sizeof *race);
        pthread_barrierattr_init(&attributes);
        pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        pthread_barrier_init(&race->barrier, &attributes, 2);
        pthread_barrierattr_destroy(&attributes);
        pid_t other = helper_fork(second_racer, NULL);
        racer(0);
        assert_int_equal(helper_wait(other), 0);
        assert_int_equal(race->created[0] + race->created[1], ROUNDS);
        pthread_barrier_destroy(&race->barrier);
        helper_memory_end(race, sizeof *race);
    }
}

static int create_for_ever(void *context)
{
    pshm_arena_options options = sized(64 << 10);
    for (;;) {
        pshm_arena *arena;
        CHECK(open_arena(context, &options, &arena) == 0);
        int rc = pshm_arena_unlink(arena);
        CHECK(rc == 0 || rc == -ENOENT || rc == -EIDRM);
        pshm_arena_close(arena);
        pshm_arena_release(arena);
    }
}

/* Killed at any moment of it, the creator leaves nothing or an arena; who comes next always gets one. */
static void test_creator_is_killed(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        char *address = strdup(address_of(k));
        pshm_arena_options options = sized(64 << 10);
        for (int round = 0; round < 150; round++) {
            const struct timespec time = {0, round * 7919 % 3000 * 1000};
            pid_t creator = helper_fork(create_for_ever, address);
            nanosleep(&time, NULL);
            kill(creator, SIGKILL);
            assert_int_equal(helper_wait(creator), 256 + SIGKILL);
            pshm_arena *arena = arena_at(address, &options);
            add_counter(arena, "c");
            assert_int_equal(objects(arena), 1);
            assert_int_equal(findings(arena), 0);
            end_unlink(arena);
        }
        free(address);
    }
}

/* ---- the end ---- */

static void test_closed(void **state)
{
    (void)state;
    const char *name = helper_posix();
    pshm_arena_options options = sized(MB);
    pshm_arena *arena = arena_at(name, &options), *other = arena_at(name, NULL);
    pshm_counter counter = counter_in(arena, "c");
    pshm_participant *all;
    pshm_entry *entries;
    pshm_arena_stats stats;
    char *report;
    size_t count;
    uint32_t kind;
    int64_t value;
    uint64_t size;
    pshm_arena_retain(arena);
    pshm_arena_close(arena);
    pshm_arena_close(arena);
    assert_true(arena->closed);
    assert_rc(pshm_arena_find(arena, "c", 1, &kind), PSHM_ECLOSED);
    assert_rc(pshm_arena_list(arena, &entries, &count), PSHM_ECLOSED);
    assert_rc(pshm_arena_delete(arena, "c", 1, NULL), PSHM_ECLOSED);
    assert_rc(pshm_arena_stats_of(arena, &stats), PSHM_ECLOSED);
    assert_rc(pshm_arena_check(arena, &report, &count), PSHM_ECLOSED);
    assert_rc(pshm_arena_list_participants(arena, &all, &count), PSHM_ECLOSED);
    assert_rc(pshm_participant_attach(arena), PSHM_ECLOSED);
    assert_rc(pshm_arena_unlink(arena), PSHM_ECLOSED);
    assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(0), 8), PSHM_ECLOSED);
    assert_rc(pshm_heap_block_size(arena, 8192, &size), PSHM_ECLOSED);
    assert_rc(pshm_object_check(&counter.object), PSHM_ECLOSED);
    assert_rc(pshm_counter_load(&counter, &value), PSHM_ECLOSED);
    pshm_counter_fini(&counter);
    pshm_arena_release(arena);
    pshm_arena_release(arena);
    assert_int_equal(objects(other), 1);
    end_unlink(other);
}

static void test_unlink_of_what_is_another_now(void **state)
{
    (void)state;
    const char *name = helper_posix();
    pshm_arena_options options = sized(MB);
    pshm_arena *old = arena_at(name, &options);
    add_counter(old, "old");
    assert_rc(pshm_arena_unlink(old), 0);
    assert_rc(pshm_arena_unlink(old), -ENOENT);
    pshm_arena *new = arena_at(name, &options);
    assert_true(new->created &&new->id != old->id &&new->attachment != old->attachment);
    assert_true(pshm_arena_unlink(old) != 0);
    assert_int_equal(objects(old), 1);
    assert_int_equal(objects(new), 0);
    end(old);
    end_unlink(new);
}

static int open_and_close(void *context)
{
    pshm_arena *arena;
    CHECK(open_arena(context, NULL, &arena) == 0);
    CHECK(arena->life == PSHM_LIFE_LAST_DETACH);
    pshm_arena_close(arena);
    pshm_arena_release(arena);
    return 0;
}

static int open_and_die(void *context)
{
    pshm_arena *arena;
    CHECK(open_arena(context, NULL, &arena) == 0);
    CHECK(pshm_participant_attach(arena) == 0);
    return raise(SIGKILL);
}

static void test_last_detach(void **state)
{
    (void)state;
    const pshm_arena_options r = reading();
    static pshm_arena *arena, *second; /* children have them too, and lose none of them */
    static char *address;
    for (size_t k = 0; k < 3; k++) {
        address = strdup(address_of(k));
        pshm_arena_options options = sized(MB);
        options.life = PSHM_LIFE_LAST_DETACH;
        arena = arena_at(address, &options);
        second = arena_at(address, NULL);
        add_counter(arena, "c");
        end(arena);
        assert_int_equal(objects(second), 1);
        helper_in_child(open_and_close, address); /* is not the last */
        assert_int_equal(helper_wait(helper_fork(open_and_die, address)), 256 + SIGKILL);
        assert_int_equal(objects(second), 1);
        end(second);
        assert_rc(refusal(address, NULL), -ENOENT);

        /* The last one is killed: the next one finds nobody, and makes a new one. */
        arena = arena_at(address, &options);
        uint64_t id = arena->id;
        pid_t child = helper_fork(open_and_die, address);
        assert_int_equal(helper_wait(child), 256 + SIGKILL);
        end(arena);
        assert_rc(refusal(address, NULL), -ENOENT);
        arena = arena_at(address, &options);
        assert_true(arena->created && arena->id != id);
        /* Who reads keeps it, and does not remove it. */
        second = arena_at(address, &r);
        end(arena);
        assert_int_equal(objects(second), 0);
        end(second);
        assert_rc(refusal(address, NULL), -ENOENT);
        arena = arena_at(address, &options);
        assert_true(arena->created);
        end(arena);
        free(address);
    }
}

/* In a child: the beacon that it lost there stays in its thread's list. */
static int cut_short(void *context)
{
    const char *name = context;
    pshm_arena *arena;
    pshm_counter counter;
    pshm_arena_stats stats;
    bool created;
    int64_t value;
    char *report;
    size_t count;
    CHECK(open_arena(name, NULL, &arena) == 0);
    CHECK(pshm_counter_init(&counter, arena, "c", 1, true, &created) == 0);
    CHECK(truncate(path_of(name), PAGE) == 0);
    CHECK(pshm_counter_load(&counter, &value) == PSHM_ELOST);
    CHECK(pshm_counter_add(&counter, 1, &value) == PSHM_ELOST);
    CHECK(pshm_arena_stats_of(arena, &stats) == PSHM_ELOST);
    CHECK(pshm_arena_check(arena, &report, &count) == PSHM_ELOST);
    CHECK(pshm_counter_init(&counter, arena, "d", 1, true, &created) == PSHM_ELOST);
    pshm_counter_fini(&counter);
    pshm_arena_close(arena);
    pshm_arena_release(arena);
    return 0;
}

static void test_cut_short(void **state)
{
    (void)state;
    if (helper_valgrind_lacks("a handler for SIGBUS"))
        return;
    char *name = strdup(helper_posix());
    pshm_arena_options options = sized(MB);
    end(arena_at(name, &options));
    helper_sigbus();
    helper_in_child(cut_short, name);
    assert_rc(refusal(name, NULL), PSHM_ETRUNCATED);
    assert_int_equal(unlink(path_of(name)), 0);
    free(name);
}

/* ---- the whole ---- */

static void test_stats_and_check(void **state)
{
    (void)state;
    const char *name = helper_posix();
    pshm_arena_options options = sized(MB);
    options.participants = 10;
    pshm_arena *arena = arena_at(name, &options);
    pshm_arena_stats stats;
    assert_rc(pshm_arena_stats_of(arena, &stats), 0);
    assert_int_equal(stats.size, MB);
    assert_int_equal(stats.participants, 10);
    assert_int_equal(stats.used + stats.objects + stats.taking_part + stats.large + stats.large_pages, 0);
    assert_true(stats.free == stats.heap && stats.largest_free == stats.heap && stats.heap > MB * 9 / 10);
    assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(0), 100000), 0);
    assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(1), 100), 0);
    add_counter(arena, "a");
    add_counter(arena, "b");
    assert_rc(pshm_arena_stats_of(arena, &stats), 0);
    assert_int_equal(stats.objects, 2);
    assert_int_equal(stats.taking_part, 1);
    assert_int_equal(stats.large, 1);
    assert_int_equal(stats.large_pages, 25);
    uint64_t used = stats.large_pages * PAGE, blocks = 0;
    for (uint32_t i = 0; i < stats.classes; i++) {
        used += stats.class_[i].used * stats.class_[i].block;
        blocks += stats.class_[i].used;
    }
    assert_int_equal(used, stats.used);
    assert_int_equal(blocks, 4); /* mine, two objects, and the directory's table */
    assert_int_equal(stats.used + stats.free, stats.heap);
    assert_int_equal(findings(arena), 0);

    /* Each kind of damage is found, and named with its place. */
    const pshm_geometry at = arena->attachment->at;
    const uint64_t places[] = {at.pages,
                               at.taken,
                               at.partial,
                               offsetof(pshm_head, heap.intent.operation),
                               offsetof(pshm_head, directory.live),
                               offsetof(pshm_head, directory.table),
                               pshm_heap_root(2)};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char *report;
        size_t count;
        uint64_t before = read_word(name, places[i]);
        pshm_arena_options r = reading();
        end(arena);
        write_word(name, places[i], before ^ 0x30);
        arena = arena_at(name, &r);
        assert_rc(pshm_arena_check(arena, &report, &count), 0);
        print_message("at %d: %s", (int)places[i], count ? report : "nothing\n");
        assert_true(count > 0);
        assert_true(!strncmp(report, "at ", 3) && strstr(report, ": "));
        size_t lines = 1;
        for (const char *c = report; *c; c++)
            lines += *c == '\n' && c[1];
        assert_int_equal(lines, count);
        pshm_report_free(report);
        write_word(name, places[i], before);
        assert_int_equal(findings(arena), 0);
    }
    end(arena);
    assert_int_equal(unlink(path_of(name)), 0);
}

/* Dies while it looks whether it is the last one on System V. */
static int die_in_close(void *context)
{
    const char *address = context;
    pshm_arena *arena;
    pshm_member *m;
    bool repair;
    CHECK(open_arena(address, NULL, &arena) == 0);
    CHECK(pshm_member_of(arena->attachment, &m) == 0);
    CHECK(pshm_owner_enter(m, &arena->attachment->head->ending, &repair) == 0);
    raise(SIGKILL);
    return 1;
}

/* It stands in nobody's way, neither while others have the arena nor after them. */
static void test_killed_while_it_closes(void **state)
{
    (void)state;
    pshm_arena_options options = sized(MB);
    options.life = PSHM_LIFE_LAST_DETACH;
    static pshm_arena *first;
    first = arena_at(KEY, &options);
    char address[] = KEY;
    assert_int_equal(helper_wait(helper_fork(die_in_close, address)), 256 + SIGKILL);
    pid_t pid = fork();
    if (pid == 0) {
        pshm_arena *second;
        alarm(20);
        int rc = open_arena(KEY, NULL, &second);
        if (!rc)
            end(second);
        _exit(rc != 0);
    }
    assert_int_equal(helper_wait(pid), 0);
    end(first);
    assert_int_equal(pshm_exists(KEY, strlen(KEY)), 0);
}

/* A slot names a place before it is asked whether the lock there was deleted: what has the memory by then stays as it
 * is, whatever its bytes are like. */
static int die_with_a_stale_note(void *context)
{
    pshm_arena *arena = context;
    pshm_member *m;
    uint64_t place;
    CHECK(pshm_member_of(arena->attachment, &m) == 0);
    CHECK(pshm_heap_read(arena, pshm_heap_root(0), &place, sizeof place) == 0);
    for (uint64_t at = 0; at < 256; at += 8) {
        const uint64_t like = m->me | (uint64_t)m->me << 32;
        CHECK(pshm_heap_write(arena, place + at, &like, sizeof like) == 0);
    }
    CHECK(pshm_member_note(m, place + 64) >= 0);
    raise(SIGKILL);
    return 1;
}

static void test_foreign_bytes_are_not_marked(void **state)
{
    (void)state;
    pshm_arena_options options = sized(MB);
    static pshm_arena *arena;
    arena = arena_at("anon:", &options);
    assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(0), 256), 0);
    assert_int_equal(helper_wait(helper_fork(die_with_a_stale_note, arena)), 256 + SIGKILL);
    uint64_t place, before[32], after[32];
    assert_rc(pshm_heap_read(arena, pshm_heap_root(0), &place, sizeof place), 0);
    assert_rc(pshm_heap_read(arena, place, before, sizeof before), 0);
    assert_int_not_equal(before[8], 0);
    pid_t pid = fork(); /* takes the slot of the dead */
    if (pid == 0)
        _exit(pshm_participant_attach(arena) != 0);
    assert_int_equal(helper_wait(pid), 0);
    assert_rc(pshm_heap_read(arena, place, after, sizeof after), 0);
    assert_memory_equal(before, after, sizeof before);
    end(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_every_kind),
        TEST(test_defaults),
        TEST(test_wrong_options),
        TEST(test_exclusive_and_parameters),
        TEST(test_waiting_for_a_creator),
        TEST(test_readonly),
        TEST(test_foreign),
        TEST(test_system_v_memory),
        TEST(test_first_system_v_id),
        TEST(test_header),
        TEST(test_half_made),
        TEST(test_after_a_boot),
        TEST(test_a_copy),
        TEST(test_used_by_another_way),
        TEST(test_two_creators),
        TEST(test_creator_is_killed),
        TEST(test_closed),
        TEST(test_unlink_of_what_is_another_now),
        TEST(test_last_detach),
        TEST(test_killed_while_it_closes),
        TEST(test_foreign_bytes_are_not_marked),
        TEST(test_cut_short),
        TEST(test_stats_and_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
