/* SPDX-License-Identifier: MIT
 *
 * What whoever takes over the heap's lock from a death does. The intent says what was under way; it is believed only
 * where it fits the tables, since a repair frees pages.
 */
#include "core/heap_inside.h"

static pshm_intent read_intent(const pshm_heap_head *h)
{
    const pshm_intent *i = &h->intent;
    return (pshm_intent){.operation = pshm_load(&i->operation),
                         .class_ = pshm_peek(&i->class_),
                         .page = pshm_peek(&i->page),
                         .count = pshm_peek(&i->count),
                         .block = pshm_peek(&i->block),
                         .target = pshm_peek(&i->target),
                         .value = pshm_peek(&i->value)};
}

/* Pages of the span or run that an intent is about. */
static uint64_t pages_of(const pshm_intent *i)
{
    return i->class_ < PSHM_CLASSES ? pshm_heap_classes[i->class_].pages : i->count;
}

/* Can it be what an operation of ours wrote? */
static bool is_possible(const pshm_attachment *a, const pshm_intent *i)
{
    if (i->operation > PSHM_INTENT_FREE || i->class_ > PSHM_CLASSES || i->page >= a->at.heap_pages)
        return false;
    uint64_t pages = pages_of(i), start = pshm_heap_place(a, i->page);
    if (!pages || pages > a->at.heap_pages - i->page)
        return false;
    if (i->class_ < PSHM_CLASSES && i->count != pages && (i->count || i->operation == PSHM_INTENT_FREE))
        return false;
    /* A span that is given back because pages ran out: no block was freed. */
    if (i->operation == PSHM_INTENT_FREE && !i->target)
        return !i->block && i->class_ < PSHM_CLASSES;
    /* A destination lies in the head or in the heap, not where the beacons are. */
    bool in_head = i->target && i->target <= sizeof(pshm_head) - 8;
    if (i->target % 8 || !(in_head || pshm_in_heap(a, i->target, 8)))
        return false;
    if (i->operation == PSHM_INTENT_ALLOC && (i->value & PSHM_HELD_PLACE) != i->block)
        return false;
    if (i->class_ == PSHM_CLASSES)
        return i->block == start;
    const pshm_heap_class *c = &pshm_heap_classes[i->class_];
    return i->block >= start && (i->block - start) % c->block == 0 && (i->block - start) / c->block < c->blocks;
}

/* Is every page either free already or of the span or run that the intent is about? */
static bool is_ours(const pshm_attachment *a, const pshm_intent *i)
{
    const pshm_page *page = pshm_heap_page(a, i->page);
    uint64_t pages = pages_of(i);
    uint32_t state = pshm_peek(&page->state);
    bool run = i->class_ == PSHM_CLASSES;
    if (state != PSHM_PAGE_FREE) {
        if (state != (run ? PSHM_PAGE_RUN : PSHM_PAGE_SPAN) || pshm_peek(&page->count) != pages)
            return false;
        if (!run && pshm_peek(&page->class_) != i->class_)
            return false;
    }
    for (uint64_t n = 1; n < pages; n++) {
        state = pshm_peek(&page[n].state);
        if (state != PSHM_PAGE_FREE && (state != PSHM_PAGE_TAIL || pshm_peek(&page[n].count) != n))
            return false;
    }
    return true;
}

/* The block of the intent, if it has one, is not in use. A span that has no other stays as one that is kept empty. */
static void unuse(const pshm_attachment *a, const pshm_intent *i)
{
    pshm_page *page = pshm_heap_page(a, i->page);
    if (i->class_ == PSHM_CLASSES || pshm_peek(&page->state) == PSHM_PAGE_FREE) {
        pshm_heap_give_pages(a, i->page, pages_of(i), i->class_);
        return;
    }
    if (i->block)
        pshm_bit_clear(page->used, (i->block - pshm_heap_place(a, i->page)) / pshm_heap_classes[i->class_].block);
    pshm_heap_settle(a, i->page, i->class_);
}

/* The destination names the block: all its tables are as they have to be. */
static int use(const pshm_attachment *a, const pshm_intent *i)
{
    pshm_page *page = pshm_heap_page(a, i->page);
    if (pshm_peek(&page->state) == PSHM_PAGE_FREE)
        return PSHM_ECORRUPT;
    if (i->class_ == PSHM_CLASSES)
        return 0;
    pshm_bit_set(page->used, (i->block - pshm_heap_place(a, i->page)) / pshm_heap_classes[i->class_].block);
    pshm_heap_settle(a, i->page, i->class_);
    return 0;
}

int pshm_heap_repair(const pshm_attachment *a)
{
    pshm_heap_head *h = &a->head->heap;
    const pshm_intent i = read_intent(h);
    if (i.operation == PSHM_INTENT_NONE)
        return 0;
    if (!is_possible(a, &i) || !is_ours(a, &i))
        return PSHM_ECORRUPT;
    uint64_t *target = i.target ? pshm_at(a, i.target) : NULL;
    bool named = target && (pshm_load(target) & PSHM_HELD_PLACE) == i.block;
    int rc = 0;
    if (i.operation == PSHM_INTENT_FREE && named) {
        pshm_store(target, i.value);
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
    }
    if (i.operation == PSHM_INTENT_ALLOC && named)
        rc = use(a, &i);
    else
        unuse(a, &i);
    if (!rc)
        pshm_heap_done(h);
    return rc;
}
