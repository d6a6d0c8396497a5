/* SPDX-License-Identifier: MIT */
#include "driver_lock.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)
/* How long a victim does, which may be stopped meanwhile: crash_deadline_ms bounds it. */
#define STAMINA (SECOND * 60)
/* How long a partner waits for a lock that a stopped process may hold: longer than it takes to get a free one. */
#define PATIENCE (SECOND / 250)

#define PAGE 4096u

/* What the lock guards. */
typedef struct guarded {
    volatile uint64_t a, b;
} guarded;

/* What is known beside it. */
typedef struct notes {
    volatile uint64_t done; /* sections that came to their end, counted under the lock */
    volatile uint32_t go, taken, told, told_pid;
    volatile pid_t third; /* who died while the victim was stopped */
} notes;

static struct world {
    const crash_lock *lock;
    int fd;
    unsigned char *bytes; /* of the lock */
    size_t size;
    guarded *guarded; /* on the page behind */
    notes *notes;
    crash_lock_what what;
    pid_t first;   /* who died before the run began; 0: nobody */
    bool expected; /* a death is still to be told */
    bool known;    /* `expected` is; not where nobody was killed */
    pid_t helper;
    crash_case made;
} world;

static void meet(size_t size)
{
    if (world.guarded)
        return;
    world.notes = crash_share(sizeof *world.notes);
    world.size = (size + PAGE - 1) / PAGE * PAGE;
    world.bytes = crash_share(world.size + PAGE);
    world.guarded = (guarded *)(void *)(world.bytes + world.size);
    world.fd = memfd_create("crash-lock", 0);
    if (world.fd < 0 || ftruncate(world.fd, (off_t)world.size) ||
        mmap(world.bytes, world.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, world.fd, 0) == MAP_FAILED)
        exit(2);
}

int crash_lock_memory(size_t size, void **bytes)
{
    meet(size);
    if (bytes)
        *bytes = world.bytes;
    return world.fd;
}

static int take(bool recover, int64_t timeout, pshm_death *death)
{
    const crash_lock *lock = world.lock;
    int64_t deadline = pshm_deadline(timeout);
    int rc;
    do
        rc = (recover ? lock->recover : lock->acquire)(lock->handle, deadline, death);
    while (rc == -EINTR);
    return rc;
}

static int failed(const char *what, int rc)
{
    return crash_fail("%s: %s", what, pshm_error_name(rc));
}

/* Notes a death that was told. */
static void note_death(const pshm_death *death)
{
    if (!death->died)
        return;
    if (world.lock->tells_pid && !death->pid)
        crash_fail("a death was told without its pid");
    world.notes->told = 1;
    if (death->pid)
        world.notes->told_pid = death->pid;
}

/* The lock is held: puts right what a death told of, or finds the words equal. */
static int mend(const pshm_death *death)
{
    guarded *g = world.guarded;
    note_death(death);
    if (!death->died)
        return g->a == g->b ? 0 : crash_fail("not told of a death between the words: a %lu, b %lu", g->a, g->b);
    g->b = g->a;
    world.notes->done = g->a;
    int rc = world.lock->consistent(world.lock->handle);
    return rc ? failed("consistent", rc) : 0;
}

/* The lock is held and clean. */
static void change(void)
{
    guarded *g = world.guarded;
    g->a = g->a + 1;
    g->b = g->b + 1;
    world.notes->done++;
}

static int release(void)
{
    int rc = world.lock->release(world.lock->handle);
    return rc ? failed("release", rc) : 0;
}

static void join(void)
{
    if (world.lock->join)
        world.lock->join(world.lock->handle);
}

static void insist(void)
{
    join();
    if (world.lock->insist)
        world.lock->insist(world.lock->handle);
}

static void leave(void)
{
    if (world.lock->leave)
        world.lock->leave(world.lock->handle);
}

/* A whole turn, by whoever wants to know whether the lock can still be had. */
static int turn(void)
{
    pshm_death death;
    int rc = take(true, SECOND, &death);
    if (rc)
        return failed("recover", rc);
    if (mend(&death))
        return 1;
    change();
    return release();
}

static int hold_until_told(void *context)
{
    (void)context;
    pshm_death death;
    int rc = take(true, SECOND, &death);
    if (rc || mend(&death))
        return rc ? failed("holder", rc) : 1;
    world.notes->taken = 1;
    while (!world.notes->go)
        usleep(200);
    change();
    return release();
}

static int wait_for_turn(void *context)
{
    (void)context;
    if (world.what == CRASH_LOCK_HAND_OVER)
        insist();
    return turn();
}

static int die_between_words(void *context)
{
    (void)context;
    pshm_death death;
    int rc = take(false, SECOND, &death);
    if (rc)
        return failed("first victim", rc);
    world.guarded->a++;
    raise(SIGKILL);
    return 1;
}

/* The mark is told, and stays. */
static int meet_death(void *context)
{
    (void)context;
    pshm_death death;
    int rc = take(false, SECOND, &death);
    return rc == -EOWNERDEAD ? 0 : failed("second to come", rc);
}

static void run_to_end(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
}

static void reset(void *context)
{
    (void)context;
    *world.guarded = (guarded){0, 0};
    memset((void *)world.notes, 0, sizeof *world.notes);
    world.first = world.helper = 0;
    world.known = world.expected = false;
    world.lock->create(world.lock->handle);
    turn(); /* so that it bears the traces of an owner who lives */
    leave();
    switch (world.what) {
    case CRASH_LOCK_CONTENDED:
    case CRASH_LOCK_HANDED:
        world.helper = crash_spawn(hold_until_told, NULL);
        while (!world.notes->taken)
            usleep(100);
        break;
    case CRASH_LOCK_AFTER_DEATH:
    case CRASH_LOCK_AFTER_MARK:
    case CRASH_LOCK_RECOVER:
    case CRASH_LOCK_CONSISTENT:
    case CRASH_LOCK_REPAIR:
    case CRASH_LOCK_GIVE_UP:
        world.first = crash_fork(die_between_words, NULL);
        run_to_end(world.first);
        if (world.what == CRASH_LOCK_AFTER_MARK)
            run_to_end(crash_fork(meet_death, NULL));
        break;
    default:
        break;
    }
}

static bool has_waiter(void)
{
    return world.what == CRASH_LOCK_RELEASE_WAITER || world.what == CRASH_LOCK_HAND_OVER;
}

static bool has_holder(void)
{
    return world.what == CRASH_LOCK_CONTENDED || world.what == CRASH_LOCK_HANDED;
}

static void begun(void *context, pid_t victim)
{
    (void)context;
    (void)victim;
    if (has_waiter()) {
        world.helper = crash_spawn(wait_for_turn, NULL);
        crash_wait_asleep(world.helper);
    }
}

static void unblock(void *context)
{
    (void)context;
    world.notes->go = 1;
}

static void dying(void *context, pid_t victim)
{
    (void)context;
    const crash_lock *lock = world.lock;
    /* What is told from here on depends on this moment alone, unless somebody else is at work. */
    world.known = !has_holder() && !has_waiter();
    world.expected = lock->held_by(lock->handle, victim) || lock->marked(lock->handle);
    world.notes->told = 0;
}

static int subject(void *context)
{
    (void)context;
    const crash_lock *lock = world.lock;
    pshm_death death = {.died = false};
    int rc = 0;
    join();
    if (world.what == CRASH_LOCK_HANDED)
        insist();
    switch (world.what) {
    case CRASH_LOCK_ATTEMPT:
        crash_begin();
        rc = lock->attempt(lock->handle, &death);
        crash_end();
        break;
    case CRASH_LOCK_ACQUIRE:
    case CRASH_LOCK_CONTENDED:
    case CRASH_LOCK_HANDED:
    case CRASH_LOCK_AFTER_DEATH:
    case CRASH_LOCK_AFTER_MARK:
        crash_begin();
        rc = take(false, STAMINA, &death);
        crash_end();
        break;
    case CRASH_LOCK_RECOVER:
        crash_begin();
        rc = take(true, STAMINA, &death);
        crash_end();
        return rc ? failed("recover", rc) : mend(&death) || release();
    case CRASH_LOCK_CONSISTENT:
        rc = take(true, STAMINA, &death);
        if (rc)
            return failed("recover", rc);
        note_death(&death);
        world.notes->done = world.guarded->b = world.guarded->a;
        crash_begin();
        rc = lock->consistent(lock->handle);
        crash_end();
        return rc ? failed("consistent", rc) : release();
    case CRASH_LOCK_RELEASE:
    case CRASH_LOCK_RELEASE_WAITER:
    case CRASH_LOCK_HAND_OVER:
        rc = take(false, STAMINA, &death);
        if (rc)
            return failed("acquire", rc);
        change();
        crash_begin();
        rc = lock->release(lock->handle);
        crash_end();
        return rc ? failed("release", rc) : 0;
    case CRASH_LOCK_AGAIN:
    case CRASH_LOCK_INNER:
        rc = take(false, STAMINA, &death);
        if (rc)
            return failed("acquire", rc);
        if (world.what == CRASH_LOCK_AGAIN)
            crash_begin();
        rc = take(false, STAMINA, &death);
        if (world.what == CRASH_LOCK_AGAIN)
            crash_end();
        if (rc)
            return failed("acquire again", rc);
        change();
        if (world.what == CRASH_LOCK_INNER)
            crash_begin();
        rc = lock->release(lock->handle);
        if (world.what == CRASH_LOCK_INNER)
            crash_end();
        if (rc)
            return failed("inner release", rc);
        change();
        return release();
    case CRASH_LOCK_SECTION:
        crash_begin();
        rc = take(false, STAMINA, &death);
        if (rc == 0) {
            change();
            rc = lock->release(lock->handle);
        }
        crash_end();
        return rc ? failed("section", rc) : 0;
    case CRASH_LOCK_GIVE_UP:
        crash_begin();
        rc = take(true, STAMINA, &death);
        if (rc == 0)
            rc = lock->release(lock->handle);
        crash_end();
        return rc ? failed("recover and release", rc) : 0;
    default:
        crash_begin();
        rc = turn();
        crash_end();
        return rc;
    }
    if (rc == -EOWNERDEAD && world.first) { /* as it has to be: there was a death, and the lock is not held */
        note_death(&death);
        return 0;
    }
    if (rc)
        return failed("acquire", rc);
    change();
    return release();
}

static int repair(void *context)
{
    (void)context;
    join();
    crash_begin();
    int rc = turn();
    crash_end();
    return rc;
}

/* Another one who wants the lock while somebody is stopped in the middle. */
static int partner(void *context)
{
    (void)context;
    pshm_death death;
    int rc = take(true, PATIENCE, &death);
    if (rc == -ETIMEDOUT)
        return 0;
    if (rc)
        return failed("partner", rc);
    if (mend(&death))
        return 1;
    change();
    if (release() || world.what != CRASH_LOCK_RELEASE)
        return world.what == CRASH_LOCK_RELEASE;
    /* While the victim stands in the middle of its release, another owner dies, and somebody is told. */
    world.notes->third = crash_fork(die_between_words, NULL);
    run_to_end(world.notes->third);
    return meet_death(NULL);
}

static const char *check(void *context, const crash_facts *facts)
{
    static char text[160];
    const crash_lock *lock = world.lock;
    guarded *g = world.guarded;
    pshm_death death;
    (void)context;
    int rc = take(true, SECOND, &death);
    if (rc) {
        snprintf(text, sizeof text, "recover: %s", pshm_error_name(rc));
        return text;
    }
    note_death(&death);
    if (world.known && facts->killed && (death.died || world.notes->told) != world.expected)
        return world.expected ? "the death was not told" : "told a death that did not concern the lock";
    uint32_t pid = world.notes->told_pid;
    pid_t victim = facts->killed ? facts->victim : 0;
    pid_t third = world.notes->third;
    if (pid && pid != (uint32_t)world.first && pid != (uint32_t)victim && pid != (uint32_t)facts->repairer &&
        pid != (uint32_t)third) {
        snprintf(text, sizeof text, "told the death of %u; those that died: %d, %d, %d, %d", pid, (int)world.first,
                 (int)victim, (int)facts->repairer, (int)third);
        return text;
    }
    if (mend(&death))
        return "";
    uint64_t open = third ? 1 : facts->killed ? 1u + (facts->repairer != 0) : 0;
    if (g->a != g->b || g->a < world.notes->done || g->a > world.notes->done + open) {
        snprintf(text, sizeof text, "a %lu, b %lu, but %lu came to their end", g->a, g->b, world.notes->done);
        return text;
    }
    change();
    if (lock->release(lock->handle))
        return "release after recover";
    /* And every other operation. */
    for (int i = 0; i < 2; i++) {
        rc = i ? lock->attempt(lock->handle, &death) : take(false, SECOND, &death);
        if (rc || death.died)
            return rc ? "acquire after recover" : "marked after recover";
        change();
        if (lock->recursive && take(false, SECOND, &death))
            return "acquire again";
        if (!lock->held_by(lock->handle, getpid()))
            return "not held by its owner";
        if (lock->recursive && lock->release(lock->handle))
            return "inner release";
        if (lock->release(lock->handle))
            return "release";
    }
    if (lock->release(lock->handle) != PSHM_ENOTOWNER)
        return "released once too often";
    const char *wrong = lock->verify ? lock->verify(lock->handle) : NULL;
    if (wrong)
        return wrong;
    leave();
    return crash_holds_nothing() ? NULL : "the survivor's robust list is not empty";
}

static const char *const names[CRASH_LOCK_CASES] = {
    [CRASH_LOCK_ATTEMPT] = "try",
    [CRASH_LOCK_ACQUIRE] = "acquire",
    [CRASH_LOCK_CONTENDED] = "acquire, contended",
    [CRASH_LOCK_HANDED] = "acquire, handed over",
    [CRASH_LOCK_AFTER_DEATH] = "acquire after a death",
    [CRASH_LOCK_AFTER_MARK] = "acquire that meets a mark",
    [CRASH_LOCK_RELEASE] = "release",
    [CRASH_LOCK_RELEASE_WAITER] = "release with a waiter",
    [CRASH_LOCK_HAND_OVER] = "release, hands over",
    [CRASH_LOCK_RECOVER] = "recover",
    [CRASH_LOCK_CONSISTENT] = "consistent",
    [CRASH_LOCK_AGAIN] = "acquire again",
    [CRASH_LOCK_INNER] = "inner release",
    [CRASH_LOCK_SECTION] = "acquire, change, release",
    [CRASH_LOCK_GIVE_UP] = "recover, release unrepaired",
    [CRASH_LOCK_REPAIR] = "recover, repair, consistent, release",
};

const crash_case *crash_lock_case(const crash_lock *lock, crash_lock_what what)
{
    static char name[64];
    meet(CRASH_LOCK_BYTES);
    snprintf(name, sizeof name, "%s: %s", lock->name, names[what]);
    world.lock = lock;
    world.what = what;
    world.made = (crash_case){.name = name,
                              .watched = world.bytes,
                              .watched_size = world.size + sizeof *world.guarded,
                              .reset = reset,
                              .subject = subject,
                              .begun = begun,
                              .unblock = unblock,
                              .dying = dying,
                              .partner = partner,
                              .repair = repair,
                              .check = check};
    return &world.made;
}

void crash_lock_all(const crash_lock *lock)
{
    for (crash_lock_what what = 0; what < CRASH_LOCK_CASES; what++) {
        if (!lock->recursive && (what == CRASH_LOCK_AGAIN || what == CRASH_LOCK_INNER))
            continue;
        if (!lock->insist && (what == CRASH_LOCK_HANDED || what == CRASH_LOCK_HAND_OVER))
            continue;
        const crash_case *c = crash_lock_case(lock, what);
        crash_states(c);
        if (!has_holder() && !has_waiter())
            crash_every(c);
        crash_stop(c);
        /* These leave all that any of the cases leaves, and that is what a repairer starts from. */
        if (what == CRASH_LOCK_AFTER_MARK || what == CRASH_LOCK_AGAIN || what == CRASH_LOCK_SECTION ||
            what == CRASH_LOCK_REPAIR)
            crash_repair(c);
    }
}
