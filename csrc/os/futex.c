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

int pshm_os_futex_wake(const uint32_t *word, int count)
{
    long rc = syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
    return rc < 0 ? -errno : (int)rc;
}
