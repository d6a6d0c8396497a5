/* SPDX-License-Identifier: MIT */
#include <polyshm/record_lock.h>

#include <errno.h>
#include <stdlib.h>

#include "core/segment.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/fork.h"

/* Pauses between two tries: twice as long each time, from the first to the last. */
#define FIRST_PAUSE INT64_C(1000000)
#define LAST_PAUSE INT64_C(20000000)

struct pshm_record_lock {
    pshm_segment *segment;
    uint64_t start, size; /* in the file */
    bool shared;
    bool held;
    int fd; /* a description of its own; -1: not yet, or not any more since a fork */
    int64_t pause;
    pshm_os_fork_hook hook;
};

/* A lock belongs to the open file description, which the child has inherited: with the child's copy open, the lock
 * would outlive its holder. */
static void forget_in_child(pshm_os_fork_hook *hook)
{
    pshm_record_lock *lock = (pshm_record_lock *)((char *)hook - offsetof(pshm_record_lock, hook));
    if (lock->fd >= 0)
        pshm_os_close(lock->fd);
    lock->fd = -1;
    lock->held = false;
}

int pshm_record_lock_new(pshm_segment *segment, uint64_t offset, uint64_t size, bool shared, pshm_record_lock **out)
{
    const pshm_body *body = pshm_body_of(segment);
    if (segment->closed)
        return PSHM_ECLOSED;
    if (segment->fd < 0)
        return -EOPNOTSUPP;
    if (size == PSHM_UNSET)
        size = offset <= segment->size ? segment->size - offset : 0;
    int rc = pshm_segment_check(segment, offset, size, 0);
    if (rc)
        return rc;
    if (!size) /* which fcntl would take for "to the end of any file" */
        return PSHM_EZEROSIZE;
    if (!(body->descriptor_rights & (shared ? PSHM_READ : PSHM_WRITE)))
        return PSHM_EREADONLY;
    pshm_record_lock *lock = calloc(1, sizeof *lock);
    if (!lock)
        return -ENOMEM;
    lock->segment = segment;
    lock->start = body->offset + offset;
    lock->size = size;
    lock->shared = shared;
    lock->hook.in_child = forget_in_child;
    lock->fd = pshm_os_reopen(segment->fd, !shared);
    rc = lock->fd < 0 ? lock->fd : pshm_os_fork_hook_add(&lock->hook);
    if (rc) {
        if (lock->fd >= 0)
            pshm_os_close(lock->fd);
        free(lock);
        return rc;
    }
    pshm_segment_retain(segment);
    *out = lock;
    return 0;
}

void pshm_record_lock_free(pshm_record_lock *lock)
{
    pshm_os_fork_hook_remove(&lock->hook);
    if (lock->fd >= 0)
        pshm_os_close(lock->fd); /* the last descriptor of its description: the lock goes with it */
    pshm_segment_release(lock->segment);
    free(lock);
}

static int ready(pshm_record_lock *lock)
{
    if (lock->segment->closed)
        return PSHM_ECLOSED;
    if (lock->fd < 0)
        lock->fd = pshm_os_reopen(lock->segment->fd, !lock->shared);
    return lock->fd < 0 ? lock->fd : 0;
}

int pshm_record_lock_try(pshm_record_lock *lock)
{
    int rc = ready(lock);
    if (rc)
        return rc;
    /* The kernel does not keep two threads with one description apart: this word does. */
    bool nobody = false;
    if (!__atomic_compare_exchange_n(&lock->held, &nobody, true, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return PSHM_EHELD;
    rc = pshm_os_record_lock(lock->fd, lock->shared ? 'r' : 'w', lock->start, lock->size);
    if (rc)
        __atomic_store_n(&lock->held, false, __ATOMIC_RELEASE);
    return rc == -EAGAIN ? -EBUSY : rc;
}

int pshm_record_lock_acquire(pshm_record_lock *lock, int64_t deadline)
{
    int64_t slice = pshm_os_now() + PSHM_SLICE_NS;
    for (;;) {
        int rc = pshm_record_lock_try(lock);
        if (rc != -EBUSY) {
            lock->pause = 0;
            return rc;
        }
        int64_t now = pshm_os_now();
        if (now >= deadline || now >= slice)
            return now >= deadline ? -ETIMEDOUT : -EINTR;
        lock->pause = lock->pause ? 2 * lock->pause : FIRST_PAUSE;
        if (lock->pause > LAST_PAUSE)
            lock->pause = LAST_PAUSE;
        int64_t until = now + lock->pause;
        until = until < deadline ? until : deadline;
        pshm_os_sleep_until(until < slice ? until : slice);
    }
}

int pshm_record_lock_release(pshm_record_lock *lock)
{
    if (!__atomic_load_n(&lock->held, __ATOMIC_ACQUIRE))
        return PSHM_ENOTOWNER;
    int rc = pshm_os_record_lock(lock->fd, 'u', lock->start, lock->size);
    __atomic_store_n(&lock->held, false, __ATOMIC_RELEASE);
    return rc;
}

int pshm_record_lock_locked(pshm_record_lock *lock)
{
    if (lock->segment->closed)
        return PSHM_ECLOSED;
    if (lock->held)
        return 1;
    int rc = ready(lock);
    return rc ? rc : pshm_os_record_blocked(lock->fd, lock->shared ? 'r' : 'w', lock->start, lock->size);
}
