/* SPDX-License-Identifier: MIT
 *
 * The partner's commands that wait for several things, or poll for one.
 */
#include "peer.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <polyshm/notifier.h>

#define MANY 64

/* "NAME" or "NAME:LEAST" */
static pshm_waitable waitable_of(const char *text)
{
    char name[16];
    const char *colon = strchr(text, ':');
    snprintf(name, sizeof name, "%.*s", colon ? (int)(colon - text) : 15, text);
    const peer_thing *thing = peer_look_up(name);
    int64_t least = colon ? (int64_t)peer_number(colon + 1) : 1;
    if (thing && thing->kind == PEER_COUNTER)
        return (pshm_waitable){.object = &thing->counter.object, .least = least};
    if (thing && thing->kind == PEER_NAMED)
        return (pshm_waitable){.object = &thing->named.object};
    thing = peer_find(name, PEER_PARTICIPANT);
    return (pshm_waitable){.arena = thing->arena, .slot = thing->slot, .generation = thing->generation};
}

static int do_any(const peer_words *words)
{
    pshm_waitable all[MANY];
    bool ready[MANY];
    size_t failed, count = (size_t)words->count - 1;
    int64_t deadline = peer_until(words->word[0]);
    int rc;
    for (size_t i = 0; i < count && i < MANY; i++)
        all[i] = waitable_of(words->word[i + 1]);
    do
        rc = pshm_wait(all, count, deadline, ready, &failed);
    while (rc == -EINTR);
    if (rc < 0 && rc != -ETIMEDOUT)
        return rc;
    for (size_t i = 0; rc > 0 && i < count; i++)
        if (ready[i])
            peer_say(" %s", words->word[i + 1]);
    return 0;
}

static int do_polled(const peer_words *words)
{
    pshm_notifier *notifier = NULL;
    const pshm_waitable w = waitable_of(words->word[0]);
    int rc;
    for (;;) {
        int fd = rc = pshm_notifier_pollfd(&notifier, &w);
        if (rc >= 0)
            rc = pshm_waitable_ready(&w);
        if (rc)
            break;
        struct pollfd poller = {fd, POLLIN, 0};
        poll(&poller, 1, 20000);
    }
    if (notifier)
        pshm_notifier_close(notifier);
    return rc < 0 ? rc : 0;
}

const peer_command peer_wait_commands[] = {
    {"any", 1, do_any},
    {"polled", 1, do_polled},
    {NULL, 0, NULL},
};
