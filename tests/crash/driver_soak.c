/* SPDX-License-Identifier: MIT */
#include "driver_soak.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "driver_trace.h"

soak_log *soak;

int soak_wrong(const char *format, ...)
{
    static char first;
    va_list arguments;
    va_start(arguments, format);
    if (!soak->wrong[0] && !__atomic_test_and_set(&first, __ATOMIC_SEQ_CST))
        vsnprintf(soak->wrong, sizeof soak->wrong, format, arguments);
    va_end(arguments);
    return 1;
}

void soak_note_end(uint32_t pid)
{
    uint32_t at = __atomic_fetch_add(&soak->ended_count, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&soak->ended[at % SOAK_ENDED], pid, __ATOMIC_SEQ_CST);
}

/* Without a log of the ends: is the process no more, or a moment later? */
static bool is_gone(uint32_t pid)
{
    for (int i = 0; i < 2000; i++) {
        char state = crash_process_state((pid_t)pid);
        if (state == 0 || state == 'Z' || state == 'X')
            return true;
        usleep(1000);
    }
    return false;
}

static bool has_ended(uint32_t pid)
{
    if (soak->joined)
        return is_gone(pid);
    uint32_t count = __atomic_load_n(&soak->ended_count, __ATOMIC_SEQ_CST);
    for (uint32_t i = 0; i < count && i < SOAK_ENDED; i++)
        if (soak->ended[i] == pid)
            return true;
    return false;
}

uint64_t soak_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state >> 8;
}

static uint64_t below(soak_hands *h, uint64_t end)
{
    return soak_random(&h->random) % end;
}

static void *at(const soak_hands *h, uint64_t place)
{
    return (unsigned char *)h->arena->segment->base + place;
}

/* The call again while a slice is over. */
#define AGAIN(call)                                                                                                    \
    __extension__({                                                                                                    \
        int rc_;                                                                                                       \
        do                                                                                                             \
            rc_ = (call);                                                                                              \
        while (rc_ == -EINTR);                                                                                         \
        rc_;                                                                                                           \
    })
#define NO(rc, what) soak_wrong("%s: %s, worker %u.%u", (what), pshm_error_name(rc), h->worker, h->thread)

/* ---- handles ---- */

int soak_open(soak_hands *h)
{
    char name[16];
    bool created;
    int rc = AGAIN(pshm_arena_open(soak->address, strlen(soak->address), NULL, &h->arena));
    if (rc)
        return NO(rc, "open");
    for (int i = 0; i < SOAK_LOCKS && !rc; i++)
        rc = AGAIN(pshm_mutex_init(&h->locks[i], h->arena, name, (size_t)sprintf(name, "lock%d", i), false,
                                   PSHM_RECURSIVE_NO, &created));
    for (int i = 0; i < SOAK_COUNTERS && !rc; i++)
        rc = AGAIN(
            pshm_counter_init(&h->counters[i], h->arena, name, (size_t)sprintf(name, "counter%d", i), false, &created));
    return rc ? NO(rc, "open an object") : 0;
}

void soak_close(soak_hands *h)
{
    for (int i = 0; i < SOAK_LOCKS; i++)
        pshm_mutex_fini(&h->locks[i]);
    for (int i = 0; i < SOAK_COUNTERS; i++)
        pshm_counter_fini(&h->counters[i]);
    pshm_arena_close(h->arena);
    pshm_arena_release(h->arena);
}

/* ---- locks and what they guard ---- */

static int note_death(soak_hands *h, const pshm_death *death)
{
    __atomic_add_fetch(&soak->told, 1, __ATOMIC_RELAXED);
    if (!death->pid)
        return 0;
    __atomic_add_fetch(&soak->named, 1, __ATOMIC_RELAXED);
    return has_ended(death->pid)
               ? 0
               : soak_wrong("told the death of %u, whom nobody killed, worker %u.%u", death->pid, h->worker, h->thread);
}

static int take(soak_hands *h, pshm_mutex *lock, pshm_death *death)
{
    int rc = -EOWNERDEAD;
    if (below(h, 3) == 0) {
        rc = pshm_mutex_try(lock, death);
        if (rc == -EBUSY)
            rc = AGAIN(pshm_mutex_acquire(lock, PSHM_FOREVER, death));
    }
    if (rc == -EOWNERDEAD)
        rc = AGAIN(pshm_mutex_recover(lock, PSHM_FOREVER, death));
    return rc;
}

/* Makes the books right after a death: the numbers, and blocks whose contents may be torn. */
static int repair(soak_hands *h, soak_books *books, uint64_t place)
{
    for (unsigned i = 0; i < SOAK_NESTED; i++) {
        int rc = AGAIN(pshm_heap_free_from(h->arena, place + offsetof(soak_books, nested) + 8 * i));
        if (rc)
            return NO(rc, "free after a death");
    }
    books->b = books->a;
    return 0;
}

/* Changes a block that the books lead to. Its first word is its place, so that two who had the same would be seen. */
static int keep_books(soak_hands *h, uint64_t place)
{
    uint64_t target = place + offsetof(soak_books, nested) + 8 * below(h, SOAK_NESTED);
    uint64_t *word = at(h, target), size = 8 + below(h, 1u << below(h, 14));
    int rc = 0;
    if (*word) {
        uint64_t *block = at(h, *word);
        if (*block != *word)
            return soak_wrong("a block at %lu has %lu in it, worker %u.%u", (unsigned long)*word, (unsigned long)*block,
                              h->worker, h->thread);
        *block = 0;
        rc = AGAIN(pshm_heap_free_from(h->arena, target));
        if (!rc && *word)
            return soak_wrong("freed, and the destination holds %lu", (unsigned long)*word);
    } else {
        rc = AGAIN(pshm_heap_alloc_into(h->arena, target, size));
        if (rc == -ENOSPC)
            return 0;
        if (!rc) {
            const uint64_t *block = at(h, *word);
            if (*block)
                return soak_wrong("a new block at %lu is not zero", (unsigned long)*word);
            rc = pshm_heap_write(h->arena, *word, word, sizeof *word);
        }
    }
    return rc ? NO(rc, "a block of the books") : 0;
}

static int enter(soak_hands *h, unsigned lock, soak_books **books, uint64_t *place)
{
    pshm_death death;
    int rc = take(h, &h->locks[lock], &death);
    if (rc)
        return NO(rc, "acquire");
    *place = *(uint64_t *)at(h, pshm_heap_root(lock));
    *books = at(h, *place);
    if (death.died) {
        if (note_death(h, &death) || repair(h, *books, *place))
            return 1;
        rc = pshm_mutex_consistent(&h->locks[lock]);
        if (rc)
            return NO(rc, "consistent");
    }
    if ((*books)->a != (*books)->b)
        return soak_wrong("the books of lock %u differ, %lu and %lu, %s", lock, (unsigned long)(*books)->a,
                          (unsigned long)(*books)->b, death.died ? "after a repair" : "and no death was told");
    return 0;
}

int soak_settle(soak_hands *h, unsigned lock)
{
    soak_books *books;
    uint64_t place;
    if (enter(h, lock, &books, &place))
        return 1;
    int rc = pshm_mutex_release(&h->locks[lock]);
    return rc ? NO(rc, "release") : 0;
}

static int use_lock(soak_hands *h)
{
    unsigned lock = (unsigned)below(h, SOAK_LOCKS);
    soak_books *books;
    uint64_t place;
    if (enter(h, lock, &books, &place))
        return 1;
    books->a = books->a + 1;
    if (below(h, 2) && keep_books(h, place))
        return 1;
    books->b = books->b + 1;
    int rc = pshm_mutex_release(&h->locks[lock]);
    return rc ? NO(rc, "release") : 0;
}

/* Two at once, in order. */
static int use_two(soak_hands *h)
{
    unsigned lock = (unsigned)below(h, SOAK_LOCKS - 1);
    soak_books *one, *other;
    uint64_t place;
    if (enter(h, lock, &one, &place))
        return 1;
    if (enter(h, lock + 1, &other, &place))
        return 1;
    one->a = one->a + 1;
    other->a = other->a + 1;
    other->b = other->b + 1;
    one->b = one->b + 1;
    int rc = pshm_mutex_release(&h->locks[lock]);
    if (!rc)
        rc = pshm_mutex_release(&h->locks[lock + 1]);
    return rc ? NO(rc, "release two") : 0;
}

/* ---- counters, names, roots ---- */

static int use_counter(soak_hands *h)
{
    unsigned i = (unsigned)below(h, SOAK_COUNTERS);
    int64_t now;
    int rc = pshm_counter_add(&h->counters[i], 1, &now);
    if (rc)
        return NO(rc, "add");
    __atomic_add_fetch(&soak->counted[i], 1, __ATOMIC_SEQ_CST);
    if (below(h, 8))
        return 0;
    rc = pshm_counter_wait(&h->counters[i], now + 1, pshm_deadline((int64_t)below(h, 2000000)));
    return rc && rc != -ETIMEDOUT && rc != -EINTR ? NO(rc, "wait") : 0;
}

static int use_named_lock(soak_hands *h, const char *name, size_t length)
{
    pshm_mutex lock;
    pshm_death death;
    bool created;
    int rc = AGAIN(pshm_mutex_init(&lock, h->arena, name, length, below(h, 2), PSHM_RECURSIVE_ANY, &created));
    if (rc == PSHM_ENONAME || rc == PSHM_EKIND || rc == -ENOSPC)
        return 0;
    if (rc)
        return NO(rc, "make a lock");
    rc = take(h, &lock, &death);
    if (!rc && death.died) {
        rc = pshm_mutex_consistent(&lock);
        if (!rc && note_death(h, &death))
            return 1;
    }
    if (!rc)
        rc = pshm_mutex_release(&lock);
    pshm_mutex_fini(&lock);
    return rc && rc != PSHM_EDELETED ? NO(rc, "a lock that comes and goes") : 0;
}

static int use_named_counter(soak_hands *h, const char *name, size_t length)
{
    pshm_counter counter;
    int64_t now;
    bool created;
    int rc = AGAIN(pshm_counter_init(&counter, h->arena, name, length, below(h, 2), &created));
    if (rc == PSHM_ENONAME || rc == PSHM_EKIND || rc == -ENOSPC)
        return 0;
    if (rc)
        return NO(rc, "make a counter");
    for (int i = 0; i < 3 && !rc; i++)
        rc = pshm_counter_add(&counter, 1, &now);
    pshm_counter_fini(&counter);
    return rc && rc != PSHM_EDELETED ? NO(rc, "a counter that comes and goes") : 0;
}

static int use_one_name(soak_hands *h)
{
    char name[16];
    size_t length = (size_t)sprintf(name, "name%u", (unsigned)below(h, SOAK_NAMES));
    switch (below(h, 4)) {
    case 0:
        return use_named_counter(h, name, length);
    case 1:
        return use_named_lock(h, name, length);
    default: {
        int rc = AGAIN(pshm_arena_delete(h->arena, name, length, NULL));
        return rc && rc != PSHM_ENONAME ? NO(rc, "delete") : 0;
    }
    }
}

/* Many in a row, so that a kill falls into one of them. */
static int use_names(soak_hands *h)
{
    int rc = 0;
    for (uint64_t n = 1 + below(h, 16); n > 0 && !rc; n--)
        rc = use_one_name(h);
    return rc;
}

static int use_root(soak_hands *h)
{
    uint64_t target = pshm_heap_root(SOAK_LOCKS + (uint32_t)below(h, SOAK_ROOTS));
    if (below(h, 2)) {
        int rc = AGAIN(pshm_heap_alloc_into(h->arena, target, 1 + below(h, 1u << below(h, 18))));
        return rc && rc != PSHM_EOCCUPIED && rc != -ENOSPC ? NO(rc, "allocate") : 0;
    }
    int rc = AGAIN(pshm_heap_free_from(h->arena, target));
    return rc ? NO(rc, "free") : 0;
}

static int use_roots(soak_hands *h)
{
    int rc = 0;
    for (uint64_t n = 1 + below(h, 100); n > 0 && !rc; n--)
        rc = use_root(h);
    return rc;
}

/* A handle of its own, as programs have that come for a moment. */
static int open_anew(soak_hands *h)
{
    soak_close(h);
    return soak_open(h);
}

static int look_around(soak_hands *h)
{
    pshm_participant *all;
    pshm_entry *entries;
    size_t count, selves = 0;
    int rc = pshm_participant_attach(h->arena);
    if (!rc)
        rc = pshm_arena_list_participants(h->arena, &all, &count);
    if (rc)
        return NO(rc, "participants");
    for (size_t i = 0; i < count; i++)
        selves += all[i].self;
    pshm_participants_free(all);
    if (selves != 1)
        return soak_wrong("worker %u.%u is %u participants", h->worker, h->thread, (unsigned)selves);
    rc = pshm_arena_list(h->arena, &entries, &count);
    if (rc)
        return NO(rc, "list");
    pshm_entries_free(entries);
    return count < SOAK_LOCKS + SOAK_COUNTERS ? soak_wrong("only %u objects are listed", (unsigned)count) : 0;
}

int soak_turn(soak_hands *h)
{
    static int (*const sorts[])(soak_hands *) = {use_lock,  use_lock,  use_lock,  use_two,   use_counter, use_names,
                                                 use_names, use_roots, use_roots, use_roots, open_anew,   look_around};
    uint64_t sort = below(h, sizeof sorts / sizeof *sorts);
    if (sorts[sort] == open_anew && below(h, 4))
        sort = 0;
    __atomic_add_fetch(&soak->done[sort], 1, __ATOMIC_RELAXED);
    return sorts[sort](h);
}
