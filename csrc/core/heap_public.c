/* SPDX-License-Identifier: MIT
 *
 * The heap as programs use it: roots, and words of their own blocks, as destinations.
 */
#include <polyshm/heap.h>

#include <string.h>

#include "core/heap.h"

_Static_assert(PSHM_HEAP_ROOTS == PSHM_ROOTS, "the contract says how many roots the layout has");

/* Are these bytes among the roots? */
static bool in_roots(uint64_t place, uint64_t size)
{
    uint64_t first = offsetof(pshm_head, roots), all = sizeof(uint64_t) * PSHM_ROOTS;
    return place >= first && place - first < all && size <= all - (place - first);
}

static bool is_root(uint64_t place)
{
    return in_roots(place, sizeof(uint64_t)) && (place - offsetof(pshm_head, roots)) % sizeof(uint64_t) == 0;
}

uint64_t pshm_heap_root(uint32_t index)
{
    return index < PSHM_ROOTS ? offsetof(pshm_head, roots) + index * sizeof(uint64_t) : 0;
}

/* May the calling thread look at the memory? Where this is 0, pshm_arena_unlook ends it. */
static int look(pshm_arena *arena, bool *pinned)
{
    int rc = pshm_arena_look(arena, pinned);
    if (PSHM_UNLIKELY(rc))
        return rc;
    rc = pshm_attachment_verify(arena->attachment);
    if (PSHM_UNLIKELY(rc))
        pshm_arena_unlook(arena, *pinned);
    return rc;
}

static bool is_destination(const pshm_attachment *a, uint64_t target)
{
    uint64_t start, size;
    return is_root(target) ||
           (target % 8 == 0 && pshm_heap_find(a, target, &start, &size) && target - start <= size - 8);
}

/* May the calling thread change the destination, and as which member? */
static int enter(pshm_arena *arena, uint64_t target, pshm_member **out)
{
    pshm_attachment *a = arena->attachment;
    bool pinned;
    int rc = look(arena, &pinned);
    if (PSHM_UNLIKELY(rc))
        return rc;
    if (PSHM_UNLIKELY(arena->readonly))
        rc = PSHM_EREADONLY;
    else if (PSHM_UNLIKELY(!is_destination(a, target)))
        rc = PSHM_EDESTINATION;
    else if (PSHM_UNLIKELY((*out = pshm_member_quick(a)) == NULL))
        rc = pshm_member_of(a, out);
    pshm_arena_unlook(arena, pinned); /* a member keeps the mapping */
    return rc;
}

int pshm_heap_alloc_into(pshm_arena *arena, uint64_t target, uint64_t size)
{
    pshm_member *m;
    uint64_t place;
    int rc = enter(arena, target, &m);
    if (PSHM_UNLIKELY(rc))
        return rc;
    const pshm_allocation wanted = {.target = target, .size = size};
    return pshm_heap_allocate(m, &wanted, &place);
}

int pshm_heap_free_from(pshm_arena *arena, uint64_t target)
{
    pshm_member *m;
    int rc = enter(arena, target, &m);
    if (PSHM_UNLIKELY(rc))
        return rc;
    const uint64_t *destination = pshm_at(arena->attachment, target);
    if (!pshm_load(destination))
        return 0;
    return pshm_heap_release(m, target, 0);
}

int pshm_heap_block_size(pshm_arena *arena, uint64_t place, uint64_t *size)
{
    const pshm_attachment *a = arena->attachment;
    uint64_t start, bytes = 0;
    bool pinned;
    int rc = look(arena, &pinned);
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
    int rc = look(arena, &pinned);
    if (rc)
        return rc;
    if (!in_block(a, place, size) && !in_roots(place, size))
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
    int rc = look(arena, &pinned);
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
