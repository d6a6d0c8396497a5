/* SPDX-License-Identifier: MIT */
#include "core/waiting.h"

#include <errno.h>
#include <limits.h>

#include "core/owner.h"
#include "os/clock.h"

void pshm_wake_slowly(uint32_t *sleepers, const uint32_t *word, int count)
{
    uint32_t found = __atomic_load_n(sleepers, __ATOMIC_SEQ_CST);
    /* While there are takers left the flag stays up, so that others go on waking them whatever becomes of this process. */
    if (count < INT_MAX && !(found & PSHM_SLEEPS_WATCHER) && pshm_os_futex_wake(word, count) >= count)
        return;
    do {
        if (!(found & PSHM_SLEEPS))
            return;
    } while (!__atomic_compare_exchange_n(sleepers, &found, (found & ~PSHM_SLEEPS) + PSHM_SLEEPS_STEP, true,
                                          __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    /* All whose flag that was: who is not asleep yet does not fall asleep any more. */
    pshm_os_futex_wake(word, INT_MAX);
}

static int look(pshm_waiting *w, const pshm_member *m, uint32_t *value)
{
    const pshm_object *object = w->object;
    if (m) { /* it keeps the mapping itself */
        if (PSHM_UNLIKELY(object->arena->closed))
            return PSHM_ECLOSED;
        int rc = pshm_object_stands(object);
        return rc ? rc : w->look(w, true, value);
    }
    bool pinned;
    int rc = pshm_object_look(object, &pinned);
    if (rc)
        return rc;
    rc = w->look(w, false, value);
    int stands = pshm_object_stands(object);
    pshm_arena_unlook(object->arena, pinned);
    return stands ? stands : rc;
}

static int sleep_on(pshm_waiting *w, pshm_member *m, int64_t until)
{
    uint32_t value = 0, raised = pshm_sleeps(w->sleepers, w->how);
    int rc = look(w, m, &value);
    if (rc != 1)
        return rc;
    if (w->word == w->sleepers)
        value = raised;
    pshm_store(&m->slot->waits, pshm_place_of(m->attachment, w->word));
    rc = pshm_os_futex_wait(w->word, value, until);
    pshm_store(&m->slot->waits, 0);
    w->slept = true;
    int again = look(w, m, &value); /* whatever ended the sleep: it may have been woken too */
    if (PSHM_UNLIKELY(again < 0) && w->how & PSHM_SLEEPS_TAKER)
        pshm_wake(w->sleepers, w->word, 1); /* for what it does not take */
    return again == 1 && rc == -EINTR ? rc : again;
}

static int wait_as(pshm_waiting *w, pshm_member *m, int64_t deadline)
{
    uint32_t value = 0;
    int rc = look(w, m, &value);
    if (rc != 1)
        return rc;
    int64_t now = pshm_os_now(), start = now, slice = now + PSHM_SLICE_NS;
    if (deadline <= now)
        return -ETIMEDOUT;
    for (int i = 0; rc == 1 && i < PSHM_OS_YIELDS && pshm_os_now() < start + PSHM_OS_YIELDS_NS; i++) {
        pshm_os_yield();
        rc = look(w, m, &value);
    }
    int64_t until = deadline < slice ? deadline : slice;
    while (rc == 1) {
        now = pshm_os_now();
        if (now >= until)
            return until == deadline ? -ETIMEDOUT : -EINTR;
        if (m) {
            rc = sleep_on(w, m, until);
        } else {
            pshm_os_sleep_until(now + PSHM_LOOK_NS < until ? now + PSHM_LOOK_NS : until);
            rc = look(w, m, &value);
        }
    }
    return rc;
}

int pshm_wait_for(pshm_waiting *waiting, int64_t deadline)
{
    const pshm_object *object = waiting->object;
    pshm_arena *arena = object->arena;
    pshm_member *m = NULL;
    if (PSHM_UNLIKELY(!arena))
        return PSHM_ECLOSED;
    int rc = arena->readonly ? pshm_arena_enter(arena) : pshm_object_enter(object, &m);
    if (rc)
        return rc;
    rc = wait_as(waiting, m, deadline);
    if (m)
        pshm_object_leave(m);
    else
        pshm_arena_leave(arena);
    return rc;
}

int pshm_watch_word(const pshm_waiting *waiting, pshm_watch *watch)
{
    const pshm_object *object = waiting->object;
    pshm_waiting w = *waiting;
    pshm_member *m = NULL;
    uint32_t value = 0;
    if (object->arena->readonly) {
        int rc = look(&w, NULL, &value);
        return rc < 0 ? rc : !rc;
    }
    int rc = pshm_object_enter(object, &m);
    if (rc)
        return rc;
    uint32_t raised = 0;
    rc = look(&w, m, &value);
    if (rc == 1) { /* else no flag is raised, for which the next change would look for sleepers in vain */
        raised = pshm_sleeps(w.sleepers, PSHM_SLEEPS_WATCHER);
        rc = look(&w, m, &value);
    }
    if (rc == 1)
        pshm_watch_add(watch, w.word, w.word == w.sleepers ? raised : value);
    pshm_object_leave(m);
    return rc < 0 ? rc : !rc;
}

bool pshm_watch_life(pshm_watch *watch, pshm_attachment *a, uint32_t id)
{
    uint32_t *beacon, value;
    if ((watch->prove && pshm_id_prove_dead(a, id)) || !pshm_id_beacon(a, id, &beacon, &value))
        return false;
    pshm_watch_add(watch, beacon, value);
    return true;
}

static int watch_participant(const pshm_waitable *w, pshm_watch *watch)
{
    if (w->slot >= w->arena->participants)
        return 1;
    int rc = pshm_arena_enter(w->arena);
    if (rc)
        return rc;
    pshm_attachment *a = w->arena->attachment;
    uint32_t id = pshm_id_of(w->slot, w->generation);
    if (a->readonly)
        rc = watch->prove ? pshm_id_prove_dead(a, id) : pshm_id_is_dead(a, id);
    else
        rc = !pshm_watch_life(watch, a, id);
    if (pshm_attachment_verify(a))
        rc = PSHM_ELOST;
    pshm_arena_leave(w->arena);
    return rc;
}

int pshm_waitable_watch(const pshm_waitable *waitable, pshm_watch *watch)
{
    const pshm_object *object = waitable->object;
    if (!object)
        return waitable->arena ? watch_participant(waitable, watch) : PSHM_EUNWAITABLE;
    if (!object->arena)
        return PSHM_ECLOSED;
    return object->watch ? object->watch(object, waitable->least, watch) : PSHM_EUNWAITABLE;
}
