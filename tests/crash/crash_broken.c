/* SPDX-License-Identifier: MIT
 *
 * Locks that are broken on purpose, one way each, run through the very cases of crash_mutex.c: the driver has to find
 * every one of them, and a sound one beside them has to pass. See driver.h; not for valgrind and the sanitizers.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "driver_lock.h"

/* The bytes of all the locks here: a robust pthread mutex and a mark in the manner of polyshm's, or a plain word. */
typedef struct bytes {
    pthread_mutex_t mutex;
    volatile uint64_t died;
    volatile uint32_t owner, word;
    volatile uint64_t since;
} bytes;

_Static_assert(sizeof(bytes) <= CRASH_LOCK_BYTES, "it has the room");

/* What is wrong with a lock. */
typedef enum fault {
    SOUND,
    CLEARED_BEFORE_REPAIR, /* recover takes the mark away before the caller has repaired anything */
    UNLOCKED_BEFORE_MARK,  /* who meets a death gives the lock back before it is marked */
    TOLD_ONCE,             /* a death during the repair of another is taken for the end of it */
    OWNER_NOT_CLEARED,     /* release leaves the owner's pid behind */
    MARK_WITHOUT_LOCK,     /* release clears the mark once it has unlocked */
    NOT_ROBUST,            /* a word that nobody gives back for the dead */
    BY_TIMEOUT,            /* the same, and who waits too long takes it: slow is not dead */
} fault;

typedef struct subject {
    bytes *at;
    fault fault;
} subject;

static bool is_word(const subject *s)
{
    return s->fault == NOT_ROBUST || s->fault == BY_TIMEOUT;
}

static void create(void *handle)
{
    const subject *s = handle;
    pthread_mutexattr_t attributes;
    memset(s->at, 0, sizeof *s->at);
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&s->at->mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

static int take_word(const subject *s, int64_t deadline, pshm_death *death)
{
    *death = (pshm_death){.died = false};
    uint64_t start = now();
    for (;;) {
        uint32_t nobody = 0, me = (uint32_t)getpid();
        if (__atomic_compare_exchange_n(&s->at->word, &nobody, me, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return 0;
        if (s->fault == BY_TIMEOUT && now() - start > 2000000) {
            *death = (pshm_death){.died = true, .pid = nobody};
            s->at->word = me;
            return 0;
        }
        if ((int64_t)now() >= deadline)
            return -ETIMEDOUT;
        if (now() - start > 100000000)
            return -EINTR;
        sched_yield();
    }
}

static int settle(const subject *s, int got, bool recover, pshm_death *death)
{
    bytes *at = s->at;
    *death = (pshm_death){.died = false};
    if (got == EOWNERDEAD) {
        if (s->fault == UNLOCKED_BEFORE_MARK && !recover) {
            *death = (pshm_death){.died = true, .pid = at->owner};
            pthread_mutex_consistent(&at->mutex);
            pthread_mutex_unlock(&at->mutex);
            at->died = PSHM_MUTEX_DIED | death->pid;
            return -EOWNERDEAD;
        }
        if (!at->died)
            at->died = PSHM_MUTEX_DIED | at->owner;
        else if (s->fault == TOLD_ONCE)
            at->died = 0;
        pthread_mutex_consistent(&at->mutex);
    } else if (got) {
        return -got;
    }
    if (at->died)
        *death = (pshm_death){.died = true, .pid = (uint32_t)at->died};
    if (death->died && !recover) {
        at->owner = 0;
        pthread_mutex_unlock(&at->mutex);
        return -EOWNERDEAD;
    }
    at->owner = (uint32_t)getpid();
    if (recover && s->fault == CLEARED_BEFORE_REPAIR)
        at->died = 0;
    return 0;
}

static int attempt(void *handle, pshm_death *death)
{
    const subject *s = handle;
    if (is_word(s))
        return take_word(s, 0, death);
    return settle(s, pthread_mutex_trylock(&s->at->mutex), false, death);
}

static int take(const subject *s, int64_t deadline, bool recover, pshm_death *death)
{
    if (is_word(s))
        return take_word(s, deadline, death);
    struct timespec when = {deadline / 1000000000, deadline % 1000000000};
    return settle(s, pthread_mutex_clocklock(&s->at->mutex, CLOCK_MONOTONIC, &when), recover, death);
}

static int acquire(void *handle, int64_t deadline, pshm_death *death)
{
    return take(handle, deadline, false, death);
}

static int recover(void *handle, int64_t deadline, pshm_death *death)
{
    return take(handle, deadline, true, death);
}

static int consistent(void *handle)
{
    ((const subject *)handle)->at->died = 0;
    return 0;
}

static int release(void *handle)
{
    const subject *s = handle;
    if (is_word(s)) {
        if (s->at->word != (uint32_t)getpid())
            return PSHM_ENOTOWNER;
        __atomic_store_n(&s->at->word, 0, __ATOMIC_SEQ_CST);
        return 0;
    }
    if (((uint32_t)s->at->mutex.__data.__lock & 0x3fffffffu) != (uint32_t)getpid())
        return PSHM_ENOTOWNER;
    if (s->fault != OWNER_NOT_CLEARED)
        s->at->owner = 0;
    pthread_mutex_unlock(&s->at->mutex);
    if (s->fault == MARK_WITHOUT_LOCK)
        s->at->died = 0;
    return 0;
}

static bool held_by(void *handle, pid_t pid)
{
    const subject *s = handle;
    uint32_t word = is_word(s) ? s->at->word : (uint32_t)s->at->mutex.__data.__lock & 0x3fffffffu;
    return word == (uint32_t)pid;
}

static bool marked(void *handle)
{
    const subject *s = handle;
    return s->at->died || ((uint32_t)s->at->mutex.__data.__lock & 0x40000000u);
}

typedef const crash_row *crash_mode(const crash_case *c);

/* One lock, the case and mode that have to find its fault. */
static const struct expectation {
    const char *name;
    fault fault;
    crash_lock_what what;
    crash_mode *mode;
} expectations[] = {
    {"cleared before repair", CLEARED_BEFORE_REPAIR, CRASH_LOCK_GIVE_UP, crash_states},
    {"cleared before repair", CLEARED_BEFORE_REPAIR, CRASH_LOCK_GIVE_UP, crash_stop},
    {"unlocked before marked", UNLOCKED_BEFORE_MARK, CRASH_LOCK_AFTER_DEATH, crash_states},
    {"unlocked before marked", UNLOCKED_BEFORE_MARK, CRASH_LOCK_AFTER_DEATH, crash_every},
    {"told once", TOLD_ONCE, CRASH_LOCK_SECTION, crash_repair},
    {"owner not cleared", OWNER_NOT_CLEARED, CRASH_LOCK_ACQUIRE, crash_states},
    {"owner not cleared", OWNER_NOT_CLEARED, CRASH_LOCK_ATTEMPT, crash_every},
    {"mark cleared without the lock", MARK_WITHOUT_LOCK, CRASH_LOCK_RELEASE, crash_stop},
    {"not robust", NOT_ROBUST, CRASH_LOCK_ACQUIRE, crash_states},
    {"not robust", NOT_ROBUST, CRASH_LOCK_SECTION, crash_every},
    {"taken by timeout", BY_TIMEOUT, CRASH_LOCK_SECTION, crash_stop},
};

int main(int argc, char **argv)
{
    (void)argc;
    int missed = 0;
    crash_init(argv);
    void *at;
    crash_lock_memory(CRASH_LOCK_BYTES, &at);
    crash_deadline_ms = 300;
    crash_failures_max = 3;
    for (size_t i = 0; i <= sizeof expectations / sizeof *expectations; i++) {
        bool sound = i == sizeof expectations / sizeof *expectations;
        const struct expectation *e = sound ? &(struct expectation){.name = "sound"} : &expectations[i];
        subject s = {at, e->fault};
        const crash_lock lock = {.name = e->name,
                                 .handle = &s,
                                 .create = create,
                                 .attempt = attempt,
                                 .acquire = acquire,
                                 .recover = recover,
                                 .consistent = consistent,
                                 .release = release,
                                 .held_by = held_by,
                                 .marked = marked};
        crash_quiet = !sound;
        if (sound) {
            crash_deadline_ms = 2000;
            if (crash_states(crash_lock_case(&lock, CRASH_LOCK_REPAIR))->failures ||
                crash_stop(crash_lock_case(&lock, CRASH_LOCK_SECTION))->failures ||
                crash_repair(crash_lock_case(&lock, CRASH_LOCK_AFTER_DEATH))->failures) {
                printf("FAILED: the driver finds a fault in the sound lock\n");
                missed++;
            }
        } else if (!e->mode(crash_lock_case(&lock, e->what))->failures) {
            printf("FAILED: the driver did not find the fault of \"%s\"\n", e->name);
            missed++;
        }
    }
    printf("%d faults missed or invented\n", missed);
    return missed != 0;
}
