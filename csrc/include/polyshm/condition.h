/* SPDX-License-Identifier: MIT
 *
 * Conditions: what waits, with a mutex of the same arena, until somebody who has that mutex says that something has
 * changed.
 *
 * Nobody owns a condition, so that a death leaves it whole. Whoever waits may wake up for no reason, and looks again at
 * what it waits for. It does wake up, within a slice, when somebody died who had the mutex, as that one may have changed
 * something and not said so.
 */
#ifndef POLYSHM_CONDITION_H
#define POLYSHM_CONDITION_H

#include <polyshm/mutex.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pshm_condition {
    pshm_object object;
    pshm_mutex mutex; /* a handle of its own on the condition's mutex, for acquire, release, recover, ... */
} pshm_condition;

/* One wait; all zero before it, but for the task. Public to read, the core's to write. */
typedef struct pshm_condition_ticket {
    uint64_t task; /* who waits of those that share the thread; 0: the thread itself */
    int64_t least; /* for a pshm_waitable with this condition: ready when somebody has notified; 0: not waiting */
    int64_t since;
    uint32_t suspect;
    uint32_t depth; /* how often more than once the mutex was held */
    int32_t result; /* of the sleep, while the mutex is taken back */
    bool over;
} pshm_condition_ticket;

/* Opens the condition `name` with its mutex, or with `create` makes it for `mutex` where there is none; *created says
 * which, and `created` may be NULL. So may `mutex` where it exists.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY (to create), PSHM_ENONAME, PSHM_ENAMESIZE, PSHM_ENAMETEXT, PSHM_EKIND (the name is
 *   another noun's), PSHM_EPARTICIPANTS, PSHM_EHOLDS, PSHM_ECORRUPT, PSHM_ELOST; -ENOSPC; -EINTR (a slice is over: call
 *   again); PSHM_ENOMUTEX (to create without a mutex, or one of another arena); PSHM_EPARAMETER (exists, and its mutex is
 *   another); PSHM_EDELETED (the mutex was deleted).
 * Owns: the handle is the caller's memory and keeps a reference to the arena until pshm_condition_fini.
 * Safe: threads, processes.  Blocks: while another creates or deletes. */
PSHM_API int pshm_condition_init(pshm_condition *condition, pshm_arena *arena, const char *name, size_t length,
                                 bool create, const pshm_mutex *mutex, bool *created);

/* Ends the handle, not the condition. */
PSHM_API void pshm_condition_fini(pshm_condition *condition);

/* Releases the mutex wholly, however often the thread has it, waits to be notified, and has the mutex as often as before
 * when it returns 0 (notified, perhaps) or -ETIMEDOUT. It has it too when the condition alone was deleted.
 * Errors: -ETIMEDOUT; -EINTR (the slice is over, or a signal came, and the mutex is not held: call again with the same
 *   ticket, or pshm_condition_end); -EOWNERDEAD (not held; *death says who died: recover it, make it good, and call
 *   pshm_condition_end, which gives it its depth); PSHM_ENOTOWNER; PSHM_EDELETED, PSHM_ECLOSED, PSHM_EREADONLY,
 *   PSHM_ELOST, PSHM_ECORRUPT; PSHM_EPARTICIPANTS, PSHM_EHOLDS, -ENOMEM.
 * Safe: threads, processes.  Blocks: until notified, or `deadline`; then until the mutex can be had. */
PSHM_API int pshm_condition_wait(pshm_condition *condition, pshm_condition_ticket *ticket, int64_t deadline,
                                 pshm_death *death);

/* The three parts of it. First: releases the mutex wholly; from here on no pshm_condition_notify is missed.
 * Errors: PSHM_ENOTOWNER (also where it is still held, as nothing was done: PSHM_EDELETED, PSHM_ECLOSED); PSHM_ELOST. */
PSHM_API int pshm_condition_begin(pshm_condition *condition, pshm_condition_ticket *ticket);

/* Second, not for tasks, which watch the condition with the ticket's `least`: waits, for a slice at the most, without the mutex.
 * Errors: -ETIMEDOUT; -EINTR (the slice is over, or a signal came: call again); PSHM_EDELETED, PSHM_ECLOSED, PSHM_ELOST.
 * Safe: threads, processes.  Blocks: until notified, until one dies who has the mutex, or `deadline`. */
PSHM_API int pshm_condition_sleep(pshm_condition *condition, pshm_condition_ticket *ticket, int64_t deadline);

/* Third, whatever the second said: takes the mutex back, if that was not done yet, as often as it was held.
 * Errors: as pshm_mutex_acquire, or with a deadline of INT64_MIN as pshm_mutex_try.
 * Safe: threads, processes.  Blocks: as pshm_mutex_acquire. */
PSHM_API int pshm_condition_end(pshm_condition *condition, pshm_condition_ticket *ticket, int64_t deadline,
                                pshm_death *death);

/* Wakes `count` of those who wait, or all; perhaps more than `count`. Only with the mutex held, by
 * the thread or a task of it.
 * Errors: PSHM_ENOTOWNER; PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST.
 * Safe: threads, processes. */
PSHM_API int pshm_condition_notify(pshm_condition *condition, uint32_t count);
PSHM_API int pshm_condition_notify_all(pshm_condition *condition);

/* What a pshm_waitable with this condition is given as `least`, to be ready once somebody has notified after this call, or
 * died with the mutex. To miss nothing, call it with the mutex held.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY, PSHM_EDELETED, PSHM_EPARTICIPANTS, PSHM_ELOST; -ENOMEM.
 * Safe: threads, processes. */
PSHM_API int pshm_condition_now(pshm_condition *condition, int64_t *least);

#ifdef __cplusplus
}
#endif
#endif
