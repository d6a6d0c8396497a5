/* SPDX-License-Identifier: MIT
 *
 * A segment on its way from address and options to a mapping: for core/ alone.
 */
#ifndef PSHM_CORE_OPENING_H
#define PSHM_CORE_OPENING_H

#include <polyshm/segment.h>

/* What is being opened, until it is a body. */
typedef struct pshm_opening {
    pshm_address address;
    pshm_options options;
    int fd;
    int32_t id;
    bool created;
    uint64_t object_size; /* PSHM_UNSET: without an end */
    uint64_t hugepage;
    uint32_t rights; /* PSHM_OS_... of the mapping */
    uint32_t descriptor_rights;
} pshm_opening;

/* Finds or creates the object: fills in descriptor or id, size, rights, `created`. 0 or an error, nothing left open. */
int pshm_reach(pshm_opening *o);

/* Undoes what pshm_reach made, unless somebody else made it. */
void pshm_unreach(pshm_opening *o);

#endif
