/* SPDX-License-Identifier: MIT
 *
 * Arenas that are broken on purpose, one way each: the driver has to find every one of them, and the same thing done right
 * has to pass. See driver.h; not for valgrind and the sanitizers.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "core/directory_inside.h"
#include "core/heap_inside.h"
#include "core/participant.h"
#include "driver_lock.h"
#include "driver_work.h"
#include "os/beacon.h"

#define SIZE 65536

/* What is wrong. */
typedef enum fault {
    SOUND,
    HELD_CLEARED_FIRST,   /* release forgets where the lock is before it gives it back */
    HELD_NOTED_LAST,      /* try notes where the lock is once it has it */
    DEATH_FORGOTTEN,      /* recover keeps no note of the death for as long as it is not made good */
    BEACON_FIRST,         /* who takes a dead one's slot has its beacon before the generation moves on */
    MARKED_LAST,          /* who takes a dead one's slot sets it free before its locks are marked */
    PUBLISHED_FIRST,      /* a block is published before the intent is written */
    NO_INTENT,            /* a block is taken without an intent */
    INTENT_CLEARED_FIRST, /* the intent is cleared before the block is published */
    NOT_SCANNED,          /* what is deleted is freed though somebody is at work on it */
    NOT_RETIRED,          /* what is deleted keeps its serial */
} fault;

static fault broken;

/* ---- the lock ---- */

static pshm_owner *owner_of(const pshm_mutex *mutex)
{
    return mutex->object.body;
}

static void forget(pshm_member *m, int at)
{
    m->used &= ~(1u << at);
    pshm_store(&m->slot->held[at], 0);
}

static int attempt(void *handle, pshm_death *death)
{
    pshm_mutex *mutex = crash_lock_arena_mutex(handle);
    pshm_member *m;
    uint64_t nobody = 0;
    int rc = pshm_member_of(mutex->object.arena->attachment, &m);
    *death = (pshm_death){.died = false};
    if (rc)
        return rc;
    int at = broken == HELD_NOTED_LAST ? -1 : pshm_member_note(m, mutex->place);
    if (!pshm_cas(&owner_of(mutex)->word, &nobody, m->me)) {
        if (at >= 0)
            pshm_store(&m->slot->held[at], 0);
        return pshm_mutex_try(mutex, death);
    }
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (at < 0)
        at = pshm_member_note(m, mutex->place);
    m->used |= 1u << at;
    return 0;
}

static int release(void *handle)
{
    pshm_mutex *mutex = crash_lock_arena_mutex(handle);
    pshm_member *m;
    int rc = pshm_member_of(mutex->object.arena->attachment, &m);
    int at = rc ? -1 : pshm_member_holds(m, mutex->place);
    if (at < 0)
        return PSHM_ENOTOWNER;
    uint64_t word = m->me;
    if (broken == HELD_CLEARED_FIRST)
        forget(m, at);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (pshm_peek(&owner_of(mutex)->died) || !pshm_cas(&owner_of(mutex)->word, &word, 0)) {
        if (broken == HELD_CLEARED_FIRST)
            m->used |= 1u << pshm_member_note(m, mutex->place);
        return pshm_mutex_release(mutex);
    }
    if (broken != HELD_CLEARED_FIRST)
        forget(m, at);
    return 0;
}

static int recover(void *handle, int64_t deadline, pshm_death *death)
{
    pshm_mutex *mutex = crash_lock_arena_mutex(handle);
    int rc = pshm_mutex_recover(mutex, deadline, death);
    if (!rc && broken == DEATH_FORGOTTEN)
        pshm_store(&owner_of(mutex)->died, 0);
    return rc;
}

/* ---- a dead one's slot ---- */

static pshm_mutex mutex;
static pid_t dead;

static int make_mutex(void)
{
    bool created;
    pshm_mutex_fini(&mutex);
    return pshm_mutex_init(&mutex, crash_here.arena, "mutex", 5, true, PSHM_RECURSIVE_NO, &created);
}

static int die_with_mutex(void *context)
{
    (void)context;
    pshm_death death;
    int rc = pshm_mutex_try(&mutex, &death);
    raise(rc ? SIGTERM : SIGKILL);
    return 1;
}

static int one_dead(void)
{
    int rc = make_mutex();
    if (!rc)
        rc = pshm_participant_detach(crash_here.arena);
    dead = crash_fork(die_with_mutex, NULL);
    while (waitpid(dead, NULL, 0) < 0 && errno == EINTR)
        continue;
    /* Without a second proof, which whoever looks would have: the order of the first one's steps is what is tried. */
    pshm_slot *slot = pshm_slot_at(crash_here.arena->attachment, 0);
    slot->start = 0;
    slot->flags = 0;
    return rc;
}

/* Reclaims the one slot of a dead, step by step as participant.c does, but for the fault. */
static int take_over(void)
{
    pshm_attachment *a = crash_here.arena->attachment;
    pshm_slot *slot = pshm_slot_at(a, 0);
    pshm_os_beacon *beacon = pshm_at(a, a->at.beacons);
    uint32_t stamp = pshm_load(&slot->stamp), generation = stamp >> PSHM_GENERATION_SHIFT;
    uint32_t id = pshm_id_of(0, generation), next = (generation + 1) << PSHM_GENERATION_SHIFT;
    uint32_t pid = slot->pid;
    if ((stamp & PSHM_PHASE) != PSHM_PHASE_TAKEN || !pshm_os_beacon_is_dark(beacon))
        return pshm_participant_attach(crash_here.arena); /* a partner was faster */
    if (broken == BEACON_FIRST && pshm_os_beacon_take(beacon))
        return -EBUSY;
    pshm_cas(&slot->stamp, &stamp, next | PSHM_PHASE_DEAD);
    if (broken != BEACON_FIRST && pshm_os_beacon_take(beacon))
        return pshm_participant_attach(crash_here.arena);
    if (pshm_load(&slot->stamp) != (next | PSHM_PHASE_DEAD)) {
        pshm_os_beacon_give(beacon);
        return pshm_participant_attach(crash_here.arena);
    }
    if (broken == MARKED_LAST)
        pshm_store(&slot->stamp, next | PSHM_PHASE_FREE);
    for (uint32_t i = 0; i < PSHM_HELD; i++) {
        uint64_t place = pshm_load(&slot->held[i]) & PSHM_HELD_PLACE;
        if (broken == MARKED_LAST)
            pshm_store(&slot->held[i], 0);
        if (place)
            pshm_owner_abandon(a, pshm_at(a, place), id, pid, 0);
        pshm_store(&slot->held[i], 0);
    }
    pshm_store(&slot->busy, 0);
    pshm_store(&slot->stamp, next | PSHM_PHASE_FREE);
    pshm_os_beacon_give(beacon);
    return pshm_participant_attach(crash_here.arena);
}

static int told_beside(void)
{
    pshm_death death;
    int rc = CRASH_PATIENTLY(pshm_mutex_acquire(&mutex, pshm_deadline(PSHM_SLICE_NS), &death));
    if (rc != -EOWNERDEAD)
        return crash_fail("partner: the death was not told: %s", pshm_error_name(rc));
    return 0;
}

static const char *is_told(const crash_facts *facts)
{
    (void)facts;
    pshm_death death;
    int rc = pshm_mutex_try(&mutex, &death);
    if (rc != -EOWNERDEAD || death.pid != (uint32_t)dead)
        return crash_wrong("the death was not told with its pid", rc);
    rc = CRASH_PATIENTLY(pshm_mutex_recover(&mutex, pshm_deadline(INT64_C(1000000000)), &death));
    if (!rc)
        rc = pshm_mutex_consistent(&mutex);
    if (!rc)
        rc = pshm_mutex_release(&mutex);
    return rc ? crash_wrong("recover", rc) : NULL;
}

/* ---- the heap ---- */

/* As pshm_heap_allocate, of a block of 128 bytes. */
static int allocate(void)
{
    pshm_attachment *a = crash_here.arena->attachment;
    pshm_heap_head *h = &a->head->heap;
    pshm_member *m;
    pshm_plan plan;
    int rc = pshm_member_of(a, &m);
    if (!rc)
        rc = CRASH_PATIENTLY(pshm_heap_enter(m));
    if (rc)
        return rc;
    uint64_t *target = pshm_at(a, pshm_heap_root(0));
    rc = pshm_heap_plan_slowly(a, 128, &plan);
    if (rc) {
        pshm_heap_leave(m);
        return rc;
    }
    pshm_intent *i = &plan.intent;
    i->operation = PSHM_INTENT_ALLOC;
    i->target = pshm_heap_root(0);
    i->value = i->block;
    if (broken == PUBLISHED_FIRST)
        pshm_store(target, i->value);
    if (broken != NO_INTENT)
        pshm_heap_intend(h, i);
    if (i->count)
        pshm_heap_take_pages(a, i->page, i->count, i->class_);
    pshm_bit_set(pshm_heap_page(a, i->page)->used, plan.index);
    memset(pshm_at(a, i->block), 0, 128);
    if (broken == INTENT_CLEARED_FIRST) {
        pshm_heap_settle(a, i->page, i->class_);
        pshm_heap_done(h);
    }
    pshm_store(target, i->value);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    pshm_heap_settle(a, i->page, i->class_);
    pshm_heap_done(h);
    pshm_heap_leave(m);
    return 0;
}

static const char *is_allocated(const crash_facts *facts)
{
    (void)facts;
    int rc = CRASH_PATIENTLY(pshm_heap_free_from(crash_here.arena, pshm_heap_root(0)));
    return rc ? crash_wrong("free", rc) : NULL;
}

/* ---- the directory ---- */

static int lock_it(void)
{
    pshm_death death;
    int rc = pshm_mutex_try(&mutex, &death);
    if (rc == 0)
        rc = pshm_mutex_release(&mutex);
    return rc == PSHM_EDELETED ? 0 : rc;
}

#define BLOCKS 8

/* As pshm_directory_delete; and others get its memory. */
static int delete_and_reuse(void)
{
    pshm_attachment *a = crash_here.arena->attachment;
    pshm_directory_head *d = &a->head->directory;
    pshm_member *m;
    pshm_key key;
    pshm_found found;
    int rc = pshm_member_of(a, &m);
    if (!rc)
        rc = CRASH_PATIENTLY(pshm_directory_enter(m));
    if (!rc && !(rc = pshm_key_of(a, "mutex", 5, &key)) && !(rc = pshm_directory_look(a, &key, &found))) {
        uint64_t *entry = pshm_at(a, found.target);
        pshm_store(entry, pshm_peek(entry) | PSHM_ENTRY_DELETED);
        if (broken != NOT_RETIRED)
            pshm_node_retire(a, found.node.place);
        pshm_store(&d->live, pshm_peek(&d->live) - 1);
        pshm_store(&d->deleted, pshm_peek(&d->deleted) + 1);
        if (broken != NOT_SCANNED) {
            (void)pshm_entry_free(m, found.target);
        } else {
            rc = pshm_heap_release(m, found.target, PSHM_ENTRY_GONE);
            pshm_store(&d->deleted, pshm_peek(&d->deleted) - 1);
            pshm_store(&d->gone, pshm_peek(&d->gone) + 1);
        }
        pshm_directory_leave(m);
    }
    pshm_death death;
    if (!rc && pshm_mutex_try(&mutex, &death) != PSHM_EDELETED)
        return crash_fail("partner: what is deleted can be locked");
    for (unsigned i = 0; !rc && i < BLOCKS; i++)
        rc = CRASH_PATIENTLY(pshm_heap_alloc_into(crash_here.arena, pshm_heap_root(i), 128));
    return rc ? crash_fail("partner: %s", pshm_error_name(rc)) : 0;
}

static const char *is_untouched(const crash_facts *facts)
{
    (void)facts;
    bool created;
    pshm_mutex again;
    for (unsigned i = 0; i < BLOCKS; i++) {
        uint64_t place = 0, words[16] = {0};
        int rc = pshm_heap_read(crash_here.arena, pshm_heap_root(i), &place, sizeof place);
        if (!rc && place)
            rc = pshm_heap_read(crash_here.arena, place, words, sizeof words);
        for (size_t j = 0; !rc && j < sizeof words / sizeof *words; j++)
            if (words[j])
                return "a call on what was deleted wrote into somebody else's block";
        if (!rc)
            rc = CRASH_PATIENTLY(pshm_heap_free_from(crash_here.arena, pshm_heap_root(i)));
        if (rc)
            return crash_wrong("block", rc);
    }
    int rc = CRASH_PATIENTLY(pshm_mutex_init(&again, crash_here.arena, "mutex", 5, true, PSHM_RECURSIVE_NO, &created));
    return rc ? crash_wrong("again", rc) : NULL;
}

/* ---- what has to be found ---- */

typedef const crash_row *crash_mode(const crash_case *c);

static const crash_work onto_dead = {.name = "take over",
                                     .stranger = true,
                                     .prepare = one_dead,
                                     .operate = take_over,
                                     .partner = told_beside,
                                     .verify = is_told};
static const crash_work allocation = {.name = "allocate",
                                      .prepare = make_mutex,
                                      .operate = allocate,
                                      .verify = is_allocated};
static const crash_work deletion = {
    .name = "delete", .prepare = make_mutex, .operate = lock_it, .partner = delete_and_reuse, .verify = is_untouched};

/* One fault, and the case and mode that have to find it. */
static const struct expectation {
    const char *name;
    fault fault;
    const crash_work *work; /* NULL: a case of the lock */
    crash_lock_what what;
    crash_mode *mode;
} expectations[] = {
    {"place forgotten before release", HELD_CLEARED_FIRST, NULL, CRASH_LOCK_RELEASE, crash_states},
    {"place noted after try", HELD_NOTED_LAST, NULL, CRASH_LOCK_ATTEMPT, crash_states},
    {"place noted after try", HELD_NOTED_LAST, NULL, CRASH_LOCK_ATTEMPT, crash_every},
    {"death forgotten by recover", DEATH_FORGOTTEN, NULL, CRASH_LOCK_GIVE_UP, crash_states},
    {"beacon taken before the generation", BEACON_FIRST, &onto_dead, 0, crash_stop},
    {"slot free before its locks are marked", MARKED_LAST, &onto_dead, 0, crash_states},
    {"published before the intent", PUBLISHED_FIRST, &allocation, 0, crash_states},
    {"no intent", NO_INTENT, &allocation, 0, crash_states},
    {"intent cleared before the block is published", INTENT_CLEARED_FIRST, &allocation, 0, crash_states},
    {"freed without a look who is inside", NOT_SCANNED, &deletion, 0, crash_stop},
    {"deleted, and its serial stays", NOT_RETIRED, &deletion, 0, crash_stop},
};

static const crash_case *case_of(const struct expectation *e, const crash_lock *lock)
{
    static crash_work work;
    if (!e->work)
        return crash_lock_case(lock, e->what);
    work = *e->work;
    work.name = lock->name;
    return crash_work_case(&work, SIZE, 3);
}

int main(int argc, char **argv)
{
    (void)argc;
    int wrong = 0;
    crash_init(argv);
    /* One slot alone: whoever survives takes that of the dead. */
    crash_lock lock = *crash_lock_of_arena_mutex("arena lock", false, 1);
    lock.attempt = attempt;
    lock.release = release;
    lock.recover = recover;
    crash_failures_max = 3;
    for (size_t i = 0; i < 2 * sizeof expectations / sizeof *expectations; i++) {
        const struct expectation *e = &expectations[i / 2];
        bool sound = i % 2;
        broken = SOUND; /* for the rehearsal */
        lock.name = sound ? "sound" : e->name;
        const crash_case *c = case_of(e, &lock);
        broken = sound ? SOUND : e->fault;
        crash_quiet = !sound;
        crash_deadline_ms = sound ? 2000 : 600;
        if (!e->mode(c)->failures == sound)
            continue;
        printf("FAILED: %s \"%s\"\n", sound ? "a fault was found where there is none, beside" : "not found:", e->name);
        wrong++;
    }
    printf("%d faults missed or invented\n", wrong);
    return wrong != 0;
}
