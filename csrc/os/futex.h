/* SPDX-License-Identifier: MIT
 *
 * futex(2) on shared 32-bit words. Functions return 0 (wake: how many) or -errno.
 */
#ifndef PSHM_OS_FUTEX_H
#define PSHM_OS_FUTEX_H

#include <stdbool.h>
#include <stdint.h>

/* Sleeps while *word is `value`, until woken or `until` (CLOCK_MONOTONIC).
 * -EAGAIN: it was another value already; -ETIMEDOUT; -EINTR: a signal; -EFAULT: the page is gone. */
int pshm_os_futex_wait(const uint32_t *word, uint32_t value, int64_t until);

/* The same for two words at once: as soon as either is another value, or is woken. *second says whether it was the second
 * one that woke. Kernels before 5.16, and filters of system calls that know none, sleep on the first word alone:
 * the caller's slice is then what the second one waits for. */
int pshm_os_futex_wait_two(const uint32_t *first, uint32_t first_value, const uint32_t *second_word,
                           uint32_t second_value, int64_t until, bool *second);

/* A word and the value at which to sleep. */
typedef struct pshm_os_futex {
    const uint32_t *word;
    uint32_t value;
} pshm_os_futex;

/* So many words FUTEX_WAITV takes. */
#define PSHM_OS_FUTEX_MANY 128u

/* The same for up to PSHM_OS_FUTEX_MANY words; *which: the index of the one that woke. Where the kernel knows no such call
 * it sleeps on the first word, and looks at the others every few milliseconds: then 0 without a wake means "look again". */
int pshm_os_futex_wait_many(const pshm_os_futex *all, unsigned count, int64_t until, unsigned *which);

int pshm_os_futex_wake(const uint32_t *word, int count);

#endif
