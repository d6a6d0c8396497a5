/* SPDX-License-Identifier: MIT */
#include "os/futex.h"

#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int pshm_os_futex_wait(const uint32_t *word, uint32_t value, int64_t until)
{
    struct timespec when = {.tv_sec = until / INT64_C(1000000000), .tv_nsec = until % INT64_C(1000000000)};
    /* The BITSET form takes an absolute time on the monotonic clock. */
    long rc = syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, &when, NULL, FUTEX_BITSET_MATCH_ANY);
    return rc < 0 ? -errno : 0;
}

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

/* struct futex_waitv of Linux 5.16, which older headers do not have. */
typedef struct wait_for {
    uint64_t value;
    uint64_t word;
    uint32_t flags; /* 2: 32 bits, shared */
    uint32_t reserved;
} wait_for;

int pshm_os_futex_wait_two(const uint32_t *first, uint32_t first_value, const uint32_t *second_word,
                           uint32_t second_value, int64_t until, bool *second)
{
    static uint32_t refused; /* by the kernel or a filter: asking again would only cost */
    *second = false;
    if (!__atomic_load_n(&refused, __ATOMIC_RELAXED)) {
        struct timespec when = {.tv_sec = until / INT64_C(1000000000), .tv_nsec = until % INT64_C(1000000000)};
        wait_for both[2] = {{.value = first_value, .word = (uintptr_t)first, .flags = 2},
                            {.value = second_value, .word = (uintptr_t)second_word, .flags = 2}};
        long rc = syscall(SYS_futex_waitv, both, 2, 0, &when, CLOCK_MONOTONIC);
        if (rc >= 0) {
            *second = rc == 1;
            return 0;
        }
        if (errno != ENOSYS && errno != EPERM)
            return -errno;
        __atomic_store_n(&refused, 1, __ATOMIC_RELAXED);
    }
    return pshm_os_futex_wait(first, first_value, until);
}

int pshm_os_futex_wake(const uint32_t *word, int count)
{
    long rc = syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
    return rc < 0 ? -errno : (int)rc;
}
