/* SPDX-License-Identifier: MIT
 *
 * A thousand random kills among four processes that share one mutex: unlike the stepped ones they also land inside
 * system calls, and in each other's way. All that is known of the course of things is kept outside the segment.
 *
 *   crash_random [KILLS [SEED]]
 *
 * Not for valgrind and the sanitizers: see driver.h.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <polyshm/mutex.h>

#include "driver.h"

#define WORKERS 4
#define KILLS 1000
#define KILLS_MAX 100000
#define SECOND INT64_C(1000000000)
/* The whole of it, and how long any survivor may be without a turn. */
#define LIMIT (60 * SECOND)
#define STALL (3 * SECOND)

typedef struct shared {
    pshm_mutex_bytes lock;
    volatile uint64_t a, b;
} shared;

static struct record {
    volatile uint64_t turns[WORKERS], deaths, named;
    volatile uint32_t killed_count;
    volatile uint32_t killed[KILLS_MAX]; /* entered before the kill */
    char wrong[200];
} * record;

static pshm_segment *segment;
static pshm_segment_mutex mutex;
static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static int wrong(const char *what, uint64_t x, uint64_t y)
{
    if (!record->wrong[0])
        snprintf(record->wrong, sizeof record->wrong, "%s (%lu, %lu)", what, (unsigned long)x, (unsigned long)y);
    return 1;
}

static bool was_killed(uint32_t pid)
{
    for (uint32_t i = __atomic_load_n(&record->killed_count, __ATOMIC_SEQ_CST); i > 0; i--)
        if (record->killed[i - 1] == pid)
            return true;
    return false;
}

/* One turn in one of the ways there are; 0, or 1 with a message. */
static int turn(uint64_t n)
{
    shared *at = (shared *)(void *)segment->base;
    pshm_death death;
    int rc;
    if (n % 3 == 0) { /* first as those do who cannot repair: a death is told, and stays marked */
        do
            rc = pshm_segment_mutex_acquire(&mutex, PSHM_FOREVER, &death);
        while (rc == -EINTR);
        if (rc && rc != -EOWNERDEAD)
            return wrong(pshm_error_name(rc), 0, 0);
    } else {
        rc = -EOWNERDEAD;
    }
    if (rc == -EOWNERDEAD) {
        do
            rc = pshm_segment_mutex_recover(&mutex, PSHM_FOREVER, &death);
        while (rc == -EINTR);
        if (rc)
            return wrong(pshm_error_name(rc), 1, 0);
    }
    if (death.died) {
        __atomic_add_fetch(&record->deaths, 1, __ATOMIC_RELAXED);
        if (death.pid) {
            __atomic_add_fetch(&record->named, 1, __ATOMIC_RELAXED);
            if (!was_killed(death.pid))
                return wrong("told the death of a process that nobody killed", death.pid, 0);
        }
        at->b = at->a;
        rc = pshm_segment_mutex_consistent(&mutex);
        if (rc)
            return wrong(pshm_error_name(rc), 2, 0);
    } else if (at->a != at->b) {
        return wrong("the words differ and no death was told", at->a, at->b);
    }
    at->a = at->a + 1;
    at->b = at->b + 1;
    rc = pshm_segment_mutex_release(&mutex);
    return rc ? wrong(pshm_error_name(rc), 3, 0) : 0;
}

static int work(void *number)
{
    size_t me = *(const size_t *)number;
    for (uint64_t n = me;; n++) {
        if (turn(n))
            return 1;
        record->turns[me]++;
    }
}

/* Has everyone had a turn since? */
static bool all_go_on(void)
{
    uint64_t before[WORKERS];
    const struct timespec pause = {0, 300000};
    for (int i = 0; i < WORKERS; i++)
        before[i] = record->turns[i];
    for (int64_t end = pshm_deadline(STALL); pshm_deadline(0) < end; nanosleep(&pause, NULL)) {
        bool all = true;
        for (int i = 0; i < WORKERS; i++)
            all &= record->turns[i] != before[i];
        if (all || record->wrong[0])
            return true;
    }
    return false;
}

static unsigned long run(unsigned long kills)
{
    pid_t workers[WORKERS];
    size_t numbers[WORKERS];
    unsigned long done = 0;
    int64_t end = pshm_deadline(LIMIT);
    for (size_t i = 0; i < WORKERS; i++) {
        numbers[i] = i;
        workers[i] = crash_fork(work, &numbers[i]);
    }
    while (done < kills && !record->wrong[0] && pshm_deadline(0) < end) {
        struct timespec pause = {0, (long)(next_random() % 300000)};
        nanosleep(&pause, NULL);
        /* Now and then two at once. */
        for (unsigned both = next_random() % 8 == 0 ? 2 : 1; both > 0; both--) {
            size_t i = next_random() % WORKERS;
            int status;
            record->killed[record->killed_count] = (uint32_t)workers[i];
            __atomic_add_fetch(&record->killed_count, 1, __ATOMIC_SEQ_CST);
            kill(workers[i], SIGKILL);
            waitpid(workers[i], &status, 0);
            if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
                wrong("a worker ended by itself", (uint64_t)(uint32_t)status, 0);
            workers[i] = crash_fork(work, &numbers[i]);
            done++;
        }
        if (done % 25 == 0 && !all_go_on())
            wrong("a worker has had no turn for three seconds after a kill, their number", done, 0);
    }
    if (!record->wrong[0] && !all_go_on())
        wrong("in the end not everybody goes on", 0, 0);
    for (int i = 0; i < WORKERS; i++) {
        kill(workers[i], SIGKILL);
        record->killed[record->killed_count++] = (uint32_t)workers[i];
        waitpid(workers[i], NULL, 0);
    }
    /* And one who comes to a cold place. */
    if (!record->wrong[0])
        turn(0);
    return done;
}

int main(int argc, char **argv)
{
    unsigned long kills = argc > 1 ? strtoul(argv[1], NULL, 10) : KILLS;
    pshm_options options = PSHM_OPTIONS_INIT;
    options.size = sizeof(shared);
    random_state = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL) * 2654435761u | 1;
    uint64_t seed = random_state;
    if (kills > KILLS_MAX - 2 * WORKERS)
        kills = KILLS_MAX - 2 * WORKERS;
    record = crash_share(sizeof *record);
    int rc = pshm_segment_open("anon:", 5, &options, &segment);
    if (rc == 0)
        rc = pshm_segment_mutex_init(&mutex, segment, 0, true, PSHM_RECURSIVE_NO);
    if (rc) {
        fprintf(stderr, "anon: %s\n", pshm_error_text(rc));
        return 2;
    }
    unsigned long done = run(kills);
    uint64_t turns = ((const shared *)(const void *)segment->base)->a;
    printf("%lu random kills, %lu deaths told, %lu of them with a pid, %lu turns, seed %lu\n", done,
           (unsigned long)record->deaths, (unsigned long)record->named, (unsigned long)turns, (unsigned long)seed);
    if (!record->wrong[0] && done >= KILLS && !record->deaths)
        wrong("no kill met a holder", done, 0);
    if (record->wrong[0])
        printf("FAILED: %s\n", record->wrong);
    else if (done < kills)
        printf("FAILED: out of time\n");
    return record->wrong[0] || done < kills;
}
