/* SPDX-License-Identifier: MIT
 *
 * Time and sleep. Nothing here fails.
 */
#ifndef PSHM_OS_CLOCK_H
#define PSHM_OS_CLOCK_H

#include <stdint.h>

/* Nanoseconds of CLOCK_MONOTONIC. */
int64_t pshm_os_now(void);

/* Sleeps until `until` (CLOCK_MONOTONIC) or a signal. */
void pshm_os_sleep_until(int64_t until);

/* Lets another thread run, if one is ready. */
void pshm_os_yield(void);

#endif
