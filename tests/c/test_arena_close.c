/* SPDX-License-Identifier: MIT
 *
 * Closing an arena while other threads are at work in it.
 */
#include "helper.h"

#include <polyshm/counter.h>
#include <polyshm/participant.h>

#include <pthread.h>
#include <time.h>

#define ROUNDS 20
#define FAR INT64_C(1000000)

typedef struct world {
    pshm_arena *arena;
    pshm_counter counter;
    int waiting, rc;
} world;

static void *wait_for_it(void *context)
{
    world *w = context;
    __atomic_store_n(&w->waiting, 1, __ATOMIC_SEQ_CST);
    do
        w->rc = pshm_counter_wait(&w->counter, FAR, PSHM_FOREVER);
    while (w->rc == -EINTR);
    return NULL;
}

/* The waiter is woken, looks, and finds the arena closed: it is a member of it all the same until its call ends. */
static void test_close_under_a_wait(void **state)
{
    (void)state;
    const struct timespec pause = {0, 5000000};
    for (int i = 0; i < ROUNDS; i++) {
        pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
        world w = {.rc = 0};
        pthread_t thread;
        bool created;
        int64_t now;
        options.create = true;
        options.size = 1 << 20;
        assert_rc(pshm_arena_open("anon:", 5, &options, &w.arena), 0);
        assert_rc(pshm_counter_init(&w.counter, w.arena, "n", 1, true, &created), 0);
        assert_int_equal(pthread_create(&thread, NULL, wait_for_it, &w), 0);
        while (!__atomic_load_n(&w.waiting, __ATOMIC_SEQ_CST))
            continue;
        nanosleep(&pause, NULL);
        assert_rc(pshm_counter_add(&w.counter, 1, &now), 0);
        pshm_arena_close(w.arena);
        pthread_join(thread, NULL);
        assert_rc(w.rc, PSHM_ECLOSED);
        pshm_counter_fini(&w.counter);
        pshm_arena_release(w.arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_close_under_a_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
