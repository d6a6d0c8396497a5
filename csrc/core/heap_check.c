/* SPDX-License-Identifier: MIT
 *
 * Looking at the heap without its lock: finding blocks, counting them, and comparing all its tables with each other.
 */
#include <stdlib.h>

#include "core/findings.h"
#include "core/heap_inside.h"

/* How often counting is tried again because somebody allocated meanwhile. */
#define TRIES 8
/* Somebody overwrote all of it: as many findings say that as well as more. */
#define ENOUGH 256

bool pshm_heap_find(const pshm_attachment *a, uint64_t place, uint64_t *start, uint64_t *size)
{
    /* The tables of a block that is in use stand still: no sequence is needed. */
    pshm_heap_block block;
    if (pshm_heap_look(a, place, &block) || !pshm_heap_is_used(a, &block))
        return false;
    *start = block.start;
    *size = block.size;
    return true;
}

/* ---- counting ---- */

static uint64_t most(uint64_t one, uint64_t other)
{
    return one > other ? one : other;
}

static void count_once(const pshm_attachment *a, pshm_arena_stats *out)
{
    uint64_t end = a->at.heap_pages, gap = 0, longest = 0;
    out->heap = end * PSHM_PAGE;
    out->used = out->large = out->large_pages = out->largest_free = 0;
    out->classes = PSHM_CLASSES;
    for (uint32_t i = 0; i < PSHM_CLASSES; i++)
        out->class_[i] = (pshm_class_stats){.block = pshm_heap_classes[i].block, .pages = pshm_heap_classes[i].pages};
    for (uint64_t index = 0, count; index < end; index += count) {
        const pshm_page *page = pshm_heap_page(a, index);
        uint32_t state = pshm_load(&page->state), class_ = pshm_peek(&page->class_);
        bool free = state == PSHM_PAGE_FREE;
        count = 1;
        if (state == PSHM_PAGE_SPAN && class_ < PSHM_CLASSES && pshm_heap_is_span(a, index, class_)) {
            const pshm_heap_class *c = &pshm_heap_classes[class_];
            uint32_t used = pshm_heap_in_use(page, c);
            count = c->pages;
            out->used += (uint64_t)used * c->block;
            out->class_[class_].used += used;
            out->class_[class_].free += c->blocks - used;
            if (used < c->blocks)
                out->largest_free = most(out->largest_free, c->block);
            free = !used; /* an empty span is given back before room runs out */
        } else if (state == PSHM_PAGE_RUN) {
            count = pshm_peek(&page->count);
            if (!count || count > end - index)
                count = 1;
            out->used += count * PSHM_PAGE;
            out->large++;
            out->large_pages += count;
        }
        gap = free ? gap + count : 0;
        longest = most(longest, gap);
    }
    out->free = out->heap - out->used;
    out->largest_free = most(out->largest_free, longest * PSHM_PAGE);
}

void pshm_heap_count(const pshm_attachment *a, pshm_arena_stats *out)
{
    const uint64_t *sequence = &a->head->heap.sequence;
    for (int i = 0; i < TRIES; i++) {
        uint64_t before = pshm_load(sequence);
        count_once(a, out);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (!(before & 1) && pshm_peek(sequence) == before)
            return;
    }
}

/* ---- checking ---- */

typedef struct checking {
    const pshm_attachment *a;
    pshm_findings *f;
    size_t end; /* of findings */
    void (*each)(void *context, uint64_t place, uint64_t size);
    void *context;
} checking;

#define FIND(k, place, ...)                                                                                            \
    do {                                                                                                               \
        if ((k)->f->count < (k)->end)                                                                                  \
            pshm_find((k)->f, (place), __VA_ARGS__);                                                                   \
    } while (0)

static uint64_t place_of_page(const checking *k, uint64_t index)
{
    return pshm_place_of(k->a, pshm_heap_page(k->a, index));
}

static void check_span(const checking *k, uint64_t index, const pshm_page *page, uint32_t class_)
{
    const pshm_heap_class *c = &pshm_heap_classes[class_];
    bool room = pshm_heap_room(page, c) != c->blocks;
    if (pshm_bit(pshm_heap_partial(k->a, class_), index) != room)
        FIND(k, place_of_page(k, index), "a span of class %u %s, and its bit says otherwise", class_,
             room ? "has room" : "is full");
    for (uint32_t word = 0; word < 4; word++)
        if (pshm_peek(&page->used[word]) & ~pshm_bits_below(c->blocks, word))
            FIND(k, place_of_page(k, index), "a span of class %u has blocks in use beyond its last one", class_);
    for (uint32_t i = 0; k->each && i < c->blocks; i++)
        if (pshm_bit(page->used, i))
            k->each(k->context, pshm_heap_place(k->a, index) + (uint64_t)i * c->block, c->block);
}

static void check_tails(const checking *k, uint64_t index, uint64_t count)
{
    const pshm_page *page = pshm_heap_page(k->a, index);
    for (uint64_t i = 1; i < count; i++)
        if (pshm_peek(&page[i].state) != PSHM_PAGE_TAIL || pshm_peek(&page[i].count) != i)
            FIND(k, place_of_page(k, index + i), "is no further page of what begins %llu pages before it",
                 (unsigned long long)i);
}

/* What begins with a page; how many pages it has. */
static uint64_t check_page(const checking *k, uint64_t index)
{
    const pshm_page *page = pshm_heap_page(k->a, index);
    uint32_t state = pshm_load(&page->state), class_ = pshm_peek(&page->class_);
    uint64_t count = pshm_peek(&page->count), place = place_of_page(k, index);
    switch (state) {
    case PSHM_PAGE_FREE:
        count = 1;
        break;
    case PSHM_PAGE_SPAN:
        if (class_ >= PSHM_CLASSES || !pshm_heap_is_span(k->a, index, class_)) {
            FIND(k, place, "a span of class %u cannot have %llu pages here", class_, (unsigned long long)count);
            return 1;
        }
        count = pshm_heap_classes[class_].pages; /* what was read before may have been overwritten since */
        check_span(k, index, page, class_);
        break;
    case PSHM_PAGE_RUN:
        if (!count || count > k->a->at.heap_pages - index) {
            FIND(k, place, "a large block cannot have %llu pages here", (unsigned long long)count);
            return 1;
        }
        if (k->each)
            k->each(k->context, pshm_heap_place(k->a, index), count * PSHM_PAGE);
        break;
    case PSHM_PAGE_TAIL:
        FIND(k, place, "a further page of nothing");
        return 1;
    default:
        FIND(k, place, "a page has the state %u", state);
        return 1;
    }
    check_tails(k, index, count);
    bool taken = state != PSHM_PAGE_FREE;
    for (uint64_t i = 0; i < count; i++)
        if (pshm_bit(pshm_heap_taken(k->a), index + i) != taken)
            FIND(k, place_of_page(k, index + i), "the page is %s, and its bit says otherwise",
                 taken ? "taken" : "free");
    return count;
}

/* Bits for what is none, and beyond the last page. */
static void check_bits(const checking *k)
{
    uint64_t end = k->a->at.heap_pages;
    for (uint32_t class_ = 0; class_ <= PSHM_CLASSES; class_++) {
        const uint64_t *words = class_ == PSHM_CLASSES ? pshm_heap_taken(k->a) : pshm_heap_partial(k->a, class_);
        for (uint64_t word = 0; word < k->a->at.words; word++) {
            uint64_t bits = pshm_peek(&words[word]), place = pshm_place_of(k->a, &words[word]);
            if (bits & ~pshm_bits_below(end, word))
                FIND(k, place, "bits of pages beyond the last one");
            if (class_ == PSHM_CLASSES)
                continue;
            for (bits &= pshm_bits_below(end, word); bits; bits &= bits - 1) {
                uint64_t index = word * 64 + (uint64_t)__builtin_ctzll(bits);
                if (!pshm_heap_is_span(k->a, index, class_))
                    FIND(k, place, "page %llu is no span of class %u", (unsigned long long)index, class_);
            }
        }
    }
}

static void check_hints(const checking *k)
{
    const pshm_heap_head *h = &k->a->head->heap;
    uint64_t end = k->a->at.heap_pages, hint = pshm_peek(&h->free_hint);
    for (uint64_t word = 0; word < k->a->at.words && word * 64 < hint; word++)
        if (~pshm_peek(&pshm_heap_taken(k->a)[word]) & pshm_bits_below(hint < end ? hint : end, word)) {
            FIND(k, pshm_place_of(k->a, &h->free_hint), "a page below the first free one is free");
            break;
        }
    for (uint32_t class_ = 0; class_ < PSHM_CLASSES; class_++) {
        const uint64_t *partial = pshm_heap_partial(k->a, class_);
        hint = pshm_peek(&h->partial_hint[class_]);
        for (uint64_t word = 0; word < k->a->at.words && word < hint; word++)
            if (pshm_peek(&partial[word])) {
                FIND(k, pshm_place_of(k->a, &h->partial_hint[class_]),
                     "a span of class %u below the first with room has room", class_);
                break;
            }
        uint64_t spare = pshm_peek(&h->spare[class_]);
        if (spare && !(pshm_heap_is_span(k->a, spare - 1, class_) &&
                       pshm_heap_is_empty(pshm_heap_page(k->a, spare - 1), &pshm_heap_classes[class_])))
            FIND(k, pshm_place_of(k->a, &h->spare[class_]), "the spare span of class %u is not empty", class_);
        uint64_t current = pshm_peek(&h->current[class_]);
        if (current > end)
            FIND(k, pshm_place_of(k->a, &h->current[class_]), "the current span of class %u is beyond the last page",
                 class_);
    }
}

void pshm_heap_check(const pshm_attachment *a, pshm_findings *f,
                     void (*each)(void *context, uint64_t place, uint64_t size), void *context)
{
    const pshm_heap_head *h = &a->head->heap;
    const checking k = {.a = a, .f = f, .end = f->count + ENOUGH, .each = each, .context = context};
    uint32_t operation = pshm_load(&h->intent.operation);
    if (operation != PSHM_INTENT_NONE)
        FIND(&k, pshm_place_of(a, &h->intent), "operation %u of the heap is not finished", operation);
    if (pshm_load(&h->sequence) & 1)
        FIND(&k, pshm_place_of(a, &h->sequence), "the heap is being changed");
    for (uint64_t index = 0; index < a->at.heap_pages;)
        index += check_page(&k, index);
    check_bits(&k);
    check_hints(&k);
}
