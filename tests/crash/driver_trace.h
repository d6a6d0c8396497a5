/* SPDX-License-Identifier: MIT
 *
 * One traced process: started, stepped, killed or resumed. For the driver alone.
 */
#ifndef CRASH_DRIVER_TRACE_H
#define CRASH_DRIVER_TRACE_H

#include "driver.h"

typedef struct crash_traced {
    pid_t pid;
    int in, out; /* pipes of an executed program, else -1 */
    const void *watched;
    size_t watched_size;
    uintptr_t end_pc, end_sp; /* where the operation ends; a stack pointer of 0 is any */
    uintptr_t robust_head;
    uintptr_t pc, sp;
    uint64_t hash, list, pending; /* as they were after the last step */
    bool at_call;                 /* the next instruction is a system call */
    bool under_way;               /* a step was begun and is not over */
    unsigned long steps;
} crash_traced;

typedef enum crash_step_result {
    CRASH_SAME,
    CRASH_CHANGED, /* a state that a death can leave */
    CRASH_ASLEEP,  /* the step is a system call that waits; step again to wait on */
    CRASH_END,     /* the operation is over */
    CRASH_GONE,    /* the process is */
} crash_step_result;

/* Starts a victim and brings it to the start of the operation. 0, or -1 with a message left. */
int crash_trace_subject(crash_traced *t, const crash_case *c, int (*subject)(void *context));
int crash_trace_program(crash_traced *t, const crash_case *c);

/* One instruction, with a look at what it changed; and one without. */
crash_step_result crash_step(crash_traced *t);
crash_step_result crash_step_blindly(crash_traced *t);

/* Runs until `pc` was come to `times` times, or to the end of the operation: true if at `pc`. It is not stepped, so
 * `steps` is the caller's to set. */
bool crash_trace_leap(crash_traced *t, uintptr_t pc, unsigned long times);

/* Kills and waits. */
void crash_trace_kill(crash_traced *t);
/* Lets it run, untraced, and waits for its end: its exit code, -1 if it was killed or did not end in time.
 * `prod`, which may be NULL, is called meanwhile, with `context`. */
int crash_trace_resume(crash_traced *t, void (*prod)(void *context), void *context);

/* Takes the first look, and finds the robust list. */
int crash_trace_look(crash_traced *t);
/* Sets pc from the stopped process, and sp where pc is that of the end. */
int crash_trace_registers(crash_traced *t);
/* The letter in /proc/PID/stat; 0 where there is no such process. */
char crash_process_state(pid_t pid);

#endif
