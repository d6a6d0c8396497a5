/* SPDX-License-Identifier: MIT
 *
 * Beacons: robust process-shared pthread mutexes that a thread holds for as long as it lives. At its death, of whatever
 * cause and in whatever PID namespace, the kernel sets a bit in the word and wakes a sleeper: set_robust_list(2).
 *
 * A beacon is 64 bytes. All zero is one that nobody ever had.
 */
#ifndef PSHM_OS_BEACON_H
#define PSHM_OS_BEACON_H

#include <stdbool.h>
#include <stdint.h>

#include "os/robust.h"

typedef struct pshm_os_beacon {
    pthread_mutex_t mutex;
    char padding[64 - sizeof(pthread_mutex_t)];
} pshm_os_beacon;

_Static_assert(sizeof(pshm_os_beacon) == 64, "layout");

/* Describes the libc's mutexes: beacons are shared only among those that agree. Never 0. */
uint32_t pshm_os_beacon_abi(void);

/* Takes the beacon if nobody living has it: 0, -EBUSY. */
int pshm_os_beacon_take(pshm_os_beacon *beacon);

/* Does the calling thread have it? Not so any more where its memory was lost, and there are zeros instead. */
bool pshm_os_beacon_is_mine(const pshm_os_beacon *beacon);

/* Gives it back: its own thread alone. */
void pshm_os_beacon_give(pshm_os_beacon *beacon);

static inline uint32_t *pshm_os_beacon_word(const pshm_os_beacon *beacon)
{
    return (uint32_t *)(void *)(uintptr_t)&beacon->mutex.__data.__lock;
}

/* Does no living thread have it, as its word says? */
static inline bool pshm_os_beacon_is_dark(const pshm_os_beacon *beacon)
{
    uint32_t word = pshm_os_robust_word(&beacon->mutex);
    return !(word & PSHM_OS_WORD_TID) || (word & PSHM_OS_WORD_DIED);
}

/* Sets the bit without which the kernel wakes nobody; *value is the word to sleep on. false: it is dark. */
bool pshm_os_beacon_watch(pshm_os_beacon *beacon, uint32_t *value);

/* The id of the thread that has it, or had it when it died; 0: nobody has. */
static inline uint32_t pshm_os_beacon_holder(const pshm_os_beacon *beacon)
{
    return pshm_os_robust_word(&beacon->mutex) & PSHM_OS_WORD_TID;
}

/* Does what the kernel could not, for a thread that is dead by another proof: puts the beacon out, and wakes. Not if
 * somebody else has it by now. */
void pshm_os_beacon_put_out(pshm_os_beacon *beacon, uint32_t holder);

/* In a child of a clone(2) that went past libc: its copy of the thread's list of robust mutexes leads to beacons that are
 * the parent's, and each lock that it takes would write there. Empties the list. */
void pshm_os_beacon_disown_all(void);

#endif
