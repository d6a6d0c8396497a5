/* SPDX-License-Identifier: MIT */
#include "os/process.h"

#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

uint32_t *pshm_os_fork_page;
__thread pshm_os_self pshm_os_self_cache;

static uint32_t *make_page(void)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    uint32_t *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return NULL;
    uint32_t *none = NULL;
    if (madvise(page, size, MADV_WIPEONFORK) ||
        !__atomic_compare_exchange_n(&pshm_os_fork_page, &none, page, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        munmap(page, size);
        return none;
    }
    return page;
}

void pshm_os_self_refresh(void)
{
    uint32_t *page = __atomic_load_n(&pshm_os_fork_page, __ATOMIC_ACQUIRE);
    pshm_os_self_cache.pid = (uint32_t)getpid();
    pshm_os_self_cache.tid = (uint32_t)syscall(SYS_gettid);
    if (!page)
        page = make_page();
    if (page)
        __atomic_store_n(page, pshm_os_self_cache.pid, __ATOMIC_RELEASE);
}
