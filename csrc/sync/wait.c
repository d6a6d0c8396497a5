/* SPDX-License-Identifier: MIT
 *
 * Waiting for several things at once. Each is asked whether it is ready, and says on which words one sleeps until it may
 * be; then one call sleeps on all of them. Nothing is kept from one question to the next, and nothing shared is taken, so
 * that a death of who waits leaves nothing but a flag that somebody may sleep.
 */
#include <polyshm/wait.h>

#include <errno.h>
#include <limits.h>

#include "core/waiting.h"
#include "os/clock.h"

/* How long it sleeps where not all words have room in one call. */
#define TURN INT64_C(4000000)

int pshm_waitable_ready(const pshm_waitable *waitable)
{
    pshm_watch watch;
    watch.count = 0;
    watch.again = watch.prove = false;
    return pshm_waitable_watch(waitable, &watch);
}

typedef struct waiting {
    const pshm_waitable *all;
    size_t count, first; /* whose words are taken first, where not all have room */
    bool *ready;
    size_t *failed;
    bool again, prove;
    bool cramped, looks; /* some word had no room; something has no word */
    pshm_watch words;
} waiting;

static pshm_arena *arena_of(const pshm_waitable *w)
{
    return w->object ? w->object->arena : w->arena;
}

/* Adds its words. How many are ready of this one: 0 or 1; or an error. */
static int ask(waiting *w, size_t i)
{
    pshm_watch own;
    own.count = 0;
    own.again = w->again;
    own.prove = w->prove;
    int rc = pshm_waitable_watch(&w->all[i], &own);
    if (rc < 0)
        *w->failed = i;
    w->ready[i] = rc > 0;
    w->looks |= !rc && !own.count;
    if (rc || own.count > PSHM_OS_FUTEX_MANY - w->words.count) {
        w->cramped |= !rc;
        return rc;
    }
    for (unsigned k = 0; k < own.count; k++)
        pshm_watch_add(&w->words, own.words[k].word, own.words[k].value);
    return 0;
}

/* Asks all of them: how many are ready, or the error of the first in the list that has one. */
static int ask_all(waiting *w)
{
    int ready = 0, error = 0;
    size_t failed = w->count;
    w->words.count = 0;
    w->cramped = w->looks = false;
    for (size_t n = 0; n < w->count; n++) {
        size_t i = (w->first + n) % w->count;
        int rc = ask(w, i);
        if (rc < 0 && i < failed) {
            failed = i;
            error = rc;
        }
        ready += rc > 0;
    }
    *w->failed = failed;
    return error ? error : ready;
}

/* A wake may have come for one alone, who would take something; here nothing is taken, so the next one is woken. The
 * system names one of the words that woke: others have changed, if it was not in vain. */
static void pass_on(const pshm_watch *words, int rc, unsigned which)
{
    for (unsigned i = 0; i < words->count; i++) {
        const pshm_os_futex *f = &words->words[i];
        if ((rc == 0 && i == which) || pshm_load(f->word) != f->value)
            pshm_os_futex_wake(f->word, 1);
    }
}

static int sleep_once(waiting *w, int64_t until)
{
    int64_t now = pshm_os_now(), turn = until;
    unsigned which;
    if (w->looks)
        turn = now + PSHM_LOOK_NS;
    else if (w->cramped)
        turn = now + TURN;
    if (turn > until)
        turn = until;
    if (!w->words.count) {
        pshm_os_sleep_until(turn);
        return pshm_os_now() < turn ? -EINTR : 0;
    }
    int rc = pshm_os_futex_wait_many(w->words.words, w->words.count, turn, &which);
    pass_on(&w->words, rc, which);
    w->again = true;
    if (w->cramped)
        w->first = (w->first + w->count / 2 + 1) % w->count;
    return rc;
}

static int wait_all(waiting *w, int64_t deadline)
{
    int rc = ask_all(w);
    if (rc)
        return rc;
    int64_t start = pshm_os_now(), slice = start + PSHM_SLICE_NS, until = deadline < slice ? deadline : slice;
    if (deadline <= start)
        return -ETIMEDOUT;
    for (int i = 0; !rc && i < PSHM_OS_YIELDS && pshm_os_now() < start + PSHM_OS_YIELDS_NS; i++) {
        pshm_os_yield();
        rc = ask_all(w);
    }
    while (!rc) {
        int slept = sleep_once(w, until);
        bool over = pshm_os_now() >= until;
        w->prove = over && until == slice; /* once in a whole slice */
        rc = ask_all(w);
        if (!rc && over)
            return until == deadline ? -ETIMEDOUT : -EINTR;
        if (!rc && slept == -EINTR)
            return -EINTR;
    }
    return rc;
}

int pshm_wait(const pshm_waitable *all, size_t count, int64_t deadline, bool *ready, size_t *failed)
{
    waiting w = {.all = all, .count = count, .ready = ready, .failed = failed};
    size_t pinned = 0;
    int rc = 0;
    /* The mappings stay, whoever closes what. */
    for (; pinned < count; pinned++) {
        pshm_arena *arena = arena_of(&all[pinned]);
        rc = arena ? pshm_arena_enter(arena) : all[pinned].object ? PSHM_ECLOSED : PSHM_EUNWAITABLE;
        if (rc)
            break;
    }
    if (rc)
        *failed = pinned;
    else
        rc = wait_all(&w, deadline);
    while (pinned)
        pshm_arena_leave(arena_of(&all[--pinned]));
    return rc;
}
