/* SPDX-License-Identifier: MIT
 *
 * The partner's commands on conditions.
 */
#include "peer.h"

#include <errno.h>
#include <string.h>

static int take(pshm_condition *condition)
{
    pshm_death death = {0};
    int rc;
    do
        rc = pshm_mutex_acquire(&condition->mutex, PSHM_FOREVER, &death);
    while (rc == -EINTR);
    if (rc != -EOWNERDEAD)
        return rc;
    peer_say(death.pid ? " %u" : " -", death.pid);
    return PEER_TOLD;
}

static int await(pshm_condition *condition, int64_t deadline)
{
    pshm_condition_ticket ticket = {0};
    pshm_death death = {0};
    int rc;
    do
        rc = pshm_condition_wait(condition, &ticket, deadline, &death);
    while (rc == -EINTR);
    if (rc != -EOWNERDEAD)
        return rc;
    peer_say(death.pid ? " %u" : " -", death.pid);
    return PEER_TOLD;
}

/* The first thing that went wrong; the mutex may be lost to another. */
static int give(pshm_condition *condition, int rc)
{
    int released = pshm_mutex_release(&condition->mutex);
    return rc ? rc : released;
}

static int do_condition(const peer_words *words)
{
    pshm_arena *arena = peer_find(words->word[1], PEER_ARENA)->arena;
    const char *name = words->word[2], *mutex = words->word[3];
    const pshm_mutex *with = strcmp(mutex, "-") ? &peer_find(mutex, PEER_NAMED)->named : NULL;
    peer_thing *thing = peer_make(words->word[0], PEER_CONDITION);
    int rc;
    do
        rc = pshm_condition_init(&thing->condition, arena, name, strlen(name), !arena->readonly, with, NULL);
    while (rc == -EINTR);
    if (rc)
        thing->kind = PEER_FREE;
    return rc;
}

static int do_await(const peer_words *words)
{
    pshm_condition *condition = &peer_find(words->word[0], PEER_CONDITION)->condition;
    int rc = take(condition);
    if (rc)
        return rc;
    int notified = await(condition, peer_until(words->word[1]));
    rc = give(condition, notified == -ETIMEDOUT ? 0 : notified);
    if (!rc)
        peer_say(" %d", !notified);
    return rc;
}

static int do_tell(const peer_words *words)
{
    pshm_condition *condition = &peer_find(words->word[0], PEER_CONDITION)->condition;
    int rc = take(condition);
    if (rc)
        return rc;
    return give(condition, strcmp(words->word[1], "all")
                               ? pshm_condition_notify(condition, (uint32_t)peer_number(words->word[1]))
                               : pshm_condition_notify_all(condition));
}

static int play(pshm_condition *condition, pshm_counter *counter, int64_t mine)
{
    int64_t now = 0;
    int rc = pshm_counter_load(counter, &now);
    while (!rc && now != mine) {
        rc = await(condition, PSHM_FOREVER);
        if (!rc)
            rc = pshm_counter_load(counter, &now);
    }
    if (!rc)
        rc = pshm_counter_add(counter, 1, &now);
    return rc ? rc : pshm_condition_notify(condition, 1);
}

static int do_volley(const peer_words *words)
{
    pshm_condition *condition = &peer_find(words->word[0], PEER_CONDITION)->condition;
    pshm_counter *counter = &peer_find(words->word[1], PEER_COUNTER)->counter;
    int64_t first = (int64_t)peer_number(words->word[2]), count = (int64_t)peer_number(words->word[3]);
    int rc = 0;
    for (int64_t i = 0; i < count && !rc; i++) {
        rc = take(condition);
        if (!rc)
            rc = give(condition, play(condition, counter, 2 * i + first));
    }
    return rc;
}

const peer_command peer_condition_commands[] = {
    {"condition", 4, do_condition}, {"await", 2, do_await}, {"tell", 2, do_tell},
    {"volley", 4, do_volley},       {NULL, 0, NULL},
};
