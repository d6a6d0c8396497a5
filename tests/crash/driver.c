/* SPDX-License-Identifier: MIT
 *
 * The modes of the driver, and the table. driver_trace.c steps one process, driver_exec.c one of another language.
 */
#include "driver_trail.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HELPERS 8
#define ROWS 256

unsigned crash_deadline_ms = 2000;
unsigned crash_failures_max = 5;
bool crash_quiet;

/* The driver's own state: one run at a time. */
static char *message; /* shared with all children: the first failure of a run */
static pid_t helpers[HELPERS];
static crash_row rows[ROWS];
static unsigned row_count;

void *crash_share(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    return memory;
}

unsigned crash_deadline(void)
{
    const char *text = getenv("POLYSHM_PATIENCE");
    unsigned long patience = text ? strtoul(text, NULL, 10) : 1;
    return crash_deadline_ms * (unsigned)(patience < 1 ? 1 : patience > 100 ? 100 : patience);
}

#define MESSAGE_SIZE 512

void crash_init(char **argv)
{
    if (!getenv("LD_BIND_NOW")) {
        setenv("LD_BIND_NOW", "1", 1);
        execv("/proc/self/exe", argv);
        perror("/proc/self/exe");
        exit(2);
    }
    /* A step hands over between driver and victim twice: on one processor that costs half. */
    int cpu = sched_getcpu();
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((unsigned)(cpu < 0 ? 0 : cpu), &one);
    sched_setaffinity(0, sizeof one, &one);
    setvbuf(stdout, NULL, _IOLBF, 0);
    message = crash_share(MESSAGE_SIZE);
}

int crash_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (!message[0])
        vsnprintf(message, MESSAGE_SIZE, format, arguments);
    va_end(arguments);
    return 1;
}

const char *crash_message(void)
{
    return message;
}

pid_t crash_spawn(int (*function)(void *context), void *context)
{
    for (int i = 0; i < HELPERS; i++) {
        if (helpers[i])
            continue;
        helpers[i] = crash_fork(function, context);
        if (helpers[i] > 0)
            return helpers[i];
        helpers[i] = 0;
        break;
    }
    crash_fail("no helper: %s", strerror(errno));
    return -1;
}

/* A list that is empty points at itself. */
bool crash_holds_nothing(void)
{
    struct {
        void *list;
        long offset;
        void *pending;
    } *head = NULL;
    size_t size;
    return syscall(SYS_get_robust_list, 0, &head, &size) == 0 && head->list == (void *)head && !head->pending;
}

void crash_wait_asleep(pid_t pid)
{
    const struct timespec pause = {0, 200000};
    for (int i = 0; i < 10000; i++) {
        char state = crash_process_state(pid);
        if (state == 'S' || state == 'Z' || state == 0)
            return;
        nanosleep(&pause, NULL);
    }
}

/* Waits for a child that is not traced; what is wrong goes to `message`. */
static void expect_end(pid_t pid, const char *who)
{
    int status = 0;
    pid_t got = crash_wait(pid, &status, crash_deadline());
    if (got != pid) {
        char state = crash_process_state(pid);
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        crash_fail("%s hangs (state %c)", who, state);
    } else if (WIFSIGNALED(status)) {
        crash_fail("%s died of signal %d", who, WTERMSIG(status));
    } else if (WEXITSTATUS(status)) {
        crash_fail("%s ended with %d", who, WEXITSTATUS(status));
    }
}

void crash_await_helpers(void)
{
    for (int i = 0; i < HELPERS; i++)
        if (helpers[i])
            expect_end(helpers[i], "helper");
    memset(helpers, 0, sizeof helpers);
}

/* What a survivor's process is given. */
typedef struct survivor {
    const crash_case *c;
    crash_facts facts;
} survivor;

static int run_check(void *context)
{
    const survivor *s = context;
    const char *wrong = s->c->check(s->c->context, &s->facts);
    return wrong ? crash_fail("%s", wrong) : 0;
}

static void start_run(const crash_case *c)
{
    message[0] = '\0';
    if (c->reset)
        c->reset(c->context);
}

/* After the victim: the helpers come to their end, and a survivor checks. */
static void finish_run(const crash_case *c, crash_facts facts)
{
    survivor s = {c, facts};
    if (c->unblock)
        c->unblock(c->context);
    crash_await_helpers();
    pid_t pid = crash_fork(run_check, &s);
    if (pid < 0)
        crash_fail("fork: %s", strerror(errno));
    else
        expect_end(pid, "survivor");
}

static int start_victim(crash_traced *t, const crash_case *c)
{
    int rc = c->program ? crash_trace_program(t, c) : crash_trace_subject(t, c, c->subject);
    if (rc == 0 && c->begun)
        c->begun(c->context, t->pid);
    return rc;
}

/* For `make crash`, which makes one table of all programs. Quiet rows are of what is broken on purpose. */
static void report_row(const crash_row *row)
{
    char path[4096];
    const char *build = getenv("POLYSHM_BUILD");
    if (!build)
        return;
    snprintf(path, sizeof path, "%s/reports", build);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/reports/crash.txt", build);
    FILE *file = fopen(path, "ae");
    if (!file)
        return;
    fprintf(file, "%s\t%s\t%s\t%lu\t%lu\t%lu\t%lu\t%s\n", program_invocation_short_name, row->operation, row->mode,
            row->instructions, row->states, row->kills, row->failures, crash_quiet ? "broken" : "");
    fclose(file);
}

/* Rows are printed as they are done. */
static const crash_row *print_row(const crash_row *row)
{
    if (row == rows)
        printf("%-48s %-14s %12s %7s %7s %9s\n", "operation", "mode", "instructions", "states", "kills", "failures");
    printf("%-48s %-14s %12lu %7lu %7lu %9lu\n", row->operation, row->mode, row->instructions, row->states, row->kills,
           row->failures);
    report_row(row);
    return row;
}

static crash_row *new_row(const crash_case *c, const char *mode)
{
    if (row_count == ROWS)
        row_count--;
    crash_row *row = &rows[row_count++];
    *row = (crash_row){.mode = mode};
    snprintf(row->operation, sizeof row->operation, "%s", c->name);
    return row;
}

/* Counts what is wrong with the run that ended; false: it is enough. */
static bool account(crash_row *row, const char *what, unsigned long where)
{
    if (!message[0])
        return true;
    row->failures++;
    if (!crash_quiet)
        printf("FAILED %s, %s, %s %lu: %s\n", row->operation, row->mode, what, where, message);
    return row->failures < crash_failures_max;
}

static void kill_victim(crash_traced *t, const crash_case *c)
{
    if (t->pid > 0 && c->dying)
        c->dying(c->context, t->pid);
    crash_trace_kill(t);
}

/* A run of the victim to its end, for the trail; it dies there, as at any other place. */
static void survey_victim(const crash_case *c, crash_trail *path, bool visit_sleep)
{
    crash_traced t;
    start_run(c);
    if (start_victim(&t, c) == 0)
        crash_survey(&t, c, path, visit_sleep, !helpers[0]);
    else
        path->count = 0;
    crash_facts facts = {.victim = t.pid, .killed = true};
    kill_victim(&t, c);
    finish_run(c, facts);
}

const crash_row *crash_states(const crash_case *c)
{
    static crash_trail path;
    crash_row *row = new_row(c, "states");
    survey_victim(c, &path, true);
    row->instructions = path.instructions;
    row->states = path.count;
    row->kills++;
    bool go_on = account(row, "survey", 0);
    for (size_t i = 0; go_on && i < path.count; i++) {
        crash_traced t;
        bool was_exact = path.exact;
        start_run(c);
        bool started = start_victim(&t, c) == 0;
        crash_facts facts = {.victim = t.pid, .killed = true};
        if (started)
            crash_go_to(&t, c, &path, &path.at[i], true);
        kill_victim(&t, c);
        row->kills++;
        finish_run(c, facts);
        go_on = account(row, "state", path.at[i].index);
        i -= was_exact && !path.exact; /* once more, now counting */
    }
    return print_row(row);
}

const crash_row *crash_every(const crash_case *c)
{
    static crash_trail path;
    crash_row *row = new_row(c, "every");
    survey_victim(c, &path, false);
    row->instructions = path.instructions;
    row->states = path.count;
    row->kills++;
    bool go_on = account(row, "survey", 0);
    for (unsigned long wanted = 0; go_on && wanted < row->instructions; wanted++) {
        crash_traced t;
        start_run(c);
        bool started = start_victim(&t, c) == 0;
        crash_facts facts = {.victim = t.pid, .killed = true};
        if (started)
            crash_go_steps(&t, &path, wanted);
        kill_victim(&t, c);
        row->kills++;
        finish_run(c, facts);
        go_on = account(row, "instruction", wanted);
    }
    return print_row(row);
}

const crash_row *crash_stop(const crash_case *c)
{
    static crash_trail path;
    crash_row *row = new_row(c, "stop, run");
    survey_victim(c, &path, false);
    row->instructions = path.instructions;
    row->states = path.count;
    row->kills++;
    bool go_on = account(row, "survey", 0);
    for (size_t i = 0; go_on && i < 2 * path.count; i++) {
        bool resume = i % 2, was_exact = path.exact;
        crash_traced t;
        start_run(c);
        bool started = start_victim(&t, c) == 0;
        crash_facts facts = {.victim = t.pid, .killed = !resume};
        if (started)
            crash_go_to(&t, c, &path, &path.at[i / 2], false);
        pid_t partner = crash_fork(c->partner, c->context);
        if (partner > 0)
            expect_end(partner, "partner");
        if (!resume) {
            kill_victim(&t, c);
            row->kills++;
        } else {
            int code = crash_trace_resume(&t, c->unblock, c->context);
            if (code)
                crash_fail("the victim ended with %d after it was stopped", code);
        }
        finish_run(c, facts);
        go_on = account(row, resume ? "resumed at state" : "killed at state", path.at[i / 2].index);
        i -= was_exact && !path.exact;
    }
    return print_row(row);
}

/* What a death leaves, with the ids of the two who die taken out: to a survivor the same bytes are the same death. */
static uint64_t remains(const crash_case *c, pid_t victim, pid_t repairer)
{
    static unsigned char *copy;
    static size_t room;
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    if (room < c->watched_size) {
        room = c->watched_size;
        copy = realloc(copy, room);
        if (!copy)
            exit(2);
    }
    memcpy(copy, c->watched, c->watched_size);
    if (c->blur)
        c->blur(c->context, copy);
    for (size_t i = 0; i + 4 <= c->watched_size; i += 4) {
        uint32_t word, id;
        memcpy(&word, copy + i, 4);
        id = word & 0x3fffffffu; /* futex(2): two bits beside the thread id */
        if (id && (id == (uint32_t)victim || id == (uint32_t)repairer))
            word = (word & 0xc0000000u) | (id == (uint32_t)victim ? 1u : 2u);
        hash = (hash ^ word) * UINT64_C(0x100000001b3);
        hash ^= hash >> 32;
    }
    return hash;
}

/* Deaths that a survivor was shown already. */
typedef struct deaths {
    uint64_t at[1 << 16];
    size_t count;
} deaths;

/* true: it is a new one. */
static bool add_death(deaths *d, uint64_t what)
{
    const size_t size = sizeof d->at / sizeof *d->at;
    what |= !what;
    size_t i = what % size;
    for (; d->at[i]; i = (i + 1) % size)
        if (d->at[i] == what)
            return false;
    if (d->count < size / 2) {
        d->at[i] = what;
        d->count++;
    }
    return true;
}

/* The victim dies at a place; then the repairer at one, or, without one, at the end of its survey, unless `seen` knows of
 * the first death already: *known. */
static bool repair_run(const crash_case *c, crash_row *row, crash_trail *path, const crash_place *at,
                       crash_trail *second_path, const crash_place *second, deaths *seen, bool *known)
{
    crash_traced t;
    start_run(c);
    bool started = start_victim(&t, c) == 0;
    crash_facts facts = {.victim = t.pid, .killed = true};
    if (started)
        crash_go_to(&t, c, path, at, true);
    kill_victim(&t, c);
    if (c->unblock)
        c->unblock(c->context);
    second_path->first = facts.victim;
    *known = !second && !add_death(seen, remains(c, facts.victim, 0));
    if (*known)
        facts.repairer = 0;
    else if (crash_trace_subject(&t, c, c->repair) == 0) {
        facts.repairer = t.pid;
        if (second)
            crash_go_to(&t, c, second_path, second, true);
        else
            crash_survey(&t, c, second_path, true, !helpers[0]);
    }
    kill_victim(&t, c);
    row->kills += facts.repairer ? 2u : 1u;
    finish_run(c, facts);
    return account(row, "state", at->index * 1000 + (second ? second->index : 999));
}

const crash_row *crash_repair(const crash_case *c)
{
    static crash_trail path, second_path;
    static deaths seen;
    memset(&seen, 0, sizeof seen);
    second_path.remains = remains;
    crash_row *row = new_row(c, "repair killed");
    survey_victim(c, &path, true);
    row->kills++;
    bool go_on = account(row, "survey", 0);
    for (size_t i = 0; go_on && i < path.count; i++) {
        bool was_exact = path.exact;
        bool known;
        go_on = repair_run(c, row, &path, &path.at[i], &second_path, NULL, &seen, &known);
        if (second_path.instructions > row->instructions)
            row->instructions = second_path.instructions;
        for (size_t j = 0; go_on && !known && j < second_path.count; j++) {
            if (!add_death(&seen, second_path.at[j].remains))
                continue;
            row->states++;
            bool second_was_exact = second_path.exact;
            go_on = repair_run(c, row, &path, &path.at[i], &second_path, &second_path.at[j], &seen, &known);
            if (go_on && second_was_exact && !second_path.exact) /* once more, now counting */
                go_on = repair_run(c, row, &path, &path.at[i], &second_path, &second_path.at[j], &seen, &known);
        }
        i -= was_exact && !path.exact;
    }
    return print_row(row);
}

int crash_report(void)
{
    unsigned long failures = 0, kills = 0;
    for (unsigned i = 0; i < row_count; i++) {
        failures += rows[i].failures;
        kills += rows[i].kills;
    }
    printf("%lu kills, %lu failures\n", kills, failures);
    return failures != 0;
}
