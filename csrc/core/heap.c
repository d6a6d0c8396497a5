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
#include <polyshm/heap.h>

#include <string.h>

#include "core/bias.h"
#include "core/heap_inside.h"

#define BLOCKS(block, pages) ((pages)*4096 / (block))
#define MASK(blocks, word)                                                                                             \
    ((blocks) >= (word)*64 + 64 ? UINT64_MAX : (blocks) <= (word)*64 ? 0 : (UINT64_C(1) << (blocks) % 64) - 1)
#define MASKS(blocks) MASK(blocks, 0), MASK(blocks, 1), MASK(blocks, 2), MASK(blocks, 3)
#define X(block, pages)                                                                                                \
    {(block), BLOCKS(block, pages), (pages), UINT32_MAX / (block) + 1, {MASKS(BLOCKS(block, pages))}},
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
        pshm_bias_leave(m, &h->lock);
    else if (repair)
        pshm_owner_repaired(&h->lock.owner);
    return rc;
}

/* What is done inside begins here, and ends with the next number. */
static inline uint64_t begin(pshm_heap_head *h)
{
    uint64_t sequence = pshm_peek(&h->sequence) | 1;
    pshm_store(&h->sequence, sequence);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    return sequence;
}

static inline bool is_clean(const pshm_heap_head *h)
{
    return PSHM_LIKELY(pshm_peek(&h->intent.operation) == PSHM_INTENT_NONE);
}

/* One operation under the lock. */
typedef struct visit {
    pshm_heap_head *h;
    bool quick;
    uint64_t sequence;
} visit;

static int enter_slowly(pshm_member *m, visit *v)
{
    pshm_heap_head *h = &m->attachment->head->heap;
    bool repair = false;
    int rc = pshm_bias_enter(m, &h->lock, &repair);
    if (rc)
        return rc;
    *v = (visit){.h = h, .sequence = begin(h)};
    return !repair && is_clean(h) ? 0 : enter_dead(m, repair);
}

PSHM_QUICK int enter(pshm_member *m, visit *v)
{
    pshm_heap_head *h = &m->attachment->head->heap;
    v->h = h;
    v->quick = is_clean(h) && pshm_bias_enter_quickly(m, &h->lock, offsetof(pshm_head, heap.lock));
    if (PSHM_UNLIKELY(!v->quick)) {
        visit slow; /* so that the quick way's stays in registers */
        int rc = enter_slowly(m, &slow);
        v->sequence = rc ? 0 : slow.sequence;
        return rc;
    }
    v->sequence = begin(h);
    return 0;
}

PSHM_QUICK int leave(pshm_member *m, int rc, const visit *v)
{
    pshm_heap_head *h = v->h;
    pshm_store(&h->sequence, v->sequence + 1);
    int given = PSHM_LIKELY(v->quick) ? pshm_bias_leave_quickly(m, &h->lock) : pshm_bias_leave(m, &h->lock);
    return PSHM_UNLIKELY(rc) ? rc : given;
}

int pshm_heap_enter(pshm_member *m)
{
    visit v;
    int rc = enter_slowly(m, &v);
    if (!rc)
        pshm_store(&m->attachment->head->heap.sequence, v.sequence + 1);
    return rc;
}

void pshm_heap_leave(pshm_member *m)
{
    pshm_bias_leave(m, &m->attachment->head->heap.lock);
}

static bool is_target(const pshm_attachment *a, uint64_t target)
{
    return target && target % 8 == 0 && target <= a->at.size - 8;
}

/* ---- the two operations ---- */

/* Room is a multiple of 16, as blocks are. */
PSHM_QUICK void fill(unsigned char *block, uint64_t room, const pshm_allocation *wanted)
{
    uint64_t from = wanted->data_size;
    if (from)
        memcpy(block, wanted->data, from);
    else if (room <= 128)
        for (memset(block, 0, 16), from = room & 16; from < room; from += 32)
            memset(block + from, 0, 32);
    if (from < room)
        memset(block + from, 0, room - from);
}

/* Sets the bit of the block that is planned. true: it was the last one of the span. */
PSHM_QUICK bool use_block(const pshm_attachment *a, const pshm_plan *plan)
{
    const pshm_heap_class *c = &pshm_heap_classes[plan->intent.class_];
    pshm_page *page = pshm_heap_page(a, plan->intent.page);
    uint64_t *word = pshm_heap_word(page, c, plan->index);
    uint64_t bits = pshm_peek(word) | UINT64_C(1) << plan->index % 64;
    pshm_store(word, bits);
    bool room = ~bits & pshm_heap_mask(c, plan->index / 64);
    return PSHM_UNLIKELY(!room) && pshm_heap_room(page, c) == c->blocks;
}

/* `known`: it is a block of a span that is there already, so that the compiler leaves the rest out. */
PSHM_QUICK int publish(const pshm_attachment *a, const pshm_allocation *wanted, pshm_plan *plan, bool known,
                       uint64_t *place)
{
    pshm_heap_head *h = &a->head->heap;
    uint64_t *target = pshm_at(a, wanted->target);
    pshm_intent *i = &plan->intent;
    i->operation = PSHM_INTENT_ALLOC;
    i->target = wanted->target;
    i->value = i->block | wanted->tag;
    pshm_heap_intend(h, i);
    if (!known && i->count)
        pshm_heap_take_pages(a, i->page, i->count, i->class_);
    bool span = known || i->class_ < PSHM_CLASSES;
    bool changed = span && (use_block(a, plan) || (!known && i->count));
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

static int allocate_slowly(const pshm_attachment *a, const pshm_allocation *wanted, uint64_t *place)
{
    pshm_plan plan;
    int rc = pshm_heap_plan_slowly(a, wanted->size, &plan);
    return rc ? rc : publish(a, wanted, &plan, false, place);
}

PSHM_QUICK int allocate(const pshm_attachment *a, const pshm_allocation *wanted, uint64_t *place)
{
    const uint64_t *target = pshm_at(a, wanted->target);
    if (PSHM_UNLIKELY(pshm_load(target) != wanted->expect))
        return PSHM_EOCCUPIED;
    pshm_plan plan;
    if (PSHM_UNLIKELY(!pshm_heap_plan_quickly(a, wanted->size, &plan)))
        return allocate_slowly(a, wanted, place);
    return publish(a, wanted, &plan, true, place);
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
    visit v;
    int rc = enter(m, &v);
    return PSHM_UNLIKELY(rc) ? rc : leave(m, allocate(a, wanted, place), &v);
}

/* Clears the bit of a block and what follows from it. */
PSHM_QUICK void unuse_block(const pshm_attachment *a, const pshm_heap_block *b)
{
    uint32_t *spare = &a->head->heap.spare[b->class_];
    pshm_page *page = pshm_heap_page(a, b->page);
    uint64_t *word = pshm_heap_word(page, &pshm_heap_classes[b->class_], b->index);
    uint64_t before = pshm_peek(word), bits = before & ~(UINT64_C(1) << b->index % 64);
    pshm_store(word, bits);
    /* It may have been full. */
    if (PSHM_UNLIKELY(before == pshm_heap_classes[b->class_].mask[b->index / 64]) &&
        !pshm_bit(pshm_heap_partial(a, b->class_), b->page))
        pshm_heap_settle(a, b->page, b->class_);
    else if (!bits &&
             (pshm_heap_classes[b->class_].blocks <= 64 || pshm_heap_is_empty(page, &pshm_heap_classes[b->class_]))) {
        if (pshm_peek(spare))
            pshm_heap_spare(a, b->page, b->class_);
        else
            pshm_store(spare, (uint32_t)(b->page + 1));
    }
}

PSHM_QUICK int release(const pshm_attachment *a, uint64_t place, uint64_t replacement)
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
    visit v;
    int rc = enter(m, &v);
    return PSHM_UNLIKELY(rc) ? rc : leave(m, release(a, target, replacement), &v);
}

/* ---- the same, as programs use them ---- */

static bool is_destination(const pshm_attachment *a, uint64_t target)
{
    uint64_t start, size;
    return pshm_heap_is_root(target) ||
           (target % 8 == 0 && pshm_heap_find(a, target, &start, &size) && target - start <= size - 8);
}

/* May the calling thread change the destination, and as which member? */
static int become_member(pshm_arena *arena, uint64_t target, pshm_member **out)
{
    pshm_attachment *a = arena->attachment;
    bool pinned;
    int rc = pshm_heap_look_in(arena, &pinned);
    if (PSHM_UNLIKELY(rc))
        return rc;
    if (PSHM_UNLIKELY(arena->readonly))
        rc = PSHM_EREADONLY;
    else if (PSHM_UNLIKELY(!is_destination(a, target)))
        rc = PSHM_EDESTINATION;
    else
        rc = pshm_member_of(a, out);
    pshm_arena_unlook(arena, pinned); /* a member keeps the mapping */
    return rc;
}

PSHM_QUICK int member_of(pshm_arena *arena, uint64_t target, pshm_member **out)
{
    pshm_member *m = pshm_member_quick(arena->attachment);
    if (PSHM_LIKELY(m && !arena->closed && !arena->readonly && !*m->gone && pshm_heap_is_root(target))) {
        *out = m;
        return 0;
    }
    pshm_member *slow = NULL; /* so that the quick one stays in a register */
    int rc = become_member(arena, target, &slow);
    *out = slow;
    return rc;
}

int pshm_heap_alloc_into(pshm_arena *arena, uint64_t target, uint64_t size)
{
    pshm_member *m;
    uint64_t place;
    int rc = member_of(arena, target, &m);
    if (PSHM_UNLIKELY(rc))
        return rc;
    if (PSHM_UNLIKELY(!size))
        return PSHM_EZEROSIZE;
    const pshm_allocation wanted = {.target = target, .size = size};
    visit v;
    rc = enter(m, &v);
    return PSHM_UNLIKELY(rc) ? rc : leave(m, allocate(m->attachment, &wanted, &place), &v);
}

int pshm_heap_free_from(pshm_arena *arena, uint64_t target)
{
    pshm_member *m;
    int rc = member_of(arena, target, &m);
    if (PSHM_UNLIKELY(rc))
        return rc;
    const uint64_t *destination = pshm_at(arena->attachment, target);
    if (!pshm_load(destination))
        return 0;
    visit v;
    rc = enter(m, &v);
    return PSHM_UNLIKELY(rc) ? rc : leave(m, release(m->attachment, target, 0), &v);
}
