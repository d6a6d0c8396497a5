/* SPDX-License-Identifier: MIT */
#include "os/beacon.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "os/futex.h"

/* Normal, not error-checking: a thread of another PID namespace may have the number of this one, and an error-checking
 * mutex would take the two for one. */
static int make_kind(void)
{
    pthread_mutex_t mutex;
    pthread_mutexattr_t attributes;
    memset(&mutex, 0, sizeof mutex);
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return pshm_os_robust_kind(&mutex);
}

/* glibc's PTHREAD_MUTEX_ROBUST_NORMAL_NP with the bit for process-shared; asked once, since it is part of the format. */
static int kind_of_beacons(void)
{
    static int known;
    int kind = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (!kind) {
        kind = make_kind();
        __atomic_store_n(&known, kind, __ATOMIC_RELAXED);
    }
    return kind;
}

uint32_t pshm_os_beacon_abi(void)
{
    return (uint32_t)sizeof(pthread_mutex_t) | (uint32_t)offsetof(pthread_mutex_t, __data.__kind) << 8 |
           (uint32_t)kind_of_beacons() << 16;
}

/* The id that libc writes for this thread: not its own in a child of a bare clone(2). And where its robust list begins;
 * the kernel does not tell a child of any fork. */
static __thread uint32_t known_as;
static __thread struct robust_list_head *list;

int pshm_os_beacon_take(pshm_os_beacon *beacon)
{
    /* All the rest of a new mutex is zero: so initialising is one store, and can be done twice. */
    int *kind = &beacon->mutex.__data.__kind, wanted = kind_of_beacons();
    if (__atomic_load_n(kind, __ATOMIC_ACQUIRE) != wanted)
        __atomic_store_n(kind, wanted, __ATOMIC_RELEASE);
    if (!pshm_os_beacon_is_dark(beacon))
        return -EBUSY;
    int rc = pthread_mutex_trylock(&beacon->mutex);
    if (rc == EOWNERDEAD)
        rc = pthread_mutex_consistent(&beacon->mutex);
    if (rc)
        return -EBUSY;
    size_t size;
    known_as = pshm_os_beacon_holder(beacon);
    if (!list)
        (void)syscall(SYS_get_robust_list, 0, &list, &size);
    return 0;
}

bool pshm_os_beacon_is_mine(const pshm_os_beacon *beacon)
{
    return pshm_os_robust_is(pshm_os_robust_kind(&beacon->mutex)) && pshm_os_beacon_holder(beacon) == known_as;
}

void pshm_os_beacon_disown_all(void)
{
    struct robust_list_head *registered = NULL;
    size_t size;
    if (!list || syscall(SYS_get_robust_list, 0, &registered, &size) || registered)
        return; /* libc has done it */
    list->list.next = &list->list;
    list->list_op_pending = NULL;
    (void)syscall(SYS_set_robust_list, list, sizeof *list);
}

void pshm_os_beacon_give(pshm_os_beacon *beacon)
{
    pthread_mutex_unlock(&beacon->mutex);
}

bool pshm_os_beacon_watch(pshm_os_beacon *beacon, uint32_t *value)
{
    uint32_t *word = pshm_os_beacon_word(beacon), now = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    do {
        if (!(now & PSHM_OS_WORD_TID) || (now & PSHM_OS_WORD_DIED))
            return false;
        if (now & PSHM_OS_WORD_WAITERS)
            break;
    } while (
        !__atomic_compare_exchange_n(word, &now, now | PSHM_OS_WORD_WAITERS, true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
    *value = now | PSHM_OS_WORD_WAITERS;
    return true;
}

void pshm_os_beacon_put_out(pshm_os_beacon *beacon, uint32_t holder)
{
    uint32_t *word = pshm_os_beacon_word(beacon), now = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    while (holder && (now & PSHM_OS_WORD_TID) == holder && !(now & PSHM_OS_WORD_DIED))
        if (__atomic_compare_exchange_n(word, &now, (now & PSHM_OS_WORD_WAITERS) | PSHM_OS_WORD_DIED, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            break;
    pshm_os_futex_wake(word, INT_MAX);
}
