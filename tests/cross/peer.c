/* SPDX-License-Identifier: MIT
 *
 * A partner in C for the tests across languages, written against the public headers alone. The commands are described
 * in peer.py.
 */
#include "peer.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THINGS 64
#define WORDS 256

static peer_thing things[THINGS];
static char reply[1 << 20];
static size_t replied;

void peer_say(const char *format, ...)
{
    va_list arguments;
    size_t room = sizeof reply - replied;
    va_start(arguments, format);
    int length = vsnprintf(reply + replied, room, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= room)
        abort();
    replied += (size_t)length;
}

peer_thing *peer_look_up(const char *name)
{
    for (int i = 0; i < THINGS; i++)
        if (things[i].kind != PEER_FREE && !strcmp(things[i].name, name))
            return &things[i];
    return NULL;
}

peer_thing *peer_find(const char *name, peer_kind kind)
{
    peer_thing *thing = peer_look_up(name);
    if (!thing || thing->kind != kind) {
        fprintf(stderr, "peer: no such object: %s\n", name);
        exit(3);
    }
    return thing;
}

peer_thing *peer_find_lock(const char *name)
{
    peer_thing *thing = peer_look_up(name);
    bool is_lock = thing && (thing->kind == PEER_RECORD || thing->kind == PEER_NAMED);
    return is_lock ? thing : peer_find(name, PEER_MUTEX);
}

static void drop(peer_thing *thing)
{
    if (thing->kind == PEER_SEGMENT) {
        pshm_segment_close(thing->segment);
        pshm_segment_release(thing->segment);
    } else if (thing->kind == PEER_MUTEX) {
        pshm_segment_mutex_fini(&thing->mutex);
    } else if (thing->kind == PEER_RECORD) {
        pshm_record_lock_free(thing->record);
    } else if (thing->kind == PEER_NAMED) {
        pshm_mutex_fini(&thing->named);
    } else if (thing->kind == PEER_COUNTER) {
        pshm_counter_fini(&thing->counter);
    } else if (thing->kind == PEER_CONDITION) {
        pshm_condition_fini(&thing->condition);
    } else if (thing->kind == PEER_RWLOCK) {
        pshm_rwlock_fini(&thing->rwlock);
    } else if (thing->kind == PEER_PLAIN) {
        pshm_latch_fini(&thing->latch); /* all of them end alike */
    } else if (thing->kind == PEER_ARENA) {
        pshm_arena_close(thing->arena);
        pshm_arena_release(thing->arena);
    }
    thing->kind = PEER_FREE;
}

peer_thing *peer_make(const char *name, peer_kind kind)
{
    peer_thing *thing = peer_look_up(name);
    if (thing)
        drop(thing);
    for (int i = 0; i < THINGS; i++) {
        if (things[i].kind == PEER_FREE) {
            things[i] = (peer_thing){.kind = kind};
            snprintf(things[i].name, sizeof things[i].name, "%s", name);
            return &things[i];
        }
    }
    abort();
}

uint64_t peer_number(const char *text)
{
    char *end;
    errno = 0;
    uint64_t value = text[0] == '-' ? (uint64_t)strtoll(text, &end, 0) : strtoull(text, &end, 0);
    if (errno || *end || end == text) {
        fprintf(stderr, "peer: not a number: %s\n", text);
        exit(3);
    }
    return value;
}

const char *peer_option(const peer_words *words, int first, const char *key)
{
    size_t length = strlen(key);
    for (int i = first; i < words->count; i++)
        if (!strncmp(words->word[i], key, length) && words->word[i][length] == '=')
            return words->word[i] + length + 1;
    return NULL;
}

int64_t peer_until(const char *text)
{
    if (!strcmp(text, "-"))
        return PSHM_FOREVER;
    return strcmp(text, "try") ? pshm_deadline((int64_t)(strtod(text, NULL) * 1e9)) : 0;
}

/* ---- processes -------------------------------------------------------------------------------------------------- */

static void serve(void);

static int do_pid(const peer_words *words)
{
    (void)words;
    peer_say(" %d", (int)getpid());
    return 0;
}

static int do_reset(const peer_words *words)
{
    (void)words;
    for (int i = 0; i < THINGS; i++) /* what hangs on a segment or an arena goes before it */
        if (things[i].kind != PEER_SEGMENT && things[i].kind != PEER_ARENA)
            drop(&things[i]);
    for (int i = 0; i < THINGS; i++)
        drop(&things[i]);
    return 0;
}

static void take_streams(char **word)
{
    if (!freopen(word[0], "r", stdin) || !freopen(word[1], "w", stdout))
        _exit(3);
}

static int do_fork(const peer_words *words)
{
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid) {
        peer_say(" %d", (int)pid);
        return 0;
    }
    take_streams(words->word);
    replied = 0;
    serve();
    _exit(0);
}

static int do_start(const peer_words *words)
{
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid) {
        peer_say(" %d", (int)pid);
        return 0;
    }
    take_streams(words->word);
    char *program[WORDS];
    memcpy(program, words->word + 2, (size_t)(words->count - 2) * sizeof *program);
    program[words->count - 2] = NULL;
    execvp(program[0], program);
    _exit(3);
}

static int do_reap(const peer_words *words)
{
    int status;
    if (waitpid((pid_t)peer_number(words->word[0]), &status, 0) < 0)
        return -errno;
    peer_say(" %s %d", WIFEXITED(status) ? "exit" : "signal",
             WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    return 0;
}

static int do_exit(const peer_words *words)
{
    (void)words;
    exit(0);
}

static int do_die(const peer_words *words)
{
    (void)words;
    return raise(SIGKILL);
}

static const peer_command process_commands[] = {
    {"pid", 0, do_pid},   {"reset", 0, do_reset}, {"fork", 2, do_fork}, {"start", 3, do_start},
    {"reap", 1, do_reap}, {"exit", 0, do_exit},   {"die", 0, do_die},   {NULL, 0, NULL},
};

/* ---- the loop --------------------------------------------------------------------------------------------------- */

static const peer_command *find_command(const char *name)
{
    const peer_command *tables[] = {process_commands,   peer_segment_commands, peer_word_commands,
                                    peer_lock_commands, peer_arena_commands,   peer_heap_commands,
                                    peer_wait_commands, peer_rwlock_commands,  peer_condition_commands,
                                    peer_plain_commands};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        for (const peer_command *command = tables[i]; command->name; command++)
            if (!strcmp(command->name, name))
                return command;
    return NULL;
}

static void answer(const peer_words *all)
{
    const peer_command *command = all->count ? find_command(all->word[0]) : NULL;
    peer_words words = {all->count - 1, all->word + 1};
    int rc = PEER_MISTAKE;
    replied = 0;
    if (command && words.count >= command->words)
        rc = command->run(&words);
    if (rc == 0)
        printf("ok%s\n", reply);
    else if (rc == PEER_TOLD)
        printf("died%s\n", reply);
    else if (rc == PEER_NOT_REPAIRED)
        printf("err raise not repaired\n");
    else if (rc == PEER_MISTAKE)
        printf("fail %s%s\n", all->count ? all->word[0] : "no command", reply);
    else if (pshm_error_class(rc) == PSHM_CLASS_INCOMPATIBLE)
        printf("err Incompatible %s\n", pshm_error_text(rc));
    else if (pshm_error_class(rc) == PSHM_CLASS_CORRUPT)
        printf("err Corrupt %s\n", pshm_error_text(rc));
    else if (pshm_error_class(rc) == PSHM_CLASS_OS || pshm_error_class(rc) == PSHM_CLASS_LOST ||
             pshm_error_class(rc) == PSHM_CLASS_DELETED || pshm_error_class(rc) == PSHM_CLASS_KEY)
        printf("err %s %s\n", pshm_error_name(rc), pshm_error_text(rc));
    else
        printf("err raise %s\n", pshm_error_text(rc));
    fflush(stdout);
}

static void serve(void)
{
    char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, stdin) > 0) {
        char *word[WORDS], *rest = NULL;
        peer_words words = {0, word};
        for (char *w = strtok_r(line, " \n", &rest); w && words.count < WORDS; w = strtok_r(NULL, " \n", &rest))
            word[words.count++] = w;
        reply[0] = 0;
        answer(&words);
    }
    free(line);
}

int main(void)
{
    serve();
    return 0;
}
