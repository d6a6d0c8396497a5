/* SPDX-License-Identifier: MIT
 *
 * What the slots name: whether somebody is inside, before memory is freed, and whether a lock is there, before it is
 * marked.
 */
#include "core/heap.h"
#include "core/participant.h"
#include "os/process.h"

static bool is_at(const pshm_slot *slot, uint64_t place, uint64_t size)
{
    if (pshm_load(&slot->busy) - place < size)
        return true;
    for (uint32_t i = 0; i < PSHM_HELD; i++)
        if ((pshm_load(&slot->held[i]) & PSHM_HELD_PLACE) - place < size)
            return true;
    return false;
}

bool pshm_is_busy(pshm_attachment *a, uint64_t place, uint64_t size)
{
    const pshm_member *self = pshm_member_known(a);
    bool fenced = true, others = false;
    /* Whoever has a slot only after this sees what the caller stored, and needs no barrier. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint32_t high = pshm_high_water(a);
    for (uint32_t i = 0; i < high; i++) {
        const pshm_slot *slot = pshm_slot_at(a, i);
        if ((pshm_load(&slot->stamp) & PSHM_PHASE) == PSHM_PHASE_FREE || (self && self->index == i))
            continue;
        others = true;
        fenced = fenced && (pshm_peek(&slot->flags) & PSHM_SLOT_FENCED);
    }
    if (others && !pshm_os_fence_all(fenced) && !pshm_os_fence_all(false))
        return true;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (uint32_t i = 0; i < high; i++) {
        const pshm_slot *slot = pshm_slot_at(a, i);
        if ((pshm_load(&slot->stamp) & PSHM_PHASE) != PSHM_PHASE_FREE && is_at(slot, place, size) &&
            !pshm_slot_reclaim(a, i))
            return true;
    }
    return false;
}

bool pshm_is_lock(const pshm_attachment *a, uint64_t place)
{
    uint64_t start, size;
    if (place == offsetof(pshm_head, heap.lock) || place == offsetof(pshm_head, directory.lock) ||
        place == offsetof(pshm_head, ending))
        return true;
    if (place % 8 || !pshm_heap_find(a, place, &start, &size) || size < sizeof(pshm_node))
        return false;
    const pshm_node *node = pshm_at(a, start);
    uint64_t serial = pshm_load(&node->serial), body = pshm_peek(&node->body), inside = place - start;
    uint64_t number = (serial ^ a->id) * PSHM_SERIAL_STEP_INVERSE;
    return serial && number && number <= pshm_load(&a->head->serial) && body && body <= inside &&
           size - inside >= sizeof(pshm_owner);
}
