/* SPDX-License-Identifier: MIT
 *
 * Semaphores, events and latches that somebody may be overwriting.
 */
#include "fuzz.h"

#include <polyshm/wait.h>

/* Numbers that a word may be changed by. */
static uint64_t number_of(fuzz_user *u)
{
    static const uint64_t odd[] = {0, 1, 2, INT32_MAX, UINT32_MAX, UINT64_C(1) << 32, INT64_MAX, UINT64_MAX};
    return fuzz_below(&u->random, 2) ? fuzz_below(&u->random, 4)
                                     : odd[fuzz_below(&u->random, sizeof odd / sizeof *odd)];
}

static void use_semaphore(fuzz_user *u)
{
    pshm_semaphore *s = &u->semaphore;
    char name[260];
    uint32_t value;
    bool created;
    if (!s->object.arena) {
        size_t length = fuzz_name(u, name);
        FUZZ_CALL(u, pshm_semaphore_init(s, u->arena, name, length, fuzz_below(&u->random, 4) != 0,
                                         (int64_t)number_of(u), &created));
        return;
    }
    switch (fuzz_below(&u->random, 6)) {
    case 0:
        FUZZ_CALL(u, pshm_semaphore_try(s));
        break;
    case 1:
        FUZZ_CALL(u, pshm_semaphore_acquire(s, fuzz_soon(u)));
        break;
    case 2:
        FUZZ_CALL(u, pshm_semaphore_value(s, &value));
        break;
    case 3:
        fuzz_doing(u, "pshm_semaphore_fini");
        pshm_semaphore_fini(s);
        break;
    default:
        FUZZ_CALL(u, pshm_semaphore_release(s, number_of(u)));
    }
}

static void use_event(fuzz_user *u)
{
    pshm_event *e = &u->event;
    char name[260];
    uint32_t since = (uint32_t)fuzz_next(&u->random);
    bool created;
    if (!e->object.arena) {
        size_t length = fuzz_name(u, name);
        FUZZ_CALL(u, pshm_event_init(e, u->arena, name, length, fuzz_below(&u->random, 4) != 0,
                                     (pshm_automatic)((int)fuzz_below(&u->random, 3) - 1), &created));
        return;
    }
    switch (fuzz_below(&u->random, 7)) {
    case 0:
        FUZZ_CALL(u, pshm_event_set(e));
        break;
    case 1:
        FUZZ_CALL(u, pshm_event_clear(e));
        break;
    case 2:
        FUZZ_CALL(u, pshm_event_is_set(e));
        break;
    case 3:
        FUZZ_CALL(u, pshm_event_wait(e, since, fuzz_soon(u)));
        break;
    case 4:
        fuzz_doing(u, "pshm_event_fini");
        pshm_event_fini(e);
        break;
    default:
        if (FUZZ_CALL(u, pshm_event_since(e, &since)) == 0)
            FUZZ_CALL(u, pshm_event_wait(e, since, fuzz_soon(u)));
    }
}

static void use_latch(fuzz_user *u)
{
    pshm_latch *l = &u->latch;
    char name[260];
    uint32_t left;
    bool created;
    if (!l->object.arena) {
        size_t length = fuzz_name(u, name);
        FUZZ_CALL(u, pshm_latch_init(l, u->arena, name, length, fuzz_below(&u->random, 4) != 0, (int64_t)number_of(u),
                                     &created));
        return;
    }
    switch (fuzz_below(&u->random, 5)) {
    case 0:
        FUZZ_CALL(u, pshm_latch_count_down(l, number_of(u), &left));
        break;
    case 1:
        FUZZ_CALL(u, pshm_latch_count(l, &left));
        break;
    case 2:
        fuzz_doing(u, "pshm_latch_fini");
        pshm_latch_fini(l);
        break;
    default:
        FUZZ_CALL(u, pshm_latch_wait(l, fuzz_soon(u)));
    }
}

static void wait_for_all(fuzz_user *u)
{
    const pshm_waitable all[] = {{.object = &u->semaphore.object},
                                 {.object = &u->event.object},
                                 {.object = &u->latch.object},
                                 {.object = &u->counter[0].object, .least = 7},
                                 {.object = &u->mutex[0].object}};
    bool ready[sizeof all / sizeof *all];
    size_t failed;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].object->arena)
            FUZZ_CALL(u, pshm_wait(all + i, 1, fuzz_soon(u), ready, &failed));
    FUZZ_CALL(u, pshm_wait(all, sizeof all / sizeof *all, fuzz_soon(u), ready, &failed));
}

void fuzz_use_word(fuzz_user *u)
{
    static void (*const ways[])(fuzz_user *) = {use_semaphore, use_event, use_latch, wait_for_all};
    ways[fuzz_below(&u->random, sizeof ways / sizeof *ways)](u);
}

void fuzz_end_words(fuzz_user *u)
{
    fuzz_doing(u, "fini of words");
    pshm_semaphore_fini(&u->semaphore);
    pshm_event_fini(&u->event);
    pshm_latch_fini(&u->latch);
}
