/* SPDX-License-Identifier: MIT
 *
 * Arenas that somebody overwrites: before a call, during calls, and before they are opened. All calls end, with whatever
 * result, and none of them with a signal.
 *
 *   fuzz_arena [SEED [CASES]]
 *
 * A case is a seed, run in a process of its own; the arena lies between pages that may not be accessed. Those of even
 * seeds take the same course each time, the others have a thread that flips bytes all the while. What is kept away from
 * are the beacons, as docs/safety.rst says: glibc follows their pointers.
 */
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SEED 1
#define CASES 48
#define CALLS 400
#define MILLISECOND INT64_C(1000000)
/* How long a case goes on. */
#define ENOUGH (100 * MILLISECOND)

fuzz_record *fuzz_noted;

static fuzz_random random_of(uint64_t seed, uint64_t stream)
{
    fuzz_random r = {(seed * 2 + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (stream + 1) * UINT64_C(0xbf58476d1ce4e5b9)};
    if (!r.state)
        r.state = 1;
    for (int i = 0; i < 8; i++)
        fuzz_next(&r);
    return r;
}

/* ---- an arena between guards ---- */

#define GUARD ((size_t)1 << 20)

static uint64_t whole_pages(uint64_t size)
{
    return (size + 4095) & ~UINT64_C(4095);
}

/* Leaves a gap of that size between pages without any rights, and makes it the first one that the kernel will take. */
static unsigned char *leave_gap(uint64_t size)
{
    size = whole_pages(size);
    unsigned char *all = mmap(NULL, size + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED)
        return NULL;
    munmap(all + GUARD, size);
    for (int i = 0; i < 200; i++) {
        void *filler = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (filler == all + GUARD) {
            munmap(filler, size);
            return all + GUARD;
        }
    }
    return NULL;
}

static pshm_arena *open_guarded(const char *address, const pshm_arena_options *options, uint64_t size)
{
    pshm_arena *arena = NULL;
    const unsigned char *gap = leave_gap(size);
    if (pshm_arena_open(address, strlen(address), options, &arena))
        return NULL;
    __atomic_add_fetch(&fuzz_noted->opened, 1, __ATOMIC_RELAXED);
    if (arena->segment->base == gap)
        __atomic_add_fetch(&fuzz_noted->guarded, 1, __ATOMIC_RELAXED);
    return arena;
}

/* ---- cases ---- */

typedef struct fuzz_case {
    uint64_t seed;
    char name[64], address[80];
    uint64_t size;
    pshm_arena_options options;
} fuzz_case;

static fuzz_case plan(uint64_t seed)
{
    fuzz_random r = random_of(seed, 100);
    fuzz_case c = {.seed = seed, .options = PSHM_ARENA_OPTIONS_INIT};
    snprintf(c.name, sizeof c.name, "/polyshm-fuzz-%d", (int)getpid());
    snprintf(c.address, sizeof c.address, "posix:%s", c.name);
    /* Whole pages and others, with and without a rest behind the heap. */
    c.size = (UINT64_C(96) << 10) + fuzz_below(&r, 3) * fuzz_below(&r, UINT64_C(512) << 10);
    if (fuzz_below(&r, 2))
        c.size = whole_pages(c.size);
    c.options.size = c.size;
    c.options.participants = 1 + (uint32_t)fuzz_below(&r, 40);
    c.options.create = true;
    c.options.life = fuzz_below(&r, 8) ? PSHM_LIFE_KEEP : PSHM_LIFE_LAST_DETACH;
    return c;
}

/* Objects, blocks, and a deleted name, so that there is something to flip. */
static void furnish(fuzz_user *u)
{
    char name[32];
    bool created;
    for (int i = 0; i < 30; i++) {
        int length = snprintf(name, sizeof name, "n%d", i);
        pshm_counter c;
        if (pshm_counter_init(&c, u->arena, name, (size_t)length, true, &created) == 0)
            pshm_counter_fini(&c);
        if (i % 3 == 0)
            (void)pshm_arena_delete(u->arena, name, (size_t)length, NULL);
    }
    for (uint32_t i = 0; i < 6; i++)
        (void)pshm_heap_alloc_into(u->arena, pshm_heap_root(i), 1 + i * i * 400);
    for (int i = 0; i < FUZZ_HANDLES / 2; i++) {
        int length = snprintf(name, sizeof name, "m%d", i);
        (void)pshm_mutex_init(&u->mutex[i], u->arena, name, (size_t)length, true, PSHM_RECURSIVE_NO, &created);
    }
}

static void *call_on(void *context)
{
    fuzz_user *u = context;
    int64_t end = pshm_deadline(ENOUGH);
    for (int i = 0; i < CALLS && pshm_deadline(0) < end; i++)
        fuzz_call(u);
    fuzz_end(u);
    return NULL;
}

typedef struct flipping {
    fuzz_random random;
    pshm_segment *segment;
    volatile bool stop;
} flipping;

static void *flip_on(void *context)
{
    flipping *f = context;
    while (!f->stop) {
        fuzz_flip(&f->random, f->segment->base, f->segment->size);
        for (uint64_t pause = fuzz_below(&f->random, 300); pause > 0; pause--)
            __asm__ volatile("");
        if (fuzz_below(&f->random, 50) == 0)
            sched_yield();
    }
    return NULL;
}

/* Bytes change between calls. */
static void run_before(const fuzz_case *c)
{
    fuzz_user u = {.random = random_of(c->seed, 0), .address = c->address};
    int64_t end = pshm_deadline(ENOUGH);
    u.arena = open_guarded(c->address, &c->options, c->size);
    if (!u.arena)
        _exit(5);
    furnish(&u);
    for (int i = 0; i < CALLS && pshm_deadline(0) < end; i++) {
        for (uint64_t flips = fuzz_below(&u.random, 4); flips > 0; flips--)
            fuzz_flip(&u.random, u.arena->segment->base, u.arena->segment->size);
        fuzz_call(&u);
    }
    fuzz_end(&u);
}

/* Bytes change all the time, and two threads call. */
static void run_during(const fuzz_case *c)
{
    static fuzz_user users[2];
    flipping f = {.random = random_of(c->seed, 10)};
    pthread_t threads[2], flipper;
    for (unsigned i = 0; i < 2; i++) {
        users[i] = (fuzz_user){.number = i, .random = random_of(c->seed, i), .address = c->address};
        users[i].arena = open_guarded(c->address, &c->options, c->size);
        if (!users[i].arena)
            _exit(5);
    }
    furnish(&users[0]);
    f.segment = users[0].arena->segment;
    pshm_segment *keep = NULL; /* the flipper's mapping stays when the users have closed theirs */
    pshm_options options = PSHM_OPTIONS_INIT;
    if (pshm_segment_open(c->address, strlen(c->address), &options, &keep) == 0)
        f.segment = keep;
    pthread_create(&flipper, NULL, flip_on, &f);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, call_on, &users[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    f.stop = true;
    pthread_join(flipper, NULL);
}

/* What stands in the file before it is opened: an arena cut short, grown, copied, overwritten; or never one. */
static void spoil(const fuzz_case *c, fuzz_random *r)
{
    int fd = shm_open(c->name, O_RDWR | O_CREAT, 0600);
    off_t size = lseek(fd, 0, SEEK_END);
    unsigned char bytes[256];
    switch (fuzz_below(r, 8)) {
    case 0:
        (void)!ftruncate(fd, (off_t)fuzz_below(r, (uint64_t)size + 1));
        break;
    case 1:
        (void)!ftruncate(fd, size / 4096 * 4096 - (off_t)fuzz_below(r, 4) * 4096);
        break;
    case 2:
        (void)!ftruncate(fd, size + (off_t)fuzz_below(r, 10000));
        break;
    case 3: /* foreign from the start, or in the middle */
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = (unsigned char)fuzz_next(r);
        (void)!pwrite(fd, bytes, sizeof bytes, (off_t)fuzz_below(r, 3) * 40);
        break;
    case 4: /* a copy: another inode with the same bytes */
    case 5: {
        void *map = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);
        shm_unlink(c->name);
        int copy = shm_open(c->name, O_RDWR | O_CREAT | O_EXCL, 0600);
        if (map != MAP_FAILED)
            (void)!write(copy, map, (size_t)size);
        munmap(map, (size_t)size);
        close(copy);
        break;
    }
    default:
        break;
    }
    close(fd);
    fd = shm_open(c->name, O_RDWR, 0600);
    size = lseek(fd, 0, SEEK_END);
    unsigned char *map = size >= 4096 ? mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                                      : MAP_FAILED;
    if (map != MAP_FAILED) {
        for (uint64_t flips = fuzz_below(r, 6); flips > 0; flips--)
            fuzz_flip_head(r, map, (uint64_t)size);
        for (uint64_t flips = fuzz_below(r, 40); flips > 0; flips--)
            fuzz_flip(r, map, (uint64_t)size);
        munmap(map, (size_t)size);
    }
    close(fd);
}

/* Dies in the middle of things, so that there are slots of the dead and held locks. */
static void die_inside(const fuzz_case *c, fuzz_random *r)
{
    pid_t pid = fork();
    if (pid == 0) {
        fuzz_user u = {.random = *r, .address = c->address};
        pshm_death death;
        if (pshm_arena_open(c->address, strlen(c->address), &c->options, &u.arena) == 0) {
            furnish(&u);
            for (int i = 0; i < FUZZ_HANDLES / 2; i++)
                (void)pshm_mutex_try(&u.mutex[i], &death);
        }
        kill(getpid(), SIGKILL);
    }
    waitpid(pid, NULL, 0);
}

static void run_opening(const fuzz_case *c)
{
    fuzz_random r = random_of(c->seed, 20);
    for (int round = 0; round < 4; round++) {
        if (round == 0 || fuzz_below(&r, 3) == 0) {
            shm_unlink(c->name);
            die_inside(c, &r);
        }
        spoil(c, &r);
        pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
        options.access = fuzz_below(&r, 3) ? PSHM_ACCESS_RW : PSHM_ACCESS_R;
        options.create = options.access == PSHM_ACCESS_RW && fuzz_below(&r, 2);
        options.size = options.create ? c->size : PSHM_UNSET;
        fuzz_user u = {.random = r, .address = c->address};
        fuzz_noted->doing[0] = "pshm_arena_open of what was spoilt";
        alarm(5);
        u.arena = open_guarded(c->address, &options, c->size);
        int64_t end = pshm_deadline(ENOUGH / 4);
        for (int i = 0; u.arena && i < CALLS / 4 && pshm_deadline(0) < end; i++)
            fuzz_call(&u);
        if (u.arena)
            fuzz_end(&u);
        r = u.random;
    }
}

static int run_case(uint64_t seed)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        fuzz_case c = plan(seed);
        void (*const ways[])(const fuzz_case *) = {run_before, run_during, run_opening, run_during};
        ways[seed % 4](&c);
        alarm(0);
        shm_unlink(c.name);
        _exit(0);
    }
    int status = 0;
    char name[64];
    waitpid(pid, &status, 0);
    snprintf(name, sizeof name, "/polyshm-fuzz-%d", (int)pid);
    shm_unlink(name);
    if (status == 0)
        return 0;
    printf("FAILED: seed %lu: %s %d, in %s, %s (before: %d, %d)\n", (unsigned long)seed,
           WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? "it hangs:"
           : WIFSIGNALED(status)                              ? "signal"
                                                              : "exit",
           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
           fuzz_noted->doing[0] ? fuzz_noted->doing[0] : "-", fuzz_noted->doing[1] ? fuzz_noted->doing[1] : "-",
           fuzz_noted->last[0], fuzz_noted->last[1]);
    return 1;
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : SEED;
    unsigned long cases = argc > 2 ? strtoul(argv[2], NULL, 10) : CASES, failures = 0;
    fuzz_noted = mmap(NULL, sizeof *fuzz_noted, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (fuzz_noted == MAP_FAILED)
        return 2;
    for (unsigned long i = 0; i < cases && failures < 10; i++)
        failures += (unsigned long)run_case(seed + i);
    printf("%lu cases from seed %lu on: %lu calls, %lu arenas opened, %lu of them between guards, %lu failures\n",
           cases, (unsigned long)seed, (unsigned long)fuzz_noted->calls, (unsigned long)fuzz_noted->opened,
           (unsigned long)fuzz_noted->guarded, failures);
    for (int i = 0; i < 128; i++)
        if (fuzz_noted->codes[i])
            printf("  %s %u\n", pshm_error_name(-1000 - i), fuzz_noted->codes[i]);
    if (!fuzz_noted->guarded && fuzz_noted->opened)
        printf("note: no arena lay between guards\n");
    return failures != 0;
}
