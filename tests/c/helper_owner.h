/* SPDX-License-Identifier: MIT
 *
 * What the tests of owner death share: arenas of every kind that children inherit, victims that hold a lock, and
 * survivors that count slices instead of time.
 */
#ifndef TESTS_HELPER_OWNER_H
#define TESTS_HELPER_OWNER_H

#include <polyshm/mutex.h>
#include <polyshm/participant.h>

#include "helper.h"

/* An arena with one mutex in it, and a word that children see. */
typedef struct helper_world {
    const char *kind; /* "posix", "memfd", "sysv", "anon" */
    pshm_arena *arena;
    pshm_mutex lock;
    struct helper_stage {
        uint32_t step;   /* set by one side, waited for by the other */
        uint32_t number; /* what one wants to tell the other */
    } * stage;
} helper_world;

/* Calls `function` once for each kind, with a world that is made and ended around it. */
void helper_each_kind(void (*function)(helper_world *world));

helper_world helper_world_open(const char *kind);
void helper_world_end(helper_world *world);

/* Goes on to a step, and waits (for 20 s) until somebody did. */
void helper_step(helper_world *world, uint32_t step);
bool helper_until_step(helper_world *world, uint32_t step);

/* Waits until somebody sleeps for the object `name`. */
void helper_until_waits(pshm_arena *arena, const char *name);

/* Does somebody sleep such that the death of `pid`, a participant, ends that sleep? A wake at its beacon finds one, within a
 * second. True where the kernel cannot sleep on two words. */
bool helper_sleeps_on_life(pshm_arena *arena, pid_t pid);

/* Ends by SIGKILL. */
void helper_kill(pid_t pid);

/* Acquires, again and again while a slice is over, for `slices` of them at the most: what came last, or -EINTR. */
int helper_acquire(pshm_mutex *lock, int slices, pshm_death *death);
/* The same by recover, and makes it good. */
int helper_recover(pshm_mutex *lock, int slices, pshm_death *death);

/* The lock tells of a death, of `pid` if that is not 0, within two slices; it can be made good, and is a lock again. */
void helper_expect_death(helper_world *world, uint32_t pid);

/* Nothing is wrong with the arena. */
void helper_expect_clean(pshm_arena *arena);

#endif
