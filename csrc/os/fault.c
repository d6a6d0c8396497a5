/* SPDX-License-Identifier: MIT */
#include "os/fault.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* The handler reads slots while others are being written, so each has a sequence: odd while it changes. */
struct pshm_os_watch {
    uint32_t taken;
    uint32_t sequence;
    uintptr_t start, end;
    uint64_t page;
    volatile uint32_t *lost;
};

#define SLOTS 126

/* Blocks are only ever added: the handler may be walking them. */
struct block {
    struct pshm_os_watch slot[SLOTS];
    struct block *next;
};

/* Process-wide, since a signal is: see design.md, "State of the process". */
static struct block first_block;
static struct sigaction previous;
static pthread_once_t installed = PTHREAD_ONCE_INIT;

/* Huge pages of x86-64, and of arm64 with pages of 4 KiB. */
#define HUGE (UINT64_C(2) << 20)
#define LARGEST (UINT64_C(1) << 30)

/* 0 or an errno: EINVAL for a part of a huge page. mmap is a bare system call here, so a handler may make it. */
static int put_zeros(uintptr_t address, uint64_t page)
{
    void *at = (void *)(address & ~(uintptr_t)(page - 1));
    void *got = mmap(at, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    return got == MAP_FAILED ? errno : 0;
}

static bool give_zeros(uintptr_t address)
{
    for (struct block *b = &first_block; b; b = __atomic_load_n(&b->next, __ATOMIC_ACQUIRE)) {
        for (int i = 0; i < SLOTS; i++) {
            struct pshm_os_watch *w = &b->slot[i];
            uint32_t sequence = __atomic_load_n(&w->sequence, __ATOMIC_ACQUIRE);
            uintptr_t start = w->start, end = w->end;
            uint64_t page = w->page;
            volatile uint32_t *lost = w->lost;
            __atomic_thread_fence(__ATOMIC_ACQUIRE);
            if ((sequence & 1) || __atomic_load_n(&w->sequence, __ATOMIC_RELAXED) != sequence || address < start ||
                address >= end)
                continue;
            int error = put_zeros(address, page);
            /* Not everybody who attaches a System V segment knows what its pages are. */
            while (error == EINVAL && page < LARGEST) {
                page = page < HUGE ? HUGE : page * 512;
                error = put_zeros(address, page);
            }
            if (error)
                return false;
            *lost = 1;
            return true;
        }
    }
    return false;
}

static void pass_on(int number, siginfo_t *info, void *context)
{
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(number, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(number);
    } else if (info->si_code > 0 || previous.sa_handler == SIG_DFL) {
        /* Die of it as if we had never been here: a fault comes again at the return, a sent signal does not. */
        struct sigaction plain;
        memset(&plain, 0, sizeof plain);
        plain.sa_handler = SIG_DFL;
        sigaction(SIGBUS, &plain, NULL);
        if (info->si_code <= 0)
            raise(SIGBUS);
    }
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    int error = errno;
    if (info->si_code != BUS_ADRERR || !give_zeros((uintptr_t)info->si_addr))
        pass_on(number, info, context);
    errno = error;
}

static void install(void)
{
    const char *wish = getenv("POLYSHM_SIGBUS");
    if (wish && strcmp(wish, "off") == 0)
        return;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous);
}

static struct pshm_os_watch *take_slot(void)
{
    for (struct block *b = &first_block;;) {
        for (int i = 0; i < SLOTS; i++) {
            uint32_t free_ = 0;
            if (!__atomic_load_n(&b->slot[i].taken, __ATOMIC_RELAXED) &&
                __atomic_compare_exchange_n(&b->slot[i].taken, &free_, 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
                return &b->slot[i];
        }
        struct block *next = __atomic_load_n(&b->next, __ATOMIC_ACQUIRE);
        if (!next) {
            struct block *made = calloc(1, sizeof *made);
            if (!made)
                return NULL;
            if (__atomic_compare_exchange_n(&b->next, &next, made, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
                next = made;
            else
                free(made);
        }
        b = next;
    }
}

static void change(struct pshm_os_watch *w, uintptr_t start, uint64_t size, uint64_t page, volatile uint32_t *lost)
{
    uint32_t sequence = __atomic_load_n(&w->sequence, __ATOMIC_RELAXED);
    __atomic_store_n(&w->sequence, sequence + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    w->start = start;
    w->end = start + size;
    w->page = page;
    w->lost = lost;
    __atomic_store_n(&w->sequence, sequence + 2, __ATOMIC_RELEASE);
}

pshm_os_watch *pshm_os_fault_watch(void *start, uint64_t size, uint64_t page, volatile uint32_t *lost)
{
    pthread_once(&installed, install);
    struct pshm_os_watch *w = take_slot();
    if (!w)
        return NULL;
    change(w, (uintptr_t)start, size, page, lost);
    return w;
}

void pshm_os_fault_move(pshm_os_watch *w, void *start, uint64_t size)
{
    change(w, (uintptr_t)start, size, w->page, w->lost);
}

void pshm_os_fault_unwatch(pshm_os_watch *w)
{
    if (!w)
        return;
    change(w, 0, 0, w->page, NULL);
    __atomic_store_n(&w->taken, 0, __ATOMIC_RELEASE);
}
