/* SPDX-License-Identifier: MIT
 *
 * The directory for whoever looks: without a lock, while others create, delete and replace the table.
 *
 * A table holds as long as `active` says so: it is freed after that has changed. An object stays where it is in a table,
 * an entry never becomes 0 again, and a node's serial is not 0 from the moment when it is whole to the moment when it is
 * deleted. So a name that is there throughout is found, and one that is not found was not there at some moment.
 */
#include "core/directory_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/hash.h"

int pshm_key_of(const pshm_attachment *a, const char *name, size_t size, pshm_key *out)
{
    int rc = pshm_name_check(name, size);
    if (rc)
        return rc;
    const uint64_t seed[2] = {pshm_peek(&a->head->seed[0]), pshm_peek(&a->head->seed[1])};
    *out = (pshm_key){.name = name, .size = size, .hash = pshm_hash(seed, name, size)};
    return 0;
}

int pshm_table_of(const pshm_attachment *a, pshm_table *out)
{
    const pshm_directory_head *d = &a->head->directory;
    for (int tries = 0; tries < PSHM_TRIES; tries++) {
        uint64_t active = pshm_load(&d->active);
        uint64_t place = pshm_load(&d->table[active & 1]);
        uint64_t entries = place ? pshm_load(&d->entries[active & 1]) : 0;
        *out = (pshm_table){.active = active, .place = place, .entries = entries};
        if (!pshm_table_holds(a, out))
            continue;
        if (!place)
            return 0;
        bool right = entries >= PSHM_TABLE_MIN && !(entries & (entries - 1)) && entries <= a->at.size / sizeof place &&
                     !(place % sizeof place) && pshm_in_heap(a, place, entries * sizeof place);
        return right ? 0 : PSHM_ECORRUPT;
    }
    return PSHM_ECORRUPT;
}

int pshm_node_read(const pshm_attachment *a, uint64_t place, pshm_node_copy *out)
{
    if (place % PSHM_NODE_ALIGN || !pshm_in_heap(a, place, sizeof(pshm_node)))
        return PSHM_ECORRUPT;
    const pshm_node *node = pshm_at(a, place);
    uint64_t serial = pshm_load(&node->serial);
    uint32_t body = pshm_peek(&node->body), name_size = pshm_peek(&node->name_size);
    *out = (pshm_node_copy){.place = place,
                            .serial = serial,
                            .hash = pshm_peek(&node->hash),
                            .body = place + body,
                            .body_size = pshm_peek(&node->body_size),
                            .kind = pshm_peek(&node->kind),
                            .flags = pshm_peek(&node->flags),
                            .name_size = name_size};
    bool right = name_size >= 1 && name_size <= PSHM_NAME_MAX && !(body % PSHM_NODE_ALIGN) &&
                 body >= sizeof *node + name_size && pshm_in_heap(a, place, body) &&
                 pshm_in_heap(a, place + body, out->body_size);
    if (right) {
        memcpy(out->name, node->name, name_size);
        out->name[name_size] = '\0';
    }
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (pshm_peek(&node->serial) != serial)
        return -EAGAIN;
    return !serial ? PSHM_EDELETED : right ? 0 : PSHM_ECORRUPT;
}

bool pshm_entry_read(const pshm_attachment *a, uint64_t target, pshm_node_copy *out, int *rc)
{
    for (int tries = 0; tries < PSHM_TRIES; tries++) {
        uint64_t entry = pshm_load(pshm_word_at(a, target));
        *rc = 0;
        if (!pshm_entry_is_used(entry) || (entry & PSHM_ENTRY_DELETED))
            return false;
        *rc = pshm_node_read(a, pshm_node_place(entry), out);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (*rc == -EAGAIN || pshm_peek(pshm_word_at(a, target)) != entry)
            continue;
        /* Being made, or being deleted. */
        if (*rc == PSHM_EDELETED)
            *rc = 0;
        else
            return *rc == 0;
        return false;
    }
    *rc = PSHM_ECORRUPT;
    return false;
}

static bool is_named(const pshm_node_copy *node, const pshm_key *key)
{
    return node->name_size == key->size && memcmp(node->name, key->name, key->size) == 0;
}

static int look_in(const pshm_attachment *a, const pshm_table *t, const pshm_key *key, pshm_found *out)
{
    uint64_t tag = pshm_entry_tag(key->hash);
    out->room = 0;
    for (uint64_t i = 0; i < t->entries; i++) {
        uint64_t target = pshm_target_of(t, (key->hash + i) & (t->entries - 1));
        uint64_t entry = pshm_load(pshm_word_at(a, target));
        if (!pshm_entry_is_used(entry)) {
            if (!out->room) {
                out->room = target;
                out->expected = entry;
            }
            if (!entry)
                break;
        } else if ((entry & ~PSHM_ENTRY_PLACE) == tag) {
            int rc;
            if (pshm_entry_read(a, target, &out->node, &rc)) {
                if (is_named(&out->node, key)) {
                    out->target = target;
                    return 0;
                }
            } else if (rc) {
                return rc;
            }
        }
    }
    return PSHM_ENONAME;
}

int pshm_directory_look(const pshm_attachment *a, const pshm_key *key, pshm_found *out)
{
    for (int tries = 0; tries < PSHM_TRIES; tries++) {
        pshm_table t;
        int rc = pshm_table_of(a, &t);
        if (rc)
            return rc;
        rc = look_in(a, &t, key, out);
        if (pshm_table_holds(a, &t))
            return rc;
    }
    return PSHM_ECORRUPT;
}

int pshm_arena_find(pshm_arena *arena, const char *name, size_t length, uint32_t *kind)
{
    const pshm_attachment *a = arena->attachment;
    pshm_key key;
    pshm_found found;
    int rc = pshm_arena_enter(arena);
    if (rc)
        return rc;
    rc = pshm_key_of(a, name, length, &key);
    if (!rc)
        rc = pshm_directory_look(a, &key, &found);
    if (pshm_attachment_verify(a))
        rc = PSHM_ELOST;
    pshm_arena_leave(arena);
    if (!rc)
        *kind = found.node.kind;
    return rc;
}

bool pshm_directory_name(const pshm_attachment *a, uint64_t place, char name[256])
{
    uint64_t start, size;
    pshm_node_copy node;
    pshm_key key;
    pshm_found found;
    if (!pshm_heap_find(a, place, &start, &size) || pshm_node_read(a, start, &node) ||
        pshm_key_of(a, node.name, node.name_size, &key))
        return false;
    /* It looks like a node. It is one if its name leads here. */
    if (pshm_directory_look(a, &key, &found) || found.node.place != start || found.node.serial != node.serial)
        return false;
    memcpy(name, node.name, sizeof node.name);
    return true;
}

uint64_t pshm_directory_count(const pshm_attachment *a)
{
    pshm_table t;
    uint64_t count = 0;
    for (int tries = 0; tries < PSHM_TRIES; tries++) {
        if (pshm_table_of(a, &t))
            return 0;
        count = 0;
        for (uint64_t i = 0; i < t.entries; i++) {
            uint64_t entry = pshm_peek(pshm_word_at(a, pshm_target_of(&t, i)));
            count += pshm_entry_is_used(entry) && !(entry & PSHM_ENTRY_DELETED);
        }
        if (pshm_table_holds(a, &t))
            break;
    }
    return count;
}

typedef struct listing {
    pshm_entry *at;
    size_t count, room, most;
} listing;

static int add(listing *list, const pshm_node_copy *node)
{
    /* More objects than the heap has room for: bytes that lead to the same one again and again. */
    if (list->count == list->most)
        return PSHM_ECORRUPT;
    if (list->count == list->room) {
        size_t room = list->room ? list->room * 2 : 32;
        pshm_entry *at = realloc(list->at, room * sizeof *at);
        if (!at)
            return -ENOMEM;
        list->at = at;
        list->room = room;
    }
    pshm_entry *entry = &list->at[list->count++];
    *entry = (pshm_entry){.kind = node->kind,
                          .name_size = node->name_size,
                          .serial = node->serial,
                          .body_size = node->body_size};
    memcpy(entry->name, node->name, sizeof entry->name);
    return 0;
}

static int compare_names(const void *left, const void *right)
{
    const pshm_entry *l = left, *r = right;
    uint32_t size = l->name_size < r->name_size ? l->name_size : r->name_size;
    int rc = memcmp(l->name, r->name, size);
    return rc ? rc : (l->name_size > r->name_size) - (l->name_size < r->name_size);
}

/* What was deleted and made anew during the walk may have been met in both places. */
static void drop_twins(listing *list)
{
    size_t kept = 0;
    qsort(list->at, list->count, sizeof *list->at, compare_names);
    for (size_t i = 0; i < list->count; i++)
        if (!kept || compare_names(&list->at[kept - 1], &list->at[i]) != 0)
            list->at[kept++] = list->at[i];
    list->count = kept;
}

static int walk(const pshm_attachment *a, const pshm_table *t, listing *list)
{
    pshm_node_copy node;
    uint64_t serial = pshm_load(&a->head->serial);
    list->count = 0;
    for (uint64_t i = 0; i < t->entries; i++) {
        int rc;
        if (pshm_entry_read(a, pshm_target_of(t, i), &node, &rc))
            rc = add(list, &node);
        if (rc)
            return rc;
    }
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (list->count && pshm_peek(&a->head->serial) != serial)
        drop_twins(list);
    return 0;
}

int pshm_arena_list(pshm_arena *arena, pshm_entry **out, size_t *count)
{
    const pshm_attachment *a = arena->attachment;
    int rc = pshm_arena_enter(arena);
    if (rc)
        return rc;
    listing list = {.most = (a->at.size - a->at.heap) / (2 * PSHM_NODE_ALIGN)};
    pshm_table t;
    rc = PSHM_ECORRUPT;
    for (int tries = 0; tries < PSHM_TRIES; tries++) {
        rc = pshm_table_of(a, &t);
        if (rc)
            break;
        rc = walk(a, &t, &list);
        if (pshm_table_holds(a, &t) || pshm_attachment_verify(a))
            break;
        rc = PSHM_ECORRUPT;
    }
    if (pshm_attachment_verify(a))
        rc = PSHM_ELOST;
    pshm_arena_leave(arena);
    if (rc) {
        free(list.at);
        return rc;
    }
    *out = list.at;
    *count = list.count;
    return 0;
}

void pshm_entries_free(pshm_entry *entries)
{
    free(entries);
}
