/* SPDX-License-Identifier: MIT
 *
 * The whole of a segment, for core/ alone: the public head first, so that one pointer is both.
 */
#ifndef PSHM_CORE_SEGMENT_H
#define PSHM_CORE_SEGMENT_H

#include <polyshm/segment.h>

#include "os/fault.h"
#include "os/fork.h"

/* Rights of the mapping where they are not the same everywhere: run i goes from run i-1's end to its own. */
typedef struct pshm_run {
    uint64_t end; /* bytes from the mapping's start, a multiple of the page */
    uint32_t rights;
} pshm_run;

/* All runs of a moment: never changed once it is published, since copies read it without the GIL. */
typedef struct pshm_runs {
    struct pshm_runs *older; /* kept while somebody may be reading it */
    uint32_t count;
    pshm_run run[];
} pshm_runs;

/* A mapping that a resize left behind for the users that were inside. */
typedef struct pshm_retired {
    struct pshm_retired *next;
    void *map;
    uint64_t map_size;
    pshm_os_watch *watch;
} pshm_retired;

typedef struct pshm_body {
    pshm_segment head;
    unsigned char *map; /* the pages; head.base is `delta` bytes behind */
    uint64_t map_size;
    uint64_t delta;
    uint64_t offset; /* of the window in the object */
    uint64_t page;   /* bytes: the unit of the mapping, larger for huge pages */
    uint64_t users;  /* CLOSED, and three counts of users, PSHM_BODY_... each */
    uint32_t references;
    uint32_t descriptor_rights; /* PSHM_READ | PSHM_WRITE */
    bool serial;
    bool exec;
    bool shared;
    bool attached; /* shmat made it, shmdt ends it */
    bool reserve;
    bool dontfork;
    bool locked;
    bool ghost;      /* a forked child without the pages: nothing is there to unmap */
    pshm_runs *runs; /* NULL: head.map_rights holds everywhere */
    pshm_runs *old_runs;
    pshm_retired *retired;
    pshm_hold *holds;
    pshm_os_watch *watch;
    pshm_os_fork_hook fork_hook;
    bool hooked;
    char text[]; /* the address */
} pshm_body;

#define PSHM_BODY_CLOSED (UINT64_C(1) << 63)
#define PSHM_BODY_RAW UINT64_C(1)
#define PSHM_BODY_LENT (UINT64_C(1) << 21)
#define PSHM_BODY_CHECKED (UINT64_C(1) << 42)
#define PSHM_BODY_RAW_MASK (PSHM_BODY_LENT - 1)
#define PSHM_BODY_POINTER_MASK (PSHM_BODY_CHECKED - 1)

/* The largest size and offset that are taken: what x86-64 and arm64 can map. */
#define PSHM_SIZE_LIMIT (UINT64_C(1) << 47)

static inline pshm_body *pshm_body_of(const pshm_segment *segment)
{
    return (pshm_body *)(uintptr_t)segment;
}

static inline uint64_t pshm_round_up(uint64_t value, uint64_t page)
{
    return (value + page - 1) & ~(page - 1);
}

/* Has a forked child set its inherited handle right before it goes on. Once; 0 or -errno. */
int pshm_body_hook(pshm_body *body);

/* Publishes `runs` (NULL: the same rights everywhere), and frees old ones that nobody can be reading. */
void pshm_body_set_runs(pshm_body *body, pshm_runs *runs);

/* Makes a hold known to the segment of a `serial` handle, which then counts it whenever it must know who is inside.
 * Others count each hold with pshm_segment_enter and _leave. */
void pshm_body_add_hold(pshm_body *body, pshm_hold *hold);

/* Ends it; what is still held stays counted for ever. */
void pshm_body_remove_hold(pshm_body *body, pshm_hold *hold);

/* Sets rights of the handle and the mapping from the runs, or from `rights` where there are none. */
void pshm_body_set_rights(pshm_body *body, uint32_t rights);

/* Is anybody inside with a bare pointer, or holding a lock? */
bool pshm_body_has_raw(const pshm_body *body);

/* pshm_segment_open, and before what it makes gets its name (where it gets that last) a look at it: another code than 0 is
 * that of the whole. It may be called again for another try. */
int pshm_segment_open_prepared(const char *address, size_t length, const pshm_options *options,
                               int (*prepare)(void *context, pshm_segment *segment), void *context, pshm_segment **out);

/* The same path that pshm_segment_open takes for posix: and file:; -ENAMETOOLONG. `path` has PATH_MAX bytes. */
int pshm_address_path(const pshm_address *address, char *path);

/* The System V key behind an address by key or by ftok. */
int pshm_address_key(const pshm_address *address, int32_t *key);

/* A reservation beyond what there is would end in the OOM killer: -ENOMEM before a page is taken. Small ones pass
 * unasked, since asking costs more than they do. */
int pshm_memory_allows(uint64_t size);

#endif
