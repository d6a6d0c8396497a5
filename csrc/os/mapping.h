/* SPDX-License-Identifier: MIT
 *
 * Mappings: mmap(2) and what can be done to one. Addresses and sizes are multiples of the page, offsets too.
 * Functions return 0 or -errno.
 */
#ifndef PSHM_OS_MAPPING_H
#define PSHM_OS_MAPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Rights as bits; the first two are PSHM_READ and PSHM_WRITE. */
enum { PSHM_OS_READ = 1, PSHM_OS_WRITE = 2, PSHM_OS_EXEC = 4 };

typedef struct pshm_os_map {
    int fd; /* -1: anonymous */
    uint64_t size;
    uint64_t offset;
    uint64_t at;       /* 0: anywhere; never replaces what is there */
    uint64_t hugepage; /* bytes of a huge page, 0: ordinary ones; anonymous memory alone */
    uint32_t rights;
    bool shared;
    bool populate;
    bool noreserve;
} pshm_os_map;

int pshm_os_map_create(const pshm_os_map *map, void **address);
int pshm_os_unmap(void *address, uint64_t size);

/* Grows or shrinks in place, or to wherever there is room if it `may_move`. */
int pshm_os_remap(void **address, uint64_t old_size, uint64_t new_size, bool may_move);

int pshm_os_protect(void *address, uint64_t size, uint32_t rights);
int pshm_os_sync(void *address, uint64_t size, bool wait, bool invalidate);
int pshm_os_lock_memory(void *address, uint64_t size, bool on_fault);
int pshm_os_unlock_memory(void *address, uint64_t size);

typedef struct pshm_os_advice {
    const char *name;
    int number;
    bool destroys;         /* always */
    bool destroys_private; /* what was written to a private mapping */
    bool slow;             /* reads, writes or moves pages before it returns */
} pshm_os_advice;

/* All advice by index, NULL past the last. */
const pshm_os_advice *pshm_os_advice_at(size_t index);
int pshm_os_advise(void *address, uint64_t size, int number);

/* Fills the page tables of a mapping that was not made with mmap. */
int pshm_os_populate(void *address, uint64_t size, bool write);

uint64_t pshm_os_page_size(void);

#endif
