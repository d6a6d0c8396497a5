/* SPDX-License-Identifier: MIT
 *
 * Who is calling: ids of the process and the thread without a system call, right in forked children too.
 */
#ifndef PSHM_OS_PROCESS_H
#define PSHM_OS_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

/* What the calling thread knows of itself: 8 bytes of the static TLS that a dlopen'ed module may use, so that reading
 * them is one load and not a call. */
typedef struct pshm_os_self {
    uint32_t pid, tid;
} pshm_os_self;

_Static_assert(sizeof(pshm_os_self) == 8, "fits one store");

#pragma GCC visibility push(hidden)
extern __thread pshm_os_self pshm_os_self_cache __attribute__((tls_model("initial-exec")));

/* A word that the kernel clears in a forked child (MADV_WIPEONFORK, since 4.14), whoever calls fork or clone and
 * however. It is the complement of the pid that the caches were filled under: neither an empty cache nor a cleared word
 * ever matches the other. */
extern const uint32_t *pshm_os_fork_word;
#pragma GCC visibility pop

/* Asks the kernel. */
void pshm_os_self_refresh(void);

/* Has this thread asked since the last fork? */
static inline bool pshm_os_self_is_fresh(void)
{
    const uint32_t *word = __atomic_load_n(&pshm_os_fork_word, __ATOMIC_RELAXED);
    return __builtin_expect(__atomic_load_n(word, __ATOMIC_RELAXED) == ~pshm_os_self_cache.pid, 1);
}

static inline const pshm_os_self *pshm_os_self_now(void)
{
    if (!pshm_os_self_is_fresh())
        pshm_os_self_refresh();
    return &pshm_os_self_cache;
}

/* May the thread still live? No: the process is another one (a parent, before a fork), or the thread has ended. An id
 * that was given to a new thread since counts as alive. */
bool pshm_os_may_live(pshm_os_self thread);

static inline uint32_t pshm_os_pid(void)
{
    return pshm_os_self_now()->pid;
}

static inline uint32_t pshm_os_tid(void)
{
    return pshm_os_self_now()->tid;
}

#endif
