/* SPDX-License-Identifier: MIT
 *
 * What a forked child must do before anything else: hooks that run in it, on the forking thread, before fork returns.
 */
#ifndef PSHM_OS_FORK_H
#define PSHM_OS_FORK_H

typedef struct pshm_os_fork_hook {
    struct pshm_os_fork_hook *next, *previous;
    void (*in_child)(struct pshm_os_fork_hook *hook); /* may neither add nor remove hooks */
} pshm_os_fork_hook;

/* The hook is the caller's memory until it is removed. 0 or -errno. Not for signal handlers. */
int pshm_os_fork_hook_add(pshm_os_fork_hook *hook);
void pshm_os_fork_hook_remove(pshm_os_fork_hook *hook);

/* The process's own lock, which a fork takes too: what it guards is whole in the child. Held by the hooks already. */
void pshm_os_fork_lock(void);
void pshm_os_fork_unlock(void);

#endif
