/* SPDX-License-Identifier: MIT
 *
 * Handles that are not open any more: they were ended, or never opened, or their arena is closed and its memory gone. Every
 * verb is an error there.
 */
#include "helper.h"

#include <polyshm/arena.h>
#include <polyshm/barrier.h>
#include <polyshm/condition.h>
#include <polyshm/counter.h>
#include <polyshm/event.h>
#include <polyshm/latch.h>
#include <polyshm/notifier.h>
#include <polyshm/once.h>
#include <polyshm/participant.h>
#include <polyshm/permits.h>
#include <polyshm/rwlock.h>
#include <polyshm/semaphore.h>
#include <polyshm/wait.h>

#include <stdlib.h>

typedef struct handles {
    pshm_mutex mutex;
    pshm_rwlock rwlock;
    pshm_semaphore semaphore;
    pshm_permits permits;
    pshm_condition condition;
    pshm_event event[2];
    pshm_barrier barrier;
    pshm_once once;
    pshm_latch latch;
    pshm_counter counter;
} handles;

static pshm_arena *opened(handles *h)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *a;
    options.size = 1 << 20;
    assert_rc(pshm_arena_open("anon:", 5, &options, &a), 0);
    assert_rc(pshm_mutex_init(&h->mutex, a, "m", 1, true, PSHM_RECURSIVE_NO, NULL), 0);
    assert_rc(pshm_rwlock_init(&h->rwlock, a, "r", 1, true, NULL), 0);
    assert_rc(pshm_semaphore_init(&h->semaphore, a, "s", 1, true, 1, NULL), 0);
    assert_rc(pshm_permits_init(&h->permits, a, "p", 1, true, 3, NULL), 0);
    assert_rc(pshm_condition_init(&h->condition, a, "c", 1, true, &h->mutex, NULL), 0);
    assert_rc(pshm_event_init(&h->event[0], a, "e", 1, true, PSHM_AUTOMATIC_NO, NULL), 0);
    assert_rc(pshm_event_init(&h->event[1], a, "a", 1, true, PSHM_AUTOMATIC_YES, NULL), 0);
    assert_rc(pshm_barrier_init(&h->barrier, a, "b", 1, true, 2, PSHM_ON_DEATH_BREAK, NULL), 0);
    assert_rc(pshm_once_init(&h->once, a, "o", 1, true, NULL), 0);
    assert_rc(pshm_latch_init(&h->latch, a, "l", 1, true, 2, NULL), 0);
    assert_rc(pshm_counter_init(&h->counter, a, "k", 1, true, NULL), 0);
    return a;
}

static void end(handles *h)
{
    pshm_condition_fini(&h->condition);
    pshm_mutex_fini(&h->mutex);
    pshm_rwlock_fini(&h->rwlock);
    pshm_semaphore_fini(&h->semaphore);
    pshm_permits_fini(&h->permits);
    pshm_event_fini(&h->event[0]);
    pshm_event_fini(&h->event[1]);
    pshm_barrier_fini(&h->barrier);
    pshm_once_fini(&h->once);
    pshm_latch_fini(&h->latch);
    pshm_counter_fini(&h->counter);
}

static void use_locks(handles *h)
{
    pshm_death death;
    uint32_t n;
    assert_rc(pshm_mutex_try(&h->mutex, &death), PSHM_ECLOSED);
    assert_rc(pshm_mutex_acquire(&h->mutex, 0, &death), PSHM_ECLOSED);
    assert_rc(pshm_mutex_recover(&h->mutex, 0, &death), PSHM_ECLOSED);
    assert_rc(pshm_mutex_try_task(&h->mutex, 1, false, &death), PSHM_ECLOSED);
    assert_rc(pshm_mutex_recover_task(&h->mutex, 1, false, &death), PSHM_ECLOSED);
    assert_rc(pshm_mutex_consistent(&h->mutex), PSHM_ENOTOWNER);
    assert_rc(pshm_mutex_release(&h->mutex), PSHM_ENOTOWNER);
    assert_rc(pshm_mutex_release_task(&h->mutex, 1), PSHM_ENOTOWNER);
    assert_false(pshm_mutex_held_by_task(&h->mutex, 1));
    assert_rc(pshm_mutex_locked(&h->mutex), PSHM_ECLOSED);
    assert_rc(pshm_mutex_owner(&h->mutex, &n), PSHM_ECLOSED);
    assert_rc(pshm_rwlock_read_try(&h->rwlock, &death), PSHM_ECLOSED);
    assert_rc(pshm_rwlock_read_acquire(&h->rwlock, 0, &death), PSHM_ECLOSED);
    assert_rc(pshm_rwlock_read_recover(&h->rwlock, 0, &death), PSHM_ECLOSED);
    assert_rc(pshm_rwlock_read_consistent(&h->rwlock), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_read_release(&h->rwlock), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_read_locked(&h->rwlock), PSHM_ECLOSED);
    assert_rc(pshm_rwlock_write_try(&h->rwlock, &death), PSHM_ECLOSED);
    assert_rc(pshm_rwlock_write_acquire(&h->rwlock, 0, &death), PSHM_ECLOSED);
    assert_rc(pshm_rwlock_write_recover(&h->rwlock, 0, &death), PSHM_ECLOSED);
    assert_rc(pshm_rwlock_write_consistent(&h->rwlock), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_write_release(&h->rwlock), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_downgrade(&h->rwlock), PSHM_ENOTOWNER);
    assert_rc(pshm_rwlock_write_locked(&h->rwlock), PSHM_ECLOSED);
    assert_rc(pshm_rwlock_write_owner(&h->rwlock, &n), PSHM_ECLOSED);
    assert_rc(pshm_semaphore_try(&h->semaphore), PSHM_ECLOSED);
    assert_rc(pshm_semaphore_acquire(&h->semaphore, 0), PSHM_ECLOSED);
    assert_rc(pshm_semaphore_release(&h->semaphore, 1), PSHM_ECLOSED);
    assert_rc(pshm_semaphore_value(&h->semaphore, &n), PSHM_ECLOSED);
    assert_rc(pshm_permits_try(&h->permits, 1), PSHM_ECLOSED);
    assert_rc(pshm_permits_acquire(&h->permits, 1, 0), PSHM_ECLOSED);
    assert_rc(pshm_permits_release(&h->permits, 1), PSHM_ENOTOWNER);
    assert_rc(pshm_permits_available(&h->permits, &n), PSHM_ECLOSED);
    assert_rc(pshm_permits_held(&h->permits, &n), PSHM_ECLOSED);
}

static void use_the_others(handles *h)
{
    pshm_death death;
    pshm_condition_ticket turn = {0};
    pshm_barrier_ticket ticket = {0};
    uint32_t n;
    int64_t number;
    assert_rc(pshm_condition_begin(&h->condition, &turn), PSHM_ECLOSED);
    assert_rc(pshm_condition_sleep(&h->condition, &turn, 0), PSHM_ECLOSED);
    assert_rc(pshm_condition_end(&h->condition, &turn, 0, &death), PSHM_ECLOSED);
    assert_rc(pshm_condition_wait(&h->condition, &turn, 0, &death), PSHM_ECLOSED);
    assert_rc(pshm_condition_now(&h->condition, &number), PSHM_ECLOSED);
    assert_rc(pshm_condition_notify(&h->condition, 1), PSHM_ECLOSED);
    assert_rc(pshm_condition_notify_all(&h->condition), PSHM_ECLOSED);
    for (int automatic = 0; automatic < 2; automatic++) {
        pshm_event *event = &h->event[automatic];
        assert_rc(pshm_event_set(event), PSHM_ECLOSED);
        assert_rc(pshm_event_clear(event), PSHM_ECLOSED);
        assert_rc(pshm_event_is_set(event), PSHM_ECLOSED);
        assert_rc(pshm_event_since(event, &n), PSHM_ECLOSED);
        assert_rc(pshm_event_wait(event, 0, 0), PSHM_ECLOSED);
    }
    assert_rc(pshm_barrier_join(&h->barrier), PSHM_ECLOSED);
    assert_rc(pshm_barrier_leave(&h->barrier), PSHM_ECLOSED);
    assert_rc(pshm_barrier_arrive(&h->barrier, &ticket, 0), PSHM_ECLOSED);
    assert_rc(pshm_barrier_sleep(&h->barrier, &ticket, 0), PSHM_ECLOSED);
    assert_rc(pshm_barrier_withdraw(&h->barrier, &ticket), PSHM_ECLOSED);
    assert_rc(pshm_barrier_abort(&h->barrier), PSHM_ECLOSED);
    assert_rc(pshm_barrier_reset(&h->barrier), PSHM_ECLOSED);
    assert_rc(pshm_barrier_waiting(&h->barrier), PSHM_ECLOSED);
    assert_rc(pshm_barrier_broken(&h->barrier), PSHM_ECLOSED);
    assert_rc(pshm_once_begin(&h->once, 0), PSHM_ECLOSED);
    assert_rc(pshm_once_finish(&h->once, true), PSHM_ENOTOWNER);
    assert_rc(pshm_once_done(&h->once), PSHM_ECLOSED);
    assert_rc(pshm_latch_count_down(&h->latch, 1, &n), PSHM_ECLOSED);
    assert_rc(pshm_latch_wait(&h->latch, 0), PSHM_ECLOSED);
    assert_rc(pshm_latch_count(&h->latch, &n), PSHM_ECLOSED);
    assert_rc(pshm_counter_add(&h->counter, 1, &number), PSHM_ECLOSED);
    assert_rc(pshm_counter_load(&h->counter, &number), PSHM_ECLOSED);
    assert_rc(pshm_counter_store(&h->counter, 1), PSHM_ECLOSED);
    assert_rc(pshm_counter_max(&h->counter, 1, &number), PSHM_ECLOSED);
    assert_rc(pshm_counter_wait(&h->counter, 1, 0), PSHM_ECLOSED);
}

/* Of what can be waited for. */
static void wait_for_them(handles *h)
{
    const pshm_object *objects[] = {&h->mutex.object,    &h->semaphore.object, &h->permits.object, &h->event[0].object,
                                    &h->event[1].object, &h->once.object,      &h->latch.object,   &h->counter.object};
    for (size_t i = 0; i < sizeof objects / sizeof *objects; i++) {
        const pshm_waitable w = {.object = objects[i]};
        pshm_notifier *notifier;
        bool ready;
        size_t failed;
        assert_rc(pshm_waitable_ready(&w), PSHM_ECLOSED);
        assert_rc(pshm_wait(&w, 1, 0, &ready, &failed), PSHM_ECLOSED);
        assert_rc(pshm_notifier_open(&notifier), 0);
        assert_rc(pshm_notifier_add(notifier, &w, 1), PSHM_ECLOSED);
        pshm_notifier_close(notifier);
        assert_rc(pshm_object_check(objects[i]), PSHM_ECLOSED);
    }
}

static void use(handles *h)
{
    use_locks(h);
    use_the_others(h);
    wait_for_them(h);
}

static void test_never_opened(void **state)
{
    handles h = {0};
    (void)state;
    use(&h);
    end(&h);
}

static void test_ended(void **state)
{
    handles h;
    (void)state;
    pshm_arena *a = opened(&h);
    end(&h);
    use(&h);
    end(&h); /* once more is nothing */
    pshm_arena_close(a);
    pshm_arena_release(a);
    use(&h);
}

/* Its memory is unmapped. */
static void test_closed(void **state)
{
    handles h;
    (void)state;
    pshm_arena *a = opened(&h);
    pshm_arena_close(a);
    use(&h);
    end(&h);
    pshm_arena_release(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_never_opened), TEST(test_ended), TEST(test_closed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
