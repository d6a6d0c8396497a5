/* SPDX-License-Identifier: MIT
 *
 * Arenas for the kill tests: small ones in a descriptor's memory, put back to what they were before each run, and what
 * has to hold in them whoever died.
 */
#ifndef CRASH_DRIVER_ARENA_H
#define CRASH_DRIVER_ARENA_H

#include <polyshm/counter.h>
#include <polyshm/heap.h>
#include <polyshm/mutex.h>
#include <polyshm/participant.h>

#include "core/layout.h"
#include "driver.h"

typedef struct crash_arena {
    pshm_arena *arena; /* the driver's handle, which children inherit */
    int fd;            /* its memory, which executed programs inherit too */
    unsigned char *bytes;
    size_t size;
    unsigned char *image; /* what every run begins with */
    uint64_t used;        /* bytes of blocks in use in it */
} crash_arena;

/* Makes an arena of the zeroed memory of `fd`. Ends the driver where it cannot. */
void crash_arena_open(crash_arena *a, int fd, unsigned participants);
/* Lets go of the handle. */
void crash_arena_close(crash_arena *a);

/* The arena as it is now is what every run begins with. The driver takes no part in it from then on. */
void crash_arena_keep(crash_arena *a);
/* Puts it back; nobody may be at work in it. */
void crash_arena_restore(const crash_arena *a);

/* From the bytes alone: does a thread of process `pid` have the lock? Is a death still to be told in it? */
bool crash_owner_is(const crash_arena *a, const pshm_owner *o, pid_t pid);
bool crash_owner_is_marked(const crash_arena *a, const pshm_owner *o);
/* Does the process have one of the arena's own locks? */
bool crash_arena_is_held_by(const crash_arena *a, pid_t pid);

/* Takes out of a copy of the bytes what differs from one death to the next: who it was, and where its robust list is. */
void crash_arena_blur(const crash_arena *a, unsigned char *copy);

/* What has to hold while nobody else is at work: `used` bytes of blocks are in use, pshm_arena_check finds nothing, every
 * slot can be taken. NULL: it does. */
const char *crash_arena_verify(const crash_arena *a, uint64_t used);

/* Leaves text and a code as what is wrong, for a check to return. */
const char *crash_wrong(const char *what, int code);

#endif
