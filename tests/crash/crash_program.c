/* SPDX-License-Identifier: MIT
 *
 * The mutex, as other programs use it, under the step-and-kill driver:
 *
 *   crash_program LABEL MODULE COMMAND ...
 *
 * runs COMMAND ... ADDRESS VERB for each state of each operation and kills it there; the survivors are C. The command
 * has to open the segment ADDRESS, take the mutex that is at 0 there, for "release" acquire it, print a line, read one,
 * and then do VERB ("acquire", "release", "recover") once. MODULE begins the name of the file of its that has the core
 * in it, with a symbol table.
 *
 * Without arguments it runs itself as such a command. test_languages.py runs it for Python and Lua. See driver.h; not
 * for valgrind and the sanitizers.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "driver_lock.h"

#define ARGUMENTS 64

static const struct operation {
    crash_lock_what what;
    char *verb;
    const char *symbol;
} operations[] = {
    {CRASH_LOCK_ACQUIRE, "acquire", "pshm_segment_mutex_try"},
    {CRASH_LOCK_CONTENDED, "acquire", "pshm_segment_mutex_acquire"},
    {CRASH_LOCK_AFTER_DEATH, "acquire", "pshm_segment_mutex_try"},
    {CRASH_LOCK_AFTER_MARK, "acquire", "pshm_segment_mutex_try"},
    {CRASH_LOCK_RELEASE, "release", "pshm_segment_mutex_release"},
    {CRASH_LOCK_RELEASE_WAITER, "release", "pshm_segment_mutex_release"},
    {CRASH_LOCK_RECOVER, "recover", "pshm_segment_mutex_recover"},
};

/* The command that is run without arguments. */
static int partner(const char *address, const char *verb)
{
    pshm_segment *segment;
    pshm_segment_mutex mutex;
    pshm_death death;
    int64_t deadline = pshm_deadline(INT64_C(5000000000));
    char line[8];
    if (pshm_segment_open(address, strlen(address), NULL, &segment) ||
        pshm_segment_mutex_init(&mutex, segment, 0, false, PSHM_RECURSIVE_ANY) ||
        (!strcmp(verb, "release") && pshm_segment_mutex_acquire(&mutex, deadline, &death)))
        return 1;
    printf("ready\n");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 1;
    if (!strcmp(verb, "release"))
        return pshm_segment_mutex_release(&mutex) != 0;
    if (!strcmp(verb, "recover"))
        return pshm_segment_mutex_recover(&mutex, deadline, &death) != 0;
    int rc = pshm_segment_mutex_try(&mutex, &death);
    while (rc == -EBUSY || rc == -EINTR)
        rc = pshm_segment_mutex_acquire(&mutex, deadline, &death);
    return rc != 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "--partner"))
        return partner(argv[2], argv[3]);
#if !defined(__x86_64__)
    printf("[  SKIPPED ] breakpoints are written for x86-64 alone\n");
    return 0;
#endif
    crash_init(argv);
    char *itself[] = {argv[0], "self", "crash_program", "/proc/self/exe", "--partner", NULL};
    if (argc < 4) {
        argc = 5;
        argv = itself;
    }
    char *command[ARGUMENTS] = {NULL}, address[32];
    int words = argc - 3;
    if (words + 3 > ARGUMENTS)
        return 2;
    memcpy(command, argv + 3, (size_t)words * sizeof *command);
    snprintf(address, sizeof address, "fd:%d", crash_lock_memory(CRASH_LOCK_BYTES, NULL));
    const crash_lock *lock = crash_lock_of_mutex(argv[1], false);
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        crash_case c = *crash_lock_case(lock, operations[i].what);
        command[words] = address;
        command[words + 1] = operations[i].verb;
        c.program = command;
        c.module = argv[2];
        c.symbol = operations[i].symbol;
        crash_states(&c);
    }
    return crash_report();
}
