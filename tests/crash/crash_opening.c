/* SPDX-License-Identifier: MIT
 *
 * The beginning and the end of an arena under the step-and-kill driver: setting it up in memory that is there already,
 * creating it with its name, and the close that takes the name away. See driver.h; not for valgrind and the sanitizers.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#include "driver_arena.h"

#define SIZE 65536
#define PARTICIPANTS 4u
/* What an arena of this size has room for unless somebody says so. */
#define DEFAULT 16u

/* What is under test: an address, and what the driver sees of its memory. */
static struct place {
    char address[64];
    const char *name; /* in /dev/shm; NULL: has none */
    key_t key;        /* of System V memory that the driver does not see */
    int fd, id;
    unsigned char *bytes;
    pshm_life life;
} place = {.fd = -1, .id = -1};

static int open_as(unsigned participants, pshm_arena **arena)
{
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    options.create = true;
    options.size = place.fd >= 0 ? PSHM_UNSET : SIZE;
    options.participants = participants;
    options.life = place.life;
    options.deadline = pshm_deadline(INT64_C(1000000000));
    int rc;
    do
        rc = pshm_arena_open(place.address, strlen(place.address), &options, arena);
    while (rc == -EINTR);
    return rc;
}

static void let_go(pshm_arena *arena)
{
    pshm_arena_close(arena);
    pshm_arena_release(arena);
}

/* ---- before ---- */

static bool has_key(void)
{
    return shmget(place.key, 0, 0) >= 0;
}

static void remove_all(void)
{
    if (place.key && has_key())
        shmctl(shmget(place.key, 0, 0), IPC_RMID, NULL);
    if (place.name)
        shm_unlink(place.name);
    if (place.id >= 0)
        shmctl(place.id, IPC_RMID, NULL);
    place.id = -1;
}

static void reset(void *context)
{
    (void)context;
    if (place.name || place.key)
        remove_all();
    else
        memset(place.bytes, 0, SIZE);
}

static void reset_with_arena(void *context)
{
    pshm_arena *arena;
    reset(context);
    place.life = PSHM_LIFE_KEEP;
    int rc = open_as(PARTICIPANTS, &arena);
    if (rc) {
        fprintf(stderr, "%s: %s\n", place.address, pshm_error_text(rc));
        exit(2);
    }
    let_go(arena);
}

/* ---- the operations ---- */

static int create(void *context)
{
    (void)context;
    pshm_arena *arena;
    crash_begin();
    int rc = open_as(PARTICIPANTS, &arena);
    crash_end();
    /* A partner who was faster has made it for more. */
    return rc && rc != PSHM_EPARAMETER ? crash_fail("create: %s", pshm_error_name(rc)) : 0;
}

static int close_last(void *context)
{
    (void)context;
    pshm_arena *arena;
    int rc = open_as(PARTICIPANTS, &arena);
    if (!rc)
        rc = pshm_participant_attach(arena);
    if (rc)
        return crash_fail("create: %s", pshm_error_name(rc));
    crash_begin();
    pshm_arena_close(arena);
    pshm_arena_release(arena);
    crash_end();
    return 0;
}

static int partner(void *context)
{
    (void)context;
    pshm_arena *arena;
    int rc = open_as(0, &arena);
    /* Who closes it may be stopped in it, and is waited for no longer than two seconds. */
    if ((rc == -EAGAIN || rc == -EBUSY) && place.life == PSHM_LIFE_LAST_DETACH)
        return 0;
    if (rc)
        return crash_fail("partner: %s", pshm_error_name(rc));
    rc = pshm_participant_attach(arena);
    let_go(arena);
    return rc ? crash_fail("partner, attach: %s", pshm_error_name(rc)) : 0;
}

/* ---- after ---- */

/* Drafts have no name, so that nothing stays of what was not finished. */
static const char *leftovers(bool is_there)
{
    static char text[160];
    if (place.key && has_key() != is_there)
        return is_there ? "the key should be there" : "the key should be gone";
    if (!place.name)
        return NULL;
    DIR *directory = opendir("/dev/shm");
    struct dirent *entry;
    bool found = false;
    text[0] = '\0';
    while (directory && (entry = readdir(directory))) {
        if (strcmp(entry->d_name, place.name + 1) == 0)
            found = true;
        else if (strstr(entry->d_name, "pshm-crash"))
            snprintf(text, sizeof text, "left behind: %.100s", entry->d_name);
    }
    if (directory)
        closedir(directory);
    if (!text[0] && found != is_there)
        return found ? "the name should be gone" : "the name should be there";
    return text[0] ? text : NULL;
}

static const char *use(pshm_arena *arena)
{
    crash_arena whole = {.arena = arena, .bytes = arena->segment->base, .size = arena->segment->size};
    pshm_counter counter;
    bool created;
    int64_t now;
    if (arena->participants != DEFAULT && arena->participants != PARTICIPANTS)
        return "an arena for neither as many as one wanted nor as the other";
    int rc = pshm_counter_init(&counter, arena, "counter", 7, true, &created);
    if (!rc)
        rc = pshm_counter_add(&counter, 1, &now);
    pshm_counter_fini(&counter);
    if (!rc)
        rc = pshm_arena_delete(arena, "counter", 7, NULL);
    if (rc)
        return crash_wrong("use", rc);
    pshm_arena_stats stats;
    rc = pshm_arena_stats_of(arena, &stats);
    return rc ? crash_wrong("stats", rc) : crash_arena_verify(&whole, stats.used);
}

/* Another creator, with a wish of his own where there may be nothing yet, comes to a whole arena. */
static const char *check(void *context, const crash_facts *facts)
{
    (void)context;
    (void)facts;
    pshm_arena *arena;
    int rc = open_as(0, &arena);
    if (rc)
        return crash_wrong("open", rc);
    const char *wrong = use(arena);
    if (!wrong)
        wrong = leftovers(true);
    let_go(arena);
    if (!wrong && place.life == PSHM_LIFE_LAST_DETACH)
        wrong = leftovers(false);
    return wrong ? wrong : crash_holds_nothing() ? NULL : "the survivor's robust list is not empty";
}

/* ---- the addresses ---- */

static void in_memfd(void)
{
    place.fd = memfd_create("pshm-crash", 0);
    if (place.fd < 0 || ftruncate(place.fd, SIZE))
        exit(2);
    place.bytes = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, place.fd, 0);
    snprintf(place.address, sizeof place.address, "fd:%d", place.fd);
    place.life = PSHM_LIFE_KEEP;
}

static key_t some_key(void)
{
    return (key_t)(0x50530000 | (getpid() & 0xffff));
}

static void in_sysv(void)
{
    close(place.fd);
    munmap(place.bytes, SIZE);
    place.fd = -1;
    key_t key = some_key();
    place.id = shmget(key, SIZE, IPC_CREAT | IPC_EXCL | 0600);
    place.bytes = place.id >= 0 ? shmat(place.id, NULL, 0) : NULL;
    if (!place.bytes || (intptr_t)place.bytes == -1)
        exit(2);
    snprintf(place.address, sizeof place.address, "sysv:0x%x", (unsigned)key);
}

static void in_sysv_unseen(void)
{
    remove_all();
    place.name = NULL;
    place.key = some_key();
    place.life = PSHM_LIFE_LAST_DETACH;
    snprintf(place.address, sizeof place.address, "sysv:0x%x", (unsigned)place.key);
}

static void in_posix(pshm_life life)
{
    static char name[40];
    remove_all();
    snprintf(name, sizeof name, "/pshm-crash-%d", (int)getpid());
    place.name = name;
    place.life = life;
    snprintf(place.address, sizeof place.address, "posix:%s", name);
    place.bytes = crash_share(4096); /* nobody else sees what has no name: the system calls are the states */
}

static void run(const char *name, int (*subject)(void *context), unsigned modes, void (*before)(void *context))
{
    const crash_case c = {.name = name,
                          .watched = place.bytes,
                          .watched_size = place.name || place.key ? 4096 : SIZE,
                          .reset = before,
                          .subject = subject,
                          .partner = partner,
                          .repair = create,
                          .check = check};
    crash_states(&c);
    crash_stop(&c);
    if (modes)
        crash_repair(&c);
}

int main(int argc, char **argv)
{
    (void)argc;
    crash_init(argv);
    crash_deadline_ms = 4000;
    atexit(remove_all);
    in_memfd();
    run("open: set up in a descriptor", create, 1, reset);
    run("open: what is there", create, 0, reset_with_arena);
    in_sysv();
    run("open: set up in System V memory", create, 1, reset);
    in_posix(PSHM_LIFE_KEEP);
    run("open: create a name", create, 0, reset);
    in_posix(PSHM_LIFE_LAST_DETACH);
    run("close: the last one, and the name goes", close_last, 0, reset);
    in_sysv_unseen();
    run("close: the last one, and the key goes", close_last, 0, reset);
    return crash_report();
}
