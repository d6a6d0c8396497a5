/* SPDX-License-Identifier: MIT */
#include "driver_arena.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void need(int rc, const char *what)
{
    if (!rc)
        return;
    fprintf(stderr, "%s: %s\n", what, pshm_error_text(rc));
    exit(2);
}

const char *crash_wrong(const char *what, int code)
{
    static char text[160];
    snprintf(text, sizeof text, "%s: %s", what, pshm_error_name(code));
    return text;
}

void crash_arena_open(crash_arena *a, int fd, unsigned participants)
{
    char address[32];
    int length = snprintf(address, sizeof address, "fd:%d", fd);
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    options.create = true;
    options.participants = participants;
    *a = (crash_arena){.fd = fd};
    need(pshm_arena_open(address, (size_t)length, &options, &a->arena), address);
    a->bytes = a->arena->segment->base;
    a->size = a->arena->segment->size;
    a->image = malloc(a->size);
    need(a->image ? 0 : -12, "image");
}

void crash_arena_close(crash_arena *a)
{
    pshm_arena_close(a->arena);
    pshm_arena_release(a->arena);
    free(a->image);
    *a = (crash_arena){.arena = NULL};
}

void crash_arena_keep(crash_arena *a)
{
    pshm_arena_stats stats;
    need(pshm_participant_detach(a->arena), "detach");
    need(pshm_arena_stats_of(a->arena, &stats), "stats");
    a->used = stats.used;
    memcpy(a->image, a->bytes, a->size);
}

void crash_arena_restore(const crash_arena *a)
{
    memcpy(a->bytes, a->image, a->size);
}

/* ---- owner words, from the bytes ---- */

static const pshm_head *head_of(const crash_arena *a)
{
    return (const void *)a->bytes;
}

/* Where the slots are: on the page behind the beacons. */
static uint64_t slots_of(const crash_arena *a)
{
    return PSHM_PAGE + (a->arena->participants * PSHM_BEACON_SIZE + PSHM_PAGE - 1) / PSHM_PAGE * PSHM_PAGE;
}

/* Of a lock that is biased: is the owner that it names inside, or about to be? */
static bool is_noted(const crash_arena *a, const pshm_owner *o, const pshm_slot *slot)
{
    uint64_t place = (uint64_t)((const unsigned char *)o - a->bytes);
    for (unsigned i = 0; i < PSHM_HELD; i++)
        if (__atomic_load_n(&slot->held[i], __ATOMIC_ACQUIRE) == place)
            return true;
    return false;
}

/* The slot that the word names as its owner, NULL: none; *alive: of this generation, and its beacon shines. */
static const pshm_slot *owner_of(const crash_arena *a, const pshm_owner *o, bool *alive)
{
    uint64_t word = __atomic_load_n(&o->word, __ATOMIC_ACQUIRE);
    uint32_t low = (uint32_t)word, index = (low & PSHM_ID_SLOT) - 1, participants = a->arena->participants;
    bool biased = word & (PSHM_OWNER_BIASED | PSHM_OWNER_REVOKED);
    if (index >= participants || (low & PSHM_ID_GRANTED && !biased))
        return NULL;
    const pshm_slot *slot = (const pshm_slot *)(const void *)(a->bytes + slots_of(a)) + index;
    if (low & PSHM_ID_GRANTED && !is_noted(a, o, slot))
        return NULL;
    const pthread_mutex_t *beacon = (const void *)(a->bytes + PSHM_PAGE + index * PSHM_BEACON_SIZE);
    uint32_t stamp = __atomic_load_n(&slot->stamp, __ATOMIC_ACQUIRE);
    uint32_t shines = (uint32_t)__atomic_load_n(&beacon->__data.__lock, __ATOMIC_ACQUIRE);
    *alive = (stamp & PSHM_PHASE) == PSHM_PHASE_TAKEN &&
             !((low ^ stamp >> PSHM_GENERATION_SHIFT << PSHM_ID_GENERATION_SHIFT) & PSHM_ID_GENERATION) &&
             (shines & 0x3fffffffu) && !(shines & 0x40000000u);
    return slot;
}

bool crash_owner_is(const crash_arena *a, const pshm_owner *o, pid_t pid)
{
    bool alive;
    const pshm_slot *slot = owner_of(a, o, &alive);
    return slot && alive && slot->pid == (uint32_t)pid;
}

bool crash_owner_is_marked(const crash_arena *a, const pshm_owner *o)
{
    bool alive;
    uint32_t low = (uint32_t)__atomic_load_n(&o->word, __ATOMIC_ACQUIRE);
    if ((low & PSHM_ID_SLOT) == PSHM_ID_ABANDONED || __atomic_load_n(&o->died, __ATOMIC_ACQUIRE))
        return true;
    return owner_of(a, o, &alive) && !alive;
}

bool crash_arena_is_held_by(const crash_arena *a, pid_t pid)
{
    return crash_owner_is(a, &head_of(a)->heap.lock.owner, pid) || crash_owner_is(a, &head_of(a)->directory.lock, pid);
}

void crash_arena_blur(const crash_arena *a, unsigned char *copy)
{
    for (unsigned i = 0; i < a->arena->participants; i++) {
        pshm_slot *slot = (pshm_slot *)(void *)(copy + slots_of(a)) + i;
        pthread_mutex_t *beacon = (void *)(copy + PSHM_PAGE + i * PSHM_BEACON_SIZE);
        slot->pid = slot->thread = 0;
        slot->start = 0;
        beacon->__data.__owner = 0;
        memset(&beacon->__data.__list, 0, sizeof beacon->__data.__list);
    }
}

/* ---- what has to hold ---- */

typedef struct crowd {
    pshm_arena *arena;
    pthread_barrier_t all_here;
    int rc;
} crowd;

static void *join_crowd(void *context)
{
    crowd *c = context;
    int rc = pshm_participant_attach(c->arena);
    if (rc)
        __atomic_store_n(&c->rc, rc, __ATOMIC_SEQ_CST);
    pthread_barrier_wait(&c->all_here);
    return NULL;
}

/* Takes all slots at the same time, those of the dead too. */
static const char *crowd_in(pshm_arena *arena)
{
    enum { MOST = 64 };
    pthread_t threads[MOST];
    crowd c = {.arena = arena};
    unsigned others = arena->participants - 1;
    int rc = pshm_participant_attach(arena);
    if (rc || others > MOST)
        return crash_wrong("attach", rc);
    pthread_barrier_init(&c.all_here, NULL, others + 1);
    for (unsigned i = 0; i < others; i++)
        if (pthread_create(&threads[i], NULL, join_crowd, &c))
            return "no thread";
    pthread_barrier_wait(&c.all_here);
    for (unsigned i = 0; i < others; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&c.all_here);
    if (c.rc)
        return crash_wrong("not every slot can be had", c.rc);
    return NULL;
}

static const char *check(pshm_arena *arena)
{
    static char text[256];
    char *report = NULL;
    size_t count = 0;
    int rc = pshm_arena_check(arena, &report, &count);
    if (rc)
        return crash_wrong("check", rc);
    snprintf(text, sizeof text, "%zu findings: %s", count, report ? report : "");
    pshm_report_free(report);
    return count ? text : NULL;
}

const char *crash_arena_verify(const crash_arena *a, uint64_t used)
{
    static char text[128];
    pshm_arena_stats stats;
    pshm_participant *left = NULL;
    size_t count = 0;
    const char *wrong = check(a->arena);
    if (!wrong)
        wrong = crowd_in(a->arena);
    if (!wrong)
        wrong = check(a->arena);
    if (wrong)
        return wrong;
    int rc = pshm_participant_detach(a->arena);
    if (rc)
        return crash_wrong("detach", rc);
    rc = pshm_arena_stats_of(a->arena, &stats);
    if (rc)
        return crash_wrong("stats", rc);
    if (stats.used != used) {
        snprintf(text, sizeof text, "%lu bytes in use, not %lu", stats.used, used);
        return text;
    }
    rc = pshm_arena_list_participants(a->arena, &left, &count);
    pshm_participants_free(left);
    if (rc || count)
        return rc ? crash_wrong("participants", rc) : "a slot is taken by nobody";
    return crash_holds_nothing() ? NULL : "the survivor's robust list is not empty";
}
