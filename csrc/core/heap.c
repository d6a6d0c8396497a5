/* SPDX-License-Identifier: MIT
 *
 * The heap: allocation and publication as one step. What survives a death at any instruction, and why:
 *
 *   All that is written is written under the heap's lock. An operation first says in the intent what it is about to do;
 *   `operation` of it is stored last, and cleared when all is done. Whoever takes over from a death reads the intent:
 *     alloc   pages are taken, the bit of the block is set, the block is filled, then the destination is stored: the
 *             commit. Derived bits follow. The destination names the block: the allocation is finished, else undone.
 *     free    the destination is stored: the commit. The bit is cleared, and what became empty is given back. It is
 *             always finished.
 *   A destination is changed here alone, and a block that is not in use is named by none: so the destination tells on
 *   which side of the commit the dead one was. Nothing that an intent names is given to anybody else before it is
 *   cleared, since that takes the lock, and whoever gets the lock repairs first. All steps of a repair can be done twice.
 *
 * Only the place in a destination is compared: the directory marks an entry beside its place.
 */
#include <string.h>

#include "core/heap_inside.h"

#define BLOCKS(block, pages) ((pages)*4096 / (block))
#define X(block, pages)                                                                                                \
    {(block), BLOCKS(block, pages), (pages), UINT32_MAX / (block) + 1,                                                 \
     UINT64_MAX >> (64 - BLOCKS(block, pages) % 64) % 64},
const pshm_heap_class pshm_heap_classes[PSHM_CLASSES] = {PSHM_CLASS_MAP(X)};
#undef X

#define X(block, pages)                                                                                                \
    _Static_assert((block) % 16 == 0 && BLOCKS(block, pages) <= 256 && (pages) <= 7, "a class fits its page entry");   \
    _Static_assert(UINT64_C(4096) * (pages) * (block) <= UINT32_MAX, "the inverse is exact");
PSHM_CLASS_MAP(X)
#undef X

/* ---- the lock ---- */

static int enter_dead(pshm_member *m, bool repair)
{
    pshm_heap_head *h = &m->attachment->head->heap;
    int rc = pshm_heap_repair(m->attachment);
    /* What cannot be repaired stays marked, so that nobody builds on it. */
    if (rc)
        pshm_owner_give(m, &h->lock);
    else if (repair)
        pshm_owner_repaired(&h->lock);
    return rc;
}

static inline int enter(pshm_member *m)
{
    pshm_heap_head *h = &m->attachment->head->heap;
    bool repair = false;
    int rc = pshm_owner_enter(m, &h->lock, &repair);
    if (PSHM_UNLIKELY(rc))
        return rc;
    pshm_store(&h->sequence, pshm_peek(&h->sequence) | 1);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    bool clean = !repair && pshm_peek(&h->intent.operation) == PSHM_INTENT_NONE;
    return PSHM_LIKELY(clean) ? 0 : enter_dead(m, repair);
}

static inline int leave(pshm_member *m, int rc)
{
    pshm_heap_head *h = &m->attachment->head->heap;
    pshm_store(&h->sequence, (pshm_peek(&h->sequence) | 1) + 1);
    int given = pshm_owner_give(m, &h->lock);
    return rc ? rc : given;
}

int pshm_heap_enter(pshm_member *m)
{
    int rc = enter(m);
    pshm_heap_head *h = &m->attachment->head->heap;
    if (!rc)
        pshm_store(&h->sequence, (pshm_peek(&h->sequence) | 1) + 1);
    return rc;
}

void pshm_heap_leave(pshm_member *m)
{
    pshm_owner_give(m, &m->attachment->head->heap.lock);
}

static bool is_target(const pshm_attachment *a, uint64_t target)
{
    return target && target % 8 == 0 && target <= a->at.size - 8;
}

/* ---- the two operations ---- */

/* Room is a multiple of 16, as blocks are. */
static inline void fill(unsigned char *block, uint64_t room, const pshm_allocation *wanted)
{
    uint64_t from = wanted->data_size;
    if (from)
        memcpy(block, wanted->data, from);
    else if (room <= 128)
        for (; from < room; from += 16)
            memset(block + from, 0, 16);
    if (from < room)
        memset(block + from, 0, room - from);
}

/* Sets the bit of the block that is planned. true: it was the last one of the span. */
static inline bool use_block(const pshm_attachment *a, const pshm_plan *plan)
{
    const pshm_heap_class *c = &pshm_heap_classes[plan->intent.class_];
    pshm_page *page = pshm_heap_page(a, plan->intent.page);
    uint64_t *word = &page->used[plan->index / 64];
    uint64_t bits = pshm_peek(word) | UINT64_C(1) << plan->index % 64;
    pshm_store(word, bits);
    bool room = ~bits & pshm_heap_mask(c, plan->index / 64);
    return PSHM_UNLIKELY(!room) && pshm_heap_room(page, c) == c->blocks;
}

static inline int allocate(const pshm_attachment *a, const pshm_allocation *wanted, uint64_t *place)
{
    pshm_heap_head *h = &a->head->heap;
    uint64_t *target = pshm_at(a, wanted->target);
    if (pshm_load(target) != wanted->expect)
        return PSHM_EOCCUPIED;
    pshm_plan plan;
    pshm_intent *i = &plan.intent;
    int rc = pshm_heap_plan(a, wanted->size, &plan);
    if (PSHM_UNLIKELY(rc))
        return rc;
    i->operation = PSHM_INTENT_ALLOC;
    i->target = wanted->target;
    i->value = i->block | wanted->tag;
    pshm_heap_intend(h, i);
    if (PSHM_UNLIKELY(i->count))
        pshm_heap_take_pages(a, i->page, i->count, i->class_);
    bool span = i->class_ < PSHM_CLASSES;
    bool changed = span && (use_block(a, &plan) || i->count);
    fill(pshm_at(a, i->block), span ? pshm_heap_classes[i->class_].block : i->count * PSHM_PAGE, wanted);
    if (PSHM_UNLIKELY(pshm_attachment_verify(a))) {
        /* The block's memory is gone, perhaps that of the tables is not. */
        pshm_heap_repair(a);
        return PSHM_ELOST;
    }
    pshm_store(target, i->value);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (PSHM_UNLIKELY(changed))
        pshm_heap_settle(a, i->page, i->class_);
    else if (span && pshm_peek(&h->spare[i->class_]) == i->page + 1)
        pshm_store(&h->spare[i->class_], 0);
    pshm_heap_done(h);
    *place = i->block;
    return 0;
}

int pshm_heap_allocate(pshm_member *m, const pshm_allocation *wanted, uint64_t *place)
{
    const pshm_attachment *a = m->attachment;
    if (PSHM_UNLIKELY(!wanted->size))
        return PSHM_EZEROSIZE;
    if (PSHM_UNLIKELY(!is_target(a, wanted->target) || wanted->tag & PSHM_HELD_PLACE))
        return PSHM_EDESTINATION;
    if (PSHM_UNLIKELY(wanted->data_size > wanted->size))
        return PSHM_EBOUNDS;
    int rc = enter(m);
    return PSHM_UNLIKELY(rc) ? rc : leave(m, allocate(a, wanted, place));
}

/* Clears the bit of a block and what follows from it. */
static inline void unuse_block(const pshm_attachment *a, const pshm_heap_block *b)
{
    uint32_t *spare = &a->head->heap.spare[b->class_];
    pshm_page *page = pshm_heap_page(a, b->page);
    uint64_t *word = &page->used[b->index / 64];
    uint64_t bits = pshm_peek(word) & ~(UINT64_C(1) << b->index % 64);
    pshm_store(word, bits);
    if (PSHM_UNLIKELY(!pshm_bit(pshm_heap_partial(a, b->class_), b->page)))
        pshm_heap_settle(a, b->page, b->class_);
    else if (!bits && pshm_heap_is_empty(page, &pshm_heap_classes[b->class_])) {
        if (pshm_peek(spare))
            pshm_heap_spare(a, b->page, b->class_);
        else
            pshm_store(spare, (uint32_t)(b->page + 1));
    }
}

static inline int release(const pshm_attachment *a, uint64_t place, uint64_t replacement)
{
    pshm_heap_head *h = &a->head->heap;
    uint64_t *target = pshm_at(a, place);
    pshm_heap_block block;
    uint64_t start = pshm_load(target) & PSHM_HELD_PLACE;
    int rc = pshm_heap_look(a, start, &block);
    if (PSHM_UNLIKELY(rc))
        return start ? rc : 0; /* somebody else was faster */
    if (block.start != start || !pshm_heap_is_used(a, &block))
        return PSHM_ENOTBLOCK;
    const pshm_intent intent = {.operation = PSHM_INTENT_FREE,
                                .class_ = block.class_,
                                .page = block.page,
                                .count = block.count,
                                .block = start,
                                .target = place,
                                .value = replacement};
    pshm_heap_intend(h, &intent);
    pshm_store(target, replacement);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (PSHM_LIKELY(block.class_ < PSHM_CLASSES))
        unuse_block(a, &block);
    else
        pshm_heap_give_pages(a, block.page, block.count, PSHM_CLASSES);
    pshm_heap_done(h);
    return pshm_attachment_verify(a);
}

int pshm_heap_release(pshm_member *m, uint64_t target, uint64_t replacement)
{
    const pshm_attachment *a = m->attachment;
    if (PSHM_UNLIKELY(!is_target(a, target)))
        return PSHM_EDESTINATION;
    int rc = enter(m);
    return PSHM_UNLIKELY(rc) ? rc : leave(m, release(a, target, replacement));
}
