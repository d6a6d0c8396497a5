/* SPDX-License-Identifier: MIT
 *
 * Biased locks, but for death at every instruction: that is tests/crash.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <polyshm/mutex.h>
#include <polyshm/participant.h>

#include "core/bias.h"
#include "helper_heap.h"

#define ROOT 5u
#define PLACE offsetof(pshm_head, heap.lock)

static pshm_biased *lock_of(pshm_arena *arena)
{
    return &arena->attachment->head->heap.lock;
}

static void work(pshm_arena *arena, unsigned pairs)
{
    for (unsigned i = 0; i < pairs; i++) {
        assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(ROOT), 64), 0);
        assert_rc(pshm_heap_free_from(arena, pshm_heap_root(ROOT)), 0);
    }
}

static bool is_biased_to(pshm_arena *arena, const pshm_member *m)
{
    return pshm_load(&lock_of(arena)->owner.word) == m->biased;
}

/* How many locks the calling thread has, as all see it. */
static uint32_t holding(pshm_arena *arena)
{
    pshm_participant *all;
    size_t count;
    uint32_t found = UINT32_MAX;
    assert_rc(pshm_arena_list_participants(arena, &all, &count), 0);
    for (size_t i = 0; i < count; i++)
        if (all[i].self)
            found = all[i].holding;
    pshm_participants_free(all);
    return found;
}

static void test_given_and_used(void **state)
{
    (void)state;
    pshm_arena *arena = heap_open(1 << 20);
    pshm_member *m = heap_member(arena);
    work(arena, 20);
    assert_false(is_biased_to(arena, m));
    work(arena, 100);
    assert_true(is_biased_to(arena, m));
    assert_int_equal(holding(arena), 0);
    assert_true(pshm_bias_enter_quickly(m, lock_of(arena), PLACE));
    assert_int_equal(holding(arena), 1);
    /* Not twice. */
    assert_false(pshm_bias_enter_quickly(m, lock_of(arena), PLACE));
    assert_rc(pshm_heap_enter(m), PSHM_ERELOCK);
    assert_rc(pshm_bias_leave_quickly(m, lock_of(arena)), 0);
    assert_int_equal(holding(arena), 0);
    assert_true(is_biased_to(arena, m));
    /* With another lock held it goes the usual way, and is biased again. */
    pshm_mutex mutex;
    pshm_death death;
    bool created;
    assert_rc(pshm_mutex_init(&mutex, arena, "mutex", 5, true, PSHM_RECURSIVE_NO, &created), 0);
    assert_rc(pshm_mutex_try(&mutex, &death), 0);
    work(arena, 3);
    assert_true(is_biased_to(arena, m));
    assert_int_equal(holding(arena), 1);
    assert_rc(pshm_mutex_release(&mutex), 0);
    pshm_mutex_fini(&mutex);
    heap_end(arena);
}

static void *work_in_thread(void *context)
{
    work(context, 1);
    return NULL;
}

static void in_thread(void *(*function)(void *), void *context)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, function, context), 0);
    pthread_join(thread, NULL);
}

static void test_taken_by_another(void **state)
{
    (void)state;
    pshm_arena *arena = heap_open(1 << 20);
    pshm_member *m = heap_member(arena);
    uint32_t before = 0;
    for (int i = 0; i < 4; i++) {
        work(arena, 1000);
        assert_true(is_biased_to(arena, m));
        in_thread(work_in_thread, arena);
        assert_int_equal(pshm_load(&lock_of(arena)->owner.word), 0);
        work(arena, 1);
        /* Each time it takes longer to be given. */
        assert_true(pshm_peek(&lock_of(arena)->enough) > before);
        before = pshm_peek(&lock_of(arena)->enough);
    }
    heap_end(arena);
}

/* Its owner has gone, one way or another: whoever comes next has it. */
static int be_biased_and(void *context)
{
    pshm_arena *arena = context;
    work(arena, 200);
    return is_biased_to(arena, heap_member(arena)) ? 0 : 1;
}

static void *be_biased_in_thread(void *context)
{
    return be_biased_and(context) ? (void *)1 : NULL;
}

static void test_owner_gone(void **state)
{
    (void)state;
    pshm_arena *arena = heap_open(1 << 20);
    pshm_member *m = heap_member(arena);
    assert_int_equal(helper_wait(helper_fork(be_biased_and, arena)), 0);
    work(arena, 1);
    in_thread(be_biased_in_thread, arena);
    work(arena, 1);
    work(arena, 2000);
    assert_true(is_biased_to(arena, m));
    assert_rc(pshm_participant_detach(arena), 0);
    assert_int_equal(lock_of(arena)->owner.word, 0);
    work(arena, 1);
    heap_end(arena);
}

/* A child of its owner is somebody else. */
static int child_works(void *context)
{
    work(context, 3);
    return 0;
}

static void test_fork(void **state)
{
    (void)state;
    pshm_arena *arena = heap_open(1 << 20);
    for (int i = 0; i < 3; i++) {
        work(arena, 3000);
        assert_true(is_biased_to(arena, heap_member(arena)));
        assert_int_equal(helper_wait(helper_fork(child_works, arena)), 0);
        work(arena, 1);
    }
    heap_end(arena);
}

/* Somebody died after it was marked as revoked, before it was taken. */
static void test_left_revoked(void **state)
{
    (void)state;
    pshm_arena *arena = heap_open(1 << 20);
    pshm_member *m = heap_member(arena);
    for (int owner = 0; owner < 2; owner++) {
        work(arena, 3000);
        pshm_biased *lock = lock_of(arena);
        assert_true(is_biased_to(arena, m));
        lock->owner.word = (lock->owner.word & ~PSHM_OWNER_BIASED) | PSHM_OWNER_REVOKED;
        if (owner)
            work(arena, 1);
        else
            in_thread(work_in_thread, arena);
        /* Its owner has it as often in a row as ever. */
        assert_int_equal(lock->owner.word, owner ? m->biased : 0);
    }
    heap_end(arena);
}

/* What it is when it is revoked, which is how the one who does so knows it again. */
static uint64_t revoked(pshm_arena *arena)
{
    uint64_t *word = &lock_of(arena)->owner.word, now = pshm_load(word);
    assert_rc(pshm_bias_revoke(heap_member(arena), &lock_of(arena)->owner, now, 0), -EAGAIN);
    assert_true(pshm_load(word) & PSHM_OWNER_REVOKED);
    return pshm_load(word);
}

/* Somebody was stopped after he saw that nobody is inside: when he goes on the owner is, once more, and it is somebody else
 * who waits for that. */
static void test_revoked_once_more(void **state)
{
    (void)state;
    pshm_arena *arena = heap_open(1 << 20);
    pshm_member *m = heap_member(arena);
    uint64_t *word = &lock_of(arena)->owner.word, seen[3];
    for (int i = 0; i < 3; i++) {
        /* After the last number comes the first. */
        lock_of(arena)->times = i ? lock_of(arena)->times : UINT32_MAX - 1;
        work(arena, 3000);
        assert_true(is_biased_to(arena, m));
        assert_true(pshm_bias_enter_quickly(m, lock_of(arena), PLACE));
        seen[i] = revoked(arena);
        for (int before = 0; before < i; before++)
            assert_false(pshm_cas(word, &seen[before], m->me));
        assert_int_equal(pshm_load(word), seen[i]);
        assert_rc(pshm_bias_leave_quickly(m, lock_of(arena)), 0);
        assert_int_equal(pshm_load(word), 0);
    }
    heap_end(arena);
}

typedef struct visitor {
    pshm_arena *arena;
    volatile pid_t tid;
    volatile int64_t took;
} visitor;

static void *visit(void *context)
{
    visitor *v = context;
    v->tid = gettid();
    work(v->arena, 1);
    v->took = pshm_deadline(0);
    return NULL;
}

/* Who comes while the owner is inside sleeps, and is woken. */
static void test_owner_inside(void **state)
{
    (void)state;
    pshm_arena *arena = heap_open(1 << 20);
    pshm_member *m = heap_member(arena);
    int64_t best = INT64_MAX;
    for (int i = 0; i < 5; i++) {
        visitor v = {.arena = arena};
        work(arena, 6000);
        assert_true(pshm_bias_enter_quickly(m, lock_of(arena), PLACE));
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, visit, &v), 0);
        while (!v.tid)
            usleep(100);
        while (!(pshm_load(&lock_of(arena)->owner.word) & PSHM_ID_WAITERS))
            usleep(100);
        usleep(20000);
        assert_int_equal(v.took, 0);
        int64_t left = pshm_deadline(0);
        assert_rc(pshm_bias_leave_quickly(m, lock_of(arena)), 0);
        pthread_join(thread, NULL);
        if (v.took - left < best)
            best = v.took - left;
    }
    /* Not by the end of its slice. */
    assert_true(best < PSHM_SLICE_NS / 4);
    heap_end(arena);
}

/* ---- all at once: what is guarded is changed by plain stores ---- */

typedef struct crowd {
    pshm_arena *arena;
    volatile uint64_t *counts; /* in shared memory: two that are equal, and what all have counted for themselves */
    int64_t end;
} crowd;

static int enter_and_count(const crowd *c)
{
    pshm_member *m = heap_member(c->arena);
    pshm_biased *lock = lock_of(c->arena);
    bool quick = pshm_bias_enter_quickly(m, lock, PLACE);
    int rc = 0;
    if (!quick)
        do
            rc = pshm_heap_enter(m);
        while (rc == -EINTR);
    if (rc)
        return rc;
    uint64_t count = c->counts[0];
    if (c->counts[1] != count)
        return -EIO;
    c->counts[0] = count + 1;
    c->counts[1] = count + 1;
    if (quick)
        return pshm_bias_leave_quickly(m, lock);
    pshm_heap_leave(m);
    return 0;
}

static int count_often(void *context)
{
    const crowd *c = context;
    unsigned seed = (unsigned)getpid() ^ (unsigned)gettid() * 7919;
    uint64_t counted = 0;
    while (pshm_deadline(0) < c->end) {
        /* Often enough to be biased, again and again; then the others. */
        for (unsigned row = (unsigned)rand_r(&seed) % 400 + 100; row; row--, counted++)
            if (enter_and_count(c))
                return 1;
        lock_of(c->arena)->enough = 0;
        for (volatile unsigned pause = (unsigned)rand_r(&seed) % 2000; pause; pause--) {
        }
    }
    __atomic_fetch_add(&c->counts[2], counted, __ATOMIC_RELAXED);
    return 0;
}

static void *count_in_thread(void *context)
{
    return count_often(context) ? (void *)1 : NULL;
}

static int count_in_process(void *context)
{
    pthread_t thread;
    void *result;
    CHECK(pthread_create(&thread, NULL, count_in_thread, context) == 0);
    int rc = count_often(context);
    pthread_join(thread, &result);
    return rc || result;
}

/* Without the barrier of pshm_bias_revoke some counts in ten millions are lost. */
static void test_exclusion(void **state)
{
    (void)state;
    pshm_arena *arena = heap_open(1 << 20);
    assert_rc(pshm_heap_alloc_into(arena, pshm_heap_root(ROOT), 64), 0);
    uint64_t place = heap_word(arena, pshm_heap_root(ROOT));
    crowd c = {arena, (volatile uint64_t *)(void *)heap_bytes(arena, place), pshm_deadline(SECOND)};
    pid_t children[3];
    for (int i = 0; i < 3; i++)
        children[i] = helper_fork(count_in_process, &c);
    for (int i = 0; i < 3; i++)
        assert_int_equal(helper_wait(children[i]), 0);
    assert_true(c.counts[0] > 0);
    assert_int_equal(c.counts[0], c.counts[2]);
    assert_int_equal(c.counts[1], c.counts[2]);
    assert_rc(pshm_heap_free_from(arena, pshm_heap_root(ROOT)), 0);
    heap_end(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_given_and_used), TEST(test_taken_by_another),  TEST(test_owner_gone),   TEST(test_fork),
        TEST(test_left_revoked),   TEST(test_revoked_once_more), TEST(test_owner_inside), TEST(test_exclusion),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
