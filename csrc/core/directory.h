/* SPDX-License-Identifier: MIT
 *
 * The directory: names and their objects. For core/, sync/ and data/.
 */
#ifndef PSHM_CORE_DIRECTORY_H
#define PSHM_CORE_DIRECTORY_H

#include "core/heap.h"

/* What a noun wants of an object: the handle's head is filled in by pshm_object_open. */
typedef struct pshm_wish {
    const char *name;
    size_t name_size;
    uint32_t kind;
    bool create;
    uint32_t flags;       /* of a new one */
    const void *body;     /* what the body of a new one begins with; the rest is zeroed */
    uint64_t body_size;   /* bytes of it; what exists must have as many at least, or */
    uint64_t body_least;  /* so many, if this is not 0 */
    uint64_t body_prefix; /* of `body` */
    int (*watch)(const pshm_object *object, int64_t least, struct pshm_watch *watch);
} pshm_wish;

/* Opens or creates the object, for a noun. *flags: of what is there. PSHM_ENONAME, PSHM_EKIND, ... as pshm_mutex_init. */
int pshm_object_open(pshm_object *object, pshm_arena *arena, const pshm_wish *wish, uint32_t *flags, bool *created);
void pshm_object_fini(pshm_object *object);

/* Is the object what its handle was made of? By whoever may look at the memory. PSHM_EDELETED, PSHM_ELOST. */
static inline int pshm_object_stands(const pshm_object *object)
{
    bool same = pshm_load(object->stamp) == object->serial;
    if (PSHM_UNLIKELY(pshm_attachment_verify(object->arena->attachment)))
        return PSHM_ELOST;
    return PSHM_LIKELY(same) ? 0 : PSHM_EDELETED;
}

/* A call that only looks at an object, by a member or not; pshm_arena_unlook ends it where this was 0. Ask again, with
 * pshm_object_stands, after what was read. PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST. */
static inline int pshm_object_look(const pshm_object *object, bool *pinned)
{
    int rc = PSHM_LIKELY(object->arena != NULL) ? pshm_arena_look(object->arena, pinned) : PSHM_ECLOSED;
    if (PSHM_UNLIKELY(rc))
        return rc;
    rc = pshm_object_stands(object);
    if (PSHM_UNLIKELY(rc))
        pshm_arena_unlook(object->arena, *pinned);
    return rc;
}

/* A call on an object by a member: names it as busy, so that nobody frees it, and asks whether it is still there.
 * PSHM_ECLOSED, PSHM_EREADONLY, PSHM_EDELETED, and what pshm_member_of says. */
int pshm_object_enter_slowly(const pshm_object *object, pshm_member **out);

/* The calling thread, where it takes part already and the arena is open; NULL: slowly. */
static inline __attribute__((always_inline)) pshm_member *pshm_object_member_quick(const pshm_object *object)
{
    const pshm_arena *arena = object->arena; /* NULL of a handle that was ended */
    pshm_member *m = PSHM_LIKELY(arena != NULL) ? pshm_member_quick(arena->attachment) : NULL;
    return PSHM_LIKELY(m && !arena->closed) ? m : NULL;
}

/* The calling thread, if it takes part: on a closed arena too, where it may hold something. */
static inline __attribute__((always_inline)) pshm_member *pshm_object_member_known(const pshm_object *object)
{
    const pshm_arena *arena = object->arena;
    pshm_member *m = PSHM_LIKELY(arena != NULL) ? pshm_member_quick(arena->attachment) : NULL;
    return PSHM_LIKELY(m || !arena) ? m : pshm_member_known(arena->attachment);
}

/* NULL: slowly. For those who have no more to do then than to call on. */
static inline pshm_member *pshm_object_enter_quickly(const pshm_object *object)
{
    pshm_member *m = pshm_object_member_quick(object);
    if (PSHM_UNLIKELY(!m))
        return NULL;
    /* Whoever frees makes every processor see its stores before it looks at `busy`: no fence is needed here. */
    __atomic_store_n(&m->slot->busy, object->place, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    return PSHM_LIKELY(pshm_load(object->stamp) == object->serial) ? m : NULL;
}

static inline int pshm_object_enter(const pshm_object *object, pshm_member **out)
{
    pshm_member *m = pshm_object_enter_quickly(object);
    if (PSHM_UNLIKELY(!m))
        return pshm_object_enter_slowly(object, out);
    *out = m;
    return 0;
}

static inline void pshm_object_leave(pshm_member *m)
{
    __atomic_store_n(&m->slot->busy, 0, __ATOMIC_RELEASE);
}

/* What the end of a call needs, fetched before its atomic instruction: loads behind that would hold up the next one. */
typedef struct pshm_exit {
    uint64_t *busy;
    const volatile uint32_t *gone;
} pshm_exit;

static inline pshm_exit pshm_object_exit(const pshm_member *m)
{
    return (pshm_exit){&m->slot->busy, m->gone};
}

/* As pshm_object_leave. `rc`, or PSHM_ELOST. */
static inline int pshm_exit_with(pshm_exit exit, int rc)
{
    __atomic_store_n(exit.busy, 0, __ATOMIC_RELEASE);
    return PSHM_UNLIKELY(*exit.gone) ? PSHM_ELOST : rc;
}

/* The noun's number and name of a live object whose head or body is at `place`; false: there is none. */
bool pshm_directory_name(const pshm_attachment *a, uint64_t place, char name[256]);

uint64_t pshm_directory_count(const pshm_attachment *a);

/* Adds findings, and calls `known` for every block of the heap that the directory knows of. */
void pshm_directory_check(const pshm_attachment *a, pshm_findings *f, void (*known)(void *context, uint64_t place),
                          void *context);

/* As pshm_heap_enter. */
int pshm_directory_enter(pshm_member *m);
void pshm_directory_leave(pshm_member *m);

#endif
