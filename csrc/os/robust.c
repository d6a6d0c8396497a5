/* SPDX-License-Identifier: MIT */
#include "os/robust.h"

#include <time.h>

#include "os/futex.h"
#include "os/process.h"

bool pshm_os_robust_is_mine(const pthread_mutex_t *mutex)
{
    return (pshm_os_robust_word(mutex) & PSHM_OS_WORD_TID) == pshm_os_tid();
}

int pshm_os_robust_init(pthread_mutex_t *mutex, bool recursive)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_settype(&attributes, recursive ? PTHREAD_MUTEX_RECURSIVE : PTHREAD_MUTEX_ERRORCHECK);
    int rc = -pthread_mutex_init(mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return rc;
}

void pshm_os_robust_put_back(pthread_mutex_t *mutex)
{
    uint32_t *word = (uint32_t *)(void *)&mutex->__data.__lock;
    if (!pshm_os_robust_is_mine(mutex))
        return;
    __atomic_store_n(word, 0, __ATOMIC_RELEASE);
    pshm_os_futex_wake(word, 1);
}

int pshm_os_robust_lock_until(pthread_mutex_t *mutex, int64_t until)
{
    struct timespec when = {.tv_sec = until / INT64_C(1000000000), .tv_nsec = until % INT64_C(1000000000)};
    return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &when);
}
