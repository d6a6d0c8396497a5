/* SPDX-License-Identifier: MIT
 *
 * futex(2) on shared 32-bit words. Functions return 0 (wake: how many) or -errno.
 */
#ifndef PSHM_OS_FUTEX_H
#define PSHM_OS_FUTEX_H

#include <stdint.h>

/* Sleeps while *word is `value`, until woken or `until` (CLOCK_MONOTONIC).
 * -EAGAIN: it was another value already; -ETIMEDOUT; -EINTR: a signal; -EFAULT: the page is gone. */
int pshm_os_futex_wait(const uint32_t *word, uint32_t value, int64_t until);

int pshm_os_futex_wake(const uint32_t *word, int count);

#endif
