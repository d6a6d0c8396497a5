/* SPDX-License-Identifier: MIT
 *
 * What the files of the partner in C share. peer.py describes the commands.
 */
#ifndef PEER_H
#define PEER_H

#include <stdint.h>

#include <polyshm/atomic.h>
#include <polyshm/barrier.h>
#include <polyshm/condition.h>
#include <polyshm/counter.h>
#include <polyshm/element.h>
#include <polyshm/event.h>
#include <polyshm/latch.h>
#include <polyshm/mutex.h>
#include <polyshm/once.h>
#include <polyshm/participant.h>
#include <polyshm/permits.h>
#include <polyshm/record_lock.h>
#include <polyshm/rwlock.h>
#include <polyshm/segment.h>
#include <polyshm/semaphore.h>

/* Codes of the peer's own: it has said who died; a wrong command; the repair function failed. */
enum { PEER_TOLD = 1, PEER_MISTAKE, PEER_NOT_REPAIRED };

typedef enum peer_kind {
    PEER_FREE,
    PEER_SEGMENT,
    PEER_ATOMIC,
    PEER_MUTEX,
    PEER_RECORD,
    PEER_ARENA,
    PEER_NAMED, /* a mutex of an arena */
    PEER_COUNTER,
    PEER_PARTICIPANT,
    PEER_RWLOCK,
    PEER_CONDITION,
    PEER_PLAIN /* of peer_plain.c: `noun` says which */
} peer_kind;

/* An object that the test gave a name. */
typedef struct peer_thing {
    char name[16];
    peer_kind kind;
    pshm_segment *segment;
    uint64_t offset;
    pshm_word word;
    pshm_segment_mutex mutex;
    char repair[16]; /* "error", where to write to, or nothing */
    bool died;       /* what recover said */
    pshm_record_lock *record;
    pshm_arena *arena;
    pshm_mutex named;
    pshm_counter counter;
    pshm_condition condition;
    pshm_rwlock rwlock;
    char noun[16];
    union {
        pshm_object object;
        pshm_semaphore semaphore;
        pshm_event event;
        pshm_latch latch;
        pshm_permits permits;
        pshm_once once;
        pshm_barrier barrier;
    };
    uint32_t slot, generation;
} peer_thing;

typedef struct peer_words {
    int count;
    char **word;
} peer_words;

/* A command gets the words behind its name; it returns 0 once it has said what came of it, else a code. */
typedef struct peer_command {
    const char *name;
    int words; /* at least so many */
    int (*run)(const peer_words *words);
} peer_command;

extern const peer_command peer_segment_commands[], peer_word_commands[], peer_lock_commands[], peer_arena_commands[],
    peer_heap_commands[], peer_wait_commands[], peer_rwlock_commands[], peer_condition_commands[],
    peer_plain_commands[];

/* The object of that name; a mistake in the test ends the peer. peer_make makes one, in place of any other. */
peer_thing *peer_find(const char *name, peer_kind kind);
/* The lock of any kind. */
peer_thing *peer_find_lock(const char *name);
peer_thing *peer_make(const char *name, peer_kind kind);

/* Any object, or NULL. */
peer_thing *peer_look_up(const char *name);

/* Adds a word to the answer. */
void peer_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint64_t peer_number(const char *text);
/* "key=value" among the words from `first` on: the value, or NULL. */
const char *peer_option(const peer_words *words, int first, const char *key);
/* Seconds, "-" or "try": the deadline. */
int64_t peer_until(const char *text);
/* Hexadecimal digits, "-" for none: the bytes, which the caller frees; and the other way. */
unsigned char *peer_unhex(const char *text, uint64_t *size);
void peer_say_hex(const void *bytes, size_t size);

/* Acquires for ever, in slices, and repairs as the lock says; releases. */
int peer_take(peer_thing *thing, const char *timeout);
int peer_give(peer_thing *thing);

#endif
