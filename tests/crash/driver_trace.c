/* SPDX-License-Identifier: MIT
 *
 * Single-stepping one process. A step costs the driver four system calls: the step, the wait, the program counter and
 * the robust list; the shared bytes are its own memory too.
 */
#include "driver_trace.h"

#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* How often the driver looks whether a step is asleep. */
#define TICK_MS 10
/* A subject that has not ended after so many instructions never will. */
#define STEPS_MAX 2000000

static void on_tick(int number)
{
    (void)number;
}

/* Interrupts waitpid every now and then: so a wait needs no timer of its own. */
static void start_ticking(void)
{
    static pid_t ticking;
    if (ticking == getpid())
        return;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_tick;
    sigaction(SIGALRM, &action, NULL);
    struct itimerval tick = {{0, TICK_MS * 1000}, {0, TICK_MS * 1000}};
    setitimer(ITIMER_REAL, &tick, NULL);
    ticking = getpid();
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

char crash_process_state(pid_t pid)
{
    char path[40], line[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    size_t length = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[length] = '\0';
    const char *name_end = strrchr(line, ')');
    return name_end && name_end[1] == ' ' ? name_end[2] : '\0';
}

pid_t crash_wait(pid_t pid, int *status, unsigned milliseconds)
{
    int64_t end = now_ms() + milliseconds;
    start_ticking();
    for (;;) {
        pid_t got = waitpid(pid, status, __WALL);
        if (got == pid || (got < 0 && errno != EINTR))
            return got;
        if (now_ms() >= end)
            return waitpid(pid, status, __WALL | WNOHANG);
    }
}

pid_t crash_fork(int (*function)(void *context), void *context)
{
    pid_t driver = getpid(), pid = fork();
    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != driver)
        _exit(1);
    int code = function(context);
    fflush(stdout);
    _exit(code);
}

/* The operation starts and ends where these are entered. */
__attribute__((noinline)) static void started(void)
{
    __asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) void crash_end(void)
{
    __asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) void crash_begin(void)
{
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    kill(getpid(), SIGSTOP);
    started();
}

#define LANES 4

static uint64_t word_at(const unsigned char *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* After each step all shared bytes are looked at: in words, and in lanes that do not wait for each other. */
static uint64_t hash_of(const unsigned char *bytes, size_t size)
{
    const uint64_t prime = UINT64_C(0x9e3779b97f4a7c15);
    uint64_t lane[LANES] = {1, 2, 3, 4}, hash = size;
    size_t i = 0;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    for (; i + sizeof lane <= size; i += sizeof lane)
        for (size_t j = 0; j < LANES; j++) {
            lane[j] = (lane[j] ^ word_at(bytes + i + 8 * j)) * prime;
            lane[j] ^= lane[j] >> 32;
        }
    for (; i < size; i++)
        hash = (hash ^ bytes[i]) * prime;
    for (size_t j = 0; j < LANES; j++) {
        hash = (hash ^ lane[j]) * prime;
        hash ^= hash >> 32;
    }
    return hash;
}

int crash_trace_registers(crash_traced *t)
{
#if defined(__x86_64__)
    /* One word costs less than all of them; where the stack is matters at one place alone. */
    errno = 0;
    t->pc = (uintptr_t)ptrace(PTRACE_PEEKUSER, t->pid, (void *)offsetof(struct user, regs.rip), NULL);
    if (t->pc == t->end_pc && t->end_sp)
        t->sp = (uintptr_t)ptrace(PTRACE_PEEKUSER, t->pid, (void *)offsetof(struct user, regs.rsp), NULL);
    return errno ? -1 : 0;
#else
    struct user_regs_struct registers;
    struct iovec part = {&registers, sizeof registers};
    if (ptrace(PTRACE_GETREGSET, t->pid, (void *)NT_PRSTATUS, &part))
        return -1;
    t->pc = registers.pc;
    t->sp = registers.sp;
    return 0;
#endif
}

/* Is the instruction at `pc` a system call? Code does not change, so each place is asked once. */
static bool is_system_call(const crash_traced *t, uintptr_t pc)
{
    static struct {
        pid_t pid;
        bool call;
        uintptr_t pc;
    } known[4096];
    size_t slot = (pc ^ (pc >> 12)) % (sizeof known / sizeof *known);
    if (known[slot].pc != pc || known[slot].pid != t->pid) {
        errno = 0;
        unsigned long word = (unsigned long)ptrace(PTRACE_PEEKTEXT, t->pid, (void *)pc, NULL);
        known[slot].pc = pc;
        known[slot].pid = t->pid;
#if defined(__x86_64__)
        known[slot].call = errno == 0 && (word & 0xffff) == 0x050f;
#else
        known[slot].call = errno == 0 && (word & 0xffffffff) == 0xd4000001;
#endif
    }
    return known[slot].call;
}

static void read_robust_list(const crash_traced *t, uint64_t *list, uint64_t *pending)
{
    struct {
        uint64_t list, offset, pending;
    } head = {0, 0, 0};
    struct iovec to = {&head, sizeof head}, from = {(void *)t->robust_head, sizeof head};
    if (t->robust_head && process_vm_readv(t->pid, &to, 1, &from, 1, 0) == (ssize_t)sizeof head) {
        *list = head.list;
        *pending = head.pending;
    }
}

int crash_trace_look(crash_traced *t)
{
    void *head = NULL;
    size_t length;
    if (syscall(SYS_get_robust_list, t->pid, &head, &length))
        return crash_fail("get_robust_list: %s", strerror(errno)), -1;
    t->robust_head = (uintptr_t)head;
    if (crash_trace_registers(t))
        return crash_fail("registers: %s", strerror(errno)), -1;
    t->hash = hash_of(t->watched, t->watched_size);
    read_robust_list(t, &t->list, &t->pending);
    t->at_call = is_system_call(t, t->pc);
    return 0;
}

/* The rest of a step: waits for it. */
static crash_step_result finish_step(crash_traced *t, bool may_sleep)
{
    int status, asleep = 0;
    start_ticking();
    for (;;) {
        pid_t got = waitpid(t->pid, &status, __WALL);
        if (got == t->pid)
            break;
        if (got < 0 && errno != EINTR)
            return CRASH_GONE;
        asleep = crash_process_state(t->pid) == 'S' ? asleep + 1 : 0;
        if (may_sleep && asleep == 2) /* once may be the moment before the stop */
            return CRASH_ASLEEP;
    }
    t->under_way = false;
    t->steps++;
    if (!WIFSTOPPED(status)) {
        t->pid = 0;
        return CRASH_GONE;
    }
    return CRASH_SAME;
}

static bool start_step(crash_traced *t)
{
    if (!t->under_way && ptrace(PTRACE_SINGLESTEP, t->pid, NULL, NULL))
        return false;
    t->under_way = true;
    return true;
}

crash_step_result crash_step_blindly(crash_traced *t)
{
    return start_step(t) ? finish_step(t, false) : CRASH_GONE;
}

crash_step_result crash_step(crash_traced *t)
{
    if (t->steps > STEPS_MAX) {
        crash_fail("no end after %lu instructions", t->steps);
        return CRASH_GONE;
    }
    if (!start_step(t))
        return CRASH_GONE;
    crash_step_result result = finish_step(t, true);
    if (result != CRASH_SAME)
        return result;
    bool called = t->at_call;
    if (crash_trace_registers(t))
        return CRASH_GONE;
    if (t->pc == t->end_pc && (!t->end_sp || t->sp == t->end_sp))
        return CRASH_END;
    uint64_t hash = hash_of(t->watched, t->watched_size), list = t->list, pending = t->pending;
    read_robust_list(t, &list, &pending);
    bool changed = called || hash != t->hash || list != t->list || pending != t->pending;
    t->hash = hash;
    t->list = list;
    t->pending = pending;
    t->at_call = is_system_call(t, t->pc);
    return changed ? CRASH_CHANGED : CRASH_SAME;
}

/* ---- leaps ----
 *
 * A step costs far more than the instruction. A run that is known to take the same steps as one before goes to a place
 * by breakpoints instead. */

#if defined(__x86_64__)

#define TRAP UINT64_C(0xcc)

static bool poke(const crash_traced *t, uintptr_t pc, uint64_t byte, uint64_t *before)
{
    errno = 0;
    uint64_t word = (uint64_t)ptrace(PTRACE_PEEKTEXT, t->pid, (void *)pc, NULL);
    if (errno)
        return false;
    if (before)
        *before = word & 0xff;
    return ptrace(PTRACE_POKETEXT, t->pid, (void *)pc, (void *)((word & ~UINT64_C(0xff)) | byte)) == 0;
}

/* Runs to the next of the two breakpoints, and stands on it. */
static bool run_to_breakpoint(crash_traced *t)
{
    int status;
    if (ptrace(PTRACE_CONT, t->pid, NULL, NULL) || crash_wait(t->pid, &status, crash_deadline()) != t->pid)
        return false;
    if (!WIFSTOPPED(status)) {
        t->pid = 0;
        return false;
    }
    if (WSTOPSIG(status) != SIGTRAP || crash_trace_registers(t))
        return false;
    t->pc--;
    return ptrace(PTRACE_POKEUSER, t->pid, (void *)offsetof(struct user, regs.rip), (void *)t->pc) == 0;
}

bool crash_trace_leap(crash_traced *t, uintptr_t pc, unsigned long times)
{
    uint64_t code, end_code;
    /* The end is the first byte of a function of the driver's own. */
    if (t->under_way || t->end_sp || pc == t->end_pc || !poke(t, t->end_pc, TRAP, &end_code))
        return false;
    bool right = true;
    times -= t->pc == pc;
    while (right && times) {
        if (t->pc == pc) { /* off the breakpoint */
            right = crash_step_blindly(t) != CRASH_GONE && crash_trace_registers(t) == 0;
            times -= right && t->pc == pc;
            continue;
        }
        right = poke(t, pc, TRAP, &code) && run_to_breakpoint(t) && poke(t, pc, code, NULL) && t->pc == pc;
        times -= right;
    }
    if (t->pid > 0)
        poke(t, t->end_pc, end_code, NULL);
    return right;
}

#else

bool crash_trace_leap(crash_traced *t, uintptr_t pc, unsigned long times)
{
    (void)t;
    (void)pc;
    (void)times;
    return false;
}

#endif

int crash_trace_subject(crash_traced *t, const crash_case *c, int (*subject)(void *context))
{
    *t = (crash_traced){.in = -1, .out = -1, .watched = c->watched, .watched_size = c->watched_size};
    t->pid = crash_fork(subject, c->context);
    if (t->pid < 0)
        return crash_fail("fork: %s", strerror(errno)), -1;
    int status = 0;
    if (crash_wait(t->pid, &status, crash_deadline()) != t->pid || !WIFSTOPPED(status)) {
        if (WIFEXITED(status) || WIFSIGNALED(status))
            t->pid = 0;
        return crash_fail("never came to the operation"), -1; /* unless the subject has said why */
    }
    ptrace(PTRACE_SETOPTIONS, t->pid, NULL, (void *)(uintptr_t)PTRACE_O_EXITKILL);
    /* Out of kill, and to the operation. The signal itself is not delivered. */
    for (int i = 0; i < 10000; i++) {
        if (crash_step_blindly(t) == CRASH_GONE || crash_trace_registers(t))
            break;
        if (t->pc == (uintptr_t)started) {
            t->end_pc = (uintptr_t)crash_end;
            t->steps = 0;
            return crash_trace_look(t);
        }
    }
    return crash_fail("the mark was not reached"), -1;
}

static void close_pipes(crash_traced *t)
{
    if (t->in >= 0)
        close(t->in);
    if (t->out >= 0)
        close(t->out);
    t->in = t->out = -1;
}

void crash_trace_kill(crash_traced *t)
{
    int status;
    if (t->pid > 0) {
        kill(t->pid, SIGKILL);
        while (waitpid(t->pid, &status, __WALL) == t->pid ? WIFSTOPPED(status) : errno == EINTR)
            continue;
    }
    t->pid = 0;
    close_pipes(t);
}

int crash_trace_resume(crash_traced *t, void (*prod)(void *context), void *context)
{
    int status = 0;
    int64_t end = now_ms() + crash_deadline();
    if (t->under_way)
        finish_step(t, false);
    if (t->pid <= 0 || ptrace(PTRACE_DETACH, t->pid, NULL, NULL))
        return -1;
    pid_t got = 0;
    while (got == 0 && now_ms() < end) {
        if (prod)
            prod(context);
        got = crash_wait(t->pid, &status, TICK_MS);
    }
    if (got != t->pid) {
        crash_trace_kill(t);
        return -1;
    }
    t->pid = 0;
    close_pipes(t);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
