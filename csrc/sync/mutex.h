/* SPDX-License-Identifier: MIT
 *
 * What a condition wants of its mutex beyond the verbs that everybody has.
 */
#ifndef PSHM_SYNC_MUTEX_H
#define PSHM_SYNC_MUTEX_H

#include <polyshm/mutex.h>

/* Has the calling thread, or a task of it, the mutex? */
bool pshm_mutex_is_mine(const pshm_mutex *mutex);

/* Releases it however often it is held; *depth: how often more than once. As pshm_mutex_release. */
int pshm_mutex_let_go(pshm_mutex *mutex, uint64_t task, uint32_t *depth);

/* Acquires it, if that was not done yet, as often as it was held. As pshm_mutex_acquire. */
int pshm_mutex_take_back(pshm_mutex *mutex, uint64_t task, uint32_t depth, int64_t deadline, pshm_death *death);

/* How many deaths in it were made good. */
uint32_t pshm_mutex_repairs(const pshm_mutex *mutex);

/* Can it not be had as usual: a death is to be told, or it was deleted? For whoever keeps the mapping. */
bool pshm_mutex_is_in_trouble(const pshm_mutex *mutex);

/* The id of whoever has it, as pshm_id_is_dead takes it; 0: nobody. For whoever keeps the mapping. */
uint32_t pshm_mutex_holder(const pshm_mutex *mutex);

#endif
