/* SPDX-License-Identifier: MIT
 *
 * Participants under the step-and-kill driver: taking a slot, that of a dead one too, giving it back, and the end of a
 * thread. See driver.h; not for valgrind and the sanitizers.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 4

/* Held by the dead where there are any. */
static pshm_mutex first, second;
static pid_t dead;
static pthread_key_t at_end;

static int attach(void)
{
    return pshm_participant_attach(crash_here.arena);
}

static int detach(void)
{
    return pshm_participant_detach(crash_here.arena);
}

static int lock_first(void)
{
    pshm_death death;
    return pshm_mutex_try(&first, &death);
}

/* ---- before ---- */

/* The main thread is at its end, but for what the system does: somebody else ends the process after that. */
static void *end_process(void *unused)
{
    (void)unused;
    char path[40];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)getpid());
    for (;;) {
        char state = 0;
        FILE *file = fopen(path, "re");
        if (!file || fscanf(file, "%*d (%*[^)]) %c", &state) != 1 || state == 'Z')
            _exit(0);
        fclose(file);
        usleep(200);
    }
}

/* Destructors are called in the order of the keys, and the core's is older. */
static void thread_ended(void *unused)
{
    (void)unused;
    pthread_t other;
    crash_end();
    if (pthread_create(&other, NULL, end_process, NULL))
        _exit(1);
}

static int end_thread(void)
{
    pthread_setspecific(at_end, &at_end);
    pthread_exit(NULL);
}

static int two_mutexes(void)
{
    bool created;
    if (!at_end)
        pthread_key_create(&at_end, thread_ended);
    pshm_mutex_fini(&first);
    pshm_mutex_fini(&second);
    int rc = pshm_mutex_init(&first, crash_here.arena, "first", 5, true, PSHM_RECURSIVE_NO, &created);
    return rc ? rc : pshm_mutex_init(&second, crash_here.arena, "second", 6, true, PSHM_RECURSIVE_YES, &created);
}

static pthread_barrier_t taken;

/* All slots: one with the first mutex, one with the second one twice, one that waits, one with nothing. */
static void *take_part(void *context)
{
    pshm_death death;
    int64_t end = pshm_deadline(INT64_C(5000000000));
    switch (*(const int *)context) {
    case 0:
        pshm_mutex_acquire(&first, end, &death);
        break;
    case 1:
        pshm_mutex_acquire(&second, end, &death);
        pshm_mutex_acquire(&second, end, &death);
        break;
    default:
        attach();
    }
    pthread_barrier_wait(&taken);
    if (*(const int *)context == 2)
        while (pshm_mutex_acquire(&first, end, &death) == -EINTR)
            continue;
    for (;;)
        pause();
    return NULL;
}

static int take_all_slots(void *context)
{
    static const int numbers[PARTICIPANTS] = {0, 1, 2, 3};
    volatile uint32_t *ready = context;
    pthread_t thread;
    pthread_barrier_init(&taken, NULL, PARTICIPANTS + 1);
    for (int i = 0; i < PARTICIPANTS; i++)
        pthread_create(&thread, NULL, take_part, (void *)(uintptr_t)&numbers[i]);
    pthread_barrier_wait(&taken);
    usleep(20000); /* for the one who waits */
    *ready = 1;
    for (;;)
        pause();
    return 1;
}

static int all_slots_taken(void)
{
    int rc = two_mutexes();
    volatile uint32_t *ready = crash_share(sizeof *ready);
    if (!rc)
        rc = detach(); /* the driver is none of them */
    dead = crash_fork(take_all_slots, (void *)(uintptr_t)ready);
    while (dead > 0 && !*ready)
        usleep(100);
    return rc;
}

static void kill_all(void)
{
    kill(dead, SIGKILL);
    while (waitpid(dead, NULL, 0) < 0 && errno == EINTR)
        continue;
}

static int all_slots_dead(void)
{
    int rc = all_slots_taken();
    kill_all();
    return rc;
}

/* ---- with somebody to wait for ---- */

static int stay(void *context)
{
    (void)context;
    int rc = attach();
    crash_noted->ready = 1;
    while (!crash_noted->go)
        usleep(200);
    return rc;
}

static void have_stayer(void)
{
    pid_t pid = crash_spawn(stay, NULL);
    while (pid > 0 && !crash_noted->ready)
        usleep(100);
}

static pshm_participant stayer;

static int find_stayer(void)
{
    pshm_participant *all;
    size_t count;
    int rc = pshm_arena_list_participants(crash_here.arena, &all, &count);
    if (rc)
        return rc;
    for (size_t i = 0; i < count; i++)
        if (!all[i].self && all[i].alive)
            stayer = all[i];
    pshm_participants_free(all);
    return stayer.pid ? 0 : -ESRCH;
}

static int wait_for_stayer(void)
{
    int64_t end = pshm_deadline(INT64_C(60000000000));
    return CRASH_PATIENTLY(pshm_participant_wait(crash_here.arena, stayer.slot, stayer.generation, end));
}

/* ---- after ---- */

/* The owner's death is told, and the mutex whole once it is recovered. */
static const char *is_told(pshm_mutex *mutex, pid_t who)
{
    pshm_death death;
    /* Where the beacon still shines, it takes a slice until somebody asks for another proof. */
    int rc = CRASH_PATIENTLY(pshm_mutex_acquire(mutex, pshm_deadline(INT64_C(1000000000)), &death));
    if (rc != -EOWNERDEAD)
        return crash_wrong("the death was not told", rc);
    if (death.pid != (uint32_t)who)
        return "told the death of somebody else";
    rc = CRASH_PATIENTLY(pshm_mutex_recover(mutex, pshm_deadline(INT64_C(1000000000)), &death));
    if (!rc && !death.died)
        return "recovered, and nobody died";
    if (!rc)
        rc = pshm_mutex_consistent(mutex);
    if (!rc)
        rc = pshm_mutex_release(mutex);
    return rc ? crash_wrong("recover", rc) : NULL;
}

static const char *both_told(const crash_facts *facts)
{
    (void)facts;
    const char *wrong = is_told(&first, dead);
    return wrong ? wrong : is_told(&second, dead);
}

/* While somebody is stopped who was about to take a dead one's slot, that one's death is told all the same. */
static int told_beside(void)
{
    pshm_death death;
    int rc = CRASH_PATIENTLY(pshm_mutex_acquire(&first, pshm_deadline(INT64_C(500000000)), &death));
    if (rc != -EOWNERDEAD || death.pid != (uint32_t)dead)
        return crash_fail("partner: the death was not told: %s", pshm_error_name(rc));
    return 0;
}

static const char *nothing_held(const crash_facts *facts)
{
    (void)facts;
    pshm_death death;
    int rc = pshm_mutex_try(&first, &death);
    if (!rc)
        rc = pshm_mutex_release(&first);
    return rc ? crash_wrong("the mutex that nobody held", rc) : NULL;
}

static const char *victim_told(const crash_facts *facts)
{
    return facts->victim ? is_told(&first, facts->victim) : nothing_held(facts);
}

#define BOTH (CRASH_STATES | CRASH_STOP)
#define ALL (BOTH | CRASH_REPAIR)

static const crash_work works[] = {
    {"attach", ALL, .stranger = true, .prepare = two_mutexes, .operate = attach, .repair = attach,
     .verify = nothing_held},
    {"attach onto a dead one", ALL, .stranger = true, .prepare = all_slots_dead, .operate = attach,
     .partner = told_beside, .repair = attach, .verify = both_told},
    {"attach by a second proof", ALL, .stranger = true, .prepare = all_slots_taken, .kept = kill_all, .operate = attach,
     .repair = attach, .verify = both_told},
    {"detach", BOTH, .prepare = two_mutexes, .operate = detach, .repair = attach, .verify = nothing_held},
    {"end of a thread", BOTH, .prepare = two_mutexes, .operate = end_thread, .verify = nothing_held},
    {"end of a thread with a mutex", BOTH, .prepare = two_mutexes, .set_up = lock_first, .operate = end_thread,
     .verify = victim_told},
    {"wait for an end", BOTH, .prepare = two_mutexes, .reset = have_stayer, .set_up = find_stayer,
     .operate = wait_for_stayer, .verify = nothing_held},
};

int main(int argc, char **argv)
{
    (void)argc;
    crash_init(argv);
    for (size_t i = 0; i < sizeof works / sizeof *works; i++)
        crash_work_run(&works[i], SIZE, PARTICIPANTS);
    return crash_report();
}
