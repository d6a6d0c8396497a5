/* SPDX-License-Identifier: MIT
 *
 * The step-and-kill driver. A victim runs one operation on shared memory between two marks, single-stepped with
 * ptrace. A death can leave behind what is in shared memory, what the thread's robust list says, and how many system
 * calls were made: the instructions after which any of these changed are all the *states* that a death can leave. The
 * driver visits each of them in a fresh run, kills (or stops) the victim there, and lets survivors prove that nothing
 * is broken.
 *
 *   crash_states   SIGKILL at each state, also while the victim sleeps in a system call
 *   crash_every    SIGKILL after each single instruction, for short operations
 *   crash_stop     stops at each state, runs a partner to its end, then kills, and in another run resumes
 *   crash_repair   SIGKILL at each state; a survivor that repairs is killed at each state of its own; a third checks.
 *                  Once for all deaths that leave the same bytes
 *
 * A program of the kind crash_*.c describes its operations as crash_case, calls crash_init first, the modes, and ends
 * with crash_report. Nothing here is run under valgrind or a sanitizer: those put their own instructions and threads
 * between the steps, and have the ptrace interface to themselves (LeakSanitizer) or cannot give it (valgrind).
 */
#ifndef CRASH_DRIVER_H
#define CRASH_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What a check is told. */
typedef struct crash_facts {
    pid_t victim;   /* who was killed, or stopped and resumed */
    pid_t repairer; /* who was killed while repairing; 0 outside crash_repair */
    bool killed;    /* false: it was resumed and ended well */
} crash_facts;

typedef struct crash_case {
    const char *name;
    void *context;       /* given to all below */
    const void *watched; /* the shared bytes, where the driver maps them */
    size_t watched_size;

    /* In the driver, before each run: the shared memory as it has to be at the start. May crash_spawn helpers. */
    void (*reset)(void *context);
    /* In the victim: sets up, then crash_begin(), the operation, crash_end(), and what is needed to end well. Returns 0
     * or crash_fail(). With `program` set it is not used. */
    int (*subject)(void *context);
    /* In the driver, optional: the victim stands before the operation. May crash_spawn. */
    void (*begun)(void *context, pid_t victim);
    /* In the driver, optional: the victim sleeps, or is dead: who stands in its way has to let go. */
    void (*unblock)(void *context);
    /* In the driver, optional: the victim is about to be killed; for notes that the check needs. */
    void (*dying)(void *context, pid_t victim);
    /* For crash_stop: runs in a process of its own while the victim is stopped, and must come to an end. */
    int (*partner)(void *context);
    /* For crash_repair: as `subject`, in a process of its own after the victim's death. */
    int (*repair)(void *context);
    /* For crash_repair, optional: takes out of a copy of the watched bytes what differs between deaths that are the same
     * to a survivor. Ids of the dead, in words of four bytes, are taken out either way. */
    void (*blur)(void *context, unsigned char *copy);
    /* In the last survivor, a process of its own: uses the object in every way, and says what is wrong, NULL: nothing.
     * It is killed, and has failed, after crash_deadline_ms. */
    const char *(*check)(void *context, const crash_facts *facts);

    /* Instead of `subject`: a program that prints a line when it is ready and performs the operation when it reads
     * one. The operation is one call of `symbol`, of the program or a shared object it has loaded whose file name
     * begins with `module`. */
    char *const *program;
    const char *module;
    const char *symbol;
} crash_case;

/* A row of the table. */
typedef struct crash_row {
    char operation[64];
    const char *mode;
    unsigned long instructions, states, kills, failures;
} crash_row;

/* How long survivors and helpers may take, each. 2,000 unless set. */
extern unsigned crash_deadline_ms;
/* The same times what POLYSHM_PATIENCE says, where other suites run beside. */
unsigned crash_deadline(void);
/* A run ends after so many failures. 5 unless set. */
extern unsigned crash_failures_max;
/* Failures are counted and not printed: for what is broken on purpose. */
extern bool crash_quiet;

/* To be called first, with main's argv: the program starts itself again with all symbols bound, so that no step leads
 * through the dynamic linker. */
void crash_init(char **argv);

/* The marks around the operation in `subject` and `repair`. */
void crash_begin(void);
void crash_end(void);

/* Leaves a message for the driver and returns 1, for a process to end with. */
int crash_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* What was left last; empty: nothing. */
const char *crash_message(void);

/* Runs `function` in a process of its own, which dies with the driver. The caller waits for it. */
pid_t crash_fork(int (*function)(void *context), void *context);

/* The same as a helper of the run: the driver waits for its end after the victim's, and fails the run if it
 * does not come or is not 0. */
pid_t crash_spawn(int (*function)(void *context), void *context);

/* waitpid of one process for so many milliseconds: as waitpid, 0 for too late. */
pid_t crash_wait(pid_t pid, int *status, unsigned milliseconds);

/* Waits for the helpers, as it is done after each run. */
void crash_await_helpers(void);

/* Memory shared with all children, zeroed, for what is not under test. */
void *crash_share(size_t size);

/* Has the calling thread given all robust mutexes back? */
bool crash_holds_nothing(void);

/* Waits until `pid` sleeps in a system call, or is no more. */
void crash_wait_asleep(pid_t pid);

/* The modes. The row is the driver's. */
const crash_row *crash_states(const crash_case *c);
const crash_row *crash_every(const crash_case *c);
const crash_row *crash_stop(const crash_case *c);
const crash_row *crash_repair(const crash_case *c);

/* Prints the table; returns main's result: 1 if anything failed. */
int crash_report(void);

#endif
