/* SPDX-License-Identifier: MIT
 *
 * The life of a handle after it is opened: who is inside, closing, bounds and rights, and copies.
 */
#include "core/segment.h"

#include <stdlib.h>
#include <string.h>

#include "os/file.h"
#include "os/mapping.h"
#include "os/process.h"
#include "os/robust.h"
#include "os/sysv.h"

_Static_assert(PSHM_READ == (int)PSHM_OS_READ && PSHM_WRITE == (int)PSHM_OS_WRITE, "rights are the same bits");
_Static_assert(offsetof(pshm_body, head) == 0, "one pointer is both");

static uint64_t unit_of(pshm_use use)
{
    return use == PSHM_USE_CHECKED ? PSHM_BODY_CHECKED : use == PSHM_USE_LENT ? PSHM_BODY_LENT : PSHM_BODY_RAW;
}

/* Does a thread have the lock in its list of held locks, which glibc and the kernel follow? Not that of a thread that
 * has ended, and not what a forked child has inherited. */
static bool is_held(pshm_hold *hold)
{
    if (__atomic_load_n(&hold->stranded, __ATOMIC_RELAXED) == pshm_os_pid())
        return true;
    const void *mutex = __atomic_load_n(&hold->outlived, __ATOMIC_RELAXED);
    bool counts = __atomic_load_n(&hold->count, __ATOMIC_RELAXED) != 0;
    if ((counts || mutex) && pshm_os_may_live((pshm_os_self){.pid = hold->pid, .tid = hold->thread}) &&
        (counts || (pshm_os_robust_word(mutex) & PSHM_OS_WORD_TID) == hold->thread))
        return true;
    if (mutex)
        __atomic_store_n(&hold->outlived, NULL, __ATOMIC_RELAXED); /* from now on those bytes may go */
    return false;
}

static bool has_holds(const pshm_body *body)
{
    for (pshm_hold *hold = body->holds; hold; hold = hold->next)
        if (is_held(hold))
            return true;
    return false;
}

bool pshm_body_has_raw(const pshm_body *body)
{
    return (__atomic_load_n(&body->users, __ATOMIC_ACQUIRE) & PSHM_BODY_POINTER_MASK) != 0 || has_holds(body);
}

void pshm_body_add_hold(pshm_body *body, pshm_hold *hold)
{
    hold->previous = NULL;
    hold->next = body->holds;
    if (hold->next)
        hold->next->previous = hold;
    body->holds = hold;
}

static void end_mapping(pshm_body *body);

void pshm_body_remove_hold(pshm_body *body, pshm_hold *hold)
{
    const bool outlived = hold->outlived != NULL;
    if (hold->previous)
        hold->previous->next = hold->next;
    else
        body->holds = hold->next;
    if (hold->next)
        hold->next->previous = hold->previous;
    if (is_held(hold))
        body->users += PSHM_BODY_LENT;
    else if (outlived && body->users == PSHM_BODY_CLOSED && body->head.base)
        end_mapping(body); /* who gave the lock back through another handle did not come here */
}

static void drop_mapping(pshm_body *body, void *map, uint64_t map_size, pshm_os_watch *watch)
{
    pshm_os_fault_unwatch(watch);
    if (body->ghost)
        return;
    if (body->attached)
        pshm_os_sysv_detach(map);
    else
        pshm_os_unmap(map, map_size);
}

static void drop_retired(pshm_body *body)
{
    while (body->retired) {
        pshm_retired *old = body->retired;
        body->retired = old->next;
        drop_mapping(body, old->map, old->map_size, old->watch);
        free(old);
    }
}

static void free_old_runs(pshm_body *body)
{
    while (body->old_runs) {
        pshm_runs *old = body->old_runs;
        body->old_runs = old->older;
        free(old);
    }
}

void pshm_body_set_runs(pshm_body *body, pshm_runs *runs)
{
    pshm_runs *old = body->runs;
    __atomic_store_n(&body->runs, runs, __ATOMIC_RELEASE);
    if (old) {
        old->older = body->old_runs;
        body->old_runs = old;
    }
    if (body->serial && !pshm_body_has_raw(body))
        free_old_runs(body);
}

static uint32_t drop_reference(pshm_body *body);

/* The handle is closed and nobody is inside: ends the mapping, unless a lock in it is held. Then whoever releases that
 * one comes here again. */
static void end_mapping(pshm_body *body)
{
    if (has_holds(body))
        return;
    if (body->hooked)
        pshm_os_fork_hook_remove(&body->fork_hook);
    drop_mapping(body, body->map, body->map_size, body->watch);
    drop_retired(body);
    if (body->head.fd >= 0)
        pshm_os_close(body->head.fd);
    pshm_body_set_runs(body, NULL);
    free_old_runs(body);
    body->head.fd = -1;
    body->head.base = NULL;
    body->head.map_rights = 0;
    body->head.epoch++;
    drop_reference(body);
}

/* Returns how many are left. */
static uint32_t drop_reference(pshm_body *body)
{
    uint32_t left;
    if (body->serial)
        left = --body->references;
    else
        left = __atomic_sub_fetch(&body->references, 1, __ATOMIC_ACQ_REL);
    if (!left)
        free(body);
    return left;
}

int pshm_segment_enter(pshm_segment *segment, pshm_use use)
{
    pshm_body *body = pshm_body_of(segment);
    uint64_t unit = unit_of(use);
    if (use == PSHM_USE_LENT && body->dontfork)
        return PSHM_EDONTFORK;
    if (body->serial) {
        if (body->users & PSHM_BODY_CLOSED)
            return PSHM_ECLOSED;
        body->users += unit;
        return 0;
    }
    uint64_t users = __atomic_load_n(&body->users, __ATOMIC_RELAXED);
    do
        if (users & PSHM_BODY_CLOSED)
            return PSHM_ECLOSED;
    while (!__atomic_compare_exchange_n(&body->users, &users, users + unit, true, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    return 0;
}

void pshm_segment_enter_again(pshm_segment *segment, pshm_use use)
{
    pshm_body *body = pshm_body_of(segment);
    if (body->serial)
        body->users += unit_of(use);
    else
        __atomic_add_fetch(&body->users, unit_of(use), __ATOMIC_ACQ_REL);
}

void pshm_segment_leave(pshm_segment *segment, pshm_use use)
{
    pshm_body *body = pshm_body_of(segment);
    uint64_t left;
    if (body->serial)
        left = body->users -= unit_of(use);
    else
        left = __atomic_sub_fetch(&body->users, unit_of(use), __ATOMIC_ACQ_REL);
    /* Nobody enters a closed handle, so one leave alone can meet this. */
    if (PSHM_UNLIKELY(left == PSHM_BODY_CLOSED))
        end_mapping(body);
    else if (PSHM_UNLIKELY(body->retired && body->serial && !pshm_body_has_raw(body)))
        drop_retired(body);
}

void pshm_segment_close(pshm_segment *segment)
{
    pshm_body *body = pshm_body_of(segment);
    uint64_t before;
    if (body->serial) {
        before = body->users;
        body->users |= PSHM_BODY_CLOSED;
    } else {
        before = __atomic_fetch_or(&body->users, PSHM_BODY_CLOSED, __ATOMIC_ACQ_REL);
    }
    if (before & PSHM_BODY_CLOSED)
        return;
    segment->closed = true;
    segment->rights = 0;
    segment->epoch++;
    if (!before)
        end_mapping(body);
}

void pshm_segment_retain(pshm_segment *segment)
{
    pshm_body *body = pshm_body_of(segment);
    if (body->serial)
        body->references++;
    else
        __atomic_add_fetch(&body->references, 1, __ATOMIC_RELAXED);
}

void pshm_segment_release(pshm_segment *segment)
{
    pshm_body *body = pshm_body_of(segment);
    uint32_t left = __atomic_load_n(&body->references, __ATOMIC_ACQUIRE);
    /* Ours and the mapping's own: nobody else can close the handle any more. */
    do
        if (left == 2)
            pshm_segment_close(segment);
    while (left > 2 &&
           !__atomic_compare_exchange_n(&body->references, &left, left - 1, true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
    if (left <= 2)
        drop_reference(body);
}

static uint32_t rights_of_range(const pshm_body *body, uint64_t start, uint64_t end)
{
    uint32_t rights = PSHM_READ | PSHM_WRITE;
    uint64_t from = 0;
    const pshm_runs *runs = __atomic_load_n(&body->runs, __ATOMIC_ACQUIRE);
    if (!runs)
        return body->head.map_rights;
    for (uint32_t i = 0; i < runs->count; from = runs->run[i].end, i++)
        if (from < end && runs->run[i].end > start)
            rights &= runs->run[i].rights;
    return rights;
}

void pshm_body_set_rights(pshm_body *body, uint32_t rights)
{
    if (body->runs)
        rights = rights_of_range(body, body->delta, body->delta + body->head.size);
    body->head.map_rights = rights;
    body->head.rights = body->head.closed ? 0 : rights;
    body->head.epoch++;
}

uint32_t pshm_segment_rights(const pshm_segment *segment, uint64_t offset, uint64_t size)
{
    const pshm_body *body = pshm_body_of(segment);
    if (!segment->base || offset > segment->size || size > segment->size - offset)
        return 0;
    return rights_of_range(body, body->delta + offset, body->delta + offset + size);
}

int pshm_segment_refuse(const pshm_segment *segment, uint64_t offset, uint64_t size, uint32_t rights)
{
    if (segment->closed)
        return PSHM_ECLOSED;
    if (offset > segment->size || size > segment->size - offset)
        return PSHM_EBOUNDS;
    uint32_t have = pshm_segment_rights(segment, offset, size);
    if (!(have & PSHM_READ) && rights)
        return PSHM_ENOACCESS;
    return (have & rights) == rights ? 0 : PSHM_EREADONLY;
}

int pshm_segment_fill(pshm_segment *segment, int byte, uint64_t offset, uint64_t size)
{
    int rc = pshm_segment_check(segment, offset, size, PSHM_WRITE);
    if (rc)
        return rc;
    memset(segment->base + offset, byte, size);
    return pshm_segment_verify(segment);
}

int pshm_segment_copy(pshm_segment *segment, uint64_t target, uint64_t source, uint64_t size)
{
    int rc = pshm_segment_check(segment, source, size, PSHM_READ);
    if (!rc)
        rc = pshm_segment_check(segment, target, size, PSHM_WRITE);
    if (rc)
        return rc;
    memmove(segment->base + target, segment->base + source, size);
    return pshm_segment_verify(segment);
}

int pshm_segment_find(pshm_segment *segment, const void *data, uint64_t length, uint64_t start, uint64_t end,
                      int64_t *at)
{
    if (end < start)
        end = start;
    int rc = pshm_segment_check(segment, start, end - start, PSHM_READ);
    if (rc)
        return rc;
    const unsigned char *place = memmem(segment->base + start, end - start, data, length);
    *at = place ? place - segment->base : -1;
    return pshm_segment_verify(segment);
}
