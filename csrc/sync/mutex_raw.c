/* SPDX-License-Identifier: MIT
 *
 * The mutex on raw memory. What survives a death at any instruction, and why:
 *
 *   The pthread mutex is glibc's and robust: whoever locks next is told EOWNERDEAD, however often that is interrupted
 *   by another death. The mark is written with single stores, only by the owner:
 *     after locking     owner = pid, thread = tid
 *     on EOWNERDEAD     died = DIED | owner, *then* pthread_mutex_consistent: a death in between is told again
 *     consistent        died = 0
 *     before unlocking  owner = 0, thread = 0
 *   So a pid in the mark is that of the one who held the lock, or none is known, and a mark is never lost. (Where a
 *   foreign program takes over from one of ours that died, the old pid stays until the next of ours has had the lock.)
 */
#include <polyshm/mutex.h>

#include <errno.h>
#include <string.h>

#include "core/segment.h"
#include "os/clock.h"
#include "os/process.h"
#include "os/robust.h"

_Static_assert(sizeof(pthread_mutex_t) % 8 == 0, "the mark is aligned behind it");
_Static_assert(_Alignof(pshm_mutex_bytes) <= PSHM_MUTEX_ALIGN, "PSHM_MUTEX_ALIGN is enough");

static const pshm_os_self nobody;

static pshm_mutex_bytes *bytes_of(const pshm_segment_mutex *mutex)
{
    return (pshm_mutex_bytes *)(void *)(mutex->segment->base + mutex->offset);
}

/* Bytes that are the mutex's: behind a foreign one there is nothing of ours. */
static uint64_t size_of(const pshm_segment_mutex *mutex)
{
    return mutex->marked ? PSHM_MUTEX_SIZE : sizeof(pthread_mutex_t);
}

/* Does its owner, who asks, have it more than once? */
static bool is_nested(const pshm_segment_mutex *mutex, const pshm_mutex_bytes *bytes)
{
    return mutex->recursive && pshm_os_robust_depth(&bytes->mutex) > 1;
}

/* May the handle use the mutex now? Checked at each use: the bytes are anybody's to overwrite. */
static int usable(const pshm_segment_mutex *mutex)
{
    uint64_t size = size_of(mutex);
    int rc = pshm_segment_check(mutex->segment, mutex->offset, size, PSHM_READ | PSHM_WRITE);
    if (rc)
        return rc;
    int kind = pshm_os_robust_kind(&bytes_of(mutex)->mutex);
    rc = pshm_segment_verify(mutex->segment);
    return rc ? rc : pshm_os_robust_is(kind) ? 0 : PSHM_ENOTMUTEX;
}

/* Remembers what `usable` found, for the short way of try and release. */
static void remember(pshm_segment_mutex *mutex)
{
    mutex->bytes = bytes_of(mutex);
    mutex->epoch = mutex->segment->epoch;
    mutex->kind = pshm_os_robust_kind(&mutex->bytes->mutex);
    mutex->recursive = (mutex->kind & PSHM_OS_KIND_TYPE) == PSHM_OS_KIND_RECURSIVE; /* it may have been made anew */
    mutex->plain = mutex->marked && !mutex->recursive && pshm_body_of(mutex->segment)->serial;
}

/* Is all as it was remembered? Then the bytes are mapped, ours to write, and a mutex; the handle is not closed. */
static inline bool as_remembered(const pshm_segment_mutex *mutex)
{
    return PSHM_LIKELY(mutex->plain && mutex->epoch == mutex->segment->epoch &&
                       pshm_os_robust_kind(&mutex->bytes->mutex) == mutex->kind);
}

static int initialise(pshm_mutex_bytes *bytes, bool recursive)
{
    if (pshm_os_robust_is(pshm_os_robust_kind(&bytes->mutex)) && pshm_os_robust_is_mine(&bytes->mutex))
        return PSHM_EHELD; /* this thread's list of held locks goes through these bytes */
    __atomic_store_n(&bytes->mark.magic, 0, __ATOMIC_RELEASE);
    int rc = pshm_os_robust_init(&bytes->mutex, recursive);
    bytes->mark.died = 0;
    bytes->mark.owner = 0;
    bytes->mark.thread = 0;
    __atomic_store_n(&bytes->mark.magic, PSHM_MUTEX_MAGIC, __ATOMIC_RELEASE);
    return rc;
}

int pshm_segment_mutex_init(pshm_segment_mutex *mutex, pshm_segment *segment, uint64_t offset, bool create,
                            pshm_recursive recursive)
{
    *mutex = (pshm_segment_mutex){.segment = segment, .offset = offset, .marked = create};
    int rc = pshm_segment_check(segment, offset, create ? PSHM_MUTEX_SIZE : sizeof(pthread_mutex_t),
                                PSHM_READ | PSHM_WRITE);
    if (!rc && ((uintptr_t)segment->base + offset) % PSHM_MUTEX_ALIGN)
        rc = PSHM_EALIGN;
    if (!rc && create)
        rc = initialise(bytes_of(mutex), recursive == PSHM_RECURSIVE_YES);
    if (!rc)
        rc = usable(mutex);
    if (rc)
        return rc;
    const pshm_mutex_bytes *bytes = bytes_of(mutex);
    mutex->recursive = (pshm_os_robust_kind(&bytes->mutex) & PSHM_OS_KIND_TYPE) == PSHM_OS_KIND_RECURSIVE;
    if (recursive != PSHM_RECURSIVE_ANY && mutex->recursive != (recursive == PSHM_RECURSIVE_YES))
        return PSHM_ERECURSIVE;
    mutex->marked = pshm_segment_check(segment, offset, PSHM_MUTEX_SIZE, PSHM_READ | PSHM_WRITE) == 0 &&
                    bytes->mark.magic == PSHM_MUTEX_MAGIC;
    if (!segment->lost)
        remember(mutex);
    if (pshm_body_of(segment)->serial)
        pshm_body_add_hold(pshm_body_of(segment), &mutex->hold);
    pshm_segment_retain(segment);
    return 0;
}

void pshm_segment_mutex_fini(pshm_segment_mutex *mutex)
{
    if (!mutex->segment)
        return;
    if (pshm_body_of(mutex->segment)->serial)
        pshm_body_remove_hold(pshm_body_of(mutex->segment), &mutex->hold);
    pshm_segment_release(mutex->segment);
    mutex->segment = NULL;
}

/* Owner and thread of the mark, in one store. */
static void set_owner(pshm_mutex_mark *mark, pshm_os_self owner)
{
    uint64_t value;
    memcpy(&value, &owner, sizeof value);
    __atomic_store_n((uint64_t *)(void *)&mark->owner, value, __ATOMIC_RELEASE);
}

/* The mapping has to stay for as long as the lock is held: a `serial` segment asks the handle itself, others count. */
static int begin_use(pshm_segment_mutex *mutex)
{
    return pshm_body_of(mutex->segment)->serial ? 0 : pshm_segment_enter(mutex->segment, PSHM_USE_RAW);
}

static void end_use(pshm_segment_mutex *mutex)
{
    if (!pshm_body_of(mutex->segment)->serial)
        pshm_segment_leave(mutex->segment, PSHM_USE_RAW);
}

/* The owner that the mark names died, if it was this handle's: the kernel has left these bytes, though the thread may not
 * have come to its end yet. */
static void forget_dead(pshm_segment_mutex *mutex, const pshm_mutex_mark *mark)
{
    pshm_hold *hold = &mutex->hold;
    if (!hold->count || !mark->owner || mark->owner != hold->pid || mark->thread != hold->thread)
        return;
    uint32_t left = hold->pid == pshm_os_pid() ? hold->count : 0;
    __atomic_store_n(&hold->count, 0, __ATOMIC_RELAXED);
    for (; left; left--)
        end_use(mutex);
}

/* The count that the owner finds was left behind: by a thread that died, in a parent before a fork, or by one that had
 * the lock when somebody initialised it anew. That last one still has these bytes in its list of held locks. */
static void strand(pshm_segment_mutex *mutex)
{
    pshm_hold *hold = &mutex->hold;
    if (pshm_os_may_live((pshm_os_self){.pid = hold->pid, .tid = hold->thread}))
        __atomic_store_n(&hold->stranded, hold->pid, __ATOMIC_RELAXED);
    else if (hold->pid == pshm_os_pid())
        for (uint32_t left = hold->count; left; left--)
            end_use(mutex);
}

/* The lock is ours, once more. */
static void count_hold(pshm_segment_mutex *mutex, const pshm_mutex_bytes *bytes)
{
    pshm_hold *hold = &mutex->hold;
    bool again = is_nested(mutex, bytes);
    if (PSHM_UNLIKELY(hold->count && !again))
        strand(mutex);
    const pshm_os_self *self = pshm_os_self_now();
    hold->pid = self->pid;
    hold->thread = self->tid;
    __atomic_store_n(&hold->count, again ? hold->count + 1 : 1, __ATOMIC_RELAXED);
    if (PSHM_UNLIKELY(!again && hold->outlived)) {
        end_use(mutex);
        __atomic_store_n(&hold->outlived, NULL, __ATOMIC_RELAXED);
    }
    hold->outermost = !again || (hold->outermost && (hold->count > 1 || hold->outlived));
}

/* What is still to do after pthread gave the lock (0 or EOWNERDEAD): looks for a death, and either keeps the lock or
 * gives it back. */
static int settle(pshm_segment_mutex *mutex, pshm_mutex_bytes *bytes, int got, bool recover, pshm_death *death)
{
    pshm_mutex_mark *mark = &bytes->mark;
    *death = (pshm_death){.died = false};
    if (PSHM_UNLIKELY(mutex->segment->lost)) {
        /* Never unmapped: this thread's list of held locks may go through the page of zeros. */
        __atomic_store_n(&mutex->hold.stranded, pshm_os_pid(), __ATOMIC_RELAXED);
        return PSHM_ELOST;
    }
    if (PSHM_UNLIKELY(got == EOWNERDEAD)) {
        death->died = true;
        if (mutex->marked)
            forget_dead(mutex, mark);
        if (mutex->marked && !mark->died)
            __atomic_store_n(&mark->died, PSHM_MUTEX_DIED | mark->owner, __ATOMIC_RELEASE);
        pthread_mutex_consistent(&bytes->mutex);
    }
    bool nested = is_nested(mutex, bytes); /* the owner knows already */
    if (mutex->marked && !nested) {
        uint64_t died = __atomic_load_n(&mark->died, __ATOMIC_RELAXED);
        if (PSHM_UNLIKELY(died)) {
            death->died = true;
            death->pid = (uint32_t)died;
        }
    }
    if (PSHM_UNLIKELY(death->died) && !recover) {
        if (mutex->marked)
            set_owner(mark, nobody);
        pthread_mutex_unlock(&bytes->mutex);
        end_use(mutex);
        return -EOWNERDEAD;
    }
    if (mutex->marked)
        set_owner(mark, *pshm_os_self_now());
    count_hold(mutex, bytes);
    return 0;
}

/* One try. Enters, and stays inside if it got the lock. */
static int try_once(pshm_segment_mutex *mutex, bool recover, pshm_death *death)
{
    int rc = usable(mutex);
    if (!rc)
        rc = begin_use(mutex);
    if (rc)
        return rc;
    remember(mutex);
    pshm_mutex_bytes *bytes = mutex->bytes;
    int got = pthread_mutex_trylock(&bytes->mutex);
    if (PSHM_LIKELY(got == 0 || got == EOWNERDEAD))
        return settle(mutex, bytes, got, recover, death);
    if (got == ENOTRECOVERABLE)
        pshm_os_robust_put_back(&bytes->mutex);
    bool mine = (got == EDEADLK || got == EBUSY) && pshm_os_robust_is_mine(&bytes->mutex);
    end_use(mutex);
    return mine ? PSHM_ERELOCK : -got;
}

static int acquire(pshm_segment_mutex *mutex, int64_t deadline, bool recover, pshm_death *death)
{
    int rc = try_once(mutex, recover, death);
    if (rc != -EBUSY || deadline <= pshm_os_now())
        return rc == -EBUSY ? -ETIMEDOUT : rc;
    for (int i = 0; i < PSHM_OS_YIELDS; i++) {
        pshm_os_yield();
        rc = try_once(mutex, recover, death);
        if (rc != -EBUSY)
            return rc;
    }
    rc = begin_use(mutex);
    if (rc)
        return rc;
    int64_t slice = pshm_os_now() + PSHM_SLICE_NS, until = deadline < slice ? deadline : slice;
    pshm_mutex_bytes *bytes = bytes_of(mutex);
    int got = pshm_os_robust_lock_until(&bytes->mutex, until);
    if (got == 0 || got == EOWNERDEAD)
        return settle(mutex, bytes, got, recover, death);
    rc = pshm_segment_verify(mutex->segment);
    end_use(mutex);
    if (rc)
        return rc;
    return got == ETIMEDOUT && until < deadline ? -EINTR : -got;
}

int pshm_segment_mutex_try(pshm_segment_mutex *mutex, pshm_death *death)
{
    if (!as_remembered(mutex) || mutex->hold.count)
        return try_once(mutex, false, death);
    /* The same as try_once and settle, for the common case: a clean mutex that nobody holds. */
    pshm_mutex_bytes *bytes = mutex->bytes;
    int got = pthread_mutex_trylock(&bytes->mutex);
    if (PSHM_UNLIKELY(got || mutex->segment->lost || bytes->mark.died)) {
        if (got == ENOTRECOVERABLE)
            pshm_os_robust_put_back(&bytes->mutex);
        return got == 0 || got == EOWNERDEAD ? settle(mutex, bytes, got, false, death) : try_once(mutex, false, death);
    }
    const pshm_os_self *self = pshm_os_self_now();
    set_owner(&bytes->mark, *self);
    mutex->hold.pid = self->pid;
    mutex->hold.thread = self->tid;
    __atomic_store_n(&mutex->hold.count, 1, __ATOMIC_RELAXED);
    death->died = false;
    return 0;
}

int pshm_segment_mutex_acquire(pshm_segment_mutex *mutex, int64_t deadline, pshm_death *death)
{
    return acquire(mutex, deadline, false, death);
}

int pshm_segment_mutex_recover(pshm_segment_mutex *mutex, int64_t deadline, pshm_death *death)
{
    return acquire(mutex, deadline, true, death);
}

/* Is it held by this thread, through this handle? Works on a closed segment: who holds is inside. */
static int owned(const pshm_segment_mutex *mutex, pshm_mutex_bytes **bytes)
{
    const pshm_segment *segment = mutex->segment;
    uint64_t size = size_of(mutex);
    if (!mutex->hold.count || pshm_segment_rights(segment, mutex->offset, size) != (PSHM_READ | PSHM_WRITE))
        return PSHM_ENOTOWNER;
    *bytes = bytes_of(mutex);
    bool mine = pshm_os_robust_is_mine(&(*bytes)->mutex);
    int rc = pshm_segment_verify(segment);
    return mine ? 0 : rc ? rc : PSHM_ENOTOWNER;
}

int pshm_segment_mutex_consistent(pshm_segment_mutex *mutex)
{
    pshm_mutex_bytes *bytes = NULL;
    int rc = owned(mutex, &bytes);
    if (!rc && mutex->marked)
        __atomic_store_n(&bytes->mark.died, 0, __ATOMIC_RELEASE);
    return rc;
}

/* Gives the lock back. All that says that it is held goes first, while it still is: the next owner writes the same
 * places. */
static int unlock(pshm_segment_mutex *mutex, pshm_mutex_bytes *bytes, uint32_t left)
{
    uint32_t before = mutex->hold.count;
    __atomic_store_n(&mutex->hold.count, left, __ATOMIC_RELAXED);
    int rc = pthread_mutex_unlock(&bytes->mutex);
    if (PSHM_UNLIKELY(rc))
        __atomic_store_n(&mutex->hold.count, before, __ATOMIC_RELAXED);
    if (PSHM_UNLIKELY(mutex->segment->lost)) {
        __atomic_store_n(&mutex->hold.stranded, pshm_os_pid(), __ATOMIC_RELAXED); /* as in settle */
        return PSHM_ELOST;
    }
    return rc == EPERM ? PSHM_ENOTOWNER : -rc; /* EPERM: initialised anew under its owner */
}

/* What the short way of release leaves: recursive, foreign, closed, not the owner. */
static int release_slowly(pshm_segment_mutex *mutex)
{
    pshm_mutex_bytes *bytes = NULL;
    pshm_body *body = pshm_body_of(mutex->segment);
    int rc = owned(mutex, &bytes);
    if (rc)
        return rc;
    bool nested = is_nested(mutex, bytes);
    if (mutex->marked && !nested)
        set_owner(&bytes->mark, nobody);
    bool outlived = nested && mutex->hold.count == 1 && mutex->hold.outermost;
    if (outlived) /* the thread's list of held locks leads through this mapping still */
        __atomic_store_n(&mutex->hold.outlived, (const void *)&bytes->mutex, __ATOMIC_RELAXED);
    rc = unlock(mutex, bytes, mutex->hold.count - 1);
    if (rc || outlived)
        return rc;
    if (body->serial && mutex->segment->closed) {
        /* Nobody enters a closed segment, so the count is made for this one leave: it ends the mapping if it is time. */
        pshm_segment_enter_again(mutex->segment, PSHM_USE_RAW);
        pshm_segment_leave(mutex->segment, PSHM_USE_RAW);
    }
    end_use(mutex);
    return 0;
}

int pshm_segment_mutex_release(pshm_segment_mutex *mutex)
{
    if (!as_remembered(mutex) || !mutex->hold.count || mutex->hold.thread != pshm_os_tid())
        return release_slowly(mutex);
    pshm_mutex_bytes *bytes = mutex->bytes;
    set_owner(&bytes->mark, nobody);
    return unlock(mutex, bytes, 0);
}

int pshm_segment_mutex_locked(pshm_segment_mutex *mutex)
{
    int rc = usable(mutex);
    if (rc)
        return rc;
    uint32_t word = pshm_os_robust_word(&bytes_of(mutex)->mutex);
    return (word & PSHM_OS_WORD_TID) && !(word & PSHM_OS_WORD_DIED);
}

int pshm_segment_mutex_owner(pshm_segment_mutex *mutex, uint32_t *pid)
{
    int rc = pshm_segment_mutex_locked(mutex);
    if (rc < 0)
        return rc;
    const pshm_mutex_bytes *bytes = bytes_of(mutex);
    /* A foreign owner leaves the mark of the one before. */
    bool ours = rc && mutex->marked && bytes->mark.thread == (pshm_os_robust_word(&bytes->mutex) & PSHM_OS_WORD_TID);
    *pid = ours ? __atomic_load_n(&bytes->mark.owner, __ATOMIC_RELAXED) : 0;
    return 0;
}
