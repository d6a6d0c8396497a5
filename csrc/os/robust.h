/* SPDX-License-Identifier: MIT
 *
 * glibc's robust mutex, as far as its bytes are its ABI: static initialisers hold the kind, and the kernel reads the word
 * (futex(2), "Robust futexes").
 */
#ifndef PSHM_OS_ROBUST_H
#define PSHM_OS_ROBUST_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Bits of __kind (nptl/pthreadP.h). */
enum {
    PSHM_OS_KIND_TYPE = 3,
    PSHM_OS_KIND_RECURSIVE = 1,
    PSHM_OS_KIND_ROBUST = 16,
    PSHM_OS_KIND_SHARED = 128,
    PSHM_OS_KIND_NO_ELISION = 512, /* PTHREAD_MUTEX_NORMAL where it was asked for, and not the default */
};

/* Bits of the word. */
#define PSHM_OS_WORD_TID 0x3fffffffu
#define PSHM_OS_WORD_DIED 0x40000000u
#define PSHM_OS_WORD_WAITERS 0x80000000u

static inline uint32_t pshm_os_robust_word(const pthread_mutex_t *mutex)
{
    return __atomic_load_n((const uint32_t *)(const void *)&mutex->__data.__lock, __ATOMIC_ACQUIRE);
}

static inline int pshm_os_robust_kind(const pthread_mutex_t *mutex)
{
    return __atomic_load_n(&mutex->__data.__kind, __ATOMIC_RELAXED);
}

/* How often its owner, who asks, has it. */
static inline uint32_t pshm_os_robust_depth(const pthread_mutex_t *mutex)
{
    return mutex->__data.__count;
}

/* Is a kind that of a robust process-shared mutex, without priorities? */
static inline bool pshm_os_robust_is(int kind)
{
    return (kind & ~(PSHM_OS_KIND_TYPE | PSHM_OS_KIND_NO_ELISION)) == (PSHM_OS_KIND_ROBUST | PSHM_OS_KIND_SHARED) &&
           (kind & PSHM_OS_KIND_TYPE) != PSHM_OS_KIND_TYPE;
}

/* Is the calling thread the owner, as the word says? */
bool pshm_os_robust_is_mine(const pthread_mutex_t *mutex);

/* pthread_mutex_init: robust, process-shared, error-checking or recursive. 0 or -errno. */
int pshm_os_robust_init(pthread_mutex_t *mutex, bool recursive);

/* glibc's trylock that finds a mutex given up (ENOTRECOVERABLE) leaves the caller's id in the word, though it is not
 * held: everybody else would wait for it. This takes it out. */
void pshm_os_robust_put_back(pthread_mutex_t *mutex);

/* pthread_mutex_clocklock on the monotonic clock; 0 or an errno, positive as pthread's are. */
int pshm_os_robust_lock_until(pthread_mutex_t *mutex, int64_t until);

#endif
