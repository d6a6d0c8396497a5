/* SPDX-License-Identifier: MIT
 *
 * Sleeps on futex words that others do for a thread, which has other things to wait for: the kernel (os/ring.h), or
 * threads of their own (os/watcher.h). Whoever does it signals an eventfd when one ends. One thread at a time.
 */
#ifndef PSHM_OS_SLEEP_H
#define PSHM_OS_SLEEP_H

#include "os/futex.h"

/* One of them: the caller's memory, which stays where it is until the sleep is over. */
typedef struct pshm_os_sleep {
    struct pshm_os_sleep *next, *previous; /* the sleeper's while it is under way */
    void *places;                          /* the same */
    unsigned count;
    bool under_way;
    int result; /* which word woke, or -errno: -EAGAIN, a word was another already; -ECANCELED */
} pshm_os_sleep;

typedef struct pshm_os_sleeper pshm_os_sleeper;
struct pshm_os_sleeper {
    /* Begins to sleep, for submit to complete; the words are copied. -ENOMEM, -EAGAIN, ...: it has not begun. */
    int (*begin)(pshm_os_sleeper *sleeper, pshm_os_sleep *sleep, const pshm_os_futex *words, unsigned count);
    int (*submit)(pshm_os_sleeper *sleeper);
    /* Ends one that is under way; its result says whether it had been woken. */
    void (*end)(pshm_os_sleeper *sleeper, pshm_os_sleep *sleep);
    /* Those that are over, by `next`, which are not under way any more. */
    pshm_os_sleep *(*reap)(pshm_os_sleeper *sleeper);
    /* Signals once at `at` (CLOCK_MONOTONIC), instead of an earlier wish. */
    int (*alarm)(pshm_os_sleeper *sleeper, int64_t at);
    /* May the calling thread use it? If not, it can only close it. */
    bool (*is_mine)(const pshm_os_sleeper *sleeper);
    /* Ends all that are under way, and frees it. In a forked child it only gives back what is the child's. */
    void (*close)(pshm_os_sleeper *sleeper, bool in_child);
};

/* The eventfd that they signal: close-on-exec, never blocks. -EMFILE, -ENFILE, -ENOMEM. */
int pshm_os_event_open(int *out);
void pshm_os_event_close(int fd);
void pshm_os_event_signal(int fd);
/* Not readable any more until the next signal. */
void pshm_os_event_drain(int fd);

#endif
