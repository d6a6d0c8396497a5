/* SPDX-License-Identifier: MIT
 *
 * Arenas, as other programs use them, under the step-and-kill driver:
 *
 *   crash_program_arena LABEL MODULE COMMAND ...
 *
 * runs COMMAND ... ADDRESS VERB for each state of each operation and kills it there; the survivors are C. The command has
 * to open the arena ADDRESS, take part in it (free root 20, which holds nothing), for "release" acquire the mutex "lock",
 * for "add" open the counter "counter", print a line, read one, and then do VERB once: "acquire", "release" or "recover"
 * the mutex, "add" 2 to the counter, "create" the mutex "subject", "delete" it, "allocate" 200 bytes into root 0, "free"
 * them. MODULE begins the name of the file of its that has the core in it, with a symbol table.
 *
 * Without arguments it runs itself as such a command. test_languages.py runs it for Python and Lua. See driver.h; not for
 * valgrind and the sanitizers.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "driver_lock.h"
#include "driver_work.h"

#define ARGUMENTS 64
#define SIZE 65536
#define PARTICIPANTS 4
#define START 40
#define BYTES 200

/* ---- the command that is run without arguments ---- */

static int perform(pshm_arena *arena, const char *verb, pshm_mutex *lock, pshm_counter *counter)
{
    pshm_mutex made;
    pshm_death death;
    bool created;
    int64_t now, deadline = pshm_deadline(INT64_C(5000000000));
    int rc;
    if (!strcmp(verb, "release"))
        return pshm_mutex_release(lock);
    if (!strcmp(verb, "recover"))
        return pshm_mutex_recover(lock, deadline, &death);
    if (!strcmp(verb, "add"))
        return pshm_counter_add(counter, 2, &now);
    if (!strcmp(verb, "create"))
        return pshm_mutex_init(&made, arena, "subject", 7, true, PSHM_RECURSIVE_NO, &created);
    if (!strcmp(verb, "delete"))
        return pshm_arena_delete(arena, "subject", 7, NULL);
    if (!strcmp(verb, "allocate"))
        return pshm_heap_alloc_into(arena, pshm_heap_root(0), BYTES);
    if (!strcmp(verb, "free"))
        return pshm_heap_free_from(arena, pshm_heap_root(0));
    rc = pshm_mutex_try(lock, &death);
    while (rc == -EBUSY || rc == -EINTR)
        rc = pshm_mutex_acquire(lock, deadline, &death);
    return rc;
}

static int command(const char *address, const char *verb)
{
    pshm_arena *arena;
    pshm_mutex lock;
    pshm_counter counter;
    pshm_death death;
    bool created;
    char line[8];
    bool locks = !strcmp(verb, "acquire") || !strcmp(verb, "release") || !strcmp(verb, "recover");
    if (pshm_arena_open(address, strlen(address), NULL, &arena) || pshm_heap_free_from(arena, pshm_heap_root(20)) ||
        (locks && pshm_mutex_init(&lock, arena, CRASH_LOCK_NAME, sizeof CRASH_LOCK_NAME - 1, false, PSHM_RECURSIVE_ANY,
                                  &created)) ||
        (!strcmp(verb, "add") && pshm_counter_init(&counter, arena, "counter", 7, false, &created)) ||
        (!strcmp(verb, "release") && pshm_mutex_try(&lock, &death)))
        return 1;
    printf("ready\n");
    fflush(stdout);
    return fgets(line, sizeof line, stdin) ? perform(arena, verb, &lock, &counter) != 0 : 1;
}

/* ---- before and after ---- */

static pshm_counter counter;
static pshm_mutex mutex;

static int prepare(void)
{
    bool created;
    pshm_counter_fini(&counter);
    pshm_mutex_fini(&mutex);
    int rc = pshm_counter_init(&counter, crash_here.arena, "counter", 7, true, &created);
    return rc ? rc : pshm_counter_store(&counter, START);
}

static int prepare_name(void)
{
    bool created;
    int rc = prepare();
    if (!rc)
        rc = pshm_mutex_init(&mutex, crash_here.arena, "subject", 7, true, PSHM_RECURSIVE_NO, &created);
    pshm_mutex_fini(&mutex);
    return rc;
}

static int prepare_block(void)
{
    int rc = prepare();
    return rc ? rc : pshm_heap_alloc_into(crash_here.arena, pshm_heap_root(0), BYTES);
}

/* Whichever it was, it was done or not; it is undone here. */
static const char *is_whole(const crash_facts *facts)
{
    int64_t value = -1;
    pshm_death death;
    bool created;
    (void)facts;
    int rc = pshm_counter_load(&counter, &value);
    if (rc || (value != START && value != START + 2))
        return rc ? crash_wrong("load", rc) : "the counter has a value that nobody gave it";
    rc = pshm_mutex_init(&mutex, crash_here.arena, "subject", 7, false, PSHM_RECURSIVE_ANY, &created);
    if (!rc) {
        rc = pshm_mutex_try(&mutex, &death);
        if (!rc)
            rc = pshm_mutex_release(&mutex);
    } else if (rc == PSHM_ENONAME) {
        rc = 0;
    }
    /* Whose maker died before it was whole is there from the moment when somebody has the directory's lock. */
    if (!rc)
        rc = CRASH_PATIENTLY(pshm_arena_delete(crash_here.arena, "subject", 7, NULL));
    if (rc == PSHM_ENONAME)
        rc = 0;
    if (rc)
        return crash_wrong("the name", rc);
    rc = CRASH_PATIENTLY(pshm_heap_free_from(crash_here.arena, pshm_heap_root(0)));
    return rc ? crash_wrong("the block", rc) : NULL;
}

static const struct lock_operation {
    crash_lock_what what;
    char *verb;
    const char *symbol;
} lock_operations[] = {
    {CRASH_LOCK_ACQUIRE, "acquire", "pshm_mutex_try"},     {CRASH_LOCK_CONTENDED, "acquire", "pshm_mutex_acquire"},
    {CRASH_LOCK_AFTER_DEATH, "acquire", "pshm_mutex_try"}, {CRASH_LOCK_AFTER_MARK, "acquire", "pshm_mutex_try"},
    {CRASH_LOCK_RELEASE, "release", "pshm_mutex_release"}, {CRASH_LOCK_RELEASE_WAITER, "release", "pshm_mutex_release"},
    {CRASH_LOCK_RECOVER, "recover", "pshm_mutex_recover"},
};

static const struct operation {
    const char *name;
    int (*prepare)(void);
    char *verb;
    const char *symbol;
} operations[] = {
    {"counter: add", prepare, "add", "pshm_counter_add"},
    {"create", prepare, "create", "pshm_mutex_init"},
    {"delete", prepare_name, "delete", "pshm_arena_delete"},
    {"heap: allocate", prepare, "allocate", "pshm_heap_alloc_into"},
    {"heap: free", prepare_block, "free", "pshm_heap_free_from"},
};

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "--command"))
        return command(argv[2], argv[3]);
#if !defined(__x86_64__)
    printf("[  SKIPPED ] breakpoints are written for x86-64 alone\n");
    return 0;
#endif
    crash_init(argv);
    char *itself[] = {argv[0], "self", "crash_program_arena", "/proc/self/exe", "--command", NULL};
    if (argc < 4) {
        argc = 5;
        argv = itself;
    }
    char *words[ARGUMENTS] = {NULL}, address[32];
    int count = argc - 3;
    if (count + 3 > ARGUMENTS)
        return 2;
    memcpy(words, argv + 3, (size_t)count * sizeof *words);
    words[count] = address;
    const crash_lock *lock = crash_lock_of_arena_mutex(argv[1], false, PARTICIPANTS);
    snprintf(address, sizeof address, "fd:%d", crash_lock_memory(SIZE, NULL));
    for (size_t i = 0; i < sizeof lock_operations / sizeof *lock_operations; i++) {
        crash_case c = *crash_lock_case(lock, lock_operations[i].what);
        words[count + 1] = lock_operations[i].verb;
        c.program = words;
        c.module = argv[2];
        c.symbol = lock_operations[i].symbol;
        crash_states(&c);
    }
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        char name[64];
        snprintf(name, sizeof name, "%.20s: %s", argv[1], operations[i].name);
        const crash_work work = {.name = name, .prepare = operations[i].prepare, .verify = is_whole};
        crash_case c = *crash_work_case(&work, SIZE, PARTICIPANTS);
        snprintf(address, sizeof address, "fd:%d", crash_here.fd);
        words[count + 1] = operations[i].verb;
        c.program = words;
        c.module = argv[2];
        c.symbol = operations[i].symbol;
        crash_states(&c);
    }
    return crash_report();
}
