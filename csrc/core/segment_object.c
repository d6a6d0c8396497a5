/* SPDX-License-Identifier: MIT
 *
 * What concerns the object behind a segment: its size, owner, name, and the list of all objects.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/segment.h"
#include "os/file.h"
#include "os/mapping.h"
#include "os/sysv.h"

static void clear_stat(pshm_stat *out, pshm_segment_kind kind)
{
    pshm_os_stat_clear(out);
    out->kind = kind;
}

int pshm_segment_stat(pshm_segment *segment, pshm_stat *out)
{
    if (segment->closed)
        return PSHM_ECLOSED;
    clear_stat(out, segment->kind);
    size_t length = strlen(segment->address);
    if (length < sizeof out->address)
        memcpy(out->address, segment->address, length + 1);
    if (segment->id >= 0) {
        int rc = pshm_os_sysv_stat(segment->id, out);
        return rc == -EIDRM && out->size != PSHM_NONE ? 0 : rc; /* marked, but this handle is still attached */
    }
    if (segment->fd >= 0)
        return pshm_os_file_stat(segment->fd, out);
    out->size = (int64_t)segment->size;
    return 0;
}

int pshm_segment_set(pshm_segment *segment, int64_t uid, int64_t gid, uint32_t mode)
{
    if (segment->closed)
        return PSHM_ECLOSED;
    if (mode != PSHM_MODE_UNSET && mode > 0777)
        return PSHM_EMODE;
    if (uid < -1 || uid > UINT32_MAX || gid < -1 || gid > UINT32_MAX)
        return PSHM_EOWNERID;
    if (segment->id >= 0)
        return pshm_os_sysv_set(segment->id, uid, gid, mode);
    if (segment->fd >= 0)
        return pshm_os_file_set(segment->fd, uid, gid, mode);
    return -EOPNOTSUPP;
}

int pshm_segment_identity(pshm_segment *segment, uint64_t *device, uint64_t *inode)
{
    pshm_stat stat;
    if (segment->closed)
        return PSHM_ECLOSED;
    *device = *inode = 0;
    if (segment->id >= 0) {
        *inode = (uint64_t)segment->id;
    } else if (segment->fd >= 0) {
        int rc = pshm_os_file_stat(segment->fd, &stat);
        if (rc)
            return rc;
        *device = (uint64_t)stat.device;
        *inode = (uint64_t)stat.inode;
    }
    return 0;
}

int pshm_segment_unlink(pshm_segment *segment)
{
    pshm_address address;
    pshm_stat mine, named;
    char path[PATH_MAX];
    if (segment->closed)
        return PSHM_ECLOSED;
    if (segment->id >= 0)
        return pshm_os_sysv_remove(segment->id);
    if (segment->kind != PSHM_SEGMENT_POSIX && segment->kind != PSHM_SEGMENT_FILE)
        return 0;
    int rc = pshm_address_parse(segment->address, strlen(segment->address), &address);
    if (!rc)
        rc = pshm_address_path(&address, path);
    if (!rc)
        rc = pshm_os_file_stat(segment->fd, &mine);
    if (!rc)
        rc = pshm_os_path_stat(path, &named);
    if (!rc && (mine.device != named.device || mine.inode != named.inode))
        rc = -ENOENT;
    return rc ? rc : pshm_os_path_unlink(path);
}

/* A new mapping beside the old one, which stays for those who are inside. */
static int map_anew(pshm_body *body, uint64_t map_size)
{
    pshm_retired *old = malloc(sizeof *old);
    if (!old)
        return -ENOMEM;
    void *address = NULL;
    pshm_os_map map = {.fd = body->head.fd,
                       .size = map_size,
                       .offset = body->offset - body->delta,
                       .rights = (body->runs ? body->descriptor_rights : body->head.map_rights) |
                                 (body->exec ? (uint32_t)PSHM_OS_EXEC : 0),
                       .shared = true};
    int rc = pshm_os_map_create(&map, &address);
    pshm_os_watch *watch = rc ? NULL : pshm_os_fault_watch(address, map_size, body->page, &body->head.lost);
    if (rc || !watch) {
        if (!rc)
            pshm_os_unmap(address, map_size);
        free(old);
        return rc ? rc : -ENOMEM;
    }
    for (uint32_t i = 0; body->runs && i < body->runs->count && !rc; i++) {
        const pshm_run *run = &body->runs->run[i];
        uint64_t start = i ? run[-1].end : 0;
        uint32_t rights = run->rights;
        uint64_t run_end = i + 1 == body->runs->count ? map_size : run->end;
        rc = pshm_os_protect((char *)address + start, run_end - start,
                             rights | (rights && body->exec ? (uint32_t)PSHM_OS_EXEC : 0));
    }
    if (!rc && body->locked)
        rc = pshm_os_lock_memory(address, map_size, false);
    if (rc) {
        pshm_os_fault_unwatch(watch);
        pshm_os_unmap(address, map_size);
        free(old);
        return rc;
    }
    *old = (pshm_retired){body->retired, body->map, body->map_size, body->watch};
    body->retired = old;
    body->map = address;
    body->watch = watch;
    return 0;
}

/* The mapping for a new size: in place where it can stay, else where there is room. */
static int remap(pshm_body *body, uint64_t map_size)
{
    if (map_size == body->map_size)
        return 0;
    bool raw = pshm_body_has_raw(body);
    bool grows = map_size > body->map_size;
    void *address = body->map;
    int rc = pshm_os_remap(&address, body->map_size, map_size, !raw);
    if (rc == 0) {
        pshm_os_fault_move(body->watch, address, map_size);
        body->map = address;
    } else if (grows && body->shared) { /* somebody is inside, or protect has cut the mapping in parts */
        rc = map_anew(body, map_size);
    } else if (raw) {
        rc = PSHM_EBUFFERS;
    }
    return rc;
}

/* The runs for a new size: new pages have the rights of the last ones. NULL: no memory. */
static pshm_runs *fit_runs(const pshm_body *body, uint64_t map_size)
{
    size_t size = sizeof *body->runs + body->runs->count * sizeof *body->runs->run;
    pshm_runs *made = malloc(size);
    if (!made)
        return NULL;
    memcpy(made, body->runs, size);
    while (made->count > 1 && made->run[made->count - 2].end >= map_size)
        made->count--;
    made->run[made->count - 1].end = map_size;
    return made;
}

/* Another process may be at the same: what it has made larger stays so. */
static int grow_object(pshm_body *body, uint64_t from, uint64_t to)
{
    int fd = body->head.fd, rc = 0;
    uint64_t now, page;
    if (body->reserve && body->page == pshm_os_page_size()) {
        rc = pshm_os_room_for(fd, to - from);
        if (!rc && (body->head.kind != PSHM_SEGMENT_FILE || pshm_os_file_is_memory(fd)))
            rc = pshm_memory_allows(to - from);
    }
    if (!rc && body->reserve)
        rc = pshm_os_reserve(fd, from, to - from);
    if (!rc && !(rc = pshm_os_file_size(fd, &now, &page)) && now < to)
        rc = pshm_os_truncate(fd, to);
    if (rc && pshm_os_file_size(fd, &now, &page) == 0 && now > from && now <= to)
        pshm_os_truncate(fd, from); /* a reservation may have come halfway */
    return rc;
}

int pshm_segment_resize(pshm_segment *segment, uint64_t size)
{
    pshm_body *body = pshm_body_of(segment);
    if (segment->closed)
        return PSHM_ECLOSED;
    if (segment->fd < 0)
        return -EOPNOTSUPP;
    if (!size)
        return PSHM_EZEROSIZE;
    if (size > PSHM_SIZE_LIMIT - body->offset)
        return PSHM_ETOOBIG;
    if (!(body->descriptor_rights & PSHM_WRITE))
        return PSHM_EREADONLY;
    if (segment->lost)
        return PSHM_ELOST;
    if (size < segment->size && pshm_body_has_raw(body))
        return PSHM_EBUFFERS;
    uint64_t object_size, page, end = body->offset + size, map_size = pshm_round_up(body->delta + size, body->page);
    if (body->page > pshm_os_page_size()) /* hugetlbfs takes whole huge pages */
        end = pshm_round_up(end, body->page);
    int rc = pshm_os_file_size(segment->fd, &object_size, &page);
    pshm_runs *runs = NULL;
    if (!rc && body->runs && !(runs = fit_runs(body, map_size)))
        rc = -ENOMEM;
    if (!rc && end > object_size)
        rc = grow_object(body, object_size, end);
    else if (!rc && end < object_size)
        rc = pshm_os_truncate(segment->fd, end);
    if (!rc)
        rc = remap(body, map_size); /* where this fails, the object keeps its new size: others may use it already */
    if (rc) {
        free(runs);
        return rc;
    }
    if (runs)
        pshm_body_set_runs(body, runs);
    body->map_size = map_size;
    segment->base = body->map + body->delta;
    segment->size = size;
    pshm_body_set_rights(body, segment->map_rights);
    return 0;
}

/* The path or the id behind an address that can be asked without attaching. */
static int resolve(const char *text, size_t length, pshm_address *address, char *path, int *id)
{
    int32_t key;
    int rc = pshm_address_parse(text, length, address);
    *id = -1;
    if (rc)
        return rc;
    switch (address->kind) {
    case PSHM_SEGMENT_POSIX:
    case PSHM_SEGMENT_FILE:
        return pshm_address_path(address, path);
    case PSHM_SEGMENT_FD:
        return 0;
    case PSHM_SEGMENT_SYSV:
        if (address->by == PSHM_SYSV_PRIVATE)
            return -EOPNOTSUPP;
        if (address->by == PSHM_SYSV_ID) {
            *id = address->number;
            return 0;
        }
        rc = pshm_address_key(address, &key);
        if (!rc)
            *id = pshm_os_sysv_find(key);
        return rc ? rc : *id < 0 ? *id : 0;
    default:
        return -EOPNOTSUPP;
    }
}

int pshm_stat_address(const char *text, size_t length, pshm_stat *out)
{
    pshm_address address;
    char path[PATH_MAX];
    int id, rc = resolve(text, length, &address, path, &id);
    if (rc)
        return rc;
    clear_stat(out, address.kind);
    if (length < sizeof out->address)
        memcpy(out->address, text, length);
    if (id >= 0) {
        rc = pshm_os_sysv_stat(id, out);
        return rc == -EINVAL ? -ENOENT : rc;
    }
    if (address.kind == PSHM_SEGMENT_FD)
        return pshm_os_file_stat(address.number, out);
    return pshm_os_path_stat(path, out);
}

int pshm_exists(const char *text, size_t length)
{
    pshm_stat stat;
    int rc = pshm_stat_address(text, length, &stat);
    if (rc == -ENOENT || rc == -EIDRM || rc == -EBADF || rc == -ENOTDIR)
        return 0;
    return rc ? rc : 1;
}

int pshm_unlink(const char *text, size_t length)
{
    pshm_address address;
    char path[PATH_MAX];
    int id, rc = resolve(text, length, &address, path, &id);
    if (rc)
        return rc;
    if (id >= 0) {
        rc = pshm_os_sysv_remove(id);
        return rc == -EINVAL ? -ENOENT : rc;
    }
    return address.kind == PSHM_SEGMENT_FD ? -EOPNOTSUPP : pshm_os_path_unlink(path);
}

typedef struct listing {
    pshm_stat *all;
    size_t count, room;
} listing;

static int add_found(listing *list, pshm_segment_kind kind, const pshm_stat *found, const char *name)
{
    if (list->count == list->room) {
        size_t room = list->room ? 2 * list->room : 16;
        pshm_stat *more = realloc(list->all, room * sizeof *more);
        if (!more)
            return -ENOMEM;
        list->all = more;
        list->room = room;
    }
    pshm_stat *item = &list->all[list->count++];
    *item = *found;
    item->kind = kind;
    if (kind == PSHM_SEGMENT_POSIX)
        snprintf(item->address, sizeof item->address, "posix:/%s", name);
    else if (found->key)
        snprintf(item->address, sizeof item->address, "sysv:0x%08x", (unsigned)found->key);
    else
        snprintf(item->address, sizeof item->address, "sysv:id=%d", (int)found->id);
    return 0;
}

static int found_posix(void *context, const char *name, const pshm_stat *found)
{
    return add_found(context, PSHM_SEGMENT_POSIX, found, name);
}

static int found_sysv(void *context, const pshm_stat *found)
{
    return add_found(context, PSHM_SEGMENT_SYSV, found, NULL);
}

int pshm_list(pshm_stat **out, size_t *count)
{
    listing list = {0};
    int rc = pshm_os_posix_each(found_posix, &list);
    if (rc == -ENOENT) /* no /dev/shm mounted: no POSIX segments */
        rc = 0;
    if (!rc) {
        rc = pshm_os_sysv_each(found_sysv, &list);
        if (rc == -ENOENT) /* no /proc, or a kernel without System V */
            rc = 0;
    }
    if (rc) {
        free(list.all);
        return rc;
    }
    *out = list.all;
    *count = list.count;
    return 0;
}

void pshm_list_free(pshm_stat *list)
{
    free(list);
}
