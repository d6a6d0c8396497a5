/* SPDX-License-Identifier: MIT
 *
 * What the parts of the directory share.
 *
 * An object is there when its entry is in the active table, without PSHM_ENTRY_DELETED, and the serial of its node is not
 * 0. The serial is stored last when it is made, and cleared when it is deleted: whoever reads the same one before and
 * after all else has read one object and not the halves of two.
 */
#ifndef PSHM_CORE_DIRECTORY_INSIDE_H
#define PSHM_CORE_DIRECTORY_INSIDE_H

#include "core/directory.h"

/* How often somebody looks again because what was looked at changed. Only bytes that change all the time need more. */
#define PSHM_TRIES 1000

#define PSHM_TABLE_MIN UINT64_C(64)
#define PSHM_NODE_ALIGN UINT64_C(64)

/* A name that may be one, and its hash. */
typedef struct pshm_key {
    const char *name;
    size_t size;
    uint64_t hash;
} pshm_key;

/* The active table as it was at a moment. */
typedef struct pshm_table {
    uint64_t active; /* the word that says so */
    uint64_t place;
    uint64_t entries; /* 0: nobody has made an object yet */
} pshm_table;

/* A node's head and name, copied while it was there. */
typedef struct pshm_node_copy {
    uint64_t place;
    uint64_t serial;
    uint64_t hash;
    uint64_t body; /* place, from the arena's start */
    uint64_t body_size;
    uint32_t kind;
    uint32_t flags;
    uint32_t name_size;
    char name[PSHM_NAME_MAX + 1]; /* with a NUL behind it */
} pshm_node_copy;

/* What a search for a name comes to. */
typedef struct pshm_found {
    pshm_node_copy node;
    uint64_t target;   /* place of its entry */
    uint64_t room;     /* place of the first entry that a new object may have; 0: none on the way */
    uint64_t expected; /* what is in that */
} pshm_found;

static inline uint64_t pshm_entry_tag(uint64_t hash)
{
    return hash & PSHM_ENTRY_TAG;
}

static inline uint64_t pshm_node_place(uint64_t entry)
{
    return entry & PSHM_ENTRY_PLACE;
}

/* Has the entry an object, whether deleted or not? */
static inline bool pshm_entry_is_used(uint64_t entry)
{
    return entry && entry != PSHM_ENTRY_GONE;
}

static inline uint64_t pshm_target_of(const pshm_table *t, uint64_t index)
{
    return t->place + index * sizeof(uint64_t);
}

static inline uint64_t *pshm_word_at(const pshm_attachment *a, uint64_t place)
{
    return pshm_at(a, place);
}

static inline uint64_t pshm_rounded(uint64_t size)
{
    return (size + PSHM_NODE_ALIGN - 1) & ~(PSHM_NODE_ALIGN - 1);
}

/* Was the table the active one all the time since it was asked for? Then what was read in it can be believed. */
static inline bool pshm_table_holds(const pshm_attachment *a, const pshm_table *t)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return pshm_peek(&a->head->directory.active) == t->active;
}

/* Is this text a name? PSHM_ENAMESIZE, PSHM_ENAMETEXT. */
int pshm_name_check(const char *name, size_t size);

/* The same, and fills in the key. */
int pshm_key_of(const pshm_attachment *a, const char *name, size_t size, pshm_key *out);

/* ---- without a lock: directory_read.c ---- */

/* The active table, with bounds that lie in the heap. PSHM_ECORRUPT. */
int pshm_table_of(const pshm_attachment *a, pshm_table *out);

/* Copies the node at `place`. PSHM_EDELETED: its serial is 0; PSHM_ECORRUPT: it is none; -EAGAIN: it changed meanwhile. */
int pshm_node_read(const pshm_attachment *a, uint64_t place, pshm_node_copy *out);

/* Copies the live node behind the entry at `target`, if there is one: false, and PSHM_ECORRUPT in *rc where the entry
 * leads to no node. */
bool pshm_entry_read(const pshm_attachment *a, uint64_t target, pshm_node_copy *out, int *rc);

/* Looks for a name without a lock. PSHM_ENONAME, PSHM_ECORRUPT. */
int pshm_directory_look(const pshm_attachment *a, const pshm_key *key, pshm_found *out);

/* ---- taking the lock: directory_write.c ---- */

/* Makes an object unless there is one of the name; out->node is what is there then. As pshm_object_open. */
int pshm_directory_create(pshm_member *m, const pshm_key *key, const pshm_wish *wish, pshm_found *out, bool *created);

/* Deletes the object of the name, with `object` only that very one. As pshm_arena_delete. */
int pshm_directory_delete(pshm_member *m, const pshm_key *key, const pshm_object *object);

/* ---- for the lock's owner: directory_keep.c ---- */

/* Frees the objects that were deleted while somebody was at work on them and that nobody is at work on any more. Looks
 * for `most` of them. How many were freed. */
uint64_t pshm_directory_sweep(pshm_member *m, uint64_t most);

/* Frees the object of the deleted entry at `target`: 0; -EBUSY (somebody is at work on it), and as pshm_heap_release. */
int pshm_entry_free(pshm_member *m, uint64_t target);

/* Marks the node as deleted and wakes whoever sleeps on it. */
void pshm_node_retire(const pshm_attachment *a, uint64_t place);

/* Gives a node the serial that makes it one; *serial is no other object's. */
void pshm_node_complete(const pshm_attachment *a, uint64_t place, uint64_t *serial);

/* Frees the table that is not active, if there is one. */
int pshm_table_tidy(pshm_member *m);

/* Makes a table with room for one object more, without the entries that are gone. */
int pshm_table_grow(pshm_member *m);

/* Puts right what somebody who died with the lock left half done. */
int pshm_directory_repair(pshm_member *m);

#endif
