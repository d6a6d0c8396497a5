/* SPDX-License-Identifier: MIT */
#include "os/futex.h"

#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "os/clock.h"

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

/* Of the call for several words, by the kernel or a filter: asking again would only cost. */
static uint32_t refused;

/* The index of the one that woke, or -errno; -ENOSYS: refused, now or before. */
static int wait_vector(const pshm_os_futex *all, unsigned count, int64_t until)
{
    if (__atomic_load_n(&refused, __ATOMIC_RELAXED))
        return -ENOSYS;
    struct timespec when = {.tv_sec = until / INT64_C(1000000000), .tv_nsec = until % INT64_C(1000000000)};
    wait_for vector[PSHM_OS_FUTEX_MANY];
    for (unsigned i = 0; i < count; i++)
        vector[i] = (wait_for){.value = all[i].value, .word = (uintptr_t)all[i].word, .flags = 2};
    long rc = syscall(SYS_futex_waitv, vector, count, 0, &when, CLOCK_MONOTONIC);
    if (rc >= 0)
        return (int)rc;
    if (errno != ENOSYS && errno != EPERM)
        return -errno;
    __atomic_store_n(&refused, 1, __ATOMIC_RELAXED);
    return -ENOSYS;
}

int pshm_os_futex_wait_two(const uint32_t *first, uint32_t first_value, const uint32_t *second_word,
                           uint32_t second_value, int64_t until, bool *second)
{
    const pshm_os_futex both[2] = {{first, first_value}, {second_word, second_value}};
    int rc = wait_vector(both, 2, until);
    *second = rc == 1;
    if (rc == -ENOSYS)
        return pshm_os_futex_wait(first, first_value, until);
    return rc < 0 ? rc : 0;
}

/* How often the other words are looked at where the kernel cannot. */
#define LOOK INT64_C(2000000)

int pshm_os_futex_wait_many(const pshm_os_futex *all, unsigned count, int64_t until, unsigned *which)
{
    int rc = count > 1 ? wait_vector(all, count, until) : -ENOSYS;
    *which = rc > 0 ? (unsigned)rc : 0;
    if (rc != -ENOSYS)
        return rc < 0 ? rc : 0;
    if (count == 1)
        return pshm_os_futex_wait(all->word, all->value, until);
    int64_t soon = pshm_os_now() + LOOK;
    rc = pshm_os_futex_wait(all->word, all->value, soon < until ? soon : until);
    return rc == -ETIMEDOUT && soon < until ? 0 : rc;
}

int pshm_os_futex_wake(const uint32_t *word, int count)
{
    long rc = syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
    return rc < 0 ? -errno : (int)rc;
}
