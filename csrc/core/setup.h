/* SPDX-License-Identifier: MIT
 *
 * The head of an arena: making it, and checking one that is there.
 */
#ifndef PSHM_CORE_SETUP_H
#define PSHM_CORE_SETUP_H

#include <polyshm/arena.h>

#include "core/layout.h"

/* Fills in where everything is; PSHM_ETOOSMALL. */
int pshm_geometry_of(uint64_t size, uint32_t participants, pshm_geometry *out);

/* How many participants a new arena has room for. PSHM_EPARTICIPANTCOUNT, PSHM_ETOOSMALL. */
int pshm_setup_participants(uint64_t size, uint32_t wanted, uint32_t *participants);

/* Makes zeroed memory an arena. Any number of processes may do so at the same time, and be killed in it: what is there
 * already stays, the rest is added. true: this call was the first, so its parameters are those of the arena. */
bool pshm_setup(pshm_segment *segment, uint32_t participants, pshm_life life, uint64_t device, uint64_t inode);

/* Is the memory an arena? 0; -ENOENT: all zero, nobody has begun; -EAGAIN: begun, not ended; PSHM_ENOTARENA, PSHM_EFORMAT,
 * PSHM_EABI, PSHM_ETRUNCATED, PSHM_ECORRUPT, PSHM_ELOST. */
int pshm_setup_check(const pshm_segment *segment, pshm_geometry *at, pshm_life *life);

/* Is all of it zero, so that nobody's data becomes an arena? */
bool pshm_setup_is_blank(const pshm_segment *segment);

/* Ends what somebody has begun. */
void pshm_setup_finish(pshm_segment *segment, uint64_t device, uint64_t inode);

#endif
