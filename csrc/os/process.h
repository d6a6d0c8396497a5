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

/* The same for something else that was filled under a mark of the time: is it still the process that it was? */
static inline bool pshm_os_is_process(uint32_t mark)
{
    const uint32_t *word = __atomic_load_n(&pshm_os_fork_word, __ATOMIC_RELAXED);
    return __builtin_expect(__atomic_load_n(word, __ATOMIC_RELAXED) == mark, 1);
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

/* What proves which thread it is, while it lives and after. */
typedef struct pshm_os_thread {
    uint32_t pid, tid;  /* as its own PID namespace sees them */
    uint64_t start;     /* clock ticks since boot: /proc/PID/task/TID/stat, field 22, proc(5); 0: not known */
    uint64_t pid_space; /* inode of its PID namespace, pid_namespaces(7); 0: not known */
} pshm_os_thread;

/* The calling thread. */
void pshm_os_thread_now(pshm_os_thread *out);

/* To be called in a forked child: its PID namespace may be another, even if its number is not. */
void pshm_os_thread_forget(void);

/* Is that thread alive, as /proc says? Only where it is of this PID namespace; false is "not known". */
bool pshm_os_thread_lives(const pshm_os_thread *thread);

/* Is that thread gone, as /proc says? Only where it is of this PID namespace; false is "not proven". */
bool pshm_os_thread_is_gone(const pshm_os_thread *thread);

/* Boot id of the running kernel, random(4): 16 bytes, all zero where it does not say. */
void pshm_os_boot_id(uint64_t id[2]);

/* Random bytes that are never all zero. */
void pshm_os_random(uint64_t *out, unsigned count);

/* membarrier(2). fence_all makes every thread see the stores that this one has made, before anything that thread does
 * later, so that others need no fence of their own. Quick where all whom it concerns are of processes that have
 * registered. false: the system does not let us. */
bool pshm_os_fence_register(void);
bool pshm_os_fence_all(bool registered);

static inline uint32_t pshm_os_pid(void)
{
    return pshm_os_self_now()->pid;
}

/* What pshm_os_is_process compares: never that of a cleared word. */
static inline uint32_t pshm_os_process_mark(void)
{
    return ~pshm_os_pid();
}

static inline uint32_t pshm_os_tid(void)
{
    return pshm_os_self_now()->tid;
}

#endif
