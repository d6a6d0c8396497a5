/* SPDX-License-Identifier: MIT
 *
 * The way of one operation: which states it goes through, and how another run comes to one of them. For the driver
 * alone.
 */
#ifndef CRASH_DRIVER_TRAIL_H
#define CRASH_DRIVER_TRAIL_H

#include "driver_trace.h"

/* A state, as the survey met it. */
typedef struct crash_place {
    unsigned long index; /* among all changes, in order */
    unsigned long steps;
    uintptr_t pc;
    uint64_t hash, list, pending;
    uint64_t remains; /* what a death there leaves; the same is the same death */
    bool asleep;
} crash_place;

/* The states of one operation. One that was seen before, at the same instruction with the same bytes, is not visited
 * again: a spin with sched_yield goes round and leaves nothing. */
typedef struct crash_trail {
    crash_place at[1024];
    size_t count;
    unsigned long instructions;
    bool exact; /* a run takes the same steps as the one before */
    /* After each number of steps: where it stood, and how often it had stood there before. */
    struct crash_footprint {
        uintptr_t pc;
        unsigned long times;
    } * prints;
    size_t room;
    /* Optional: says what is left; who died before. */
    uint64_t (*remains)(const crash_case *c, pid_t first, pid_t second);
    pid_t first;
} crash_trail;

/* Goes to the end of the operation and notes the states on the way. `alone`: nobody else is at work, so that it will
 * take the same steps again. */
void crash_survey(crash_traced *t, const crash_case *c, crash_trail *path, bool visit_sleep, bool alone);

/* Goes to a place of the trail; where this run takes other steps than the survey did, to the state of that number, and
 * the trail is no longer exact. */
void crash_go_to(crash_traced *t, const crash_case *c, crash_trail *path, const crash_place *wanted, bool visit_sleep);

/* Goes so many steps. */
void crash_go_steps(crash_traced *t, const crash_trail *path, unsigned long steps);

#endif
