/* SPDX-License-Identifier: MIT
 *
 * What the owner of the directory's lock does besides: freeing what was deleted, new tables, and putting right what a
 * death left half done.
 */
#include "core/directory_inside.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "os/futex.h"

/* A sweep goes on past as many that somebody is at work on. */
#define BUSY_MOST 64

/* Positions that a new table may cost for each of its entries. Hashes need two at the most; bytes that are none could
 * need as many as there are entries. */
#define STEPS_MOST 64

static bool is_node(const pshm_attachment *a, uint64_t place, uint64_t *size)
{
    uint64_t start;
    return pshm_heap_find(a, place, &start, size) && start == place && *size >= sizeof(pshm_node);
}

void pshm_node_retire(const pshm_attachment *a, uint64_t place)
{
    uint64_t size;
    if (!is_node(a, place, &size))
        return;
    pshm_node *node = pshm_at(a, place);
    pshm_store(&node->serial, 0);
    /* Whatever its kind, a body begins with the word that one sleeps on. */
    uint32_t body = pshm_peek(&node->body);
    if (body % PSHM_NODE_ALIGN == 0 && body >= sizeof *node && size - sizeof(uint64_t) >= body)
        pshm_os_futex_wake(pshm_at(a, place + body), INT_MAX);
}

void pshm_node_complete(const pshm_attachment *a, uint64_t place, uint64_t *serial)
{
    pshm_node *node = pshm_at(a, place);
    do
        *serial = __atomic_add_fetch(&a->head->serial, 1, __ATOMIC_RELAXED) * PSHM_SERIAL_STEP ^ a->id;
    while (!*serial);
    pshm_store(&node->serial, *serial);
}

int pshm_entry_free(pshm_member *m, uint64_t target)
{
    pshm_attachment *a = m->attachment;
    pshm_directory_head *d = &a->head->directory;
    uint64_t *entry = pshm_word_at(a, target);
    uint64_t place = pshm_node_place(pshm_peek(entry)), size;
    int rc = PSHM_ENOTBLOCK;
    if (is_node(a, place, &size)) {
        if (pshm_is_busy(a, place, size))
            return -EBUSY;
        rc = pshm_heap_release(m, target, PSHM_ENTRY_GONE);
    }
    /* Bytes that lead to nothing that could be freed. */
    if (rc == PSHM_ENOTBLOCK) {
        pshm_store(entry, PSHM_ENTRY_GONE);
        rc = 0;
    }
    if (!rc) {
        pshm_store(&d->deleted, pshm_peek(&d->deleted) - 1);
        pshm_store(&d->gone, pshm_peek(&d->gone) + 1);
    }
    return rc;
}

uint64_t pshm_directory_sweep(pshm_member *m, uint64_t most)
{
    const pshm_attachment *a = m->attachment;
    pshm_table t;
    uint64_t freed = 0;
    int busy = 0;
    if (pshm_table_of(a, &t))
        return 0;
    for (uint64_t i = 0; i < t.entries && most && busy < BUSY_MOST; i++) {
        uint64_t target = pshm_target_of(&t, i);
        if (!(pshm_peek(pshm_word_at(a, target)) & PSHM_ENTRY_DELETED))
            continue;
        most--;
        int rc = pshm_entry_free(m, target);
        if (rc == -EBUSY)
            busy++;
        else if (rc)
            break;
        else
            freed++;
    }
    return freed;
}

int pshm_table_tidy(pshm_member *m)
{
    const pshm_attachment *a = m->attachment;
    pshm_directory_head *d = &a->head->directory;
    uint64_t *other = &d->table[!(pshm_peek(&d->active) & 1)];
    if (!pshm_peek(other))
        return 0;
    int rc = pshm_heap_release(m, pshm_place_of(a, other), 0);
    if (rc == PSHM_ENOTBLOCK) {
        pshm_store(other, 0);
        rc = 0;
    }
    return rc;
}

typedef struct counts {
    uint64_t live, gone, deleted;
} counts;

static counts counted(const pshm_attachment *a, const pshm_table *t)
{
    counts n = {0};
    for (uint64_t i = 0; i < t->entries; i++) {
        uint64_t entry = pshm_peek(pshm_word_at(a, pshm_target_of(t, i)));
        if (entry == PSHM_ENTRY_GONE)
            n.gone++;
        else if (entry & PSHM_ENTRY_DELETED)
            n.deleted++;
        else if (entry)
            n.live++;
    }
    return n;
}

static void store_counts(pshm_directory_head *d, const counts *n)
{
    pshm_store(&d->live, n->live);
    pshm_store(&d->gone, n->gone);
    pshm_store(&d->deleted, n->deleted);
}

/* What of a table goes into a new one, which has `entries`. NULL: no memory; *rc says more. */
static uint64_t *table_made(const pshm_attachment *a, const pshm_table *t, uint64_t entries, int *rc)
{
    uint64_t *made = calloc(entries, sizeof *made), steps = entries * STEPS_MOST;
    *rc = made ? 0 : -ENOMEM;
    for (uint64_t i = 0; !*rc && i < t->entries; i++) {
        uint64_t entry = pshm_peek(pshm_word_at(a, pshm_target_of(t, i))), size;
        /* Bytes that lead to no node are nobody's. */
        if (!pshm_entry_is_used(entry) || !is_node(a, pshm_node_place(entry), &size))
            continue;
        uint64_t at = pshm_peek(&((pshm_node *)pshm_at(a, pshm_node_place(entry)))->hash);
        while (made[at & (entries - 1)] && steps) {
            at++;
            steps--;
        }
        if (steps)
            made[at & (entries - 1)] = entry;
        else
            *rc = PSHM_ECORRUPT;
    }
    if (*rc) {
        free(made);
        return NULL;
    }
    return made;
}

int pshm_table_grow(pshm_member *m)
{
    const pshm_attachment *a = m->attachment;
    pshm_directory_head *d = &a->head->directory;
    pshm_table t;
    int rc = pshm_table_of(a, &t);
    if (!rc)
        rc = pshm_table_tidy(m);
    if (rc)
        return rc;
    counts n = counted(a, &t);
    uint64_t entries = PSHM_TABLE_MIN, place;
    while (entries < 2 * (n.live + n.deleted + 1))
        entries *= 2;
    uint64_t *made = table_made(a, &t, entries, &rc);
    if (!made)
        return rc;
    /* The first table is made where it is active already. */
    uint64_t next = (t.active & 1) ^ (t.entries ? 1 : 0);
    pshm_store(&d->entries[next], entries);
    const pshm_allocation wanted = {.target = pshm_place_of(a, &d->table[next]),
                                    .size = entries * sizeof *made,
                                    .data = made,
                                    .data_size = entries * sizeof *made};
    rc = pshm_heap_allocate(m, &wanted, &place);
    if (!rc) {
        if (t.entries)
            pshm_store(&d->active, ((t.active >> 1) + 1) << 1 | next);
        const pshm_table now = {.place = place, .entries = entries};
        n = counted(a, &now);
        store_counts(d, &n);
        /* What a signal keeps from happening here is done by the next one who changes something. */
        (void)pshm_table_tidy(m);
    }
    free(made);
    return rc;
}

int pshm_directory_repair(pshm_member *m)
{
    const pshm_attachment *a = m->attachment;
    pshm_table t;
    /* Whoever died may have died in the heap, with an entry as destination: that has to be settled before an entry is
     * changed here. */
    int rc = pshm_heap_enter(m);
    if (rc)
        return rc;
    pshm_heap_leave(m);
    rc = pshm_table_tidy(m);
    if (rc)
        return rc;
    /* Bytes that are no table cannot be put right; whoever looks is told so. */
    if (pshm_table_of(a, &t))
        return 0;
    for (uint64_t i = 0; i < t.entries; i++) {
        uint64_t entry = pshm_peek(pshm_word_at(a, pshm_target_of(&t, i))), place = pshm_node_place(entry), size,
                 serial;
        if (!pshm_entry_is_used(entry) || !is_node(a, place, &size))
            continue;
        if (entry & PSHM_ENTRY_DELETED)
            pshm_node_retire(a, place);
        else if (!pshm_load(&((pshm_node *)pshm_at(a, place))->serial))
            pshm_node_complete(a, place, &serial);
    }
    const counts n = counted(a, &t);
    store_counts(&a->head->directory, &n);
    return 0;
}
