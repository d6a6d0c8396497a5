/* SPDX-License-Identifier: MIT
 *
 * From an address to an attachment: opening or creating the segment, checking or making the arena in it.
 *
 * Files are shared by flock(2): who has an arena open holds it shared, on a description of its own. So an exclusive one is
 * proof that nobody has, dead or alive: then a name that should have gone with its last user goes, and participants of
 * another boot, or of the file that this one is a copy of, are declared dead.
 */
#include "core/attaching.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/participant.h"
#include "core/segment.h"
#include "core/setup.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/process.h"
#include "os/sysv.h"

#define PAUSE INT64_C(1000000)
/* Somebody else's exclusive lock lasts for a reset of all slots at the most. */
#define PATIENCE (INT64_C(20) * PSHM_SLICE_NS)
#define RACES 1000

typedef struct attaching {
    const char *address;
    size_t length;
    pshm_address parsed;
    pshm_arena_options options;
    uint32_t participants; /* of a new one */
    pshm_segment *segment;
    uint64_t device, inode;
    int guard;
    pshm_geometry at;
    pshm_life life;
    bool created, bygone;
} attaching;

/* Not an error: the way is to be gone again from the start. */
#define AGAIN 1

static bool has_name(const attaching *t)
{
    return t->parsed.kind == PSHM_SEGMENT_POSIX || t->parsed.kind == PSHM_SEGMENT_FILE;
}

static bool always_creates(const pshm_address *address)
{
    return address->kind == PSHM_SEGMENT_ANON || address->kind == PSHM_SEGMENT_ZERO ||
           address->kind == PSHM_SEGMENT_MEMFD ||
           (address->kind == PSHM_SEGMENT_SYSV && address->by == PSHM_SYSV_PRIVATE);
}

static bool never_creates(const pshm_address *address)
{
    return address->kind == PSHM_SEGMENT_FD || (address->kind == PSHM_SEGMENT_SYSV && address->by == PSHM_SYSV_ID);
}

static void drop(attaching *t)
{
    if (t->segment) {
        pshm_segment_close(t->segment);
        pshm_segment_release(t->segment);
    }
    if (t->guard >= 0)
        pshm_os_close(t->guard);
    t->segment = NULL;
    t->guard = -1;
}

/* The shared lock, in spite of somebody who has it exclusively for a moment. */
static int share(int guard)
{
    int64_t end = pshm_os_now() + PATIENCE;
    for (;;) {
        int rc = pshm_os_flock(guard, 's');
        if (rc != -EAGAIN || pshm_os_now() > end)
            return rc;
        pshm_os_sleep_until(pshm_os_now() + PAUSE);
    }
}

/* A descriptor of our own on the file, for its locks. */
static int guard_file(attaching *t)
{
    if (t->segment->fd < 0)
        return 0;
    if (pshm_os_file_is_remote(t->segment->fd))
        return PSHM_ENETWORK;
    t->guard = pshm_os_reopen(t->segment->fd, t->options.access == PSHM_ACCESS_RW);
    if (t->guard >= 0)
        return share(t->guard);
    int rc = t->guard;
    t->guard = -1;
    /* Who may write has to be seen by the locks of the others; who only looks does without, as where there is no /proc. */
    if (t->options.access != PSHM_ACCESS_RW && (rc == -ENOENT || rc == -EACCES || rc == -EPERM))
        return 0;
    return rc == -ENOENT ? -EOPNOTSUPP : rc;
}

/* ---- creating ---- */

/* Before the new segment has its name, where it gets that last. */
static int prepare(void *context, pshm_segment *segment)
{
    attaching *t = context;
    t->segment = segment;
    if (t->guard >= 0)
        pshm_os_close(t->guard); /* of a try before */
    t->guard = -1;
    int rc = pshm_segment_identity(segment, &t->device, &t->inode);
    if (!rc)
        rc = guard_file(t);
    t->segment = NULL; /* whoever called has it */
    if (!rc)
        t->created = pshm_setup(segment, t->participants, t->options.life, t->device, t->inode);
    return rc;
}

static int check_parameters(const pshm_arena_options *wanted, uint64_t size, uint32_t participants, pshm_life life)
{
    if ((wanted->size != PSHM_UNSET && wanted->size != size) ||
        (wanted->participants && wanted->participants != participants) ||
        (wanted->life != PSHM_LIFE_UNSET && wanted->life != life))
        return PSHM_EPARAMETER;
    return 0;
}

static int create(attaching *t, const pshm_arena_options *given)
{
    pshm_options options = PSHM_OPTIONS_INIT;
    options.size = t->options.size;
    options.mode = t->options.mode;
    options.reserve = t->options.reserve;
    options.exclusive = !always_creates(&t->parsed);
    options.create = true;
    int rc = pshm_segment_open_prepared(t->address, t->length, &options, prepare, t, &t->segment);
    if (rc) {
        t->segment = NULL;
        drop(t);
        return rc == -EEXIST && !t->options.exclusive ? AGAIN : rc;
    }
    rc = pshm_setup_check(t->segment, &t->at, &t->life);
    if (!rc) /* somebody else may have been faster at setting it up */
        rc = check_parameters(given, t->segment->size, t->at.participants, t->life);
    if (rc)
        drop(t);
    return rc;
}

/* ---- opening ---- */

/* What can be looked at before it is attached. */
static pshm_attachment as_attachment(const attaching *t)
{
    return (pshm_attachment){.segment = t->segment,
                             .base = t->segment->base,
                             .head = (pshm_head *)(void *)t->segment->base,
                             .at = t->at,
                             .pages = (pshm_page *)(void *)(t->segment->base + t->at.pages),
                             .lost = &t->segment->lost,
                             .id = pshm_load(&((pshm_head *)(void *)t->segment->base)->id),
                             .guard = -1};
}

/* Nobody at all uses what exists; it should have gone with its last user, who was killed. AGAIN: it is gone now. */
static int bury(attaching *t)
{
    if (t->life != PSHM_LIFE_LAST_DETACH || t->options.access != PSHM_ACCESS_RW)
        return 0;
    pshm_stat stat;
    if (t->segment->id >= 0) {
        pshm_attachment a = as_attachment(t);
        if (pshm_os_sysv_stat(t->segment->id, &stat) == 0 && stat.attaches > 1)
            return pshm_attachment_is_ending(&a) ? AGAIN : 0;
        pshm_os_sysv_remove(t->segment->id);
        return AGAIN;
    }
    if (!has_name(t) || t->guard < 0)
        return 0;
    bool alone = pshm_os_flock(t->guard, 'x') == 0;
    if (alone) {
        pshm_segment_unlink(t->segment);
        return AGAIN;
    }
    return share(t->guard);
}

static bool is_another_life(const attaching *t)
{
    const pshm_head *head = (const pshm_head *)(const void *)t->segment->base;
    uint64_t boot[2];
    pshm_os_boot_id(boot);
    uint64_t then[2] = {pshm_load(&head->boot[0]), pshm_load(&head->boot[1])};
    bool known = (boot[0] | boot[1]) && (then[0] | then[1]); /* without /proc nobody can tell */
    return (known && (then[0] != boot[0] || then[1] != boot[1])) || pshm_load(&head->device) != t->device ||
           pshm_load(&head->inode) != t->inode;
}

/* The arena comes from another boot, or is a copy: all participants that it names are dead. */
static int revive(attaching *t)
{
    pshm_head *head = (pshm_head *)(void *)t->segment->base;
    uint64_t boot[2];
    int64_t end = pshm_os_now() + PATIENCE;
    while (is_another_life(t)) {
        if (t->options.access != PSHM_ACCESS_RW) {
            t->bygone = true;
            return 0;
        }
        if (t->guard >= 0 && pshm_os_flock(t->guard, 'x') == 0 && is_another_life(t)) {
            pshm_attachment a = as_attachment(t);
            pshm_slots_reset(&a);
            pshm_os_boot_id(boot);
            pshm_store(&head->boot[0], boot[0]);
            pshm_store(&head->boot[1], boot[1]);
            pshm_store(&head->device, t->device);
            pshm_store(&head->inode, t->inode);
        }
        int rc = t->guard >= 0 ? share(t->guard) : 0;
        if (rc)
            return rc;
        if (!is_another_life(t))
            return 0;
        if (pshm_os_now() > end)
            return PSHM_EELSEWHERE;
        pshm_os_sleep_until(pshm_os_now() + PAUSE);
    }
    return 0;
}

/* Memory that is no arena yet becomes one, if that is wanted. -ENOENT: it is not. */
static int begin(attaching *t, int rc)
{
    /* What has a name had the arena in it before it got that. So this is somebody's own file of zeros. */
    bool foreign = rc == -ENOENT && t->segment->fd >= 0;
    if (t->options.access == PSHM_ACCESS_RW && rc == -EAGAIN)
        pshm_setup_finish(t->segment, t->device, t->inode);
    else if (t->options.access == PSHM_ACCESS_RW && t->options.create &&
             (!foreign || pshm_setup_is_blank(t->segment))) {
        uint32_t participants;
        int bad = pshm_setup_participants(t->segment->size, t->options.participants, &participants);
        if (bad)
            return bad;
        t->created = pshm_setup(t->segment, participants, t->options.life, t->device, t->inode);
    } else {
        return foreign ? PSHM_ENOTARENA : -ENOENT;
    }
    return pshm_setup_check(t->segment, &t->at, &t->life);
}

static int examine(attaching *t, const pshm_arena_options *given)
{
    int rc = guard_file(t);
    if (!rc && has_name(t) && pshm_os_file_links(t->segment->fd) == 0)
        return AGAIN; /* removed since it was opened */
    if (!rc) {
        rc = pshm_setup_check(t->segment, &t->at, &t->life);
        if (rc == -ENOENT || rc == -EAGAIN)
            rc = begin(t, rc);
    }
    if (!rc && !t->created) {
        rc = bury(t);
        if (!rc && has_name(t) && pshm_os_file_links(t->segment->fd) == 0)
            return AGAIN;
    }
    if (!rc)
        rc = check_parameters(given, t->segment->size, t->at.participants, t->life);
    return rc ? rc : revive(t);
}

/* Opens what exists. AGAIN: it is gone, or was just being made or removed. */
static int open_existing(attaching *t, const pshm_arena_options *given, pshm_attachment **known)
{
    pshm_options options = PSHM_OPTIONS_INIT;
    options.access = t->options.access;
    int rc = pshm_segment_open(t->address, t->length, &options, &t->segment);
    if (rc) {
        t->segment = NULL;
        return rc == PSHM_EZEROSIZE ? PSHM_ENOTARENA : rc;
    }
    rc = pshm_segment_identity(t->segment, &t->device, &t->inode);
    *known = rc ? NULL : pshm_attachment_find(t->segment, t->device, t->inode, t->options.access != PSHM_ACCESS_RW);
    if (*known) {
        rc = check_parameters(given, (*known)->at.size, (*known)->at.participants, (*known)->life);
        if (rc) {
            pshm_attachment_close(*known);
            pshm_attachment_forget(*known);
            *known = NULL;
        }
    } else if (!rc) {
        rc = examine(t, given);
    }
    if (rc || *known)
        drop(t);
    return rc;
}

static int reach(attaching *t, const pshm_arena_options *given, pshm_attachment **known)
{
    for (int race = 0; race < RACES; race++) {
        int rc = -ENOENT;
        t->created = false;
        if (!t->options.exclusive && !always_creates(&t->parsed)) {
            rc = open_existing(t, given, known);
            if (rc == -EIDRM)
                rc = -ENOENT;
        }
        if (rc == -ENOENT && t->options.create && !never_creates(&t->parsed))
            rc = create(t, given);
        if (rc != AGAIN)
            return rc;
        if (race > 10)
            pshm_os_sleep_until(pshm_os_now() + PAUSE);
    }
    return -EBUSY;
}

static int keep(attaching *t, pshm_attachment **out)
{
    pshm_attachment *a = calloc(1, sizeof *a);
    if (!a)
        return -ENOMEM;
    *a = (pshm_attachment){.segment = t->segment,
                           .base = t->segment->base,
                           .head = (pshm_head *)(void *)t->segment->base,
                           .at = t->at,
                           .pages = (pshm_page *)(void *)(t->segment->base + t->at.pages),
                           .lost = &t->segment->lost,
                           .device = t->device,
                           .inode = t->inode,
                           .guard = t->guard,
                           .readonly = t->options.access != PSHM_ACCESS_RW,
                           .life = t->life,
                           .language = t->options.language,
                           .bygone = t->bygone};
    a->id = pshm_load(&a->head->id);
    *out = pshm_attachment_add(a);
    if (*out != a) {
        free(a);
        drop(t);
    }
    return 0;
}

int pshm_attachment_open(const char *address, size_t length, const pshm_arena_options *options, pshm_attachment **out,
                         bool *created)
{
    attaching t = {.address = address, .length = length, .options = *options, .guard = -1};
    int rc = pshm_address_parse(address, length, &t.parsed);
    if (rc)
        return rc;
    if (options->access != PSHM_ACCESS_RW && options->access != PSHM_ACCESS_R)
        return PSHM_EACCESSNAME;
    if (options->exclusive && never_creates(&t.parsed))
        return PSHM_EEXCLUSIVE;
    if (options->life != PSHM_LIFE_UNSET && (unsigned)options->life >= PSHM_LIVES)
        return PSHM_ELIFE;
    if (options->exclusive || always_creates(&t.parsed))
        t.options.create = true;
    if (t.options.create) {
        if (options->access != PSHM_ACCESS_RW)
            return PSHM_EREADONLY;
        if (options->size == PSHM_UNSET)
            t.options.size = PSHM_ARENA_SIZE;
        if (options->life == PSHM_LIFE_UNSET)
            t.options.life = PSHM_LIFE_KEEP;
    }
    if (options->participants > PSHM_PARTICIPANTS_MAX)
        return PSHM_EPARTICIPANTCOUNT;
    if (t.options.create && !never_creates(&t.parsed) &&
        (rc = pshm_setup_participants(t.options.size, options->participants, &t.participants)) != 0)
        return rc;
    rc = pshm_attachments_begin();
    if (!rc) {
        *out = NULL;
        rc = reach(&t, options, out);
    }
    if (!rc && !*out)
        rc = keep(&t, out);
    if (rc)
        drop(&t);
    *created = !rc && t.created;
    return rc;
}
