/* SPDX-License-Identifier: MIT
 *
 * The workers of crash_soak, and the log that they share with their adversary outside of the arena.
 */
#ifndef CRASH_DRIVER_SOAK_H
#define CRASH_DRIVER_SOAK_H

#include <polyshm/arena.h>
#include <polyshm/counter.h>
#include <polyshm/heap.h>
#include <polyshm/mutex.h>
#include <polyshm/participant.h>

#define SOAK_WORKERS 4
#define SOAK_THREADS 3 /* of each */
#define SOAK_LOCKS 4
#define SOAK_COUNTERS 2
#define SOAK_NAMES 12 /* that come and go */
#define SOAK_ROOTS 10 /* that come and go, behind those of the locks */
#define SOAK_NESTED 5
#define SOAK_ENDED (1u << 16)

/* What the adversary has a worker do. */
typedef enum soak_command {
    SOAK_NOTHING,
    SOAK_END_THREAD, /* a thread ends with a lock in its hands */
    SOAK_FORK,       /* goes on in a child of its own; the parent is killed */
    SOAK_EXEC,       /* starts itself again, with a lock in its hands */
    SOAK_EXIT,       /* gives back everything and ends */
    SOAK_COMMANDS
} soak_command;

/* In a memfd, so that it is still there after an exec. */
typedef struct soak_log {
    char address[64];
    bool joined; /* beside workers of other languages: who ended is not noted here */
    uint64_t seed;
    volatile uint32_t pid[SOAK_WORKERS]; /* of each worker at the moment */
    volatile uint32_t command[SOAK_WORKERS];
    volatile uint64_t turns[SOAK_WORKERS][SOAK_THREADS];
    uint64_t counted[SOAK_COUNTERS]; /* what was added, noted after it was */
    uint64_t told, named;            /* deaths */
    uint64_t done[16];               /* turns of each sort */
    uint32_t ended_count;
    volatile uint32_t ended[SOAK_ENDED]; /* who was killed, or left a lock behind: entered before */
    char wrong[300];
} soak_log;

extern soak_log *soak;

/* What each lock guards, in a block of the heap. */
typedef struct soak_books {
    volatile uint64_t a, b;
    uint64_t nested[SOAK_NESTED]; /* destinations */
} soak_books;

/* Notes what is wrong, unless something was before. 1. */
int soak_wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* `pid` is about to die, or to leave something behind. */
void soak_note_end(uint32_t pid);

uint64_t soak_random(uint64_t *state);

/* The handles of one thread. */
typedef struct soak_hands {
    unsigned worker, thread;
    uint64_t random;
    pshm_arena *arena;
    pshm_mutex locks[SOAK_LOCKS];
    pshm_counter counters[SOAK_COUNTERS];
} soak_hands;

/* 0, or 1 with a message. */
int soak_open(soak_hands *h);
void soak_close(soak_hands *h);

/* One turn of a random sort; and one that makes a lock good and gives it back. 0, or 1 with a message. */
int soak_turn(soak_hands *h);
int soak_settle(soak_hands *h, unsigned lock);

/* The life of a worker: main's result, for a process of its own. `again`: after an exec. */
int soak_work(unsigned worker, bool again);

#endif
