/* SPDX-License-Identifier: MIT
 *
 * enter, leave, close, retain and release in every order, and from many threads: the mapping lasts exactly as long as
 * somebody is inside.
 */
#include "helper.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <polyshm/mutex.h>

static pshm_segment *fresh(bool serial)
{
    pshm_options options = helper_sized(4 * PAGE);
    options.serial = serial;
    return helper_segment("memfd:m", &options);
}

/* Is the page at an address mapped? */
static bool mapped(const void *address)
{
    FILE *file = fopen("/proc/self/maps", "re");
    char line[512];
    bool found = false;
    while (file && fgets(line, sizeof line, file)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx", &start, &end) == 2)
            found |= (uintptr_t)address >= start && (uintptr_t)address < end;
    }
    if (file)
        fclose(file);
    return found;
}

static void test_closed_handle_refuses(void **state)
{
    (void)state;
    for (int serial = 0; serial < 2; serial++) {
        pshm_segment *s = fresh(serial);
        unsigned char *base = s->base;
        char byte;
        int64_t at;
        uint32_t epoch = s->epoch;
        pshm_segment_close(s);
        assert_true(s->closed && !s->base && !s->rights && !s->map_rights && s->fd == -1);
        assert_int_not_equal(s->epoch, epoch);
        assert_false(mapped(base));
        assert_string_equal(s->address, "memfd:m"); /* which messages still name */
        assert_rc(pshm_segment_enter(s, PSHM_USE_RAW), PSHM_ECLOSED);
        assert_rc(pshm_segment_enter(s, PSHM_USE_CHECKED), PSHM_ECLOSED);
        assert_rc(pshm_segment_check(s, 0, 1, PSHM_READ), PSHM_ECLOSED);
        assert_rc(pshm_segment_check(s, 0, 0, 0), 0); /* asks for nothing */
        assert_rc(pshm_segment_refuse(s, 0, 1, PSHM_READ), PSHM_ECLOSED);
        assert_rc(pshm_segment_read(s, 0, &byte, 1), PSHM_ECLOSED);
        assert_rc(pshm_segment_write(s, 0, "x", 1), PSHM_ECLOSED);
        assert_rc(pshm_segment_fill(s, 0, 0, 1), PSHM_ECLOSED);
        assert_rc(pshm_segment_copy(s, 0, 1, 1), PSHM_ECLOSED);
        assert_rc(pshm_segment_find(s, "x", 1, 0, 1, &at), PSHM_ECLOSED);
        assert_int_equal(pshm_segment_rights(s, 0, 1), 0);
        pshm_segment_close(s); /* again: nothing */
        pshm_segment_release(s);
    }
}

static void test_release_closes(void **state)
{
    (void)state;
    pshm_segment *s = fresh(true);
    unsigned char *base = s->base;
    pshm_segment_retain(s);
    pshm_segment_release(s);
    assert_false(s->closed);
    pshm_segment_release(s); /* the last: closes, unmaps, frees */
    assert_false(mapped(base));
}

/* Two users and the handle's own reference end in every order; what must hold in between is checked at each step. */
enum { CLOSE, LEAVE_RAW, LEAVE_CHECKED, RELEASE, STEPS };

static void run_order(const int *order, bool serial)
{
    pshm_segment *s = fresh(serial);
    unsigned char *base = s->base;
    bool closed = false, raw = true, checked = true, released = false;
    assert_rc(pshm_segment_enter(s, PSHM_USE_RAW), 0);
    assert_rc(pshm_segment_enter(s, PSHM_USE_CHECKED), 0);
    pshm_segment_enter_again(s, PSHM_USE_CHECKED);
    pshm_segment_leave(s, PSHM_USE_CHECKED);
    for (int i = 0; i < STEPS; i++) {
        switch (order[i]) {
        case CLOSE:
            pshm_segment_close(s);
            closed = true;
            break;
        case LEAVE_RAW:
            pshm_segment_leave(s, PSHM_USE_RAW);
            raw = false;
            break;
        case LEAVE_CHECKED:
            pshm_segment_leave(s, PSHM_USE_CHECKED);
            checked = false;
            break;
        default:
            pshm_segment_release(s);
            closed = released = true;
            break;
        }
        bool alive = !closed || raw || checked;
        assert_int_equal(mapped(base), alive);
        if (raw || checked) {
            assert_ptr_equal(s->base, base);
            assert_int_equal(s->map_rights, PSHM_READ | PSHM_WRITE);
            assert_int_equal(pshm_segment_rights(s, 0, PAGE), PSHM_READ | PSHM_WRITE);
            base[PAGE]++;
            if (closed) { /* who is inside goes on, and may even split */
                pshm_segment_enter_again(s, PSHM_USE_RAW);
                pshm_segment_leave(s, PSHM_USE_RAW);
                assert_rc(pshm_segment_enter(s, PSHM_USE_RAW), PSHM_ECLOSED);
            }
        }
        if (released && !raw && !checked)
            return; /* the struct is gone, so there is nothing left to do to it */
    }
}

static void test_every_order(void **state)
{
    (void)state;
    int orders = 0;
    for (int a = 0; a < STEPS; a++)
        for (int b = 0; b < STEPS; b++)
            for (int c = 0; c < STEPS; c++)
                for (int d = 0; d < STEPS; d++) {
                    const int order[STEPS] = {a, b, c, d};
                    unsigned seen = 0;
                    /* Closing after the release would be a use of a handle that was given back. */
                    bool late_close = false;
                    for (int i = 0; i < STEPS; i++) {
                        late_close |= order[i] == CLOSE && (seen & 1u << RELEASE);
                        seen |= 1u << order[i];
                    }
                    if (seen != (1u << STEPS) - 1 || late_close)
                        continue;
                    run_order(order, false);
                    run_order(order, true);
                    orders++;
                }
    assert_int_equal(orders, 12);
}

static void test_system_v_detaches_at_the_last_leave(void **state)
{
    (void)state;
    pshm_stat st;
    char address[32];
    pshm_options options = helper_sized(PAGE);
    pshm_segment *s = helper_segment("sysv:private", &options);
    snprintf(address, sizeof address, "sysv:id=%d", (int)s->id);
    assert_rc(pshm_segment_enter(s, PSHM_USE_RAW), 0);
    pshm_segment_close(s);
    assert_rc(pshm_stat_address(address, strlen(address), &st), 0);
    assert_int_equal(st.attaches, 1);
    pshm_segment_leave(s, PSHM_USE_RAW);
    assert_rc(pshm_stat_address(address, strlen(address), &st), 0);
    assert_int_equal(st.attaches, 0);
    pshm_segment_release(s);
    assert_rc(pshm_unlink(address, strlen(address)), 0);
}

/* A held mutex and a view of a mapping that was grown away keep what they need. */
static void test_held_mutex_and_old_mapping(void **state)
{
    (void)state;
    for (int serial = 0; serial < 2; serial++) {
        pshm_segment *s = fresh(serial);
        pshm_segment_mutex mutex;
        pshm_death death;
        unsigned char *old = s->base;
        assert_rc(pshm_segment_mutex_init(&mutex, s, 64, true, PSHM_RECURSIVE_NO), 0);
        assert_rc(pshm_segment_mutex_try(&mutex, &death), 0);
        pshm_segment_close(s);
        assert_true(mapped(old));
        assert_rc(pshm_segment_mutex_try(&mutex, &death), PSHM_ECLOSED);
        assert_rc(pshm_segment_mutex_release(&mutex), 0);
        assert_false(mapped(old));
        assert_rc(pshm_segment_mutex_release(&mutex), PSHM_ENOTOWNER);
        pshm_segment_release(s);
        assert_int_equal(mutex.segment->closed, 1); /* the handle keeps the struct */
        pshm_segment_mutex_fini(&mutex);
        pshm_segment_mutex_fini(&mutex); /* again: nothing */

        s = fresh(serial);
        old = s->base;
        assert_rc(pshm_segment_enter(s, PSHM_USE_RAW), 0);
        assert_rc(pshm_segment_resize(s, 4096 * PAGE), 0);
        pshm_segment_close(s);
        old[5]++;
        pshm_segment_leave(s, PSHM_USE_RAW);
        assert_false(mapped(old));
        pshm_segment_release(s);
    }
}

#define THREADS 4
#define ROUNDS 300

static struct arena {
    pshm_segment *segment;
    pthread_barrier_t barrier;
    volatile unsigned long entered, refused;
} arena;

/* Enters, uses and leaves, until it is refused. */
static void *use_until_closed(void *context)
{
    (void)context;
    for (int round = 0; round < ROUNDS; round++) {
        unsigned long entered = 0;
        pthread_barrier_wait(&arena.barrier);
        pshm_segment *s = arena.segment;
        pshm_use use = round % 2 ? PSHM_USE_RAW : PSHM_USE_LENT;
        while (pshm_segment_enter(s, use) == 0) {
            s->base[PAGE]++; /* a crash here would be the failure */
            pshm_segment_leave(s, use);
            entered++;
        }
        __atomic_add_fetch(&arena.entered, entered, __ATOMIC_RELAXED);
        __atomic_add_fetch(&arena.refused, 1, __ATOMIC_RELAXED);
        pshm_segment_release(s); /* each has a reference of its own */
        pthread_barrier_wait(&arena.barrier);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    pthread_barrier_init(&arena.barrier, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, use_until_closed, NULL), 0);
    for (int round = 0; round < ROUNDS; round++) {
        pshm_segment *s = fresh(false);
        for (int i = 0; i < THREADS; i++)
            pshm_segment_retain(s);
        arena.segment = s;
        pthread_barrier_wait(&arena.barrier);
        if (round % 3)
            usleep((useconds_t)(round % 7) * 10);
        pshm_segment_close(s);
        pshm_segment_release(s);
        pthread_barrier_wait(&arena.barrier);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&arena.barrier);
    assert_int_equal(arena.refused, THREADS * ROUNDS);
    assert_true(arena.entered > 0);
}

/* Closing at once from all threads unmaps once. */
static void *close_all(void *context)
{
    (void)context;
    for (int round = 0; round < ROUNDS; round++) {
        pthread_barrier_wait(&arena.barrier);
        pshm_segment *s = arena.segment;
        pshm_segment_close(s);
        pshm_segment_release(s);
        pthread_barrier_wait(&arena.barrier);
    }
    return NULL;
}

static void test_everybody_closes(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    pthread_barrier_init(&arena.barrier, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, close_all, NULL), 0);
    for (int round = 0; round < ROUNDS; round++) {
        arena.segment = fresh(false);
        for (int i = 1; i < THREADS; i++)
            pshm_segment_retain(arena.segment);
        pthread_barrier_wait(&arena.barrier);
        pthread_barrier_wait(&arena.barrier);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&arena.barrier);
}

static int close_in_child(void *context)
{
    pshm_segment *s = context;
    CHECK(s->base[0] == 'p');
    s->base[0] = 'c';
    pshm_segment_leave(s, PSHM_USE_RAW); /* the parent's use was copied, and is the child's to end */
    helper_end(s);
    return 0;
}

static void test_fork(void **state)
{
    (void)state;
    pshm_segment *s = fresh(true);
    s->base[0] = 'p';
    assert_rc(pshm_segment_enter(s, PSHM_USE_RAW), 0);
    helper_in_child(close_in_child, s);
    assert_int_equal(s->base[0], 'c');
    pshm_segment_leave(s, PSHM_USE_RAW);
    helper_end(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_closed_handle_refuses),
        TEST(test_release_closes),
        TEST(test_every_order),
        TEST(test_system_v_detaches_at_the_last_leave),
        TEST(test_held_mutex_and_old_mapping),
        TEST(test_threads),
        TEST(test_everybody_closes),
        TEST(test_fork),
    };
    return cmocka_run_group_tests_name("close", tests, NULL, NULL);
}
