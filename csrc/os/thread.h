/* SPDX-License-Identifier: MIT
 *
 * The end of threads.
 */
#ifndef PSHM_OS_THREAD_H
#define PSHM_OS_THREAD_H

/* Runs `begin` once in the life of the process, whoever calls first; its result is everybody's. */
int pshm_os_once(int (*begin)(void));

/* From now on `end` runs whenever a thread ends that has called pshm_os_thread_ends. Once; 0 or -errno. */
int pshm_os_thread_end_hook(void (*end)(void *unused));

/* The calling thread wants the hook at its end. 0 or -errno. */
int pshm_os_thread_ends(void);

#endif
