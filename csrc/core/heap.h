/* SPDX-License-Identifier: MIT
 *
 * The heap, for core/, sync/ and data/: allocation and publication as one step. layout.h has its tables, heap.c the proof.
 */
#ifndef PSHM_CORE_HEAP_H
#define PSHM_CORE_HEAP_H

#include "core/owner.h"

/* What a block is allocated into, and with what. */
typedef struct pshm_allocation {
    uint64_t target;  /* place of the destination, aligned to 8, anywhere in the arena */
    uint64_t expect;  /* what it has to hold before */
    uint64_t tag;     /* bits beside the block's place in what it is to hold: none of PSHM_HELD_PLACE */
    uint64_t size;    /* bytes */
    const void *data; /* what the block begins with; the rest is zeroed */
    uint64_t data_size;
} pshm_allocation;

/* Allocates; *place is the block's. -ENOSPC, -EINTR (a slice is over), PSHM_EOCCUPIED, PSHM_EZEROSIZE, PSHM_ECORRUPT, PSHM_ELOST and
 * what pshm_owner_take says. The caller holds no heap lock; any other lock of its own it may hold. */
int pshm_heap_allocate(pshm_member *m, const pshm_allocation *wanted, uint64_t *place);

/* Frees the block whose place is in the destination, and leaves `replacement` there; 0 is left as it
 * is. PSHM_ENOTBLOCK. */
int pshm_heap_release(pshm_member *m, uint64_t target, uint64_t replacement);

/* The block in use that has `place` in it: its first byte and size. false: none. Without a lock. */
bool pshm_heap_find(const pshm_attachment *a, uint64_t place, uint64_t *start, uint64_t *size);

/* Fills in what the heap knows of stats. Without a lock. */
void pshm_heap_count(const pshm_attachment *a, pshm_arena_stats *out);

/* Adds findings about the heap's own tables. `each` is called for every block in use, so that the caller can see whether
 * somebody knows of it. */
typedef struct pshm_findings pshm_findings;
void pshm_heap_check(const pshm_attachment *a, pshm_findings *f,
                     void (*each)(void *context, uint64_t place, uint64_t size), void *context);

/* Finishes or undoes what somebody who died in the heap's lock was doing, if so. Holds the lock when it returns 0. For
 * pshm_arena_check. */
int pshm_heap_enter(pshm_member *m);
void pshm_heap_leave(pshm_member *m);

#endif
