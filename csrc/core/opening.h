/* SPDX-License-Identifier: MIT
 *
 * A segment on its way from address and options to a mapping: for core/ alone.
 */
#ifndef PSHM_CORE_OPENING_H
#define PSHM_CORE_OPENING_H

#include <limits.h>

#include <polyshm/segment.h>

#include "os/file.h"

/* What is being opened, until it is a body. */
typedef struct pshm_opening {
    pshm_address address;
    pshm_options options;
    int fd;
    int32_t id;
    bool created;
    bool drafted; /* the file has no name yet: nobody else can have it */
    pshm_os_draft draft;
    char path[PATH_MAX];  /* posix and file */
    uint64_t object_size; /* PSHM_UNSET: without an end */
    uint64_t hugepage;    /* asked for, in bytes, or 0 */
    uint64_t page;        /* bytes of a page of the mapping */
    uint32_t rights;      /* PSHM_OS_... of the mapping */
    uint32_t descriptor_rights;
} pshm_opening;

/* Finds or creates the object: fills in descriptor or id, size, page, rights, `created`. 0 or an error; pshm_unreach is
 * due either way where it is not kept. */
int pshm_reach(pshm_opening *o);

/* Gives what was created its name, in one step. -EEXIST: somebody was faster. */
int pshm_publish(pshm_opening *o);

/* Is an error of the way only somebody else's doing, so that the way should be gone again? */
bool pshm_lost_race(const pshm_opening *o, int rc);

/* Lets go of what pshm_reach opened, and removes what it made, if that has no name yet. */
void pshm_unreach(pshm_opening *o);

#endif
