/* SPDX-License-Identifier: MIT
 *
 * Everything that can be done to an arena by several processes of several threads, and an adversary who kills, stops and
 * continues them, takes their memory away, and has them fork, exec, exit and lose threads. What is known of the course of
 * things is kept outside the arena.
 *
 *   crash_soak [SECONDS [SEED]]     10 seconds unless told
 *   crash_soak stop [SECONDS]       an owner is stopped for a minute, and is no dead one
 *   crash_soak join ADDRESS LOG NUMBER SEED    one worker, for soak_mixed.py
 *
 * The seed makes the same choices, not the same course: that is the scheduler's. Not for valgrind and the sanitizers.
 */
#include "driver_soak.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/layout.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_process_mrelease
#define SYS_process_mrelease 448
#endif

#define SECOND INT64_C(1000000000)
/* Slices that a survivor may be without a turn. */
#define STALL 60
/* How often all are killed and everything is counted. */
#define EPOCH (4 * SECOND)

static uint64_t state;
static int log_fd;
static struct {
    unsigned long kills, pairs, stops, released, commands[SOAK_COMMANDS], epochs;
} count;

static uint64_t below(uint64_t end)
{
    return soak_random(&state) % end;
}

static void nap(int64_t nanoseconds)
{
    const struct timespec pause = {nanoseconds / SECOND, nanoseconds % SECOND};
    nanosleep(&pause, NULL);
}

/* ---- workers ---- */

static void spawn(unsigned worker)
{
    fflush(stdout);
    soak->command[worker] = SOAK_NOTHING;
    pid_t pid = fork();
    if (pid == 0)
        _exit(soak_work(worker, false));
    soak->pid[worker] = (uint32_t)pid;
}

/* It ends now, by what was done to it. */
static void reap(uint32_t pid, bool killed)
{
    int status = 0;
    int64_t end = pshm_deadline(STALL * PSHM_SLICE_NS);
    pid_t got;
    while ((got = waitpid((pid_t)pid, &status, WNOHANG)) == 0 && pshm_deadline(0) < end)
        nap(200000);
    if (got != (pid_t)pid)
        soak_wrong("worker %u does not end", pid);
    else if (killed ? !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL : status != 0)
        soak_wrong("worker %u ended by itself, status %#x", pid, (unsigned)status);
}

static void kill_some(unsigned how_many)
{
    uint32_t pids[SOAK_WORKERS];
    unsigned first = (unsigned)below(SOAK_WORKERS);
    for (unsigned i = 0; i < how_many; i++)
        soak_note_end(pids[i] = soak->pid[(first + i) % SOAK_WORKERS]);
    for (unsigned i = 0; i < how_many; i++)
        kill((pid_t)pids[i], SIGKILL);
    for (unsigned i = 0; i < how_many; i++) {
        reap(pids[i], true);
        if (how_many < SOAK_WORKERS)
            spawn((first + i) % SOAK_WORKERS);
    }
    count.kills += how_many;
}

/* Its memory goes at once, before its threads have come to their end: the kernel cannot walk their robust lists. */
static void kill_and_release(void)
{
    uint32_t pid = soak->pid[0];
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    soak_note_end(pid);
    kill((pid_t)pid, SIGKILL);
    if (fd >= 0 && syscall(SYS_process_mrelease, fd, 0) == 0)
        count.released++;
    if (fd >= 0)
        close(fd);
    reap(pid, true);
    spawn(0);
    count.kills++;
}

static void stop_and_go_on(void)
{
    uint32_t pid = soak->pid[below(SOAK_WORKERS)];
    kill((pid_t)pid, SIGSTOP);
    nap((int64_t)below((uint64_t)(3 * PSHM_SLICE_NS)));
    kill((pid_t)pid, SIGCONT);
    count.stops++;
}

static void command(soak_command what)
{
    unsigned worker = (unsigned)below(SOAK_WORKERS);
    uint32_t pid = soak->pid[worker];
    int64_t end = pshm_deadline(STALL * PSHM_SLICE_NS);
    __atomic_store_n(&soak->command[worker], what, __ATOMIC_SEQ_CST);
    count.commands[what]++;
    if (what == SOAK_EXIT) {
        reap(pid, false);
        spawn(worker);
        return;
    }
    while (__atomic_load_n(&soak->command[worker], __ATOMIC_SEQ_CST) && !soak->wrong[0]) {
        if (pshm_deadline(0) > end) {
            soak_wrong("worker %u does not do what it is told, %d", worker, (int)what);
            return;
        }
        nap(500000);
    }
    if (what == SOAK_FORK && !soak->wrong[0])
        reap(pid, true);
}

static void act(void)
{
    uint64_t choice = below(100);
    if (choice < 50)
        kill_some(1);
    else if (choice < 60)
        kill_some(2), count.pairs++;
    else if (choice < 68)
        kill_and_release();
    else if (choice < 74)
        stop_and_go_on();
    else
        command((soak_command)(1 + below(SOAK_COMMANDS - 1)));
}

/* Has every thread had a turn since? */
static void expect_progress(void)
{
    uint64_t before[SOAK_WORKERS][SOAK_THREADS];
    int64_t end = pshm_deadline(STALL * PSHM_SLICE_NS);
    memcpy(before, (const void *)(uintptr_t)soak->turns, sizeof before);
    for (;;) {
        unsigned stuck = UINT32_MAX;
        for (unsigned i = 0; i < SOAK_WORKERS * SOAK_THREADS; i++)
            if (soak->turns[i / SOAK_THREADS][i % SOAK_THREADS] == before[i / SOAK_THREADS][i % SOAK_THREADS])
                stuck = i;
        if (stuck == UINT32_MAX || soak->wrong[0])
            return;
        if (pshm_deadline(0) > end) {
            soak_wrong("worker %u.%u has had no turn for %d slices", stuck / SOAK_THREADS, stuck % SOAK_THREADS, STALL);
            return;
        }
        nap(1000000);
    }
}

/* ---- counting ---- */

static void expect_clean(pshm_arena *arena, const char *when)
{
    char *report = NULL;
    size_t findings = 0;
    int rc = pshm_arena_check(arena, &report, &findings);
    if (rc || findings)
        soak_wrong("check %s: %s %.250s", when, rc ? pshm_error_name(rc) : "", report ? report : "");
    pshm_report_free(report);
}

/* All workers are dead: every lock can be had, nothing is leaked, nobody is left. */
static void count_everything(soak_hands *h, uint64_t added_most)
{
    char name[16];
    pshm_arena_stats stats;
    pshm_participant *all;
    size_t participants;
    for (unsigned i = 0; i < SOAK_LOCKS && !soak->wrong[0]; i++)
        soak_settle(h, i);
    for (unsigned i = 0; i < SOAK_COUNTERS; i++) {
        int64_t value = 0;
        int rc = pshm_counter_load(&h->counters[i], &value);
        /* One that was killed had added and not noted it yet. */
        if (rc || (uint64_t)value < soak->counted[i] || (uint64_t)value > soak->counted[i] + added_most)
            soak_wrong("counter %u has %ld, noted are %lu", i, (long)value, (unsigned long)soak->counted[i]);
    }
    expect_clean(h->arena, "after the deaths");
    for (unsigned i = 0; i < SOAK_NAMES; i++) {
        int rc = pshm_arena_delete(h->arena, name, (size_t)sprintf(name, "name%u", i), NULL);
        if (rc && rc != PSHM_ENONAME)
            soak_wrong("delete in the end: %s", pshm_error_name(rc));
    }
    for (unsigned i = 0; i < SOAK_ROOTS; i++)
        if (pshm_heap_free_from(h->arena, pshm_heap_root(SOAK_LOCKS + i)))
            soak_wrong("free in the end");
    /* Whatever nobody is at work on any more is freed by the next who creates or deletes. */
    pshm_counter last;
    bool created;
    if (pshm_counter_init(&last, h->arena, "last", 4, true, &created) == 0)
        pshm_counter_fini(&last);
    if (pshm_arena_delete(h->arena, "last", 4, NULL))
        soak_wrong("the last name cannot be deleted");
    const pshm_head *head = (const pshm_head *)h->arena->segment->base;
    uint64_t needed = 0, size = 0;
    pshm_heap_block_size(h->arena, head->directory.table[head->directory.active & 1], &needed);
    for (unsigned i = 0; i < SOAK_LOCKS; i++) {
        uint64_t place = *(uint64_t *)((unsigned char *)h->arena->segment->base + pshm_heap_root(i));
        const soak_books *books = (const soak_books *)((unsigned char *)h->arena->segment->base + place);
        needed += pshm_heap_block_size(h->arena, place, &size) == 0 ? size : 0;
        for (unsigned j = 0; j < SOAK_NESTED; j++)
            needed += books->nested[j] && pshm_heap_block_size(h->arena, books->nested[j], &size) == 0 ? size : 0;
        needed += pshm_heap_block_size(h->arena, h->locks[i].object.place, &size) == 0 ? size : 0;
    }
    for (unsigned i = 0; i < SOAK_COUNTERS; i++)
        needed += pshm_heap_block_size(h->arena, h->counters[i].object.place, &size) == 0 ? size : 0;
    int rc = pshm_arena_stats_of(h->arena, &stats);
    if (rc || stats.used != needed || stats.objects != SOAK_LOCKS + SOAK_COUNTERS)
        soak_wrong("%lu bytes are used by %lu objects, and %lu are needed", (unsigned long)stats.used,
                   (unsigned long)stats.objects, (unsigned long)needed);
    expect_clean(h->arena, "in the end");
    if (pshm_arena_list_participants(h->arena, &all, &participants) == 0) {
        for (size_t i = 0; i < participants; i++)
            if (all[i].alive && !all[i].self)
                soak_wrong("slot %u is that of %u, who should be dead", all[i].slot, all[i].pid);
        pshm_participants_free(all);
    }
}

static int make_arena(soak_hands *h)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    char name[16];
    bool created;
    pshm_arena *arena;
    options.size = 4 << 20;
    options.participants = 40;
    options.create = options.exclusive = true;
    int rc = pshm_arena_open(soak->address, strlen(soak->address), &options, &arena);
    if (rc)
        return soak_wrong("create: %s", pshm_error_name(rc));
    for (int i = 0; i < SOAK_LOCKS && !rc; i++) {
        pshm_mutex lock;
        rc = pshm_mutex_init(&lock, arena, name, (size_t)sprintf(name, "lock%d", i), true, PSHM_RECURSIVE_NO, &created);
        pshm_mutex_fini(&lock);
        if (!rc)
            rc = pshm_heap_alloc_into(arena, pshm_heap_root((uint32_t)i), sizeof(soak_books));
    }
    for (int i = 0; i < SOAK_COUNTERS && !rc; i++) {
        pshm_counter counter;
        rc = pshm_counter_init(&counter, arena, name, (size_t)sprintf(name, "counter%d", i), true, &created);
        pshm_counter_fini(&counter);
    }
    if (rc)
        soak_wrong("set up: %s", pshm_error_name(rc));
    int opened = soak_open(h);
    pshm_arena_close(arena);
    pshm_arena_release(arena);
    return rc || opened;
}

static void run(int64_t length)
{
    soak_hands h = {.worker = 99, .random = state};
    if (make_arena(&h))
        return;
    int64_t end = pshm_deadline(length);
    while (pshm_deadline(0) < end && !soak->wrong[0]) {
        int64_t pause = pshm_deadline(EPOCH);
        for (unsigned i = 0; i < SOAK_WORKERS; i++)
            spawn(i);
        for (unsigned n = 0; pshm_deadline(0) < end && pshm_deadline(0) < pause && !soak->wrong[0]; n++) {
            nap((int64_t)below(4000000));
            act();
            if (n % 40 == 39) {
                expect_progress();
                expect_clean(h.arena, "meanwhile");
            }
        }
        if (!soak->wrong[0])
            expect_progress();
        kill_some(SOAK_WORKERS);
        count.epochs++;
        if (!soak->wrong[0])
            count_everything(&h, (count.kills + count.commands[SOAK_FORK] + count.commands[SOAK_EXEC]) * SOAK_THREADS);
    }
    pshm_arena_unlink(h.arena);
    soak_close(&h);
}

/* ---- an owner that is stopped for long ---- */

static int stop_for(unsigned seconds)
{
    soak_hands h = {0};
    pshm_death death;
    int status;
    if (make_arena(&h))
        return 1;
    pid_t pid = fork();
    if (pid == 0) {
        if (pshm_mutex_try(&h.locks[0], &death))
            _exit(1);
        raise(SIGSTOP);
        _exit(pshm_mutex_release(&h.locks[0]) != 0);
    }
    waitpid(pid, &status, WUNTRACED);
    int64_t end = pshm_deadline(seconds * SECOND);
    int rc = -EINTR;
    while (rc == -EINTR && pshm_deadline(0) < end)
        rc = pshm_mutex_recover(&h.locks[0], end, &death);
    if (rc != -EINTR && rc != -ETIMEDOUT)
        soak_wrong("a stopped owner's lock: %s", rc ? pshm_error_name(rc) : "taken");
    kill(pid, SIGCONT);
    waitpid(pid, &status, 0);
    if (status)
        soak_wrong("the owner could not release, %#x", (unsigned)status);
    if (pshm_mutex_try(&h.locks[0], &death) || death.died || pshm_mutex_release(&h.locks[0]))
        soak_wrong("and it is no lock any more");
    pshm_arena_unlink(h.arena);
    soak_close(&h);
    return soak->wrong[0] != 0;
}

/* ---- one worker among those of other languages ---- */

/* Its turns are counted in the word NUMBER of the segment LOG. */
static int join(const char *address, const char *log, unsigned number, uint64_t seed)
{
    soak_hands h = {.worker = number, .random = seed * 2654435761u | 1};
    pshm_segment *segment;
    if (pshm_segment_open(log, strlen(log), NULL, &segment))
        return soak_wrong("no log");
    soak->joined = true;
    snprintf(soak->address, sizeof soak->address, "%s", address);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (soak_open(&h))
        return 1;
    volatile uint64_t *turns = (uint64_t *)(void *)segment->base + number;
    for (;;) {
        if (soak_turn(&h))
            return 1;
        *turns = *turns + 1;
    }
}

/* ---- the program ---- */

static int open_log(void)
{
    const char *known = getenv("SOAK_LOG");
    char text[16];
    log_fd = known ? atoi(known) : memfd_create("soak", 0);
    if (log_fd < 0 || (!known && ftruncate(log_fd, sizeof *soak)))
        return -1;
    snprintf(text, sizeof text, "%d", log_fd);
    setenv("SOAK_LOG", text, 1);
    void *map = mmap(NULL, sizeof *soak, PROT_READ | PROT_WRITE, MAP_SHARED, log_fd, 0);
    soak = map;
    return map == MAP_FAILED ? -1 : 0;
}

int main(int argc, char **argv)
{
    bool worker = argc > 2 && strcmp(argv[1], "worker") == 0, stop = argc > 1 && strcmp(argv[1], "stop") == 0;
    if (!worker)
        unsetenv("SOAK_LOG");
    if (open_log()) {
        perror("log");
        return 2;
    }
    if (argc > 5 && strcmp(argv[1], "join") == 0) {
        int failed = join(argv[2], argv[3], (unsigned)atoi(argv[4]), strtoull(argv[5], NULL, 10));
        fprintf(stderr, "%s\n", soak->wrong);
        return failed;
    }
    if (worker)
        return soak_work((unsigned)atoi(argv[2]), true);
    setvbuf(stdout, NULL, _IOLBF, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    snprintf(soak->address, sizeof soak->address, "posix:/polyshm-soak-%d", (int)getpid());
    if (stop) {
        int failed = stop_for(argc > 2 ? (unsigned)atoi(argv[2]) : 60);
        printf("%s%s\n", failed ? "FAILED: " : "stopped and no dead one", soak->wrong);
        return failed;
    }
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL) * 2654435761u;
    soak->seed = state;
    printf("seed %lu\n", (unsigned long)state);
    state = state * 2 + 1;
    run((argc > 1 ? atoi(argv[1]) : 10) * SECOND);
    uint64_t turns = 0;
    for (unsigned i = 0; i < SOAK_WORKERS * SOAK_THREADS; i++)
        turns += soak->turns[i / SOAK_THREADS][i % SOAK_THREADS];
    printf("%lu turns, %lu kills (%lu pairs, %lu with their memory taken), %lu stops; threads lost %lu, forks %lu, "
           "execs %lu, exits %lu; %lu deaths told, %lu by name; everything counted %lu times\n",
           (unsigned long)turns, count.kills, count.pairs, count.released, count.stops, count.commands[SOAK_END_THREAD],
           count.commands[SOAK_FORK], count.commands[SOAK_EXEC], count.commands[SOAK_EXIT], (unsigned long)soak->told,
           (unsigned long)soak->named, count.epochs);
    if (!soak->wrong[0] && !soak->told)
        soak_wrong("no kill met an owner");
    if (soak->wrong[0])
        printf("FAILED: %s\n", soak->wrong);
    return soak->wrong[0] != 0;
}
