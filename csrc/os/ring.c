/* SPDX-License-Identifier: MIT
 *
 * The ring is one that a single thread submits to and that defers what its completions have to do: so a wake interrupts
 * nothing that the thread is doing, an epoll_wait least of all. It signals the eventfd, and sets a flag that says that
 * there is something to fetch. The kernel refuses other threads.
 */
#include "os/ring.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "os/fork.h"
#include "os/process.h"
#include "os/ring_abi.h"

#define SUBMISSIONS 8u

/* Tags of what is no sleep. */
enum { TAG_CANCEL = 1, TAG_ALARM = 2 };

typedef struct ring {
    pshm_os_sleeper sleeper;
    pshm_os_fork_hook hook;
    int fd, event;
    uint32_t tid;
    unsigned char *rings;
    entry *entries;
    size_t rings_size, entries_size;
    uint32_t *sq_head, *sq_tail, *sq_flags, *cq_head, *cq_tail, *cq_flags;
    uint32_t sq_mask, cq_mask, sq_entries;
    struct io_uring_cqe *completions;
    unsigned queued;      /* written and not submitted */
    pshm_os_sleep *first; /* under way */
    pshm_os_sleep *over, **over_end;
    bool alarmed; /* an alarm is under way */
    bool rang;    /* one has rung */
    struct __kernel_timespec when;
    wait_for vectors[SUBMISSIONS][PSHM_OS_FUTEX_MANY]; /* the kernel copies them when they are submitted */
} ring;

static int enter(const ring *r, unsigned submit, unsigned least, unsigned flags)
{
    long rc = syscall(SYS_io_uring_enter, r->fd, submit, least, flags, NULL, 0);
    return rc < 0 ? -errno : (int)rc;
}

/* ---- submitting ---- */

static void complete(ring *r, uint64_t tag, int result);

/* The kernel takes no more: what it has not taken is over. */
static void take_back(ring *r)
{
    for (; r->queued; r->queued--) {
        uint32_t tail = *r->sq_tail - 1;
        __atomic_store_n(r->sq_tail, tail, __ATOMIC_RELEASE);
        r->alarmed &= r->entries[tail & r->sq_mask].tag != TAG_ALARM;
        complete(r, r->entries[tail & r->sq_mask].tag, -ECANCELED);
    }
    pshm_os_event_signal(r->event);
}

static int submit(pshm_os_sleeper *sleeper)
{
    ring *r = (ring *)sleeper;
    while (r->queued) {
        int rc = enter(r, r->queued, 0, 0);
        if (rc > 0)
            r->queued -= (unsigned)rc;
        if (rc > 0 || rc == -EINTR)
            continue;
        take_back(r);
        return rc ? rc : -EAGAIN;
    }
    return 0;
}

/* Room for one more; NULL: the kernel takes none. */
static entry *entry_of(ring *r)
{
    uint32_t tail = *r->sq_tail;
    if (tail - __atomic_load_n(r->sq_head, __ATOMIC_ACQUIRE) == r->sq_entries && submit(&r->sleeper))
        return NULL;
    entry *e = &r->entries[tail & r->sq_mask];
    memset(e, 0, sizeof *e);
    return e;
}

static void queue(ring *r)
{
    __atomic_store_n(r->sq_tail, *r->sq_tail + 1, __ATOMIC_RELEASE);
    r->queued++;
}

static int begin(pshm_os_sleeper *sleeper, pshm_os_sleep *sleep, const pshm_os_futex *words, unsigned count)
{
    ring *r = (ring *)sleeper;
    entry *e = entry_of(r);
    if (!e)
        return -EAGAIN;
    e->tag = (uintptr_t)sleep;
    if (count == 1) {
        e->opcode = OP_FUTEX_WAIT;
        e->fd = FUTEX_SHARED_32;
        e->address = (uintptr_t)words->word;
        e->second = words->value;
        e->third = UINT32_MAX; /* woken by everybody */
    } else {
        wait_for *vector = r->vectors[*r->sq_tail & r->sq_mask];
        for (unsigned i = 0; i < count; i++)
            vector[i] = (wait_for){words[i].value, (uintptr_t)words[i].word, FUTEX_SHARED_32, 0};
        e->opcode = OP_FUTEX_WAITV;
        e->address = (uintptr_t)vector;
        e->length = count;
    }
    queue(r);
    sleep->under_way = true;
    sleep->count = count;
    sleep->previous = NULL;
    sleep->next = r->first;
    if (r->first)
        r->first->previous = sleep;
    r->first = sleep;
    return 0;
}

static int set_alarm(pshm_os_sleeper *sleeper, int64_t at)
{
    ring *r = (ring *)sleeper;
    entry *e;
    if (r->alarmed) {
        e = entry_of(r);
        if (!e)
            return -EAGAIN;
        e->opcode = IORING_OP_TIMEOUT_REMOVE;
        e->address = TAG_ALARM;
        e->tag = TAG_CANCEL;
        queue(r);
    }
    r->alarmed = false;
    e = entry_of(r);
    if (!e)
        return -EAGAIN;
    r->when = (struct __kernel_timespec){at / INT64_C(1000000000), at % INT64_C(1000000000)};
    e->opcode = IORING_OP_TIMEOUT;
    e->address = (uintptr_t)&r->when;
    e->length = 1;
    e->operation_flags = IORING_TIMEOUT_ABS;
    e->tag = TAG_ALARM;
    queue(r);
    r->alarmed = true;
    return submit(sleeper); /* `when` is read then */
}

/* ---- completions ---- */

static void unlink_sleep(ring *r, pshm_os_sleep *sleep)
{
    if (sleep->previous)
        sleep->previous->next = sleep->next;
    else
        r->first = sleep->next;
    if (sleep->next)
        sleep->next->previous = sleep->previous;
    sleep->under_way = false;
}

static void complete(ring *r, uint64_t tag, int result)
{
    r->rang |= tag == TAG_ALARM && result != -ECANCELED;
    if (tag == TAG_ALARM)
        r->alarmed &= result == -ECANCELED; /* that was an earlier one, in whose place another stands */
    if (tag == TAG_ALARM || tag == TAG_CANCEL)
        return;
    pshm_os_sleep *sleep = (pshm_os_sleep *)(uintptr_t)tag;
    unlink_sleep(r, sleep);
    sleep->result = result;
    sleep->next = NULL;
    *r->over_end = sleep;
    r->over_end = &sleep->next;
}

static bool is_waiting(const ring *r)
{
    return __atomic_load_n(r->sq_flags, __ATOMIC_ACQUIRE) & (1u << 2 | IORING_SQ_CQ_OVERFLOW); /* IORING_SQ_TASKRUN */
}

/* What has come while they were off is waiting, or has signalled. */
static void set_signals(ring *r, bool on)
{
    __atomic_store_n(r->cq_flags, on ? 0 : IORING_CQ_EVENTFD_DISABLED, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (on && !IN_ORDER)
        (void)enter(r, 0, 0, IORING_ENTER_GETEVENTS);
}

/* Looks at what there is, and fetches what the kernel has put off. */
static void look(ring *r)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    do {
        if (is_waiting(r) && enter(r, 0, 0, IORING_ENTER_GETEVENTS) < 0)
            break;
        uint32_t head = *r->cq_head, tail = __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE);
        for (; head != tail; head++)
            complete(r, r->completions[head & r->cq_mask].user_data, r->completions[head & r->cq_mask].res);
        __atomic_store_n(r->cq_head, head, __ATOMIC_RELEASE);
    } while (is_waiting(r));
}

static pshm_os_sleep *reap(pshm_os_sleeper *sleeper)
{
    ring *r = (ring *)sleeper;
    if (is_waiting(r)) { /* which was signalled: a second time, when it is fetched, would only cost */
        set_signals(r, false);
        look(r);
        set_signals(r, true);
    }
    look(r);
    pshm_os_sleep *over = r->over;
    r->over = NULL;
    r->over_end = &r->over;
    return over;
}

/* Out of those that are over and not reaped. */
static void take_out(ring *r, const pshm_os_sleep *sleep)
{
    for (pshm_os_sleep **p = &r->over; *p; p = &(*p)->next) {
        if (*p != sleep)
            continue;
        *p = sleep->next;
        if (!*p)
            r->over_end = p;
        return;
    }
}

/* So often the kernel is asked; it never needs a second time. */
#define TRIES 1000

static void cancel(ring *r, uint64_t tag, unsigned flags)
{
    entry *e = entry_of(r);
    if (!e)
        return;
    e->opcode = IORING_OP_ASYNC_CANCEL;
    e->address = tag;
    e->operation_flags = flags;
    e->tag = TAG_CANCEL;
    queue(r);
    (void)submit(&r->sleeper);
    look(r);
}

static void end(pshm_os_sleeper *sleeper, pshm_os_sleep *sleep)
{
    ring *r = (ring *)sleeper;
    if (!sleep->under_way) {
        take_out(r, sleep);
        return;
    }
    r->rang = false;
    set_signals(r, false); /* its own end is no news */
    cancel(r, (uintptr_t)sleep, 0);
    for (int i = 0; sleep->under_way && i < TRIES; i++) {
        (void)enter(r, 0, 1, IORING_ENTER_GETEVENTS);
        look(r);
    }
    take_out(r, sleep);
    set_signals(r, true);
    if (r->over || r->rang || is_waiting(r)) /* what came meanwhile is */
        pshm_os_event_signal(r->event);
}

static bool is_mine(const pshm_os_sleeper *sleeper)
{
    return ((const ring *)sleeper)->tid == pshm_os_tid();
}

/* ---- open and close ---- */

/* Gives back what is of this process; the ring goes with the last of those that have it. */
static void give_back(ring *r)
{
    if (r->rings)
        munmap(r->rings, r->rings_size);
    if (r->entries)
        munmap(r->entries, r->entries_size);
    if (r->fd >= 0)
        close(r->fd);
    r->rings = NULL;
    r->entries = NULL;
    r->fd = -1;
}

/* A copy of the descriptor would keep it alive, and its sleeps under way, when the parent has closed it. */
static void in_child(pshm_os_fork_hook *hook)
{
    give_back((ring *)((char *)hook - offsetof(ring, hook)));
}

static void close_ring(pshm_os_sleeper *sleeper, bool child)
{
    ring *r = (ring *)sleeper;
    pshm_os_fork_hook_remove(&r->hook);
    if (!child && is_mine(sleeper))
        cancel(r, 0, IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY);
    while (!child && r->first) { /* the kernel ends them when the ring goes */
        r->first->result = -ECANCELED;
        unlink_sleep(r, r->first);
    }
    give_back(r);
    free(r);
}

static void *map(int fd, size_t size, uint64_t what)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)what);
    return p == MAP_FAILED ? NULL : p;
}

static uint32_t *word_at(const ring *r, uint32_t offset)
{
    return (uint32_t *)(void *)(r->rings + offset);
}

static int set_up(ring *r)
{
    struct io_uring_params p;
    memset(&p, 0, sizeof p);
    p.flags = SETUP;
    long fd = syscall(SYS_io_uring_setup, SUBMISSIONS, &p); /* close-on-exec by itself */
    if (fd < 0)
        return errno == EINVAL || errno == EACCES ? -ENOSYS : -errno;
    r->fd = (int)fd;
    if (!(p.features & IORING_FEAT_SINGLE_MMAP) || !(p.features & IORING_FEAT_NODROP) || !can_sleep(r->fd))
        return -ENOSYS;
    size_t sq = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
    size_t cq = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    r->rings_size = sq > cq ? sq : cq;
    r->entries_size = p.sq_entries * sizeof(entry);
    r->rings = map(r->fd, r->rings_size, IORING_OFF_SQ_RING);
    r->entries = map(r->fd, r->entries_size, IORING_OFF_SQES);
    if (!r->rings || !r->entries)
        return -ENOMEM;
    r->sq_head = word_at(r, p.sq_off.head);
    r->sq_tail = word_at(r, p.sq_off.tail);
    r->sq_flags = word_at(r, p.sq_off.flags);
    r->cq_head = word_at(r, p.cq_off.head);
    r->cq_tail = word_at(r, p.cq_off.tail);
    r->cq_flags = word_at(r, p.cq_off.flags);
    r->completions = (void *)word_at(r, p.cq_off.cqes);
    r->sq_entries = p.sq_entries;
    r->sq_mask = p.sq_entries - 1;
    r->cq_mask = p.cq_entries - 1;
    for (uint32_t i = 0; i < p.sq_entries; i++)
        word_at(r, p.sq_off.array)[i] = i;
    return syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_EVENTFD, &r->event, 1) ? -errno : 0;
}

/* By the kernel, an administrator or a filter: asking again would only cost. */
static uint32_t refused;

int pshm_os_ring_open(int event, pshm_os_sleeper **out)
{
    if (__atomic_load_n(&refused, __ATOMIC_RELAXED))
        return -ENOSYS;
    ring *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    r->sleeper = (pshm_os_sleeper){begin, submit, end, reap, set_alarm, is_mine, close_ring};
    r->hook.in_child = in_child;
    r->fd = -1;
    r->event = event;
    r->tid = pshm_os_tid();
    r->over_end = &r->over;
    int rc = set_up(r);
    if (!rc)
        rc = pshm_os_fork_hook_add(&r->hook);
    if (rc == -ENOSYS || rc == -EPERM)
        __atomic_store_n(&refused, 1, __ATOMIC_RELAXED);
    if (!rc) {
        *out = &r->sleeper;
        return 0;
    }
    give_back(r);
    free(r);
    return rc;
}
