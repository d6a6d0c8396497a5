/* SPDX-License-Identifier: MIT
 *
 * The mutex of an arena as a lock of the kill tests, on an arena over the memory of the cases.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/attachment.h"
#include "driver_arena.h"
#include "driver_lock.h"

#define SIZE 65536

typedef struct subject {
    crash_arena in;
    pshm_mutex mutex;
} subject;

static const pshm_owner *owner_of(const subject *s)
{
    return s->mutex.object.body;
}

static void create(void *handle)
{
    crash_arena_restore(&((subject *)handle)->in);
}

static int attempt(void *handle, pshm_death *death)
{
    return pshm_mutex_try(&((subject *)handle)->mutex, death);
}

static int acquire(void *handle, int64_t deadline, pshm_death *death)
{
    return pshm_mutex_acquire(&((subject *)handle)->mutex, deadline, death);
}

static int recover(void *handle, int64_t deadline, pshm_death *death)
{
    return pshm_mutex_recover(&((subject *)handle)->mutex, deadline, death);
}

static int consistent(void *handle)
{
    return pshm_mutex_consistent(&((subject *)handle)->mutex);
}

static int release(void *handle)
{
    return pshm_mutex_release(&((subject *)handle)->mutex);
}

static bool held_by(void *handle, pid_t pid)
{
    const subject *s = handle;
    return crash_owner_is(&s->in, owner_of(s), pid);
}

static bool marked(void *handle)
{
    const subject *s = handle;
    return crash_owner_is_marked(&s->in, owner_of(s));
}

static const char *verify(void *handle)
{
    subject *s = handle;
    pshm_death death;
    uint32_t pid = 1;
    if (pshm_mutex_locked(&s->mutex) || pshm_mutex_owner(&s->mutex, &pid) || pid)
        return "free, and yet locked or owned";
    if (pshm_mutex_try(&s->mutex, &death) || pshm_mutex_locked(&s->mutex) != 1 || pshm_mutex_owner(&s->mutex, &pid) ||
        pid != (uint32_t)getpid())
        return "held, and not locked or not owned by its owner";
    if (pshm_mutex_release(&s->mutex))
        return "release";
    return crash_arena_verify(&s->in, s->in.used);
}

static void join(void *handle)
{
    int rc = pshm_participant_attach(((subject *)handle)->in.arena);
    if (rc)
        crash_fail("attach: %s", pshm_error_name(rc));
}

/* As one who has lost the race for it again and again. */
static void insist(void *handle)
{
    const subject *s = handle;
    pshm_member *m = pshm_member_known(s->in.arena->attachment);
    if (!m)
        return;
    m->wanted = s->mutex.place;
    m->lost = 1000;
}

static void leave(void *handle)
{
    int rc = pshm_participant_detach(((subject *)handle)->in.arena);
    if (rc)
        crash_fail("detach: %s", pshm_error_name(rc));
}

pshm_mutex *crash_lock_arena_mutex(void *handle)
{
    return &((subject *)handle)->mutex;
}

const crash_lock *crash_lock_of_arena_mutex(const char *name, bool recursive, unsigned participants)
{
    static subject s;
    static crash_lock lock;
    bool created;
    if (s.in.arena) {
        pshm_mutex_fini(&s.mutex);
        crash_arena_close(&s.in);
    }
    crash_arena_open(&s.in, crash_lock_memory(SIZE, NULL), participants);
    int rc = pshm_mutex_init(&s.mutex, s.in.arena, CRASH_LOCK_NAME, sizeof CRASH_LOCK_NAME - 1, true,
                             recursive ? PSHM_RECURSIVE_YES : PSHM_RECURSIVE_NO, &created);
    if (rc) {
        fprintf(stderr, "mutex: %s\n", pshm_error_text(rc));
        exit(2);
    }
    crash_arena_keep(&s.in);
    lock = (crash_lock){.name = name,
                        .recursive = recursive,
                        .tells_pid = true,
                        .handle = &s,
                        .create = create,
                        .attempt = attempt,
                        .acquire = acquire,
                        .recover = recover,
                        .consistent = consistent,
                        .release = release,
                        .held_by = held_by,
                        .marked = marked,
                        .verify = verify,
                        .join = join,
                        .insist = insist,
                        .leave = leave};
    return &lock;
}
