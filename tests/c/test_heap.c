/* SPDX-License-Identifier: MIT
 *
 * The heap: blocks of every size, exhaustion, a model, a long trace, and destinations and tables that lie. What a death
 * leaves: test_heap_repair.c.
 */
#include "helper_heap.h"

#include <stdlib.h>

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)

static void test_roots(void **state)
{
    (void)state;
    pshm_arena *arena = heap_open(MIB);
    for (uint32_t i = 0; i < PSHM_HEAP_ROOTS; i++) {
        uint64_t root = pshm_heap_root(i);
        assert_int_equal(root, offsetof(pshm_head, roots) + 8 * i);
        assert_int_equal(heap_word(arena, root), 0);
        assert_rc(pshm_heap_alloc_into(arena, root, 24), 0);
    }
    assert_int_equal(pshm_heap_root(PSHM_HEAP_ROOTS), 0);
    assert_int_equal(pshm_heap_root(UINT32_MAX), 0);
    assert_int_equal(heap_stats(arena).used, PSHM_HEAP_ROOTS * 32);
    assert_int_equal(heap_stats(arena).class_[1].used, PSHM_HEAP_ROOTS);
    for (uint32_t i = 0; i < PSHM_HEAP_ROOTS; i++) {
        assert_rc(pshm_heap_free_from(arena, pshm_heap_root(i)), 0);
        assert_int_equal(heap_word(arena, pshm_heap_root(i)), 0);
        assert_rc(pshm_heap_free_from(arena, pshm_heap_root(i)), 0);
    }
    assert_int_equal(heap_stats(arena).used, 0);
    heap_end(arena);
}

/* One block: aligned, zeroed though it was dirty, no byte less than asked for and not many more. */
static void expect_block(pshm_arena *arena, uint64_t size)
{
    uint64_t root = pshm_heap_root(0), bytes;
    assert_rc(pshm_heap_alloc_into(arena, root, size), 0);
    uint64_t place = heap_word(arena, root), room = heap_size(arena, place);
    if (room < size || room > size + size / 2 + 16)
        fail_msg("%d bytes got %d", (int)size, (int)room);
    assert_int_equal(place % (size % 64 ? 16 : 64), 0);
    unsigned char *block = heap_bytes(arena, place), last = 0xee;
    for (uint64_t i = 0; i < room; i++)
        if (block[i])
            fail_msg("byte %d of %d is not 0", (int)i, (int)size);
    memset(block, 0xff, room);
    assert_rc(pshm_heap_write(arena, place + room - 1, &last, 1), 0);
    assert_rc(pshm_heap_read(arena, place + room - 2, &bytes, 2), 0);
    assert_int_equal(bytes & 0xffff, 0xeeff);
    assert_rc(pshm_heap_read(arena, place + room - 2, &bytes, 3), PSHM_ENOTBLOCK);
    assert_rc(pshm_heap_write(arena, place + room - 2, &bytes, 3), PSHM_ENOTBLOCK);
    assert_rc(pshm_heap_read(arena, place, &bytes, UINT64_MAX), PSHM_ENOTBLOCK);
    assert_rc(pshm_heap_read(arena, place, &bytes, 0), 0);
    assert_rc(pshm_heap_block_size(arena, place + 1, &bytes), PSHM_ENOTBLOCK);
    assert_int_equal(heap_stats(arena).used, room);
    assert_rc(pshm_heap_free_from(arena, root), 0);
    assert_rc(pshm_heap_read(arena, place, &bytes, 1), PSHM_ENOTBLOCK);
    assert_rc(pshm_heap_block_size(arena, place, &bytes), PSHM_ENOTBLOCK);
}

static void test_every_size(void **state)
{
    (void)state;
    pshm_arena *arena = heap_open(256 * KIB);
    for (uint64_t size = 1; size <= 1100; size++)
        expect_block(arena, size);
    for (uint64_t size = 1101; size < 20000; size += 13)
        expect_block(arena, size);
#define X(block, pages)                                                                                                \
    expect_block(arena, (block)-1);                                                                                    \
    expect_block(arena, (block));                                                                                      \
    expect_block(arena, (block) + 1);
    PSHM_CLASS_MAP(X)
#undef X
    for (uint64_t size = PAGE; size <= 16 * PAGE; size += PAGE)
        for (uint64_t i = size - 64; i <= size + 64; i++)
            expect_block(arena, i);
    assert_heap_is_well(arena);
    heap_end(arena);
}

/* Blocks of one size until there is no room, each named by the one before it. How many. */
static uint64_t fill(pshm_arena *arena, uint64_t size)
{
    uint64_t target = pshm_heap_root(0), count = 0;
    int rc;
    for (; (rc = pshm_heap_alloc_into(arena, target, size)) == 0; count++) {
        uint64_t place = heap_word(arena, target);
        target = size < 16 ? place : place + (size / 8 - 1) * 8;
    }
    assert_rc(rc, -ENOSPC);
    assert_int_equal(heap_word(arena, target), 0);
    return count;
}

/* Frees what the chain holds, the last one first. */
static void empty(pshm_arena *arena, uint64_t size, uint64_t count)
{
    uint64_t *targets = calloc(count + 1, sizeof *targets);
    targets[0] = pshm_heap_root(0);
    for (uint64_t i = 0; i < count; i++)
        targets[i + 1] = heap_word(arena, targets[i]) + (size < 16 ? 0 : (size / 8 - 1) * 8);
    while (count--)
        assert_rc(pshm_heap_free_from(arena, targets[count]), 0);
    free(targets);
}

static void exhaust(pshm_arena *arena, uint64_t size)
{
    pshm_arena_stats fresh = heap_stats(arena);
    uint64_t count = fill(arena, size), again;
    pshm_arena_stats full = heap_stats(arena);
    assert_heap_is_well(arena);
    /* What is left over is less than two blocks, where more than a block is left of pages. */
    if (full.used < fresh.heap / 2 || full.largest_free >= size)
        fail_msg("size %d: %d of %d used", (int)size, (int)full.used, (int)fresh.heap);
    empty(arena, size, count);
    assert_heap_is_well(arena);
    assert_int_equal(heap_stats(arena).used, 0);
    assert_int_equal(heap_stats(arena).largest_free, fresh.heap);
    /* At most one empty span of a class is kept, and the rest can be had as pages. */
    for (uint32_t i = 0; i < full.classes; i++) {
        pshm_class_stats kept = heap_stats(arena).class_[i];
        assert_true(kept.free <= kept.pages * PAGE / kept.block);
    }
    again = fill(arena, size);
    assert_int_equal(again, count);
    empty(arena, size, again);
    /* All of it in one piece. */
    assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(1), fresh.heap), 0);
    assert_int_equal(heap_stats(arena).free, 0);
    assert_rc(pshm_heap_free_from(arena, pshm_heap_root(1)), 0);
}

static void test_exhaustion(void **state)
{
    (void)state;
    static const uint64_t runs[] = {4096, 8192, 12288, 14337, 20000, 40960, 65537, 100000, 300000};
    pshm_arena *arena = heap_open(900 * KIB);
    assert_int_equal(heap_stats(arena).largest_free, heap_stats(arena).heap);
    exhaust(arena, 8);
#define X(block, pages) exhaust(arena, (block));
    PSHM_CLASS_MAP(X)
#undef X
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++)
        exhaust(arena, runs[i]);
    heap_end(arena);
}

/* No pages are left, but a block of another class: it will do, if it is aligned as the size wants it. */
static void test_other_class(void **state)
{
    (void)state;
    pshm_arena *arena = heap_open(256 * KIB);
    uint64_t last = pshm_heap_root(1), target = pshm_heap_root(0);
    assert_true(fill(arena, 80) > 100);
    while (heap_word(arena, heap_word(arena, target) + 72))
        target = heap_word(arena, target) + 72;
    assert_rc(pshm_heap_free_from(arena, target), 0);
    assert_rc(pshm_heap_alloc_into(arena, last, 64), -ENOSPC);
    assert_rc(pshm_heap_alloc_into(arena, last, 40), 0);
    assert_int_equal(heap_size(arena, heap_word(arena, last)), 80);
    assert_rc(pshm_heap_alloc_into(arena, target, 16), -ENOSPC);
    heap_end(arena);
}

/* The largest block that stats promise is there, however full and torn the heap is. */
static void test_largest_free(void **state)
{
    (void)state;
    enum { BLOCKS = 400 };
    pshm_arena *arena = heap_open(MIB);
    uint64_t root = pshm_heap_root(0), last = pshm_heap_root(1);
    assert_rc(pshm_heap_alloc_into(arena, root, BLOCKS * 8), 0);
    uint64_t table = heap_word(arena, root);
    heap_seed(1);
    for (int i = 0; i < 4000; i++) {
        uint64_t target = table + heap_random() % BLOCKS * 8;
        if (heap_word(arena, target))
            assert_rc(pshm_heap_free_from(arena, target), 0);
        int rc = pshm_heap_alloc_into(arena, target, heap_random_size(14));
        assert_true(rc == 0 || rc == -ENOSPC);
        uint64_t largest = heap_stats(arena).largest_free;
        assert_rc(pshm_heap_alloc_into(arena, last, largest + 1), -ENOSPC);
        if (!largest)
            continue;
        assert_rc(pshm_heap_alloc_into(arena, last, largest), 0);
        assert_rc(pshm_heap_free_from(arena, last), 0);
    }
    heap_end(arena);
}

/* ---- a model ---- */

typedef struct model {
    pshm_arena *arena;
    uint64_t table; /* of destinations */
    uint64_t size[2000];
    uint64_t bytes; /* asked for */
} model;

#define MODEL (sizeof((model *)0)->size / sizeof(uint64_t))

static unsigned char pattern(uint64_t slot, uint64_t i)
{
    return (unsigned char)(slot * 31 + i * 7 + 1);
}

static void expect_contents(const model *m, uint64_t slot, bool whole)
{
    const unsigned char *block = heap_bytes(m->arena, heap_word(m->arena, m->table + slot * 8));
    for (uint64_t i = 0; i < m->size[slot]; i += whole ? 1 : m->size[slot] / 4 + 1)
        if (block[i] != pattern(slot, i))
            fail_msg("block %d was overwritten at %d of %d", (int)slot, (int)i, (int)m->size[slot]);
}

static void step(model *m)
{
    uint64_t slot = heap_random() % MODEL, target = m->table + slot * 8;
    if (m->size[slot]) {
        expect_contents(m, slot, true);
        assert_rc(pshm_heap_alloc_into(m->arena, target, 1), PSHM_EOCCUPIED);
        assert_rc(pshm_heap_free_from(m->arena, target), 0);
        m->size[slot] = 0;
        return;
    }
    uint64_t size = heap_random_size(heap_random() % 8 ? 11 : 16);
    int rc = pshm_heap_alloc_into(m->arena, target, size);
    if (rc == -ENOSPC)
        return;
    assert_rc(rc, 0);
    m->size[slot] = size;
    unsigned char *block = heap_bytes(m->arena, heap_word(m->arena, target));
    for (uint64_t i = 0; i < size; i++)
        block[i] = pattern(slot, i);
}

/* Every block of the heap is one of the model's, and they are as many. */
static void expect_model(const model *m)
{
    pshm_arena_stats stats = heap_stats(m->arena);
    uint64_t used = heap_size(m->arena, m->table), blocks = 1, counted = stats.large;
    for (uint64_t slot = 0; slot < MODEL; slot++) {
        uint64_t place = heap_word(m->arena, m->table + slot * 8);
        assert_int_equal(place != 0, m->size[slot] != 0);
        if (!place)
            continue;
        expect_contents(m, slot, false);
        used += heap_size(m->arena, place);
        blocks++;
    }
    for (uint32_t i = 0; i < stats.classes; i++)
        counted += stats.class_[i].used;
    assert_int_equal(stats.used, used);
    assert_int_equal(counted, blocks);
    assert_heap_is_well(m->arena);
}

static void test_model(void **state)
{
    (void)state;
    static model m;
    memset(&m, 0, sizeof m);
    m.arena = heap_open(4 * MIB);
    assert_rc(pshm_heap_alloc_into(m.arena, pshm_heap_root(0), MODEL * 8), 0);
    m.table = heap_word(m.arena, pshm_heap_root(0));
    heap_seed(2);
    for (int i = 0; i < 100000; i++) {
        step(&m);
        if (i % 5000 == 0)
            expect_model(&m);
    }
    expect_model(&m);
    for (uint64_t slot = 0; slot < MODEL; slot++)
        assert_rc(pshm_heap_free_from(m.arena, m.table + slot * 8), 0);
    assert_rc(pshm_heap_free_from(m.arena, pshm_heap_root(0)), 0);
    assert_int_equal(heap_stats(m.arena).used, 0);
    assert_rc(pshm_heap_alloc_into(m.arena, pshm_heap_root(0), heap_stats(m.arena).heap), 0);
    heap_end(m.arena);
}

/* ---- a long trace ---- */

/* A million allocations and frees, so that the arena fills slowly while it is torn: when there is no room for one, three
 * quarters of the arena are in use at least, by what was asked for. */
static void test_trace(void **state)
{
    (void)state;
    enum { TARGETS = 1 << 16 };
    pshm_arena *arena = heap_open(64 * MIB);
    uint64_t *target = calloc(TARGETS, sizeof *target), *size = calloc(TARGETS, sizeof *size), live = 0, bytes = 0;
    assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(0), TARGETS * 8), 0);
    for (uint64_t i = 0; i < TARGETS; i++)
        target[i] = heap_word(arena, pshm_heap_root(0)) + i * 8;
    heap_seed(3);
    int rc = 0;
    /* More often than not it grows, and from the last operation on it grows alone. */
    for (uint64_t done = 0; !rc; done++) {
        if (!live || heap_random() % 1000 < (done < 1000000 ? 504 : 1000)) {
            size[live] = heap_random() % 1000 ? heap_random_size(16) : 64 * KIB + heap_random() % (192 * KIB);
            rc = pshm_heap_alloc_into(arena, target[live], size[live]);
            bytes += rc ? 0 : size[live++];
        } else {
            uint64_t i = heap_random() % live--, place = target[i];
            assert_rc(pshm_heap_free_from(arena, place), 0);
            bytes -= size[i];
            target[i] = target[live];
            size[i] = size[live];
            target[live] = place;
        }
    }
    assert_rc(rc, -ENOSPC);
    if (bytes * 4 < 64 * MIB * 3)
        fail_msg("full with %d of %d bytes in use", (int)bytes, (int)(64 * MIB));
    assert_heap_is_well(arena);
    while (live)
        assert_rc(pshm_heap_free_from(arena, target[--live]), 0);
    assert_rc(pshm_heap_free_from(arena, pshm_heap_root(0)), 0);
    assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(0), heap_stats(arena).heap), 0);
    heap_end(arena);
    free(target);
    free(size);
}

/* ---- what callers get wrong ---- */

static void test_errors(void **state)
{
    (void)state;
    pshm_arena *arena = heap_open(MIB);
    uint64_t root = pshm_heap_root(0), heap = heap_stats(arena).heap, size;
    char byte = 0;
    assert_rc(pshm_heap_alloc_into(arena, root, 0), PSHM_EZEROSIZE);
    assert_rc(pshm_heap_alloc_into(arena, root, heap + 1), -ENOSPC);
    assert_rc(pshm_heap_alloc_into(arena, root, UINT64_MAX), -ENOSPC);
    assert_rc(pshm_heap_alloc_into(arena, root, 100), 0);
    assert_rc(pshm_heap_alloc_into(arena, root, 100), PSHM_EOCCUPIED);
    uint64_t place = heap_word(arena, root);
    const uint64_t wrong[] = {0,         8,         root + 1,    root - 8,       pshm_heap_root(31) + 8,
                              place + 1, place + 4, place + 112, place - 8,      arena->attachment->at.pages,
                              MIB - 8,   MIB,       MIB + 8,     UINT64_MAX - 7, UINT64_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_rc(pshm_heap_alloc_into(arena, wrong[i], 8), PSHM_EDESTINATION);
        assert_rc(pshm_heap_free_from(arena, wrong[i]), PSHM_EDESTINATION);
    }
    /* The last word of a block, then a word of a block that is gone. */
    assert_rc(pshm_heap_alloc_into(arena, place + 104, 8), 0);
    assert_rc(pshm_heap_free_from(arena, place + 104), 0);
    assert_rc(pshm_heap_free_from(arena, root), 0);
    assert_rc(pshm_heap_alloc_into(arena, place + 104, 8), PSHM_EDESTINATION);
    assert_rc(pshm_heap_write(arena, place, &byte, 1), PSHM_ENOTBLOCK);
    assert_rc(pshm_heap_read(arena, UINT64_MAX, &byte, 1), PSHM_ENOTBLOCK);
    assert_heap_is_well(arena);
    pshm_arena_close(arena);
    assert_rc(pshm_heap_alloc_into(arena, root, 8), PSHM_ECLOSED);
    assert_rc(pshm_heap_free_from(arena, root), PSHM_ECLOSED);
    assert_rc(pshm_heap_block_size(arena, place, &size), PSHM_ECLOSED);
    assert_rc(pshm_heap_read(arena, place, &byte, 1), PSHM_ECLOSED);
    assert_rc(pshm_heap_write(arena, place, &byte, 1), PSHM_ECLOSED);
    pshm_arena_release(arena);
}

/* A destination that somebody wrote to: whatever it holds, nothing but a block that is in use is freed by it. */
static void test_hostile_destination(void **state)
{
    (void)state;
    pshm_arena *arena = heap_open(MIB);
    uint64_t root = pshm_heap_root(0), size;
    for (uint32_t i = 1; i < 12; i++)
        assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(i), UINT64_C(8) << i), 0);
    heap_seed(4);
    for (int i = 0; i < 200000; i++) {
        uint64_t value = heap_random() >> heap_random() % 64;
        bool block = pshm_heap_block_size(arena, value & ((UINT64_C(1) << 48) - 1), &size) == 0;
        if (block)
            continue;
        memcpy(heap_bytes(arena, root), &value, sizeof value);
        assert_rc(pshm_heap_free_from(arena, root), value ? PSHM_ENOTBLOCK : 0);
        assert_rc(pshm_heap_alloc_into(arena, root, 8), value ? PSHM_EOCCUPIED : 0);
        if (!value)
            assert_rc(pshm_heap_free_from(arena, root), 0);
    }
    memset(heap_bytes(arena, root), 0, 8);
    for (uint32_t i = 1; i < 12; i++)
        assert_rc(pshm_heap_free_from(arena, pshm_heap_root(i)), 0);
    heap_end(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_roots),        TEST(test_every_size),  TEST(test_exhaustion),
        TEST(test_largest_free), TEST(test_other_class), TEST(test_model),
        TEST(test_trace),        TEST(test_errors),      TEST(test_hostile_destination),
    };
    return cmocka_run_group_tests_name("heap", tests, NULL, NULL);
}
