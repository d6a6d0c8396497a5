/* SPDX-License-Identifier: MIT
 *
 * A heap whose tables somebody overwrote: whatever is there, operations come back, with an answer or PSHM_ECORRUPT, and
 * touch nothing outside; and check says what is wrong.
 */
#include "helper_heap.h"

#include <pthread.h>
#include <stdlib.h>

#define SIZE (UINT64_C(256) << 10)
#define FIRST offsetof(pshm_head, heap.sequence)

static bool is_answer(int rc)
{
    return rc == 0 || rc == -ENOSPC || rc == PSHM_ENOTBLOCK || rc == PSHM_ECORRUPT || rc == PSHM_EOCCUPIED ||
           rc == PSHM_EDESTINATION;
}

static pshm_arena *arena_in_use(void)
{
    static const uint64_t sizes[] = {1, 64, 64, 300, 2048, 3584, 4096, 7168, 14336, 20000, 50000};
    pshm_arena *arena = heap_open(SIZE);
    for (uint32_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(i), sizes[i]), 0);
    assert_rc(pshm_heap_free_from(arena, pshm_heap_root(4)), 0);
    return arena;
}

static void use(pshm_arena *arena, uint32_t rounds)
{
    uint64_t start, size, used = 0;
    for (uint32_t i = 0; i < rounds; i++) {
        uint64_t root = pshm_heap_root((uint32_t)(heap_random() % PSHM_HEAP_ROOTS));
        uint64_t place = heap_random() % (SIZE + SIZE / 4);
        int rc = heap_random() % 2 ? pshm_heap_alloc_into(arena, root, heap_random_size(17))
                                   : pshm_heap_free_from(arena, root);
        if (!is_answer(rc))
            fail_msg("%d", rc);
        if (pshm_heap_find(arena->attachment, place, &start, &size)) {
            assert_true(start <= place && place - start < size);
            assert_true(start >= arena->attachment->at.heap && start + size <= SIZE);
        }
    }
    pshm_arena_stats stats = heap_stats(arena);
    for (uint32_t i = 0; i < stats.classes; i++)
        used += stats.class_[i].used * stats.class_[i].block;
    assert_int_equal(used + stats.large_pages * PAGE, stats.used);
    assert_int_equal(stats.used + stats.free, stats.heap);
    assert_true(stats.largest_free <= stats.heap);
    heap_findings(arena);
}

/* The end of an arena that is past saving. */
static void end(pshm_arena *arena)
{
    pshm_arena_close(arena);
    pshm_arena_release(arena);
}

static void scribble(unsigned char *at, uint64_t size)
{
    static const uint64_t odd[] = {0, 1, 2, 3, 4, 31, 32, 33, 63, 64, 65, UINT32_MAX, UINT64_MAX, INT64_MAX, SIZE};
    uint64_t value = heap_random() % 2 ? heap_random() : odd[heap_random() % (sizeof odd / sizeof *odd)];
    uint64_t width = heap_random() % 2 ? 4 : 8;
    memcpy(at + heap_random() % (size / width) * width, &value, width);
}

/* Some words of all tables, in many arenas. */
static void test_tables(void **state)
{
    (void)state;
    heap_seed(5);
    for (int round = 0; round < 400; round++) {
        pshm_arena *arena = arena_in_use();
        const pshm_geometry *at = &arena->attachment->at;
        for (uint64_t i = heap_random() % 20; i < 20; i++) {
            scribble(arena->attachment->base + FIRST, sizeof(pshm_heap_head) - 16);
            scribble(arena->attachment->base + at->pages, at->heap_pages * sizeof(pshm_page));
            scribble(arena->attachment->base + at->taken, at->words * 8 * (PSHM_CLASSES + 1));
            use(arena, 20);
        }
        end(arena);
    }
}

static void test_random_bytes(void **state)
{
    (void)state;
    heap_seed(6);
    for (int round = 0; round < 50; round++) {
        pshm_arena *arena = arena_in_use();
        const pshm_geometry *at = &arena->attachment->at;
        uint64_t *words = pshm_at(arena->attachment, at->pages);
        for (uint64_t i = 0; i < (at->heap - at->pages) / 8; i++)
            words[i] = heap_random() >> heap_random() % 64;
        assert_true(heap_findings(arena) > 0);
        use(arena, 200);
        end(arena);
    }
}

/* Every field of the intent, with the lock left by a dead one. */
static void test_intent(void **state)
{
    (void)state;
    heap_seed(7);
    pshm_arena *arena = arena_in_use();
    const pshm_geometry *at = &arena->attachment->at;
    unsigned char *clean = malloc(SIZE);
    memcpy(clean, arena->attachment->base, SIZE);
    for (int round = 0; round < 20000; round++) {
        pshm_heap_head *h = &arena->attachment->head->heap;
        h->intent = (pshm_intent){.operation = round % 2 ? PSHM_INTENT_ALLOC : PSHM_INTENT_FREE,
                                  .class_ = (uint32_t)(heap_random() % (PSHM_CLASSES + 2)),
                                  .page = heap_random() % (at->heap_pages + 2),
                                  .count = heap_random() % 8,
                                  .block = at->heap + heap_random() % (at->heap_pages * 4) * (PAGE / 4),
                                  .target = pshm_heap_root((uint32_t)(heap_random() % PSHM_HEAP_ROOTS))};
        h->intent.value = h->intent.block;
        if (round % 4 >= 2)
            scribble((unsigned char *)&h->intent, sizeof h->intent);
        h->lock.owner.word = PSHM_ID_ABANDONED;
        use(arena, 3);
        memcpy(arena->attachment->base + FIRST, clean + FIRST, sizeof(pshm_head) - FIRST);
        memcpy(arena->attachment->base + at->pages, clean + at->pages, at->heap - at->pages);
        h->lock = (pshm_biased){.owner = {0, 0}};
        assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(30), 64), 0);
        assert_rc(pshm_heap_free_from(arena, pshm_heap_root(30)), 0);
    }
    free(clean);
    heap_end(arena);
}

/* An intent that no operation wrote, whose pages are those of others or none at all: nobody acts on it. */
static void test_impossible_intents(void **state)
{
    (void)state;
    pshm_arena *used = arena_in_use(), *empty = heap_open(SIZE);
    const pshm_geometry *at = &used->attachment->at;
    const uint64_t root = pshm_heap_root(20), first = at->heap, last = at->heap_pages - 1, five = first + 5 * PAGE;
    enum { RUN = PSHM_CLASSES, A = PSHM_INTENT_ALLOC, F = PSHM_INTENT_FREE };
    const struct {
        pshm_arena *arena;
        pshm_intent intent;
    } cases[] = {
        {empty, {F, RUN, 5, at->heap_pages, five, root, 0}}, /* beyond the end, where all is still 0 */
        {empty, {F, RUN, 5, UINT64_MAX, five, root, 0}},
        {used, {A, RUN, 0, 1, first, root, first}}, /* the pages are those of spans */
        {used, {F, RUN, 0, 1, first, root, 0}},
        {used, {F, RUN, 0, at->heap_pages, first, root, 0}},
        {used, {A, 5, 0, 1, first, root, first}}, /* of another class */
        {used, {F, 31, 0, 7, first, root, 0}},
        {used, {F, 31, 0, 7, 0, 0, 0}},
        {empty, {F, RUN, last, 2, first + last * PAGE, root, 0}},
        {empty, {A, 31, last, 7, first + last * PAGE, root, first + last * PAGE}},
        {empty, {F, RUN, at->heap_pages, 1, SIZE, root, 0}},
        {empty, {F, RUN, UINT64_MAX, 1, first - PAGE, root, 0}},
        {empty, {A, RUN, 5, 0, five, root, five}}, /* of no pages, or not those of the class */
        {empty, {A, 3, 5, 2, five, root, five}},
        {empty, {F, 3, 5, 0, five, root, 0}},
        {empty, {A, 3, 5, 1, five + 1, root, five + 1}}, /* no block there */
        {empty, {A, 3, 5, 1, five + PAGE, root, five + PAGE}},
        {empty, {A, 3, 6, 1, five, root, five}},
        {empty, {A, RUN, 5, 2, five + PAGE, root, five + PAGE}},
        {empty, {A, 3, 5, 1, five, root, five + 64}}, /* another one is published */
        {empty, {A, 3, 5, 1, five, 0, five}},         /* no destination */
        {empty, {A, 3, 5, 1, five, root + 4, five}},
        {empty, {A, 3, 5, 1, five, SIZE, five}},
        {empty, {A, 3, 5, 1, five, SIZE - 4, five}},
        {empty, {A, 3, 5, 1, five, UINT64_MAX - 7, five}},
        {empty, {F, RUN, 5, 1, 0, 0, 0}},
        {empty, {F, 3, 5, 1, five, 0, 0}},
        {empty, {A, 33, 5, 1, five, root, five}}, /* nothing of the kind */
        {empty, {A, UINT32_MAX, 5, 1, five, root, five}},
        {empty, {3, 3, 5, 1, five, root, five}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pshm_heap_head *h = &cases[i].arena->attachment->head->heap;
        h->intent = cases[i].intent;
        h->lock.owner.word = PSHM_ID_ABANDONED;
        if (pshm_heap_alloc_into(cases[i].arena, root, 64) != PSHM_ECORRUPT)
            fail_msg("intent number %d is believed", (int)i);
        h->intent.operation = PSHM_INTENT_NONE;
        assert_rc(pshm_heap_alloc_into(cases[i].arena, root, 64), 0);
        assert_rc(pshm_heap_free_from(cases[i].arena, root), 0);
        assert_heap_is_well(cases[i].arena);
    }
    heap_end(used);
    heap_end(empty);
}

/* What cannot be repaired is told to everybody, until somebody puts it right. */
static void test_hopeless(void **state)
{
    (void)state;
    pshm_arena *arena = arena_in_use();
    pshm_heap_head *h = &arena->attachment->head->heap;
    h->intent.operation = 77;
    for (int i = 0; i < 3; i++) {
        assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(20), 64), PSHM_ECORRUPT);
        assert_rc(pshm_heap_free_from(arena, pshm_heap_root(0)), PSHM_ECORRUPT);
        assert_true(heap_findings(arena) >= 1);
    }
    h->intent.operation = 0;
    assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(20), 64), 0);
    heap_end(arena);
}

/* Hints are hints: whatever they say, all of the heap can be had, and what a free page's entry holds is of no account. */
static void test_hints(void **state)
{
    (void)state;
    static const uint32_t values[] = {0, 1, 5, 40, UINT32_MAX};
    pshm_arena *arena = heap_open(SIZE);
    pshm_heap_head *h = &arena->attachment->head->heap;
    pshm_page *page = pshm_at(arena->attachment, arena->attachment->at.pages);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        for (uint64_t n = 0; n < arena->attachment->at.heap_pages; n++)
            memset(page[n].used, 0xff, sizeof page[n].used);
        for (uint32_t n = 0; n < 8; n++)
            assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(n), 2048), 0);
        for (uint32_t n = 0; n < 8; n++)
            assert_rc(pshm_heap_free_from(arena, pshm_heap_root(n)), 0);
        h->free_hint = values[i];
        for (uint32_t n = 0; n < PSHM_CLASSES; n++)
            h->partial_hint[n] = h->current[n] = h->spare[n] = values[i];
        for (int n = 0; n < 2; n++) {
            assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(0), heap_stats(arena).heap), 0);
            assert_rc(pshm_heap_free_from(arena, pshm_heap_root(0)), 0);
            h->free_hint = values[i]; /* no span is left to be given back */
        }
        h->free_hint = 0;
        memset(h->partial_hint, 0, sizeof h->partial_hint);
        memset(h->current, 0, sizeof h->current);
        memset(h->spare, 0, sizeof h->spare);
    }
    heap_end(arena);
}

/* One word at a time is wrong: check has something to say. */
static void test_check_finds(void **state)
{
    (void)state;
    pshm_arena *arena = arena_in_use();
    const pshm_geometry *at = &arena->attachment->at;
    pshm_heap_head *h = &arena->attachment->head->heap;
    pshm_page *page = pshm_at(arena->attachment, at->pages);
    uint64_t *bits = pshm_at(arena->attachment, at->taken);
    uint64_t last = at->heap_pages - 1;
#define FINDS(word, value)                                                                                             \
    do {                                                                                                               \
        __typeof__(word) was = (word);                                                                                 \
        (word) = (__typeof__(word))(value);                                                                            \
        if (!heap_findings(arena))                                                                                     \
            fail_msg("%s = %s is not found", #word, #value);                                                           \
        (word) = was;                                                                                                  \
        assert_heap_is_well(arena);                                                                                    \
    } while (0)
    FINDS(h->intent.operation, 1);
    FINDS(h->sequence, h->sequence + 1);
    FINDS(h->free_hint, at->heap_pages);
    FINDS(h->free_hint, UINT64_MAX);
    FINDS(h->partial_hint[0], 100);
    FINDS(h->spare[0], 1);
    FINDS(h->spare[0], UINT32_MAX);
    FINDS(h->current[5], at->heap_pages + 1);
    for (uint64_t i = 0; i < at->heap_pages; i++) {
        FINDS(page[i].state, 4);
        FINDS(page[i].state, (page[i].state + 1) % 4);
        FINDS(page[i].state, (page[i].state + 3) % 4);
        FINDS(bits[i / 64], bits[i / 64] ^ UINT64_C(1) << i % 64);
        for (uint64_t class_ = 1; class_ <= PSHM_CLASSES; class_++)
            FINDS(bits[class_ * at->words + i / 64], bits[class_ * at->words + i / 64] ^ UINT64_C(1) << i % 64);
        if (page[i].state == PSHM_PAGE_FREE)
            continue;
        FINDS(page[i].count, page[i].count + 1);
        FINDS(page[i].count, 0);
        FINDS(page[i].count, UINT64_MAX);
        if (page[i].state != PSHM_PAGE_SPAN)
            continue;
        FINDS(page[i].class_, page[i].class_ + 1);
        FINDS(page[i].class_, PSHM_CLASSES);
        if (page[i].class_)
            FINDS(page[i].used[3], UINT64_C(1) << 63);
    }
    if (last % 64 != 63) {
        FINDS(bits[last / 64], bits[last / 64] | UINT64_C(1) << 63);
        FINDS(bits[at->words + last / 64], UINT64_C(1) << 63);
    }
    heap_end(arena);
}

typedef struct scribbler {
    uint64_t *at, others[2];
    volatile bool done;
} scribbler;

static void *overwrite(void *context)
{
    scribbler *s = context;
    for (unsigned i = 0; !s->done; i++)
        __atomic_store_n(s->at, s->others[i % 2], __ATOMIC_RELAXED);
    return NULL;
}

/* What was found right is another thing when it is used. */
static void test_check_meanwhile(void **state)
{
    (void)state;
    pshm_arena *arena = arena_in_use();
    uint64_t start, size;
    assert_true(pshm_heap_find(arena->attachment, heap_word(arena, pshm_heap_root(0)), &start, &size));
    pshm_page *page = &arena->attachment->pages[(start - arena->attachment->at.heap) / PAGE];
    scribbler s = {.at = &page->count, .others = {page->count, UINT64_C(1) << 40}};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, overwrite, &s), 0);
    for (int64_t until = pshm_deadline(SECOND / 4); pshm_deadline(0) < until;)
        use(arena, 1);
    s.done = true;
    pthread_join(thread, NULL);
    end(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_tables),   TEST(test_random_bytes), TEST(test_intent),      TEST(test_impossible_intents),
        TEST(test_hopeless), TEST(test_hints),        TEST(test_check_finds), TEST(test_check_meanwhile),
    };
    return cmocka_run_group_tests_name("heap_hostile", tests, NULL, NULL);
}
