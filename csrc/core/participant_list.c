/* SPDX-License-Identifier: MIT
 *
 * Participants to look at, and what a thread may do about its own part: the public side of participant.c.
 */
#include <polyshm/participant.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/bias.h"
#include "core/directory.h"
#include "core/participant.h"
#include "os/clock.h"
#include "os/futex.h"

_Static_assert(PSHM_HOLDS_MAX == PSHM_HELD, "room for all that a slot has");

/* The name of the lock at `place`. */
static void name_lock(const pshm_attachment *a, uint64_t place, char name[256])
{
    if (place == offsetof(pshm_head, heap.lock))
        strcpy(name, "(heap)");
    else if (place == offsetof(pshm_head, directory.lock))
        strcpy(name, "(directory)");
    else if (!pshm_directory_name(a, place, name))
        strcpy(name, "(deleted)");
}

/* Does the living or dead `id` have what is noted in its slot? What it was handed and has not seen, or has taken and not
 * entered yet, it waits for. What nobody owns is there as often as the slot says. */
static bool has(const pshm_attachment *a, uint64_t held, uint32_t id, bool alive)
{
    uint64_t place = held & PSHM_HELD_PLACE;
    if (place & PSHM_HELD_SHARED)
        return alive;
    if (!place || place % 8 || place > a->at.size - sizeof(pshm_owner))
        return false;
    const pshm_owner *o = pshm_at(a, place);
    uint64_t word = pshm_load(&o->word);
    return (word & (PSHM_ID | PSHM_ID_GRANTED)) == id || pshm_bias_is_to(word, id) ||
           (alive && held >> PSHM_HELD_DEPTH_SHIFT && !word);
}

static void describe(pshm_attachment *a, uint32_t index, uint32_t stamp, pshm_participant *out)
{
    const pshm_slot *slot = pshm_slot_at(a, index);
    uint32_t generation = stamp >> PSHM_GENERATION_SHIFT;
    if ((stamp & PSHM_PHASE) == PSHM_PHASE_DEAD)
        generation--;
    uint32_t id = pshm_id_of(index, generation), language = pshm_peek(&slot->language);
    *out = (pshm_participant){.slot = index,
                              .generation = generation,
                              .pid = pshm_peek(&slot->pid),
                              .thread = pshm_peek(&slot->thread),
                              .language = language < PSHM_LANGUAGES ? (pshm_language)language : PSHM_LANGUAGE_C,
                              .alive = !pshm_id_prove_dead(a, id)};
    out->self = out->alive && pshm_id_is_this_thread(a, id);
    for (uint32_t i = 0; i < PSHM_HELD; i++) {
        uint64_t held = pshm_load(&slot->held[i]), place = held & PSHM_HELD_PLACE;
        if (!has(a, held, id, out->alive))
            continue;
        place &= ~PSHM_HELD_SHARED;
        out->holds[out->holding].place = place;
        name_lock(a, place, out->holds[out->holding++].name);
    }
    uint64_t waits = pshm_load(&slot->waits);
    if (waits && out->alive)
        name_lock(a, waits, out->waits);
}

int pshm_arena_list_participants(pshm_arena *arena, pshm_participant **out, size_t *count)
{
    int rc = pshm_arena_enter(arena);
    if (rc)
        return rc;
    pshm_attachment *a = arena->attachment;
    uint32_t high = pshm_high_water(a);
    pshm_participant *all = malloc((high ? high : 1) * sizeof *all);
    *count = 0;
    for (uint32_t i = 0; all && i < high; i++) {
        uint32_t stamp = pshm_load(&pshm_slot_at(a, i)->stamp);
        if ((stamp & PSHM_PHASE) != PSHM_PHASE_FREE)
            describe(a, i, stamp, &all[(*count)++]);
    }
    rc = all ? pshm_attachment_verify(a) : -ENOMEM;
    pshm_arena_leave(arena);
    if (rc)
        free(all);
    else
        *out = all;
    return rc;
}

void pshm_participants_free(pshm_participant *participants)
{
    free(participants);
}

int pshm_participant_attach(pshm_arena *arena)
{
    pshm_member *m;
    int rc = pshm_arena_enter(arena);
    if (rc)
        return rc;
    rc = pshm_member_of(arena->attachment, &m);
    pshm_arena_leave(arena);
    return rc;
}

int pshm_participant_detach(pshm_arena *arena)
{
    return pshm_member_leave(arena->attachment);
}

static int wait_for_end(pshm_attachment *a, uint32_t id, int64_t deadline)
{
    int64_t now = pshm_os_now(), slice = now + PSHM_SLICE_NS, until = deadline < slice ? deadline : slice;
    uint32_t *beacon, value;
    while (!pshm_id_is_dead(a, id)) {
        if (pshm_os_now() >= until) {
            if (until == slice && pshm_id_prove_dead(a, id))
                return 0;
            return until == deadline ? -ETIMEDOUT : -EINTR;
        }
        if (a->readonly) { /* it may not ask the kernel for a wake */
            pshm_os_sleep_until(pshm_os_now() + PSHM_SLICE_NS / 50);
            continue;
        }
        if (!pshm_id_beacon(a, id, &beacon, &value))
            continue;
        if (pshm_os_futex_wait(beacon, value, until) == -EINTR)
            return pshm_id_is_dead(a, id) ? 0 : -EINTR;
        pshm_os_futex_wake(beacon, 1); /* the kernel wakes one; there may be more */
    }
    return *a->lost ? PSHM_ELOST : 0;
}

int pshm_participant_wait(pshm_arena *arena, uint32_t slot, uint32_t generation, int64_t deadline)
{
    if (slot >= arena->participants)
        return 0;
    int rc = pshm_arena_enter(arena);
    if (rc)
        return rc;
    rc = wait_for_end(arena->attachment, pshm_id_of(slot, generation), deadline);
    pshm_arena_leave(arena);
    return rc;
}
