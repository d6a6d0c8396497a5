/* SPDX-License-Identifier: MIT
 *
 * The semaphore: one word, changed by one CAS, and that of waiting.h. A death before the CAS is nothing, one after it is
 * as if it had come after the call.
 */
#include <polyshm/semaphore.h>

#include <errno.h>

#include "core/waiting.h"

#define KIND 4u

typedef struct body {
    uint32_t sleepers; /* of waiting.h; what is slept on */
    uint32_t value;    /* free places */
    uint32_t initial;  /* the value it was made with */
    uint32_t unused[13];
} body;

_Static_assert(sizeof(body) == 64, "layout");

/* Takes one. 0, or 1 and nothing is free: as it is after what the caller did to `sleepers`, which a plain load need not be. */
static inline int take(body *b)
{
    uint32_t value = __atomic_load_n(&b->value, __ATOMIC_SEQ_CST);
    while (value)
        if (PSHM_LIKELY(
                __atomic_compare_exchange_n(&b->value, &value, value - 1, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)))
            return 0;
    return 1;
}

static int look(pshm_waiting *waiting, bool write, uint32_t *value)
{
    body *b = waiting->object->body;
    (void)value;
    if (!write)
        return !pshm_load(&b->value);
    if (take(b))
        return 1;
    /* Whoever released the others may have died before the wake. */
    if (waiting->slept && pshm_load(&b->value))
        pshm_wake(&b->sleepers, &b->sleepers, 1);
    return 0;
}

static int is_free(pshm_waiting *waiting, bool write, uint32_t *value)
{
    const body *b = waiting->object->body;
    (void)write;
    (void)value;
    return !__atomic_load_n(&b->value, __ATOMIC_SEQ_CST);
}

static pshm_waiting waiting_for(const pshm_object *object)
{
    body *b = pshm_waited_body(object);
    return (pshm_waiting){
        .object = object, .word = &b->sleepers, .sleepers = &b->sleepers, .how = PSHM_SLEEPS_TAKER, .look = look};
}

static int watch(const pshm_object *object, int64_t least, pshm_watch *out)
{
    (void)least;
    pshm_waiting waiting = waiting_for(object);
    waiting.look = is_free;
    return pshm_watch_word(&waiting, out);
}

int pshm_semaphore_init(pshm_semaphore *semaphore, pshm_arena *arena, const char *name, size_t length, bool create,
                        int64_t value, bool *created)
{
    *semaphore = (pshm_semaphore){.object = {.kind = KIND}};
    if (value > PSHM_SEMAPHORE_MAX)
        return PSHM_ETOOMANY;
    uint32_t first = value < 0 ? 1 : (uint32_t)value;
    const body fresh = {.value = first, .initial = first};
    const pshm_wish wish = {.name = name,
                            .name_size = length,
                            .kind = KIND,
                            .create = create,
                            .body = &fresh,
                            .body_prefix = sizeof fresh,
                            .body_size = sizeof(body),
                            .watch = watch};
    uint32_t flags;
    int rc = pshm_object_open(&semaphore->object, arena, &wish, &flags, created);
    if (!rc && value >= 0 && pshm_peek(&((body *)semaphore->object.body)->initial) != first) {
        pshm_semaphore_fini(semaphore);
        return PSHM_EPARAMETER;
    }
    return rc;
}

void pshm_semaphore_fini(pshm_semaphore *semaphore)
{
    pshm_object_fini(&semaphore->object);
}

/* Where all is as it mostly is nothing needs to be kept over a call here, and in a release: no register is restored behind
 * the CAS, which would hold up what follows. What is otherwise begins anew, slowly. */
__attribute__((noinline)) static int try_slowly(pshm_semaphore *semaphore)
{
    pshm_member *m;
    int rc = pshm_object_enter(&semaphore->object, &m);
    if (rc)
        return rc;
    const pshm_exit exit = pshm_object_exit(m);
    rc = take(semaphore->object.body) ? -EBUSY : 0;
    return pshm_exit_with(exit, rc);
}

int pshm_semaphore_try(pshm_semaphore *semaphore)
{
    const pshm_member *m = pshm_object_enter_quickly(&semaphore->object);
    if (PSHM_UNLIKELY(!m))
        return try_slowly(semaphore);
    const pshm_exit exit = pshm_object_exit(m);
    int rc = take(semaphore->object.body) ? -EBUSY : 0;
    return pshm_exit_with(exit, rc);
}

int pshm_semaphore_acquire(pshm_semaphore *semaphore, int64_t deadline)
{
    int rc = pshm_semaphore_try(semaphore);
    if (PSHM_LIKELY(rc != -EBUSY))
        return rc;
    pshm_waiting waiting = waiting_for(&semaphore->object);
    return pshm_wait_for(&waiting, deadline);
}

/* May `n` be added to `value`? Bytes that somebody else wrote there may be too many already. */
static inline bool may_add(uint32_t value, uint64_t n)
{
    return n <= PSHM_SEMAPHORE_MAX && value + n <= PSHM_SEMAPHORE_MAX;
}

__attribute__((noinline)) static int release_slowly(pshm_semaphore *semaphore, uint64_t n)
{
    pshm_member *m;
    int rc = pshm_object_enter(&semaphore->object, &m);
    if (rc)
        return rc;
    const pshm_exit exit = pshm_object_exit(m);
    body *b = semaphore->object.body;
    uint32_t value = pshm_peek(&b->value);
    rc = n ? 0 : PSHM_ETOOFEW;
    do {
        if (!rc && !may_add(value, n))
            rc = PSHM_ETOOMANY;
    } while (!rc && !__atomic_compare_exchange_n(&b->value, &value, value + (uint32_t)n, true, __ATOMIC_SEQ_CST,
                                                 __ATOMIC_RELAXED));
    if (!rc)
        pshm_wake(&b->sleepers, &b->sleepers, (int)n);
    return pshm_exit_with(exit, rc);
}

__attribute__((noinline)) static int wake_and_leave(body *b, uint64_t n, pshm_exit exit)
{
    pshm_wake_slowly(&b->sleepers, &b->sleepers, (int)n);
    return pshm_exit_with(exit, 0);
}

int pshm_semaphore_release(pshm_semaphore *semaphore, uint64_t n)
{
    const pshm_member *m = pshm_object_enter_quickly(&semaphore->object);
    if (PSHM_UNLIKELY(!m))
        return release_slowly(semaphore, n);
    const pshm_exit exit = pshm_object_exit(m);
    body *b = semaphore->object.body;
    uint32_t value = pshm_peek(&b->value);
    if (PSHM_UNLIKELY(!n || !may_add(value, n) ||
                      !__atomic_compare_exchange_n(&b->value, &value, value + (uint32_t)n, false, __ATOMIC_SEQ_CST,
                                                   __ATOMIC_RELAXED)))
        return release_slowly(semaphore, n);
    if (PSHM_UNLIKELY(pshm_sleeping(&b->sleepers)))
        return wake_and_leave(b, n, exit);
    return pshm_exit_with(exit, 0);
}

int pshm_semaphore_value(pshm_semaphore *semaphore, uint32_t *value)
{
    bool pinned;
    int rc = pshm_object_look(&semaphore->object, &pinned);
    if (rc)
        return rc;
    *value = __atomic_load_n(&((body *)semaphore->object.body)->value, __ATOMIC_SEQ_CST);
    rc = pshm_object_stands(&semaphore->object);
    pshm_arena_unlook(semaphore->object.arena, pinned);
    return rc;
}
