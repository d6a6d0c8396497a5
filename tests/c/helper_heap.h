/* SPDX-License-Identifier: MIT
 *
 * What the tests of the heap share.
 */
#ifndef TESTS_HELPER_HEAP_H
#define TESTS_HELPER_HEAP_H

#include <polyshm/heap.h>

#include "core/heap.h"
#include "helper.h"

/* A new arena of its own, with room for few participants. */
pshm_arena *heap_open(uint64_t size);
/* Closes it, after a look at whether all is well. */
void heap_end(pshm_arena *arena);

/* The calling thread in it. */
pshm_member *heap_member(pshm_arena *arena);

/* Checks the tables: they have to agree with each other, and used and free bytes to add up. */
#define assert_heap_is_well(arena) heap_assert_well((arena), __FILE__, __LINE__)
void heap_assert_well(pshm_arena *arena, const char *file, int line);
/* How many things are wrong. */
size_t heap_findings(pshm_arena *arena);

pshm_arena_stats heap_stats(pshm_arena *arena);
/* What a destination holds, and the bytes at a place. */
uint64_t heap_word(pshm_arena *arena, uint64_t target);
unsigned char *heap_bytes(pshm_arena *arena, uint64_t place);
uint64_t heap_size(pshm_arena *arena, uint64_t place);

/* Pseudo-random numbers, the same in each run. */
uint64_t heap_random(void);
void heap_seed(uint64_t seed);
/* Between 1 and `most`, each power of two as often. */
uint64_t heap_random_size(unsigned bits);

#endif
