/* SPDX-License-Identifier: MIT
 *
 * The event: one word, changed by one CAS, and that of waiting.h. The word also counts how often it was set, so that
 * who waits sees that it was, however soon it is cleared again.
 */
#include <polyshm/event.h>

#include <limits.h>

#include "core/waiting.h"

#define KIND 7u
#define AUTOMATIC 1u /* a flag of the object's head */

typedef struct body {
    uint32_t sleepers; /* of waiting.h; what is slept on */
    uint32_t state;    /* how often it was set << 1 | SET */
    uint32_t unused[14];
} body;

_Static_assert(sizeof(body) == 64, "layout");

#define SET 1u

static body *body_of(const pshm_event *event)
{
    return event->object.body;
}

/* `least` of the wait is `since`. */
static int is_set(pshm_waiting *waiting, bool write, uint32_t *value)
{
    const body *b = waiting->object->body;
    (void)write;
    (void)value;
    uint32_t state = __atomic_load_n(&b->state, __ATOMIC_SEQ_CST);
    return !(state & SET) && state >> 1 == waiting->least;
}

static int take_set(pshm_waiting *waiting, bool write, uint32_t *value)
{
    body *b = waiting->object->body;
    (void)write;
    (void)value;
    uint32_t state = __atomic_load_n(&b->state, __ATOMIC_SEQ_CST);
    while (state & SET)
        if (__atomic_compare_exchange_n(&b->state, &state, state & ~SET, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return 0;
    return 1;
}

static pshm_waiting waiting_for(const pshm_object *object, bool automatic, uint32_t since)
{
    body *b = pshm_waited_body(object);
    return (pshm_waiting){.object = object,
                          .word = &b->sleepers,
                          .sleepers = &b->sleepers,
                          .how = automatic ? PSHM_SLEEPS_TAKER : PSHM_SLEEPS_WATCHER,
                          .look = automatic ? take_set : is_set,
                          .least = since};
}

/* Set now, and no more than that: nothing is taken. */
static int watch_set(pshm_waiting *waiting, bool write, uint32_t *value)
{
    const body *b = waiting->object->body;
    (void)write;
    (void)value;
    return !(__atomic_load_n(&b->state, __ATOMIC_SEQ_CST) & SET);
}

static int watch(const pshm_object *object, int64_t least, pshm_watch *out)
{
    bool since = least >= PSHM_EVENT_SINCE;
    pshm_waiting waiting = waiting_for(object, false, (uint32_t)least);
    waiting.look = since ? is_set : watch_set;
    return pshm_watch_word(&waiting, out);
}

int pshm_event_init(pshm_event *event, pshm_arena *arena, const char *name, size_t length, bool create,
                    pshm_automatic automatic, bool *created)
{
    const pshm_wish wish = {.name = name,
                            .name_size = length,
                            .kind = KIND,
                            .create = create,
                            .flags = automatic == PSHM_AUTOMATIC_YES ? AUTOMATIC : 0,
                            .body_size = sizeof(body),
                            .watch = watch};
    uint32_t flags = 0;
    *event = (pshm_event){.object = {.kind = KIND}};
    int rc = pshm_object_open(&event->object, arena, &wish, &flags, created);
    event->automatic = flags & AUTOMATIC;
    if (rc || automatic == PSHM_AUTOMATIC_ANY || event->automatic == (automatic == PSHM_AUTOMATIC_YES))
        return rc;
    pshm_event_fini(event);
    return PSHM_EPARAMETER;
}

void pshm_event_fini(pshm_event *event)
{
    pshm_object_fini(&event->object);
}

int pshm_event_set(pshm_event *event)
{
    pshm_member *m;
    int rc = pshm_object_enter(&event->object, &m);
    if (PSHM_UNLIKELY(rc))
        return rc;
    const pshm_exit exit = pshm_object_exit(m);
    body *b = body_of(event);
    uint32_t state = pshm_peek(&b->state);
    while (!__atomic_compare_exchange_n(&b->state, &state, state & SET ? state : (state + 2) | SET, true,
                                        __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        continue;
    /* One that was set has woken who slept; but for a wake that died with its setter. */
    pshm_wake(&b->sleepers, &b->sleepers, event->automatic ? 1 : INT_MAX);
    return pshm_exit_with(exit, 0);
}

int pshm_event_clear(pshm_event *event)
{
    pshm_member *m;
    int rc = pshm_object_enter(&event->object, &m);
    if (PSHM_UNLIKELY(rc))
        return rc;
    const pshm_exit exit = pshm_object_exit(m);
    __atomic_fetch_and(&body_of(event)->state, ~SET, __ATOMIC_SEQ_CST);
    return pshm_exit_with(exit, 0);
}

static int state_of(const pshm_event *event, uint32_t *state)
{
    bool pinned;
    int rc = pshm_object_look(&event->object, &pinned);
    if (PSHM_UNLIKELY(rc))
        return rc;
    *state = __atomic_load_n(&body_of(event)->state, __ATOMIC_SEQ_CST);
    rc = pshm_object_stands(&event->object);
    pshm_arena_unlook(event->object.arena, pinned);
    return rc;
}

int pshm_event_is_set(pshm_event *event)
{
    uint32_t state;
    int rc = state_of(event, &state);
    return rc ? rc : (int)(state & SET);
}

int pshm_event_since(pshm_event *event, uint32_t *since)
{
    uint32_t state;
    int rc = state_of(event, &state);
    if (!rc)
        *since = (state - (state & SET) * 2) >> 1;
    return rc;
}

int pshm_event_wait(pshm_event *event, uint32_t since, int64_t deadline)
{
    const pshm_arena *arena = event->object.arena;
    if (event->automatic && arena && arena->readonly)
        return arena->closed ? PSHM_ECLOSED : PSHM_EREADONLY;
    pshm_waiting waiting = waiting_for(&event->object, event->automatic, since);
    return pshm_wait_for(&waiting, deadline);
}
