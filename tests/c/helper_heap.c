/* SPDX-License-Identifier: MIT */
#include "helper_heap.h"

#include <stdlib.h>

#include "core/findings.h"

pshm_arena *heap_open(uint64_t size)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *arena;
    options.size = size;
    options.create = true;
    options.participants = 8;
    assert_rc(pshm_arena_open("anon:", 5, &options, &arena), 0);
    return arena;
}

void heap_end(pshm_arena *arena)
{
    heap_assert_well(arena, __FILE__, __LINE__);
    pshm_arena_close(arena);
    pshm_arena_release(arena);
}

pshm_member *heap_member(pshm_arena *arena)
{
    pshm_member *m;
    assert_rc(pshm_member_of(arena->attachment, &m), 0);
    return m;
}

size_t heap_findings(pshm_arena *arena)
{
    pshm_findings findings = {0};
    pshm_heap_check(arena->attachment, &findings, NULL, NULL);
    free(findings.text);
    return findings.count;
}

static void add_up(void *context, uint64_t place, uint64_t size)
{
    (void)place;
    *(uint64_t *)context += size;
}

void heap_assert_well(pshm_arena *arena, const char *file, int line)
{
    pshm_findings findings = {0};
    pshm_arena_stats stats = {0};
    uint64_t used = 0;
    pshm_heap_check(arena->attachment, &findings, add_up, &used);
    if (findings.count)
        print_error("%.*s\n", (int)findings.size, findings.text);
    free(findings.text);
    _assert_int_equal(findings.count, 0, file, line);
    pshm_heap_count(arena->attachment, &stats);
    _assert_int_equal(stats.used, used, file, line);
    _assert_int_equal(stats.used + stats.free, stats.heap, file, line);
}

pshm_arena_stats heap_stats(pshm_arena *arena)
{
    pshm_arena_stats stats = {0};
    pshm_heap_count(arena->attachment, &stats);
    return stats;
}

unsigned char *heap_bytes(pshm_arena *arena, uint64_t place)
{
    assert_true(place < arena->attachment->at.size);
    return pshm_at(arena->attachment, place);
}

uint64_t heap_word(pshm_arena *arena, uint64_t target)
{
    uint64_t value;
    memcpy(&value, heap_bytes(arena, target), sizeof value);
    return value;
}

uint64_t heap_size(pshm_arena *arena, uint64_t place)
{
    uint64_t size;
    assert_rc(pshm_heap_block_size(arena, place, &size), 0);
    return size;
}

static uint64_t random_state;

void heap_seed(uint64_t seed)
{
    random_state = seed;
}

uint64_t heap_random(void)
{
    /* SplitMix64 */
    uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t heap_random_size(unsigned bits)
{
    /* A power of two, and evenly from there to the next: as good as log-uniform. */
    uint64_t power = UINT64_C(1) << heap_random() % bits;
    return power + heap_random() % power;
}
