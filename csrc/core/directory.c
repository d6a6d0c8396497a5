/* SPDX-License-Identifier: MIT
 *
 * Handles on objects: opening, calls that come in, and what a name may be.
 */
#include "core/directory_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* How many bytes the UTF-8 sequence at `p` has, the shortest form of a character that there is; 0: it is none. */
static size_t sequence_size(const unsigned char *p, size_t left)
{
    static const struct {
        unsigned char mask, lead;
        uint32_t least;
    } forms[] = {{0x80, 0x00, 0x1}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
    for (size_t more = 0; more < 4; more++) {
        if ((p[0] & forms[more].mask) != forms[more].lead)
            continue;
        if (left <= more)
            return 0;
        uint32_t point = p[0] & (unsigned char)~forms[more].mask;
        for (size_t i = 1; i <= more; i++) {
            if ((p[i] & 0xc0) != 0x80)
                return 0;
            point = point << 6 | (p[i] & 0x3f);
        }
        bool is_surrogate = point >= 0xd800 && point <= 0xdfff;
        return point >= forms[more].least && point <= 0x10ffff && !is_surrogate ? more + 1 : 0;
    }
    return 0;
}

int pshm_name_check(const char *name, size_t size)
{
    const unsigned char *p = (const unsigned char *)name;
    if (size < 1 || size > PSHM_NAME_MAX)
        return PSHM_ENAMESIZE;
    for (size_t i = 0, step; i < size; i += step) {
        step = sequence_size(p + i, size - i);
        if (!step)
            return PSHM_ENAMETEXT;
    }
    return 0;
}

const char *pshm_noun_name(uint32_t kind)
{
    switch (kind) {
#define PSHM_KIND(number, noun)                                                                                        \
    case number:                                                                                                       \
        return #noun;
#include <polyshm/kinds.def>
    default:
        return NULL;
    }
}

static int open_or_create(pshm_arena *arena, const pshm_wish *wish, pshm_found *found, bool *created)
{
    pshm_attachment *a = arena->attachment;
    pshm_member *m;
    pshm_key key;
    int rc = pshm_key_of(a, wish->name, wish->name_size, &key);
    if (rc)
        return rc;
    rc = pshm_directory_look(a, &key, found);
    if (rc != PSHM_ENONAME || !wish->create)
        return rc;
    if (arena->readonly || a->readonly)
        return PSHM_EREADONLY;
    rc = pshm_member_of(a, &m);
    return rc ? rc : pshm_directory_create(m, &key, wish, found, created);
}

int pshm_object_open(pshm_object *object, pshm_arena *arena, const pshm_wish *wish, uint32_t *flags, bool *created)
{
    pshm_attachment *a = arena->attachment;
    pshm_found found;
    *object = (pshm_object){0};
    bool ignored;
    if (!created)
        created = &ignored;
    *created = false;
    int rc = pshm_arena_enter(arena);
    if (rc)
        return rc;
    rc = open_or_create(arena, wish, &found, created);
    if (pshm_attachment_verify(a))
        rc = PSHM_ELOST;
    pshm_arena_leave(arena);
    if (rc)
        return rc;
    const pshm_node_copy *node = &found.node;
    if (node->kind != wish->kind)
        return PSHM_EKIND;
    if (node->body_size < (wish->body_least ? wish->body_least : wish->body_size))
        return PSHM_ECORRUPT;
    char *name = malloc(node->name_size + 1u);
    if (!name)
        return -ENOMEM;
    memcpy(name, node->name, node->name_size + 1u);
    pshm_arena_retain(arena);
    *object = (pshm_object){.arena = arena,
                            .body = pshm_at(a, node->body),
                            .body_size = node->body_size,
                            .stamp = pshm_word_at(a, node->place + offsetof(pshm_node, serial)),
                            .serial = node->serial,
                            .place = node->place,
                            .kind = node->kind,
                            .name_size = node->name_size,
                            .name = name,
                            .watch = wish->watch};
    *flags = node->flags;
    return 0;
}

void pshm_object_fini(pshm_object *object)
{
    if (!object->arena)
        return;
    pshm_arena_release(object->arena);
    free(object->name);
    *object = (pshm_object){0};
}

int pshm_object_check(const pshm_object *object)
{
    bool pinned;
    int rc = pshm_object_look(object, &pinned);
    if (!rc)
        pshm_arena_unlook(object->arena, pinned);
    return rc;
}

int pshm_object_enter_slowly(const pshm_object *object, pshm_member **out)
{
    pshm_attachment *a = object->arena ? object->arena->attachment : NULL;
    pshm_member *m = a ? pshm_member_quick(a) : NULL;
    /* The quick way may have named the object. */
    if (m)
        pshm_object_leave(m);
    int rc = a ? pshm_arena_enter(object->arena) : PSHM_ECLOSED;
    if (rc)
        return rc;
    rc = object->arena->readonly || a->readonly ? PSHM_EREADONLY : pshm_member_of(a, &m);
    pshm_arena_leave(object->arena);
    if (rc)
        return rc;
    __atomic_store_n(&m->slot->busy, object->place, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    rc = object->arena->closed ? PSHM_ECLOSED : pshm_object_stands(object);
    if (rc)
        pshm_object_leave(m);
    else
        *out = m;
    return rc;
}

int pshm_arena_delete(pshm_arena *arena, const char *name, size_t length, const pshm_object *object)
{
    pshm_attachment *a = arena->attachment;
    pshm_member *m;
    pshm_key key;
    int rc = pshm_arena_enter(arena);
    if (rc)
        return rc;
    rc = arena->readonly || a->readonly ? PSHM_EREADONLY : pshm_key_of(a, name, length, &key);
    if (!rc)
        rc = pshm_member_of(a, &m);
    if (!rc)
        rc = pshm_directory_delete(m, &key, object);
    if (pshm_attachment_verify(a))
        rc = PSHM_ELOST;
    pshm_arena_leave(arena);
    return rc;
}
