/* SPDX-License-Identifier: MIT
 *
 * What the files of the heap share. Everything here that writes is for whoever has the heap's lock.
 */
#ifndef PSHM_CORE_HEAP_INSIDE_H
#define PSHM_CORE_HEAP_INSIDE_H

#include "core/heap.h"

/* On the way of every small block: the compiler would take some of it for too long. */
#define PSHM_QUICK static inline __attribute__((always_inline))

/* ---- classes ---- */

typedef struct pshm_heap_class {
    uint32_t block;   /* bytes */
    uint32_t blocks;  /* of a span */
    uint32_t pages;   /* of a span */
    uint32_t inverse; /* offset * inverse >> 32 is offset / block, for every offset in a span */
    uint64_t mask[4]; /* bits of each word of `used` that stand for blocks */
} __attribute__((aligned(64))) pshm_heap_class; /* which is found by a shift */

/* The class of each size up to PSHM_HEAP_SMALL, by (size + 15) / 16. */
#define PSHM_HEAP_SMALL 1024u

#pragma GCC visibility push(hidden)
extern const pshm_heap_class pshm_heap_classes[PSHM_CLASSES];
extern const uint8_t pshm_heap_small[PSHM_HEAP_SMALL / 16 + 1];
#pragma GCC visibility pop

/* ---- pages and their bits ---- */

static inline pshm_page *pshm_heap_page(const pshm_attachment *a, uint64_t index)
{
    return a->pages + index;
}

static inline uint64_t pshm_heap_place(const pshm_attachment *a, uint64_t index)
{
    return a->at.heap + index * PSHM_PAGE;
}

static inline uint64_t *pshm_heap_taken(const pshm_attachment *a)
{
    return pshm_at(a, a->at.taken);
}

static inline uint64_t *pshm_heap_partial(const pshm_attachment *a, uint32_t class_)
{
    return (uint64_t *)pshm_at(a, a->at.partial) + class_ * a->at.words;
}

static inline bool pshm_bit(const uint64_t *words, uint64_t index)
{
    return pshm_peek(&words[index / 64]) >> index % 64 & 1;
}

static inline void pshm_bit_set(uint64_t *words, uint64_t index)
{
    pshm_store(&words[index / 64], pshm_peek(&words[index / 64]) | UINT64_C(1) << index % 64);
}

static inline void pshm_bit_clear(uint64_t *words, uint64_t index)
{
    pshm_store(&words[index / 64], pshm_peek(&words[index / 64]) & ~(UINT64_C(1) << index % 64));
}

/* Bits of word number `word` that belong to the `count` first ones. */
static inline uint64_t pshm_bits_below(uint64_t count, uint64_t word)
{
    return count >= (word + 1) * 64 ? UINT64_MAX : count <= word * 64 ? 0 : (UINT64_C(1) << count % 64) - 1;
}

/* ---- spans ---- */

/* Bits of a word of `used` that stand for blocks. */
static inline uint64_t pshm_heap_mask(const pshm_heap_class *c, uint32_t word)
{
    return c->mask[word];
}

/* The word with the bit of a block. By a branch, so that most of the time nobody waits for the block's number. */
PSHM_QUICK uint64_t *pshm_heap_word(pshm_page *page, const pshm_heap_class *c, uint32_t index)
{
    if (PSHM_UNLIKELY(c->blocks > 64)) {
        __asm__("" : "+r"(index));
        return &page->used[index / 64];
    }
    return page->used;
}

/* The first block of a span that is free, its number of blocks if none is. */
PSHM_QUICK uint32_t pshm_heap_room(const pshm_page *page, const pshm_heap_class *c)
{
    for (uint32_t word = 0; word * 64 < c->blocks; word++) {
        uint64_t left = ~pshm_peek(&page->used[word]) & pshm_heap_mask(c, word);
        if (PSHM_LIKELY(left))
            return word * 64 + (uint32_t)__builtin_ctzll(left);
    }
    return c->blocks;
}

static inline uint32_t pshm_heap_in_use(const pshm_page *page, const pshm_heap_class *c)
{
    uint32_t count = 0;
    for (uint32_t word = 0; word * 64 < c->blocks; word++)
        count += (uint32_t)__builtin_popcountll(pshm_peek(&page->used[word]) & pshm_heap_mask(c, word));
    return count;
}

static inline bool pshm_heap_is_empty(const pshm_page *page, const pshm_heap_class *c)
{
    uint64_t any = 0;
    for (uint32_t word = 0; word * 64 < c->blocks; word++)
        any |= pshm_peek(&page->used[word]) & pshm_heap_mask(c, word);
    return !any;
}

/* Is the page with this index, of any value, the first of a span of the class? */
PSHM_QUICK bool pshm_heap_is_span(const pshm_attachment *a, uint64_t index, uint32_t class_)
{
    if (index >= a->at.heap_pages || pshm_heap_classes[class_].pages > a->at.heap_pages - index)
        return false;
    const pshm_page *page = pshm_heap_page(a, index);
    return pshm_peek(&page->state) == PSHM_PAGE_SPAN && pshm_peek(&page->class_) == class_ &&
           pshm_peek(&page->count) == pshm_heap_classes[class_].pages;
}

/* ---- blocks ---- */

typedef struct pshm_heap_block {
    uint64_t page;  /* the first one of its span or run */
    uint64_t count; /* pages of that */
    uint64_t start, size;
    uint32_t class_; /* PSHM_CLASSES: a run */
    uint32_t index;  /* in the span */
} pshm_heap_block;

/* The block around a place of any value, in use or not. PSHM_ENOTBLOCK, PSHM_ECORRUPT. */
PSHM_QUICK int pshm_heap_look(const pshm_attachment *a, uint64_t place, pshm_heap_block *out)
{
    if (PSHM_UNLIKELY(place < a->at.heap))
        return PSHM_ENOTBLOCK;
    uint64_t index = (place - a->at.heap) / PSHM_PAGE, back = 0;
    if (PSHM_UNLIKELY(index >= a->at.heap_pages))
        return PSHM_ENOTBLOCK;
    const pshm_page *page = pshm_heap_page(a, index);
    uint32_t state = pshm_load(&page->state);
    if (PSHM_UNLIKELY(state == PSHM_PAGE_TAIL)) {
        back = pshm_peek(&page->count);
        if (!back || back > index)
            return PSHM_ECORRUPT;
        page -= back;
        index -= back;
        state = pshm_load(&page->state);
        if (state != PSHM_PAGE_SPAN && state != PSHM_PAGE_RUN)
            return PSHM_ECORRUPT;
    }
    if (PSHM_UNLIKELY(state == PSHM_PAGE_FREE))
        return PSHM_ENOTBLOCK;
    out->page = index;
    out->count = pshm_peek(&page->count);
    if (PSHM_UNLIKELY(out->count <= back || out->count > a->at.heap_pages - index))
        return PSHM_ECORRUPT;
    out->start = pshm_heap_place(a, index);
    out->index = 0;
    if (PSHM_UNLIKELY(state != PSHM_PAGE_SPAN)) {
        out->class_ = PSHM_CLASSES;
        out->size = out->count * PSHM_PAGE;
        return state == PSHM_PAGE_RUN ? 0 : PSHM_ECORRUPT;
    }
    out->class_ = pshm_peek(&page->class_);
    if (PSHM_UNLIKELY(out->class_ >= PSHM_CLASSES))
        return PSHM_ECORRUPT;
    const pshm_heap_class *c = &pshm_heap_classes[out->class_];
    if (PSHM_UNLIKELY(out->count != c->pages))
        return PSHM_ECORRUPT;
    out->index = (uint32_t)((place - out->start) * c->inverse >> 32);
    if (out->index >= c->blocks)
        return PSHM_ENOTBLOCK;
    out->start += (uint64_t)out->index * c->block;
    out->size = c->block;
    return 0;
}

static inline bool pshm_heap_is_used(const pshm_attachment *a, const pshm_heap_block *b)
{
    if (PSHM_UNLIKELY(b->class_ == PSHM_CLASSES))
        return true;
    uint64_t *word = pshm_heap_word(pshm_heap_page(a, b->page), &pshm_heap_classes[b->class_], b->index);
    return pshm_peek(word) >> b->index % 64 & 1;
}

/* ---- heap_pages.c ---- */

typedef struct pshm_plan {
    pshm_intent intent; /* page, count, class_ and block */
    uint32_t index;     /* of the block, in its span */
} pshm_plan;

/* A block of the span with this index, of any value, if it is one of the class and has room. */
PSHM_QUICK bool pshm_heap_plan_block(const pshm_attachment *a, uint64_t index, uint32_t class_, pshm_plan *out)
{
    pshm_intent *plan = &out->intent;
    if (PSHM_UNLIKELY(!pshm_heap_is_span(a, index, class_)))
        return false;
    const pshm_heap_class *c = &pshm_heap_classes[class_];
    uint32_t block = pshm_heap_room(pshm_heap_page(a, index), c);
    if (PSHM_UNLIKELY(block == c->blocks))
        return false;
    plan->page = index;
    plan->count = 0;
    plan->class_ = class_;
    plan->block = pshm_heap_place(a, index) + block * c->block;
    out->index = block;
    return true;
}

/* A place for a block of `size` bytes, in a span that is there or on pages that are free. Nothing is changed but that empty spans are given back where pages run out. -ENOSPC, PSHM_ECORRUPT. */
int pshm_heap_plan_slowly(const pshm_attachment *a, uint64_t size, pshm_plan *plan);

/* The same, by the span of the class that was last used; false: that will not do. */
PSHM_QUICK bool pshm_heap_plan_quickly(const pshm_attachment *a, uint64_t size, pshm_plan *plan)
{
    if (PSHM_UNLIKELY(size > PSHM_HEAP_SMALL))
        return false;
    uint32_t class_ = pshm_heap_small[(size + 15) / 16];
    return pshm_heap_plan_block(a, (uint64_t)pshm_peek(&a->head->heap.current[class_]) - 1, class_, plan);
}

/* Takes the pages of a plan, and gives some back; of a span that is PSHM_CLASSES or its class. */
void pshm_heap_take_pages(const pshm_attachment *a, uint64_t index, uint64_t count, uint32_t class_);
void pshm_heap_give_pages(const pshm_attachment *a, uint64_t index, uint64_t count, uint32_t class_);

/* A span became empty: it is kept, or given back where another one is. */
void pshm_heap_spare(const pshm_attachment *a, uint64_t index, uint32_t class_);

/* Makes what follows from the used bits of a span true again. Does no harm when it is called once more. */
void pshm_heap_settle(const pshm_attachment *a, uint64_t index, uint32_t class_);

/* Says in the intent what is to be done, `operation` last; and that it is done. */
static inline void pshm_heap_intend(pshm_heap_head *h, const pshm_intent *intent)
{
    pshm_intent *i = &h->intent;
    __atomic_store_n(&i->class_, intent->class_, __ATOMIC_RELAXED);
    __atomic_store_n(&i->page, intent->page, __ATOMIC_RELAXED);
    __atomic_store_n(&i->count, intent->count, __ATOMIC_RELAXED);
    __atomic_store_n(&i->block, intent->block, __ATOMIC_RELAXED);
    __atomic_store_n(&i->target, intent->target, __ATOMIC_RELAXED);
    __atomic_store_n(&i->value, intent->value, __ATOMIC_RELAXED);
    pshm_store(&i->operation, intent->operation);
    /* Nothing that follows comes before it: a death shows all that a thread did, in the order of its program. */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static inline void pshm_heap_done(pshm_heap_head *h)
{
    pshm_store(&h->intent.operation, PSHM_INTENT_NONE);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* ---- as programs use it ---- */

/* Are these bytes among the roots? */
static inline bool pshm_heap_in_roots(uint64_t place, uint64_t size)
{
    uint64_t first = offsetof(pshm_head, roots), all = sizeof(uint64_t) * PSHM_ROOTS;
    return place >= first && place - first < all && size <= all - (place - first);
}

static inline bool pshm_heap_is_root(uint64_t place)
{
    return place - offsetof(pshm_head, roots) < sizeof(uint64_t) * PSHM_ROOTS && place % sizeof(uint64_t) == 0;
}

/* May the calling thread look at the memory? Where this is 0, pshm_arena_unlook ends it. */
static inline int pshm_heap_look_in(pshm_arena *arena, bool *pinned)
{
    int rc = pshm_arena_look(arena, pinned);
    if (PSHM_UNLIKELY(rc))
        return rc;
    rc = pshm_attachment_verify(arena->attachment);
    if (PSHM_UNLIKELY(rc))
        pshm_arena_unlook(arena, *pinned);
    return rc;
}

/* ---- heap_repair.c ---- */

/* Finishes or undoes what the intent says. May itself be interrupted by a death anywhere. PSHM_ECORRUPT. */
int pshm_heap_repair(const pshm_attachment *a);

#endif
