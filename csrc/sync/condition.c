/* SPDX-License-Identifier: MIT
 *
 * The condition: a number that moves on with each notification, and a flag that says whether anybody may sleep. Both are
 * changed by who has the mutex, and a sleeper goes by the number alone, so there is nothing to tear.
 *
 *   begin    flag up; note the number; release the mutex
 *   sleep    until the number is another one
 *   notify   number + 1; wake; flag down if fewer slept than are to be woken
 *   A number that was noted with the mutex held is another one after any notification that comes after its release,
 *   whether the wake comes or dies with the notifier, or with the one who was woken: then in the next slice. So the flag
 *   may be down only when nobody waits with the number as it is, and then there is nothing to do.
 *   A death in the mutex is as good as a notification: the dead one may have changed what the others wait for.
 */
#include <polyshm/condition.h>

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "core/participant.h"
#include "core/waiting.h"
#include "os/clock.h"
#include "sync/mutex.h"

#define KIND 6u

typedef struct body {
    uint32_t sequence; /* of notifications: what is slept on */
    uint32_t sleepers; /* PSHM_SLEEPS_... */
    uint64_t mutex;    /* place of its head */
    uint64_t serial;   /* of the mutex */
    uint64_t unused[5];
} body;

_Static_assert(sizeof(body) == 64, "layout");

/* A ticket's `least`: how many deaths in the mutex were made good, and the number; never 0. */
#define TICKET (INT64_C(1) << 62)
#define TICKET_REPAIRS UINT64_C(0x3fffffff)

static body *body_of(const pshm_condition *condition)
{
    return condition->object.body;
}

/* ---- waiting ---- */

static int64_t state_of(const pshm_condition *condition)
{
    uint64_t repairs = pshm_mutex_repairs(&condition->mutex) & TICKET_REPAIRS;
    uint32_t sequence = __atomic_load_n(&body_of(condition)->sequence, __ATOMIC_SEQ_CST);
    return TICKET | (int64_t)(repairs << 32 | sequence);
}

static int look(pshm_waiting *w, bool write, uint32_t *value)
{
    /* The handle's head is its first member. */
    const pshm_condition *condition = (const pshm_condition *)(const void *)w->object;
    (void)write;
    *value = (uint32_t)w->least;
    return state_of(condition) == w->least && !pshm_mutex_is_in_trouble(&condition->mutex);
}

_Static_assert(offsetof(pshm_condition, object) == 0, "look");

static pshm_waiting waiting_on(const pshm_object *object, int64_t least)
{
    body *b = pshm_waited_body(object);
    return (pshm_waiting){.object = object,
                          .word = &b->sequence,
                          .sleepers = &b->sleepers,
                          .how = PSHM_SLEEPS_TAKER,
                          .look = look,
                          .least = least};
}

/* Asks the system whether the one lives who has the mutex, if that is the `suspect`, or for 0 anybody; a dead one's beacon
 * is dark from then on. Who has it. */
static uint32_t ask(const pshm_object *object, uint32_t suspect)
{
    const pshm_condition *condition = (const pshm_condition *)(const void *)object;
    bool pinned;
    if (pshm_object_look(object, &pinned))
        return 0;
    uint32_t id = pshm_mutex_holder(&condition->mutex);
    if (id && (!suspect || id == suspect))
        (void)pshm_id_prove_dead(object->arena->attachment, id);
    pshm_arena_unlook(object->arena, pinned);
    return id;
}

static int watch(const pshm_object *object, int64_t least, pshm_watch *watch)
{
    if (!(least & TICKET) || least < 0)
        return PSHM_EUNWAITABLE;
    const pshm_waiting w = waiting_on(object, least);
    if (watch->prove)
        ask(object, 0);
    return pshm_watch_word(&w, watch);
}

int pshm_condition_begin(pshm_condition *condition, pshm_condition_ticket *ticket)
{
    pshm_member *m;
    int rc = pshm_object_enter(&condition->object, &m);
    if (rc)
        return rc;
    *ticket = (pshm_condition_ticket){.task = ticket->task};
    rc = PSHM_ENOTOWNER;
    if (pshm_mutex_is_mine(&condition->mutex)) {
        pshm_sleeps(&body_of(condition)->sleepers, PSHM_SLEEPS_TAKER);
        int64_t least = state_of(condition);
        rc = pshm_mutex_let_go(&condition->mutex, ticket->task, &ticket->depth);
        if (!rc)
            ticket->least = least;
    }
    pshm_object_leave(m);
    return rc;
}

int pshm_condition_sleep(pshm_condition *condition, pshm_condition_ticket *ticket, int64_t deadline)
{
    pshm_waiting w = waiting_on(&condition->object, ticket->least);
    int rc = pshm_wait_for(&w, deadline);
    int64_t now = rc == -EINTR ? pshm_os_now() : 0;
    if (rc != -EINTR || now - ticket->since < PSHM_SLICE_NS - PSHM_SLICE_NS / 100)
        return rc; /* signals may end many in a slice */
    ticket->suspect = ask(&condition->object, ticket->suspect);
    ticket->since = now;
    return rc;
}

int pshm_condition_end(pshm_condition *condition, pshm_condition_ticket *ticket, int64_t deadline, pshm_death *death)
{
    int rc = pshm_mutex_take_back(&condition->mutex, ticket->task, ticket->depth, deadline, death);
    if (!rc)
        ticket->least = 0;
    return rc;
}

int pshm_condition_wait(pshm_condition *condition, pshm_condition_ticket *ticket, int64_t deadline, pshm_death *death)
{
    *death = (pshm_death){.died = false};
    int rc = ticket->least ? 0 : pshm_condition_begin(condition, ticket);
    if (rc)
        return rc;
    if (!ticket->over) {
        rc = pshm_condition_sleep(condition, ticket, deadline);
        if (rc == -EINTR)
            return rc;
        ticket->over = true;
        ticket->result = rc;
    }
    rc = pshm_condition_end(condition, ticket, PSHM_FOREVER, death);
    return rc ? rc : ticket->result;
}

int pshm_condition_now(pshm_condition *condition, int64_t *least)
{
    pshm_member *m;
    int rc = pshm_object_enter(&condition->object, &m);
    if (rc)
        return rc;
    pshm_sleeps(&body_of(condition)->sleepers, PSHM_SLEEPS_TAKER);
    *least = state_of(condition);
    pshm_object_leave(m);
    return pshm_attachment_verify(m->attachment);
}

/* ---- notifying ---- */

static int notify(pshm_condition *condition, int count)
{
    pshm_member *m;
    int rc = pshm_object_enter(&condition->object, &m);
    if (PSHM_UNLIKELY(rc))
        return rc;
    body *b = body_of(condition);
    if (!pshm_mutex_is_mine(&condition->mutex)) {
        rc = PSHM_ENOTOWNER;
    } else if (count && (__atomic_load_n(&b->sleepers, __ATOMIC_SEQ_CST) & PSHM_SLEEPS)) {
        __atomic_fetch_add(&b->sequence, 1, __ATOMIC_SEQ_CST);
        pshm_wake_slowly(&b->sleepers, &b->sequence, count);
    }
    pshm_object_leave(m);
    return rc ? rc : pshm_attachment_verify(m->attachment);
}

int pshm_condition_notify(pshm_condition *condition, uint32_t count)
{
    return notify(condition, count < INT_MAX ? (int)count : INT_MAX);
}

int pshm_condition_notify_all(pshm_condition *condition)
{
    return notify(condition, INT_MAX);
}

/* ---- opening ---- */

/* The mutex that the body names, as a handle of the condition's own. */
static int open_mutex(pshm_condition *condition, pshm_arena *arena, const pshm_mutex *mutex)
{
    pshm_mutex *own = &condition->mutex;
    char name[256];
    bool pinned;
    int rc = pshm_object_look(&condition->object, &pinned);
    if (rc)
        return rc;
    const body *b = body_of(condition);
    uint64_t place = pshm_peek(&b->mutex), serial = pshm_peek(&b->serial);
    bool there = pshm_directory_name(arena->attachment, place, name);
    rc = pshm_object_stands(&condition->object);
    pshm_arena_unlook(arena, pinned);
    if (rc)
        return rc;
    if (mutex && (mutex->object.place != place || mutex->object.serial != serial))
        return PSHM_EPARAMETER;
    rc = there ? pshm_mutex_init(own, arena, name, strlen(name), false, PSHM_RECURSIVE_ANY, NULL) : PSHM_EDELETED;
    if (rc == PSHM_ENONAME || rc == PSHM_EKIND || (!rc && (own->object.place != place || own->object.serial != serial)))
        rc = PSHM_EDELETED; /* another may have its name, or its memory */
    return rc;
}

int pshm_condition_init(pshm_condition *condition, pshm_arena *arena, const char *name, size_t length, bool create,
                        const pshm_mutex *mutex, bool *created)
{
    const bool usable = mutex && mutex->object.arena && mutex->object.arena->attachment == arena->attachment;
    const body fresh = {.mutex = usable ? mutex->object.place : 0, .serial = usable ? mutex->object.serial : 0};
    const pshm_wish wish = {.name = name,
                            .name_size = length,
                            .kind = KIND,
                            .create = create && usable,
                            .body = &fresh,
                            .body_size = sizeof(body),
                            .body_prefix = sizeof fresh,
                            .watch = watch};
    uint32_t flags;
    *condition = (pshm_condition){.object = {.arena = NULL}};
    if (mutex && !usable)
        return PSHM_ENOMUTEX;
    int rc = mutex && create ? pshm_object_check(&mutex->object) : 0;
    if (!rc)
        rc = pshm_object_open(&condition->object, arena, &wish, &flags, created);
    if (rc == PSHM_ENONAME && create)
        rc = arena->readonly ? PSHM_EREADONLY : PSHM_ENOMUTEX;
    if (!rc)
        rc = open_mutex(condition, arena, mutex);
    if (rc)
        pshm_condition_fini(condition);
    return rc;
}

void pshm_condition_fini(pshm_condition *condition)
{
    pshm_mutex_fini(&condition->mutex);
    pshm_object_fini(&condition->object);
}
