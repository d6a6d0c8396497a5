/* SPDX-License-Identifier: MIT
 *
 * The directory looked over for pshm_arena_check.
 */
#include "core/directory_inside.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/findings.h"
#include "core/hash.h"

/* An entry that has a node, to find those that are there twice. */
typedef struct seen {
    uint64_t hash, place, target;
} seen;

typedef struct look {
    const pshm_attachment *a;
    pshm_findings *f;
    pshm_table t;
    bool strict; /* nobody is in the middle of something, nor died so */
    seen *all;
    size_t count;
    uint64_t live, gone, deleted;
    uint64_t zero; /* index of the last entry that was 0, and */
    bool has_zero; /* whether there was one */
} look;

/* Does nobody else have the lock, nor is a death in it still to be made good? */
static bool is_quiet(const pshm_attachment *a)
{
    pshm_owner *lock = &a->head->directory.lock;
    const pshm_member *m = pshm_member_known((pshm_attachment *)(uintptr_t)a);
    if (m && pshm_member_holds(m, pshm_place_of(a, lock)) >= 0)
        return true;
    return !(pshm_load(&lock->word) & ~(uint64_t)PSHM_ID_WAITERS) && !pshm_load(&lock->died);
}

static void check_node(look *l, uint64_t target, uint64_t entry, uint64_t size)
{
    pshm_node_copy node;
    uint64_t place = pshm_node_place(entry);
    bool is_deleted = entry & PSHM_ENTRY_DELETED;
    int rc = pshm_node_read(l->a, place, &node);
    if (rc && rc != PSHM_EDELETED)
        pshm_find(l->f, place, "an object whose head cannot be: kind %" PRIu32 ", %" PRIu32 " bytes of name", node.kind,
                  node.name_size);
    if (rc && rc != PSHM_EDELETED)
        return;
    if (l->strict && is_deleted && !rc)
        pshm_find(l->f, place, "a deleted object whose serial is %" PRIu64, node.serial);
    if (l->strict && !is_deleted && rc)
        pshm_find(l->f, place, "an object without a serial");
    /* Of one that was being deleted the head is whole nevertheless. */
    if (node.name_size < 1 || node.name_size > PSHM_NAME_MAX || node.body < place || node.body - place > size ||
        node.body_size > size - (node.body - place)) {
        pshm_find(l->f, place, "an object that does not fit into its block of %" PRIu64 " bytes", size);
        return;
    }
    if (!node.kind)
        pshm_find(l->f, place, "an object of no kind");
    if (rc) {
        node.name_size = 0;
    } else {
        const uint64_t seed[2] = {pshm_peek(&l->a->head->seed[0]), pshm_peek(&l->a->head->seed[1])};
        if (pshm_name_check(node.name, node.name_size))
            pshm_find(l->f, place, "a name that is not UTF-8");
        else if (pshm_hash(seed, node.name, node.name_size) != node.hash)
            pshm_find(l->f, place, "\"%s\" has another hash", node.name);
    }
    if (pshm_entry_tag(node.hash) != (entry & PSHM_ENTRY_TAG))
        pshm_find(l->f, target, "an entry with other bits of the hash than its object");
    if (!is_deleted)
        l->all[l->count++] = (seen){.hash = node.hash, .place = place, .target = target};
}

/* May a search that starts where the hash says come to the entry, or does an empty one stop it before? */
static bool is_reached(const look *l, uint64_t index, uint64_t entry)
{
    uint64_t mask = l->t.entries - 1;
    const pshm_node *node = pshm_at(l->a, pshm_node_place(entry));
    uint64_t away = (index - pshm_peek(&node->hash)) & mask;
    return !l->has_zero || away < ((index - l->zero) & mask);
}

static void check_entry(look *l, uint64_t index, void (*known)(void *context, uint64_t place), void *context)
{
    uint64_t target = pshm_target_of(&l->t, index);
    uint64_t entry = pshm_load(pshm_word_at(l->a, target)), start, size;
    if (!entry) {
        l->zero = index;
        l->has_zero = true;
        return;
    }
    if (entry == PSHM_ENTRY_GONE) {
        l->gone++;
        return;
    }
    *(entry & PSHM_ENTRY_DELETED ? &l->deleted : &l->live) += 1;
    uint64_t place = pshm_node_place(entry);
    if (!pshm_heap_find(l->a, place, &start, &size) || start != place || size < sizeof(pshm_node)) {
        pshm_find(l->f, target, "an entry that leads to %" PRIu64 ", where no block in use begins", place);
        return;
    }
    known(context, place);
    check_node(l, target, entry, size);
    if (!is_reached(l, index, entry))
        pshm_find(l->f, target, "an entry that no search comes to");
}

/* Where the last entry that is 0 stands, as seen from the first one. */
static void find_zero(look *l)
{
    for (uint64_t i = l->t.entries; i-- > 0 && !l->has_zero;)
        if (!pshm_peek(pshm_word_at(l->a, pshm_target_of(&l->t, i)))) {
            l->zero = i;
            l->has_zero = true;
        }
}

static int compare_seen(const void *left, const void *right)
{
    const seen *l = left, *r = right;
    if (l->hash != r->hash)
        return l->hash < r->hash ? -1 : 1;
    return (l->place > r->place) - (l->place < r->place);
}

static void find_twins(look *l)
{
    pshm_node_copy one, other;
    if (l->count < 2)
        return;
    qsort(l->all, l->count, sizeof *l->all, compare_seen);
    for (size_t i = 1; i < l->count; i++) {
        const seen *before = &l->all[i - 1], *now = &l->all[i];
        if (before->hash != now->hash)
            continue;
        if (before->place == now->place)
            pshm_find(l->f, now->target, "a second entry of the object at %" PRIu64, now->place);
        else if (!pshm_node_read(l->a, before->place, &one) && !pshm_node_read(l->a, now->place, &other) &&
                 one.name_size == other.name_size && memcmp(one.name, other.name, one.name_size) == 0)
            pshm_find(l->f, now->place, "a second object with the name \"%s\"", other.name);
    }
}

static void check_counts(const look *l)
{
    pshm_directory_head *d = &l->a->head->directory;
    const struct {
        const char *what;
        uint64_t *where, is;
    } counts[] = {{"live", &d->live, l->live}, {"gone", &d->gone, l->gone}, {"deleted", &d->deleted, l->deleted}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (pshm_peek(counts[i].where) != counts[i].is)
            pshm_find(l->f, pshm_place_of(l->a, counts[i].where),
                      "the directory counts %" PRIu64 " %s entries, and there are %" PRIu64, pshm_peek(counts[i].where),
                      counts[i].what, counts[i].is);
}

void pshm_directory_check(const pshm_attachment *a, pshm_findings *f, void (*known)(void *context, uint64_t place),
                          void *context)
{
    pshm_directory_head *d = &a->head->directory;
    look l = {.a = a, .f = f, .strict = is_quiet(a)};
    uint64_t start, size;
    int rc = pshm_table_of(a, &l.t);
    uint64_t other = pshm_load(&d->table[!(l.t.active & 1)]);
    if (other && l.strict)
        pshm_find(f, pshm_place_of(a, d), "an old table, at %" PRIu64 ", that was not freed", other);
    if (other)
        known(context, other);
    if (rc) {
        pshm_find(f, pshm_place_of(a, d), "a table that cannot be: %" PRIu64 " entries at %" PRIu64, l.t.entries,
                  l.t.place);
        return;
    }
    if (l.t.entries) {
        if (!pshm_heap_find(a, l.t.place, &start, &size) || start != l.t.place || size < l.t.entries * sizeof(uint64_t))
            pshm_find(f, pshm_place_of(a, d), "a table at %" PRIu64 " that is not in a block of its size", l.t.place);
        else
            known(context, start);
    }
    l.all = l.t.entries ? malloc(l.t.entries * sizeof *l.all) : NULL;
    if (l.t.entries && !l.all) {
        f->out_of_memory = true;
        return;
    }
    find_zero(&l);
    for (uint64_t i = 0; i < l.t.entries; i++)
        check_entry(&l, i, known, context);
    find_twins(&l);
    if (l.strict)
        check_counts(&l);
    free(l.all);
}
