/* SPDX-License-Identifier: MIT */
#include "driver_trail.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A breakpoint costs as much as so many steps. */
#define LEAP 4
/* So many steps before a place, at the most, a breakpoint is looked for that is seldom come to. */
#define WINDOW 256
/* A place that was come to no more often is come to by itself. */
#define SELDOM 16

static void note_place(const crash_case *c, crash_trail *path, const crash_traced *t, unsigned long index, bool asleep)
{
    crash_place p = {index, t->steps, t->pc, t->hash, t->list, t->pending, 0, asleep};
    for (size_t i = 0; i < path->count; i++) {
        const crash_place *old = &path->at[i];
        if (old->pc == p.pc && old->hash == p.hash && old->list == p.list && old->pending == p.pending &&
            old->asleep == p.asleep)
            return;
    }
    if (path->remains)
        p.remains = path->remains(c, path->first, t->pid) ^ t->list * UINT64_C(0x9e3779b97f4a7c15) ^ t->pending ^
                    asleep;
    if (path->count < sizeof path->at / sizeof *path->at)
        path->at[path->count++] = p;
    else
        crash_fail("more than %zu states", path->count);
}

/* Where the victim stands after its steps so far. */
static void leave_print(crash_trail *path, const crash_traced *t)
{
    if (t->steps >= path->room) {
        size_t room = path->room ? 2 * path->room : 4096;
        path->prints = realloc(path->prints, room * sizeof *path->prints);
        if (!path->prints) {
            perror("realloc");
            exit(2);
        }
        path->room = room;
    }
    path->prints[t->steps] = (struct crash_footprint){t->pc, 0};
}

/* Counts how often each place was come to before. */
static void count_prints(crash_trail *path, unsigned long steps)
{
    size_t size = 64;
    while (size < 2 * steps)
        size *= 2;
    struct crash_footprint *known = calloc(size, sizeof *known);
    for (unsigned long i = 0; known && i < steps; i++) {
        size_t at = (path->prints[i].pc * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (size - 1);
        while (known[at].times && known[at].pc != path->prints[i].pc)
            at = (at + 1) & (size - 1);
        known[at].pc = path->prints[i].pc;
        path->prints[i].times = known[at].times++;
    }
    if (!known)
        path->exact = false;
    free(known);
}

void crash_survey(crash_traced *t, const crash_case *c, crash_trail *path, bool visit_sleep, bool alone)
{
    unsigned long index = 0;
    bool slept = false;
    path->count = 0;
    path->instructions = 0;
    path->exact = !c->program && alone;
    note_place(c, path, t, index, false);
    leave_print(path, t);
    for (;;) {
        crash_step_result result = crash_step(t);
        if (result == CRASH_CHANGED) {
            slept = false;
            note_place(c, path, t, ++index, false);
        } else if (result == CRASH_ASLEEP) {
            if (!slept && visit_sleep)
                note_place(c, path, t, ++index, true);
            slept = true;
            if (c->unblock)
                c->unblock(c->context);
            continue;
        } else if (result == CRASH_END) {
            note_place(c, path, t, ++index, false);
            path->instructions = t->steps;
            leave_print(path, t);
            count_prints(path, t->steps + 1);
            return;
        } else if (result == CRASH_GONE) {
            crash_fail("it went away by itself");
            path->exact = false;
            return;
        }
        leave_print(path, t);
    }
}

void crash_go_steps(crash_traced *t, const crash_trail *path, unsigned long steps)
{
    if (path->exact && steps && steps <= path->instructions && t->steps == 0) {
        unsigned long best = 0, least = steps;
        for (unsigned long i = steps - (steps == path->instructions); i > 0 && steps - i < WINDOW; i--) {
            unsigned long cost = (steps - i) + LEAP * (path->prints[i].times + 1);
            if (cost < least) {
                least = cost;
                best = i;
            }
        }
        if (best && !crash_trace_leap(t, path->prints[best].pc, path->prints[best].times + 1))
            return;
        t->steps = best;
    }
    while (t->pid > 0 && t->steps < steps && crash_step_blindly(t) != CRASH_GONE)
        continue;
}

void crash_go_to(crash_traced *t, const crash_case *c, crash_trail *path, const crash_place *wanted, bool visit_sleep)
{
    bool slept = false;
    if (path->exact && !wanted->asleep) {
        unsigned long before = path->prints[wanted->steps].times;
        /* By the place alone, if it is seldom come to: what went before need not be the same to the step. */
        if (before > SELDOM || t->end_sp || wanted->pc == t->end_pc)
            crash_go_steps(t, path, wanted->steps);
        else
            crash_trace_leap(t, wanted->pc, before + 1);
        if (t->pid > 0 && crash_trace_registers(t) == 0 && t->pc == wanted->pc)
            return;
        path->exact = false; /* what is left of this run is a kill somewhere else, just as fair */
        return;
    }
    for (unsigned long index = 0; index < wanted->index;) {
        crash_step_result result = crash_step(t);
        if (result == CRASH_CHANGED) {
            index++;
            slept = false;
        } else if (result == CRASH_ASLEEP) {
            if (!slept && visit_sleep && ++index == wanted->index)
                return;
            slept = true;
            if (c->unblock)
                c->unblock(c->context);
        } else if (result != CRASH_SAME) {
            return;
        }
    }
}
