/* SPDX-License-Identifier: MIT
 *
 * Participants: becoming one and ceasing to be one, who is shown, and waiting for their end. test_proof.c has the deaths
 * that are hard to prove, test_identity.c what fork, exec and clone make of them.
 */
#include "helper_owner.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <polyshm/counter.h>

static pshm_participant *list(pshm_arena *arena, size_t *count)
{
    pshm_participant *all;
    assert_rc(pshm_arena_list_participants(arena, &all, count), 0);
    return all;
}

static size_t living(pshm_arena *arena)
{
    size_t count, alive = 0;
    pshm_participant *all = list(arena, &count);
    for (size_t i = 0; i < count; i++)
        alive += all[i].alive;
    pshm_participants_free(all);
    return alive;
}

static pshm_participant find(pshm_arena *arena, uint32_t pid)
{
    size_t count;
    pshm_participant *all = list(arena, &count), found = {.pid = 0};
    for (size_t i = 0; i < count; i++)
        if (all[i].pid == pid)
            found = all[i];
    pshm_participants_free(all);
    return found;
}

static void test_attach_and_detach(helper_world *world)
{
    pshm_arena *arena = world->arena;
    pshm_death death;
    /* To make the mutex the thread became one already. */
    pshm_participant me = find(arena, (uint32_t)getpid());
    assert_true(me.pid && me.alive && me.self && !me.holding && !*me.waits);
    assert_int_equal(me.thread, syscall(SYS_gettid));
    assert_int_equal(me.language, PSHM_LANGUAGE_C);
    assert_rc(pshm_participant_attach(arena), 0); /* again: nothing */
    assert_int_equal(living(arena), 1);
    assert_rc(pshm_participant_detach(arena), 0);
    assert_int_equal(living(arena), 0);
    assert_rc(pshm_participant_detach(arena), 0);
    assert_rc(pshm_participant_attach(arena), 0);
    pshm_participant again = find(arena, (uint32_t)getpid());
    assert_true(again.slot == me.slot && again.generation != me.generation);
    assert_rc(pshm_participant_wait(arena, me.slot, me.generation, 0), 0);
    assert_rc(pshm_participant_wait(arena, again.slot, again.generation, 0), -ETIMEDOUT);
    /* Who holds something keeps its slot. */
    assert_rc(pshm_mutex_try(&world->lock, &death), 0);
    assert_rc(pshm_participant_detach(arena), PSHM_EHELD);
    again = find(arena, (uint32_t)getpid());
    assert_int_equal(again.holding, 1);
    assert_string_equal(again.holds[0].name, "lock");
    assert_rc(pshm_mutex_release(&world->lock), 0);
    assert_rc(pshm_participant_detach(arena), 0);
}

/* ---- deaths and ends ---- */

static int take_part(void *context)
{
    helper_world *world = context;
    pshm_death death;
    CHECK(pshm_mutex_try(&world->lock, &death) == 0);
    helper_step(world, 1);
    CHECK(helper_until_step(world, 2));
    if (world->stage->number == 1)
        CHECK(pshm_mutex_release(&world->lock) == 0 && pshm_participant_detach(world->arena) == 0);
    else if (world->stage->number == 2)
        return 0;
    helper_step(world, 3);
    for (;;)
        pause();
}

static int64_t in(double seconds)
{
    return pshm_deadline((int64_t)(seconds * 1e9));
}

static int wait_long(pshm_arena *arena, const pshm_participant *p)
{
    int rc = -EINTR;
    for (int slices = 0; rc == -EINTR && slices < 100; slices++)
        rc = pshm_participant_wait(arena, p->slot, p->generation, PSHM_FOREVER);
    return rc;
}

static void test_wait_for_an_end(helper_world *world)
{
    enum { DIES, DETACHES, EXITS, HOWS };
    for (uint32_t how = DIES; how < HOWS; how++) {
        world->stage->step = 0;
        world->stage->number = how;
        pid_t child = helper_fork(take_part, world);
        assert_true(helper_until_step(world, 1));
        pshm_participant p = find(world->arena, (uint32_t)child);
        assert_true(p.alive && !p.self && p.holding == 1);
        assert_string_equal(p.holds[0].name, "lock");
        assert_rc(pshm_participant_wait(world->arena, p.slot, p.generation, 0), -ETIMEDOUT);
        assert_rc(pshm_participant_wait(world->arena, p.slot, p.generation, in(0.02)), -ETIMEDOUT);
        assert_rc(pshm_participant_wait(world->arena, p.slot, p.generation, PSHM_FOREVER), -EINTR); /* a slice */
        if (how == DIES)
            kill(child, SIGKILL);
        else
            helper_step(world, 2);
        assert_rc(wait_long(world->arena, &p), 0);
        assert_rc(pshm_participant_wait(world->arena, p.slot, p.generation, 0), 0);
        if (how == DETACHES) {
            assert_int_equal(find(world->arena, (uint32_t)child).pid, 0);
            kill(child, SIGKILL);
        }
        helper_wait(child);
        if (how != DETACHES) { /* it had the lock */
            p = find(world->arena, (uint32_t)child);
            assert_true(p.pid && !p.alive && p.holding == 1);
            helper_expect_death(world, (uint32_t)child);
        }
    }
    /* Nobody ever was there. */
    assert_rc(pshm_participant_wait(world->arena, 15, 1, 0), 0);
    assert_rc(pshm_participant_wait(world->arena, 16, 1, PSHM_FOREVER), 0);
    assert_rc(pshm_participant_wait(world->arena, UINT32_MAX, UINT32_MAX, PSHM_FOREVER), 0);
}

static void test_stopped_is_there(helper_world *world)
{
    world->stage->number = 0;
    world->stage->step = 0;
    pid_t child = helper_fork(take_part, world);
    assert_true(helper_until_step(world, 1));
    kill(child, SIGSTOP);
    pshm_participant p = find(world->arena, (uint32_t)child);
    for (int slice = 0; slice < 5; slice++)
        assert_rc(pshm_participant_wait(world->arena, p.slot, p.generation, PSHM_FOREVER), -EINTR);
    assert_true(find(world->arena, (uint32_t)child).alive);
    helper_kill(child);
    assert_rc(wait_long(world->arena, &p), 0);
    helper_expect_death(world, (uint32_t)child);
}

/* ---- threads ---- */

typedef struct job {
    helper_world *world;
    pshm_participant seen;
} job;

static void *one_thread(void *context)
{
    job *j = context;
    size_t count;
    assert_rc(pshm_participant_attach(j->world->arena), 0);
    pshm_participant *all = list(j->world->arena, &count);
    for (size_t i = 0; i < count; i++)
        if (all[i].self)
            j->seen = all[i];
    pshm_participants_free(all);
    return NULL;
}

static void test_threads(helper_world *world)
{
    enum { THREADS = 10 };
    pthread_t threads[THREADS];
    job jobs[THREADS];
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (job){.world = world};
        assert_int_equal(pthread_create(&threads[i], NULL, one_thread, &jobs[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        const pshm_participant *p = &jobs[i].seen;
        assert_true(p->alive && p->self && p->pid == (uint32_t)getpid() && p->thread != (uint32_t)syscall(SYS_gettid));
        assert_rc(wait_long(world->arena, p), 0); /* it has ended */
    }
    assert_int_equal(living(world->arena), 1);
}

static void *wait_for_lock(void *context)
{
    helper_world *world = context;
    pshm_death death;
    assert_rc(helper_acquire(&world->lock, 100, &death), 0);
    assert_rc(pshm_mutex_release(&world->lock), 0);
    return NULL;
}

static void *wait_for_count(void *context)
{
    helper_world *world = context;
    pshm_counter counter;
    bool created;
    int rc = -EINTR;
    assert_rc(pshm_counter_init(&counter, world->arena, "count", 5, true, &created), 0);
    while (rc == -EINTR)
        rc = pshm_counter_wait(&counter, 1, PSHM_FOREVER);
    assert_rc(rc, 0);
    pshm_counter_fini(&counter);
    return NULL;
}

/* A thread of this process that waits for `name`. */
static void until_waits(pshm_arena *arena, const char *name)
{
    const struct timespec pause = {0, 1000000};
    for (int i = 0; i < 20000; i++) {
        size_t count;
        bool found = false;
        pshm_participant *all = list(arena, &count);
        for (size_t k = 0; k < count; k++)
            found |= !strcmp(all[k].waits, name);
        pshm_participants_free(all);
        if (found)
            return;
        nanosleep(&pause, NULL);
    }
    fail_msg("nobody waits for %s", name);
}

static void test_what_they_wait_for(helper_world *world)
{
    pthread_t thread;
    pshm_death death;
    pshm_counter counter;
    bool created;
    int64_t now;
    assert_rc(pshm_mutex_try(&world->lock, &death), 0);
    assert_int_equal(pthread_create(&thread, NULL, wait_for_lock, world), 0);
    until_waits(world->arena, "lock");
    assert_rc(pshm_mutex_release(&world->lock), 0);
    pthread_join(thread, NULL);
    assert_int_equal(pthread_create(&thread, NULL, wait_for_count, world), 0);
    until_waits(world->arena, "count");
    assert_rc(pshm_counter_init(&counter, world->arena, "count", 5, true, &created), 0);
    assert_rc(pshm_counter_add(&counter, 1, &now), 0);
    pshm_counter_fini(&counter);
    pthread_join(thread, NULL);
}

/* ---- as many as there is room for ---- */

static int attach_and_stay(void *context)
{
    helper_world *world = context;
    CHECK(pshm_participant_attach(world->arena) == 0);
    __atomic_add_fetch(&world->stage->number, 1, __ATOMIC_SEQ_CST);
    for (;;)
        pause();
}

static void test_room(helper_world *world)
{
    enum { ROOM = 16 };
    pid_t children[ROOM];
    const struct timespec pause = {0, 500000};
    assert_rc(pshm_participant_detach(world->arena), 0);
    world->stage->number = 0;
    for (int i = 0; i < ROOM; i++)
        children[i] = helper_fork(attach_and_stay, world);
    for (int i = 0; i < 40000 && __atomic_load_n(&world->stage->number, __ATOMIC_SEQ_CST) < ROOM; i++)
        nanosleep(&pause, NULL);
    assert_int_equal(living(world->arena), ROOM);
    assert_rc(pshm_participant_attach(world->arena), PSHM_EPARTICIPANTS);
    pshm_death death;
    assert_rc(pshm_mutex_try(&world->lock, &death), PSHM_EPARTICIPANTS);
    assert_rc(pshm_arena_delete(world->arena, "lock", 4, NULL), PSHM_EPARTICIPANTS);
    /* Stopped ones have their slot; the slot of a dead one is free at once. */
    kill(children[3], SIGSTOP);
    assert_rc(pshm_participant_attach(world->arena), PSHM_EPARTICIPANTS);
    pshm_participant dead = find(world->arena, (uint32_t)children[7]);
    helper_kill(children[7]);
    assert_rc(pshm_participant_attach(world->arena), 0);
    pshm_participant me = find(world->arena, (uint32_t)getpid());
    assert_true(me.slot == dead.slot && me.generation != dead.generation);
    for (int i = 0; i < ROOM; i++)
        if (i != 7)
            helper_kill(children[i]);
    assert_int_equal(living(world->arena), 1);
}

static void test_without_an_arena(helper_world *world)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *reader;
    pshm_participant *all, me = find(world->arena, (uint32_t)getpid());
    size_t count;
    if (!strcmp(world->kind, "posix")) {
        options.access = PSHM_ACCESS_R;
        assert_rc(pshm_arena_open(world->arena->address, strlen(world->arena->address), &options, &reader), 0);
        assert_rc(pshm_participant_attach(reader), PSHM_EREADONLY);
        assert_int_equal(living(reader), 1);
        assert_rc(pshm_participant_wait(reader, me.slot, me.generation, in(0.01)), -ETIMEDOUT);
        pshm_arena_close(reader);
        assert_rc(pshm_participant_attach(reader), PSHM_ECLOSED);
        assert_rc(pshm_arena_list_participants(reader, &all, &count), PSHM_ECLOSED);
        assert_rc(pshm_participant_wait(reader, me.slot, me.generation, PSHM_FOREVER), PSHM_ECLOSED);
        pshm_arena_release(reader);
    }
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_attach_and_detach)
EACH_KIND(test_wait_for_an_end)
EACH_KIND(test_stopped_is_there)
EACH_KIND(test_threads)
EACH_KIND(test_what_they_wait_for)
EACH_KIND(test_room)
EACH_KIND(test_without_an_arena)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_attach_and_detach), TEST(each_test_wait_for_an_end),    TEST(each_test_stopped_is_there),
        TEST(each_test_threads),           TEST(each_test_what_they_wait_for), TEST(each_test_room),
        TEST(each_test_without_an_arena),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
