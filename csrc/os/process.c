/* SPDX-License-Identifier: MIT */
#include "os/process.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Until the page is there, and where there can be none: a word that no cache matches. */
static const uint32_t no_word;
const uint32_t *pshm_os_fork_word = &no_word;
__thread pshm_os_self pshm_os_self_cache;

static uint32_t *make_page(void)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    uint32_t *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return NULL;
    const uint32_t *none = &no_word;
    if (madvise(page, size, MADV_WIPEONFORK) == 0 &&
        __atomic_compare_exchange_n(&pshm_os_fork_word, &none, page, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return page;
    munmap(page, size);
    return none == &no_word ? NULL : (uint32_t *)(uintptr_t)none;
}

bool pshm_os_may_live(pshm_os_self thread)
{
    return thread.pid == pshm_os_pid() &&
           (syscall(SYS_tgkill, (pid_t)thread.pid, (pid_t)thread.tid, 0) == 0 || errno != ESRCH);
}

void pshm_os_self_refresh(void)
{
    const uint32_t *word = __atomic_load_n(&pshm_os_fork_word, __ATOMIC_ACQUIRE);
    uint32_t *page = word == &no_word ? make_page() : (uint32_t *)(uintptr_t)word;
    pshm_os_self_cache.pid = (uint32_t)getpid();
    pshm_os_self_cache.tid = (uint32_t)syscall(SYS_gettid);
    if (page)
        __atomic_store_n(page, ~pshm_os_self_cache.pid, __ATOMIC_RELEASE);
}
