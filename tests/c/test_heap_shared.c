/* SPDX-License-Identifier: MIT
 *
 * The heap as the core itself uses it, and many threads and processes in it at once.
 */
#include "helper_heap.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
/* Destinations of each thread or process, and how many of those there are. */
#define TARGETS 100
#define MANY 4

/* Bits beside the place, data, and another value than 0 left behind. */
static void test_tags_and_data(void **state)
{
    (void)state;
    pshm_arena *arena = heap_open(MIB);
    pshm_member *m = heap_member(arena);
    uint64_t tag = UINT64_C(0x1234) << 48, place;
    pshm_allocation wanted = {pshm_heap_root(3), 1, tag, 1000, "hello", 5};
    assert_rc(pshm_heap_allocate(m, &wanted, &place), PSHM_EOCCUPIED);
    assert_rc(pshm_heap_release(m, wanted.target, 1), 0);
    assert_int_equal(heap_word(arena, wanted.target), 0);
    wanted.expect = 0;
    assert_rc(pshm_heap_allocate(m, &wanted, &place), 0);
    assert_int_equal(heap_word(arena, wanted.target), place | tag);
    unsigned char *block = heap_bytes(arena, place);
    assert_memory_equal(block, "hello", 5);
    for (uint64_t i = 5; i < 1024; i++)
        assert_int_equal(block[i], 0);
    assert_rc(pshm_heap_release(m, wanted.target, 1), 0);
    assert_int_equal(heap_word(arena, wanted.target), 1);
    assert_rc(pshm_heap_release(m, wanted.target, 1), PSHM_ENOTBLOCK);
    wanted = (pshm_allocation){wanted.target, 1, 0, 2, "abc", 3};
    assert_rc(pshm_heap_allocate(m, &wanted, &place), PSHM_EBOUNDS);
    wanted = (pshm_allocation){wanted.target, 1, 1, 3, "abc", 3};
    assert_rc(pshm_heap_allocate(m, &wanted, &place), PSHM_EDESTINATION);
    wanted.tag = 0;
    /* An entry need not be a root, nor in a block. */
    for (wanted.size = 1; wanted.size < 6000; wanted.size += 7) {
        char data[6000];
        memset(data, (int)wanted.size, sizeof data);
        wanted.data = data;
        wanted.data_size = wanted.size;
        assert_rc(pshm_heap_allocate(m, &wanted, &place), 0);
        assert_memory_equal(heap_bytes(arena, place), data, wanted.size);
        for (uint64_t i = wanted.size; i < heap_size(arena, place); i++)
            assert_int_equal(heap_bytes(arena, place)[i], 0);
        memset(heap_bytes(arena, place), 0xff, heap_size(arena, place));
        assert_rc(pshm_heap_release(m, wanted.target, 1), 0);
    }
    arena->attachment->head->roots[3] = 0;
    heap_end(arena);
}

typedef struct worker {
    pshm_arena *arena;
    uint32_t number;
    uint32_t rounds;
    bool failed;
} worker;

static int patiently(int rc(pshm_arena *, uint64_t), pshm_arena *arena, uint64_t target)
{
    int done;
    while ((done = rc(arena, target)) == -EINTR)
        ;
    return done;
}

static int some(pshm_arena *arena, uint64_t target)
{
    return pshm_heap_alloc_into(arena, target, 1 + target % 4999);
}

/* Fills blocks with its own number and looks whether it stays so. */
static void *work(void *context)
{
    worker *w = context;
    uint64_t table = heap_word(w->arena, pshm_heap_root(w->number)), random = w->number + 1;
    for (uint32_t i = 0; i < w->rounds && !w->failed; i++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
        uint64_t target = table + (random >> 33) % TARGETS * 8, place = heap_word(w->arena, target), size;
        if (!place) {
            int rc = patiently(some, w->arena, target);
            place = heap_word(w->arena, target);
            w->failed |= rc || pshm_heap_block_size(w->arena, place, &size) || *heap_bytes(w->arena, place);
            if (!w->failed)
                memset(heap_bytes(w->arena, place), (int)w->number + 1, size);
            continue;
        }
        w->failed |= pshm_heap_block_size(w->arena, place, &size) != 0;
        for (uint64_t n = 0; !w->failed && n < size; n += 15)
            w->failed |= heap_bytes(w->arena, place)[n] != w->number + 1;
        w->failed |= patiently(pshm_heap_free_from, w->arena, target) != 0;
    }
    return NULL;
}

static pshm_arena *with_tables(void)
{
    pshm_arena *arena = heap_open(4 * MIB);
    for (uint32_t i = 0; i < MANY; i++)
        assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(i), TARGETS * 8), 0);
    return arena;
}

static void expect_tables_alone(pshm_arena *arena)
{
    for (uint32_t i = 0; i < MANY; i++) {
        for (uint64_t n = 0, table = heap_word(arena, pshm_heap_root(i)); n < TARGETS; n++)
            assert_rc(patiently(pshm_heap_free_from, arena, table + n * 8), 0);
        assert_rc(pshm_heap_free_from(arena, pshm_heap_root(i)), 0);
    }
    assert_int_equal(heap_stats(arena).used, 0);
}

static void test_threads(void **state)
{
    (void)state;
    pshm_arena *arena = with_tables();
    worker workers[MANY];
    pthread_t threads[MANY];
    for (uint32_t i = 0; i < MANY; i++) {
        workers[i] = (worker){arena, i, 20000, false};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < MANY; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_false(workers[i].failed);
    }
    expect_tables_alone(arena);
    heap_end(arena);
}

static int work_for_ever(void *context)
{
    worker *w = context;
    work(w);
    return w->failed;
}

/* Processes that are killed in the middle, again and again: the others go on, and nothing is lost or mixed up. */
static void test_kills(void **state)
{
    (void)state;
    pshm_arena *arena = with_tables();
    worker workers[MANY];
    for (int round = 0; round < 30; round++) {
        pid_t pids[MANY];
        for (uint32_t i = 0; i < MANY; i++) {
            workers[i] = (worker){arena, i, i % 2 ? UINT32_MAX : 500, false};
            pids[i] = helper_fork(work_for_ever, &workers[i]);
        }
        usleep(3000);
        for (uint32_t i = 1; i < MANY; i += 2)
            assert_int_equal(kill(pids[i], SIGKILL), 0);
        for (uint32_t i = 0; i < MANY; i++)
            assert_int_equal(helper_wait(pids[i]), i % 2 ? 256 + SIGKILL : 0);
        /* What a killed one allocated may not be filled yet. */
        for (uint32_t i = 1; i < MANY; i += 2)
            for (uint64_t n = 0, table = heap_word(arena, pshm_heap_root(i)); n < TARGETS; n++)
                assert_rc(patiently(pshm_heap_free_from, arena, table + n * 8), 0);
        assert_heap_is_well(arena);
    }
    expect_tables_alone(arena);
    heap_end(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_tags_and_data),
        TEST(test_threads),
        TEST(test_kills),
    };
    return cmocka_run_group_tests_name("heap_shared", tests, NULL, NULL);
}
