/* SPDX-License-Identifier: MIT
 *
 * The partner's commands on arenas, their objects and their participants.
 */
#include "peer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pshm_arena *arena_of(const char *name)
{
    return peer_find(name, PEER_ARENA)->arena;
}

static int do_arena(const peer_words *words)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    const char *text, *address = words->word[1];
    pshm_arena *arena;
    int rc = 0;
    if ((text = peer_option(words, 2, "size")) != NULL)
        options.size = peer_number(text);
    if ((text = peer_option(words, 2, "participants")) != NULL)
        options.participants = (uint32_t)peer_number(text);
    if ((text = peer_option(words, 2, "create")) != NULL)
        options.create = *text == '1';
    if ((text = peer_option(words, 2, "exclusive")) != NULL)
        options.exclusive = *text == '1';
    if ((text = peer_option(words, 2, "reserve")) != NULL)
        options.reserve = *text == '1';
    if ((text = peer_option(words, 2, "access")) != NULL)
        options.access = strcmp(text, "r") ? PSHM_ACCESS_RW : PSHM_ACCESS_R;
    if ((text = peer_option(words, 2, "life")) != NULL)
        options.life = strcmp(text, "keep") ? PSHM_LIFE_LAST_DETACH : PSHM_LIFE_KEEP;
    if ((text = peer_option(words, 2, "wait")) != NULL)
        options.deadline = peer_until(text);
    if ((text = peer_option(words, 2, "mode")) != NULL)
        rc = pshm_mode_parse(text, strlen(text), &options.mode);
    while (!rc && (rc = pshm_arena_open(address, strlen(address), &options, &arena)) == -EINTR)
        rc = 0;
    if (rc)
        return rc;
    peer_make(words->word[0], PEER_ARENA)->arena = arena;
    peer_say(" %llu %s %d %d %s %llx %s", (unsigned long long)arena->segment->size,
             pshm_kind_name(arena->segment->kind), arena->created, arena->readonly, pshm_life_name(arena->life),
             (unsigned long long)arena->id, arena->address);
    return 0;
}

static int do_shut(const peer_words *words)
{
    pshm_arena_close(arena_of(words->word[0]));
    return 0;
}

static int do_unname(const peer_words *words)
{
    return pshm_arena_unlink(arena_of(words->word[0]));
}

static int do_names(const peer_words *words)
{
    pshm_entry *entries;
    size_t count;
    int rc = pshm_arena_list(arena_of(words->word[0]), &entries, &count);
    if (rc)
        return rc;
    for (size_t i = 0; i < count; i++) {
        peer_say(" ");
        peer_say_hex(entries[i].name, entries[i].name_size);
        peer_say("=%s", pshm_noun_name(entries[i].kind));
    }
    pshm_entries_free(entries);
    return 0;
}

static int do_has(const peer_words *words)
{
    uint32_t kind;
    int rc = pshm_arena_find(arena_of(words->word[0]), words->word[1], strlen(words->word[1]), &kind);
    if (rc && rc != PSHM_ENONAME)
        return rc;
    peer_say(" %d", !rc);
    return 0;
}

static int do_kind(const peer_words *words)
{
    uint32_t kind;
    int rc = pshm_arena_find(arena_of(words->word[0]), words->word[1], strlen(words->word[1]), &kind);
    if (!rc)
        peer_say(" %s", pshm_noun_name(kind));
    return rc;
}

static int delete (pshm_arena *arena, const char *name)
{
    int rc;
    do
        rc = pshm_arena_delete(arena, name, strlen(name), NULL);
    while (rc == -EINTR);
    return rc;
}

static int do_delete(const peer_words *words)
{
    return delete (arena_of(words->word[0]), words->word[1]);
}

static int do_check(const peer_words *words)
{
    char *report;
    size_t count;
    int rc = pshm_arena_check(arena_of(words->word[0]), &report, &count);
    if (rc)
        return rc;
    for (char *line = count ? strtok(report, "\n") : NULL; line; line = strtok(NULL, "\n"))
        peer_say(" %s", line);
    pshm_report_free(report);
    return 0;
}

static int do_stats(const peer_words *words)
{
    pshm_arena_stats s;
    int rc = pshm_arena_stats_of(arena_of(words->word[0]), &s);
    if (rc)
        return rc;
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {{"size", s.size},
                  {"heap", s.heap},
                  {"used", s.used},
                  {"free", s.free},
                  {"largest_free", s.largest_free},
                  {"large", s.large},
                  {"large_pages", s.large_pages},
                  {"objects", s.objects},
                  {"taking_part", s.taking_part},
                  {"participants", s.participants}};
    for (int i = 1; i < words->count; i++)
        for (size_t k = 0; k < sizeof fields / sizeof *fields; k++)
            if (!strcmp(fields[k].name, words->word[i]))
                peer_say(" %llu", (unsigned long long)fields[k].value);
    return 0;
}

/* ---- objects ---------------------------------------------------------------------------------------------------- */

static int do_amutex(const peer_words *words)
{
    pshm_arena *arena = arena_of(words->word[1]);
    const char *recursive = peer_option(words, 3, "recursive"), *repair = peer_option(words, 3, "repair");
    peer_thing *thing = peer_make(words->word[0], PEER_NAMED);
    bool created;
    int rc;
    do
        rc = pshm_mutex_init(&thing->named, arena, words->word[2], strlen(words->word[2]), !arena->readonly,
                             recursive ? (pshm_recursive)(*recursive == '1') : PSHM_RECURSIVE_ANY, &created);
    while (rc == -EINTR);
    if (rc)
        thing->kind = PEER_FREE;
    if (repair)
        snprintf(thing->repair, sizeof thing->repair, "%s", repair);
    return rc;
}

static int open_counter(pshm_counter *counter, pshm_arena *arena, const char *name)
{
    bool created;
    int rc;
    do
        rc = pshm_counter_init(counter, arena, name, strlen(name), !arena->readonly, &created);
    while (rc == -EINTR);
    return rc;
}

static int do_counter(const peer_words *words)
{
    pshm_arena *arena = arena_of(words->word[1]);
    peer_thing *thing = peer_make(words->word[0], PEER_COUNTER);
    int rc = open_counter(&thing->counter, arena, words->word[2]);
    if (rc)
        thing->kind = PEER_FREE;
    return rc;
}

static int do_count(const peer_words *words)
{
    pshm_counter *counter = &peer_find(words->word[0], PEER_COUNTER)->counter;
    const char *verb = words->word[1];
    int64_t first = words->count > 2 ? (int64_t)peer_number(words->word[2]) : 0, value = 0;
    int rc = PEER_MISTAKE;
    if (!strcmp(verb, "load"))
        rc = pshm_counter_load(counter, &value);
    else if (!strcmp(verb, "store"))
        return pshm_counter_store(counter, first);
    else if (!strcmp(verb, "add"))
        rc = pshm_counter_add(counter, first, &value);
    else if (!strcmp(verb, "sub"))
        rc = pshm_counter_add(counter, (int64_t)(0 - (uint64_t)first), &value);
    else if (!strcmp(verb, "exchange"))
        rc = pshm_counter_exchange(counter, first, &value);
    else if (!strcmp(verb, "compare_exchange") && words->count > 3) {
        value = first;
        rc = pshm_counter_compare_exchange(counter, &value, (int64_t)peer_number(words->word[3]));
    } else if (!strcmp(verb, "max"))
        rc = pshm_counter_max(counter, first, &value);
    else if (!strcmp(verb, "min"))
        rc = pshm_counter_min(counter, first, &value);
    if (!rc)
        peer_say(" %lld", (long long)value);
    return rc;
}

static int wait_at_least(pshm_counter *counter, int64_t least, int64_t deadline)
{
    int rc;
    do
        rc = pshm_counter_wait(counter, least, deadline);
    while (rc == -EINTR);
    return rc;
}

static int do_atleast(const peer_words *words)
{
    pshm_counter *counter = &peer_find(words->word[0], PEER_COUNTER)->counter;
    int rc = wait_at_least(counter, (int64_t)peer_number(words->word[1]), peer_until(words->word[2]));
    if (rc && rc != -ETIMEDOUT)
        return rc;
    peer_say(" %d", !rc);
    return 0;
}

static int do_countloop(const peer_words *words)
{
    pshm_counter *counter = &peer_find(words->word[0], PEER_COUNTER)->counter;
    int64_t now;
    int rc = 0;
    for (uint64_t i = peer_number(words->word[1]); i && !rc; i--)
        rc = pshm_counter_add(counter, 1, &now);
    return rc;
}

static int do_turns(const peer_words *words)
{
    pshm_counter *counter = &peer_find(words->word[0], PEER_COUNTER)->counter;
    int64_t first = (int64_t)peer_number(words->word[1]), count = (int64_t)peer_number(words->word[2]), now;
    int rc = 0;
    for (int64_t i = 0; i < count && !rc; i++) {
        rc = wait_at_least(counter, 2 * i + first, PSHM_FOREVER);
        if (!rc)
            rc = pshm_counter_add(counter, 1, &now);
    }
    return rc;
}

static int do_bump(const peer_words *words)
{
    peer_thing *lock = peer_find_lock(words->word[0]);
    pshm_counter *counter = &peer_find(words->word[1], PEER_COUNTER)->counter;
    int64_t value;
    int rc = 0;
    for (uint64_t i = peer_number(words->word[2]); i && !rc; i--) {
        rc = peer_take(lock, "-");
        if (rc)
            return rc;
        rc = pshm_counter_load(counter, &value);
        if (!rc)
            rc = pshm_counter_store(counter, value + 1);
        int released = peer_give(lock);
        rc = rc ? rc : released;
    }
    return rc;
}

static int do_trip(const peer_words *words)
{
    peer_thing *lock = peer_find_lock(words->word[0]);
    int rc = 0;
    for (uint64_t i = peer_number(words->word[1]); i && !rc; i--) {
        rc = peer_take(lock, "-");
        if (!rc)
            rc = peer_give(lock);
    }
    return rc;
}

static int do_create(const peer_words *words)
{
    pshm_arena *arena = arena_of(words->word[0]);
    uint64_t count = peer_number(words->word[2]);
    for (uint64_t i = 0; i < count; i++) {
        char name[64];
        pshm_counter counter;
        int64_t now;
        snprintf(name, sizeof name, "%s%llu", words->word[1], (unsigned long long)i);
        int rc = open_counter(&counter, arena, name);
        if (rc)
            return rc;
        rc = pshm_counter_add(&counter, 1, &now);
        pshm_counter_fini(&counter);
        if (rc && rc != PSHM_EDELETED)
            return rc;
    }
    return 0;
}

static int do_deleteall(const peer_words *words)
{
    pshm_arena *arena = arena_of(words->word[0]);
    uint64_t count = peer_number(words->word[2]);
    for (uint64_t i = 0; i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s%llu", words->word[1], (unsigned long long)i);
        int rc = delete (arena, name);
        if (rc && rc != PSHM_ENONAME)
            return rc;
    }
    return 0;
}

/* ---- participants ------------------------------------------------------------------------------------------------ */

static int compare_names(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static int do_crowd(const peer_words *words)
{
    pshm_participant *all;
    size_t count;
    int rc = pshm_arena_list_participants(arena_of(words->word[0]), &all, &count);
    if (rc)
        return rc;
    for (size_t i = 0; i < count; i++) {
        pshm_participant *p = &all[i];
        char *names[PSHM_HOLDS_MAX];
        peer_say(" %u;%u;%u;%u;%s;%d;%d;", p->slot, p->generation, p->pid, p->thread, pshm_language_name(p->language),
                 p->alive, p->self);
        for (uint32_t k = 0; k < p->holding; k++)
            names[k] = p->holds[k].name;
        qsort(names, p->holding, sizeof *names, compare_names);
        for (uint32_t k = 0; k < p->holding; k++)
            peer_say("%s%s", k ? "," : "", names[k]);
        peer_say("%s;%s", p->holding ? "" : "-", *p->waits ? p->waits : "-");
    }
    pshm_participants_free(all);
    return 0;
}

static int do_watch(const peer_words *words)
{
    pshm_participant *all;
    size_t count;
    pshm_arena *arena = arena_of(words->word[1]);
    uint64_t pid = peer_number(words->word[2]);
    int rc = pshm_arena_list_participants(arena, &all, &count);
    if (rc)
        return rc;
    rc = PEER_MISTAKE;
    for (size_t i = 0; i < count; i++) {
        if (all[i].pid != pid || !all[i].alive)
            continue;
        peer_thing *thing = peer_make(words->word[0], PEER_PARTICIPANT);
        thing->arena = arena;
        thing->slot = all[i].slot;
        thing->generation = all[i].generation;
        rc = 0;
    }
    pshm_participants_free(all);
    return rc;
}

static int do_gone(const peer_words *words)
{
    const peer_thing *thing = peer_find(words->word[0], PEER_PARTICIPANT);
    int64_t deadline = peer_until(words->word[1]);
    int rc;
    do
        rc = pshm_participant_wait(thing->arena, thing->slot, thing->generation, deadline);
    while (rc == -EINTR);
    if (rc && rc != -ETIMEDOUT)
        return rc;
    peer_say(" %d", !rc);
    return 0;
}

const peer_command peer_arena_commands[] = {
    {"arena", 2, do_arena},
    {"shut", 1, do_shut},
    {"unname", 1, do_unname},
    {"names", 1, do_names},
    {"has", 2, do_has},
    {"kind", 2, do_kind},
    {"delete", 2, do_delete},
    {"check", 1, do_check},
    {"stats", 2, do_stats},
    {"amutex", 3, do_amutex},
    {"counter", 3, do_counter},
    {"count", 2, do_count},
    {"atleast", 3, do_atleast},
    {"countloop", 2, do_countloop},
    {"turns", 3, do_turns},
    {"bump", 4, do_bump},
    {"trip", 2, do_trip},
    {"create", 3, do_create},
    {"crowd", 1, do_crowd},
    {"watch", 3, do_watch},
    {"gone", 2, do_gone},
    {"deleteall", 3, do_deleteall},
    {NULL, 0, NULL},
};
