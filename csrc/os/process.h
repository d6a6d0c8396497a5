/* SPDX-License-Identifier: MIT
 *
 * Who is calling: ids of the process and the thread without a system call, right in forked children too.
 */
#ifndef PSHM_OS_PROCESS_H
#define PSHM_OS_PROCESS_H

#include <stddef.h>
#include <stdint.h>

/* What the calling thread knows of itself: 8 bytes of the static TLS that a dlopen'ed module may use, so that reading
 * them is one load and not a call. */
typedef struct pshm_os_self {
    uint32_t pid, tid;
} pshm_os_self;

#pragma GCC visibility push(hidden)
extern __thread pshm_os_self pshm_os_self_cache __attribute__((tls_model("initial-exec")));

/* The kernel clears this page in a forked child (MADV_WIPEONFORK, since 4.14), whoever calls fork or clone and however.
 * What it says is the pid that the caches were filled under; 0 means ask anew. */
extern uint32_t *pshm_os_fork_page;
#pragma GCC visibility pop

/* Asks the kernel. */
void pshm_os_self_refresh(void);

static inline const pshm_os_self *pshm_os_self_now(void)
{
    const uint32_t *page = __atomic_load_n(&pshm_os_fork_page, __ATOMIC_ACQUIRE);
    uint32_t pid = pshm_os_self_cache.pid;
    if (__builtin_expect(!page || !pid || __atomic_load_n(page, __ATOMIC_ACQUIRE) != pid, 0))
        pshm_os_self_refresh();
    return &pshm_os_self_cache;
}

static inline uint32_t pshm_os_pid(void)
{
    return pshm_os_self_now()->pid;
}

static inline uint32_t pshm_os_tid(void)
{
    return pshm_os_self_now()->tid;
}

#endif
