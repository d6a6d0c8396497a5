/* SPDX-License-Identifier: MIT
 *
 * One call of a random function on an arena that somebody may be overwriting. Whatever comes back is right but a signal or
 * a hang.
 */
#include "fuzz.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LIMIT 5 /* seconds */
#define SHORT INT64_C(3000000)

void fuzz_doing(const fuzz_user *u, const char *what)
{
    fuzz_noted->doing[u->number] = what;
    __atomic_add_fetch(&fuzz_noted->calls, 1, __ATOMIC_RELAXED);
    alarm(LIMIT);
}

int fuzz_done(const fuzz_user *u, int rc)
{
    fuzz_noted->last[u->number] = rc;
    if (rc <= -1000 && rc > -1128)
        __atomic_add_fetch(&fuzz_noted->codes[-1000 - rc], 1, __ATOMIC_RELAXED);
    if (rc < 0 && strcmp(pshm_error_name(rc), "UNKNOWN") == 0) {
        fprintf(stderr, "%s gave %d, which is no code\n", fuzz_noted->doing[u->number], rc);
        _exit(3);
    }
    return rc;
}

size_t fuzz_name(fuzz_user *u, char name[260])
{
    uint64_t n = fuzz_below(&u->random, 40);
    if (n == 0) {
        memset(name, 'n', 256);
        return 256 - fuzz_below(&u->random, 2);
    }
    return (size_t)sprintf(name, "n%d", (int)n);
}

static uint64_t place_of(fuzz_user *u)
{
    fuzz_random *r = &u->random;
    uint64_t size = u->arena->segment->size, place = fuzz_next(r) % size;
    switch (fuzz_below(r, 8)) {
    case 0:
        return fuzz_next(r);
    case 1:
        return place;
    case 2:
        return place & ~UINT64_C(4095);
    case 3:
        return size - fuzz_below(r, 64);
    case 4:
        return u->mutex[0].object.place;
    default:
        return place & ~UINT64_C(15);
    }
}

static uint64_t size_of(fuzz_user *u)
{
    fuzz_random *r = &u->random;
    static const uint64_t odd[] = {0, 1, 15, 16, 64, 4095, 4096, 4097, UINT64_MAX, INT64_MAX, 1 << 20};
    return fuzz_below(r, 3) ? fuzz_below(r, 9000) : odd[fuzz_below(r, sizeof odd / sizeof *odd)];
}

int64_t fuzz_soon(fuzz_user *u)
{
    return pshm_deadline((int64_t)fuzz_below(&u->random, SHORT));
}

/* ---- nouns ---- */

static void use_mutex(fuzz_user *u)
{
    pshm_mutex *m = &u->mutex[fuzz_below(&u->random, FUZZ_HANDLES)];
    pshm_death death;
    char name[260];
    uint32_t pid;
    bool created;
    if (!m->object.arena) {
        size_t length = fuzz_name(u, name);
        FUZZ_CALL(u, pshm_mutex_init(m, u->arena, name, length, fuzz_below(&u->random, 4) != 0,
                                     (pshm_recursive)((int)fuzz_below(&u->random, 3) - 1), &created));
        return;
    }
    switch (fuzz_below(&u->random, 11)) {
    case 0:
    case 1:
        FUZZ_CALL(u, pshm_mutex_try(m, &death));
        break;
    case 2:
        FUZZ_CALL(u, pshm_mutex_acquire(m, fuzz_soon(u), &death));
        break;
    case 3:
        FUZZ_CALL(u, pshm_mutex_recover(m, fuzz_soon(u), &death));
        break;
    case 4:
        FUZZ_CALL(u, pshm_mutex_consistent(m));
        break;
    case 5:
        FUZZ_CALL(u, pshm_mutex_locked(m));
        break;
    case 6:
        FUZZ_CALL(u, pshm_mutex_owner(m, &pid));
        break;
    case 7:
        FUZZ_CALL(u, pshm_object_check(&m->object));
        break;
    case 8:
        fuzz_doing(u, "pshm_mutex_fini");
        pshm_mutex_fini(m);
        break;
    default:
        FUZZ_CALL(u, pshm_mutex_release(m));
    }
}

static void use_counter(fuzz_user *u)
{
    pshm_counter *c = &u->counter[fuzz_below(&u->random, FUZZ_HANDLES)];
    int64_t value = (int64_t)fuzz_next(&u->random), now = 0;
    char name[260];
    bool created;
    if (!c->object.arena) {
        size_t length = fuzz_name(u, name);
        FUZZ_CALL(u, pshm_counter_init(c, u->arena, name, length, fuzz_below(&u->random, 4) != 0, &created));
        return;
    }
    switch (fuzz_below(&u->random, 9)) {
    case 0:
        FUZZ_CALL(u, pshm_counter_load(c, &now));
        break;
    case 1:
        FUZZ_CALL(u, pshm_counter_store(c, value));
        break;
    case 2:
        FUZZ_CALL(u, pshm_counter_exchange(c, value, &now));
        break;
    case 3:
        FUZZ_CALL(u, pshm_counter_add(c, value, &now));
        break;
    case 4:
        FUZZ_CALL(u, pshm_counter_compare_exchange(c, &now, value));
        break;
    case 5:
        FUZZ_CALL(u, pshm_counter_max(c, value, &now));
        break;
    case 6:
        FUZZ_CALL(u, pshm_counter_min(c, value, &now));
        break;
    case 7:
        FUZZ_CALL(u, pshm_counter_wait(c, value, fuzz_soon(u)));
        break;
    default:
        fuzz_doing(u, "pshm_counter_fini");
        pshm_counter_fini(c);
    }
}

static void use_directory(fuzz_user *u)
{
    char name[260];
    size_t length = fuzz_name(u, name), count;
    uint32_t kind;
    pshm_entry *entries;
    switch (fuzz_below(&u->random, 4)) {
    case 0:
        if (FUZZ_CALL(u, pshm_arena_find(u->arena, name, length, &kind)) == 0)
            (void)pshm_noun_name(kind);
        break;
    case 1:
        if (FUZZ_CALL(u, pshm_arena_list(u->arena, &entries, &count)) == 0)
            pshm_entries_free(entries);
        break;
    case 2:
        FUZZ_CALL(u, pshm_arena_delete(u->arena, name, length, NULL));
        break;
    default:
        if (u->mutex[0].object.arena)
            FUZZ_CALL(u, pshm_arena_delete(u->arena, u->mutex[0].object.name, u->mutex[0].object.name_size,
                                           &u->mutex[0].object));
    }
}

static void use_heap(fuzz_user *u)
{
    static unsigned char bytes[16384];
    uint64_t root = pshm_heap_root((uint32_t)fuzz_below(&u->random, PSHM_HEAP_ROOTS + 1)), size = 0;
    switch (fuzz_below(&u->random, 8)) {
    case 0:
    case 1:
    case 2:
        FUZZ_CALL(u, pshm_heap_alloc_into(u->arena, fuzz_below(&u->random, 3) ? root : place_of(u), size_of(u)));
        break;
    case 3:
    case 4:
        FUZZ_CALL(u, pshm_heap_free_from(u->arena, fuzz_below(&u->random, 3) ? root : place_of(u)));
        break;
    case 5:
        FUZZ_CALL(u, pshm_heap_block_size(u->arena, place_of(u), &size));
        break;
    case 6:
        size = size_of(u);
        if (size <= sizeof bytes)
            FUZZ_CALL(u, pshm_heap_read(u->arena, place_of(u), bytes, size));
        break;
    default:
        size = size_of(u);
        if (size <= sizeof bytes)
            FUZZ_CALL(u, pshm_heap_write(u->arena, place_of(u), bytes, size));
    }
}

static void use_participants(fuzz_user *u)
{
    static const struct {
        unsigned slot, generation;
    } odd[] = {{0, 1}, {1, 1}, {0, 0}, {UINT32_MAX, UINT32_MAX}, {3, 7}};
    pshm_participant *all;
    size_t count, at = fuzz_below(&u->random, sizeof odd / sizeof *odd);
    switch (fuzz_below(&u->random, 4)) {
    case 0:
        if (FUZZ_CALL(u, pshm_arena_list_participants(u->arena, &all, &count)) == 0)
            pshm_participants_free(all);
        break;
    case 1:
        FUZZ_CALL(u, pshm_participant_attach(u->arena));
        break;
    case 2:
        FUZZ_CALL(u, pshm_participant_detach(u->arena));
        break;
    default:
        FUZZ_CALL(u, pshm_participant_wait(u->arena, odd[at].slot, odd[at].generation, fuzz_soon(u)));
    }
}

static void look_at_all(fuzz_user *u)
{
    pshm_arena_stats stats;
    char *report;
    size_t count;
    if (fuzz_below(&u->random, 3)) {
        FUZZ_CALL(u, pshm_arena_stats_of(u->arena, &stats));
    } else if (FUZZ_CALL(u, pshm_arena_check(u->arena, &report, &count)) == 0) {
        if (count && !strchr(report, '\n'))
            _exit(4);
        pshm_report_free(report);
    }
}

static void open_anew(fuzz_user *u)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    pshm_arena *arena;
    options.access = fuzz_below(&u->random, 2) ? PSHM_ACCESS_RW : PSHM_ACCESS_R;
    if (FUZZ_CALL(u, pshm_arena_open(u->address, strlen(u->address), &options, &arena)))
        return;
    fuzz_user other = {.number = u->number, .random = u->random, .address = u->address, .arena = arena};
    for (int i = 0; i < 3; i++) {
        use_directory(&other);
        use_counter(&other);
        fuzz_use_word(&other);
        fuzz_use_owned(&other);
        look_at_all(&other);
    }
    fuzz_end(&other);
    u->random = other.random;
}

void fuzz_call(fuzz_user *user)
{
    static void (*const ways[])(fuzz_user *) = {use_mutex,      use_mutex,        use_mutex,      use_counter,
                                                use_counter,    use_directory,    use_heap,       use_heap,
                                                use_heap,       look_at_all,      fuzz_use_word,  fuzz_use_word,
                                                fuzz_use_owned, fuzz_use_owned,   fuzz_use_owned, open_anew,
                                                use_mutex,      use_participants, use_heap};
    ways[fuzz_below(&user->random, sizeof ways / sizeof *ways)](user);
}

void fuzz_end(fuzz_user *u)
{
    for (int i = 0; i < FUZZ_HANDLES; i++) {
        fuzz_doing(u, "fini");
        if (u->mutex[i].object.arena) {
            (void)pshm_mutex_release(&u->mutex[i]);
            pshm_mutex_fini(&u->mutex[i]);
        }
        pshm_counter_fini(&u->counter[i]);
    }
    fuzz_end_words(u);
    fuzz_end_owned(u);
    fuzz_doing(u, "pshm_arena_close");
    pshm_arena_close(u->arena);
    fuzz_doing(u, "pshm_arena_release");
    pshm_arena_release(u->arena);
}
