/* SPDX-License-Identifier: MIT
 *
 * Looking at a whole arena: stats, and whether everything in it is as it should be.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/directory.h"
#include "core/findings.h"
#include "core/participant.h"
#include "os/clock.h"

int pshm_arena_stats_of(pshm_arena *arena, pshm_arena_stats *out)
{
    int rc = pshm_arena_enter(arena);
    if (rc)
        return rc;
    const pshm_attachment *a = arena->attachment;
    memset(out, 0, sizeof *out);
    out->size = a->at.size;
    out->heap = a->at.heap_pages * PSHM_PAGE;
    out->participants = a->at.participants;
    for (uint32_t i = 0, high = pshm_high_water(a); i < high; i++) {
        uint32_t stamp = pshm_load(&pshm_slot_at(a, i)->stamp);
        out->taking_part += (stamp & PSHM_PHASE) == PSHM_PHASE_TAKEN &&
                            !pshm_id_is_dead(a, pshm_id_of(i, stamp >> PSHM_GENERATION_SHIFT));
    }
    out->objects = pshm_directory_count(a);
    pshm_heap_count(a, out);
    rc = pshm_attachment_verify(a);
    pshm_arena_leave(arena);
    return rc;
}

/* ---- check ---- */

/* Every block in use has to be known to somebody. */
typedef struct census {
    const pshm_attachment *a;
    pshm_findings *f;
    unsigned char *seen; /* a bit for each 16 bytes of the heap: a block that somebody knows of begins there */
    uint64_t *todo;      /* blocks whose words may name further ones */
    size_t todo_count, todo_room;
} census;

static uint64_t unit_of(const census *c, uint64_t place)
{
    return (place - c->a->at.heap) / 16;
}

/* Somebody knows of the block. false: that was known. */
static bool see(census *c, uint64_t place)
{
    if (!pshm_in_heap(c->a, place, 16) || place % 16)
        return false;
    uint64_t unit = unit_of(c, place);
    unsigned char bit = (unsigned char)(1u << unit % 8);
    if (c->seen[unit / 8] & bit)
        return false;
    c->seen[unit / 8] |= bit;
    return true;
}

static void known(void *context, uint64_t place)
{
    census *c = context;
    if (!see(c, place))
        pshm_find(c->f, place, "two names lead to one block");
}

static void follow(census *c, uint64_t place)
{
    uint64_t start, size;
    if (!pshm_heap_find(c->a, place, &start, &size) || start != place || !see(c, place))
        return;
    if (c->todo_count == c->todo_room) {
        size_t room = c->todo_room ? 2 * c->todo_room : 64;
        uint64_t *more = realloc(c->todo, room * sizeof *more);
        if (!more) {
            c->f->out_of_memory = true;
            return;
        }
        c->todo = more;
        c->todo_room = room;
    }
    c->todo[c->todo_count++] = place;
}

/* What the roots lead to: any word of such a block may be a destination. */
static void follow_roots(census *c)
{
    for (uint32_t i = 0; i < PSHM_ROOTS; i++) {
        uint64_t begin, length, place = pshm_load(&c->a->head->roots[i]);
        if (place && (!pshm_heap_find(c->a, place, &begin, &length) || begin != place))
            pshm_find(c->f, offsetof(pshm_head, roots) + i * sizeof place,
                      "root %u holds %llu, where no block in use begins", i, (unsigned long long)place);
        follow(c, place);
    }
    while (c->todo_count) {
        uint64_t start, size, place = c->todo[--c->todo_count];
        if (!pshm_heap_find(c->a, place, &start, &size))
            continue;
        for (uint64_t at = 0; at + 8 <= size; at += 8)
            follow(c, pshm_load((uint64_t *)pshm_at(c->a, start + at)));
    }
}

static void expect_known(void *context, uint64_t place, uint64_t size)
{
    census *c = context;
    uint64_t unit = unit_of(c, place);
    if (!(c->seen[unit / 8] & (1u << unit % 8)))
        pshm_find(c->f, place, "a block of %lu bytes that nothing leads to", (unsigned long)size);
}

static void check_lock(const pshm_attachment *a, pshm_findings *f, const pshm_owner *o, const char *what)
{
    uint64_t word = pshm_load(&o->word), died = pshm_load(&o->died);
    uint32_t slot = (uint32_t)word & PSHM_ID_SLOT;
    if (slot > a->at.participants && slot != PSHM_ID_ABANDONED)
        pshm_find(f, pshm_place_of(a, o), "the lock of the %s has an owner that there is no slot for", what);
    if (!slot && died)
        pshm_find(f, pshm_place_of(a, o), "the lock of the %s is free, and yet marked", what);
}

static void check_slots(const pshm_attachment *a, pshm_findings *f)
{
    uint32_t high = pshm_load(&a->head->high_water);
    if (high > a->at.participants)
        pshm_find(f, offsetof(pshm_head, high_water), "%u slots were taken, of %u", high, a->at.participants);
    for (uint32_t i = 0; i < a->at.participants; i++) {
        const pshm_slot *slot = pshm_slot_at(a, i);
        uint64_t place = pshm_place_of(a, slot);
        uint32_t stamp = pshm_load(&slot->stamp), phase = stamp & PSHM_PHASE;
        if (phase > PSHM_PHASE_DEAD)
            pshm_find(f, place, "slot %u is in a phase that there is not", i);
        if (stamp && i >= pshm_high_water(a))
            pshm_find(f, place, "slot %u was taken, and is not counted", i);
        for (uint32_t j = 0; phase == PSHM_PHASE_FREE && j < PSHM_HELD; j++)
            if (pshm_load(&slot->held[j]))
                pshm_find(f, place, "slot %u is free, and yet holds something", i);
    }
}

static int check_all(pshm_attachment *a, pshm_findings *f)
{
    census c = {.a = a, .f = f, .seen = calloc(1, a->at.heap_pages * (PSHM_PAGE / 16 / 8))};
    if (!c.seen)
        return -ENOMEM;
    check_slots(a, f);
    check_lock(a, f, &a->head->heap.lock.owner, "heap");
    check_lock(a, f, &a->head->directory.lock, "directory");
    pshm_directory_check(a, f, known, &c);
    follow_roots(&c);
    pshm_heap_check(a, f, expect_known, &c);
    free(c.seen);
    free(c.todo);
    return f->out_of_memory ? -ENOMEM : pshm_attachment_verify(a);
}

/* A lock of the arena's own for the check, if it can be had in time. */
static bool hold(pshm_member *m, int (*enter)(pshm_member *), int64_t until)
{
    int rc;
    do
        rc = enter(m);
    while (rc == -EINTR && pshm_os_now() < until);
    return rc == 0;
}

#define HELD_FOR INT64_C(1000000000)
#define LOOKS 20

static int check_held(pshm_attachment *a, pshm_member *m, pshm_findings *f, bool *held)
{
    int rc = 0;
    int64_t until = pshm_os_now() + HELD_FOR;
    *held = false;
    if (!hold(m, pshm_directory_enter, until))
        return 0;
    if (hold(m, pshm_heap_enter, until)) {
        rc = check_all(a, f);
        *held = true;
        pshm_heap_leave(m);
    }
    pshm_directory_leave(m);
    return rc;
}

/* Without a lock: what is seen twice in a row is so. */
static int check_unheld(pshm_attachment *a, pshm_findings *f)
{
    pshm_findings last = {0};
    int rc = 0;
    for (int i = 0; i < LOOKS; i++) {
        free(f->text);
        *f = (pshm_findings){0};
        rc = check_all(a, f);
        bool same = i && f->size == last.size && (!f->size || memcmp(f->text, last.text, f->size) == 0);
        if (rc || same || !f->count)
            break;
        free(last.text);
        last = *f;
        *f = (pshm_findings){0};
        pshm_os_sleep_until(pshm_os_now() + PSHM_SLICE_NS / 10);
    }
    free(last.text);
    return rc;
}

int pshm_arena_check(pshm_arena *arena, char **report, size_t *count)
{
    int rc = pshm_arena_enter(arena);
    if (rc)
        return rc;
    pshm_attachment *a = arena->attachment;
    pshm_findings f = {0};
    pshm_member *m;
    bool held = false;
    if (!a->readonly && pshm_member_of(a, &m) == 0)
        rc = check_held(a, m, &f, &held);
    if (!rc && !held)
        rc = check_unheld(a, &f);
    pshm_arena_leave(arena);
    if (rc) {
        free(f.text);
        return rc;
    }
    *report = f.text;
    *count = f.count;
    return 0;
}

void pshm_report_free(char *report)
{
    free(report);
}
