/* SPDX-License-Identifier: MIT
 *
 * The parts of fuzz_arena: what is flipped, what is called, and the cases.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <polyshm/arena.h>
#include <polyshm/barrier.h>
#include <polyshm/counter.h>
#include <polyshm/event.h>
#include <polyshm/heap.h>
#include <polyshm/latch.h>
#include <polyshm/mutex.h>
#include <polyshm/once.h>
#include <polyshm/participant.h>
#include <polyshm/permits.h>
#include <polyshm/rwlock.h>
#include <polyshm/semaphore.h>

#define FUZZ_THREADS 3

/* Where a case is, for whoever finds it dead: shared memory. */
typedef struct fuzz_record {
    const char *volatile doing[FUZZ_THREADS];
    volatile int last[FUZZ_THREADS]; /* what the call before gave */
    volatile uint64_t calls, guarded, opened;
    volatile uint32_t codes[128]; /* how often each of polyshm's codes came, from -1000 down */
} fuzz_record;

extern fuzz_record *fuzz_noted;

/* A generator of random numbers, one for each thread. */
typedef struct fuzz_random {
    uint64_t state;
} fuzz_random;
uint64_t fuzz_next(fuzz_random *r);
static inline uint64_t fuzz_below(fuzz_random *r, uint64_t end)
{
    return fuzz_next(r) % end;
}

/* One thread's handles on an arena. */
typedef struct fuzz_user {
    unsigned number;
    fuzz_random random;
    const char *address;
    pshm_arena *arena;
#define FUZZ_HANDLES 6
    pshm_mutex mutex[FUZZ_HANDLES];
    pshm_counter counter[FUZZ_HANDLES];
    pshm_semaphore semaphore;
    pshm_event event;
    pshm_latch latch;
    pshm_permits permits;
    pshm_once once;
    pshm_barrier barrier;
    pshm_rwlock rwlock;
} fuzz_user;

/* A call of any function of the arena, with any arguments a program might have. Takes as long as a slice or two. */
void fuzz_call(fuzz_user *user);
/* Closes everything. */
void fuzz_end(fuzz_user *user);

/* One call on a semaphore, event or latch, or on all of them at once; and away with them. */
void fuzz_use_word(fuzz_user *user);
void fuzz_end_words(fuzz_user *user);

/* The same with permits, onces, barriers and read-write locks. */
void fuzz_use_owned(fuzz_user *user);
void fuzz_end_owned(fuzz_user *user);

/* One call, noted, which has to end soon and to give a code that there is. */
#define FUZZ_CALL(u, call) (fuzz_doing((u), #call), fuzz_done((u), (call)))
void fuzz_doing(const fuzz_user *user, const char *what);
int fuzz_done(const fuzz_user *user, int rc);

/* A name of an object, of few; its length. A deadline in some milliseconds. */
size_t fuzz_name(fuzz_user *user, char name[260]);
int64_t fuzz_soon(fuzz_user *user);

/* Changes some bytes of an arena; those of the beacons alone are left as they are. */
void fuzz_flip(fuzz_random *r, unsigned char *base, uint64_t size);
/* The same somewhere in a file's bytes that nobody has mapped. */
void fuzz_flip_head(fuzz_random *r, unsigned char *base, uint64_t size);

#endif
