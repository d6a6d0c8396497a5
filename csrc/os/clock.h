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

/* How often a waiter lets others run before it sleeps: a wake costs far more than these. And for how long at the most:
 * where others keep the processor busy, a yield takes as long as they like, and so many could take all of a slice. */
#define PSHM_OS_YIELDS 64
#define PSHM_OS_YIELDS_NS INT64_C(1000000)

/* Lets another thread run, if one is ready. */
void pshm_os_yield(void);

#endif
