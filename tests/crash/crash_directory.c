/* SPDX-License-Identifier: MIT
 *
 * Names under the step-and-kill driver: creating, opening and deleting objects. See driver.h; not for valgrind and the
 * sanitizers.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 4
/* A table of 64 entries, of which so many are in use, makes way for a larger one. */
#define FULL 48

static pshm_mutex mutex;

static int make_mutex(const char *name)
{
    bool created;
    return CRASH_PATIENTLY(
        pshm_mutex_init(&mutex, crash_here.arena, name, strlen(name), true, PSHM_RECURSIVE_NO, &created));
}

static int delete_name(const char *name)
{
    return CRASH_PATIENTLY(pshm_arena_delete(crash_here.arena, name, strlen(name), NULL));
}

static int create(void)
{
    return make_mutex("subject");
}

static int open_it(void)
{
    bool created;
    return pshm_mutex_init(&mutex, crash_here.arena, "subject", 7, false, PSHM_RECURSIVE_ANY, &created);
}

static int delete_it(void)
{
    return delete_name("subject");
}

/* Unless a partner was faster. */
static int delete_if_there(void)
{
    int rc = delete_it();
    return rc == PSHM_ENONAME ? 0 : rc;
}

/* It has both of the arena's own locks meanwhile. */
static int check_all(void)
{
    char *report = NULL;
    size_t count = 0;
    int rc = pshm_arena_check(crash_here.arena, &report, &count);
    pshm_report_free(report);
    return rc ? rc : count ? -EIO : 0;
}

static int repair(void)
{
    return make_mutex("own repair");
}

/* To take the lock is enough. */
static int repair_alone(void)
{
    int rc = delete_name("nobody's");
    return rc == PSHM_ENONAME ? 0 : rc;
}

/* ---- before ---- */

/* Handles of the driver's own are not needed any more. */
static int one_other(void)
{
    int rc = make_mutex("other");
    pshm_mutex_fini(&mutex);
    return rc;
}

static int one_gone(void)
{
    int rc = create();
    pshm_mutex_fini(&mutex);
    return rc ? rc : delete_it();
}

static int nearly_full(void)
{
    char name[32];
    int rc = 0;
    for (int i = 0; !rc && i < FULL; i++) {
        snprintf(name, sizeof name, "other %d", i);
        rc = make_mutex(name);
        pshm_mutex_fini(&mutex);
    }
    return rc;
}

static int one_subject(void)
{
    int rc = one_other();
    if (!rc)
        rc = create();
    pshm_mutex_fini(&mutex);
    return rc;
}

static int hold_until_told(void *context)
{
    (void)context;
    pshm_death death;
    int rc = open_it();
    if (!rc)
        rc = pshm_mutex_try(&mutex, &death);
    crash_noted->ready = 1;
    while (!rc && !crash_noted->go)
        usleep(200);
    if (!rc)
        rc = pshm_mutex_release(&mutex);
    return rc ? crash_fail("holder: %s", pshm_error_name(rc)) : 0;
}

static void have_holder(void)
{
    pid_t pid = crash_spawn(hold_until_told, NULL);
    while (pid > 0 && !crash_noted->ready)
        usleep(100);
}

/* Deleted while somebody held it, who is gone by now. */
static int one_deleted(void)
{
    int rc = one_subject();
    crash_noted->ready = crash_noted->go = 0;
    have_holder();
    if (!rc)
        rc = delete_it();
    crash_noted->go = 1;
    crash_await_helpers();
    return rc;
}

static int sweep(void)
{
    return make_mutex("subject");
}

/* ---- after ---- */

/* The name is there or it is not: whoever asks says so, and both lists, and it can be used if it is there. */
static const char *agree(bool *is_there)
{
    pshm_entry *entries;
    size_t count, found = 0;
    uint32_t kind = 0;
    pshm_death death;
    int rc = pshm_arena_find(crash_here.arena, "subject", 7, &kind);
    *is_there = rc == 0;
    if (rc && rc != PSHM_ENONAME)
        return crash_wrong("find", rc);
    rc = pshm_arena_list(crash_here.arena, &entries, &count);
    if (rc)
        return crash_wrong("list", rc);
    for (size_t i = 0; i < count; i++)
        found += strcmp(entries[i].name, "subject") == 0;
    pshm_entries_free(entries);
    if (found != *is_there)
        return "one finds the name, and the list does not";
    rc = open_it();
    if (rc != (*is_there ? 0 : PSHM_ENONAME))
        return crash_wrong("open", rc);
    if (!*is_there)
        return NULL;
    rc = pshm_mutex_try(&mutex, &death);
    if (rc == 0)
        rc = pshm_mutex_release(&mutex);
    return rc ? crash_wrong("use", rc) : NULL;
}

static const char *is_created(const crash_facts *facts)
{
    bool is_there;
    const char *wrong = agree(&is_there);
    if (!wrong && !facts->killed && !is_there)
        wrong = "created, and not there";
    if (wrong)
        return wrong;
    int rc = create();
    if (rc)
        return crash_wrong("create again", rc);
    rc = delete_it();
    if (rc)
        return crash_wrong("delete", rc);
    rc = pshm_mutex_try(&mutex, &(pshm_death){.died = false});
    return rc == PSHM_EDELETED ? NULL : crash_wrong("use of what is deleted", rc);
}

static const char *is_deleted(const crash_facts *facts)
{
    bool is_there;
    const char *wrong = agree(&is_there);
    if (!wrong && !facts->killed && is_there)
        wrong = "deleted, and there";
    if (wrong)
        return wrong;
    int rc = delete_it();
    if (rc != (is_there ? 0 : PSHM_ENONAME))
        return crash_wrong("delete again", rc);
    rc = create();
    if (!rc)
        rc = delete_it();
    return rc ? crash_wrong("create and delete", rc) : NULL;
}

static const char *is_opened(const crash_facts *facts)
{
    bool is_there;
    (void)facts;
    const char *wrong = agree(&is_there);
    return wrong ? wrong : is_there ? NULL : "it is not there any more";
}

/* The partner wants the very name of the victim. */
static int same_name(void)
{
    int rc = create();
    return rc && rc != -EAGAIN ? crash_fail("partner, the same name: %s", pshm_error_name(rc)) : 0;
}

static int same_delete(void)
{
    int rc = delete_it();
    return rc && rc != -EAGAIN && rc != PSHM_ENONAME ? crash_fail("partner, the same name: %s", pshm_error_name(rc))
                                                     : 0;
}

#define BOTH (CRASH_STATES | CRASH_STOP)

static const crash_work works[] = {
    {"create, the first ever", BOTH | CRASH_REPAIR, .operate = create, .partner = same_name, .repair = repair,
     .verify = is_created},
    {"create", BOTH, .prepare = one_other, .operate = create, .partner = same_name, .verify = is_created},
    {"create where one was", BOTH, .prepare = one_gone, .operate = create, .partner = same_name, .verify = is_created},
    {"create, the table grows", BOTH | CRASH_REPAIR, .prepare = nearly_full, .operate = create, .repair = repair_alone,
     .verify = is_created},
    {"create, sweeps what is deleted", BOTH | CRASH_REPAIR, .prepare = one_deleted, .operate = sweep,
     .partner = same_name, .repair = repair, .verify = is_created},
    {"open", BOTH, .prepare = one_subject, .operate = open_it, .verify = is_opened},
    {"check", BOTH | CRASH_REPAIR, .prepare = one_subject, .operate = check_all, .repair = repair, .verify = is_opened},
    {"delete", BOTH | CRASH_REPAIR, .prepare = one_subject, .operate = delete_if_there, .partner = same_delete,
     .repair = repair, .verify = is_deleted},
    {"delete while it is held", BOTH, .prepare = one_subject, .reset = have_holder, .operate = delete_it,
     .verify = is_deleted},
};

int main(int argc, char **argv)
{
    (void)argc;
    crash_init(argv);
    for (size_t i = 0; i < sizeof works / sizeof *works; i++)
        crash_work_run(&works[i], SIZE, PARTICIPANTS);
    return crash_report();
}
