/* SPDX-License-Identifier: MIT
 *
 * Barriers: names, phases, members, deaths of both policies, somebody stopped at the table, and any bytes.
 */
#include "helper_owner.h"

#include <polyshm/barrier.h>

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/owner.h"
#include "sync/barrier.h"

static pshm_barrier barrier_of(helper_world *world, uint64_t parties, pshm_on_death on_death)
{
    pshm_barrier b;
    assert_rc(pshm_barrier_init(&b, world->arena, "barrier", 7, true, parties, on_death, NULL), 0);
    return b;
}

static int64_t in(double seconds)
{
    return pshm_deadline((int64_t)(seconds * 1e9));
}

/* The index, or a code. */
static int pass(pshm_barrier *b, double seconds)
{
    pshm_barrier_ticket ticket;
    int64_t deadline = in(seconds);
    int rc = -EINTR;
    while (rc == -EINTR)
        rc = pshm_barrier_arrive(b, &ticket, PSHM_FOREVER);
    if (!rc)
        do
            rc = pshm_barrier_sleep(b, &ticket, deadline);
        while (rc == -EINTR);
    return rc ? rc : (int)ticket.index;
}

static void test_names(helper_world *world)
{
    pshm_barrier b;
    bool created;
    pshm_arena *a = world->arena;
    assert_rc(pshm_barrier_init(&b, a, "barrier", 7, false, 2, PSHM_ON_DEATH_UNSET, &created), PSHM_ENONAME);
    assert_rc(pshm_barrier_init(&b, a, "barrier", 7, true, 0, PSHM_ON_DEATH_UNSET, &created), PSHM_ENOCOUNT);
    assert_rc(pshm_barrier_init(&b, a, "barrier", 7, true, PSHM_PARTIES_MAX + 1, PSHM_ON_DEATH_UNSET, &created),
              PSHM_ETOOMANY);
    assert_rc(pshm_barrier_init(&b, a, "barrier", 7, true, 3, PSHM_ON_DEATH_UNSET, &created), 0);
    assert_true(created);
    assert_int_equal(b.parties, 3);
    assert_int_equal(b.on_death, PSHM_ON_DEATH_BREAK);
    pshm_barrier_fini(&b);
    pshm_barrier_fini(&b); /* of what is not open: nothing */
    for (uint64_t parties = 2; parties <= 4; parties += 2)
        assert_rc(pshm_barrier_init(&b, a, "barrier", 7, true, parties, PSHM_ON_DEATH_UNSET, &created),
                  PSHM_EPARAMETER);
    assert_rc(pshm_barrier_init(&b, a, "barrier", 7, true, 3, PSHM_ON_DEATH_SHRINK, &created), PSHM_EPARAMETER);
    assert_rc(pshm_barrier_init(&b, a, "barrier", 7, true, 0, PSHM_ON_DEATH_BREAK, &created), 0);
    assert_false(created);
    assert_int_equal(b.parties, 3);
    pshm_barrier_fini(&b);
    assert_rc(pshm_barrier_init(&b, a, "lock", 4, true, 3, PSHM_ON_DEATH_UNSET, &created), PSHM_EKIND);
    assert_string_equal(pshm_on_death_name(PSHM_ON_DEATH_SHRINK), "shrink");
    assert_null(pshm_on_death_name(PSHM_ON_DEATHS));
    assert_null(pshm_on_death_name(PSHM_ON_DEATH_UNSET));
}

/* ---- phases ---- */

#define PHASES 300

typedef struct crowd {
    pshm_barrier *barrier;
    uint32_t came, sum, parties;
} crowd;

static void *march(void *context)
{
    crowd *c = context;
    for (uint32_t phase = 1; phase <= PHASES; phase++) {
        __atomic_add_fetch(&c->came, 1, __ATOMIC_SEQ_CST);
        int index = pass(c->barrier, 30);
        assert_true(index >= 0 && index < (int)c->parties);
        __atomic_add_fetch(&c->sum, (uint32_t)index, __ATOMIC_SEQ_CST);
        assert_int_equal(__atomic_load_n(&c->came, __ATOMIC_SEQ_CST), phase * c->parties);
        assert_true(pass(c->barrier, 30) >= 0);
    }
    assert_rc(pshm_barrier_leave(c->barrier), 0);
    return NULL;
}

static void test_phases(helper_world *world)
{
    for (uint32_t parties = 1; parties <= 4; parties += 3) {
        pshm_barrier b = barrier_of(world, parties, PSHM_ON_DEATH_UNSET);
        crowd c = {.barrier = &b, .parties = parties};
        pthread_t threads[4];
        for (uint32_t i = 0; i < parties; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, march, &c), 0);
        for (uint32_t i = 0; i < parties; i++)
            pthread_join(threads[i], NULL);
        assert_int_equal(c.sum, PHASES * parties * (parties - 1) / 2);
        assert_int_equal(pshm_barrier_waiting(&b), 0);
        pshm_barrier_fini(&b);
        assert_rc(pshm_arena_delete(world->arena, "barrier", 7, NULL), 0);
    }
}

static void test_broken(helper_world *world)
{
    pshm_barrier b = barrier_of(world, 2, PSHM_ON_DEATH_UNSET);
    pshm_barrier_ticket ticket;
    assert_rc(pshm_barrier_arrive(&b, &ticket, PSHM_FOREVER), 0);
    assert_int_equal(ticket.index, 0);
    assert_false(ticket.passed);
    assert_int_equal(pshm_barrier_waiting(&b), 1);
    assert_rc(pshm_barrier_sleep(&b, &ticket, PSHM_FOREVER), -EINTR); /* a slice */
    assert_rc(pshm_barrier_withdraw(&b, &ticket), 0);
    assert_int_equal(pshm_barrier_waiting(&b), 0);
    assert_rc(pshm_barrier_arrive(&b, &ticket, PSHM_FOREVER), 0);
    assert_rc(pshm_barrier_arrive(&b, &ticket, PSHM_FOREVER), 0); /* it is here already */
    assert_int_equal(ticket.index, 0);
    assert_rc(pshm_barrier_sleep(&b, &ticket, in(0.01)), -ETIMEDOUT);
    assert_int_equal(pshm_barrier_broken(&b), 1);
    assert_int_equal(pshm_barrier_waiting(&b), 0);
    assert_rc(pshm_barrier_sleep(&b, &ticket, in(0.01)), PSHM_EBROKEN);
    assert_rc(pshm_barrier_arrive(&b, &ticket, PSHM_FOREVER), PSHM_EBROKEN);
    assert_rc(pshm_barrier_join(&b), PSHM_EBROKEN);
    assert_rc(pshm_barrier_reset(&b), 0);
    assert_int_equal(pshm_barrier_broken(&b), 0);
    assert_rc(pshm_barrier_arrive(&b, &ticket, PSHM_FOREVER), 0);
    assert_rc(pshm_barrier_reset(&b), 0);
    assert_rc(pshm_barrier_sleep(&b, &ticket, PSHM_FOREVER), PSHM_EBROKEN);
    assert_rc(pshm_barrier_abort(&b), 0);
    assert_rc(pshm_barrier_leave(&b), 0);
    assert_rc(pshm_barrier_arrive(&b, &ticket, PSHM_FOREVER),
              PSHM_EBROKEN); /* there were no members to forget it with */
    pshm_barrier_fini(&b);
}

/* ---- members in other processes ---- */

typedef int role(helper_world *world, pshm_barrier *b);

static pid_t act(helper_world *world, role *function)
{
    pid_t pid = fork();
    if (pid == 0) {
        pshm_barrier b;
        int rc = pshm_barrier_init(&b, world->arena, "barrier", 7, false, 0, PSHM_ON_DEATH_UNSET, NULL);
        _exit(rc ? 98 : function(world, &b));
    }
    return pid;
}

static int end_of(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int wait_once(helper_world *world, pshm_barrier *b)
{
    (void)world;
    int rc = pass(b, 20);
    return rc == PSHM_EBROKEN ? 50 : rc < 0 ? 99 : rc;
}

static int pass_and_stay(helper_world *world, pshm_barrier *b)
{
    int rc = wait_once(world, b);
    sleep(60);
    return rc;
}

static int come_and_die(helper_world *world, pshm_barrier *b)
{
    pshm_barrier_ticket ticket;
    (void)world;
    if (pshm_barrier_arrive(b, &ticket, PSHM_FOREVER))
        return 99;
    raise(SIGKILL);
    return 98;
}

static void until_waiting(pshm_barrier *b, int number)
{
    for (int i = 0; i < 20000 && pshm_barrier_waiting(b) != number; i++)
        usleep(1000);
    assert_int_equal(pshm_barrier_waiting(b), number);
}

static void test_deaths(helper_world *world)
{
    for (int on_death = 0; on_death < PSHM_ON_DEATHS; on_death++) {
        pshm_barrier b = barrier_of(world, 2, on_death);
        pid_t other = act(world, pass_and_stay);
        assert_true(pass(&b, 20) >= 0);
        pshm_barrier_ticket ticket;
        assert_rc(pshm_barrier_arrive(&b, &ticket, PSHM_FOREVER), 0);
        helper_kill(other);
        int rc = -EINTR;
        for (int i = 0; i < 3 && rc == -EINTR; i++)
            rc = pshm_barrier_sleep(&b, &ticket, PSHM_FOREVER);
        assert_rc(rc, on_death == PSHM_ON_DEATH_BREAK ? PSHM_EBROKEN : 0);
        if (on_death == PSHM_ON_DEATH_SHRINK) {
            assert_int_equal(pass(&b, 0), 0); /* alone */
            other = act(world, wait_once);    /* takes the party of the dead, which counts again */
            until_waiting(&b, 1);
            assert_int_equal(pass(&b, 20), 1);
            assert_int_equal(end_of(other), 0);
        }
        assert_rc(pshm_barrier_leave(&b), 0);
        /* Whoever is left is dead: a new group finds it as new, broken or not. */
        assert_int_equal(end_of(act(world, come_and_die)), -SIGKILL);
        pid_t first = act(world, wait_once), second = act(world, wait_once);
        assert_int_equal(end_of(first) + end_of(second), 1);
        helper_expect_clean(world->arena);
        pshm_barrier_fini(&b);
        assert_rc(pshm_arena_delete(world->arena, "barrier", 7, NULL), 0);
    }
}

static int join_and_stay(helper_world *world, pshm_barrier *b)
{
    int rc = pshm_barrier_join(b);
    helper_step(world, 1);
    sleep(60);
    return rc;
}

static void test_no_party_left(helper_world *world)
{
    pshm_barrier b = barrier_of(world, 1, PSHM_ON_DEATH_SHRINK);
    pid_t other = act(world, join_and_stay);
    assert_true(helper_until_step(world, 1));
    assert_rc(pshm_barrier_join(&b), PSHM_EPARTIES);
    assert_rc(pshm_barrier_leave(&b), 0);
    kill(other, SIGSTOP);
    assert_rc(pshm_barrier_join(&b), PSHM_EPARTIES); /* stopped is not dead */
    helper_kill(other);
    assert_rc(pshm_barrier_join(&b), 0);
    assert_int_equal(pass(&b, 0), 0);
    assert_rc(pshm_barrier_leave(&b), 0);
    pshm_barrier_fini(&b);
}

static int stay_at_the_table(helper_world *world, pshm_barrier *b)
{
    pshm_member *m;
    bool repair;
    if (pshm_member_of(world->arena->attachment, &m) || pshm_owner_enter(m, &pshm_barrier_body_of(b)->guard, &repair))
        return 99;
    helper_step(world, 1);
    sleep(60);
    return 98;
}

/* Who is stopped, or killed, at the table of members keeps nobody waiting for more than slices, or at all. */
static void test_at_the_table(helper_world *world)
{
    pshm_barrier b = barrier_of(world, 1, PSHM_ON_DEATH_UNSET);
    pshm_barrier_ticket ticket;
    pid_t other = act(world, stay_at_the_table);
    assert_true(helper_until_step(world, 1));
    kill(other, SIGSTOP);
    assert_rc(pshm_barrier_arrive(&b, &ticket, PSHM_FOREVER), -EINTR);
    assert_rc(pshm_barrier_join(&b), -EINTR);
    assert_rc(pshm_barrier_leave(&b), -EINTR);
    assert_rc(pshm_barrier_abort(&b), 0);
    assert_rc(pshm_barrier_reset(&b), -EINTR);
    helper_kill(other);
    assert_rc(pshm_barrier_reset(&b), 0);
    assert_rc(pshm_barrier_arrive(&b, &ticket, PSHM_FOREVER), 0);
    assert_true(ticket.passed);
    assert_rc(pshm_barrier_leave(&b), 0);
    helper_expect_clean(world->arena);
    pshm_barrier_fini(&b);
}

static void test_deleted_and_closed(helper_world *world)
{
    pshm_barrier b = barrier_of(world, 2, PSHM_ON_DEATH_UNSET);
    pshm_barrier_ticket ticket;
    assert_rc(pshm_barrier_arrive(&b, &ticket, PSHM_FOREVER), 0);
    assert_rc(pshm_arena_delete(world->arena, "barrier", 7, NULL), 0);
    assert_rc(pshm_barrier_sleep(&b, &ticket, PSHM_FOREVER), PSHM_EDELETED);
    assert_rc(pshm_barrier_withdraw(&b, &ticket), PSHM_EDELETED);
    assert_rc(pshm_barrier_arrive(&b, &ticket, PSHM_FOREVER), PSHM_EDELETED);
    assert_rc(pshm_barrier_waiting(&b), PSHM_EDELETED);
    assert_rc(pshm_barrier_broken(&b), PSHM_EDELETED);
    assert_rc(pshm_barrier_abort(&b), PSHM_EDELETED);
    pshm_barrier_fini(&b);
}

/* ---- any bytes ---- */

static void test_any_bytes(helper_world *world)
{
    pshm_barrier b = barrier_of(world, 3, PSHM_ON_DEATH_UNSET);
    pshm_barrier_body *body = b.object.body;
    pshm_barrier_body before = *body;
    unsigned char *bytes = b.object.body;
    pshm_barrier_ticket ticket = {0};
    srand(8);
    for (int i = 0; i < 2000; i++) {
        for (size_t j = 0; j < sizeof *body + 3 * sizeof(uint64_t); j++)
            bytes[j] = (unsigned char)(i % 3 ? rand() : rand() % 4 ? 0 : 255);
        /* Held by who lives it would be waited for, as it has to be. */
        body->guard = i % 2 ? before.guard : (pshm_owner){0};
        (void)pshm_barrier_join(&b);
        if (!pshm_barrier_arrive(&b, &ticket, PSHM_FOREVER))
            (void)pshm_barrier_sleep(&b, &ticket, in(0.0001));
        (void)pshm_barrier_withdraw(&b, &ticket);
        (void)pshm_barrier_waiting(&b);
        (void)pshm_barrier_broken(&b);
        (void)pshm_barrier_abort(&b);
        (void)pshm_barrier_reset(&b);
        (void)pshm_barrier_leave(&b);
    }
    memset(bytes, 0, sizeof *body + 3 * sizeof(uint64_t));
    pshm_barrier again;
    static const uint32_t parties[] = {0, 4, 100, PSHM_PARTIES_MAX, PSHM_PARTIES_MAX + 1, UINT32_MAX};
    for (size_t i = 0; i < sizeof parties / sizeof *parties; i++) {
        body->parties = parties[i];
        assert_rc(pshm_barrier_init(&again, world->arena, "barrier", 7, true, 0, PSHM_ON_DEATH_UNSET, NULL),
                  PSHM_ECORRUPT);
    }
    body->parties = 3;
    pshm_barrier_fini(&b);
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_names)
EACH_KIND(test_phases)
EACH_KIND(test_broken)
EACH_KIND(test_deaths)
EACH_KIND(test_no_party_left)
EACH_KIND(test_at_the_table)
EACH_KIND(test_deleted_and_closed)
EACH_KIND(test_any_bytes)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_names),
        TEST(each_test_phases),
        TEST(each_test_broken),
        TEST(each_test_deaths),
        TEST(each_test_no_party_left),
        TEST(each_test_at_the_table),
        TEST(each_test_deleted_and_closed),
        TEST(each_test_any_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
