/* SPDX-License-Identifier: MIT
 *
 * The partner's commands on atomic words and locks.
 */
#include "peer.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* ---- words ------------------------------------------------------------------------------------------------------ */

static int do_atomic(const peer_words *words)
{
    pshm_word word;
    pshm_segment *segment = peer_find(words->word[1], PEER_SEGMENT)->segment;
    uint64_t offset = peer_number(words->word[3]);
    int rc = pshm_word_parse(words->word[2], strlen(words->word[2]), &word);
    if (!rc)
        rc = pshm_atomic_check(segment, word, offset);
    if (rc)
        return rc;
    peer_thing *thing = peer_make(words->word[0], PEER_ATOMIC);
    thing->segment = segment;
    thing->offset = offset;
    thing->word = word;
    return 0;
}

static int at(const peer_thing *thing, uint32_t rights, void **address)
{
    int rc = pshm_segment_check(thing->segment, thing->offset, pshm_word_size(thing->word), rights);
    if (!rc)
        *address = thing->segment->base + thing->offset;
    return rc;
}

static void say_word(pshm_word word, uint64_t value)
{
    if (word == PSHM_WORD_I32)
        peer_say(" %d", (int)(uint32_t)value);
    else if (word == PSHM_WORD_I64)
        peer_say(" %lld", (long long)value);
    else
        peer_say(" %llu", (unsigned long long)value);
}

#define OPERATE(bits)                                                                                                  \
    static int operate##bits(void *address, const char *verb, uint64_t first, uint64_t second, uint64_t *out)          \
    {                                                                                                                  \
        uint##bits##_t value = (uint##bits##_t)first;                                                                  \
        if (!strcmp(verb, "load"))                                                                                     \
            *out = pshm_atomic_load##bits(address);                                                                    \
        else if (!strcmp(verb, "store"))                                                                               \
            pshm_atomic_store##bits(address, value);                                                                   \
        else if (!strcmp(verb, "add"))                                                                                 \
            *out = pshm_atomic_add##bits(address, value);                                                              \
        else if (!strcmp(verb, "sub"))                                                                                 \
            *out = pshm_atomic_sub##bits(address, value);                                                              \
        else if (!strcmp(verb, "and_"))                                                                                \
            *out = pshm_atomic_and##bits(address, value);                                                              \
        else if (!strcmp(verb, "or_"))                                                                                 \
            *out = pshm_atomic_or##bits(address, value);                                                               \
        else if (!strcmp(verb, "xor"))                                                                                 \
            *out = pshm_atomic_xor##bits(address, value);                                                              \
        else if (!strcmp(verb, "exchange"))                                                                            \
            *out = pshm_atomic_exchange##bits(address, value);                                                         \
        else if (!strcmp(verb, "compare_exchange")) {                                                                  \
            (void)pshm_atomic_compare_exchange##bits(address, &value, (uint##bits##_t)second);                         \
            *out = value;                                                                                              \
        } else                                                                                                         \
            return PEER_MISTAKE;                                                                                       \
        return 0;                                                                                                      \
    }

OPERATE(32)
OPERATE(64)

static int do_op(const peer_words *words)
{
    const peer_thing *thing = peer_find(words->word[0], PEER_ATOMIC);
    const char *verb = words->word[1];
    uint64_t first = words->count > 2 ? peer_number(words->word[2]) : 0;
    uint64_t second = words->count > 3 ? peer_number(words->word[3]) : 0;
    uint64_t value = 0;
    void *address;
    int rc = at(thing, strcmp(verb, "load") ? PSHM_READ | PSHM_WRITE : PSHM_READ, &address);
    if (!rc)
        rc = pshm_word_size(thing->word) == 4 ? operate32(address, verb, first, second, &value)
                                              : operate64(address, verb, first, second, &value);
    if (!rc)
        rc = pshm_segment_verify(thing->segment);
    if (!rc && strcmp(verb, "store"))
        say_word(thing->word, value);
    return rc;
}

static int wait_for(const peer_thing *thing, uint32_t expected, int64_t deadline)
{
    int rc;
    do
        rc = pshm_atomic_wait(thing->segment, thing->offset, expected, deadline);
    while (rc == -EINTR);
    return rc;
}

static int do_wait(const peer_words *words)
{
    const peer_thing *thing = peer_find(words->word[0], PEER_ATOMIC);
    int rc = wait_for(thing, (uint32_t)peer_number(words->word[1]), peer_until(words->word[2]));
    if (rc && rc != -ETIMEDOUT)
        return rc;
    peer_say(" %d", !rc);
    return 0;
}

static int do_notify(const peer_words *words)
{
    const peer_thing *thing = peer_find(words->word[0], PEER_ATOMIC);
    int rc = pshm_atomic_notify(thing->segment, thing->offset, (int)peer_number(words->word[1]));
    if (rc < 0)
        return rc;
    peer_say(" %d", rc);
    return 0;
}

static int do_addloop(const peer_words *words)
{
    const peer_thing *thing = peer_find(words->word[0], PEER_ATOMIC);
    void *address;
    int rc = at(thing, PSHM_READ | PSHM_WRITE, &address);
    for (uint64_t i = peer_number(words->word[1]); i && !rc; i--) {
        if (pshm_word_size(thing->word) == 4)
            pshm_atomic_add32(address, 1);
        else
            pshm_atomic_add64(address, 1);
    }
    return rc;
}

static int do_casloop(const peer_words *words)
{
    const peer_thing *thing = peer_find(words->word[0], PEER_ATOMIC);
    void *address;
    int rc = at(thing, PSHM_READ | PSHM_WRITE, &address);
    for (uint64_t i = peer_number(words->word[1]); i && !rc; i--) {
        if (pshm_word_size(thing->word) == 4) {
            uint32_t old = pshm_atomic_load32(address);
            while (!pshm_atomic_compare_exchange32(address, &old, old + 1))
                ;
        } else {
            uint64_t old = pshm_atomic_load64(address);
            while (!pshm_atomic_compare_exchange64(address, &old, old + 1))
                ;
        }
    }
    return rc;
}

static int do_pingpong(const peer_words *words)
{
    const peer_thing *thing = peer_find(words->word[0], PEER_ATOMIC);
    uint32_t first = (uint32_t)peer_number(words->word[1]), count = (uint32_t)peer_number(words->word[2]);
    void *address;
    int rc = at(thing, PSHM_READ | PSHM_WRITE, &address);
    for (uint32_t i = 0; i < count && !rc; i++) {
        uint32_t now;
        while (!rc && (now = pshm_atomic_load32(address)) != 2 * i + first)
            rc = wait_for(thing, now, PSHM_FOREVER);
        if (rc)
            break;
        pshm_atomic_add32(address, 1);
        rc = pshm_atomic_notify(thing->segment, thing->offset, 1);
        rc = rc < 0 ? rc : 0;
    }
    return rc;
}

const peer_command peer_word_commands[] = {
    {"atomic", 4, do_atomic},   {"op", 2, do_op},           {"wait", 3, do_wait},         {"notify", 2, do_notify},
    {"addloop", 2, do_addloop}, {"casloop", 2, do_casloop}, {"pingpong", 3, do_pingpong}, {NULL, 0, NULL},
};

/* ---- locks ------------------------------------------------------------------------------------------------------ */

static int do_mutex(const peer_words *words)
{
    pshm_segment *segment = peer_find(words->word[1], PEER_SEGMENT)->segment;
    const char *recursive = peer_option(words, 3, "recursive"), *repair = peer_option(words, 3, "repair");
    peer_thing *thing = peer_make(words->word[0], PEER_MUTEX);
    int rc = pshm_segment_mutex_init(&thing->mutex, segment, peer_number(words->word[2]),
                                     peer_option(words, 3, "create") != NULL,
                                     recursive ? (pshm_recursive)(*recursive == '1') : PSHM_RECURSIVE_ANY);
    if (rc)
        thing->kind = PEER_FREE;
    thing->segment = segment;
    if (repair)
        strncpy(thing->repair, repair, sizeof thing->repair - 1);
    return rc;
}

static int do_record(const peer_words *words)
{
    pshm_segment *segment = peer_find(words->word[1], PEER_SEGMENT)->segment;
    pshm_record_lock *record;
    int rc = pshm_record_lock_new(segment, peer_number(words->word[2]), peer_number(words->word[3]),
                                  peer_option(words, 4, "shared") != NULL, &record);
    if (!rc)
        peer_make(words->word[0], PEER_RECORD)->record = record;
    return rc;
}

/* The verbs of both mutexes. */
#define BOTH(thing, verb, ...)                                                                                         \
    ((thing)->kind == PEER_NAMED ? pshm_mutex_##verb(&(thing)->named, ##__VA_ARGS__)                                   \
                                 : pshm_segment_mutex_##verb(&(thing)->mutex, ##__VA_ARGS__))

static int take_mutex(peer_thing *thing, int64_t deadline, bool recover, pshm_death *death)
{
    int rc;
    do
        rc = recover ? BOTH(thing, recover, deadline, death) : BOTH(thing, acquire, deadline, death);
    while (rc == -EINTR);
    return rc;
}

/* What Python and Lua do for `repair=`, in C. */
static int repair(peer_thing *thing, const pshm_death *death)
{
    int rc = PEER_NOT_REPAIRED;
    if (strcmp(thing->repair, "error")) {
        uint64_t pid = (uint64_t)death->pid + 1;
        rc = thing->kind == PEER_NAMED
                 ? pshm_counter_store(&peer_find(thing->repair, PEER_COUNTER)->counter, (int64_t)pid)
                 : pshm_segment_write(thing->segment, peer_number(thing->repair), &pid, sizeof pid);
        if (!rc)
            rc = BOTH(thing, consistent);
    }
    if (rc)
        (void)BOTH(thing, release);
    return rc;
}

static void say_pid(uint32_t pid)
{
    if (pid)
        peer_say(" %u", pid);
    else
        peer_say(" -");
}

int peer_take(peer_thing *thing, const char *timeout)
{
    pshm_death death = {0};
    int rc;
    if (thing->kind == PEER_RECORD) {
        if (!strcmp(timeout, "try"))
            return pshm_record_lock_try(thing->record);
        int64_t deadline = peer_until(timeout);
        do
            rc = pshm_record_lock_acquire(thing->record, deadline);
        while (rc == -EINTR);
        return rc;
    }
    bool recover = thing->repair[0] != 0;
    rc = !recover && !strcmp(timeout, "try") ? BOTH(thing, try, &death)
                                             : take_mutex(thing, peer_until(timeout), recover, &death);
    if (rc == -EOWNERDEAD) {
        say_pid(death.pid);
        return PEER_TOLD;
    }
    return !rc && recover && death.died ? repair(thing, &death) : rc;
}

static int do_acquire(const peer_words *words)
{
    int rc = peer_take(peer_find_lock(words->word[0]), words->word[1]);
    bool no = rc == -EBUSY || rc == -ETIMEDOUT || (!strcmp(words->word[1], "try") && rc == PSHM_ERELOCK);
    if (rc && !no)
        return rc;
    peer_say(" %d", !no);
    return 0;
}

int peer_give(peer_thing *thing)
{
    return thing->kind == PEER_RECORD ? pshm_record_lock_release(thing->record) : BOTH(thing, release);
}

static int do_release(const peer_words *words)
{
    return peer_give(peer_find_lock(words->word[0]));
}

static int do_locked(const peer_words *words)
{
    peer_thing *thing = peer_find_lock(words->word[0]);
    int rc = thing->kind == PEER_RECORD ? pshm_record_lock_locked(thing->record) : BOTH(thing, locked);
    if (rc < 0)
        return rc;
    peer_say(" %d", rc);
    return 0;
}

static int do_owner(const peer_words *words)
{
    uint32_t pid;
    peer_thing *thing = peer_find_lock(words->word[0]);
    int rc = BOTH(thing, owner, &pid);
    if (!rc)
        say_pid(pid);
    return rc;
}

static int do_recover(const peer_words *words)
{
    pshm_death death = {0};
    peer_thing *thing = peer_find_lock(words->word[0]);
    int rc = take_mutex(thing, peer_until(words->word[1]), true, &death);
    if (rc)
        return rc;
    thing->died = death.died;
    peer_say(death.died ? " died" : " none");
    if (death.died)
        say_pid(death.pid);
    return 0;
}

static int do_leave(const peer_words *words)
{
    peer_thing *thing = peer_find_lock(words->word[0]);
    int rc = 0;
    if (thing->died && strcmp(words->word[1], "error"))
        rc = BOTH(thing, consistent);
    return rc ? rc : BOTH(thing, release);
}

static int do_incloop(const peer_words *words)
{
    peer_thing *thing = peer_find_lock(words->word[0]);
    pshm_segment *segment = peer_find(words->word[1], PEER_SEGMENT)->segment;
    uint64_t offset = peer_number(words->word[2]), count = peer_number(words->word[3]), value;
    int rc = 0;
    for (; count && !rc; count--) {
        rc = peer_take(thing, "-");
        if (rc)
            return rc;
        rc = pshm_segment_read(segment, offset, &value, sizeof value);
        value++;
        if (!rc)
            rc = pshm_segment_write(segment, offset, &value, sizeof value);
        int released = peer_give(thing);
        rc = rc ? rc : released;
    }
    return rc;
}

const peer_command peer_lock_commands[] = {
    {"mutex", 3, do_mutex},     {"record", 4, do_record}, {"acquire", 2, do_acquire}, {"release", 1, do_release},
    {"locked", 1, do_locked},   {"owner", 1, do_owner},   {"recover", 2, do_recover}, {"leave", 2, do_leave},
    {"incloop", 5, do_incloop}, {NULL, 0, NULL},
};
