/* SPDX-License-Identifier: MIT
 *
 * A file cut short under a mapping. Touching what is gone raises SIGBUS; for watched mappings a handler puts a page of
 * zeros under the access and sets a flag, so that the access ends and its caller can see what happened.
 *
 * Limits: a cut inside a page gives zeros without a signal; a thread that blocks SIGBUS is killed all the same; a
 * handler that somebody installs later replaces this one. POLYSHM_SIGBUS=off in the environment leaves it out.
 * The handler passes on what is not ours to the one before it.
 */
#ifndef PSHM_OS_FAULT_H
#define PSHM_OS_FAULT_H

#include <stdint.h>

typedef struct pshm_os_watch pshm_os_watch;

/* Watches `size` bytes at `start`, pages of `page` bytes; *lost becomes 1. NULL where there is no memory for it.
 * Installs the handler at the first call. Lock-free, so a fork at any time leaves it usable. */
pshm_os_watch *pshm_os_fault_watch(void *start, uint64_t size, uint64_t page, volatile uint32_t *lost);

/* The watched range is another one now. */
void pshm_os_fault_move(pshm_os_watch *watch, void *start, uint64_t size);

/* To be called before the mapping goes. NULL is fine. */
void pshm_os_fault_unwatch(pshm_os_watch *watch);

#endif
