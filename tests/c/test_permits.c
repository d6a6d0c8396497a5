/* SPDX-License-Identifier: MIT
 *
 * Permits: every verb and every refusal, who waits for how many. test_permits_death.c has deaths, and permits that go away.
 */
#include "helper_owner.h"

#include <polyshm/permits.h>

#include <pthread.h>
#include <unistd.h>

#include "core/owner.h"
#include "core/waiting.h"

static pshm_permits permits_of(helper_world *world, int64_t total)
{
    pshm_permits permits;
    assert_rc(pshm_permits_init(&permits, world->arena, "permits", 7, true, total, NULL), 0);
    return permits;
}

static int64_t in(double seconds)
{
    return pshm_deadline((int64_t)(seconds * 1e9));
}

static void expect(pshm_permits *permits, uint32_t available, uint32_t held)
{
    uint32_t found = 99;
    assert_rc(pshm_permits_available(permits, &found), 0);
    assert_int_equal(found, available);
    assert_rc(pshm_permits_held(permits, &found), 0);
    assert_int_equal(found, held);
}

/* ---- opening ---- */

static void test_names(helper_world *world)
{
    pshm_arena *arena = world->arena;
    pshm_permits p;
    bool created = true;
    assert_rc(pshm_permits_init(&p, arena, "permits", 7, true, PSHM_PERMITS_ANY, &created), PSHM_ENOCOUNT);
    assert_rc(pshm_permits_init(&p, arena, "permits", 7, false, PSHM_PERMITS_ANY, &created), PSHM_ENONAME);
    assert_rc(pshm_permits_init(&p, arena, "permits", 7, false, 3, &created), PSHM_ENONAME);
    assert_rc(pshm_permits_init(&p, arena, "permits", 7, true, 0, &created), PSHM_ETOOFEW);
    assert_rc(pshm_permits_init(&p, arena, "permits", 7, true, -1, &created), PSHM_ETOOFEW);
    assert_rc(pshm_permits_init(&p, arena, "permits", 7, true, 65536, &created), PSHM_ETOOMANY);
    assert_rc(pshm_permits_init(&p, arena, "permits", 7, true, INT64_MAX, &created), PSHM_ETOOMANY);
    assert_rc(pshm_permits_init(&p, arena, "permits", 7, true, 65535, &created), 0);
    assert_true(created);
    assert_int_equal(p.total, 65535);
    expect(&p, 65535, 0);
    pshm_permits_fini(&p);
    pshm_permits_fini(&p); /* of what is not open: nothing */
    assert_rc(pshm_permits_release(&p, 1), PSHM_ENOTOWNER);
    assert_rc(pshm_permits_init(&p, arena, "permits", 7, true, 65534, &created), PSHM_EPARAMETER);
    assert_rc(pshm_permits_init(&p, arena, "permits", 7, true, PSHM_PERMITS_ANY, &created), 0);
    assert_false(created);
    assert_int_equal(p.total, 65535);
    pshm_permits_fini(&p);
    assert_rc(pshm_permits_init(&p, arena, "lock", 4, true, 3, &created), PSHM_EKIND);
    assert_rc(pshm_permits_init(&p, arena, "", 0, true, 3, &created), PSHM_ENAMESIZE);
    assert_rc(pshm_permits_init(&p, arena, "\xff", 1, true, 3, &created), PSHM_ENAMETEXT);
}

/* ---- verbs ---- */

static void *try_elsewhere(void *context)
{
    pshm_permits *p = context;
    expect(p, 1, 0);
    assert_rc(pshm_permits_try(p, 2), -EBUSY);
    assert_rc(pshm_permits_acquire(p, 2, 0), -ETIMEDOUT);
    assert_rc(pshm_permits_acquire(p, 2, in(0.01)), -ETIMEDOUT);
    assert_rc(pshm_permits_acquire(p, 2, PSHM_FOREVER), -EINTR); /* a slice */
    assert_rc(pshm_permits_release(p, 1), PSHM_ENOTOWNER);
    assert_rc(pshm_permits_try(p, 1), 0);
    expect(p, 0, 1);
    assert_rc(pshm_permits_acquire(p, 1, 0), -ETIMEDOUT);
    assert_rc(pshm_permits_release(p, 1), 0);
    return NULL;
}

static void test_verbs(helper_world *world)
{
    pshm_permits p = permits_of(world, 4), q = permits_of(world, PSHM_PERMITS_ANY);
    pthread_t thread;
    for (int i = 0; i < 3; i++) {
        expect(&p, 4, 0);
        assert_rc(i ? pshm_permits_acquire(&p, 2, i == 1 ? 0 : PSHM_FOREVER) : pshm_permits_try(&p, 2), 0);
        expect(&q, 2, 2);
        assert_rc(pshm_permits_try(&q, 1), 0);
        expect(&p, 1, 3);
        /* It would wait for itself. */
        assert_rc(pshm_permits_try(&p, 2), -EBUSY);
        assert_rc(pshm_permits_acquire(&p, 2, PSHM_FOREVER), PSHM_ESELFWAIT);
        assert_rc(pshm_permits_acquire(&p, 4, 0), PSHM_ESELFWAIT);
        assert_rc(pshm_permits_try(&p, 5), PSHM_ETOOMANY);
        assert_rc(pshm_permits_acquire(&p, 5, PSHM_FOREVER), PSHM_ETOOMANY);
        assert_rc(pshm_permits_acquire(&p, INT64_MAX, PSHM_FOREVER), PSHM_ETOOMANY);
        assert_rc(pshm_permits_try(&p, (INT64_C(1) << 32) + 1), PSHM_ETOOMANY);
        assert_rc(pshm_permits_try(&p, 0), PSHM_ETOOFEW);
        assert_rc(pshm_permits_acquire(&p, -1, 0), PSHM_ETOOFEW);
        assert_rc(pshm_permits_release(&p, 0), PSHM_ETOOFEW);
        assert_rc(pshm_permits_release(&p, INT64_MIN), PSHM_ETOOFEW);
        assert_rc(pshm_permits_release(&p, 4), PSHM_ENOTOWNER);
        assert_rc(pshm_permits_release(&p, (INT64_C(1) << 32) + 1), PSHM_ENOTOWNER);
        expect(&p, 1, 3);
        assert_int_equal(pthread_create(&thread, NULL, try_elsewhere, &p), 0);
        pthread_join(thread, NULL);
        assert_rc(pshm_permits_release(&q, 1), 0);
        assert_rc(pshm_permits_release(&p, 1), 0);
        expect(&p, 3, 1);
        assert_rc(pshm_permits_release(&p, 1), 0);
        assert_rc(pshm_permits_release(&p, 1), PSHM_ENOTOWNER);
        assert_rc(pshm_participant_detach(world->arena), 0);
    }
    expect(&p, 4, 0);
    pshm_permits_fini(&q);
    pshm_permits_fini(&p);
}

/* All of a thread's places are taken: it gets no more, changes nothing, and can give back. */
static void test_as_many_as_a_thread_can_hold(helper_world *world)
{
    enum { MOST = PSHM_HOLDS_MAX };
    pshm_mutex locks[MOST];
    pshm_death death;
    pshm_permits p = permits_of(world, 2);
    for (int i = 0; i < MOST; i++) {
        char name[16];
        snprintf(name, sizeof name, "lock %d", i);
        assert_rc(pshm_mutex_init(&locks[i], world->arena, name, strlen(name), true, PSHM_RECURSIVE_NO, NULL), 0);
    }
    for (int i = 0; i < MOST - 1; i++)
        assert_rc(pshm_mutex_try(&locks[i], &death), 0);
    assert_rc(pshm_permits_try(&p, 1), PSHM_EHOLDS); /* one for the mark, one while it is acquired */
    assert_rc(pshm_mutex_try(&locks[MOST - 1], &death), 0);
    assert_rc(pshm_permits_acquire(&p, 1, PSHM_FOREVER), PSHM_EHOLDS);
    expect(&p, 2, 0);
    for (int i = 0; i < 2; i++)
        assert_rc(pshm_mutex_release(&locks[i]), 0);
    assert_rc(pshm_permits_try(&p, 2), 0);
    assert_rc(pshm_mutex_try(&locks[0], &death), 0);
    assert_rc(pshm_mutex_try(&locks[1], &death), PSHM_EHOLDS);
    assert_rc(pshm_permits_release(&p, 1), 0);
    expect(&p, 1, 1);
    assert_rc(pshm_permits_try(&p, 1), PSHM_EHOLDS);
    assert_rc(pshm_permits_release(&p, 1), 0);
    expect(&p, 2, 0);
    for (int i = 0; i < MOST; i++) {
        if (i != 1)
            assert_rc(pshm_mutex_release(&locks[i]), 0);
        pshm_mutex_fini(&locks[i]);
    }
    assert_rc(pshm_permits_try(&p, 2), 0);
    assert_rc(pshm_permits_release(&p, 2), 0);
    pshm_permits_fini(&p);
}

static void test_participants(helper_world *world)
{
    pshm_permits p = permits_of(world, 3);
    pshm_participant *all;
    size_t count;
    for (uint32_t held = 0; held < 3; held++) {
        assert_rc(pshm_arena_list_participants(world->arena, &all, &count), 0);
        assert_int_equal(count, 1);
        assert_int_equal(all[0].holding, held > 0);
        if (held)
            assert_string_equal(all[0].holds[0].name, "permits");
        pshm_participants_free(all);
        if (held)
            assert_rc(pshm_participant_detach(world->arena), PSHM_EHELD);
        assert_rc(pshm_permits_try(&p, 1), 0);
    }
    assert_rc(pshm_permits_release(&p, 3), 0);
    pshm_permits_fini(&p);
}

/* ---- many at once ---- */

#define TOTAL 5
#define TURNS 3000

static int take_turns(void *context)
{
    helper_world *world = context;
    pshm_permits p;
    CHECK(pshm_permits_init(&p, world->arena, "permits", 7, false, TOTAL, NULL) == 0);
    for (uint32_t i = 0; i < TURNS; i++) {
        uint32_t n = 1 + (i * 7 + (uint32_t)getpid()) % TOTAL;
        int rc;
        do
            rc = pshm_permits_acquire(&p, n, PSHM_FOREVER);
        while (rc == -EINTR);
        CHECK(rc == 0);
        CHECK(__atomic_add_fetch(&world->stage->number, n, __ATOMIC_SEQ_CST) <= TOTAL);
        if (i % 64 == 0)
            usleep(100);
        __atomic_sub_fetch(&world->stage->number, n, __ATOMIC_SEQ_CST);
        CHECK(pshm_permits_release(&p, n) == 0);
    }
    pshm_permits_fini(&p);
    return 0;
}

static void *take_turns_in_thread(void *context)
{
    take_turns(context);
    return NULL;
}

static void test_no_more_than_there_are(helper_world *world)
{
    pshm_permits p = permits_of(world, TOTAL);
    pthread_t threads[2];
    pid_t children[2];
    world->stage->number = 0;
    for (int i = 0; i < 2; i++)
        children[i] = helper_fork(take_turns, world);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_turns_in_thread, world), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(helper_wait(children[i]), 0);
    }
    expect(&p, TOTAL, 0);
    pshm_permits_fini(&p);
}

typedef struct job {
    helper_world *world;
    int64_t n;
    int rc;
} job;

static void *wait_and_keep(void *context)
{
    job *j = context;
    pshm_permits p = permits_of(j->world, PSHM_PERMITS_ANY);
    int rc = -EINTR;
    for (int slices = 0; rc == -EINTR && slices < 200; slices++)
        rc = pshm_permits_acquire(&p, j->n, PSHM_FOREVER);
    __atomic_store_n(&j->rc, rc, __ATOMIC_SEQ_CST);
    if (rc == 0)
        helper_until_step(j->world, 1);
    if (rc == 0)
        assert_rc(pshm_permits_release(&p, j->n), 0);
    pshm_permits_fini(&p);
    return NULL;
}

static void until_asleep(helper_world *world, size_t many)
{
    for (size_t asleep = 0; asleep < many;) {
        pshm_participant *all;
        size_t count;
        asleep = 0;
        assert_rc(pshm_arena_list_participants(world->arena, &all, &count), 0);
        for (size_t i = 0; i < count; i++)
            asleep += !strcmp(all[i].waits, "permits");
        pshm_participants_free(all);
    }
}

static void until(const int *rc, int value)
{
    while (__atomic_load_n(rc, __ATOMIC_SEQ_CST) != value)
        usleep(100);
}

/* Who wants few is not held up by who wants many, whoever began to wait first; who wants many gets them in the end. */
static void test_waiters_of_different_sizes(helper_world *world)
{
    pshm_permits p = permits_of(world, 6);
    job jobs[] = {{world, 6, 1}, {world, 4, 1}, {world, 1, 1}, {world, 1, 1}};
    pthread_t threads[4];
    helper_step(world, 0);
    assert_rc(pshm_permits_try(&p, 6), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, wait_and_keep, &jobs[i]), 0);
    until_asleep(world, 4);
    assert_rc(pshm_permits_release(&p, 2), 0); /* those of one each */
    until(&jobs[2].rc, 0);
    until(&jobs[3].rc, 0);
    assert_int_equal(__atomic_load_n(&jobs[0].rc, __ATOMIC_SEQ_CST), 1);
    assert_int_equal(__atomic_load_n(&jobs[1].rc, __ATOMIC_SEQ_CST), 1);
    assert_rc(pshm_permits_release(&p, 4), 0);
    until(&jobs[1].rc, 0);
    assert_int_equal(__atomic_load_n(&jobs[0].rc, __ATOMIC_SEQ_CST), 1);
    helper_step(world, 1);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_rc(jobs[0].rc, 0);
    expect(&p, 6, 0);
    pshm_permits_fini(&p);
}

/* ---- watching ---- */

static int watched(pshm_permits *p, int64_t least, pshm_watch *words)
{
    words->count = 0;
    return p->object.watch(&p->object, least, words);
}

static bool has_changed(const pshm_watch *words)
{
    for (unsigned i = 0; i < words->count; i++)
        if (__atomic_load_n(words->words[i].word, __ATOMIC_SEQ_CST) != words->words[i].value)
            return true;
    return false;
}

static void test_watch(helper_world *world)
{
    pshm_permits p = permits_of(world, 3);
    pshm_watch words;
    assert_int_equal(watched(&p, 0, &words), 1); /* one, unless said */
    assert_int_equal(watched(&p, 3, &words), 1);
    assert_rc(watched(&p, 4, &words), PSHM_ETOOMANY);
    assert_rc(pshm_permits_try(&p, 1), 0);
    assert_int_equal(watched(&p, 2, &words), 1);
    assert_int_equal(watched(&p, 3, &words), 0);
    assert_int_equal(words.count, 2);
    assert_false(has_changed(&words));
    assert_rc(pshm_permits_try(&p, 2), 0);
    assert_int_equal(watched(&p, 0, &words), 0);
    assert_rc(pshm_permits_release(&p, 1), 0);
    assert_true(has_changed(&words));
    assert_int_equal(watched(&p, 0, &words), 1);
    assert_int_equal(watched(&p, 2, &words), 0);
    assert_rc(pshm_permits_release(&p, 2), 0);
    assert_rc(pshm_arena_delete(world->arena, "permits", 7, NULL), 0);
    assert_rc(watched(&p, 1, &words), PSHM_EDELETED);
    pshm_permits_fini(&p);
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_names)
EACH_KIND(test_verbs)
EACH_KIND(test_as_many_as_a_thread_can_hold)
EACH_KIND(test_participants)
EACH_KIND(test_no_more_than_there_are)
EACH_KIND(test_waiters_of_different_sizes)
EACH_KIND(test_watch)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_names),
        TEST(each_test_verbs),
        TEST(each_test_participants),
        TEST(each_test_as_many_as_a_thread_can_hold),
        TEST(each_test_watch),
        TEST(each_test_no_more_than_there_are),
        TEST(each_test_waiters_of_different_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
