/* SPDX-License-Identifier: MIT
 *
 * The mutex of an arena: an owner word by name. core/owner.c says what survives and why; here is the short way, and what
 * a recursive one needs beyond it: how often its owner has it stands beside its place in the owner's slot.
 */
#include <polyshm/mutex.h>

#include <errno.h>

#include "core/directory.h"
#include "core/owner.h"

#define KIND 1u
#define RECURSIVE 1u /* a flag of the object's head */

typedef struct body {
    pshm_owner owner;
    uint64_t task; /* for owners that share a thread */
    uint64_t unused[5];
} body;

_Static_assert(sizeof(body) == 64, "layout");

#define DEPTH_ONE (UINT64_C(1) << PSHM_HELD_DEPTH_SHIFT)
#define DEPTH_MASK (~PSHM_HELD_PLACE)

static pshm_owner *owner_of(const pshm_mutex *mutex)
{
    return &((body *)mutex->object.body)->owner;
}

int pshm_mutex_init(pshm_mutex *mutex, pshm_arena *arena, const char *name, size_t length, bool create,
                    pshm_recursive recursive, bool *created)
{
    pshm_wish wish = {.name = name,
                      .name_size = length,
                      .kind = KIND,
                      .create = create,
                      .flags = recursive == PSHM_RECURSIVE_YES ? RECURSIVE : 0,
                      .body_size = sizeof(body)};
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

static int take(pshm_mutex *mutex, pshm_owner_mode mode, int64_t deadline, pshm_death *death)
{
    pshm_member *m;
    *death = (pshm_death){false, 0, 0};
    int rc = pshm_object_enter(&mutex->object, &m);
    if (rc)
        return rc;
    pshm_owner *o = owner_of(mutex);
    if (mutex->recursive && pshm_member_holds(m, mutex->place) >= 0 && pshm_owner_id(o) == m->me) {
        rc = take_again(m, mutex->place);
    } else {
        const pshm_owner_guard guard = {mutex->object.stamp, mutex->object.serial};
        pshm_death_of told;
        rc = pshm_owner_take(m, o, mode, &guard, deadline, &told);
        *death = (pshm_death){told.died, told.pid, told.participant};
    }
    pshm_object_leave(m);
    if (PSHM_UNLIKELY(*m->attachment->lost) && rc == 0) {
        pshm_owner_give(m, o);
        rc = PSHM_ELOST;
    }
    return rc;
}

int pshm_mutex_try(pshm_mutex *mutex, pshm_death *death)
{
    const pshm_object *object = &mutex->object;
    pshm_member *m = pshm_member_quick(object->arena->attachment);
    if (PSHM_UNLIKELY(!m || object->arena->closed))
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
    *m = pshm_member_quick(mutex->object.arena->attachment);
    if (PSHM_UNLIKELY(!*m))
        *m = pshm_member_known(mutex->object.arena->attachment);
    return *m ? pshm_member_holds(*m, mutex->place) : -1;
}

int pshm_mutex_consistent(pshm_mutex *mutex)
{
    pshm_member *m;
    pshm_owner *o = owner_of(mutex);
    if (holder(mutex, &m) < 0)
        return PSHM_ENOTOWNER;
    if (pshm_owner_id(o) != m->me)
        return *m->attachment->lost ? PSHM_ELOST : PSHM_ENOTOWNER;
    pshm_store(&o->died, 0);
    return pshm_attachment_verify(m->attachment);
}

int pshm_mutex_release(pshm_mutex *mutex)
{
    pshm_member *m;
    pshm_owner *o = owner_of(mutex);
    int at = holder(mutex, &m);
    if (PSHM_UNLIKELY(at < 0))
        return PSHM_ENOTOWNER;
    uint64_t *held = &m->slot->held[at];
    const volatile uint32_t *gone = m->gone;
    uint64_t word = m->me;
    if (PSHM_UNLIKELY(pshm_peek(held) & DEPTH_MASK)) {
        pshm_store(held, pshm_peek(held) - DEPTH_ONE);
        return pshm_attachment_verify(m->attachment);
    }
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
