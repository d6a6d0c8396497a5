/* SPDX-License-Identifier: MIT
 *
 * seg.mutex as a lock of the kill tests, on a segment over the memory of the cases.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "driver_lock.h"

typedef struct subject {
    pshm_segment *segment;
    pshm_segment_mutex mutex;
    bool recursive;
} subject;

static pshm_mutex_bytes *bytes_of(const subject *s)
{
    return (pshm_mutex_bytes *)(void *)(s->segment->base);
}

static void create(void *handle)
{
    subject *s = handle;
    pshm_segment_mutex_fini(&s->mutex);
    memset(s->segment->base, 0, CRASH_LOCK_BYTES);
    int rc = pshm_segment_mutex_init(&s->mutex, s->segment, 0, true,
                                     s->recursive ? PSHM_RECURSIVE_YES : PSHM_RECURSIVE_NO);
    if (rc) {
        fprintf(stderr, "mutex: %s\n", pshm_error_text(rc));
        exit(2);
    }
}

static int attempt(void *handle, pshm_death *death)
{
    return pshm_segment_mutex_try(&((subject *)handle)->mutex, death);
}

static int acquire(void *handle, int64_t deadline, pshm_death *death)
{
    return pshm_segment_mutex_acquire(&((subject *)handle)->mutex, deadline, death);
}

static int recover(void *handle, int64_t deadline, pshm_death *death)
{
    return pshm_segment_mutex_recover(&((subject *)handle)->mutex, deadline, death);
}

static int consistent(void *handle)
{
    return pshm_segment_mutex_consistent(&((subject *)handle)->mutex);
}

static int release(void *handle)
{
    return pshm_segment_mutex_release(&((subject *)handle)->mutex);
}

/* The futex word of a robust mutex, futex(2): the owner's thread id, and a bit for a dead one's. */
static bool held_by(void *handle, pid_t pid)
{
    return ((uint32_t)bytes_of(handle)->mutex.__data.__lock & 0x3fffffffu) == (uint32_t)pid;
}

static bool marked(void *handle)
{
    const pshm_mutex_bytes *bytes = bytes_of(handle);
    return ((uint32_t)bytes->mutex.__data.__lock & 0x40000000u) || bytes->mark.died;
}

static const char *verify(void *handle)
{
    subject *s = handle;
    pshm_death death;
    uint32_t pid = 1;
    if (pshm_segment_mutex_locked(&s->mutex) || pshm_segment_mutex_owner(&s->mutex, &pid) || pid)
        return "free, and yet locked or owned";
    if (pshm_segment_mutex_try(&s->mutex, &death) || pshm_segment_mutex_locked(&s->mutex) != 1 ||
        pshm_segment_mutex_owner(&s->mutex, &pid) || pid != (uint32_t)getpid())
        return "held, and not locked or not owned by its owner";
    if (pshm_segment_mutex_release(&s->mutex))
        return "release";
    /* A user that is left inside would keep the mapping. */
    pshm_segment_close(s->segment);
    return s->segment->base ? "somebody is still inside the segment" : NULL;
}

const crash_lock *crash_lock_of_mutex(const char *name, bool recursive)
{
    static subject s;
    static crash_lock lock;
    char address[32];
    if (s.segment) {
        pshm_segment_mutex_fini(&s.mutex);
        pshm_segment_release(s.segment);
    }
    int length = snprintf(address, sizeof address, "fd:%d", crash_lock_memory(CRASH_LOCK_BYTES, NULL));
    /* The two ways to count who is inside, and with `serial` the short way of try and release. */
    pshm_options options = PSHM_OPTIONS_INIT;
    options.serial = !recursive;
    int rc = pshm_segment_open(address, (size_t)length, &options, &s.segment);
    if (rc) {
        fprintf(stderr, "%s: %s\n", address, pshm_error_text(rc));
        exit(2);
    }
    s.recursive = recursive;
    lock = (crash_lock){.name = name,
                        .recursive = recursive,
                        .handle = &s,
                        .create = create,
                        .attempt = attempt,
                        .acquire = acquire,
                        .recover = recover,
                        .consistent = consistent,
                        .release = release,
                        .held_by = held_by,
                        .marked = marked,
                        .verify = verify};
    return &lock;
}
