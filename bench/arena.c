/* SPDX-License-Identifier: MIT
 *
 * One round of the arena's figures in C, beside their floors: lines of "name<tab>value". Nanoseconds per operation, unless
 * the name says otherwise.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <polyshm/condition.h>
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

static pshm_arena *arena;
static pshm_mutex mutex;
static pshm_rwlock rwlocks[2];
static pshm_counter counter;
static pshm_condition condition;
static pshm_semaphore semaphore;
static pshm_event event;
static pshm_latch latch;
static pshm_permits permits;
static pshm_once once;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void check(int rc, const char *what)
{
    if (rc) {
        fprintf(stderr, "%s: %s\n", what, pshm_error_text(rc));
        exit(1);
    }
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static pshm_arena *open_arena(const char *address, uint64_t size)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    options.size = size;
    options.create = true;
    options.reserve = 0;
    pshm_arena *made;
    check(pshm_arena_open(address, strlen(address), &options, &made), address);
    return made;
}

/* ---- one thread ---- */

static uint64_t *word;
static pthread_mutex_t *robust;

static void bare_pair(long n)
{
    for (long i = 0; i < n; i++) {
        uint64_t nobody = 0;
        __atomic_compare_exchange_n(word, &nobody, 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
        __atomic_exchange_n(word, 0, __ATOMIC_RELEASE);
    }
}

static void bare_add(long n)
{
    for (long i = 0; i < n; i++)
        __atomic_add_fetch(word, 1, __ATOMIC_SEQ_CST);
}

static void robust_pair(long n)
{
    for (long i = 0; i < n; i++) {
        pthread_mutex_lock(robust);
        pthread_mutex_unlock(robust);
    }
}

static void mutex_pair(long n)
{
    pshm_death death;
    for (long i = 0; i < n; i++)
        if (pshm_mutex_try(&mutex, &death) || pshm_mutex_release(&mutex))
            abort();
}

static void read_pairs(pshm_rwlock *rwlock, long n)
{
    pshm_death death;
    for (long i = 0; i < n; i++)
        if (pshm_rwlock_read_try(rwlock, &death) || pshm_rwlock_read_release(rwlock))
            abort();
}

static void read_pair(long n)
{
    read_pairs(&rwlocks[0], n);
}

static void write_pair(long n)
{
    pshm_death death;
    for (long i = 0; i < n; i++)
        if (pshm_rwlock_write_try(&rwlocks[0], &death) || pshm_rwlock_write_release(&rwlocks[0]))
            abort();
}

/* Nobody waits. */
static void mutex_pair_and_notify(long n)
{
    pshm_death death;
    for (long i = 0; i < n; i++)
        if (pshm_mutex_try(&mutex, &death) || pshm_condition_notify(&condition, 1) || pshm_mutex_release(&mutex))
            abort();
}

static void semaphore_pair(long n)
{
    for (long i = 0; i < n; i++)
        if (pshm_semaphore_try(&semaphore) || pshm_semaphore_release(&semaphore, 1))
            abort();
}

static void event_pair(long n)
{
    for (long i = 0; i < n; i++)
        if (pshm_event_set(&event) || pshm_event_clear(&event))
            abort();
}

static void event_is_set(long n)
{
    for (long i = 0; i < n; i++)
        if (pshm_event_is_set(&event) < 0)
            abort();
}

static void latch_count_down(long n)
{
    uint32_t left;
    for (long i = 0; i < n; i++)
        if (pshm_latch_count_down(&latch, 1, &left))
            abort();
}

static void permits_pair(long n)
{
    for (long i = 0; i < n; i++)
        if (pshm_permits_try(&permits, 1) || pshm_permits_release(&permits, 1))
            abort();
}

static void once_done(long n)
{
    for (long i = 0; i < n; i++)
        if (pshm_once_done(&once) < 0)
            abort();
}

static void counter_add(long n)
{
    int64_t value;
    for (long i = 0; i < n; i++)
        if (pshm_counter_add(&counter, 1, &value))
            abort();
}

static void malloc_pair(long n)
{
    for (long i = 0; i < n; i++) {
        void *p = malloc(64);
        __asm__ volatile("" : : "r"(p) : "memory");
        free(p);
    }
}

static void alloc_pair(long n)
{
    uint64_t root = pshm_heap_root(0);
    for (long i = 0; i < n; i++)
        if (pshm_heap_alloc_into(arena, root, 64) || pshm_heap_free_from(arena, root))
            abort();
}

/* The best of several short runs, turn by turn with the others. */
typedef struct figure {
    const char *name;
    void (*run)(long n);
    double best;
} figure;

static void quick(void)
{
    figure figures[] = {{"bare CAS + exchange", bare_pair, 0},
                        {"robust pthread pair", robust_pair, 0},
                        {"mutex pair", mutex_pair, 0},
                        {"rwlock read pair", read_pair, 0},
                        {"rwlock write pair", write_pair, 0},
                        {"mutex pair with notify", mutex_pair_and_notify, 0},
                        {"semaphore pair", semaphore_pair, 0},
                        {"event pair", event_pair, 0},
                        {"event.is_set", event_is_set, 0},
                        {"permits pair", permits_pair, 0},
                        {"once.done", once_done, 0},
                        {"bare add", bare_add, 0},
                        {"latch.count_down", latch_count_down, 0},
                        {"counter.add", counter_add, 0},
                        {"malloc + free 64", malloc_pair, 0},
                        {"alloc_into + free_from 64", alloc_pair, 0}};
    const long n = 200000;
    for (int turn = 0; turn < 9; turn++) {
        for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
            double start = now();
            figures[i].run(n);
            double taken = (now() - start) / (double)n;
            if (!turn || taken < figures[i].best)
                figures[i].best = taken;
        }
    }
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
        printf("%s\t%.3f\n", figures[i].name, figures[i].best);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void attach(const char *address, uint64_t size, const char *name)
{
    double all[101];
    pshm_arena *made = open_arena(address, size);
    pshm_arena_close(made);
    for (int i = 0; i < 101; i++) {
        pshm_arena *a;
        double start = now();
        check(pshm_arena_open(address, strlen(address), NULL, &a), "attach");
        all[i] = now() - start;
        pshm_arena_close(a);
        pshm_arena_release(a);
    }
    qsort(all, 101, sizeof *all, by_size);
    printf("%s\t%.1f\n", name, all[50] / 1000);
    check(pshm_unlink(address, strlen(address)), "unlink");
    pshm_arena_release(made);
}

/* ---- two processes ---- */

#define TURNS 20000

static long futex(uint32_t *at, int operation, uint32_t value)
{
    return syscall(SYS_futex, at, operation, value, NULL, NULL, 0);
}

/* Each waits until the word says that it is its turn, and wakes the other. */
static void futex_turns(uint32_t *at, uint32_t me)
{
    for (int i = 0; i < TURNS; i++) {
        while (__atomic_load_n(at, __ATOMIC_ACQUIRE) != me)
            futex(at, FUTEX_WAIT, !me);
        __atomic_store_n(at, !me, __ATOMIC_RELEASE);
        futex(at, FUTEX_WAKE, 1);
    }
}

/* Three mutexes in a ring: each process has one and wants the next, which it gets when the other has gone on. */
static void mutex_turns(pshm_mutex ring[3], int first)
{
    pshm_death death;
    int at = first;
    for (int i = 0; i < TURNS; i++) {
        int next = (at + 1) % 3, rc;
        do
            rc = pshm_mutex_acquire(&ring[next], PSHM_FOREVER, &death);
        while (rc == -EINTR);
        check(rc, "acquire");
        check(pshm_mutex_release(&ring[at]), "release");
        at = next;
    }
    check(pshm_mutex_release(&ring[at]), "release");
}

static void hand_over(void)
{
    uint32_t *turn = (uint32_t *)(void *)(word + 8);
    pshm_mutex ring[3];
    pshm_death death;
    bool created;
    *turn = 0;
    for (int i = 0; i < 3; i++) {
        char name[8];
        int length = snprintf(name, sizeof name, "ring%d", i);
        check(pshm_mutex_init(&ring[i], arena, name, (size_t)length, true, PSHM_RECURSIVE_ANY, &created), "ring");
    }
    pid_t child = fork();
    if (child == 0) {
        futex_turns(turn, 1);
        _exit(0);
    }
    double start = now();
    futex_turns(turn, 0);
    waitpid(child, NULL, 0);
    printf("futex hand-over\t%.1f\n", (now() - start) / (2.0 * TURNS));

    uint32_t *ready = turn + 1;
    *ready = 0;
    check(pshm_mutex_try(&ring[0], &death), "first");
    child = fork();
    if (child == 0) {
        check(pshm_mutex_try(&ring[1], &death), "second");
        __atomic_store_n(ready, 1, __ATOMIC_RELEASE);
        mutex_turns(ring, 1);
        _exit(0);
    }
    while (!__atomic_load_n(ready, __ATOMIC_ACQUIRE))
        sched_yield();
    start = now();
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    mutex_turns(ring, 0);
    getrusage(RUSAGE_SELF, &after);
    waitpid(child, NULL, 0);
    printf("mutex hand-over\t%.1f\n", (now() - start) / (2.0 * TURNS));
    printf("sleeps a hand-over\t%.4f\n", (double)(after.ru_nvcsw - before.ru_nvcsw) / TURNS);
    for (int i = 0; i < 3; i++)
        pshm_mutex_fini(&ring[i]);
}

/* Two threads that read, each on a core of its own: nanoseconds per pair of the slower one. */

typedef struct reading {
    pshm_rwlock *rwlock;
    int cpu;
    pthread_barrier_t *start;
    double taken;
} reading;

static void *read_on_a_core(void *context)
{
    reading *r = context;
    const long n = 50000; /* short, so that some turns are not disturbed */
    pin(r->cpu);
    read_pairs(r->rwlock, 1000);
    pthread_barrier_wait(r->start);
    double start = now();
    read_pairs(r->rwlock, n);
    r->taken = (now() - start) / (double)n;
    return NULL;
}

static double two_readers(pshm_rwlock *first, pshm_rwlock *second)
{
    pthread_barrier_t start;
    reading all[2] = {{first, 0, &start, 0}, {second, 1, &start, 0}};
    pthread_t threads[2];
    pthread_barrier_init(&start, NULL, 2);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, read_on_a_core, &all[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&start);
    return all[0].taken > all[1].taken ? all[0].taken : all[1].taken;
}

static void two_cores(void)
{
    double one = 1e9, two = 1e9;
    for (int turn = 0; turn < 61; turn++) {
        double same = two_readers(&rwlocks[0], &rwlocks[0]), apart = two_readers(&rwlocks[0], &rwlocks[1]);
        one = same < one ? same : one;
        two = apart < two ? apart : two;
    }
    printf("two readers of one rwlock\t%.3f\n", one);
    printf("two readers of two rwlocks\t%.3f\n", two);
}

/* ---- death ---- */

/* Milliseconds from the kill of a holder until a process that waits has the lock, and until a pidfd is readable. */
static void death_of_holder(size_t resident, const char *label)
{
    enum { RUNS = 41 };
    static double got[RUNS], seen[RUNS];
    double *at = (double *)(void *)(word + 16);
    uint32_t *ready = (uint32_t *)(void *)(word + 24);
    for (int i = 0; i < RUNS; i++) {
        pshm_death death;
        *ready = 0;
        pid_t holder = fork();
        if (holder == 0) {
            if (resident) {
                char *memory = mmap(NULL, resident, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
                                    -1, 0);
                memset(memory, 1, resident);
            }
            check(pshm_mutex_try(&mutex, &death), "holder");
            __atomic_store_n(ready, 1, __ATOMIC_RELEASE);
            for (;;)
                pause();
        }
        while (!__atomic_load_n(ready, __ATOMIC_ACQUIRE))
            usleep(200);
        pid_t waiter = fork();
        if (waiter == 0) {
            __atomic_store_n(ready, 2, __ATOMIC_RELEASE);
            int rc;
            do
                rc = pshm_mutex_recover(&mutex, PSHM_FOREVER, &death);
            while (rc == -EINTR);
            *at = now();
            _exit(rc || !death.died || pshm_mutex_consistent(&mutex) || pshm_mutex_release(&mutex));
        }
        usleep(3000);
        int fd = (int)syscall(SYS_pidfd_open, holder, 0);
        struct pollfd poller = {.fd = fd, .events = POLLIN};
        double start = now();
        kill(holder, SIGKILL);
        poll(&poller, 1, 10000);
        seen[i] = (now() - start) / 1e6;
        int status;
        waitpid(waiter, &status, 0);
        if (status)
            fprintf(stderr, "waiter ended with %x\n", status);
        got[i] = (*at - start) / 1e6;
        waitpid(holder, NULL, 0);
        close(fd);
    }
    qsort(got, RUNS, sizeof *got, by_size);
    qsort(seen, RUNS, sizeof *seen, by_size);
    printf("death%s: lock ms\t%.4f\n", label, got[RUNS / 2]);
    printf("death%s: lock ms, worst\t%.4f\n", label, got[RUNS - 1]);
    printf("death%s: pidfd ms\t%.4f\n", label, seen[RUNS / 2]);
}

int main(void)
{
    char address[64];
    bool created;
    word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    robust = (pthread_mutex_t *)(void *)(word + 64);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(robust, &attributes);
    snprintf(address, sizeof address, "posix:/bench-arena-%d", (int)getpid());
    arena = open_arena(address, UINT64_C(16) << 20);
    check(pshm_unlink(address, strlen(address)), "unlink");
    check(pshm_mutex_init(&mutex, arena, "m", 1, true, PSHM_RECURSIVE_ANY, &created), "mutex");
    check(pshm_counter_init(&counter, arena, "c", 1, true, &created), "counter");
    check(pshm_rwlock_init(&rwlocks[0], arena, "r", 1, true, NULL), "rwlock");
    check(pshm_rwlock_init(&rwlocks[1], arena, "s", 1, true, NULL), "rwlock");
    check(pshm_condition_init(&condition, arena, "d", 1, true, &mutex, NULL), "condition");
    check(pshm_semaphore_init(&semaphore, arena, "semaphore", 9, true, 1, NULL), "semaphore");
    check(pshm_event_init(&event, arena, "event", 5, true, PSHM_AUTOMATIC_NO, NULL), "event");
    check(pshm_latch_init(&latch, arena, "latch", 5, true, PSHM_LATCH_MAX, NULL), "latch");
    check(pshm_permits_init(&permits, arena, "permits", 7, true, 4, NULL), "permits");
    check(pshm_once_init(&once, arena, "once", 4, true, NULL), "once");
    death_of_holder(0, "");
    death_of_holder((size_t)512 << 20, " with 512 MiB");
    two_cores();
    pin(0);
    quick();
    hand_over();
    snprintf(address, sizeof address, "posix:/bench-attach-%d", (int)getpid());
    attach(address, UINT64_C(1) << 30, "attach 1 GiB us");
    attach(address, UINT64_C(1) << 24, "attach 16 MiB us");
    return 0;
}
