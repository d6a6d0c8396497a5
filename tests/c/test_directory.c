/* SPDX-License-Identifier: MIT
 *
 * The directory: names, create-or-open, deletion under use, growth, repair after a death in its lock, hostile bytes.
 */
#include "helper.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <polyshm/participant.h>

#include "core/directory_inside.h"
#include "core/findings.h"
#include "core/participant.h"

#define MUTEX 1u
#define COUNTER 2u
#define MIB (UINT64_C(1) << 20)
#define BODY 64u

static pshm_arena *arena_of(uint64_t size)
{
    const char *address = helper_posix();
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *arena = NULL;
    options.size = size;
    options.create = true;
    options.participants = 16;
    options.reserve = 0;
    assert_rc(pshm_arena_open(address, strlen(address), &options, &arena), 0);
    return arena;
}

static void end(pshm_arena *arena)
{
    assert_rc(pshm_arena_unlink(arena), 0);
    assert_rc(pshm_participant_detach(arena), 0);
    pshm_arena_close(arena);
    pshm_arena_release(arena);
}

/* ---- what the tests do ---- */

static int open_sized(pshm_object *object, pshm_arena *arena, const char *name, size_t size, uint32_t kind, bool create,
                      uint64_t body_size)
{
    static const uint64_t prefix[2] = {0, UINT64_C(0x0123456789abcdef)};
    uint32_t flags;
    bool created;
    const pshm_wish wish = {.name = name,
                            .name_size = size,
                            .kind = kind,
                            .create = create,
                            .flags = 7,
                            .body = prefix,
                            .body_size = body_size,
                            .body_prefix = sizeof prefix};
    int rc;
    do
        rc = pshm_object_open(object, arena, &wish, &flags, &created);
    while (rc == -EINTR);
    return rc ? rc : created ? 1 : 0;
}

/* 1: made; 0: was there. */
static int open_as(pshm_object *object, pshm_arena *arena, const char *name, uint32_t kind, bool create)
{
    return open_sized(object, arena, name, strlen(name), kind, create, BODY);
}

static int delete (pshm_arena *arena, const char *name, const pshm_object *object)
{
    int rc;
    do
        rc = pshm_arena_delete(arena, name, strlen(name), object);
    while (rc == -EINTR);
    return rc;
}

/* The same without a handle that is kept. */
static int make(pshm_arena *arena, const char *name)
{
    pshm_object object;
    int rc = open_as(&object, arena, name, COUNTER, true);
    pshm_object_fini(&object);
    return rc;
}

static int find(pshm_arena *arena, const char *name)
{
    uint32_t kind = 0;
    int rc = pshm_arena_find(arena, name, strlen(name), &kind);
    return rc ? rc : (int)kind;
}

static pshm_member *member(pshm_arena *arena)
{
    pshm_member *m;
    assert_rc(pshm_member_of(arena->attachment, &m), 0);
    return m;
}

static int enter(pshm_member *m)
{
    int rc;
    do
        rc = pshm_directory_enter(m);
    while (rc == -EINTR);
    return rc;
}

static pshm_directory_head *head(const pshm_arena *arena)
{
    return &arena->attachment->head->directory;
}

static uint64_t *entry_of(const pshm_arena *arena, const char *name)
{
    pshm_key key;
    pshm_found found;
    if (pshm_key_of(arena->attachment, name, strlen(name), &key) ||
        pshm_directory_look(arena->attachment, &key, &found))
        return NULL;
    return pshm_word_at(arena->attachment, found.target);
}

/* ---- is all well? ---- */

typedef struct blocks {
    uint64_t *known;
    size_t count, room;
    size_t leaked, used;
} blocks;

static void note_known(void *context, uint64_t place)
{
    blocks *b = context;
    if (b->count == b->room) {
        b->room = b->room ? 2 * b->room : 1024;
        b->known = realloc(b->known, b->room * sizeof *b->known);
    }
    b->known[b->count++] = place;
}

static int compare(const void *left, const void *right)
{
    uint64_t l = *(const uint64_t *)left, r = *(const uint64_t *)right;
    return (l > r) - (l < r);
}

static void note_used(void *context, uint64_t place, uint64_t size)
{
    blocks *b = context;
    (void)size;
    b->used++;
    if (!bsearch(&place, b->known, b->count, sizeof place, compare)) {
        b->leaked++;
        print_error("leaked: the block at %llu\n", (unsigned long long)place);
    }
}

/* Nothing is found, each block is known once, and none is in use that nobody knows. */
static void assert_clean(pshm_arena *arena)
{
    pshm_member *m = member(arena);
    pshm_findings f = {0};
    blocks b = {0};
    assert_rc(enter(m), 0);
    pshm_directory_check(arena->attachment, &f, note_known, &b);
    if (b.count)
        qsort(b.known, b.count, sizeof *b.known, compare);
    assert_rc(pshm_heap_enter(m), 0);
    pshm_heap_check(arena->attachment, &f, note_used, &b);
    pshm_heap_leave(m);
    pshm_directory_leave(m);
    if (f.text)
        print_error("%s", f.text);
    assert_true(!f.count && !f.out_of_memory && !b.leaked);
    assert_int_equal(b.used, b.count);
    free(b.known);
    free(f.text);
}

/* How many findings, and do they say this? */
static size_t findings(pshm_arena *arena, const char *what)
{
    pshm_findings f = {0};
    blocks b = {0};
    pshm_member *m = member(arena);
    assert_rc(enter(m), 0);
    pshm_directory_check(arena->attachment, &f, note_known, &b);
    pshm_directory_leave(m);
    if (f.count && !strstr(f.text, what))
        print_error("%s", f.text);
    assert_true(!f.count || strstr(f.text, what));
    free(f.text);
    free(b.known);
    return f.count;
}

/* ---- deaths ---- */

typedef struct death {
    pshm_arena *arena;
    void (*half)(pshm_arena *arena, pshm_member *m);
} death;

static int die_inside(void *context)
{
    const death *d = context;
    pshm_member *m;
    CHECK(pshm_member_of(d->arena->attachment, &m) == 0);
    CHECK(enter(m) == 0);
    d->half(d->arena, m);
    raise(SIGKILL);
    return 1;
}

/* Somebody takes the directory's lock, does half of something and is killed. */
static void half_done(pshm_arena *arena, void (*half)(pshm_arena *arena, pshm_member *m))
{
    death d = {arena, half};
    assert_int_equal(helper_wait(helper_fork(die_inside, &d)), 256 + SIGKILL);
}

/* ---- names ---- */

static void test_sizes_of_names(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    pshm_object object;
    char name[256];
    memset(name, 'n', sizeof name);
    for (size_t size = 1; size <= 255; size++) {
        assert_int_equal(open_sized(&object, arena, name, size, COUNTER, true, BODY), 1);
        assert_true(object.name_size == size && strlen(object.name) == size && !memcmp(object.name, name, size));
        assert_true((uintptr_t)object.body % 64 == 0 && object.place % 64 == 0 && object.kind == COUNTER);
        const uint64_t *body = object.body;
        assert_true(body[0] == 0 && body[1] == UINT64_C(0x0123456789abcdef) && body[2] == 0 && body[7] == 0);
        pshm_object_fini(&object);
        pshm_object_fini(&object); /* twice does no harm */
    }
    uint32_t kind;
    assert_rc(pshm_arena_find(arena, name, 0, &kind), PSHM_ENAMESIZE);
    assert_rc(pshm_arena_find(arena, name, 256, &kind), PSHM_ENAMESIZE);
    assert_int_equal(open_sized(&object, arena, name, 256, COUNTER, true, BODY), PSHM_ENAMESIZE);
    assert_rc(pshm_arena_delete(arena, name, 0, NULL), PSHM_ENAMESIZE);
    assert_int_equal(pshm_directory_count(arena->attachment), 255);
    assert_clean(arena);
    end(arena);
}

static void test_text_of_names(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t size;
    } good[] =
        {
            {"\x01", 1},
            {"\x7f", 1},
            {"\xc2\x80", 2},
            {"\xdf\xbf", 2},
            {"\xe0\xa0\x80", 3},
            {"\xed\x9f\xbf", 3},
            {"\xee\x80\x80", 3},
            {"\xef\xbf\xbf", 3},
            {"\xf0\x90\x80\x80", 4},
            {"\xf4\x8f\xbf\xbf", 4},
            {"gr\xc3\xb6\xc3\x9f"
             "e \xf0\x9f\x90\x8d",
             12},
        },
      bad[] = {
          {"\0", 1},
          {"a\0b", 3},
          {"\x80", 1},
          {"\xbf", 1},
          {"\xc2", 1},
          {"\xc2"
           "a",
           2},
          {"\xc0\x80", 2},
          {"\xc1\xbf", 2},
          {"\xe0\x80\x80", 3},
          {"\xe0\x9f\xbf", 3},
          {"\xe2\x82", 2},
          {"\xed\xa0\x80", 3},
          {"\xed\xbf\xbf", 3},
          {"\xf0\x80\x80\x80", 4},
          {"\xf0\x8f\xbf\xbf", 4},
          {"\xf4\x90\x80\x80", 4},
          {"\xf5\x80\x80\x80", 4},
          {"\xf8\x88\x80\x80\x80", 5},
          {"\xfe", 1},
          {"\xff", 1},
          {"abc\xf0\x9f\x90", 6},
      };
    pshm_arena *arena = arena_of(MIB);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        pshm_object object;
        assert_int_equal(open_sized(&object, arena, good[i].text, good[i].size, COUNTER, true, BODY), 1);
        pshm_object_fini(&object);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        pshm_object object;
        uint32_t kind;
        assert_int_equal(open_sized(&object, arena, bad[i].text, bad[i].size, COUNTER, true, BODY), PSHM_ENAMETEXT);
        assert_null(object.arena);
        assert_rc(pshm_arena_find(arena, bad[i].text, bad[i].size, &kind), PSHM_ENAMETEXT);
        assert_rc(pshm_arena_delete(arena, bad[i].text, bad[i].size, NULL), PSHM_ENAMETEXT);
    }
    end(arena);
}

static void test_nouns(void **state)
{
    (void)state;
    assert_string_equal(pshm_noun_name(MUTEX), "mutex");
    assert_string_equal(pshm_noun_name(COUNTER), "counter");
    assert_null(pshm_noun_name(0));
    assert_null(pshm_noun_name(UINT32_MAX));
}

/* ---- opening ---- */

static void test_open_and_create(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    pshm_object one, other;
    assert_int_equal(find(arena, "a"), PSHM_ENONAME);
    assert_int_equal(open_as(&one, arena, "a", COUNTER, false), PSHM_ENONAME);
    assert_int_equal(delete (arena, "a", NULL), PSHM_ENONAME);
    assert_int_equal(head(arena)->table[0], 0); /* nobody who only looks makes anything */
    assert_int_equal(open_as(&one, arena, "a", COUNTER, true), 1);
    assert_int_equal(open_as(&other, arena, "a", COUNTER, true), 0);
    assert_true(one.body == other.body && one.serial == other.serial && one.serial != 0);
    assert_rc(pshm_object_check(&one), 0);
    pshm_object_fini(&other);
    assert_int_equal(open_as(&other, arena, "a", MUTEX, true), PSHM_EKIND);
    assert_int_equal(open_as(&other, arena, "a", MUTEX, false), PSHM_EKIND);
    assert_int_equal(open_sized(&other, arena, "a", 1, COUNTER, true, BODY + 1), PSHM_ECORRUPT);
    assert_int_equal(find(arena, "a"), COUNTER);
    char name[256];
    assert_true(pshm_directory_name(arena->attachment, one.place, name));
    assert_string_equal(name, "a");
    assert_true(pshm_directory_name(arena->attachment, pshm_place_of(arena->attachment, one.body), name));
    assert_false(pshm_directory_name(arena->attachment, head(arena)->table[0], name));
    assert_false(pshm_directory_name(arena->attachment, 0, name));
    assert_false(pshm_directory_name(arena->attachment, UINT64_MAX, name));
    assert_clean(arena);
    pshm_object_fini(&one);
    end(arena);
}

static void test_readonly(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB), *reader = NULL;
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_object object;
    pshm_entry *entries;
    size_t count;
    options.access = PSHM_ACCESS_R;
    assert_rc(pshm_arena_open(arena->address, strlen(arena->address), &options, &reader), 0);
    assert_int_equal(open_as(&object, reader, "a", COUNTER, true), PSHM_EREADONLY);
    assert_int_equal(open_as(&object, reader, "a", COUNTER, false), PSHM_ENONAME);
    assert_int_equal(make(arena, "a"), 1);
    assert_int_equal(open_as(&object, reader, "a", COUNTER, true), 0);
    assert_rc(pshm_object_check(&object), 0);
    pshm_member *m;
    assert_rc(pshm_object_enter(&object, &m), PSHM_EREADONLY);
    assert_int_equal(find(reader, "a"), COUNTER);
    assert_int_equal(delete (reader, "a", NULL), PSHM_EREADONLY);
    assert_rc(pshm_arena_list(reader, &entries, &count), 0);
    assert_int_equal(count, 1);
    pshm_entries_free(entries);
    assert_int_equal(delete (arena, "a", NULL), 0);
    assert_rc(pshm_object_check(&object), PSHM_EDELETED);
    pshm_object_fini(&object);
    pshm_arena_close(reader);
    pshm_arena_release(reader);
    end(arena);
}

static void test_closed(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    pshm_object object, other;
    pshm_member *m;
    pshm_entry *entries;
    size_t count;
    assert_int_equal(open_as(&object, arena, "a", COUNTER, true), 1);
    pshm_arena_retain(arena);
    end(arena);
    assert_rc(pshm_object_check(&object), PSHM_ECLOSED);
    assert_rc(pshm_object_enter(&object, &m), PSHM_ECLOSED);
    assert_int_equal(open_as(&other, arena, "a", COUNTER, true), PSHM_ECLOSED);
    assert_int_equal(find(arena, "a"), PSHM_ECLOSED);
    assert_int_equal(delete (arena, "a", NULL), PSHM_ECLOSED);
    assert_rc(pshm_arena_list(arena, &entries, &count), PSHM_ECLOSED);
    pshm_object_fini(&object);
    assert_rc(pshm_object_check(&object), PSHM_ECLOSED);
    pshm_arena_release(arena);
}

/* ---- deleting ---- */

static void test_delete(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    pshm_object old, now;
    pshm_member *m;
    uint64_t start, size;
    assert_int_equal(open_as(&old, arena, "a", COUNTER, true), 1);
    assert_rc(pshm_object_enter(&old, &m), 0);
    assert_int_equal(m->slot->busy, old.place);
    pshm_object_leave(m);
    assert_int_equal(delete (arena, "a", &old), 0);
    assert_false(pshm_heap_find(arena->attachment, old.place, &start, &size));
    assert_rc(pshm_object_check(&old), PSHM_EDELETED);
    assert_rc(pshm_object_enter(&old, &m), PSHM_EDELETED);
    assert_int_equal(m->slot->busy, 0);
    assert_int_equal(find(arena, "a"), PSHM_ENONAME);
    assert_int_equal(delete (arena, "a", NULL), PSHM_ENONAME);
    assert_int_equal(delete (arena, "a", &old), PSHM_EDELETED);
    /* Another of the name, in the same place, is another. */
    assert_int_equal(open_as(&now, arena, "a", MUTEX, true), 1);
    assert_true(now.place == old.place && now.serial != old.serial);
    assert_rc(pshm_object_enter(&old, &m), PSHM_EDELETED);
    assert_int_equal(delete (arena, "a", &old), PSHM_EDELETED);
    assert_rc(pshm_object_check(&now), 0);
    assert_int_equal(find(arena, "a"), MUTEX);
    assert_clean(arena);
    pshm_object_fini(&old);
    pshm_object_fini(&now);
    end(arena);
}

/* A thread that is inside a call on an object until it is told to leave. */
typedef struct guest {
    pshm_object *object;
    int in[2], out[2];
    pthread_t thread;
} guest;

static void *be_inside(void *context)
{
    guest *g = context;
    pshm_member *m = NULL;
    char byte = pshm_object_enter(g->object, &m) == 0;
    ssize_t done = write(g->in[1], &byte, 1);
    done += read(g->out[0], &byte, 1);
    if (m)
        pshm_object_leave(m);
    pshm_participant_detach(g->object->arena);
    return done == 2 ? g : NULL;
}

static void go_in(guest *g, pshm_object *object)
{
    char byte = 0;
    g->object = object;
    assert_true(pipe(g->in) == 0 && pipe(g->out) == 0);
    assert_int_equal(pthread_create(&g->thread, NULL, be_inside, g), 0);
    assert_true(read(g->in[0], &byte, 1) == 1 && byte == 1);
}

static void come_out(guest *g)
{
    void *result;
    assert_int_equal(write(g->out[1], "x", 1), 1);
    pthread_join(g->thread, &result);
    assert_non_null(result);
    for (int i = 0; i < 2; i++) {
        close(g->in[i]);
        close(g->out[i]);
    }
}

static void test_delete_under_use(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    pshm_object object[3];
    guest guests[2];
    pshm_member *m;
    uint64_t start, size;
    assert_int_equal(open_as(&object[0], arena, "a", COUNTER, true), 1);
    assert_int_equal(open_as(&object[1], arena, "b", COUNTER, true), 1);
    go_in(&guests[0], &object[0]);
    go_in(&guests[1], &object[1]);
    assert_int_equal(delete (arena, "a", &object[0]), 0);
    assert_int_equal(delete (arena, "b", NULL), 0);
    for (int i = 0; i < 2; i++) {
        assert_true(pshm_heap_find(arena->attachment, object[i].place, &start, &size));
        assert_rc(pshm_object_enter(&object[i], &m), PSHM_EDELETED);
    }
    assert_true(head(arena)->deleted == 2 && head(arena)->live == 0 && pshm_directory_count(arena->attachment) == 0);
    assert_clean(arena);
    /* The name is free, and the memory is not. */
    assert_int_equal(open_as(&object[2], arena, "a", COUNTER, true), 1);
    assert_true(object[2].place != object[0].place && object[2].place != object[1].place);
    come_out(&guests[1]);
    assert_int_equal(make(arena, "c"), 1);
    assert_int_equal(head(arena)->deleted, 1);
    come_out(&guests[0]);
    assert_int_equal(delete (arena, "c", NULL), 0);
    assert_int_equal(head(arena)->deleted, 0);
    assert_int_equal(find(arena, "a"), COUNTER);
    assert_rc(pshm_object_check(&object[2]), 0);
    assert_clean(arena);
    for (int i = 0; i < 3; i++)
        pshm_object_fini(&object[i]);
    end(arena);
}

/* What is deleted and held keeps its memory in a full arena, until it is needed and nobody holds it. */
static void test_no_room(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    pshm_object large, other;
    char name[32];
    guest g;
    int made = 0;
    assert_int_equal(open_sized(&large, arena, "large", 5, COUNTER, true, MIB / 4), 1);
    for (;; made++) {
        snprintf(name, sizeof name, "%d", made);
        int rc = make(arena, name);
        if (rc == -ENOSPC)
            break;
        assert_int_equal(rc, 1);
    }
    assert_true(made > 1000);
    assert_int_equal(find(arena, name), PSHM_ENONAME);
    assert_clean(arena);
    go_in(&g, &large);
    assert_int_equal(delete (arena, "large", NULL), 0);
    assert_int_equal(open_sized(&other, arena, "other", 5, COUNTER, true, MIB / 4), -ENOSPC);
    assert_int_equal(delete (arena, "large", NULL), PSHM_ENONAME);
    come_out(&g);
    /* A count that is wrong hides it from all but who needs the room. */
    pshm_store(&head(arena)->deleted, 0);
    assert_int_equal(open_sized(&other, arena, "other", 5, COUNTER, true, MIB / 4), 1);
    pshm_object_fini(&other);
    pshm_object_fini(&large);
    end(arena);
}

/* ---- many ---- */

static void assert_listed(pshm_arena *arena, int count)
{
    pshm_entry *entries = NULL;
    size_t listed;
    unsigned char *seen = calloc((size_t)count, 1);
    assert_rc(pshm_arena_list(arena, &entries, &listed), 0);
    assert_int_equal(listed, count);
    for (size_t i = 0; i < listed; i++) {
        int number = atoi(entries[i].name + 5);
        assert_true(number >= 0 && number < count && !seen[number]++);
        assert_true(entries[i].kind == COUNTER && entries[i].serial && entries[i].body_size == BODY);
        assert_int_equal(entries[i].name_size, strlen(entries[i].name));
    }
    pshm_entries_free(entries);
    pshm_entries_free(NULL);
    free(seen);
}

static void test_many_names(void **state)
{
    (void)state;
    enum { NAMES = 65536 };
    pshm_arena *arena = arena_of(64 * MIB);
    char name[32];
    assert_listed(arena, 0);
    for (int i = 0; i < NAMES; i++) {
        snprintf(name, sizeof name, "name-%d", i);
        assert_int_equal(make(arena, name), 1);
        if ((i & (i - 1)) == 0)
            assert_clean(arena);
    }
    for (int i = 0; i < NAMES; i++) {
        snprintf(name, sizeof name, "name-%d", i);
        assert_int_equal(find(arena, name), COUNTER);
    }
    assert_int_equal(find(arena, "name-65536"), PSHM_ENONAME);
    assert_listed(arena, NAMES);
    assert_int_equal(pshm_directory_count(arena->attachment), NAMES);
    assert_clean(arena);
    for (int i = NAMES; i-- > 0;) {
        snprintf(name, sizeof name, "name-%d", i);
        assert_int_equal(delete (arena, name, NULL), 0);
        if (i == NAMES / 2)
            assert_listed(arena, i);
    }
    assert_listed(arena, 0);
    assert_clean(arena);
    end(arena);
}

static void test_tombstones(void **state)
{
    (void)state;
    const int times = helper_valgrind_lacks("time for a million") ? 1000 : 1000000;
    pshm_arena *arena = arena_of(MIB);
    char name[32];
    for (int i = 0; i < times; i++) {
        assert_int_equal(make(arena, "one"), 1);
        assert_int_equal(delete (arena, "one", NULL), 0);
    }
    assert_int_equal(head(arena)->entries[head(arena)->active & 1], PSHM_TABLE_MIN);
    /* Other names each time: the table is cleared now and then, and does not grow. */
    for (int i = 0; i < times / 10 + 1000;
         i++) { /* enough to use up three quarters of the entries, wherever they fall */
        snprintf(name, sizeof name, "%d", i);
        assert_int_equal(make(arena, name), 1);
        assert_int_equal(delete (arena, name, NULL), 0);
    }
    assert_int_equal(head(arena)->entries[head(arena)->active & 1], PSHM_TABLE_MIN);
    assert_true(head(arena)->active > 2);
    assert_clean(arena);
    end(arena);
}

/* ---- repair ---- */

static void with_names(pshm_arena *arena, int count)
{
    char name[32];
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "name-%d", i);
        assert_int_equal(make(arena, name), 1);
    }
}

/* The next operation of a survivor puts it right; each kind of operation comes to that. */
static void assert_repaired(pshm_arena *arena, void (*half)(pshm_arena *arena, pshm_member *m), int count)
{
    for (int next = 0; next < 3; next++) {
        half_done(arena, half);
        assert_int_equal(find(arena, "name-0"), COUNTER); /* who looks is not kept waiting */
        if (next == 0)
            assert_int_equal(make(arena, "next"), 1);
        else if (next == 1)
            assert_int_equal(delete (arena, "next", NULL), 0);
        assert_clean(arena);
        assert_int_equal(head(arena)->table[!(head(arena)->active & 1)], 0);
        assert_int_equal(pshm_owner_id(&head(arena)->lock), 0);
        assert_int_equal(head(arena)->lock.died, 0);
    }
    assert_listed(arena, count);
}

static void other_table(pshm_arena *arena, pshm_member *m)
{
    pshm_directory_head *d = head(arena);
    unsigned other = !(d->active & 1);
    uint64_t place;
    pshm_store(&d->entries[other], 4 * d->entries[!other]);
    const pshm_allocation wanted = {.target = pshm_place_of(arena->attachment, &d->table[other]),
                                    .size = d->entries[other] * sizeof place};
    CHECK(pshm_heap_allocate(m, &wanted, &place) == 0);
}

static void test_repair_new_table(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    with_names(arena, 100);
    assert_repaired(arena, other_table, 100);
    end(arena);
}

/* As other_table, with what belongs in it, and made active; the old one is not freed. */
static void next_table(pshm_arena *arena, pshm_member *m)
{
    pshm_directory_head *d = head(arena);
    unsigned old = d->active & 1;
    other_table(arena, m);
    pshm_table t = {.place = d->table[!old], .entries = d->entries[!old]};
    for (uint64_t i = 0; i < d->entries[old]; i++) {
        uint64_t entry = *pshm_word_at(arena->attachment, d->table[old] + 8 * i);
        if (!pshm_entry_is_used(entry))
            continue;
        const pshm_node *node = pshm_at(arena->attachment, pshm_node_place(entry));
        uint64_t at = node->hash, *word;
        while (*(word = pshm_word_at(arena->attachment, pshm_target_of(&t, at & (t.entries - 1)))))
            at++;
        *word = entry;
    }
    pshm_store(&d->active, ((d->active >> 1) + 1) << 1 | !old);
}

static void test_repair_old_table(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    with_names(arena, 100);
    assert_repaired(arena, next_table, 100);
    end(arena);
}

static void wrong_counts(pshm_arena *arena, pshm_member *m)
{
    (void)m;
    head(arena)->live += 5;
    head(arena)->gone = UINT64_MAX;
    head(arena)->deleted += 77;
}

static void test_repair_counts(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    with_names(arena, 10);
    assert_repaired(arena, wrong_counts, 10);
    end(arena);
}

/* Deletes "victim", which is made anew for each time, up to the store of its bit. */
static void deleted_bit(pshm_arena *arena, pshm_member *m)
{
    (void)m;
    uint64_t *entry = entry_of(arena, "victim");
    CHECK(entry);
    *entry |= PSHM_ENTRY_DELETED;
}

static void test_repair_deleted(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    with_names(arena, 10);
    for (int next = 0; next < 3; next++) {
        pshm_object victim, anew;
        pshm_member *m;
        uint64_t start, size;
        assert_int_equal(open_as(&victim, arena, "victim", COUNTER, true), 1);
        half_done(arena, deleted_bit);
        assert_int_equal(find(arena, "victim"), PSHM_ENONAME);
        if (next == 0) {
            assert_int_equal(open_as(&anew, arena, "victim", COUNTER, true), 1);
            assert_true(anew.serial != victim.serial);
            pshm_object_fini(&anew);
        } else if (next == 1) {
            assert_int_equal(delete (arena, "victim", NULL), PSHM_ENONAME);
            assert_false(pshm_heap_find(arena->attachment, victim.place, &start, &size));
        }
        assert_clean(arena);
        assert_rc(pshm_object_check(&victim), PSHM_EDELETED);
        assert_rc(pshm_object_enter(&victim, &m), PSHM_EDELETED);
        pshm_object_fini(&victim);
        delete (arena, "victim", NULL);
    }
    assert_int_equal(head(arena)->deleted, 0);
    assert_listed(arena, 10);
    assert_clean(arena);
    end(arena);
}

/* Made, up to the store of its serial. */
static void without_serial(pshm_arena *arena, pshm_member *m)
{
    (void)m;
    uint64_t *entry = entry_of(arena, "victim");
    CHECK(entry);
    pshm_node *node = pshm_at(arena->attachment, pshm_node_place(*entry));
    node->serial = 0;
    head(arena)->live--;
}

static void test_repair_made(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    with_names(arena, 10);
    for (int next = 0; next < 3; next++) {
        assert_int_equal(make(arena, "victim"), 1);
        half_done(arena, without_serial);
        assert_int_equal(find(arena, "victim"), PSHM_ENONAME);
        if (next == 0)
            assert_int_equal(make(arena, "victim"), 0);
        else if (next == 1)
            assert_int_equal(delete (arena, "victim", NULL), 0);
        assert_clean(arena);
        assert_int_equal(find(arena, "victim"), next == 1 ? PSHM_ENONAME : (int)COUNTER);
        delete (arena, "victim", NULL);
    }
    assert_listed(arena, 10);
    end(arena);
}

static void first_table(pshm_arena *arena, pshm_member *m)
{
    pshm_directory_head *d = head(arena);
    uint64_t place;
    if (d->table[0])
        return;
    pshm_store(&d->entries[0], PSHM_TABLE_MIN);
    const pshm_allocation wanted = {.target = pshm_place_of(arena->attachment, &d->table[0]),
                                    .size = PSHM_TABLE_MIN * sizeof place};
    CHECK(pshm_heap_allocate(m, &wanted, &place) == 0);
}

static void test_repair_first_table(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    half_done(arena, first_table);
    assert_clean(arena);
    assert_int_equal(make(arena, "name-0"), 1);
    assert_repaired(arena, first_table, 1);
    end(arena);
}

/* ---- what check finds ---- */

static void test_findings(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    with_names(arena, 20);
    pshm_directory_head *d = head(arena);
    uint64_t *entry = entry_of(arena, "name-7"), was = *entry;
    pshm_node *node = pshm_at(arena->attachment, pshm_node_place(was));
    const pshm_node node_was = *node;
#define FINDS(change, undo, text)                                                                                      \
    do {                                                                                                               \
        change;                                                                                                        \
        assert_true(findings(arena, text) > 0);                                                                        \
        undo;                                                                                                          \
        assert_int_equal(findings(arena, ""), 0);                                                                      \
    } while (0)
    FINDS(*entry = was + 16, *entry = was, "no block in use begins");
    FINDS(*entry = was ^ UINT64_C(1) << PSHM_ENTRY_TAG_SHIFT, *entry = was, "other bits of the hash");
    FINDS(*entry = PSHM_ENTRY_GONE, *entry = was, "gone entries, and there are 1");
    FINDS(*entry = was | PSHM_ENTRY_DELETED, *entry = was, "a deleted object whose serial is");
    FINDS(node->serial = 0, node->serial = node_was.serial, "an object without a serial");
    FINDS(node->hash++, node->hash--, "has another hash");
    FINDS(node->kind = 0, node->kind = node_was.kind, "of no kind");
    FINDS(node->name_size = 256, node->name_size = node_was.name_size, "head cannot be");
    FINDS(node->body = 8, node->body = node_was.body, "head cannot be");
    FINDS(node->body_size = 1000, node->body_size = node_was.body_size, "does not fit into its block");
    FINDS(node->name[0] = '\xff', node->name[0] = 'n', "not UTF-8");
    FINDS(d->live++, d->live--, "counts 21 live entries, and there are 20");
    FINDS(d->entries[0] = 63, d->entries[0] = 64, "a table that cannot be");
    FINDS(d->entries[0] = 4096, d->entries[0] = 64, "not in a block of its size");
    FINDS(d->table[1] = 1, d->table[1] = 0, "an old table, at 1,");
    /* Two free ones side by side, away from where the search for the name starts. */
    uint64_t *table = pshm_word_at(arena->attachment, d->table[0]);
    uint64_t at = 0, start = node->hash & (PSHM_TABLE_MIN - 1);
    while (table[at] || table[at + 1] || at + 1 == start)
        at++;
    assert_true(at + 1 < PSHM_TABLE_MIN);
    FINDS(table[at] = was, table[at] = 0, "a second entry of the object");
    FINDS((table[at + 1] = was, *entry = 0), (table[at + 1] = 0, *entry = was), "no search comes to");
#undef FINDS
    assert_clean(arena);
    end(arena);
}

/* ---- several at once ---- */

typedef struct crowd {
    pshm_arena *arena;
    unsigned seed;
    int rounds; /* 0: for ever */
} crowd;

static unsigned roll(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Random operations on 100 names that everybody uses, and looks at those that stay. */
static int be_busy(void *context)
{
    crowd c = *(crowd *)context;
    char name[32];
    for (int i = 0; !c.rounds || i < c.rounds; i++) {
        pshm_object object;
        pshm_member *m;
        unsigned what = roll(&c.seed) % 8;
        snprintf(name, sizeof name, "some-%u", roll(&c.seed) % 100);
        int rc = 0;
        if (what < 3) {
            rc = open_as(&object, c.arena, name, COUNTER, true);
            CHECK(rc == 0 || rc == 1);
            rc = pshm_object_enter(&object, &m);
            CHECK(rc == 0 || rc == PSHM_EDELETED);
            if (rc == 0) {
                const uint64_t *body = object.body;
                CHECK(body[1] == UINT64_C(0x0123456789abcdef));
                pshm_object_leave(m);
            }
            pshm_object_fini(&object);
        } else if (what < 6) {
            rc = delete (c.arena, name, NULL);
            CHECK(rc == 0 || rc == PSHM_ENONAME);
        } else if (what == 6) {
            snprintf(name, sizeof name, "name-%u", roll(&c.seed) % 40);
            CHECK(find(c.arena, name) == (int)COUNTER);
        } else {
            pshm_entry *entries;
            size_t count;
            int stay = 0;
            CHECK(pshm_arena_list(c.arena, &entries, &count) == 0);
            for (size_t j = 0; j < count; j++) {
                stay += !strncmp(entries[j].name, "name-", 5);
                for (size_t k = 0; k < j; k++)
                    CHECK(strcmp(entries[j].name, entries[k].name) != 0);
            }
            CHECK(stay == 40);
            pshm_entries_free(entries);
        }
    }
    return 0;
}

static void test_several_at_once(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    pid_t children[4];
    crowd c = {arena, 1, helper_valgrind_lacks("time for many rounds") ? 100 : 20000};
    with_names(arena, 40);
    for (int i = 0; i < 4; i++, c.seed++)
        children[i] = helper_fork(be_busy, &c);
    for (int i = 0; i < 4; i++)
        assert_int_equal(helper_wait(children[i]), 0);
    assert_clean(arena);
    end(arena);
}

/* One name, made now as this and now as that in the same place: nobody sees the halves of two. */
static int change_kinds(void *context)
{
    crowd c = *(crowd *)context;
    for (unsigned i = 0;; i++) {
        pshm_object object;
        bool is_mutex = i % 2;
        CHECK(open_sized(&object, c.arena, "x", 1, is_mutex ? MUTEX : COUNTER, true, is_mutex ? 40 : 64) == 1);
        pshm_object_fini(&object);
        CHECK(delete (c.arena, "x", NULL) == 0);
    }
    return 0;
}

static void test_halves(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    crowd c = {arena, 0, 0};
    const int rounds = helper_valgrind_lacks("time for many rounds") ? 1000 : 300000;
    pid_t child = helper_fork(change_kinds, &c);
    int seen[2] = {0};
    for (int i = 0; i < rounds || !seen[0] || !seen[1]; i++) {
        pshm_entry *entries;
        size_t count;
        assert_rc(pshm_arena_list(arena, &entries, &count), 0);
        assert_true(count <= 1);
        if (count) {
            assert_true(entries->kind == MUTEX || entries->kind == COUNTER);
            assert_int_equal(entries->body_size, entries->kind == MUTEX ? 40 : 64);
            seen[entries->kind == MUTEX]++;
        }
        pshm_entries_free(entries);
    }
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(helper_wait(child), 256 + SIGKILL);
    assert_clean(arena);
    end(arena);
}

/* Killed anywhere, again and again: the others go on, and nothing leaks. */
static void test_kills(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    const int kills = helper_valgrind_lacks("time for many kills") ? 3 : 300;
    crowd c = {arena, 1000, 0};
    pid_t children[2];
    unsigned seed = 5;
    with_names(arena, 40);
    for (int i = 0; i < 2; i++, c.seed++)
        children[i] = helper_fork(be_busy, &c);
    for (int i = 0; i < kills; i++) {
        int which = i % 2;
        usleep(200 + roll(&seed) % 3000);
        assert_int_equal(kill(children[which], SIGKILL), 0);
        assert_int_equal(helper_wait(children[which]), 256 + SIGKILL);
        if (i % 10 == 0)
            assert_clean(arena);
        c.seed++;
        children[which] = helper_fork(be_busy, &c);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(kill(children[i], SIGKILL), 0);
        assert_int_equal(helper_wait(children[i]), 256 + SIGKILL);
    }
    assert_clean(arena);
    char name[32];
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "some-%d", i);
        delete (arena, name, NULL);
    }
    assert_listed(arena, 40);
    assert_int_equal(head(arena)->deleted, 0);
    assert_clean(arena);
    end(arena);
}

/* ---- hostile bytes ---- */

static uint64_t garbage(const pshm_arena *arena, unsigned *seed)
{
    const pshm_attachment *a = arena->attachment;
    uint64_t r = (uint64_t)roll(seed) << 40 ^ (uint64_t)roll(seed) << 20 ^ roll(seed);
    switch (roll(seed) % 6) {
    case 0:
        return r << 8 ^ r;
    case 1:
        return a->at.heap + r % (a->at.size - a->at.heap) / 64 * 64;
    case 2:
        return UINT64_C(1) << r % 64;
    case 3:
        return UINT64_MAX - r % 100;
    case 4:
        return (a->at.heap + r % 65536 / 64 * 64) | PSHM_ENTRY_DELETED;
    default:
        return r % 300;
    }
}

/* Any word of the directory's head but its lock, of its tables, or of the heads of nodes. Not of the beacons: glibc
 * follows what is there. */
static void scribble(const pshm_arena *arena, unsigned *seed)
{
    const pshm_attachment *a = arena->attachment;
    pshm_directory_head *d = head(arena);
    uint64_t value = garbage(arena, seed);
    uint64_t place = a->at.heap + roll(seed) % 65536 / 8 * 8;
    uint64_t in_table = pshm_load(&d->table[pshm_load(&d->active) & 1]) / 8 * 8 + roll(seed) % 64 * 8;
    switch (roll(seed) % 4) {
    case 0:
        place = pshm_place_of(a, &d->active) + roll(seed) % 8 * 8;
        break;
    case 1:
        if (in_table >= a->at.heap && in_table < a->at.size)
            place = in_table;
        break;
    default:
        break;
    }
    pshm_store(pshm_word_at(a, place), value);
}

static void use_all(pshm_arena *arena, unsigned *seed)
{
    char name[32];
    pshm_object object;
    pshm_member *m;
    pshm_entry *entries;
    size_t count;
    snprintf(name, sizeof name, "name-%u", roll(seed) % 60);
    find(arena, name);
    if (open_as(&object, arena, name, COUNTER, true) >= 0) {
        if (pshm_object_enter(&object, &m) == 0)
            pshm_object_leave(m);
        pshm_object_fini(&object);
    }
    if (roll(seed) % 2)
        delete (arena, name, NULL);
    if (pshm_arena_list(arena, &entries, &count) == 0)
        pshm_entries_free(entries);
    pshm_directory_count(arena->attachment);
    pshm_directory_name(arena->attachment, garbage(arena, seed), (char[256]){0});
    pshm_findings f = {0};
    blocks b = {0};
    pshm_directory_check(arena->attachment, &f, note_known, &b);
    free(f.text);
    free(b.known);
}

static void put_garbage(pshm_arena *arena, pshm_member *m)
{
    (void)m;
    unsigned seed = (unsigned)getpid();
    for (int i = 0; i < 5; i++)
        scribble(arena, &seed);
}

static void test_hostile_before(void **state)
{
    (void)state;
    const int rounds = helper_valgrind_lacks("time for many rounds") ? 5 : 200;
    unsigned seed = 77;
    for (int round = 0; round < rounds; round++) {
        pshm_arena *arena = arena_of(MIB);
        with_names(arena, 50);
        for (int i = 0; i < 20; i++) {
            scribble(arena, &seed);
            use_all(arena, &seed);
        }
        /* And whoever repairs looks at them too. */
        half_done(arena, put_garbage);
        use_all(arena, &seed);
        end(arena);
    }
}

static bool scribbling;

static void *keep_scribbling(void *context)
{
    unsigned seed = 3;
    while (__atomic_load_n(&scribbling, __ATOMIC_RELAXED))
        scribble(context, &seed);
    return NULL;
}

static void test_hostile_during(void **state)
{
    (void)state;
    const int rounds = helper_valgrind_lacks("time for many rounds") ? 1 : 20;
    unsigned seed = 99;
    for (int round = 0; round < rounds; round++) {
        pshm_arena *arena = arena_of(MIB);
        pthread_t thread;
        with_names(arena, 50);
        __atomic_store_n(&scribbling, true, __ATOMIC_RELAXED);
        assert_int_equal(pthread_create(&thread, NULL, keep_scribbling, arena), 0);
        for (int i = 0; i < 100; i++)
            use_all(arena, &seed);
        __atomic_store_n(&scribbling, false, __ATOMIC_RELAXED);
        pthread_join(thread, NULL);
        end(arena);
    }
}

static void test_hostile_nodes(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(MIB);
    with_names(arena, 1);
    pshm_object object;
    uint64_t *entry = entry_of(arena, "name-0"), was = *entry;
    pshm_node *node = pshm_at(arena->attachment, pshm_node_place(was));
    const pshm_node node_was = *node;
    const struct {
        size_t at, size;
        uint64_t value;
    } bad[] = {
        {offsetof(pshm_node, body_size), 8, UINT64_MAX},
        {offsetof(pshm_node, body_size), 8, MIB},
        {offsetof(pshm_node, body_size), 8, UINT64_MAX - node->body - pshm_node_place(was) + 1},
        {offsetof(pshm_node, body_size), 8, BODY - 1},
        {offsetof(pshm_node, body), 4, 0xffffffc0},
        {offsetof(pshm_node, body), 4, 0},
        {offsetof(pshm_node, body), 4, MIB},
        {offsetof(pshm_node, body), 4, 72},
        {offsetof(pshm_node, name_size), 4, 0},
        {offsetof(pshm_node, name_size), 4, UINT32_MAX},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memcpy((char *)node + bad[i].at, &bad[i].value, bad[i].size);
        assert_int_equal(open_as(&object, arena, "name-0", COUNTER, true), PSHM_ECORRUPT);
        *node = node_was;
    }
    const uint64_t places[] = {0, 8, arena->attachment->at.heap - 64, MIB - 32, MIB, PSHM_ENTRY_PLACE - 63};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        *entry = (was & PSHM_ENTRY_TAG) | places[i];
        int rc = open_as(&object, arena, "name-0", COUNTER, false);
        assert_int_equal(rc, places[i] || (was & PSHM_ENTRY_TAG) ? PSHM_ECORRUPT : PSHM_ENONAME);
        *entry = was;
    }
    assert_clean(arena);
    end(arena);
}

/* A large table in which every entry has the same start and the same object: nothing takes the square of its size. */
static void test_hostile_collisions(void **state)
{
    (void)state;
    pshm_arena *arena = arena_of(64 * MIB);
    pshm_attachment *a = arena->attachment;
    pshm_directory_head *d = head(arena);
    pshm_entry *entries;
    size_t count;
    with_names(arena, 1);
    uint64_t entry = *entry_of(arena, "name-0"), place;
    unsigned other = !(d->active & 1);
    const pshm_allocation wanted = {.target = pshm_place_of(a, &d->table[other]), .size = 32 * MIB};
    assert_rc(pshm_heap_allocate(member(arena), &wanted, &place), 0);
    d->entries[other] = 32 * MIB / 8;
    for (uint64_t i = 0; i < d->entries[other]; i++)
        *pshm_word_at(a, place + 8 * i) = entry;
    d->active = 2 | other;
    d->live = d->entries[other];
    assert_int_equal(find(arena, "name-1"), PSHM_ENONAME);
    assert_true(make(arena, "name-1") < 0);
    assert_rc(pshm_arena_list(arena, &entries, &count), PSHM_ECORRUPT);
    assert_true(findings(arena, "a second entry of the object") > 1000);
    end(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_sizes_of_names),
        TEST(test_text_of_names),
        TEST(test_nouns),
        TEST(test_open_and_create),
        TEST(test_readonly),
        TEST(test_closed),
        TEST(test_delete),
        TEST(test_delete_under_use),
        TEST(test_no_room),
        TEST(test_many_names),
        TEST(test_tombstones),
        TEST(test_repair_new_table),
        TEST(test_repair_old_table),
        TEST(test_repair_counts),
        TEST(test_repair_deleted),
        TEST(test_repair_made),
        TEST(test_repair_first_table),
        TEST(test_findings),
        TEST(test_several_at_once),
        TEST(test_halves),
        TEST(test_kills),
        TEST(test_hostile_before),
        TEST(test_hostile_during),
        TEST(test_hostile_nodes),
        TEST(test_hostile_collisions),
    };
    return cmocka_run_group_tests_name("directory", tests, NULL, NULL);
}
