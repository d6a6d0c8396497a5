/* SPDX-License-Identifier: MIT */
#include "os/mapping.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From linux/mman.h and later kernels than the oldest headers this builds with. */
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif
#ifndef MADV_COLD
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* All of madvise(2) but HWPOISON and SOFT_OFFLINE, which take memory from the whole machine, and the GUARD pair, which
 * turns accesses into SIGSEGV. */
static const pshm_os_advice advices[] = {
    {"normal", MADV_NORMAL, false, false, false},
    {"random", MADV_RANDOM, false, false, false},
    {"sequential", MADV_SEQUENTIAL, false, false, false},
    {"willneed", MADV_WILLNEED, false, false, true},
    {"dontneed", MADV_DONTNEED, false, true, false},
    {"dontneed_locked", MADV_DONTNEED_LOCKED, false, true, false},
    {"free", MADV_FREE, true, true, false},
    {"remove", MADV_REMOVE, true, true, false},
    {"dontfork", MADV_DONTFORK, false, false, false},
    {"dofork", MADV_DOFORK, false, false, false},
    {"wipeonfork", MADV_WIPEONFORK, false, false, false},
    {"keeponfork", MADV_KEEPONFORK, false, false, false},
    {"mergeable", MADV_MERGEABLE, false, false, false},
    {"unmergeable", MADV_UNMERGEABLE, false, false, false},
    {"hugepage", MADV_HUGEPAGE, false, false, false},
    {"nohugepage", MADV_NOHUGEPAGE, false, false, false},
    {"collapse", MADV_COLLAPSE, false, false, true},
    {"dontdump", MADV_DONTDUMP, false, false, false},
    {"dodump", MADV_DODUMP, false, false, false},
    {"cold", MADV_COLD, false, false, true},
    {"pageout", MADV_PAGEOUT, false, false, true},
    {"populate_read", MADV_POPULATE_READ, false, false, true},
    {"populate_write", MADV_POPULATE_WRITE, false, false, true},
};

static int prot_of(uint32_t rights)
{
    return ((rights & PSHM_OS_READ) ? PROT_READ : 0) | ((rights & PSHM_OS_WRITE) ? PROT_WRITE : 0) |
           ((rights & PSHM_OS_EXEC) ? PROT_EXEC : 0);
}

int pshm_os_map_create(const pshm_os_map *map, void **address)
{
    int flags = map->shared ? MAP_SHARED : MAP_PRIVATE;
    if (map->fd < 0)
        flags |= MAP_ANONYMOUS;
    if (map->populate)
        flags |= MAP_POPULATE;
    if (map->noreserve)
        flags |= MAP_NORESERVE;
    if (map->hugepage)
        flags |= MAP_HUGETLB | (int)((unsigned)__builtin_ctzll(map->hugepage) << MAP_HUGE_SHIFT);
    if (map->at)
        flags |= MAP_FIXED_NOREPLACE;
    void *p = mmap((void *)(uintptr_t)map->at, map->size, prot_of(map->rights), flags, map->fd, (off_t)map->offset);
    if (p == MAP_FAILED)
        return -errno;
    if (map->at && (uint64_t)(uintptr_t)p != map->at) { /* a kernel before 4.17 takes the address for a hint */
        munmap(p, map->size);
        return -EEXIST;
    }
    *address = p;
    return 0;
}

int pshm_os_unmap(void *address, uint64_t size)
{
    return munmap(address, size) ? -errno : 0;
}

int pshm_os_remap(void **address, uint64_t old_size, uint64_t new_size, bool may_move)
{
    void *p = mremap(*address, old_size, new_size, may_move ? MREMAP_MAYMOVE : 0);
    if (p == MAP_FAILED)
        return -errno;
    *address = p;
    return 0;
}

int pshm_os_protect(void *address, uint64_t size, uint32_t rights)
{
    return mprotect(address, size, prot_of(rights)) ? -errno : 0;
}

int pshm_os_sync(void *address, uint64_t size, bool wait, bool invalidate)
{
    int flags = (wait ? MS_SYNC : MS_ASYNC) | (invalidate ? MS_INVALIDATE : 0);
    while (msync(address, size, flags))
        if (errno != EINTR)
            return -errno;
    return 0;
}

int pshm_os_lock_memory(void *address, uint64_t size, bool on_fault)
{
    if (!on_fault)
        return mlock(address, size) ? -errno : 0;
    return syscall(SYS_mlock2, address, size, 1 /* MLOCK_ONFAULT */) ? -errno : 0;
}

int pshm_os_unlock_memory(void *address, uint64_t size)
{
    return munlock(address, size) ? -errno : 0;
}

const pshm_os_advice *pshm_os_advice_at(size_t index)
{
    return index < sizeof advices / sizeof *advices ? &advices[index] : NULL;
}

int pshm_os_advise(void *address, uint64_t size, int number)
{
    /* EAGAIN may pass (a page was busy), or not. */
    for (int again = 0; madvise(address, size, number);)
        if (errno != EINTR && (errno != EAGAIN || again++ == 10))
            return -errno;
    return 0;
}

int pshm_os_populate(void *address, uint64_t size, bool write)
{
    return pshm_os_advise(address, size, write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
}

uint64_t pshm_os_page_size(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}
