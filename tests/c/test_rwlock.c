/* SPDX-License-Identifier: MIT
 *
 * The read-write lock: every verb and every refusal, many readers or one writer, writers first, downgrade; deleted, closed
 * and lost under its holder. test_rwlock_death.c has the deaths.
 */
#include "helper_owner.h"

#include <polyshm/rwlock.h>

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/layout.h"
#include "os/clock.h"

static pshm_rwlock rw;

static int init(pshm_rwlock *rwlock, pshm_arena *arena, const char *name, bool create)
{
    return pshm_rwlock_init(rwlock, arena, name, strlen(name), create, NULL);
}

static int64_t in(double seconds)
{
    return pshm_deadline((int64_t)(seconds * 1e9));
}

static int patiently(int (*verb)(pshm_rwlock *, int64_t, pshm_death *), int slices)
{
    pshm_death death;
    int rc = -EINTR;
    for (int i = 0; i < slices && rc == -EINTR; i++)
        rc = verb(&rw, PSHM_FOREVER, &death);
    return rc;
}

static void try_read(int code)
{
    pshm_death death = {true, 9, 9};
    assert_rc(pshm_rwlock_read_try(&rw, &death), code);
    if (code != -EOWNERDEAD)
        assert_false(death.died);
}

static void try_write(int code)
{
    pshm_death death = {true, 9, 9};
    assert_rc(pshm_rwlock_write_try(&rw, &death), code);
    if (code != -EOWNERDEAD)
        assert_false(death.died);
}

/* The low half of the writer's word: is it taken by one who waits for readers? layout.rst, "Owner words". */
static bool is_pending(void)
{
    uint32_t low = (uint32_t)__atomic_load_n((uint64_t *)rw.object.body, __ATOMIC_SEQ_CST);
    return (low & PSHM_ID_SLOT) && (low & PSHM_ID_GRANTED);
}

static void until_pending(void)
{
    for (int i = 0; i < 40000 && !is_pending(); i++)
        usleep(500);
    assert_true(is_pending());
}

/* In another thread: what a call says. */
typedef struct call {
    int (*verb)(pshm_rwlock *, int64_t, pshm_death *);
    int (*attempt)(pshm_rwlock *, pshm_death *);
    int (*give)(pshm_rwlock *);
    int64_t deadline;
    int rc;
} call;

static void *do_call(void *context)
{
    call *c = context;
    pshm_death death;
    c->rc = c->attempt ? c->attempt(&rw, &death) : c->give ? c->give(&rw) : c->verb(&rw, c->deadline, &death);
    if (!c->rc && !c->give)
        assert_rc(c->attempt == pshm_rwlock_read_try || c->verb == pshm_rwlock_read_acquire ||
                          c->verb == pshm_rwlock_read_recover
                      ? pshm_rwlock_read_release(&rw)
                      : pshm_rwlock_write_release(&rw),
                  0);
    return NULL;
}

static int elsewhere(call c)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, do_call, &c), 0);
    pthread_join(thread, NULL);
    return c.rc;
}

#define TRY_READ ((call){.attempt = pshm_rwlock_read_try})
#define TRY_WRITE ((call){.attempt = pshm_rwlock_write_try})
#define CALL(function, until) ((call){.verb = (function), .deadline = (until)})
#define GIVE(function) ((call){.give = (function)})

/* ---- opening ---- */

static void test_names(helper_world *world)
{
    pshm_arena *arena = world->arena;
    pshm_rwlock r;
    bool created = true;
    assert_rc(pshm_rwlock_init(&r, arena, "rw", 2, true, &created), 0);
    assert_false(created);
    pshm_rwlock_fini(&r);
    assert_rc(pshm_rwlock_init(&r, arena, "new", 3, true, &created), 0);
    assert_true(created);
    pshm_rwlock_fini(&r);
    assert_rc(init(&r, arena, "none", false), PSHM_ENONAME);
    assert_rc(init(&r, arena, "", true), PSHM_ENAMESIZE);
    assert_rc(init(&r, arena, "\xff", true), PSHM_ENAMETEXT);
    assert_rc(init(&r, arena, "lock", true), PSHM_EKIND);
    pshm_mutex m;
    assert_rc(pshm_mutex_init(&m, arena, "rw", 2, true, PSHM_RECURSIVE_ANY, NULL), PSHM_EKIND);
}

/* ---- verbs ---- */

static void while_reading(void)
{
    pshm_death death;
    uint32_t pid = 1;
    assert_int_equal(pshm_rwlock_read_locked(&rw), 1);
    assert_int_equal(pshm_rwlock_write_locked(&rw), 0);
    assert_rc(pshm_rwlock_write_owner(&rw, &pid), 0);
    assert_int_equal(pid, 0);
    try_write(PSHM_ERELOCK);
    assert_rc(pshm_rwlock_write_acquire(&rw, PSHM_FOREVER, &death), PSHM_ERELOCK);
    assert_rc(pshm_rwlock_write_recover(&rw, PSHM_FOREVER, &death), PSHM_ERELOCK);
    assert_rc(pshm_rwlock_write_release(&rw), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_write_consistent(&rw), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_downgrade(&rw), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_read_consistent(&rw), 0); /* nothing to be said */
    assert_rc(elsewhere(TRY_READ), 0);
    assert_rc(elsewhere(CALL(pshm_rwlock_read_acquire, 0)), 0);
    assert_rc(elsewhere(CALL(pshm_rwlock_read_recover, PSHM_FOREVER)), 0);
    assert_rc(elsewhere(TRY_WRITE), -EBUSY);
    assert_rc(elsewhere(CALL(pshm_rwlock_write_acquire, 0)), -ETIMEDOUT);
    assert_rc(elsewhere(CALL(pshm_rwlock_write_acquire, in(0.01))), -ETIMEDOUT);
    assert_rc(elsewhere(CALL(pshm_rwlock_write_recover, in(0.01))), -ETIMEDOUT);
    assert_rc(elsewhere(GIVE(pshm_rwlock_read_release)), PSHM_ENOTOWNER);
    assert_rc(elsewhere(GIVE(pshm_rwlock_read_consistent)), PSHM_ENOTOWNER);
    assert_rc(elsewhere(TRY_READ), 0); /* who did not get it is in nobody's way */
    assert_rc(elsewhere(CALL(pshm_rwlock_write_acquire, PSHM_FOREVER)), -EINTR); /* a slice */
    assert_rc(elsewhere(TRY_READ), 0);
}

static void while_writing(void)
{
    pshm_death death;
    uint32_t pid = 1;
    assert_int_equal(pshm_rwlock_read_locked(&rw), 0);
    assert_int_equal(pshm_rwlock_write_locked(&rw), 1);
    assert_rc(pshm_rwlock_write_owner(&rw, &pid), 0);
    assert_int_equal(pid, getpid());
    try_read(PSHM_ERELOCK);
    try_write(PSHM_ERELOCK);
    assert_rc(pshm_rwlock_read_acquire(&rw, PSHM_FOREVER, &death), PSHM_ERELOCK);
    assert_rc(pshm_rwlock_read_recover(&rw, 0, &death), PSHM_ERELOCK);
    assert_rc(pshm_rwlock_write_acquire(&rw, 0, &death), PSHM_ERELOCK);
    assert_rc(pshm_rwlock_read_release(&rw), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_read_consistent(&rw), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_write_consistent(&rw), 0); /* nothing to be said */
    assert_rc(elsewhere(TRY_READ), -EBUSY);
    assert_rc(elsewhere(TRY_WRITE), -EBUSY);
    assert_rc(elsewhere(CALL(pshm_rwlock_read_acquire, 0)), -ETIMEDOUT);
    assert_rc(elsewhere(CALL(pshm_rwlock_read_acquire, in(0.01))), -ETIMEDOUT);
    assert_rc(elsewhere(CALL(pshm_rwlock_read_recover, in(0.01))), -ETIMEDOUT);
    assert_rc(elsewhere(CALL(pshm_rwlock_read_acquire, PSHM_FOREVER)), -EINTR); /* a slice */
    assert_rc(elsewhere(CALL(pshm_rwlock_write_acquire, PSHM_FOREVER)), -EINTR);
    assert_rc(elsewhere(GIVE(pshm_rwlock_write_release)), PSHM_ENOTOWNER);
    assert_rc(elsewhere(GIVE(pshm_rwlock_write_consistent)), PSHM_ENOTOWNER);
    assert_rc(elsewhere(GIVE(pshm_rwlock_downgrade)), PSHM_ENOTOWNER);
}

static void while_free(void)
{
    uint32_t pid = 1;
    assert_int_equal(pshm_rwlock_read_locked(&rw), 0);
    assert_int_equal(pshm_rwlock_write_locked(&rw), 0);
    assert_rc(pshm_rwlock_write_owner(&rw, &pid), 0);
    assert_int_equal(pid, 0);
    assert_rc(pshm_rwlock_read_release(&rw), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_write_release(&rw), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_read_consistent(&rw), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_write_consistent(&rw), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_downgrade(&rw), PSHM_ENOTOWNER);
}

/* As one who holds something else, too: then it goes another way. */
static void verbs(helper_world *world, bool beside)
{
    pshm_death death = {true, 9, 9};
    if (beside)
        assert_rc(pshm_mutex_try(&world->lock, &death), 0);
    while_free();
    for (int how = 0; how < 3; how++) {
        death = (pshm_death){true, 9, 9};
        assert_rc(how == 0   ? pshm_rwlock_read_try(&rw, &death)
                  : how == 1 ? pshm_rwlock_read_acquire(&rw, 0, &death)
                             : pshm_rwlock_read_recover(&rw, PSHM_FOREVER, &death),
                  0);
        assert_false(death.died);
        while_reading();
        assert_rc(pshm_rwlock_read_release(&rw), 0);
        while_free();
        death = (pshm_death){true, 9, 9};
        assert_rc(how == 0   ? pshm_rwlock_write_try(&rw, &death)
                  : how == 1 ? pshm_rwlock_write_acquire(&rw, 0, &death)
                             : pshm_rwlock_write_recover(&rw, PSHM_FOREVER, &death),
                  0);
        assert_false(death.died);
        while_writing();
        assert_rc(pshm_rwlock_write_release(&rw), 0);
        while_free();
    }
    if (beside)
        assert_rc(pshm_mutex_release(&world->lock), 0);
}

static void test_verbs(helper_world *world)
{
    verbs(world, false);
    verbs(world, true);
}

static void test_reading_again(helper_world *world)
{
    pshm_death death;
    (void)world;
    for (int i = 0; i < 32768; i++)
        assert_rc(i % 2 ? pshm_rwlock_read_try(&rw, &death) : pshm_rwlock_read_acquire(&rw, 0, &death), 0);
    try_read(PSHM_EDEPTH);
    assert_rc(pshm_rwlock_read_acquire(&rw, PSHM_FOREVER, &death), PSHM_EDEPTH);
    for (int i = 0; i < 32768; i++) {
        assert_int_equal(pshm_rwlock_read_locked(&rw), 1);
        assert_rc(pshm_rwlock_read_release(&rw), 0);
    }
    while_free();
}

static void test_handles(helper_world *world)
{
    pshm_rwlock other;
    pshm_death death;
    assert_rc(init(&other, world->arena, "rw", false), 0);
    assert_rc(pshm_rwlock_write_try(&other, &death), 0);
    try_read(PSHM_ERELOCK);
    pshm_rwlock_fini(&other);
    assert_int_equal(pshm_rwlock_write_locked(&rw), 1);
    assert_rc(pshm_rwlock_write_release(&rw), 0);
    assert_rc(init(&other, world->arena, "rw", false), 0);
    assert_rc(pshm_rwlock_read_try(&other, &death), 0);
    try_write(PSHM_ERELOCK);
    pshm_rwlock_fini(&other);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
}

static void test_as_many_as_a_thread_can_hold(helper_world *world)
{
    enum { MOST = PSHM_HOLDS_MAX };
    pshm_rwlock locks[MOST + 1];
    pshm_death death;
    for (int i = 0; i <= MOST; i++) {
        char name[16];
        snprintf(name, sizeof name, "lock %d", i);
        assert_rc(init(&locks[i], world->arena, name, true), 0);
    }
    for (int i = 0; i < MOST; i++)
        assert_rc(i % 2 ? pshm_rwlock_read_try(&locks[i], &death) : pshm_rwlock_write_try(&locks[i], &death), 0);
    assert_rc(pshm_rwlock_read_try(&locks[MOST], &death), PSHM_EHOLDS);
    assert_rc(pshm_rwlock_read_acquire(&locks[MOST], PSHM_FOREVER, &death), PSHM_EHOLDS);
    assert_rc(pshm_rwlock_write_try(&locks[MOST], &death), PSHM_EHOLDS);
    assert_rc(pshm_rwlock_write_acquire(&locks[MOST], PSHM_FOREVER, &death), PSHM_EHOLDS);
    assert_rc(pshm_rwlock_read_try(&locks[1], &death), 0); /* again: that takes no place */
    assert_rc(pshm_rwlock_read_release(&locks[1]), 0);
    assert_rc(pshm_rwlock_downgrade(&locks[0]), PSHM_EHOLDS); /* and is still writing */
    assert_int_equal(pshm_rwlock_write_locked(&locks[0]), 1);
    assert_rc(pshm_rwlock_read_release(&locks[7]), 0);
    assert_rc(pshm_rwlock_downgrade(&locks[0]), 0);
    assert_rc(pshm_rwlock_read_try(&locks[MOST], &death), 0);
    assert_rc(pshm_rwlock_read_try(&locks[7], &death), PSHM_EHOLDS);
    for (int i = 0; i <= MOST; i++) {
        if (i != 7)
            assert_rc(i % 2 || i == MOST ? pshm_rwlock_read_release(&locks[i]) : pshm_rwlock_write_release(&locks[i]),
                      0);
        pshm_rwlock_fini(&locks[i]);
    }
}

/* ---- downgrade ---- */

static void test_downgrade(helper_world *world)
{
    (void)world;
    for (int how = 0; how < 2; how++) {
        try_write(0);
        assert_rc(elsewhere(TRY_READ), -EBUSY);
        assert_rc(pshm_rwlock_downgrade(&rw), 0);
        assert_int_equal(pshm_rwlock_write_locked(&rw), 0);
        assert_int_equal(pshm_rwlock_read_locked(&rw), 1);
        assert_rc(elsewhere(TRY_READ), 0);
        assert_rc(elsewhere(TRY_WRITE), -EBUSY);
        assert_rc(pshm_rwlock_downgrade(&rw), PSHM_ENOTOWNER);
        try_write(PSHM_ERELOCK);
        assert_rc(how ? pshm_rwlock_read_release(&rw) : pshm_rwlock_write_release(&rw), 0);
        while_free();
    }
    /* Read again meanwhile: each release ends one. */
    try_write(0);
    assert_rc(pshm_rwlock_downgrade(&rw), 0);
    try_read(0);
    assert_rc(pshm_rwlock_write_release(&rw), 0);
    assert_rc(pshm_rwlock_write_release(&rw), PSHM_ENOTOWNER);
    assert_int_equal(pshm_rwlock_read_locked(&rw), 1);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    while_free();
    try_write(0);
    assert_rc(pshm_rwlock_downgrade(&rw), 0);
    try_read(0);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    assert_rc(pshm_rwlock_write_release(&rw), 0);
    while_free();
}

static int read_when_it_can_be(void *context)
{
    helper_world *world = context;
    helper_step(world, 1);
    CHECK(patiently(pshm_rwlock_read_acquire, 200) == 0);
    CHECK(pshm_rwlock_read_locked(&rw) == 1);
    helper_step(world, 2);
    CHECK(helper_until_step(world, 3));
    CHECK(pshm_rwlock_read_release(&rw) == 0);
    return 0;
}

/* Who waits to read comes in beside the one who downgrades, and at a release. */
static void test_readers_wait(helper_world *world)
{
    for (int how = 0; how < 2; how++) {
        helper_step(world, 0);
        try_write(0);
        pid_t pid = helper_fork(read_when_it_can_be, world);
        assert_true(helper_until_step(world, 1));
        helper_until_asleep(pid);
        assert_int_equal(world->stage->step, 1);
        assert_rc(how ? pshm_rwlock_write_release(&rw) : pshm_rwlock_downgrade(&rw), 0);
        assert_true(helper_until_step(world, 2));
        helper_step(world, 3);
        assert_int_equal(helper_wait(pid), 0);
        if (!how)
            assert_rc(pshm_rwlock_write_release(&rw), 0);
    }
}

/* ---- writers first ---- */

static int write_when_it_can_be(void *context)
{
    helper_world *world = context;
    helper_step(world, 1);
    CHECK(patiently(pshm_rwlock_write_acquire, 200) == 0);
    CHECK(pshm_rwlock_write_locked(&rw) == 1);
    helper_step(world, 2);
    CHECK(pshm_rwlock_write_release(&rw) == 0);
    return 0;
}

static void test_writers_wait(helper_world *world)
{
    helper_step(world, 0);
    try_read(0);
    pid_t pid = helper_fork(write_when_it_can_be, world);
    until_pending();
    assert_int_equal(world->stage->step, 1);
    /* It has the word, and yet it only waits. */
    uint32_t owner = 1;
    assert_int_equal(pshm_rwlock_write_locked(&rw), 0);
    assert_rc(pshm_rwlock_write_owner(&rw, &owner), 0);
    assert_int_equal(owner, 0);
    until_pending();
    assert_rc(elsewhere(TRY_READ), -EBUSY);
    try_read(0); /* who reads already does not wait for one who waits for him */
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    assert_true(helper_until_step(world, 2));
    assert_int_equal(helper_wait(pid), 0);
    while_free();
}

enum { IN_TIME = 1, LATE };

/* A writer that takes its time between its slices, as one that has an interpreter to run. Where the machine makes that most
 * of a slice, it is let pass. */
static int write_slowly(void *context)
{
    helper_world *world = context;
    pshm_death death;
    int rc = -EINTR;
    uint32_t came = IN_TIME;
    for (int i = 0; i < 200 && rc == -EINTR; i++) {
        int64_t left = pshm_os_now();
        usleep(20000);
        if (pshm_os_now() - left > PSHM_SLICE_NS / 2)
            came = LATE;
        rc = pshm_rwlock_write_acquire(&rw, PSHM_FOREVER, &death);
        if (rc == -EINTR && i == 7)
            helper_step(world, 2);
    }
    CHECK(rc == 0 && world->stage->number == 0);
    world->stage->number = came;
    CHECK(pshm_rwlock_write_release(&rw) == 0);
    return 0;
}

static int read_after_the_writer(void *context)
{
    helper_world *world = context;
    uint32_t *number = &world->stage->number;
    CHECK(patiently(pshm_rwlock_read_acquire, 200) == 0);
    uint32_t seen = *number;
    CHECK(pshm_rwlock_read_release(&rw) == 0);
    for (int i = 0; i < 20000 && __atomic_load_n(number, __ATOMIC_SEQ_CST) == 0; i++)
        usleep(1000);
    CHECK(seen == *number || *number == LATE);
    return 0;
}

/* No reader slips in between two slices of a writer that waits. */
static void test_nobody_slips_in(helper_world *world)
{
    pid_t readers[3];
    helper_step(world, 0);
    world->stage->number = 0;
    try_read(0);
    pid_t writer = helper_fork(write_slowly, world);
    until_pending();
    for (int i = 0; i < 3; i++)
        readers[i] = helper_fork(read_after_the_writer, world);
    assert_true(helper_until_step(world, 2));
    assert_int_equal(world->stage->number, 0);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    assert_int_equal(helper_wait(writer), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(helper_wait(readers[i]), 0);
}

static int give_up_writing(void *context)
{
    helper_world *world = context;
    pshm_death death;
    CHECK(pshm_rwlock_write_acquire(&rw, PSHM_FOREVER, &death) == -EINTR);
    helper_step(world, 1);
    CHECK(helper_until_step(world, 2));
    return 0;
}

/* A writer that does not come again, though it lives, is let pass for a slice. Who cannot wait so long has to come again. */
static void test_a_writer_that_has_changed_its_mind(helper_world *world)
{
    for (int how = 0; how < 3; how++) {
        int rc;
        helper_step(world, 0);
        try_read(0);
        pid_t pid = helper_fork(give_up_writing, world);
        assert_true(helper_until_step(world, 1));
        int64_t over = in(0.1), soon = in(0.02);
        if (how == 0)
            while ((rc = elsewhere(TRY_READ)) == -EBUSY)
                assert_true(pshm_deadline(0) < over + SECOND);
        else if (how == 1)
            while ((rc = elsewhere(CALL(pshm_rwlock_read_acquire, soon))) == -ETIMEDOUT)
                assert_true(pshm_deadline(0) < over + SECOND);
        else
            rc = elsewhere(CALL(pshm_rwlock_read_acquire, PSHM_FOREVER));
        assert_rc(rc, 0);
        helper_step(world, 2);
        assert_int_equal(helper_wait(pid), 0);
        assert_rc(pshm_rwlock_read_release(&rw), 0);
    }
    /* Nor does it stand in its own way. */
    pshm_death death;
    pthread_t thread;
    call c = CALL(pshm_rwlock_read_acquire, PSHM_FOREVER);
    helper_step(world, 0);
    assert_int_equal(pthread_create(&thread, NULL, do_call, &c), 0);
    pthread_join(thread, NULL);
    assert_rc(c.rc, 0);
    pid_t pid = helper_fork(read_when_it_can_be, world);
    assert_true(helper_until_step(world, 2));
    assert_rc(pshm_rwlock_write_acquire(&rw, PSHM_FOREVER, &death), -EINTR);
    assert_rc(pshm_rwlock_read_acquire(&rw, 0, &death), 0);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    helper_step(world, 3);
    assert_int_equal(helper_wait(pid), 0);
}

/* Nor does anybody who only tries, or has no time. */
static int slip_in(void *context)
{
    helper_world *world = context;
    pshm_death death;
    while (world->stage->step < 2) {
        CHECK(pshm_rwlock_read_try(&rw, &death) == -EBUSY);
        CHECK(pshm_rwlock_read_acquire(&rw, in(0.002), &death) == -ETIMEDOUT);
    }
    return 0;
}

static void test_nobody_slips_in_who_tries(helper_world *world)
{
    helper_step(world, 0);
    world->stage->number = 0;
    try_read(0);
    pid_t writer = helper_fork(write_slowly, world);
    until_pending();
    pid_t reader = helper_fork(slip_in, world);
    assert_true(helper_until_step(world, 2));
    assert_int_equal(helper_wait(reader), 0);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    assert_int_equal(helper_wait(writer), 0);
}

/* Readers that overlap for ever: the lock is never free of them, but a writer gets in. */
static int overlap(void *context)
{
    helper_world *world = context;
    while (world->stage->step < 2) {
        CHECK(patiently(pshm_rwlock_read_acquire, 200) == 0);
        uint32_t mine = __atomic_add_fetch(&world->stage->number, 1, __ATOMIC_SEQ_CST);
        /* Not before another has come, or waits: so there is always one. */
        for (int i = 0; i < 400 && world->stage->number == mine && !is_pending(); i++)
            usleep(500);
        CHECK(pshm_rwlock_read_release(&rw) == 0);
    }
    return 0;
}

static void test_readers_cannot_starve_a_writer(helper_world *world)
{
    enum { READERS = 3, TURNS = 10 };
    pid_t readers[READERS];
    helper_step(world, 0);
    world->stage->number = 0;
    for (int i = 0; i < READERS; i++)
        readers[i] = helper_fork(overlap, world);
    for (int i = 0; i < TURNS; i++) {
        uint32_t seen = world->stage->number;
        while (world->stage->number < seen + 2 * READERS)
            sched_yield();
        assert_rc(patiently(pshm_rwlock_write_acquire, 20), 0);
        assert_rc(pshm_rwlock_write_release(&rw), 0);
    }
    helper_step(world, 2);
    for (int i = 0; i < READERS; i++)
        assert_int_equal(helper_wait(readers[i]), 0);
}

/* ---- exclusion ---- */

#define TURNS 4000

/* Two words are equal but while somebody writes; and nobody writes while somebody reads. */
static int read_and_write(void *context)
{
    helper_world *world = context;
    volatile uint64_t *words = (volatile uint64_t *)(void *)(world->stage + 4);
    unsigned seed = (unsigned)getpid() * 2654435761u;
    for (int i = 0; i < TURNS; i++) {
        seed = seed * 1664525u + 1013904223u;
        bool write = seed >> 30 == 0, down = seed >> 29 & 1;
        CHECK(patiently(write ? pshm_rwlock_write_acquire : pshm_rwlock_read_acquire, 500) == 0);
        uint64_t before = words[0];
        CHECK(words[1] == before);
        if (write) {
            words[0] = before + 1;
            if (i % 16 == 0)
                sched_yield();
            words[1] = before + 1;
            if (down)
                CHECK(pshm_rwlock_downgrade(&rw) == 0);
        } else if (i % 16 == 0) {
            sched_yield();
        }
        CHECK(words[0] == before + write && words[1] == before + write);
        CHECK((write && !down ? pshm_rwlock_write_release(&rw) : pshm_rwlock_read_release(&rw)) == 0);
        if (write)
            __atomic_add_fetch(&world->stage->number, 1, __ATOMIC_SEQ_CST);
    }
    return 0;
}

static void *read_and_write_in_thread(void *context)
{
    read_and_write(context);
    return NULL;
}

static void test_exclusion(helper_world *world)
{
    pthread_t threads[2];
    pid_t children[3];
    world->stage->number = 0;
    for (int i = 0; i < 3; i++)
        children[i] = helper_fork(read_and_write, world);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_and_write_in_thread, world), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 3; i++)
        assert_int_equal(helper_wait(children[i]), 0);
    assert_int_equal(((uint64_t *)(void *)(world->stage + 4))[0], world->stage->number);
    while_free();
}

/* ---- what one sees ---- */

typedef struct seen {
    bool holds, waits;
} seen;

static seen look_at(helper_world *world, pid_t pid)
{
    pshm_participant *all;
    size_t count;
    seen s = {false, false};
    assert_rc(pshm_arena_list_participants(world->arena, &all, &count), 0);
    for (size_t i = 0; i < count; i++) {
        if (all[i].pid != (uint32_t)pid || !all[i].alive)
            continue;
        s.waits |= strcmp(all[i].waits, "rw") == 0;
        for (uint32_t n = 0; n < all[i].holding; n++)
            s.holds |= strcmp(all[i].holds[n].name, "rw") == 0 && all[i].holds[n].place == rw.place;
    }
    pshm_participants_free(all);
    return s;
}

static void until_waits(helper_world *world, pid_t pid)
{
    for (int i = 0; i < 40000; i++) {
        seen s = look_at(world, pid);
        if (s.waits) {
            assert_false(s.holds);
            return;
        }
        usleep(500);
    }
    fail_msg("it never waits");
}

static void test_participants(helper_world *world)
{
    try_read(0);
    assert_true(look_at(world, getpid()).holds);
    helper_step(world, 0);
    pid_t pid = helper_fork(write_when_it_can_be, world);
    until_waits(world, pid);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    assert_int_equal(helper_wait(pid), 0);
    assert_false(look_at(world, getpid()).holds);
    try_write(0);
    assert_true(look_at(world, getpid()).holds);
    helper_step(world, 0);
    pid = helper_fork(read_when_it_can_be, world);
    until_waits(world, pid);
    assert_rc(pshm_rwlock_downgrade(&rw), 0);
    assert_true(look_at(world, getpid()).holds);
    assert_true(helper_until_step(world, 2));
    assert_true(look_at(world, pid).holds);
    helper_kill(pid);
    pshm_participant *all;
    size_t count;
    assert_rc(pshm_arena_list_participants(world->arena, &all, &count), 0);
    for (size_t i = 0; i < count; i++)
        assert_true(all[i].pid != (uint32_t)pid || (!all[i].alive && all[i].holding == 0));
    pshm_participants_free(all);
    assert_rc(pshm_participant_detach(world->arena), PSHM_EHELD);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    assert_rc(pshm_participant_detach(world->arena), 0);
}

/* ---- what goes ---- */

typedef struct job {
    helper_world *world;
    int (*verb)(pshm_rwlock *, int64_t, pshm_death *);
    int rc;
} job;

static void *wait_long(void *context)
{
    job *j = context;
    pshm_death death;
    j->rc = -EINTR;
    __atomic_add_fetch(&j->world->stage->step, 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 200 && j->rc == -EINTR; i++)
        j->rc = j->verb(&rw, PSHM_FOREVER, &death);
    return NULL;
}

static void test_deleted(helper_world *world)
{
    pshm_rwlock fresh;
    pshm_death death;
    uint32_t pid;
    for (int how = 0; how < 2; how++) {
        pthread_t threads[2];
        job jobs[2] = {{world, pshm_rwlock_read_acquire, 1}, {world, pshm_rwlock_write_acquire, 1}};
        helper_step(world, 0);
        if (how)
            try_write(0);
        else
            try_read(0);
        /* While one reads another reader comes in: that one does not wait here. */
        for (int i = !how; i < 2; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, wait_long, &jobs[i]), 0);
        assert_true(helper_until_step(world, how ? 2 : 1));
        if (!how)
            until_pending();
        assert_rc(pshm_arena_delete(world->arena, "rw", 2, &rw.object), 0);
        for (int i = !how; i < 2; i++) {
            pthread_join(threads[i], NULL);
            assert_rc(jobs[i].rc, PSHM_EDELETED);
        }
        try_read(PSHM_EDELETED);
        try_write(PSHM_EDELETED);
        assert_rc(pshm_rwlock_read_acquire(&rw, 0, &death), PSHM_EDELETED);
        assert_rc(pshm_rwlock_read_recover(&rw, 0, &death), PSHM_EDELETED);
        assert_rc(pshm_rwlock_write_acquire(&rw, 0, &death), PSHM_EDELETED);
        assert_rc(pshm_rwlock_write_recover(&rw, 0, &death), PSHM_EDELETED);
        assert_rc(pshm_rwlock_read_locked(&rw), PSHM_EDELETED);
        assert_rc(pshm_rwlock_write_locked(&rw), PSHM_EDELETED);
        assert_rc(pshm_rwlock_write_owner(&rw, &pid), PSHM_EDELETED);
        /* Another of that name is another lock, for as long as the old one is held: its memory is not the new one's. */
        assert_rc(init(&fresh, world->arena, "rw", true), 0);
        assert_true(fresh.place != rw.place);
        assert_rc(pshm_rwlock_write_try(&fresh, &death), 0);
        assert_rc(how ? pshm_rwlock_write_release(&rw) : pshm_rwlock_read_release(&rw), 0);
        assert_rc(pshm_rwlock_read_release(&rw), PSHM_ENOTOWNER);
        assert_rc(pshm_rwlock_write_release(&rw), PSHM_ENOTOWNER);
        assert_int_equal(pshm_rwlock_write_locked(&fresh), 1);
        assert_rc(pshm_rwlock_write_release(&fresh), 0);
        pshm_rwlock_fini(&rw);
        rw = fresh;
    }
}

static void test_readonly(helper_world *world)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *reader;
    pshm_rwlock r;
    pshm_death death;
    uint32_t pid;
    if (strcmp(world->kind, "posix"))
        return;
    options.access = PSHM_ACCESS_R;
    assert_rc(pshm_arena_open(world->arena->address, strlen(world->arena->address), &options, &reader), 0);
    assert_rc(init(&r, reader, "new", true), PSHM_EREADONLY);
    assert_rc(init(&r, reader, "rw", false), 0);
    assert_rc(pshm_rwlock_read_try(&r, &death), PSHM_EREADONLY);
    assert_rc(pshm_rwlock_read_acquire(&r, 0, &death), PSHM_EREADONLY);
    assert_rc(pshm_rwlock_read_recover(&r, 0, &death), PSHM_EREADONLY);
    assert_rc(pshm_rwlock_write_try(&r, &death), PSHM_EREADONLY);
    assert_rc(pshm_rwlock_write_acquire(&r, 0, &death), PSHM_EREADONLY);
    assert_rc(pshm_rwlock_read_release(&r), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_write_release(&r), PSHM_ENOTOWNER);
    assert_int_equal(pshm_rwlock_read_locked(&r), 0);
    assert_int_equal(pshm_rwlock_write_locked(&r), 0);
    try_write(0);
    assert_int_equal(pshm_rwlock_write_locked(&r), 1);
    assert_rc(pshm_rwlock_write_owner(&r, &pid), 0);
    assert_int_equal(pid, getpid());
    assert_rc(pshm_rwlock_downgrade(&rw), 0);
    assert_int_equal(pshm_rwlock_write_locked(&r), 0);
    assert_int_equal(pshm_rwlock_read_locked(&r), 1);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    pshm_rwlock_fini(&r);
    pshm_arena_close(reader);
    pshm_arena_release(reader);
}

/* A second handle on the arena is closed while the lock is held by it, and while others wait by it. */
static void test_closed(helper_world *world)
{
    pshm_arena *other;
    pshm_rwlock first = rw, r;
    pshm_death death;
    uint32_t pid;
    if (strcmp(world->kind, "posix"))
        return;
    for (int how = 0; how < 2; how++) {
        pthread_t thread;
        job j = {world, pshm_rwlock_write_acquire, 1};
        helper_step(world, 0);
        assert_rc(pshm_arena_open(world->arena->address, strlen(world->arena->address), NULL, &other), 0);
        assert_rc(init(&r, other, "rw", false), 0);
        assert_rc(how ? pshm_rwlock_write_try(&r, &death) : pshm_rwlock_read_try(&r, &death), 0);
        rw = r;
        assert_int_equal(pthread_create(&thread, NULL, wait_long, &j), 0);
        assert_true(helper_until_step(world, 1));
        pshm_arena_close(other);
        pthread_join(thread, NULL);
        assert_rc(j.rc, PSHM_ECLOSED);
        rw = first;
        /* wait_long waited by a copy of the handle: `closed` is the arena's. */
        assert_rc(pshm_rwlock_read_try(&r, &death), PSHM_ECLOSED);
        assert_rc(pshm_rwlock_read_acquire(&r, PSHM_FOREVER, &death), PSHM_ECLOSED);
        assert_rc(pshm_rwlock_read_recover(&r, PSHM_FOREVER, &death), PSHM_ECLOSED);
        assert_rc(pshm_rwlock_write_try(&r, &death), PSHM_ECLOSED);
        assert_rc(pshm_rwlock_write_acquire(&r, PSHM_FOREVER, &death), PSHM_ECLOSED);
        assert_rc(pshm_rwlock_read_locked(&r), PSHM_ECLOSED);
        assert_rc(pshm_rwlock_write_locked(&r), PSHM_ECLOSED);
        assert_rc(pshm_rwlock_write_owner(&r, &pid), PSHM_ECLOSED);
        assert_int_equal(how ? pshm_rwlock_write_locked(&rw) : pshm_rwlock_read_locked(&rw), 1);
        if (how)
            assert_rc(pshm_rwlock_downgrade(&r), 0);
        assert_rc(how ? pshm_rwlock_write_release(&r) : pshm_rwlock_read_release(&r), 0);
        while_free();
        pshm_rwlock_fini(&r);
        pshm_arena_release(other);
    }
}

/* The last handle: what is held keeps the mapping, until it is released. */
static int close_the_last(void *context)
{
    const char *address = context;
    pshm_arena *arena;
    pshm_death death;
    for (int how = 0; how < 3; how++) {
        CHECK(pshm_arena_open(address, strlen(address), NULL, &arena) == 0);
        CHECK(init(&rw, arena, "rw", true) == 0);
        CHECK((how ? pshm_rwlock_write_try(&rw, &death) : pshm_rwlock_read_try(&rw, &death)) == 0);
        if (how == 2)
            CHECK(pshm_rwlock_downgrade(&rw) == 0);
        pshm_arena_close(arena);
        CHECK(pshm_rwlock_read_try(&rw, &death) == PSHM_ECLOSED);
        CHECK((how ? pshm_rwlock_write_release(&rw) : pshm_rwlock_read_release(&rw)) == 0);
        CHECK(pshm_rwlock_read_release(&rw) == PSHM_ENOTOWNER);
        CHECK(pshm_rwlock_write_release(&rw) == PSHM_ENOTOWNER);
        CHECK(pshm_rwlock_downgrade(&rw) == PSHM_ENOTOWNER);
        pshm_rwlock_fini(&rw);
        pshm_arena_release(arena);
    }
    return 0;
}

static void test_closed_for_good(void **state)
{
    (void)state;
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *arena;
    char *address = strdup(helper_posix());
    options.size = 1 << 20;
    options.create = true;
    assert_rc(pshm_arena_open(address, strlen(address), &options, &arena), 0);
    pshm_arena_close(arena);
    helper_in_child(close_the_last, address);
    assert_rc(pshm_unlink(address, strlen(address)), 0);
    pshm_arena_release(arena);
    free(address);
}

/* In a child: the beacon that it lost there stays in its thread's list. */
static int cut_short(void *context)
{
    const char *path = context;
    char address[300];
    pshm_arena *arena;
    pshm_death death;
    uint32_t pid;
    snprintf(address, sizeof address, "posix:%s", strrchr(path, '/'));
    CHECK(pshm_arena_open(address, strlen(address), NULL, &arena) == 0);
    pshm_rwlock held, written;
    CHECK(init(&rw, arena, "rw", true) == 0 && init(&held, arena, "held", true) == 0);
    CHECK(init(&written, arena, "written", true) == 0);
    CHECK(pshm_rwlock_read_try(&held, &death) == 0 && pshm_rwlock_write_try(&written, &death) == 0);
    CHECK(truncate(path, PAGE) == 0);
    CHECK(pshm_rwlock_read_try(&rw, &death) == PSHM_ELOST);
    CHECK(pshm_rwlock_read_acquire(&rw, in(1), &death) == PSHM_ELOST);
    CHECK(pshm_rwlock_read_recover(&rw, in(1), &death) == PSHM_ELOST);
    CHECK(pshm_rwlock_write_try(&rw, &death) == PSHM_ELOST);
    CHECK(pshm_rwlock_write_acquire(&rw, in(1), &death) == PSHM_ELOST);
    CHECK(pshm_rwlock_write_recover(&rw, in(1), &death) == PSHM_ELOST);
    CHECK(pshm_rwlock_read_locked(&rw) == PSHM_ELOST);
    CHECK(pshm_rwlock_write_locked(&rw) == PSHM_ELOST);
    CHECK(pshm_rwlock_write_owner(&rw, &pid) == PSHM_ELOST);
    int rc = pshm_rwlock_downgrade(&written);
    CHECK(rc == PSHM_ELOST || rc == PSHM_ENOTOWNER);
    rc = pshm_rwlock_write_release(&written);
    CHECK(rc == PSHM_ELOST || rc == PSHM_ENOTOWNER);
    rc = pshm_rwlock_read_release(&held);
    CHECK(rc == PSHM_ELOST || rc == PSHM_ENOTOWNER);
    return 0;
}

static void test_cut_short(void **state)
{
    (void)state;
    if (helper_valgrind_lacks("a handler for SIGBUS"))
        return;
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *arena;
    const char *address = helper_posix();
    char path[300];
    snprintf(path, sizeof path, "/dev/shm%s", strchr(address, '/'));
    options.size = 1 << 20;
    options.create = true;
    assert_rc(pshm_arena_open(address, strlen(address), &options, &arena), 0);
    pshm_arena_close(arena);
    helper_sigbus();
    helper_in_child(cut_short, path);
    assert_int_equal(unlink(path), 0);
    pshm_arena_release(arena);
}

/* A signal ends the call, on both sides of both waits. */
static void no_more(int number)
{
    (void)number;
}

static int is_interrupted(void *context)
{
    helper_world *world = context;
    const struct sigaction action = {.sa_handler = no_more};
    pshm_death death;
    sigaction(SIGUSR1, &action, NULL);
    for (uint32_t i = 0; i < 2; i++) {
        helper_step(world, 10 * i + 1);
        CHECK((i ? pshm_rwlock_write_acquire : pshm_rwlock_read_acquire)(&rw, PSHM_FOREVER, &death) == -EINTR);
        CHECK(pshm_rwlock_read_release(&rw) == PSHM_ENOTOWNER);
        CHECK(pshm_rwlock_write_release(&rw) == PSHM_ENOTOWNER);
        helper_step(world, 10 * i + 2);
        CHECK(helper_until_step(world, 10 * i + 3));
    }
    return 0;
}

static void test_a_signal_ends_a_wait(helper_world *world)
{
    helper_step(world, 0);
    try_write(0);
    pid_t pid = helper_fork(is_interrupted, world);
    for (uint32_t i = 0; i < 2; i++) {
        assert_true(helper_until_step(world, 10 * i + 1));
        until_waits(world, pid);
        kill(pid, SIGUSR1);
        assert_true(helper_until_step(world, 10 * i + 2));
        assert_false(look_at(world, pid).waits || look_at(world, pid).holds);
        if (!i) /* now it waits for one who reads */
            assert_rc(pshm_rwlock_downgrade(&rw), 0);
        helper_step(world, 10 * i + 3);
    }
    assert_int_equal(helper_wait(pid), 0);
    assert_rc(pshm_rwlock_read_release(&rw), 0);
    while_free();
}

/* ---- hostile bytes ---- */

static const int codes[] = {0,           -EBUSY,         -ETIMEDOUT,    -EINTR,        -EOWNERDEAD, PSHM_ERELOCK,
                            PSHM_EDEPTH, PSHM_ENOTOWNER, PSHM_ECORRUPT, PSHM_EDELETED, PSHM_EHOLDS};

static void is_code(int rc)
{
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (rc == codes[i])
            return;
    fail_msg("%s", pshm_error_name(rc));
}

/* Whatever stands in the body, each call ends, with a code. */
static void test_hostile_bytes(helper_world *world)
{
    uint64_t *body = rw.object.body;
    unsigned seed = 20261125;
    pshm_death death;
    uint32_t pid;
    (void)world;
    for (int round = 0; round < 3000; round++) {
        for (int i = 0; i < 3; i++) {
            seed = seed * 1664525u + 1013904223u;
            uint64_t bits = seed;
            seed = seed * 1664525u + 1013904223u;
            bits = bits << 32 | seed;
            /* Also words that mean something: this thread's id, flags alone, the dead, nobody. */
            static const uint64_t kinds[] = {0, 1, 2, 0x00010001, 0x00018001, 0x80000000, 0x7fff, 0x8000, 0x80008001};
            unsigned which = seed >> 28;
            uint64_t value = which < 9 ? kinds[which] | (seed >> 20 & 1 ? bits << 32 : 0) : bits;
            __atomic_store_n(&body[i % 2], value, __ATOMIC_SEQ_CST);
            int64_t soon = pshm_deadline(20000);
            switch (seed >> 8 & 7) {
            case 0:
                is_code(pshm_rwlock_read_try(&rw, &death));
                break;
            case 1:
                is_code(pshm_rwlock_write_try(&rw, &death));
                break;
            case 2:
                is_code(pshm_rwlock_read_acquire(&rw, soon, &death));
                break;
            case 3:
                is_code(pshm_rwlock_write_acquire(&rw, soon, &death));
                break;
            case 4:
                is_code(pshm_rwlock_read_recover(&rw, soon, &death));
                break;
            case 5:
                is_code(pshm_rwlock_write_recover(&rw, soon, &death));
                break;
            case 6:
                is_code(pshm_rwlock_downgrade(&rw));
                break;
            default:
                is_code(seed >> 12 & 1 ? pshm_rwlock_read_consistent(&rw) : pshm_rwlock_write_consistent(&rw));
            }
            (void)pshm_rwlock_write_locked(&rw);
            assert_rc(pshm_rwlock_write_owner(&rw, &pid), 0);
        }
        is_code(pshm_rwlock_read_release(&rw));
        is_code(pshm_rwlock_write_release(&rw));
    }
    body[0] = body[1] = 0;
    while (pshm_rwlock_read_release(&rw) == 0 || pshm_rwlock_write_release(&rw) == 0)
        continue;
    body[0] = body[1] = 0;
    while_free();
    try_write(0);
    assert_rc(pshm_rwlock_write_release(&rw), 0);
    assert_rc(pshm_participant_detach(world->arena), 0); /* no place of its slot was left behind */
}

#define EACH_KIND(function)                                                                                            \
    static void with_##function(helper_world *world)                                                                   \
    {                                                                                                                  \
        assert_rc(init(&rw, world->arena, "rw", true), 0);                                                             \
        function(world);                                                                                               \
        pshm_rwlock_fini(&rw);                                                                                         \
    }                                                                                                                  \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(with_##function);                                                                             \
    }

EACH_KIND(test_names)
EACH_KIND(test_verbs)
EACH_KIND(test_reading_again)
EACH_KIND(test_handles)
EACH_KIND(test_as_many_as_a_thread_can_hold)
EACH_KIND(test_downgrade)
EACH_KIND(test_readers_wait)
EACH_KIND(test_writers_wait)
EACH_KIND(test_nobody_slips_in)
EACH_KIND(test_nobody_slips_in_who_tries)
EACH_KIND(test_a_writer_that_has_changed_its_mind)
EACH_KIND(test_readers_cannot_starve_a_writer)
EACH_KIND(test_exclusion)
EACH_KIND(test_participants)
EACH_KIND(test_deleted)
EACH_KIND(test_readonly)
EACH_KIND(test_closed)
EACH_KIND(test_a_signal_ends_a_wait)
EACH_KIND(test_hostile_bytes)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_names),
        TEST(each_test_verbs),
        TEST(each_test_reading_again),
        TEST(each_test_handles),
        TEST(each_test_as_many_as_a_thread_can_hold),
        TEST(each_test_downgrade),
        TEST(each_test_readers_wait),
        TEST(each_test_writers_wait),
        TEST(each_test_nobody_slips_in),
        TEST(each_test_nobody_slips_in_who_tries),
        TEST(each_test_a_writer_that_has_changed_its_mind),
        TEST(each_test_readers_cannot_starve_a_writer),
        TEST(each_test_exclusion),
        TEST(each_test_participants),
        TEST(each_test_deleted),
        TEST(each_test_readonly),
        TEST(each_test_closed),
        TEST(test_closed_for_good),
        TEST(test_cut_short),
        TEST(each_test_a_signal_ends_a_wait),
        TEST(each_test_hostile_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
