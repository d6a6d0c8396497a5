/* SPDX-License-Identifier: MIT
 *
 * Which arenas a process has mapped, and who of it takes part. All lists here are guarded by the process's own lock, which
 * a fork takes too; a member is otherwise its thread's alone.
 */
#include "core/attachment.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/attaching.h"
#include "core/participant.h"
#include "core/segment.h"
#include "os/beacon.h"
#include "os/file.h"
#include "os/fork.h"
#include "os/thread.h"

/* Process-wide, as mappings are: see "State of the process" in docs/design/survival.rst. */
static pshm_attachment *attachments;
static uint32_t process; /* whose lists these are */

__thread pshm_member *pshm_member_cache;
/* All that the thread is a member of. */
static __thread pshm_member *mine __attribute__((tls_model("initial-exec")));

/* ---- under the process's lock ---- */

static void unlist(pshm_attachment *a)
{
    for (pshm_attachment **at = &attachments; *at; at = &(*at)->next) {
        if (*at == a) {
            *at = a->next;
            return;
        }
    }
}

static void unlist_member(pshm_attachment *a, const pshm_member *m)
{
    for (pshm_member **at = &a->members; *at; at = &(*at)->sibling) {
        if (*at == m) {
            *at = m->sibling;
            return;
        }
    }
}

/* Threads that ended with a lock in their hands stay members until the kernel has been through their robust lists. */
static void drop_orphans(pshm_attachment *a)
{
    for (pshm_member **at = &a->members; *at;) {
        pshm_member *m = *at;
        if (m->orphan && pshm_id_is_dead(a, m->me)) {
            *at = m->sibling;
            free(m);
        } else {
            at = &m->sibling;
        }
    }
}

/* Lets go of what nobody needs any more. */
static void settle(pshm_attachment *a)
{
    if (a->base && !a->handles && !__atomic_load_n(&a->pins, __ATOMIC_SEQ_CST)) {
        drop_orphans(a);
        if (!a->members) {
            a->base = NULL;
            if (!a->stranded) {
                pshm_segment_close(a->segment);
                pshm_segment_release(a->segment);
            }
            if (a->guard >= 0)
                pshm_os_close(a->guard);
            a->guard = -1;
            unlist(a);
        }
    }
    if (!a->base && !a->users)
        free(a);
}

/* A child of a fork has counted none. */
static void unpin(pshm_attachment *a)
{
    uint32_t pins = __atomic_load_n(&a->pins, __ATOMIC_RELAXED);
    while (pins && !__atomic_compare_exchange_n(&a->pins, &pins, pins - 1, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        continue;
}

/* A forked child: the members were threads of the parent, and what is locked by the description is the parent's. */
static void in_child(pshm_os_fork_hook *hook)
{
    (void)hook;
    mine = pshm_member_cache = NULL;
    pshm_os_thread_forget();
    process = pshm_os_pid();
    for (pshm_attachment *a = attachments; a; a = a->next) {
        while (a->members) {
            pshm_member *m = a->members;
            a->members = m->sibling;
            free(m);
        }
        a->pins = 0;
        if (a->guard < 0)
            continue;
        int anew = pshm_os_reopen(a->segment->fd, !a->readonly);
        pshm_os_close(a->guard);
        if (anew < 0) /* perhaps for want of a descriptor, and there is one now */
            anew = pshm_os_reopen(a->segment->fd, !a->readonly);
        if (anew >= 0)
            pshm_os_flock(anew, 's');
        a->guard = anew >= 0 ? anew : -1;
    }
}

/* ---- members ---- */

static void leave(pshm_member *m)
{
    pshm_attachment *a = m->attachment;
    bool given = pshm_slot_give(a, m->index);
    pshm_os_fork_lock();
    a->stranded |= !given;
    unlist_member(a, m);
    settle(a);
    pshm_os_fork_unlock();
    free(m);
}

static void end_thread(void *unused)
{
    (void)unused;
    pshm_member_cache = NULL;
    while (mine) {
        pshm_member *m = mine;
        mine = m->next;
        if (m->pid != pshm_os_pid())
            continue; /* of a parent that forked without telling us */
        if (m->used)
            __atomic_store_n(&m->orphan, true, __ATOMIC_RELEASE); /* its death is the kernel's to tell */
        else
            leave(m);
    }
}

static int set_up(void)
{
    static pshm_os_fork_hook hook = {.in_child = in_child};
    process = pshm_os_pid();
    int rc = pshm_os_thread_end_hook(end_thread);
    return rc ? rc : pshm_os_fork_hook_add(&hook);
}

/* A child of a clone(2) that runs no hooks: makes up for it. */
static void see_fork(void)
{
    if (process == pshm_os_pid())
        return;
    pshm_os_fork_lock();
    if (process != pshm_os_pid()) {
        pshm_os_beacon_disown_all();
        in_child(NULL);
    }
    pshm_os_fork_unlock();
}

pshm_member *pshm_member_known(pshm_attachment *a)
{
    see_fork();
    for (pshm_member *m = mine; m; m = m->next) {
        if (m->attachment == a) {
            pshm_member_cache = m;
            return m;
        }
    }
    return NULL;
}

int pshm_member_of(pshm_attachment *a, pshm_member **out)
{
    *out = pshm_member_known(a);
    if (*out)
        return 0;
    if (a->readonly)
        return PSHM_EREADONLY;
    pshm_member *m = calloc(1, sizeof *m);
    if (!m)
        return -ENOMEM;
    uint32_t generation = 0;
    int rc = pshm_os_thread_ends();
    if (!rc)
        rc = pshm_slot_take(a, a->language, &m->index, &generation);
    if (rc) {
        free(m);
        return rc;
    }
    m->attachment = a;
    m->slot = pshm_slot_at(a, m->index);
    m->gone = a->lost;
    m->me = pshm_id_of(m->index, generation);
    m->biased = PSHM_OWNER_BIASED | PSHM_ID_GRANTED | m->me;
    m->pid = pshm_os_pid();
    m->mark = pshm_os_process_mark();
    m->next = mine;
    pshm_os_fork_lock();
    m->sibling = a->members;
    a->members = m;
    pshm_os_fork_unlock();
    mine = pshm_member_cache = *out = m;
    return 0;
}

/* Takes it out of the thread's list, and gives its slot back. */
static void part(pshm_member *m)
{
    for (pshm_member **at = &mine; *at; at = &(*at)->next) {
        if (*at == m) {
            *at = m->next;
            break;
        }
    }
    if (pshm_member_cache == m)
        pshm_member_cache = NULL;
    leave(m);
}

int pshm_member_leave(pshm_attachment *a)
{
    pshm_member *m = pshm_member_known(a);
    if (m && m->used)
        return PSHM_EHELD;
    if (m)
        part(m);
    return 0;
}

void pshm_members_tidy(void)
{
    see_fork();
    for (pshm_member *m = mine, *next; m; m = next) {
        next = m->next;
        if (!m->used && !__atomic_load_n(&m->attachment->handles, __ATOMIC_ACQUIRE))
            part(m);
    }
    pshm_os_fork_lock();
    for (pshm_attachment *a = attachments, *next; a; a = next) {
        next = a->next;
        settle(a);
    }
    pshm_os_fork_unlock();
}

/* ---- handles ---- */

int pshm_attachments_begin(void)
{
    int rc = pshm_os_once(set_up);
    if (!rc)
        pshm_members_tidy();
    return rc;
}

/* Under the process's lock. */
static pshm_attachment *find(const pshm_segment *segment, uint64_t device, uint64_t inode, bool readonly)
{
    pshm_attachment *found = NULL;
    bool sysv = segment->id >= 0; /* 0 is an id too */
    if (sysv || device || inode)
        for (pshm_attachment *a = attachments; a && !found; a = a->next)
            if (a->device == device && a->inode == inode && (a->segment->id >= 0) == sysv && a->readonly == readonly &&
                a->base && !a->ending)
                found = a;
    if (found) {
        found->handles++;
        found->users++;
    }
    return found;
}

pshm_attachment *pshm_attachment_find(const pshm_segment *segment, uint64_t device, uint64_t inode, bool readonly)
{
    pshm_os_fork_lock();
    pshm_attachment *found = find(segment, device, inode, readonly);
    pshm_os_fork_unlock();
    return found;
}

pshm_attachment *pshm_attachment_add(pshm_attachment *a)
{
    pshm_os_fork_lock();
    pshm_attachment *kept = find(a->segment, a->device, a->inode, a->readonly);
    if (!kept) {
        kept = a;
        a->handles = a->users = 1;
        a->next = attachments;
        attachments = a;
    }
    pshm_os_fork_unlock();
    return kept;
}

void pshm_attachment_close(pshm_attachment *a)
{
    pshm_os_fork_lock();
    bool last = __atomic_sub_fetch(&a->handles, 1, __ATOMIC_SEQ_CST) == 0;
    if (last) {
        __atomic_add_fetch(&a->pins, 1, __ATOMIC_SEQ_CST);
        a->ending = a->life == PSHM_LIFE_LAST_DETACH;
    }
    pshm_os_fork_unlock();
    if (!last)
        return;
    pshm_attachment_end_of_life(a);
    unpin(a);
    pshm_members_tidy();
}

void pshm_attachment_forget(pshm_attachment *a)
{
    pshm_os_fork_lock();
    a->users--;
    settle(a);
    pshm_os_fork_unlock();
}

/* A close sets `closed` before it takes the handle off, and settles after that. So where this finds it open, whoever
 * unmaps finds the pin. */
int pshm_arena_enter(pshm_arena *arena)
{
    pshm_attachment *a = arena->attachment;
    __atomic_add_fetch(&a->pins, 1, __ATOMIC_SEQ_CST);
    if (PSHM_LIKELY(!__atomic_load_n(&arena->closed, __ATOMIC_SEQ_CST)))
        return 0;
    pshm_arena_leave(arena);
    pshm_members_tidy(); /* it may have been closed by another thread */
    return PSHM_ECLOSED;
}

void pshm_arena_leave(pshm_arena *arena)
{
    pshm_attachment *a = arena->attachment;
    unpin(a);
    if (PSHM_LIKELY(__atomic_load_n(&a->handles, __ATOMIC_SEQ_CST)))
        return;
    pshm_os_fork_lock();
    settle(a);
    pshm_os_fork_unlock();
}
