/* SPDX-License-Identifier: MIT
 *
 * How much memory there is.
 */
#ifndef PSHM_OS_MEMORY_H
#define PSHM_OS_MEMORY_H

#include <stdint.h>

/* Bytes that could be taken without swapping or hitting a cgroup's limit: the least of MemAvailable and what each
 * memory cgroup above this process has left. UINT64_MAX where nothing says. */
uint64_t pshm_os_memory_available(void);

/* Bytes of the default huge page, 0 where there are none. */
uint64_t pshm_os_hugepage_default(void);

#endif
