/* SPDX-License-Identifier: MIT */
#include "driver_work.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

/* A partner looks so often whether it waits for somebody who is stopped. */
#define PROD_US 4000

crash_arena crash_here;
crash_notes *crash_noted;

static const crash_work *work;
static bool is_partner;
static uint64_t *expected; /* bytes in use at the end, shared */

bool crash_is_blocked(void)
{
    return is_partner && crash_arena_is_held_by(&crash_here, crash_noted->victim);
}

bool crash_goes_on(int64_t end)
{
    return !crash_is_blocked() && pshm_deadline(0) < end;
}

/* ---- what everybody does ---- */

typedef struct routine {
    pshm_mutex mutex;
    pshm_counter counter;
    bool created;
    const char *step;
} routine;

static int create_and_use(routine *r)
{
    pshm_death death;
    int64_t value = 0;
    r->step = "create a mutex";
    int rc = CRASH_PATIENTLY(
        pshm_mutex_init(&r->mutex, crash_here.arena, "own mutex", 9, true, PSHM_RECURSIVE_NO, &r->created));
    if (rc)
        return rc;
    r->step = "lock";
    rc = pshm_mutex_try(&r->mutex, &death);
    if (rc == 0)
        rc = pshm_mutex_release(&r->mutex);
    if (rc)
        return rc;
    r->step = "create a counter";
    rc = CRASH_PATIENTLY(pshm_counter_init(&r->counter, crash_here.arena, "own counter", 11, true, &r->created));
    if (rc)
        return rc;
    r->step = "count";
    rc = pshm_counter_add(&r->counter, 2, &value);
    return rc ? rc : value % 2 ? -EIO : 0;
}

static int allocate_and_free(routine *r)
{
    uint64_t root = pshm_heap_root(CRASH_ROOT);
    static const uint64_t sizes[] = {48, 5000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        r->step = "free before";
        int rc = CRASH_PATIENTLY(pshm_heap_free_from(crash_here.arena, root));
        if (rc)
            return rc;
        r->step = "allocate";
        rc = CRASH_PATIENTLY(pshm_heap_alloc_into(crash_here.arena, root, sizes[i]));
        if (rc == -ENOSPC && sizes[i] > 4096)
            continue;
        if (rc)
            return rc;
        r->step = "free";
        rc = CRASH_PATIENTLY(pshm_heap_free_from(crash_here.arena, root));
        if (rc)
            return rc;
    }
    return 0;
}

/* Deletes the own names, whoever left them. */
static int delete_own(routine *r)
{
    static const char *const names[] = {"own mutex", "own counter", "own repair"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        uint32_t kind;
        r->step = names[i];
        int rc = CRASH_PATIENTLY(pshm_arena_delete(crash_here.arena, names[i], strlen(names[i]), NULL));
        if (rc && rc != PSHM_ENONAME)
            return rc;
        if (pshm_arena_find(crash_here.arena, names[i], strlen(names[i]), &kind) != PSHM_ENONAME)
            return -EEXIST;
    }
    return 0;
}

static int do_all(routine *r)
{
    *r = (routine){.step = "attach"};
    int rc = pshm_participant_attach(crash_here.arena);
    if (!rc)
        rc = create_and_use(r);
    if (!rc)
        rc = allocate_and_free(r);
    if (!rc)
        rc = delete_own(r);
    pshm_mutex_fini(&r->mutex);
    pshm_counter_fini(&r->counter);
    return rc;
}

/* ---- the case ---- */

static void reset(void *context)
{
    (void)context;
    crash_arena_restore(&crash_here);
    memset((void *)crash_noted, 0, sizeof *crash_noted);
    if (work->reset)
        work->reset();
}

static int subject(void *context)
{
    (void)context;
    int rc = work->stranger ? 0 : pshm_participant_attach(crash_here.arena);
    if (!rc && work->set_up)
        rc = work->set_up();
    if (rc)
        return crash_fail("before the operation: %s", pshm_error_name(rc));
    crash_begin();
    rc = work->operate();
    crash_end();
    return rc ? crash_fail("the operation: %s", pshm_error_name(rc)) : 0;
}

static int repair(void *context)
{
    (void)context;
    int rc = work->stranger ? 0 : pshm_participant_attach(crash_here.arena);
    if (rc)
        return crash_fail("attach before the repair: %s", pshm_error_name(rc));
    crash_begin();
    rc = work->repair();
    crash_end();
    return rc ? crash_fail("the repair: %s", pshm_error_name(rc)) : 0;
}

static void begun(void *context, pid_t victim)
{
    (void)context;
    crash_noted->victim = victim;
}

static void unblock(void *context)
{
    (void)context;
    crash_noted->go = 1;
}

static int partner(void *context)
{
    (void)context;
    routine r;
    struct itimerval prod = {{0, PROD_US}, {0, PROD_US}};
    is_partner = true;
    setitimer(ITIMER_REAL, &prod, NULL);
    int rc = do_all(&r);
    if (rc && rc != -EAGAIN)
        return crash_fail("partner, %s: %s", r.step, pshm_error_name(rc));
    return work->partner ? work->partner() : 0;
}

static const char *survive(const crash_facts *facts)
{
    static char text[160];
    routine r;
    const char *wrong = work->verify ? work->verify(facts) : NULL;
    if (wrong)
        return wrong;
    int rc = do_all(&r);
    if (rc) {
        snprintf(text, sizeof text, "%s: %s", r.step, pshm_error_name(rc));
        return text;
    }
    return work->finish ? work->finish(facts) : NULL;
}

static const char *check(void *context, const crash_facts *facts)
{
    (void)context;
    const char *wrong = survive(facts);
    return wrong ? wrong : crash_arena_verify(&crash_here, *expected);
}

/* The same without a victim, to see how many bytes are in use then. */
static int rehearse(void *context)
{
    (void)context;
    pshm_arena_stats stats;
    const char *wrong = survive(&(crash_facts){.killed = true});
    if (!wrong && pshm_arena_stats_of(crash_here.arena, &stats))
        wrong = "stats";
    if (!wrong) {
        *expected = stats.used;
        wrong = crash_arena_verify(&crash_here, *expected);
    }
    return wrong ? crash_fail("%s", wrong) : 0;
}

/* Slots and beacons say who died: to a survivor that is all the same. */
static void blur(void *context, unsigned char *copy)
{
    (void)context;
    crash_arena_blur(&crash_here, copy);
}

static void make_arena(size_t size, unsigned participants)
{
    if (!crash_noted) {
        crash_noted = crash_share(sizeof *crash_noted);
        expected = crash_share(sizeof *expected);
    }
    if (crash_here.arena) {
        close(crash_here.fd);
        crash_arena_close(&crash_here);
    }
    int fd = memfd_create("crash-work", 0);
    if (fd < 0 || ftruncate(fd, (off_t)size)) {
        perror("memfd");
        exit(2);
    }
    crash_arena_open(&crash_here, fd, participants);
}

const crash_case *crash_work_case(const crash_work *w, size_t size, unsigned participants)
{
    static crash_case made;
    int status = 0;
    make_arena(size, participants);
    work = w;
    int rc = w->prepare ? w->prepare() : 0;
    crash_arena_keep(&crash_here);
    if (w->kept)
        w->kept();
    reset(NULL);
    unblock(NULL);
    crash_await_helpers();
    pid_t pid = crash_fork(rehearse, NULL);
    if (crash_wait(pid, &status, 10 * crash_deadline()) != pid || rc || status) {
        fprintf(stderr, "%s: %s\n", w->name, rc ? pshm_error_text(rc) : crash_message());
        exit(2);
    }
    made = (crash_case){.name = w->name,
                        .watched = crash_here.bytes,
                        .watched_size = crash_here.size,
                        .reset = reset,
                        .subject = subject,
                        .begun = begun,
                        .unblock = unblock,
                        .partner = partner,
                        .repair = repair,
                        .check = check,
                        .blur = blur};
    return &made;
}

void crash_work_run(const crash_work *w, size_t size, unsigned participants)
{
    const crash_case *c = crash_work_case(w, size, participants);
    if (w->modes & CRASH_STATES)
        crash_states(c);
    if (w->modes & CRASH_EVERY)
        crash_every(c);
    if (w->modes & CRASH_STOP)
        crash_stop(c);
    if (w->modes & CRASH_REPAIR)
        crash_repair(c);
}
