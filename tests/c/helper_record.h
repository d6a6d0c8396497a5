/* SPDX-License-Identifier: MIT
 *
 * An operation of the heap as the list of its stores, so that memory can be put into each state between two of them.
 */
#ifndef TESTS_HELPER_RECORD_H
#define TESTS_HELPER_RECORD_H

#include "helper_heap.h"

typedef struct record_store {
    uint64_t place, size;
    const unsigned char *bytes; /* NULL: value */
    uint64_t value;
} record_store;

typedef struct record {
    pshm_arena *arena;
    pshm_attachment *a;
    unsigned char *before, *after; /* the whole arena */
    record_store at[1024];
    size_t count;
    uint64_t target;
} record;

/* The parts that an operation may change: the heap's own but for its lock and sequence, the roots, the tables and the
 * pages. */
#define RECORD_FIRST offsetof(pshm_head, heap.intent)
/* The place of a field of the heap's head. */
#define RECORD_HEAD(field) offsetof(pshm_head, heap.field)

/* With a new arena, and its end. */
record *record_begin(uint64_t size);
void record_end(record *r);

void record_copy(const record *r, unsigned char *to, const unsigned char *from);

/* Notes a store to `place`, of what is there afterwards, or of another value. */
void record_put(record *r, uint64_t place, uint64_t size);
void record_put_value(record *r, uint64_t place, uint64_t size, uint64_t value);
void record_put_intent(record *r, uint32_t operation, const pshm_intent *i);
void record_put_partial(record *r, const pshm_intent *i);
void record_put_class_hints(record *r);
uint64_t record_page_at(const record *r, uint64_t index, size_t field);
pshm_intent record_intent_of(const record *r);

/* Notes all stores of an allocation or a free, in their order, by what `after` says of it. */
void record_alloc(record *r);
void record_free(record *r);

/* `before`, and then the first `count` stores. The operation that the intent then names. */
uint32_t record_play(record *r, size_t count);

#endif
