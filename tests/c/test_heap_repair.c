/* SPDX-License-Identifier: MIT
 *
 * What a death in the heap's lock leaves. An operation is run once; then its stores are written down in their order, and
 * the memory is put into the state after each of them, with the lock marked as that of a dead owner. The next operation
 * has to put it right. (tests/crash kills real operations at every instruction.)
 */
#include "helper_record.h"

#include "core/findings.h"

#define KIB UINT64_C(1024)
#define SIZE (700 * KIB)

/* ---- what has to hold afterwards ---- */

static void expect_named(void *context, uint64_t place, uint64_t size)
{
    (void)size;
    record *r = context;
    for (uint32_t i = 0; i < PSHM_HEAP_ROOTS; i++)
        if ((heap_word(r->arena, pshm_heap_root(i)) & PSHM_HELD_PLACE) == place)
            return;
    fail_msg("the block at %d leaks", (int)place);
}

static void expect_no_leak(record *r)
{
    pshm_findings none = {0};
    uint64_t size, value;
    assert_heap_is_well(r->arena);
    pshm_heap_check(r->a, &none, expect_named, r);
    for (uint32_t i = 0; i < PSHM_HEAP_ROOTS; i++)
        if ((value = heap_word(r->arena, pshm_heap_root(i)) & PSHM_HELD_PLACE) > 1)
            assert_rc(pshm_heap_block_size(r->arena, value, &size), 0);
}

/* The owner of the lock is dead: as its slot's next owner marks it, or as nobody has seen it yet. */
static void die(const record *r, bool seen)
{
    pshm_heap_head *h = &r->a->head->heap;
    h->sequence |= 1;
    h->lock.owner.word = seen ? PSHM_ID_ABANDONED | UINT64_C(4711) << 32 : 8 | 5 << PSHM_ID_GENERATION_SHIFT;
}

static void put_right(record *r)
{
    pshm_member *m = heap_member(r->arena);
    assert_rc(pshm_heap_enter(m), 0);
    assert_int_equal(r->a->head->heap.lock.owner.died, 0);
    assert_int_equal(r->a->head->heap.intent.operation, PSHM_INTENT_NONE);
    expect_no_leak(r);
    pshm_heap_leave(m);
    uint64_t word = r->a->head->heap.lock.owner.word;
    assert_true(!word || word == m->biased);
}

static void expect_repaired(record *r, size_t stores, bool seen)
{
    uint32_t operation = record_play(r, stores);
    die(r, seen);
    put_right(r);
    uint64_t now = heap_word(r->arena, r->target), was, will;
    memcpy(&was, r->before + r->target, 8);
    memcpy(&will, r->after + r->target, 8);
    assert_true(now == was || now == will);
    if (operation == PSHM_INTENT_FREE && !will)
        assert_int_equal(now, will);
    /* The one who repaired dies as well, before it has said that it is done. */
    r->a->head->heap.intent.operation = operation;
    die(r, seen);
    put_right(r);
    assert_int_equal(heap_word(r->arena, r->target), now);
    /* The heap is as good as new: what was under way, again, and all of it back. */
    if (now != will && !was)
        assert_rc(pshm_heap_alloc_into(r->arena, r->target, 16), 0);
    for (uint32_t i = 0; i < PSHM_HEAP_ROOTS; i++)
        assert_rc(pshm_heap_free_from(r->arena, pshm_heap_root(i)), 0);
    assert_int_equal(heap_stats(r->arena).used, 0);
    assert_rc(pshm_heap_alloc_into(r->arena, pshm_heap_root(0), heap_stats(r->arena).heap), 0);
    expect_no_leak(r);
}

/* All states between before and after; the stores written down are all that there are. */
static void expect_all_repaired(record *r)
{
    record_play(r, r->count);
    for (uint64_t i = RECORD_FIRST; i < r->a->at.size; i++) {
        if (i == sizeof(pshm_head))
            i = r->a->at.pages;
        if (r->a->base[i] != r->after[i])
            fail_msg("nobody wrote down the store to %d", (int)i);
    }
    for (size_t stores = 0; stores <= r->count; stores++) {
        expect_repaired(r, stores, true);
        expect_repaired(r, stores, false);
    }
    record_copy(r, r->a->base, r->before);
    r->count = 0;
}

static void die_in_alloc(record *r, uint32_t root, uint64_t size)
{
    r->target = pshm_heap_root(root);
    record_copy(r, r->before, r->a->base);
    assert_rc(pshm_heap_alloc_into(r->arena, r->target, size), 0);
    record_copy(r, r->after, r->a->base);
    record_alloc(r);
    expect_all_repaired(r);
}

static void die_in_free(record *r, uint32_t root)
{
    r->target = pshm_heap_root(root);
    record_copy(r, r->before, r->a->base);
    assert_rc(pshm_heap_free_from(r->arena, r->target), 0);
    record_copy(r, r->after, r->a->base);
    record_free(r);
    expect_all_repaired(r);
}

static void make(record *r, uint32_t first, uint32_t count, uint64_t size)
{
    for (uint32_t i = 0; i < count; i++)
        assert_rc(pshm_heap_alloc_into(r->arena, pshm_heap_root(first + i), size), 0);
}

static void drop(record *r, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        assert_rc(pshm_heap_free_from(r->arena, pshm_heap_root(first + i)), 0);
}

/* ---- tests ---- */

/* How many pages at the beginning are taken: the hints are of 64. */
static const uint64_t leads[] = {0, 70};
#define LEADS (sizeof leads / sizeof *leads)

static record *begin_behind(uint64_t pages)
{
    record *r = record_begin(SIZE);
    memset(heap_bytes(r->arena, r->a->at.heap), 0xa5, r->a->at.heap_pages * PAGE);
    if (pages)
        make(r, 31, 1, pages * PAGE);
    return r;
}

static void end_behind(record *r)
{
    drop(r, 31, 1);
    record_end(r);
}

static void die_in_allocs(uint64_t lead)
{
    record *r = begin_behind(lead);
    die_in_alloc(r, 0, 64);       /* a new span */
    die_in_alloc(r, 0, 7168);     /* of many pages */
    die_in_alloc(r, 0, 5 * PAGE); /* a large block */
    make(r, 1, 3, 2048);
    die_in_alloc(r, 0, 2048); /* in a span with room; the last block of it */
    die_in_alloc(r, 0, 1664); /* behind it */
    drop(r, 2, 1);
    die_in_alloc(r, 4, 2048);
    drop(r, 1, 1);
    drop(r, 3, 1);
    die_in_alloc(r, 4, 2048); /* in a span that was kept empty */
    end_behind(r);
}

static void test_death_in_alloc(void **state)
{
    (void)state;
    for (size_t i = 0; i < LEADS; i++)
        die_in_allocs(leads[i]);
}

static void die_in_frees(uint64_t lead)
{
    record *r = begin_behind(lead);
    make(r, 0, 1, 5 * PAGE);
    die_in_free(r, 0); /* a large block */
    make(r, 1, 2, 2048);
    die_in_free(r, 1); /* of a full span */
    drop(r, 1, 1);
    die_in_free(r, 2); /* the last one of a span, which is kept */
    make(r, 1, 1, 2048);
    make(r, 3, 2, 2048);
    drop(r, 1, 1);
    drop(r, 2, 1);
    drop(r, 3, 1);
    die_in_free(r, 4); /* the last one of a span that is given back, because another is kept */
    make(r, 5, 4, 14336);
    drop(r, 5, 3);
    die_in_free(r, 8); /* of many pages */
    drop(r, 0, 9);
    end_behind(r);
}

static void test_death_in_free(void **state)
{
    (void)state;
    for (size_t i = 0; i < LEADS; i++)
        die_in_frees(leads[i]);
}

/* Pages run out: a span that is kept is given back first. A death in that has neither a block nor a destination. */
static void test_death_in_giving_back(void **state)
{
    (void)state;
    record *r = record_begin(SIZE);
    make(r, 0, 1, 14336);
    drop(r, 0, 1);
    assert_int_equal(r->a->head->heap.spare[31], 1);
    make(r, 1, 1, heap_stats(r->arena).heap - 7 * PAGE);
    record_copy(r, r->before, r->a->base);
    r->target = pshm_heap_root(0);
    assert_rc(pshm_heap_alloc_into(r->arena, r->target, 5 * PAGE), 0);
    record_copy(r, r->after, r->a->base);
    const pshm_intent given = {.class_ = 31, .page = 0, .count = 7};
    record_put_intent(r, PSHM_INTENT_FREE, &given);
    record_put_class_hints(r);
    record_put_partial(r, &given);
    for (uint64_t i = 0; i < 7; i++)
        record_put_value(r, record_page_at(r, i, offsetof(pshm_page, state)), 4, PSHM_PAGE_FREE);
    record_put_value(r, r->a->at.taken, 8, heap_word(r->arena, r->a->at.taken) & ~UINT64_C(0x7f));
    record_put(r, RECORD_HEAD(free_hint), 8);
    record_put_value(r, RECORD_HEAD(intent.operation), 4, PSHM_INTENT_NONE);
    record_alloc(r);
    expect_all_repaired(r);
    drop(r, 1, 1);
    record_end(r);
}

/* An owner of a destination may mark it beside the place before the heap is put right: it still names the block. */
static void test_marked_destination(void **state)
{
    (void)state;
    record *r = record_begin(SIZE);
    r->target = pshm_heap_root(3);
    make(r, 3, 1, 100);
    uint64_t place = heap_word(r->arena, r->target);
    r->a->head->heap.intent.operation = PSHM_INTENT_ALLOC;
    r->a->head->roots[3] |= UINT64_C(1) << 63;
    die(r, true);
    put_right(r);
    assert_int_equal(heap_word(r->arena, r->target), place | UINT64_C(1) << 63);
    drop(r, 3, 1);
    record_end(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_death_in_alloc),
        TEST(test_death_in_free),
        TEST(test_death_in_giving_back),
        TEST(test_marked_destination),
    };
    return cmocka_run_group_tests_name("heap_repair", tests, NULL, NULL);
}
