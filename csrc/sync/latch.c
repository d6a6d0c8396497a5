/* SPDX-License-Identifier: MIT
 *
 * The latch: one word, changed by one CAS, and that of waiting.h.
 */
#include <polyshm/latch.h>

#include <limits.h>

#include "core/waiting.h"

#define KIND 10u

typedef struct body {
    uint32_t sleepers; /* of waiting.h; what is slept on */
    uint32_t count;    /* what is left */
    uint32_t initial;  /* the count it was made with */
    uint32_t unused[13];
} body;

_Static_assert(sizeof(body) == 64, "layout");

static int look(pshm_waiting *waiting, bool write, uint32_t *value)
{
    const body *b = waiting->object->body;
    (void)write;
    (void)value;
    return __atomic_load_n(&b->count, __ATOMIC_SEQ_CST) != 0;
}

static pshm_waiting waiting_for(const pshm_object *object)
{
    body *b = pshm_waited_body(object);
    return (pshm_waiting){
        .object = object, .word = &b->sleepers, .sleepers = &b->sleepers, .how = PSHM_SLEEPS_WATCHER, .look = look};
}

static int watch(const pshm_object *object, int64_t least, pshm_watch *out)
{
    (void)least;
    const pshm_waiting waiting = waiting_for(object);
    return pshm_watch_word(&waiting, out);
}

int pshm_latch_init(pshm_latch *latch, pshm_arena *arena, const char *name, size_t length, bool create, int64_t count,
                    bool *created)
{
    *latch = (pshm_latch){.object = {.kind = KIND}};
    if (count > PSHM_LATCH_MAX)
        return PSHM_ETOOMANY;
    const body fresh = {.count = (uint32_t)count, .initial = (uint32_t)count};
    const pshm_wish wish = {.name = name,
                            .name_size = length,
                            .kind = KIND,
                            .create = create && count >= 0,
                            .body = &fresh,
                            .body_prefix = sizeof fresh,
                            .body_size = sizeof(body),
                            .watch = watch};
    uint32_t flags;
    int rc = pshm_object_open(&latch->object, arena, &wish, &flags, created);
    if (rc)
        return rc == PSHM_ENONAME && create && count < 0 ? PSHM_ENOCOUNT : rc;
    if (count >= 0 && pshm_peek(&((body *)latch->object.body)->initial) != count) {
        pshm_latch_fini(latch);
        return PSHM_EPARAMETER;
    }
    return 0;
}

void pshm_latch_fini(pshm_latch *latch)
{
    pshm_object_fini(&latch->object);
}

int pshm_latch_count_down(pshm_latch *latch, uint64_t n, uint32_t *left)
{
    pshm_member *m;
    int rc = pshm_object_enter(&latch->object, &m);
    if (PSHM_UNLIKELY(rc))
        return rc;
    const pshm_exit exit = pshm_object_exit(m);
    body *b = latch->object.body;
    uint32_t count = pshm_peek(&b->count);
    do
        *left = n < count ? count - (uint32_t)n : 0;
    while (n && PSHM_UNLIKELY(
                    !__atomic_compare_exchange_n(&b->count, &count, *left, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)));
    if (!*left)
        pshm_wake(&b->sleepers, &b->sleepers, INT_MAX);
    return pshm_exit_with(exit, n ? 0 : PSHM_ETOOFEW);
}

int pshm_latch_wait(pshm_latch *latch, int64_t deadline)
{
    pshm_waiting waiting = waiting_for(&latch->object);
    return pshm_wait_for(&waiting, deadline);
}

int pshm_latch_count(pshm_latch *latch, uint32_t *left)
{
    bool pinned;
    int rc = pshm_object_look(&latch->object, &pinned);
    if (rc)
        return rc;
    *left = __atomic_load_n(&((body *)latch->object.body)->count, __ATOMIC_SEQ_CST);
    rc = pshm_object_stands(&latch->object);
    pshm_arena_unlook(latch->object.arena, pinned);
    return rc;
}
