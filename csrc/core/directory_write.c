/* SPDX-License-Identifier: MIT
 *
 * The directory for whoever changes it, under its lock.
 *
 * Three stores change what is there, each one step: an entry that pshm_heap_allocate fills, the bit that marks one as
 * deleted, and `active`. Everything else follows from these, and whoever takes the lock over from a death puts it right
 * (directory_keep.c). The heap's lock is taken inside of this one.
 */
#include "core/directory_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int pshm_directory_enter(pshm_member *m)
{
    pshm_owner *lock = &m->attachment->head->directory.lock;
    bool repair = false;
    int rc = pshm_owner_enter(m, lock, &repair);
    if (rc || !repair)
        return rc;
    rc = pshm_directory_repair(m);
    if (!rc)
        pshm_owner_repaired(lock);
    else
        pshm_owner_give(m, lock);
    return rc;
}

void pshm_directory_leave(pshm_member *m)
{
    pshm_owner_give(m, &m->attachment->head->directory.lock);
}

/* A node as it will be, in private memory; but for the serial, which is stored when it has its place. */
static pshm_node *node_made(const pshm_key *key, const pshm_wish *wish, uint64_t *body)
{
    *body = pshm_rounded(sizeof(pshm_node) + key->size);
    pshm_node *node = calloc(1, *body + wish->body_prefix);
    if (!node)
        return NULL;
    node->hash = key->hash;
    node->kind = wish->kind;
    node->name_size = (uint32_t)key->size;
    node->body = (uint32_t)*body;
    node->flags = wish->flags;
    node->body_size = wish->body_size;
    memcpy(node->name, key->name, key->size);
    if (wish->body_prefix)
        memcpy((char *)node + *body, wish->body, wish->body_prefix);
    return node;
}

/* Finds the entry for a new object, in a table that has room for it. *found is what pshm_directory_look said of the name
 * when it was not there. */
static int make_room(pshm_member *m, const pshm_key *key, pshm_found *found)
{
    const pshm_attachment *a = m->attachment;
    const pshm_directory_head *d = &a->head->directory;
    pshm_table t;
    int rc = pshm_table_of(a, &t);
    if (rc)
        return rc;
    uint64_t used = pshm_peek(&d->live) + pshm_peek(&d->gone) + pshm_peek(&d->deleted);
    bool is_full = !found->room || (found->expected != PSHM_ENTRY_GONE && used >= t.entries / 4 * 3);
    if (!is_full)
        return 0;
    rc = pshm_table_grow(m);
    /* A table that is too full is slow and no more than that. */
    if (rc == -ENOSPC && found->room)
        return 0;
    if (rc)
        return rc;
    rc = pshm_directory_look(a, key, found);
    return rc == PSHM_ENONAME && found->room ? 0 : PSHM_ECORRUPT;
}

static int insert(pshm_member *m, const pshm_key *key, const pshm_node *node, uint64_t size, uint64_t data_size,
                  pshm_found *found)
{
    pshm_directory_head *d = &m->attachment->head->directory;
    uint64_t place;
    for (bool again = false;; again = true) {
        int rc = make_room(m, key, found);
        if (!rc) {
            const pshm_allocation wanted = {.target = found->room,
                                            .expect = found->expected,
                                            .tag = pshm_entry_tag(key->hash),
                                            .size = size,
                                            .data = node,
                                            .data_size = data_size};
            rc = pshm_heap_allocate(m, &wanted, &place);
        }
        if (!rc)
            break;
        if (rc == PSHM_EOCCUPIED)
            return PSHM_ECORRUPT;
        if (rc != -ENOSPC || again || !pshm_directory_sweep(m, UINT64_MAX))
            return rc;
        /* What was swept away may be an entry that can be had. */
        rc = pshm_directory_look(m->attachment, key, found);
        if (rc != PSHM_ENONAME)
            return rc ? rc : PSHM_ECORRUPT;
    }
    pshm_node_copy *made = &found->node;
    *made = (pshm_node_copy){.place = place,
                             .hash = node->hash,
                             .body = place + node->body,
                             .body_size = node->body_size,
                             .kind = node->kind,
                             .flags = node->flags,
                             .name_size = node->name_size};
    memcpy(made->name, key->name, key->size);
    pshm_node_complete(m->attachment, place, &made->serial);
    if (found->expected == PSHM_ENTRY_GONE)
        pshm_store(&d->gone, pshm_peek(&d->gone) - 1);
    pshm_store(&d->live, pshm_peek(&d->live) + 1);
    return 0;
}

/* What others could not do yet. */
static int tidy(pshm_member *m)
{
    uint64_t deleted = pshm_peek(&m->attachment->head->directory.deleted);
    int rc = pshm_table_tidy(m);
    if (!rc && deleted)
        pshm_directory_sweep(m, deleted);
    return rc;
}

int pshm_directory_create(pshm_member *m, const pshm_key *key, const pshm_wish *wish, pshm_found *out, bool *created)
{
    uint64_t body;
    pshm_node *node = node_made(key, wish, &body);
    if (!node)
        return -ENOMEM;
    int rc = pshm_directory_enter(m);
    if (!rc) {
        rc = pshm_directory_look(m->attachment, key, out);
        if (rc == PSHM_ENONAME) {
            rc = tidy(m);
            if (!rc)
                rc = insert(m, key, node, pshm_rounded(body + wish->body_size), body + wish->body_prefix, out);
            *created = rc == 0;
        }
        pshm_directory_leave(m);
    }
    free(node);
    return rc;
}

int pshm_directory_delete(pshm_member *m, const pshm_key *key, const pshm_object *object)
{
    const pshm_attachment *a = m->attachment;
    pshm_directory_head *d = &a->head->directory;
    pshm_found found;
    int rc = pshm_directory_enter(m);
    if (rc)
        return rc;
    rc = pshm_directory_look(a, key, &found);
    bool is_another = !rc && object && (found.node.place != object->place || found.node.serial != object->serial);
    if (is_another || (rc == PSHM_ENONAME && object))
        rc = PSHM_EDELETED;
    uint64_t before = pshm_peek(&d->deleted);
    if (!rc) {
        uint64_t *entry = pshm_word_at(a, found.target);
        pshm_store(entry, pshm_peek(entry) | PSHM_ENTRY_DELETED);
        pshm_node_retire(a, found.node.place);
        pshm_store(&d->live, pshm_peek(&d->live) - 1);
        pshm_store(&d->deleted, before + 1);
        /* Those that are busy are freed by whoever creates or deletes after that. */
        (void)pshm_entry_free(m, found.target);
    }
    if (before)
        pshm_directory_sweep(m, before);
    (void)pshm_table_tidy(m);
    pshm_directory_leave(m);
    return rc;
}
