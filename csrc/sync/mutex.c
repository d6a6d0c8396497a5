/* SPDX-License-Identifier: MIT
 *
 * The mutex of an arena: an owner word by name. core/owner.c says what survives and why; here is the short way, and what
 * a recursive one needs beyond it: how often its owner has it stands beside its place in the owner's slot.
 */
#include <polyshm/mutex.h>

#include <errno.h>

#include "core/directory.h"
#include "core/owner.h"
#include "core/waiting.h"
#include "sync/mutex.h"

#define KIND 1u
#define RECURSIVE 1u /* a flag of the object's head */

typedef struct body {
    pshm_owner owner;
    uint64_t
        task; /* the owner's to write: which of those that share its thread; 0: the thread itself, and while it is free */
    uint32_t repairs; /* the owner's to write: deaths in it that were made good */
    uint32_t unused[9];
} body;

_Static_assert(offsetof(body, owner) == 0 && sizeof(body) == 64, "layout");

#define DEPTH_ONE (UINT64_C(1) << PSHM_HELD_DEPTH_SHIFT)
#define DEPTH_MASK (~PSHM_HELD_PLACE)

static body *body_of(const pshm_mutex *mutex)
{
    return mutex->object.body;
}

/* NULL of a handle that was ended. */
static pshm_owner *owner_of(const pshm_mutex *mutex)
{
    return mutex->object.body;
}

static int watch(const pshm_object *object, int64_t least, pshm_watch *out);

int pshm_mutex_init(pshm_mutex *mutex, pshm_arena *arena, const char *name, size_t length, bool create,
                    pshm_recursive recursive, bool *created)
{
    pshm_wish wish = {.name = name,
                      .name_size = length,
                      .kind = KIND,
                      .create = create,
                      .flags = recursive == PSHM_RECURSIVE_YES ? RECURSIVE : 0,
                      .body_size = sizeof(body),
                      .watch = watch};
    uint32_t flags = 0;
    *mutex = (pshm_mutex){.recursive = false};
    int rc = pshm_object_open(&mutex->object, arena, &wish, &flags, created);
    if (rc)
        return rc;
    mutex->recursive = flags & RECURSIVE;
    mutex->place = pshm_place_of(arena->attachment, owner_of(mutex));
    if (recursive == PSHM_RECURSIVE_ANY || mutex->recursive == (recursive == PSHM_RECURSIVE_YES))
        return 0;
    pshm_mutex_fini(mutex);
    return PSHM_ERECURSIVE;
}

void pshm_mutex_fini(pshm_mutex *mutex)
{
    pshm_object_fini(&mutex->object);
}

/* The owner takes it once more. */
static int take_again(pshm_member *m, uint64_t place)
{
    uint64_t *held = &m->slot->held[pshm_member_holds(m, place)];
    if ((pshm_peek(held) & DEPTH_MASK) == DEPTH_MASK)
        return PSHM_EDEPTH;
    pshm_store(held, pshm_peek(held) + DEPTH_ONE);
    return 0;
}

/* By somebody whose thread has it: PSHM_ERELOCK, -EBUSY for another task, or once more. */
static int take_held(const pshm_mutex *mutex, pshm_member *m, uint64_t task)
{
    uint64_t holder = pshm_peek(&body_of(mutex)->task);
    if (holder != task)
        return task ? -EBUSY : PSHM_ERELOCK;
    return mutex->recursive ? take_again(m, mutex->place) : PSHM_ERELOCK;
}

static int take_as(pshm_mutex *mutex, uint64_t task, pshm_owner_mode mode, int64_t deadline, pshm_death *death)
{
    pshm_member *m;
    *death = (pshm_death){false, 0, 0};
    int rc = pshm_object_enter(&mutex->object, &m);
    if (rc)
        return rc;
    pshm_owner *o = owner_of(mutex);
    if (pshm_member_holds(m, mutex->place) >= 0 && pshm_owner_id(o) == m->me) {
        rc = take_held(mutex, m, task);
    } else {
        const pshm_owner_guard guard = {.stamp = mutex->object.stamp, .serial = mutex->object.serial};
        pshm_death_of told;
        rc = pshm_owner_take(m, o, mode, &guard, deadline, &told);
        *death = (pshm_death){told.died, told.pid, told.participant};
        if (!rc && pshm_peek(&body_of(mutex)->task) != task) /* or the dead one's */
            pshm_store(&body_of(mutex)->task, task);
    }
    pshm_object_leave(m);
    if (PSHM_UNLIKELY(*m->attachment->lost) && rc == 0) {
        pshm_owner_give(m, o);
        rc = PSHM_ELOST;
    }
    return rc;
}

static int take(pshm_mutex *mutex, pshm_owner_mode mode, int64_t deadline, pshm_death *death)
{
    return take_as(mutex, 0, mode, deadline, death);
}

int pshm_mutex_try(pshm_mutex *mutex, pshm_death *death)
{
    const pshm_object *object = &mutex->object;
    pshm_member *m = pshm_object_member_quick(object);
    if (PSHM_UNLIKELY(!m))
        return take(mutex, PSHM_OWNER_PLAIN, PSHM_OWNER_NOW, death);
    pshm_owner *o = owner_of(mutex);
    int at = pshm_member_note(m, mutex->place);
    const volatile uint32_t *gone = m->gone;
    uint64_t nobody = 0;
    /* No fence before the question whether it was deleted: see pshm_object_enter. */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (PSHM_LIKELY(at >= 0 && pshm_load(object->stamp) == object->serial && pshm_cas(&o->word, &nobody, m->me))) {
        m->used |= 1u << at;
        death->died = false;
        if (PSHM_LIKELY(!*gone))
            return 0;
        pshm_owner_give(m, o); /* others may have the page yet */
        return PSHM_ELOST;
    }
    if (at >= 0)
        pshm_store(&m->slot->held[at], 0);
    return take(mutex, PSHM_OWNER_PLAIN, PSHM_OWNER_NOW, death);
}

int pshm_mutex_try_task(pshm_mutex *mutex, uint64_t task, bool watched, pshm_death *death)
{
    return take_as(mutex, task, watched ? PSHM_OWNER_PLAIN | PSHM_OWNER_WATCHED : PSHM_OWNER_PLAIN, PSHM_OWNER_NOW,
                   death);
}

int pshm_mutex_recover_task(pshm_mutex *mutex, uint64_t task, bool watched, pshm_death *death)
{
    return take_as(mutex, task, watched ? PSHM_OWNER_RECOVER | PSHM_OWNER_WATCHED : PSHM_OWNER_RECOVER, PSHM_OWNER_NOW,
                   death);
}

int pshm_mutex_acquire(pshm_mutex *mutex, int64_t deadline, pshm_death *death)
{
    return take(mutex, PSHM_OWNER_PLAIN, deadline, death);
}

int pshm_mutex_recover(pshm_mutex *mutex, int64_t deadline, pshm_death *death)
{
    return take(mutex, PSHM_OWNER_RECOVER, deadline, death);
}

/* The calling thread and its place for the lock, if it has it: on a closed arena too, for as long as it is held. */
static inline __attribute__((always_inline)) int holder(const pshm_mutex *mutex, pshm_member **m)
{
    *m = pshm_object_member_known(&mutex->object);
    return *m ? pshm_member_holds(*m, mutex->place) : -1;
}

static inline __attribute__((always_inline)) int consistent_as(pshm_mutex *mutex, uint64_t task)
{
    pshm_member *m;
    pshm_owner *o = owner_of(mutex);
    if (holder(mutex, &m) < 0 || pshm_peek(&body_of(mutex)->task) != task)
        return PSHM_ENOTOWNER;
    if (pshm_owner_id(o) != m->me)
        return *m->attachment->lost ? PSHM_ELOST : PSHM_ENOTOWNER;
    if (pshm_peek(&o->died)) {
        uint32_t *repairs = &body_of(mutex)->repairs;
        pshm_store(repairs, pshm_peek(repairs) + 1); /* before: who repairs it again counts again */
        pshm_store(&o->died, 0);
    }
    return pshm_attachment_verify(m->attachment);
}

static inline __attribute__((always_inline)) int release_as(pshm_mutex *mutex, uint64_t task)
{
    pshm_member *m;
    pshm_owner *o = owner_of(mutex);
    int at = holder(mutex, &m);
    if (PSHM_UNLIKELY(at < 0 || (pshm_peek(&body_of(mutex)->task) != task && !*m->gone)))
        return PSHM_ENOTOWNER;
    uint64_t *held = &m->slot->held[at];
    const volatile uint32_t *gone = m->gone;
    uint64_t word = m->me;
    if (PSHM_UNLIKELY(pshm_peek(held) & DEPTH_MASK)) {
        pshm_store(held, pshm_peek(held) - DEPTH_ONE);
        return pshm_attachment_verify(m->attachment);
    }
    if (task)
        pshm_store(&body_of(mutex)->task, 0);
    int rc = 0;
    if (PSHM_LIKELY(!pshm_peek(&o->died) && pshm_cas(&o->word, &word, 0))) {
        m->used &= ~(1u << at);
        pshm_store(held, 0);
        rc = *gone ? PSHM_ELOST : 0;
    } else {
        rc = pshm_owner_give(m, o);
    }
    if (PSHM_UNLIKELY(mutex->object.arena->closed))
        pshm_members_tidy(); /* what was held kept the mapping */
    return rc;
}

int pshm_mutex_consistent(pshm_mutex *mutex)
{
    return consistent_as(mutex, 0);
}

int pshm_mutex_consistent_task(pshm_mutex *mutex, uint64_t task)
{
    return consistent_as(mutex, task);
}

int pshm_mutex_release(pshm_mutex *mutex)
{
    return release_as(mutex, 0);
}

int pshm_mutex_release_task(pshm_mutex *mutex, uint64_t task)
{
    return release_as(mutex, task);
}

bool pshm_mutex_held_by_task(const pshm_mutex *mutex, uint64_t task)
{
    pshm_member *m;
    return holder(mutex, &m) >= 0 && pshm_owner_id(owner_of(mutex)) == m->me &&
           pshm_peek(&body_of(mutex)->task) == task;
}

/* The living owner's id and, where it is asked for, its pid; 0 for nobody. */
static int owner(const pshm_mutex *mutex, uint32_t *id, uint32_t *pid)
{
    const pshm_object *object = &mutex->object;
    bool pinned;
    int rc = pshm_object_look(object, &pinned);
    if (rc)
        return rc;
    const pshm_attachment *a = object->arena->attachment;
    *id = pshm_owner_id(owner_of(mutex));
    if (*id && pshm_id_is_dead(a, *id))
        *id = 0;
    if (pid)
        *pid = *id ? pshm_id_pid(a, *id) : 0;
    rc = pshm_object_stands(object);
    pshm_arena_unlook(object->arena, pinned);
    return rc;
}

int pshm_mutex_locked(pshm_mutex *mutex)
{
    uint32_t id;
    int rc = owner(mutex, &id, NULL);
    return rc ? rc : id != 0;
}

int pshm_mutex_owner(pshm_mutex *mutex, uint32_t *pid)
{
    uint32_t id, found;
    int rc = owner(mutex, &id, &found);
    if (!rc)
        *pid = found;
    return rc;
}

/* Can it be had: is it free, or marked, or may its owner have it once more? In an arena that may only be read it is looked
 * at. */
static int watch(const pshm_object *object, int64_t least, pshm_watch *out)
{
    pshm_owner *o = &((body *)object->body)->owner;
    pshm_member *m;
    bool pinned;
    (void)least;
    if (object->arena->readonly) {
        int rc = pshm_object_look(object, &pinned);
        if (rc)
            return rc;
        uint32_t id = pshm_owner_id(o);
        bool free = !id || pshm_id_is_dead(object->arena->attachment, id);
        rc = pshm_object_stands(object);
        pshm_arena_unlook(object->arena, pinned);
        return rc ? rc : free;
    }
    int rc = pshm_object_enter(object, &m);
    if (rc)
        return rc;
    const pshm_mutex *mutex = (const pshm_mutex *)object;
    bool once_more = mutex->recursive && pshm_owner_id(o) == m->me && !pshm_peek(&body_of(mutex)->task);
    rc = once_more ? 1 : pshm_owner_watch(m, o, out);
    pshm_object_leave(m);
    int lost = pshm_attachment_verify(m->attachment);
    return lost ? lost : rc;
}

/* ---- for conditions ---- */

bool pshm_mutex_is_mine(const pshm_mutex *mutex)
{
    pshm_member *m;
    return holder(mutex, &m) >= 0;
}

int pshm_mutex_let_go(pshm_mutex *mutex, uint64_t task, uint32_t *depth)
{
    pshm_member *m;
    int at = holder(mutex, &m);
    if (at < 0 || pshm_peek(&body_of(mutex)->task) != task)
        return PSHM_ENOTOWNER;
    uint64_t *held = &m->slot->held[at];
    *depth = (uint32_t)(pshm_peek(held) >> PSHM_HELD_DEPTH_SHIFT);
    pshm_store(held, mutex->place);
    return release_as(mutex, task);
}

int pshm_mutex_take_back(pshm_mutex *mutex, uint64_t task, uint32_t depth, int64_t deadline, pshm_death *death)
{
    pshm_member *m;
    *death = (pshm_death){false, 0, 0};
    int at = holder(mutex, &m);
    bool taken = at >= 0 && pshm_peek(&body_of(mutex)->task) == task;
    int rc = taken ? 0 : take_as(mutex, task, PSHM_OWNER_PLAIN, deadline, death);
    if (rc)
        return rc;
    at = holder(mutex, &m);
    pshm_store(&m->slot->held[at], mutex->place | (uint64_t)depth << PSHM_HELD_DEPTH_SHIFT);
    return 0;
}

uint32_t pshm_mutex_repairs(const pshm_mutex *mutex)
{
    return pshm_load(&body_of(mutex)->repairs);
}

bool pshm_mutex_is_in_trouble(const pshm_mutex *mutex)
{
    uint32_t low = (uint32_t)pshm_load(&owner_of(mutex)->word);
    if (pshm_load(mutex->object.stamp) != mutex->object.serial || (low & PSHM_ID_SLOT) == PSHM_ID_ABANDONED)
        return true;
    bool inside = (low & PSHM_ID_SLOT) && !(low & PSHM_ID_GRANTED);
    return inside && pshm_id_is_dead(mutex->object.arena->attachment, low & PSHM_ID);
}

uint32_t pshm_mutex_holder(const pshm_mutex *mutex)
{
    return pshm_owner_id(owner_of(mutex));
}
