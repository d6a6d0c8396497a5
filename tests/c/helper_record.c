/* SPDX-License-Identifier: MIT */
#include "helper_record.h"

#include <stdlib.h>

#define HEAD RECORD_HEAD
#define FIRST RECORD_FIRST

void record_copy(const record *r, unsigned char *to, const unsigned char *from)
{
    memcpy(to + FIRST, from + FIRST, sizeof(pshm_head) - FIRST);
    memcpy(to + r->a->at.pages, from + r->a->at.pages, r->a->at.size - r->a->at.pages);
}

record *record_begin(uint64_t size)
{
    record *r = calloc(1, sizeof *r);
    r->arena = heap_open(size);
    r->a = r->arena->attachment;
    r->before = malloc(size);
    r->after = malloc(size);
    assert_true(heap_member(r->arena) != NULL);
    return r;
}

void record_end(record *r)
{
    heap_end(r->arena);
    free(r->before);
    free(r->after);
    free(r);
}

void record_put(record *r, uint64_t place, uint64_t size)
{
    assert_true(r->count < sizeof r->at / sizeof *r->at);
    r->at[r->count++] = (record_store){.place = place, .size = size, .bytes = r->after + place};
}

void record_put_value(record *r, uint64_t place, uint64_t size, uint64_t value)
{
    record_put(r, place, size);
    r->at[r->count - 1].bytes = NULL;
    r->at[r->count - 1].value = value;
}

uint32_t record_play(record *r, size_t count)
{
    record_copy(r, r->a->base, r->before);
    for (const record_store *s = r->at; s < r->at + count; s++)
        memcpy(r->a->base + s->place, s->bytes ? (const void *)s->bytes : &s->value, s->size);
    return r->a->head->heap.intent.operation;
}

void record_put_intent(record *r, uint32_t operation, const pshm_intent *i)
{
    record_put_value(r, HEAD(intent.class_), 4, i->class_);
    record_put_value(r, HEAD(intent.page), 8, i->page);
    record_put_value(r, HEAD(intent.count), 8, i->count);
    record_put_value(r, HEAD(intent.block), 8, i->block);
    record_put_value(r, HEAD(intent.target), 8, i->target);
    record_put_value(r, HEAD(intent.value), 8, i->value);
    record_put_value(r, HEAD(intent.operation), 4, operation);
}

pshm_intent record_intent_of(const record *r)
{
    pshm_intent i;
    memcpy(&i, r->after + HEAD(intent), sizeof i);
    return i;
}

uint64_t record_page_at(const record *r, uint64_t index, size_t field)
{
    return r->a->at.pages + index * sizeof(pshm_page) + field;
}

static void put_bits(record *r, uint64_t bitmap, uint64_t index, uint64_t count)
{
    for (uint64_t word = index / 64; word <= (index + count - 1) / 64; word++)
        record_put(r, bitmap + word * 8, 8);
}

void record_put_partial(record *r, const pshm_intent *i)
{
    if (i->class_ < PSHM_CLASSES)
        put_bits(r, r->a->at.partial + i->class_ * r->a->at.words * 8, i->page, 1);
}

static void put_used(record *r, uint64_t index)
{
    for (uint64_t word = 0; word < 4; word++)
        record_put(r, record_page_at(r, index, offsetof(pshm_page, used)) + word * 8, 8);
}

void record_put_class_hints(record *r)
{
    for (uint64_t i = 0; i < PSHM_CLASSES; i++) {
        record_put(r, HEAD(current) + i * 4, 4);
        record_put(r, HEAD(partial_hint) + i * 4, 4);
        record_put(r, HEAD(spare) + i * 4, 4);
    }
}

void record_alloc(record *r)
{
    const pshm_intent i = record_intent_of(r);
    uint64_t size = 0, start;
    assert_true(pshm_heap_find(r->a, i.block, &start, &size));
    record_put(r, HEAD(free_hint), 8);
    record_put_intent(r, PSHM_INTENT_ALLOC, &i);
    if (i.count) {
        put_bits(r, r->a->at.taken, i.page, i.count);
        for (uint64_t n = 1; n < i.count; n++) {
            record_put(r, record_page_at(r, i.page + n, offsetof(pshm_page, count)), 8);
            record_put(r, record_page_at(r, i.page + n, offsetof(pshm_page, state)), 4);
        }
        record_put(r, record_page_at(r, i.page, offsetof(pshm_page, count)), 8);
        record_put(r, record_page_at(r, i.page, offsetof(pshm_page, class_)), 4);
        for (uint64_t word = 0; word < 4; word++)
            record_put_value(r, record_page_at(r, i.page, offsetof(pshm_page, used)) + word * 8, 8, 0);
        record_put(r, record_page_at(r, i.page, offsetof(pshm_page, state)), 4);
    }
    put_used(r, i.page);
    for (uint64_t n = 0; n < size; n += size / 4)
        record_put(r, i.block + n, size / 4);
    record_put(r, r->target, 8);
    record_put_partial(r, &i);
    record_put_class_hints(r);
    record_put(r, HEAD(intent.operation), 4);
}

void record_free(record *r)
{
    const pshm_intent i = record_intent_of(r);
    record_put_intent(r, PSHM_INTENT_FREE, &i);
    record_put(r, r->target, 8);
    put_used(r, i.page);
    record_put_partial(r, &i);
    record_put_class_hints(r);
    for (uint64_t n = 0; n < i.count; n++)
        record_put(r, record_page_at(r, i.page + n, offsetof(pshm_page, state)), 4);
    put_bits(r, r->a->at.taken, i.page, i.count);
    record_put(r, HEAD(free_hint), 8);
    record_put(r, HEAD(intent.operation), 4);
}
