/* SPDX-License-Identifier: MIT
 *
 * Barriers after a death: reset and used again, with deaths that only the system knows of, threads and forks; and what a
 * wait is told that somebody resets, aborts, or times out in the middle of.
 */
#include "helper_owner.h"

#include <polyshm/barrier.h>

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/owner.h"
#include "os/clock.h"
#include "sync/barrier.h"

static pshm_barrier barrier_of(helper_world *world, uint64_t parties, pshm_on_death on_death)
{
    pshm_barrier b;
    assert_rc(pshm_barrier_init(&b, world->arena, "barrier", 7, true, parties, on_death, NULL), 0);
    return b;
}

static void end(helper_world *world, pshm_barrier *b)
{
    helper_expect_clean(world->arena);
    pshm_barrier_fini(b);
    assert_rc(pshm_arena_delete(world->arena, "barrier", 7, NULL), 0);
}

/* The index, or a code. */
static int finish(pshm_barrier *b, pshm_barrier_ticket *ticket, int64_t deadline)
{
    int rc = -EINTR;
    while (rc == -EINTR)
        rc = pshm_barrier_sleep(b, ticket, deadline);
    return rc ? rc : (int)ticket->index;
}

static int pass(pshm_barrier *b)
{
    pshm_barrier_ticket ticket;
    int64_t deadline = pshm_deadline(30 * SECOND);
    int rc = -EINTR;
    while (rc == -EINTR)
        rc = pshm_barrier_arrive(b, &ticket, deadline);
    return rc ? rc : finish(b, &ticket, deadline);
}

static void come(pshm_barrier *b, pshm_barrier_ticket *ticket)
{
    assert_rc(pshm_barrier_arrive(b, ticket, PSHM_FOREVER), 0);
    assert_false(ticket->passed);
}

/* ---- others ---- */

static pshm_barrier open_again(helper_world *world)
{
    pshm_barrier b;
    CHECK(pshm_barrier_init(&b, world->arena, "barrier", 7, false, 0, PSHM_ON_DEATH_UNSET, NULL) == 0);
    return b;
}

static void stay(helper_world *world)
{
    helper_step(world, 1);
    for (;;)
        pause();
}

static int join_and_stay(void *context)
{
    pshm_barrier b = open_again(context);
    CHECK(pshm_barrier_join(&b) == 0);
    stay(context);
    return 1;
}

/* The kernel will not tell its death by the beacon. */
static int join_silently(void *context)
{
    static struct robust_list_head nothing;
    pshm_barrier b = open_again(context);
    CHECK(pshm_barrier_join(&b) == 0);
    nothing.list.next = &nothing.list;
    CHECK(syscall(SYS_set_robust_list, &nothing, sizeof nothing) == 0);
    stay(context);
    return 1;
}

static int arrive_silently(void *context)
{
    pshm_barrier b = open_again(context);
    pshm_barrier_ticket ticket;
    CHECK(pshm_barrier_arrive(&b, &ticket, PSHM_FOREVER) == 0);
    return join_silently(context);
}

static int stay_at_the_table(void *context)
{
    helper_world *world = context;
    pshm_barrier b = open_again(world);
    pshm_member *m;
    bool repair;
    CHECK(pshm_member_of(world->arena->attachment, &m) == 0);
    CHECK(pshm_owner_enter(m, &pshm_barrier_body_of(&b)->guard, &repair) == 0);
    stay(world);
    return 1;
}

static int pass_once(void *context)
{
    pshm_barrier b = open_again(context);
    int rc = pass(&b);
    CHECK(rc >= 0);
    CHECK(pshm_barrier_leave(&b) == 0);
    pshm_barrier_fini(&b);
    return rc;
}

static pid_t other_of(helper_world *world, helper_child *function)
{
    helper_step(world, 0);
    pid_t pid = helper_fork(function, world);
    assert_true(helper_until_step(world, 1));
    return pid;
}

/* ---- used again ---- */

/* Who outlives another resets it, and takes part with a new one; the dead are no members of it any more, unless it goes on
 * with one less. */
static void test_reset(helper_world *world)
{
    for (int on_death = 0; on_death < PSHM_ON_DEATHS; on_death++) {
        pshm_barrier b = barrier_of(world, 2, on_death);
        bool breaks = on_death == PSHM_ON_DEATH_BREAK;
        assert_rc(pshm_barrier_join(&b), 0);
        for (int i = 0; i < 3; i++) {
            helper_kill(other_of(world, join_and_stay));
            int rc = pass(&b);
            assert_rc(rc, breaks ? PSHM_EBROKEN : 0);
            assert_int_equal(pshm_barrier_broken(&b), breaks);
            assert_rc(pshm_barrier_reset(&b), 0);
            assert_int_equal(pshm_barrier_broken(&b), 0);
            if (!breaks)
                assert_int_equal(pass(&b), 0);
        }
        pid_t other = helper_fork(pass_once, world);
        while (!breaks && pshm_barrier_waiting(&b) != 1)
            usleep(1000);
        int rc = pass(&b);
        assert_int_equal(rc + helper_wait(other), 1);
        assert_rc(pshm_barrier_leave(&b), 0);
        end(world, &b);
    }
}

/* A broken one, and members who are dead: the next one finds it as new, whatever was done of that before. */
static void test_forgotten(helper_world *world)
{
    pshm_barrier b = barrier_of(world, 1, PSHM_ON_DEATH_BREAK);
    pshm_barrier_body *body = pshm_barrier_body_of(&b);
    for (int i = 0; i < 3; i++) {
        helper_kill(other_of(world, join_and_stay));
        if (i)
            assert_rc(pshm_barrier_abort(&b), 0);
        assert_int_equal(pass(&b), 0);
        assert_rc(pshm_barrier_leave(&b), 0);
        assert_int_equal(body->members[0], 0);
    }
    end(world, &b);
}

/* ---- deaths that only the system knows of ---- */

static void test_silent_death(helper_world *world)
{
    static helper_child *const ways[] = {join_silently, arrive_silently};
    for (int on_death = 0; on_death < PSHM_ON_DEATHS; on_death++)
        for (int i = 0; i < 2; i++) {
            /* A dead one that had come is found where that matters. */
            pshm_barrier b = barrier_of(world, on_death == PSHM_ON_DEATH_SHRINK ? 2 : 3, on_death);
            pshm_barrier_ticket ticket;
            int rc = -EINTR;
            helper_kill(other_of(world, ways[i]));
            assert_rc(pshm_barrier_arrive(&b, &ticket, PSHM_FOREVER), 0);
            for (int slice = 0; slice < 3 && rc == -EINTR; slice++)
                rc = pshm_barrier_sleep(&b, &ticket, PSHM_FOREVER);
            assert_rc(rc, on_death == PSHM_ON_DEATH_SHRINK ? 0 : PSHM_EBROKEN);
            assert_rc(pshm_barrier_leave(&b), 0);
            end(world, &b);
        }
}

/* ---- threads and forks ---- */

static void *join_and_end(void *context)
{
    assert_rc(pshm_barrier_join(context), 0);
    return NULL;
}

static int leave_in_child(void *context)
{
    CHECK(pshm_barrier_leave(context) == 0);
    CHECK(pshm_barrier_waiting(context) == 1);
    CHECK(pshm_barrier_join(context) == PSHM_EPARTIES);
    return 0;
}

static void test_threads_and_forks(helper_world *world)
{
    pshm_barrier b = barrier_of(world, 2, PSHM_ON_DEATH_SHRINK);
    pshm_barrier_ticket ticket;
    pthread_t thread;
    assert_rc(pshm_barrier_join(&b), 0);
    assert_int_equal(pthread_create(&thread, NULL, join_and_end, &b), 0);
    pthread_join(thread, NULL);
    assert_int_equal(pass(&b), 0); /* it ended without leaving */
    pid_t other = other_of(world, join_and_stay);
    come(&b, &ticket);
    helper_in_child(leave_in_child, &b);
    helper_kill(other);
    assert_int_equal(finish(&b, &ticket, PSHM_FOREVER), 0);
    assert_rc(pshm_participant_detach(world->arena), 0);
    other = helper_fork(pass_once, world); /* who gave its slot up is dead to it: two come, as to a new one */
    int rc = pass(&b);
    assert_int_equal(rc + helper_wait(other), 1);
    assert_rc(pshm_barrier_leave(&b), 0);
    end(world, &b);
}

/* ---- what a wait is told ---- */

/* Everybody has passed a phase, or nobody: also who looks only when it was reset or broken since. */
static void test_late_news(helper_world *world)
{
    pshm_barrier b = barrier_of(world, 2, PSHM_ON_DEATH_UNSET);
    for (int how = 0; how < 8; how++) {
        pshm_barrier_ticket ticket;
        come(&b, &ticket);
        if (how & 1)
            assert_int_equal(helper_wait(helper_fork(pass_once, world)), 1);
        for (int i = 0; i < how / 2; i++)
            assert_rc(pshm_barrier_reset(&b), 0);
        assert_rc(pshm_barrier_abort(&b), 0);
        assert_rc(finish(&b, &ticket, PSHM_FOREVER), how & 1 ? 0 : PSHM_EBROKEN);
        assert_rc(finish(&b, &ticket, 0), how & 1 ? 0 : PSHM_EBROKEN);
        assert_rc(pshm_barrier_reset(&b), 0);
    }
    assert_rc(pshm_barrier_leave(&b), 0);
    end(world, &b);
}

/* The phases wrap. */
static void test_last_phase(helper_world *world)
{
    pshm_barrier b = barrier_of(world, 1, PSHM_ON_DEATH_UNSET);
    pshm_barrier_body *body = pshm_barrier_body_of(&b);
    for (int how = 0; how < 3; how++) {
        uint32_t last = PSHM_BARRIER_PHASES;
        body->state = (uint64_t)last << PSHM_BARRIER_PASSED_SHIFT | (uint64_t)last << PSHM_BARRIER_PHASE_SHIFT;
        if (how)
            assert_int_equal(pass(&b), 0);
        else
            assert_rc(pshm_barrier_reset(&b), 0);
        assert_int_equal(pshm_barrier_phase(body->state), 0);
        assert_int_equal(pshm_barrier_fate(last, body->state), how ? 0 : PSHM_EBROKEN);
        assert_int_equal(pass(&b), 0);
    }
    assert_rc(pshm_barrier_leave(&b), 0);
    end(world, &b);
}

/* A time that is over ends a wait also while somebody is stopped at the table, and breaks it for all. */
static void test_timeouts_at_the_table(helper_world *world)
{
    pshm_barrier b = barrier_of(world, 2, PSHM_ON_DEATH_UNSET);
    pshm_barrier_ticket ticket;
    int status;
    come(&b, &ticket);
    pid_t other = other_of(world, stay_at_the_table);
    kill(other, SIGSTOP);
    assert_int_equal(waitpid(other, &status, WUNTRACED), other);
    assert_rc(finish(&b, &ticket, pshm_deadline(SECOND / 100)), -ETIMEDOUT);
    assert_int_equal(pshm_barrier_broken(&b), 1);
    assert_rc(pshm_barrier_arrive(&b, &ticket, PSHM_FOREVER), -EINTR);
    assert_rc(pshm_barrier_arrive(&b, &ticket, pshm_deadline(SECOND / 100)), -ETIMEDOUT);
    assert_rc(pshm_barrier_reset(&b), -EINTR);
    helper_kill(other);
    assert_rc(pshm_barrier_reset(&b), 0);
    other = other_of(world, stay_at_the_table);
    assert_rc(pshm_barrier_arrive(&b, &ticket, pshm_deadline(SECOND / 100)), -ETIMEDOUT);
    assert_int_equal(pshm_barrier_broken(&b), 1);
    helper_kill(other);
    assert_rc(pshm_barrier_leave(&b), 0);
    end(world, &b);
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_reset)
EACH_KIND(test_forgotten)
EACH_KIND(test_silent_death)
EACH_KIND(test_threads_and_forks)
EACH_KIND(test_late_news)
EACH_KIND(test_last_phase)
EACH_KIND(test_timeouts_at_the_table)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_reset),
        TEST(each_test_forgotten),
        TEST(each_test_silent_death),
        TEST(each_test_threads_and_forks),
        TEST(each_test_late_news),
        TEST(each_test_last_phase),
        TEST(each_test_timeouts_at_the_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
