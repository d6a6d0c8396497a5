/* SPDX-License-Identifier: MIT
 *
 * Once: an owner word for whoever does it, and a word that says that it is done, set before the owner word is given back.
 * A death before that store leaves it undone, and the owner word that of a dead: the next one takes that and is told
 * nothing, as it begins anew in any case. One after that store leaves it done, and nobody needs the owner word any more.
 */
#include <polyshm/once.h>

#include <errno.h>
#include <limits.h>

#include "core/owner.h"
#include "core/waiting.h"
#include "os/clock.h"

#define KIND 9u

typedef struct body {
    pshm_owner owner; /* who does it */
    uint32_t done;    /* not 0: it is. What those sleep on who do not want to do it */
    uint32_t sleepers;
    uint64_t unused[5];
} body;

_Static_assert(sizeof(body) == 64, "layout");

static body *body_of(const pshm_once *once)
{
    return once->object.body;
}

static bool is_done(const body *b)
{
    return __atomic_load_n(&b->done, __ATOMIC_SEQ_CST) != 0;
}

/* ---- watching ---- */

static int look(pshm_waiting *waiting, bool write, uint32_t *value)
{
    (void)write;
    const body *b = waiting->object->body;
    *value = 0;
    return !is_done(b);
}

static int watch(const pshm_object *object, int64_t least, pshm_watch *out)
{
    (void)least;
    body *b = object->body;
    const pshm_waiting waiting = {
        .object = object, .word = &b->done, .sleepers = &b->sleepers, .how = PSHM_SLEEPS_WATCHER, .look = look};
    const uint32_t *first = (const uint32_t *)(const void *)&b->owner.word;
    bool pinned;
    int rc = pshm_object_look(object, &pinned);
    if (rc)
        return rc;
    uint32_t value = pshm_load(first);
    pshm_arena_unlook(object->arena, pinned);
    rc = pshm_watch_word(&waiting, out);
    if (rc == 0 && !object->arena->readonly) /* that one is woken where it is deleted */
        pshm_watch_add(out, first, value);
    return rc;
}

/* ---- handles ---- */

int pshm_once_init(pshm_once *once, pshm_arena *arena, const char *name, size_t length, bool create, bool *created)
{
    const pshm_wish wish = {
        .name = name, .name_size = length, .kind = KIND, .create = create, .body_size = sizeof(body), .watch = watch};
    uint32_t flags;
    *once = (pshm_once){.place = 0};
    int rc = pshm_object_open(&once->object, arena, &wish, &flags, created);
    if (!rc)
        once->place = pshm_place_of(arena->attachment, &body_of(once)->owner);
    return rc;
}

void pshm_once_fini(pshm_once *once)
{
    pshm_object_fini(&once->object);
}

int pshm_once_done(pshm_once *once)
{
    bool pinned;
    int rc = pshm_object_look(&once->object, &pinned);
    if (PSHM_UNLIKELY(rc))
        return rc;
    int done = is_done(body_of(once));
    rc = pshm_object_stands(&once->object);
    pshm_arena_unlook(once->object.arena, pinned);
    return rc ? rc : done;
}

/* ---- doing it ---- */

/* Waits until nobody does it, or takes it: those who wait need not have the word one after the other once it is done. */
static int take(pshm_member *m, const pshm_once *once, int64_t deadline)
{
    pshm_owner *o = &body_of(once)->owner;
    const pshm_owner_guard guard = {.stamp = once->object.stamp, .serial = once->object.serial};
    const int64_t slice = pshm_os_now() + PSHM_SLICE_NS;
    pshm_death_of death;
    int rc = 0;
    while (rc == 0 || rc == -EOWNERDEAD) {
        rc = pshm_owner_take(m, o, PSHM_OWNER_RECOVER, &guard, PSHM_OWNER_NOW, &death);
        if (rc != -EBUSY)
            return rc;
        rc = pshm_owner_take(m, o, PSHM_OWNER_PASS, &guard, deadline, &death);
        if (is_done(body_of(once)))
            return 1;
        if (once->object.arena->closed)
            return PSHM_ECLOSED;
        if (rc == 0 && pshm_os_now() >= slice) /* others were faster, and failed, again and again */
            return -EINTR;
    }
    return rc;
}

int pshm_once_begin(pshm_once *once, int64_t deadline)
{
    pshm_member *m;
    int rc = pshm_once_done(once);
    if (PSHM_LIKELY(rc))
        return rc;
    rc = pshm_object_enter(&once->object, &m);
    if (rc)
        return rc;
    body *b = body_of(once);
    rc = take(m, once, deadline);
    if (PSHM_UNLIKELY(rc == PSHM_ERELOCK)) /* that is of locks */
        rc = PSHM_ESELFWAIT;
    if (rc == 0) {
        pshm_owner_repaired(&b->owner);
        rc = is_done(b);
        if (rc || *m->attachment->lost)
            pshm_owner_give_as(m, &b->owner, PSHM_OWNER_WAKE_ALL);
    }
    pshm_object_leave(m);
    return PSHM_UNLIKELY(*m->attachment->lost) && rc >= 0 ? PSHM_ELOST : rc;
}

int pshm_once_finish(pshm_once *once, bool done)
{
    pshm_arena *arena = once->object.arena;
    pshm_member *m = arena ? pshm_member_known(arena->attachment) : NULL;
    if (!m || pshm_member_holds(m, once->place) < 0)
        return PSHM_ENOTOWNER;
    body *b = body_of(once);
    if (pshm_owner_id(&b->owner) == m->me) {
        pshm_owner_repaired(&b->owner);
        if (done) {
            __atomic_store_n(&b->done, 1, __ATOMIC_SEQ_CST);
            pshm_wake(&b->sleepers, &b->done, INT_MAX);
        }
    }
    /* All who wait only wait until nobody has it: one of them would not wake the next. */
    int rc = pshm_owner_give_as(m, &b->owner, PSHM_OWNER_WAKE_ALL);
    if (!rc && *m->attachment->lost)
        rc = PSHM_ELOST;
    if (PSHM_UNLIKELY(arena->closed))
        pshm_members_tidy(); /* what was held kept the mapping */
    return rc;
}
