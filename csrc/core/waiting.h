/* SPDX-License-Identifier: MIT
 *
 * Waiting for words that nobody owns: counters, semaphores, events, latches. Beside the word stands another that says
 * whether anybody sleeps for it. For sync/ and data/.
 *
 * A waiter raises a flag there and then looks at the word; whoever changes the word looks at the flag after that: so one of
 * the two sees the other. Above the flags a number moves on each time they are taken down, and the waiter sleeps on all of
 * it as it was when its flag was up: so nobody falls asleep under a flag that is down, however often the word changes
 * meanwhile. A death between the change and the wake, or of the one who was woken, costs the others a slice.
 *
 * One may also sleep on the word itself, where two changes of it never meet, as under a mutex, or where it changes once.
 */
#ifndef PSHM_CORE_WAITING_H
#define PSHM_CORE_WAITING_H

#include <polyshm/wait.h>

#include "core/directory.h"
#include "os/futex.h"

/* Flags. */
#define PSHM_SLEEPS_TAKER 1u   /* one wake is for one of them: it takes what it was woken for */
#define PSHM_SLEEPS_WATCHER 2u /* they take nothing, so that all have to be woken */
#define PSHM_SLEEPS 3u
#define PSHM_SLEEPS_STEP 4u /* of the number */

/* It was changed such that `count` takers may go on: wakes them, and all watchers. `word` is what they sleep on: `sleepers`,
 * but for the exceptions. */
void pshm_wake_slowly(uint32_t *sleepers, const uint32_t *word, int count);

/* Does anybody sleep, perhaps? To be asked after the change. */
static inline bool pshm_sleeping(const uint32_t *sleepers)
{
    return __atomic_load_n(sleepers, __ATOMIC_SEQ_CST) & PSHM_SLEEPS;
}

static inline void pshm_wake(uint32_t *sleepers, const uint32_t *word, int count)
{
    if (PSHM_UNLIKELY(pshm_sleeping(sleepers)))
        pshm_wake_slowly(sleepers, word, count);
}

/* Raises flags. What it is then: the value to sleep at. */
static inline uint32_t pshm_sleeps(uint32_t *sleepers, uint32_t how)
{
    return __atomic_fetch_or(sleepers, how, __ATOMIC_SEQ_CST) | how;
}

/* One wait for one object. */
typedef struct pshm_waiting {
    const pshm_object *object;
    const uint32_t *word; /* what is slept on: `sleepers`, but for the exceptions; first in its body */
    uint32_t *sleepers;
    uint32_t how; /* PSHM_SLEEPS_... */
    /* Tries, or looks: 0: it is over; 1: not yet, and *value, which only the exceptions need, is what the word was;
     * negative: an error. `write`: by a member, who may change the object. */
    int (*look)(struct pshm_waiting *waiting, bool write, uint32_t *value);
    int64_t least; /* for `look` */
    bool slept;    /* it has: a taker may have been woken for something, and there may be more of it */
} pshm_waiting;

/* The body whose words a pshm_waiting names; of a handle that was ended, which pshm_wait_for refuses, one of nobody's. */
static inline void *pshm_waited_body(const pshm_object *object)
{
    static uint64_t nobody[8];
    return PSHM_LIKELY(object->body != NULL) ? object->body : nobody;
}

/* Looks, yields a little, sleeps, for a slice at the most. In an arena that may only be read it looks every few
 * milliseconds. 0; what `look` says; PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST and what pshm_object_enter says; -ETIMEDOUT;
 * -EINTR. */
int pshm_wait_for(pshm_waiting *waiting, int64_t deadline);

/* ---- watching: what pshm_wait and notifiers sleep on ---- */

typedef struct pshm_watch {
    unsigned count;
    bool again; /* it slept before, and a wake for one alone may have ended that: others sleep yet */
    bool prove; /* for a whole slice: the system is to be asked, too, whether those live whose end is waited for */
    pshm_os_futex words[PSHM_OS_FUTEX_MANY];
} pshm_watch;

/* One word more to sleep on; what has no room is left out, and noticed at the end of a slice. */
static inline void pshm_watch_add(pshm_watch *watch, const uint32_t *word, uint32_t value)
{
    if (watch->count < PSHM_OS_FUTEX_MANY)
        watch->words[watch->count++] = (pshm_os_futex){word, value};
}

/* The beacon of `id` as one word more. false: it is dead, or no more, so that there is no need to sleep. */
bool pshm_watch_life(pshm_watch *watch, pshm_attachment *a, uint32_t id);

/* The `watch` of a noun: 1: it is ready; 0: not yet, and the words say when to ask again; or an error. For a noun whose
 * `look` takes nothing: */
int pshm_watch_word(const pshm_waiting *waiting, pshm_watch *watch);

/* The same question to whatever can be waited for. No words and 0: it has to be looked at, since this process may not ask
 * to be woken. As pshm_waitable_ready. */
int pshm_waitable_watch(const pshm_waitable *waitable, pshm_watch *watch);

/* How often that is looked at, in ns. */
#define PSHM_LOOK_NS INT64_C(2000000)

#endif
