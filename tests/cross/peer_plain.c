/* SPDX-License-Identifier: MIT
 *
 * The partner's commands on semaphores, events, latches, permits, onces and barriers.
 */
#include "peer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The call, for as long as it takes. */
#define THROUGH(call)                                                                                                  \
    __extension__({                                                                                                    \
        int rc_;                                                                                                       \
        do                                                                                                             \
            rc_ = (call);                                                                                              \
        while (rc_ == -EINTR);                                                                                         \
        rc_;                                                                                                           \
    })

static int open_as(peer_thing *thing, pshm_arena *arena, const char *kind, const char *name, const char *parameter)
{
    size_t length = strlen(name);
    bool create = !arena->readonly, any = !strcmp(parameter, "-");
    int64_t number = any || strspn(parameter, "0123456789") != strlen(parameter) ? -1 : (int64_t)peer_number(parameter);
    if (!strcmp(kind, "semaphore"))
        return THROUGH(pshm_semaphore_init(&thing->semaphore, arena, name, length, create, number, NULL));
    if (!strcmp(kind, "event"))
        return THROUGH(pshm_event_init(&thing->event, arena, name, length, create,
                                       any ? PSHM_AUTOMATIC_ANY : PSHM_AUTOMATIC_YES, NULL));
    if (!strcmp(kind, "latch"))
        return THROUGH(pshm_latch_init(&thing->latch, arena, name, length, create, number, NULL));
    if (!strcmp(kind, "permits"))
        return THROUGH(pshm_permits_init(&thing->permits, arena, name, length, create, number, NULL));
    if (!strcmp(kind, "once"))
        return THROUGH(pshm_once_init(&thing->once, arena, name, length, create, NULL));
    pshm_on_death on_death = any || strchr(parameter, 's') == NULL ? PSHM_ON_DEATH_UNSET : PSHM_ON_DEATH_SHRINK;
    uint64_t parties = any ? 0 : (uint64_t)strtoull(parameter, NULL, 10);
    return THROUGH(pshm_barrier_init(&thing->barrier, arena, name, length, create, parties, on_death, NULL));
}

/* plain X A KIND NAME PARAMETER */
static int do_plain(const peer_words *words)
{
    pshm_arena *arena = peer_find(words->word[1], PEER_ARENA)->arena;
    peer_thing *thing = peer_make(words->word[0], PEER_PLAIN);
    snprintf(thing->noun, sizeof thing->noun, "%s", words->word[2]);
    int rc = open_as(thing, arena, words->word[2], words->word[3], words->word[4]);
    if (rc)
        thing->kind = PEER_FREE;
    return rc;
}

static int say(int rc, long long value)
{
    if (rc == 0)
        peer_say(" %lld", value);
    return rc;
}

/* Of a wait: 1, or 0 where it was too late. */
static int waited(int rc)
{
    return rc == -ETIMEDOUT || rc == -EBUSY ? say(0, 0) : say(rc, 1);
}

static int broken_or(int rc, long long value)
{
    if (rc != PSHM_EBROKEN && rc != -ETIMEDOUT)
        return say(rc, value);
    peer_say(" broken");
    return 0;
}

static int barrier_wait(pshm_barrier *barrier, int64_t deadline)
{
    pshm_barrier_ticket ticket = {0};
    int rc = THROUGH(pshm_barrier_arrive(barrier, &ticket, PSHM_FOREVER));
    if (!rc)
        rc = THROUGH(pshm_barrier_sleep(barrier, &ticket, deadline));
    return broken_or(rc, ticket.index);
}

static int run_once(pshm_once *once, const char *verb, const char *name, int64_t until)
{
    pshm_counter *counter = &peer_find(name, PEER_COUNTER)->counter;
    bool run = !strcmp(verb, "run"), fail = !strcmp(verb, "fail");
    int64_t now;
    int rc = THROUGH(pshm_once_begin(once, run ? until : PSHM_FOREVER));
    if (rc < 0)
        return rc;
    if (rc == 0) {
        int added = pshm_counter_add(counter, 1, &now);
        if (!run)
            (void)THROUGH(pshm_counter_wait(counter, 1000, until));
        int finished = pshm_once_finish(once, !added && !fail);
        if (added || finished)
            return added ? added : finished;
    }
    return say(0, rc == 0 && !fail);
}

static int event_wait(pshm_event *event, int64_t deadline)
{
    uint32_t since;
    int rc = pshm_event_since(event, &since);
    return rc ? rc : waited(THROUGH(pshm_event_wait(event, since, deadline)));
}

static int owned(peer_thing *thing, const char *verb, const char *word, int64_t until)
{
    uint32_t value = 0;
    int64_t n = strcmp(word, "-") && !strcmp(thing->noun, "permits") ? (int64_t)peer_number(word) : 1;
    int rc;
    if (!strcmp(thing->noun, "permits")) {
        if (!strcmp(verb, "acquire"))
            return waited(THROUGH(pshm_permits_acquire(&thing->permits, n, until)));
        if (!strcmp(verb, "release"))
            return pshm_permits_release(&thing->permits, n);
        rc = !strcmp(verb, "held") ? pshm_permits_held(&thing->permits, &value)
                                   : pshm_permits_available(&thing->permits, &value);
        return say(rc, value);
    }
    if (!strcmp(thing->noun, "once"))
        return strcmp(verb, "done") ? run_once(&thing->once, verb, word, until)
                                    : (rc = pshm_once_done(&thing->once), say(rc < 0 ? rc : 0, rc));
    if (!strcmp(verb, "wait"))
        return barrier_wait(&thing->barrier, until);
    if (!strcmp(verb, "leave"))
        return THROUGH(pshm_barrier_leave(&thing->barrier));
    if (!strcmp(verb, "reset") || !strcmp(verb, "abort"))
        return !strcmp(verb, "reset") ? THROUGH(pshm_barrier_reset(&thing->barrier))
                                      : pshm_barrier_abort(&thing->barrier);
    rc = !strcmp(verb, "broken") ? pshm_barrier_broken(&thing->barrier) : pshm_barrier_waiting(&thing->barrier);
    return say(rc < 0 ? rc : 0, rc);
}

/* act X VERB N TIMEOUT: -> what it gives */
static int do_act(const peer_words *words)
{
    peer_thing *thing = peer_find(words->word[0], PEER_PLAIN);
    const char *verb = words->word[1];
    int64_t until = peer_until(words->word[3]);
    uint32_t value = 0;
    if (strcmp(thing->noun, "semaphore") && strcmp(thing->noun, "event") && strcmp(thing->noun, "latch"))
        return owned(thing, verb, words->word[2], until);
    uint64_t n = strcmp(words->word[2], "-") ? peer_number(words->word[2]) : 1;
    if (!strcmp(verb, "acquire"))
        return waited(THROUGH(pshm_semaphore_acquire(&thing->semaphore, until)));
    if (!strcmp(verb, "release"))
        return pshm_semaphore_release(&thing->semaphore, n);
    if (!strcmp(verb, "value")) {
        int rc = pshm_semaphore_value(&thing->semaphore, &value);
        return say(rc, value);
    }
    if (!strcmp(verb, "set") || !strcmp(verb, "clear"))
        return !strcmp(verb, "set") ? pshm_event_set(&thing->event) : pshm_event_clear(&thing->event);
    if (!strcmp(verb, "is_set"))
        return say(0, pshm_event_is_set(&thing->event));
    if (!strcmp(verb, "count_down")) {
        int rc = pshm_latch_count_down(&thing->latch, n, &value);
        return say(rc, value);
    }
    if (!strcmp(verb, "count")) {
        int rc = pshm_latch_count(&thing->latch, &value);
        return say(rc, value);
    }
    return strcmp(thing->noun, "event") ? waited(THROUGH(pshm_latch_wait(&thing->latch, until)))
                                        : event_wait(&thing->event, until);
}

const peer_command peer_plain_commands[] = {{"plain", 5, do_plain}, {"act", 4, do_act}, {NULL, 0, NULL}};
