/* SPDX-License-Identifier: MIT
 *
 * The heap of an arena. A block is allocated into a destination and freed from it: a word of 8 bytes that holds the
 * block's place. Allocation and publication are one step: after a death at any instruction the destination holds a block
 * that is in use, or holds what it held before and nothing is in use.
 *
 * Destinations are roots, which every arena has PSHM_HEAP_ROOTS of, and aligned words of blocks that were allocated here.
 * A destination is changed by these functions alone; reading it needs no lock.
 */
#ifndef POLYSHM_HEAP_H
#define POLYSHM_HEAP_H

#include <polyshm/arena.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PSHM_HEAP_ROOTS 32

/* The place of root number `index`, in bytes from the arena's start; 0 for none.
 * Safe: anywhere, signal handlers too. */
PSHM_API uint64_t pshm_heap_root(uint32_t index);

/* Allocates `size` bytes, from 1 to most of the arena, and puts the place of the block into the destination at `target`,
 * which has to hold 0. The block is zeroed, and aligned to 16, to 64 where its size is a multiple of 64.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY, PSHM_EDESTINATION (not a root, nor a word of a block), PSHM_EOCCUPIED (it does not
 *   hold 0), PSHM_EZEROSIZE, PSHM_EPARTICIPANTS, PSHM_ECORRUPT, PSHM_ELOST; -ENOSPC (no room for it); -EINTR (a slice is
 *   over: call again).
 * Safe: threads, processes.  Blocks: while another allocates. */
PSHM_API int pshm_heap_alloc_into(pshm_arena *arena, uint64_t target, uint64_t size);

/* Frees the block that the destination at `target` holds, and leaves 0 there. A destination that holds 0 is left so.
 * Errors: as pshm_heap_alloc_into; PSHM_ENOTBLOCK (it holds no block that is in use).
 * Safe: threads, processes.  Blocks: while another allocates. */
PSHM_API int pshm_heap_free_from(pshm_arena *arena, uint64_t target);

/* Bytes of the block at `place`, at least those that were asked for.
 * Errors: PSHM_ECLOSED, PSHM_ENOTBLOCK, PSHM_ELOST. */
PSHM_API int pshm_heap_block_size(pshm_arena *arena, uint64_t place, uint64_t *size);

/* Copies `size` bytes of the block around [place, place + size) out, or in. Roots can be read too: what such a word holds is
 * the place of a block, or 0.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY (write), PSHM_ENOTBLOCK (the range is not inside one block in use), PSHM_ELOST.
 * Safe: threads, processes; torn against a writer without a lock, and the block must not be freed meanwhile. */
PSHM_API int pshm_heap_read(pshm_arena *arena, uint64_t place, void *to, uint64_t size);
PSHM_API int pshm_heap_write(pshm_arena *arena, uint64_t place, const void *from, uint64_t size);

#ifdef __cplusplus
}
#endif
#endif
