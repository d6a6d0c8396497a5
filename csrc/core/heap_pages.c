/* SPDX-License-Identifier: MIT
 *
 * The heap's pages: where a block goes, and what becomes of pages that are empty. Spans go to the lowest place that has
 * room, large blocks to where they fit best.
 */
#include <errno.h>

#include "core/heap_inside.h"

/* Once something was found that fits, how many pages further to look for what fits better. */
#define LOOK (UINT64_C(1) << 18)

const uint8_t pshm_heap_small[PSHM_HEAP_SMALL / 16 + 1] = {
    0,  0,  1,  2,  3,  4,  5,  6,  7,  8,  8,  9,  9,  10, 10, 11, 11, 12, 12, 12, 12, 13,
    13, 13, 13, 14, 14, 14, 14, 15, 15, 15, 15, 16, 16, 16, 16, 17, 17, 17, 17, 18, 18, 18,
    18, 18, 18, 18, 18, 19, 19, 19, 19, 19, 19, 19, 19, 20, 20, 20, 20, 20, 20, 20, 20,
};

/* The smallest class for a size, PSHM_CLASSES: pages of its own. */
static uint32_t class_of(uint64_t size)
{
    if (size <= PSHM_HEAP_SMALL)
        return pshm_heap_small[(size + 15) / 16];
    uint32_t class_ = pshm_heap_small[PSHM_HEAP_SMALL / 16] + 1u;
    while (class_ < PSHM_CLASSES && pshm_heap_classes[class_].block < size)
        class_++;
    /* Whole pages may be nearer to the size. */
    bool pages = class_ < PSHM_CLASSES &&
                 (size + PSHM_PAGE - 1) / PSHM_PAGE * PSHM_PAGE < pshm_heap_classes[class_].block;
    return pages ? PSHM_CLASSES : class_;
}

/* The first page in [from, end) whose bit is set, or clear if `flip` is UINT64_MAX; `end` if there is none. */
static uint64_t seek(const uint64_t *words, uint64_t from, uint64_t end, uint64_t flip)
{
    while (from < end) {
        uint64_t word = (pshm_peek(&words[from / 64]) ^ flip) >> from % 64;
        if (word) {
            from += (uint64_t)__builtin_ctzll(word);
            break;
        }
        from = (from | 63) + 1;
    }
    return from < end ? from : end;
}

/* ---- taking and giving back ---- */

static void mark(uint64_t *words, uint64_t index, uint64_t count, bool on)
{
    for (uint64_t end = index + count; index < end; index = (index | 63) + 1) {
        uint64_t bits = pshm_bits_below(end, index / 64) & UINT64_MAX << index % 64;
        uint64_t word = pshm_peek(&words[index / 64]);
        pshm_store(&words[index / 64], on ? word | bits : word & ~bits);
    }
}

void pshm_heap_take_pages(const pshm_attachment *a, uint64_t index, uint64_t count, uint32_t class_)
{
    pshm_heap_head *h = &a->head->heap;
    pshm_page *page = pshm_heap_page(a, index);
    mark(pshm_heap_taken(a), index, count, true);
    for (uint64_t i = 1; i < count; i++) {
        pshm_store(&page[i].count, i);
        pshm_store(&page[i].state, PSHM_PAGE_TAIL);
    }
    pshm_store(&page->count, count);
    pshm_store(&page->class_, class_ < PSHM_CLASSES ? class_ : 0);
    for (int i = 0; i < 4; i++)
        pshm_store(&page->used[i], 0);
    pshm_store(&page->state, class_ < PSHM_CLASSES ? PSHM_PAGE_SPAN : PSHM_PAGE_RUN);
    if (class_ < PSHM_CLASSES)
        pshm_store(&h->current[class_], (uint32_t)(index + 1));
}

void pshm_heap_give_pages(const pshm_attachment *a, uint64_t index, uint64_t count, uint32_t class_)
{
    pshm_heap_head *h = &a->head->heap;
    pshm_page *page = pshm_heap_page(a, index);
    if (class_ < PSHM_CLASSES) {
        if (pshm_peek(&h->current[class_]) == index + 1)
            pshm_store(&h->current[class_], 0);
        if (pshm_peek(&h->spare[class_]) == index + 1)
            pshm_store(&h->spare[class_], 0);
        pshm_bit_clear(pshm_heap_partial(a, class_), index);
    }
    for (uint64_t i = 0; i < count; i++)
        pshm_store(&page[i].state, PSHM_PAGE_FREE);
    mark(pshm_heap_taken(a), index, count, false);
    if (pshm_peek(&h->free_hint) > index)
        pshm_store(&h->free_hint, index);
}

/* The index of the empty span of a class that is kept, heap_pages: none. */
static uint64_t spare_of(const pshm_attachment *a, uint32_t class_)
{
    uint64_t index = (uint64_t)pshm_peek(&a->head->heap.spare[class_]) - 1;
    if (!pshm_heap_is_span(a, index, class_) ||
        !pshm_heap_is_empty(pshm_heap_page(a, index), &pshm_heap_classes[class_]))
        return a->at.heap_pages;
    return index;
}

void pshm_heap_spare(const pshm_attachment *a, uint64_t index, uint32_t class_)
{
    uint64_t other = spare_of(a, class_);
    if (other != a->at.heap_pages && other != index)
        pshm_heap_give_pages(a, index, pshm_heap_classes[class_].pages, class_);
    else
        pshm_store(&a->head->heap.spare[class_], (uint32_t)(index + 1));
}

void pshm_heap_settle(const pshm_attachment *a, uint64_t index, uint32_t class_)
{
    pshm_heap_head *h = &a->head->heap;
    const pshm_heap_class *c = &pshm_heap_classes[class_];
    const pshm_page *page = pshm_heap_page(a, index);
    uint64_t *partial = pshm_heap_partial(a, class_);
    if (pshm_heap_room(page, c) == c->blocks) {
        pshm_bit_clear(partial, index);
    } else {
        pshm_bit_set(partial, index);
        if (pshm_peek(&h->partial_hint[class_]) > index / 64)
            pshm_store(&h->partial_hint[class_], (uint32_t)(index / 64));
    }
    if (pshm_heap_is_empty(page, c))
        pshm_heap_spare(a, index, class_);
    else if (pshm_peek(&h->spare[class_]) == index + 1)
        pshm_store(&h->spare[class_], 0);
}

/* Gives an empty span back, as a release that has neither a block nor a destination. */
static void give_span(const pshm_attachment *a, uint64_t index, uint32_t class_)
{
    const pshm_intent intent = {.operation = PSHM_INTENT_FREE,
                                .class_ = class_,
                                .page = index,
                                .count = pshm_heap_classes[class_].pages};
    pshm_heap_intend(&a->head->heap, &intent);
    pshm_heap_give_pages(a, index, intent.count, class_);
    pshm_heap_done(&a->head->heap);
}

/* Gives back the spans that are kept though they are empty; with `all` also those that no hint knows of. */
static bool give_spares(const pshm_attachment *a, bool all)
{
    bool any = false;
    for (uint32_t class_ = 0; class_ < PSHM_CLASSES; class_++) {
        uint64_t index = spare_of(a, class_), end = a->at.heap_pages;
        if (index != end) {
            give_span(a, index, class_);
            any = true;
        }
        if (!all)
            continue;
        const uint64_t *partial = pshm_heap_partial(a, class_);
        for (index = seek(partial, 0, end, 0); index < end; index = seek(partial, index + 1, end, 0)) {
            if (!pshm_heap_is_span(a, index, class_) ||
                !pshm_heap_is_empty(pshm_heap_page(a, index), &pshm_heap_classes[class_]))
                continue;
            give_span(a, index, class_);
            any = true;
        }
    }
    return any;
}

/* ---- looking for room ---- */

/* Free pages for a span, as low as they are. */
static bool find_lowest(const pshm_attachment *a, uint64_t count, uint64_t *out)
{
    const uint64_t *taken = pshm_heap_taken(a);
    uint64_t *hint = &a->head->heap.free_hint, end = a->at.heap_pages;
    uint64_t from = pshm_peek(hint);
    uint64_t start = seek(taken, from <= end ? from : 0, end, UINT64_MAX);
    pshm_store(hint, start);
    while (start < end && count <= end - start) {
        uint64_t stop = seek(taken, start, start + count, 0);
        if (stop == start + count) {
            *out = start;
            return true;
        }
        start = seek(taken, stop, end, UINT64_MAX);
    }
    return false;
}

/* Free pages for a large block: where the least is left over. */
static bool find_best(const pshm_attachment *a, uint64_t count, uint64_t *out)
{
    const uint64_t *taken = pshm_heap_taken(a);
    uint64_t *hint = &a->head->heap.free_hint, end = a->at.heap_pages, best = UINT64_MAX;
    uint64_t from = pshm_peek(hint);
    uint64_t start = seek(taken, from <= end ? from : 0, end, UINT64_MAX);
    pshm_store(hint, start);
    uint64_t last = end;
    while (start < last && count <= end - start) {
        uint64_t stop = count + LOOK < end - start ? start + count + LOOK : end;
        stop = seek(taken, start, stop, 0);
        if (stop - start >= count && stop - start < best) {
            if (best == UINT64_MAX && LOOK < end - start)
                last = start + LOOK;
            best = stop - start;
            *out = start;
            if (best == count)
                break;
        }
        start = seek(taken, stop, end, UINT64_MAX);
    }
    return best != UINT64_MAX;
}

static bool are_free(const pshm_attachment *a, uint64_t index, uint64_t count)
{
    const pshm_page *page = pshm_heap_page(a, index);
    for (uint64_t i = 0; i < count; i++)
        if (pshm_peek(&page[i].state) != PSHM_PAGE_FREE)
            return false;
    return true;
}

/* A new span of the class, or a run if it is PSHM_CLASSES. -ENOSPC, PSHM_ECORRUPT. */
static int plan_pages(const pshm_attachment *a, uint32_t class_, uint64_t count, pshm_plan *plan)
{
    uint64_t index;
    if (!(class_ < PSHM_CLASSES ? find_lowest(a, count, &index) : find_best(a, count, &index)))
        return -ENOSPC;
    if (!are_free(a, index, count))
        return PSHM_ECORRUPT;
    plan->intent.class_ = class_;
    plan->intent.page = index;
    plan->intent.count = count;
    plan->intent.block = pshm_heap_place(a, index);
    plan->index = 0;
    return 0;
}

/* A block of a span of the class that is there: the one that was last used, else the lowest with room. */
static bool plan_in_span(const pshm_attachment *a, uint32_t class_, pshm_plan *plan)
{
    pshm_heap_head *h = &a->head->heap;
    if (PSHM_LIKELY(pshm_heap_plan_block(a, (uint64_t)pshm_peek(&h->current[class_]) - 1, class_, plan)))
        return true;
    const uint64_t *partial = pshm_heap_partial(a, class_);
    uint64_t end = a->at.heap_pages, index = (uint64_t)pshm_peek(&h->partial_hint[class_]) * 64;
    index = seek(partial, index <= end ? index : 0, end, 0);
    pshm_store(&h->partial_hint[class_], (uint32_t)(index / 64));
    for (; index < end; index = seek(partial, index + 1, end, 0)) {
        if (pshm_heap_plan_block(a, index, class_, plan)) {
            pshm_store(&h->current[class_], (uint32_t)(index + 1));
            return true;
        }
    }
    return false;
}

static int plan_for(const pshm_attachment *a, uint32_t class_, uint64_t pages, pshm_plan *plan)
{
    if (class_ < PSHM_CLASSES && PSHM_LIKELY(plan_in_span(a, class_, plan)))
        return 0;
    return plan_pages(a, class_, class_ < PSHM_CLASSES ? pshm_heap_classes[class_].pages : pages, plan);
}

/* No pages are left for a span of the class: whatever else would do. */
static int plan_otherwise(const pshm_attachment *a, uint32_t class_, uint64_t size, uint64_t pages, pshm_plan *plan)
{
    for (; class_ < PSHM_CLASSES; class_++) {
        const pshm_heap_class *c = &pshm_heap_classes[class_];
        bool aligned = size % 64 || c->block % 64 == 0;
        if (size <= c->block && aligned && plan_in_span(a, class_, plan))
            return 0;
    }
    return plan_pages(a, PSHM_CLASSES, pages, plan);
}

int pshm_heap_plan_slowly(const pshm_attachment *a, uint64_t size, pshm_plan *plan)
{
    uint64_t pages = (size - 1) / PSHM_PAGE + 1;
    if (pages > a->at.heap_pages)
        return -ENOSPC;
    uint32_t class_ = class_of(size);
    int rc = plan_for(a, class_, pages, plan);
    if (PSHM_LIKELY(rc != -ENOSPC))
        return rc;
    if (give_spares(a, false))
        rc = plan_for(a, class_, pages, plan);
    if (rc == -ENOSPC)
        rc = plan_otherwise(a, class_, size, pages, plan);
    if (rc != -ENOSPC)
        return rc;
    /* Once more, without a hint. */
    pshm_store(&a->head->heap.free_hint, 0);
    for (uint32_t i = 0; i < PSHM_CLASSES; i++)
        pshm_store(&a->head->heap.partial_hint[i], 0);
    give_spares(a, true);
    rc = plan_for(a, class_, pages, plan);
    return rc == -ENOSPC ? plan_otherwise(a, class_, size, pages, plan) : rc;
}
