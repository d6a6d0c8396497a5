/* SPDX-License-Identifier: MIT
 *
 * The life of a worker of crash_soak: its threads, and what it does when it is told to.
 */
#include "driver_soak.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

typedef struct soak_thread {
    soak_hands hands;
    pthread_t id;
    volatile bool leave; /* give back everything and end */
    volatile bool drop;  /* end with a lock in its hands */
    bool runs;
} soak_thread;

static soak_thread threads[SOAK_THREADS];

static uint64_t seed_of(unsigned worker, unsigned thread)
{
    uint64_t state = (soak->seed + worker * 131 + thread * 17 + (uint64_t)getpid() * 7919) * 2654435761u | 1;
    for (int i = 0; i < 10; i++)
        soak_random(&state);
    return state;
}

static void *run(void *context)
{
    soak_thread *t = context;
    soak_hands *h = &t->hands;
    pshm_death death;
    h->random = seed_of(h->worker, h->thread);
    if (soak_open(h))
        _exit(1);
    while (!t->leave) {
        if (soak_turn(h))
            _exit(1);
        soak->turns[h->worker][h->thread]++;
        if (t->drop && pshm_mutex_try(&h->locks[soak_random(&h->random) % SOAK_LOCKS], &death) == 0)
            return NULL;
    }
    soak_close(h);
    return NULL;
}

static void start(unsigned worker, unsigned thread)
{
    soak_thread *t = &threads[thread];
    *t = (soak_thread){.hands = {.worker = worker, .thread = thread}};
    if (pthread_create(&t->id, NULL, run, t))
        _exit(soak_wrong("no thread"));
}

/* The handles stay open, as a thread's do that ends in the middle of things: they are closed for it. */
static void end_thread(unsigned worker)
{
    unsigned thread = 1 + (unsigned)(soak->turns[worker][0] % (SOAK_THREADS - 1));
    soak_note_end((uint32_t)getpid());
    threads[thread].drop = true;
    pthread_join(threads[thread].id, NULL);
    soak_close(&threads[thread].hands);
    start(worker, thread);
}

static void go_on_in_child(soak_hands *h)
{
    pid_t parent = getpid();
    soak_note_end((uint32_t)parent);
    pid_t pid = fork();
    if (pid < 0)
        _exit(soak_wrong("no child"));
    if (pid > 0) { /* is killed in the middle of what its threads do, once the child has said who it is */
        while (soak->pid[h->worker] == (uint32_t)parent)
            usleep(100);
        kill(parent, SIGKILL);
    }
    soak->pid[h->worker] = (uint32_t)getpid();
    h->random = seed_of(h->worker, 0);
    for (unsigned i = 1; i < SOAK_THREADS; i++)
        start(h->worker, i); /* the handles of the parent's threads are lost with those */
    while (getppid() == parent)
        usleep(100);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static void start_again(soak_hands *h)
{
    pshm_death death;
    char worker[16];
    sprintf(worker, "%u", h->worker);
    soak_note_end((uint32_t)getpid());
    (void)pshm_mutex_try(&h->locks[soak_random(&h->random) % SOAK_LOCKS], &death);
    execl("/proc/self/exe", "crash_soak", "worker", worker, (char *)NULL);
    _exit(soak_wrong("no exec"));
}

static void end_well(soak_hands *h)
{
    for (unsigned i = 1; i < SOAK_THREADS; i++)
        threads[i].leave = true;
    for (unsigned i = 1; i < SOAK_THREADS; i++)
        pthread_join(threads[i].id, NULL);
    soak_close(h);
    exit(0);
}

int soak_work(unsigned worker, bool again)
{
    soak_hands *h = &threads[0].hands;
    *h = (soak_hands){.worker = worker, .random = seed_of(worker, 0)};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (worker == 0) { /* so that there is something to take away early */
        size_t much = (size_t)16 << 20;
        void *memory = mmap(NULL, much, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory != MAP_FAILED)
            memset(memory, 1, much);
    }
    if (soak_open(h))
        return 1;
    for (unsigned i = 1; i < SOAK_THREADS; i++)
        start(worker, i);
    if (again)
        __atomic_store_n(&soak->command[worker], SOAK_NOTHING, __ATOMIC_SEQ_CST);
    for (;;) {
        uint32_t command = __atomic_load_n(&soak->command[worker], __ATOMIC_SEQ_CST);
        if (command == SOAK_END_THREAD)
            end_thread(worker);
        else if (command == SOAK_FORK)
            go_on_in_child(h);
        else if (command == SOAK_EXEC)
            start_again(h);
        else if (command == SOAK_EXIT)
            end_well(h);
        if (command)
            __atomic_store_n(&soak->command[worker], SOAK_NOTHING, __ATOMIC_SEQ_CST);
        if (soak_turn(h))
            return 1;
        soak->turns[worker][0]++;
    }
}
