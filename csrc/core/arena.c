/* SPDX-License-Identifier: MIT
 *
 * Handles on arenas: opening, with a wait for a creator, and closing.
 */
#include <polyshm/arena.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/attachment.h"
#include "os/clock.h"

/* How often somebody who waits for a creator looks. */
#define LEAST_PAUSE INT64_C(1000000)
#define LONGEST_PAUSE INT64_C(20000000)

const char *pshm_life_name(pshm_life life)
{
    static const char *const names[] = {
#define X(name, text) text,
        PSHM_LIFE_MAP(X)
#undef X
    };
    return (unsigned)life < PSHM_LIVES ? names[life] : NULL;
}

const char *pshm_language_name(pshm_language language)
{
    static const char *const names[] = {
#define X(name, text) text,
        PSHM_LANGUAGE_MAP(X)
#undef X
    };
    return (unsigned)language < PSHM_LANGUAGES ? names[language] : NULL;
}

/* Looks until there is something, or a slice is over. */
static int open_in_time(const char *address, size_t length, const pshm_arena_options *options, pshm_attachment **a,
                        bool *created)
{
    int64_t slice = pshm_os_now() + PSHM_SLICE_NS, pause = LEAST_PAUSE;
    for (;;) {
        int rc = pshm_attachment_open(address, length, options, a, created);
        int64_t now = pshm_os_now();
        if (rc != -ENOENT || options->deadline <= now)
            return rc;
        if (now >= slice)
            return -EINTR;
        pshm_os_sleep_until(now + pause < options->deadline ? now + pause : options->deadline);
        pause = pause * 2 < LONGEST_PAUSE ? pause * 2 : LONGEST_PAUSE;
    }
}

int pshm_arena_open(const char *address, size_t length, const pshm_arena_options *options, pshm_arena **out)
{
    static const pshm_arena_options defaults = PSHM_ARENA_OPTIONS_INIT;
    if (!options)
        options = &defaults;
    pshm_arena *arena = calloc(1, sizeof *arena + length + 1);
    if (!arena)
        return -ENOMEM;
    pshm_attachment *a = NULL;
    bool created = false;
    int rc = open_in_time(address, length, options, &a, &created);
    if (rc) {
        free(arena);
        return rc;
    }
    char *text = (char *)(arena + 1);
    memcpy(text, address, length);
    *arena = (pshm_arena){.attachment = a,
                          .segment = a->segment,
                          .id = a->id,
                          .participants = a->at.participants,
                          .life = a->life,
                          .created = created,
                          .readonly = a->readonly,
                          .references = 1,
                          .address = text};
    pshm_segment_retain(a->segment);
    *out = arena;
    return 0;
}

void pshm_arena_close(pshm_arena *arena)
{
    if (!__atomic_exchange_n(&arena->closed, true, __ATOMIC_SEQ_CST))
        pshm_attachment_close(arena->attachment);
    else
        pshm_members_tidy(); /* another thread closed it: this one lets go too */
}

void pshm_arena_retain(pshm_arena *arena)
{
    __atomic_add_fetch(&arena->references, 1, __ATOMIC_RELAXED);
}

void pshm_arena_release(pshm_arena *arena)
{
    if (__atomic_sub_fetch(&arena->references, 1, __ATOMIC_ACQ_REL))
        return;
    pshm_arena_close(arena);
    pshm_attachment_forget(arena->attachment);
    pshm_segment_release(arena->segment);
    free(arena);
}

int pshm_arena_unlink(pshm_arena *arena)
{
    int rc = pshm_arena_enter(arena);
    if (rc)
        return rc;
    rc = pshm_segment_unlink(arena->segment);
    pshm_arena_leave(arena);
    return rc;
}
