/* SPDX-License-Identifier: MIT
 *
 * The heap as programs use it: roots, and what is in blocks.
 */
#include <polyshm/heap.h>

#include <string.h>

#include "core/heap_inside.h"

_Static_assert(PSHM_HEAP_ROOTS == PSHM_ROOTS, "the contract says how many roots the layout has");

uint64_t pshm_heap_root(uint32_t index)
{
    return index < PSHM_ROOTS ? offsetof(pshm_head, roots) + index * sizeof(uint64_t) : 0;
}

int pshm_heap_block_size(pshm_arena *arena, uint64_t place, uint64_t *size)
{
    const pshm_attachment *a = arena->attachment;
    uint64_t start, bytes = 0;
    bool pinned;
    int rc = pshm_heap_look_in(arena, &pinned);
    if (rc)
        return rc;
    bool found = pshm_heap_find(a, place, &start, &bytes) && start == place;
    rc = pshm_attachment_verify(a);
    pshm_arena_unlook(arena, pinned);
    if (!rc && !found)
        rc = PSHM_ENOTBLOCK;
    if (!rc)
        *size = bytes;
    return rc;
}

/* Does [place, place + size) lie in one block? */
static bool in_block(const pshm_attachment *a, uint64_t place, uint64_t size)
{
    uint64_t start, bytes;
    return pshm_heap_find(a, place, &start, &bytes) && size <= bytes - (place - start);
}

int pshm_heap_read(pshm_arena *arena, uint64_t place, void *to, uint64_t size)
{
    const pshm_attachment *a = arena->attachment;
    bool pinned;
    int rc = pshm_heap_look_in(arena, &pinned);
    if (rc)
        return rc;
    if (!in_block(a, place, size) && !pshm_heap_in_roots(place, size))
        rc = PSHM_ENOTBLOCK;
    else if (size)
        memcpy(to, pshm_at(a, place), size);
    if (!rc)
        rc = pshm_attachment_verify(a);
    pshm_arena_unlook(arena, pinned);
    return rc;
}

int pshm_heap_write(pshm_arena *arena, uint64_t place, const void *from, uint64_t size)
{
    const pshm_attachment *a = arena->attachment;
    bool pinned;
    int rc = pshm_heap_look_in(arena, &pinned);
    if (rc)
        return rc;
    if (arena->readonly)
        rc = PSHM_EREADONLY;
    else if (!in_block(a, place, size))
        rc = PSHM_ENOTBLOCK;
    else if (size)
        memcpy(pshm_at(a, place), from, size);
    if (!rc)
        rc = pshm_attachment_verify(a);
    pshm_arena_unlook(arena, pinned);
    return rc;
}
