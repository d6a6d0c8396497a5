/* SPDX-License-Identifier: MIT
 *
 * Opening and creating segments of every kind, and mapping them.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/segment.h"
#include "os/file.h"
#include "os/mapping.h"
#include "os/memory.h"
#include "os/sysv.h"

/* Below this a reservation passes without asking how much memory there is. */
#define ASK_ABOVE (UINT64_C(16) << 20)

/* How often a lost race (it was there, it is gone, it is there again) is run again. */
#define RACES 100

/* What is being opened, until it is a body. */
typedef struct opening {
    pshm_address address;
    pshm_options options;
    int fd;
    int32_t id;
    bool created;
    uint64_t object_size; /* PSHM_UNSET: without an end */
    uint64_t hugepage;
    uint32_t rights; /* PSHM_OS_... of the mapping */
    uint32_t descriptor_rights;
} opening;

int pshm_memory_allows(uint64_t size)
{
    return size >= ASK_ABOVE && size > pshm_os_memory_available() ? -ENOMEM : 0;
}

int pshm_address_path(const pshm_address *address, char *path)
{
    int length = snprintf(path, PATH_MAX, "%s%s", address->kind == PSHM_SEGMENT_POSIX ? PSHM_OS_POSIX_DIR : "",
                          address->name);
    return length < 0 || length >= PATH_MAX ? -ENAMETOOLONG : 0;
}

int pshm_address_key(const pshm_address *address, int32_t *key)
{
    if (address->by == PSHM_SYSV_FTOK)
        return pshm_os_sysv_ftok(address->name, address->number, key);
    *key = address->number;
    return 0;
}

static bool has_descriptor(pshm_segment_kind kind)
{
    return kind == PSHM_SEGMENT_POSIX || kind == PSHM_SEGMENT_FILE || kind == PSHM_SEGMENT_MEMFD ||
           kind == PSHM_SEGMENT_FD;
}

static bool always_creates(const pshm_address *address)
{
    return address->kind == PSHM_SEGMENT_ANON || address->kind == PSHM_SEGMENT_ZERO ||
           address->kind == PSHM_SEGMENT_MEMFD ||
           (address->kind == PSHM_SEGMENT_SYSV && address->by == PSHM_SYSV_PRIVATE);
}

static int check_options(opening *o)
{
    const pshm_options *options = &o->options;
    pshm_segment_kind kind = o->address.kind;
    if (options->size == 0)
        return PSHM_EZEROSIZE;
    if (options->offset > PSHM_SIZE_LIMIT ||
        (options->size != PSHM_UNSET && options->size > PSHM_SIZE_LIMIT - options->offset))
        return PSHM_ETOOBIG;
    if (options->mode != PSHM_MODE_UNSET && options->mode > 0777)
        return PSHM_EMODE;
    if (options->hugepages) {
        if (kind == PSHM_SEGMENT_POSIX || kind == PSHM_SEGMENT_FILE || kind == PSHM_SEGMENT_FD)
            return -EOPNOTSUPP;
        o->hugepage = options->hugepages == 1 ? pshm_os_hugepage_default() : options->hugepages;
        if (!o->hugepage)
            return -EOPNOTSUPP;
        if (o->hugepage & (o->hugepage - 1))
            return PSHM_EOPTION;
    }
    if (options->offset && (kind == PSHM_SEGMENT_ANON || kind == PSHM_SEGMENT_ZERO))
        return PSHM_EOFFSET;
    if (kind == PSHM_SEGMENT_SYSV && options->access == PSHM_ACCESS_COPY)
        return -EOPNOTSUPP;
    if (kind == PSHM_SEGMENT_FD && options->exclusive)
        return PSHM_EOPTION;
    if (kind == PSHM_SEGMENT_SYSV && o->address.by == PSHM_SYSV_ID && options->exclusive)
        return PSHM_EOPTION;
    return 0;
}

/* The size that creation gives the object: the window is its end. */
static int creation_size(const opening *o, uint64_t *size)
{
    if (o->options.size == PSHM_UNSET)
        return PSHM_ENOSIZE;
    *size = o->options.offset + o->options.size;
    if (o->hugepage)
        *size = pshm_round_up(*size, o->hugepage);
    return 0;
}

static uint32_t creation_mode(const opening *o)
{
    return o->options.mode == PSHM_MODE_UNSET ? 0600 : o->options.mode;
}

/* Gives a new descriptor its size, and takes the memory. */
static int size_descriptor(const opening *o, int fd, uint64_t size, bool memory)
{
    if (!o->options.reserve)
        return pshm_os_truncate(fd, size);
    int rc = memory ? pshm_memory_allows(size) : 0;
    return rc ? rc : pshm_os_reserve(fd, 0, size);
}

static int create_file(opening *o, const char *path)
{
    pshm_os_draft draft;
    uint64_t size;
    int rc = creation_size(o, &size);
    if (rc)
        return rc;
    rc = pshm_os_draft_begin(path, creation_mode(o), o->options.inherit, &draft);
    if (rc)
        return rc;
    rc = size_descriptor(o, draft.fd, size,
                         o->address.kind == PSHM_SEGMENT_POSIX || pshm_os_file_is_memory(draft.fd));
    if (!rc)
        rc = pshm_os_draft_publish(&draft, path);
    if (rc) {
        pshm_os_draft_drop(&draft);
        return rc;
    }
    o->fd = draft.fd;
    o->descriptor_rights = PSHM_READ | PSHM_WRITE;
    o->object_size = size;
    o->created = true;
    return 0;
}

static int open_file(opening *o, const char *path)
{
    const pshm_options *options = &o->options;
    bool write = options->access == PSHM_ACCESS_RW || options->access == PSHM_ACCESS_NONE;
    bool nofollow = o->address.kind == PSHM_SEGMENT_POSIX;
    int fd = pshm_os_file_open(path, write, nofollow, options->inherit);
    if (fd == -EACCES && options->access == PSHM_ACCESS_NONE) { /* protect may give reading later */
        write = false;
        fd = pshm_os_file_open(path, false, nofollow, options->inherit);
    }
    if (fd < 0)
        return fd;
    o->descriptor_rights = PSHM_READ | (write ? (uint32_t)PSHM_WRITE : 0);
    int rc = pshm_os_file_size(fd, &o->object_size);
    if (rc)
        pshm_os_close(fd);
    else
        o->fd = fd;
    return rc;
}

static int reach_file(opening *o)
{
    char path[PATH_MAX];
    int rc = pshm_address_path(&o->address, path);
    for (int race = 0; !rc && race < RACES; race++) {
        if (!o->options.exclusive) {
            int opened = open_file(o, path);
            if (opened != -ENOENT || !o->options.create)
                return opened;
        }
        int made = create_file(o, path);
        if (made != -EEXIST || o->options.exclusive)
            return made;
    }
    return rc ? rc : -EAGAIN;
}

static int create_sysv(opening *o, int32_t key)
{
    uint64_t size;
    int rc = creation_size(o, &size);
    if (!rc && o->options.reserve)
        rc = pshm_memory_allows(size);
    if (rc)
        return rc;
    int id = pshm_os_sysv_create(key, size, creation_mode(o), !o->options.reserve, o->hugepage);
    if (id < 0)
        return id;
    o->id = id;
    o->object_size = size;
    o->created = true;
    return 0;
}

static int open_sysv(opening *o, int32_t id)
{
    pshm_stat stat;
    int rc = pshm_os_sysv_stat(id, &stat);
    if (rc)
        return rc == -EINVAL ? -ENOENT : rc;
    o->id = id;
    o->object_size = (uint64_t)stat.size;
    return 0;
}

static int reach_sysv(opening *o)
{
    int32_t key;
    if (o->address.by == PSHM_SYSV_PRIVATE)
        return create_sysv(o, PSHM_OS_SYSV_PRIVATE);
    if (o->address.by == PSHM_SYSV_ID)
        return open_sysv(o, o->address.number);
    int rc = pshm_address_key(&o->address, &key);
    for (int race = 0; !rc && race < RACES; race++) {
        if (!o->options.exclusive) {
            int id = pshm_os_sysv_find(key);
            int opened = id < 0 ? id : open_sysv(o, id);
            if (opened != -ENOENT && !(opened == -EIDRM && o->options.create))
                return opened;
            if (!o->options.create)
                return opened;
        }
        int made = create_sysv(o, key);
        if (made != -EEXIST || o->options.exclusive)
            return made;
    }
    return rc ? rc : -EAGAIN;
}

static int reach_memfd(opening *o)
{
    uint64_t size;
    int rc = creation_size(o, &size);
    if (rc)
        return rc;
    int fd = pshm_os_memfd(o->address.name, o->options.inherit, o->options.exec, o->hugepage);
    if (fd < 0)
        return fd;
    rc = size_descriptor(o, fd, size, true);
    if (!rc && o->options.mode != PSHM_MODE_UNSET)
        rc = pshm_os_file_set(fd, -1, -1, o->options.mode);
    if (!rc)
        rc = pshm_os_seal_shrink(fd);
    if (rc) {
        pshm_os_close(fd);
        return rc;
    }
    o->fd = fd;
    o->descriptor_rights = PSHM_READ | PSHM_WRITE;
    o->object_size = size;
    o->created = true;
    return 0;
}

static int reach_fd(opening *o)
{
    int fd = pshm_os_duplicate(o->address.number, o->options.inherit);
    if (fd < 0)
        return fd;
    int rc = pshm_os_file_size(fd, &o->object_size);
    if (!rc)
        rc = pshm_os_file_rights(fd, &o->descriptor_rights);
    if (rc)
        pshm_os_close(fd);
    else
        o->fd = fd;
    return rc;
}

static int reach_nameless(opening *o)
{
    uint64_t size;
    int rc = creation_size(o, &size);
    if (!rc && o->options.reserve)
        rc = pshm_memory_allows(size);
    if (rc)
        return rc;
    if (o->address.kind == PSHM_SEGMENT_ZERO && !o->hugepage) {
        int fd = pshm_os_file_open("/dev/zero", true, false, false);
        if (fd < 0)
            return fd;
        o->fd = fd;
    }
    o->object_size = size;
    o->created = true;
    return 0;
}

static int reach(opening *o)
{
    switch (o->address.kind) {
    case PSHM_SEGMENT_POSIX:
    case PSHM_SEGMENT_FILE:
        return reach_file(o);
    case PSHM_SEGMENT_SYSV:
        return reach_sysv(o);
    case PSHM_SEGMENT_MEMFD:
        return reach_memfd(o);
    case PSHM_SEGMENT_FD:
        return reach_fd(o);
    default:
        return reach_nameless(o);
    }
}

/* Undoes what `reach` made, unless somebody else made it. */
static void unreach(opening *o)
{
    char path[PATH_MAX];
    if (o->created && o->id >= 0)
        pshm_os_sysv_remove(o->id);
    if (o->created && (o->address.kind == PSHM_SEGMENT_POSIX || o->address.kind == PSHM_SEGMENT_FILE) &&
        pshm_address_path(&o->address, path) == 0)
        pshm_os_path_unlink(path);
    if (o->fd >= 0)
        pshm_os_close(o->fd);
}

/* The window's size, once the object's is known. */
static int fit_window(const opening *o, uint64_t *size)
{
    uint64_t offset = o->options.offset, end = o->object_size;
    if (end == PSHM_UNSET) /* a character device */
        end = o->options.size == PSHM_UNSET ? 0 : offset + o->options.size;
    if (!end)
        return PSHM_EZEROSIZE;
    if (offset > end || (o->options.size != PSHM_UNSET && o->options.size > end - offset))
        return PSHM_EWINDOW;
    *size = o->options.size == PSHM_UNSET ? end - offset : o->options.size;
    return *size ? 0 : PSHM_EZEROSIZE;
}

static int map_memory(const opening *o, pshm_body *body)
{
    const pshm_options *options = &o->options;
    pshm_os_map map = {.fd = o->fd,
                       .size = body->map_size,
                       .offset = options->offset - body->delta,
                       .at = options->round ? options->at & ~(body->page - 1) : options->at,
                       .hugepage = o->fd < 0 ? o->hugepage : 0,
                       .rights = o->rights,
                       .shared = body->shared,
                       .populate = options->populate && options->access != PSHM_ACCESS_NONE,
                       .noreserve = !options->reserve};
    void *address = NULL;
    int rc = pshm_os_map_create(&map, &address);
    body->map = address;
    return rc;
}

static int attach_sysv(const opening *o, pshm_body *body)
{
    const pshm_options *options = &o->options;
    void *address = NULL;
    int rc = pshm_os_sysv_attach(o->id, options->at, options->round, options->access == PSHM_ACCESS_R, options->exec,
                                 &address);
    if (rc)
        return rc;
    body->attached = true;
    body->map = address;
    if (options->access == PSHM_ACCESS_NONE)
        rc = pshm_os_protect(address, body->map_size, 0);
    else if (options->populate)
        rc = pshm_os_populate(address, body->map_size, options->access == PSHM_ACCESS_RW);
    if (rc)
        pshm_os_sysv_detach(address);
    return rc;
}

static void describe(const opening *o, pshm_body *body, const char *address, size_t length)
{
    pshm_segment *head = &body->head;
    memcpy(body->text, address, length);
    body->text[length] = '\0';
    head->address = body->text;
    head->name = strchr(body->text, ':') + 1;
    head->kind = o->address.kind;
    head->fd = has_descriptor(o->address.kind) ? o->fd : -1;
    head->id = o->id;
    head->created = o->created;
    head->readonly = o->options.access == PSHM_ACCESS_R;
    body->descriptor_rights = o->descriptor_rights;
    body->serial = o->options.serial;
    body->exec = o->options.exec;
    body->reserve = o->options.reserve != 0;
    body->references = 2; /* the caller's, and the mapping's own */
}

/* Maps the window and makes the body whole; on failure nothing of it is left. */
static int make_body(opening *o, const char *address, size_t length, pshm_segment **out)
{
    uint64_t size;
    int rc = fit_window(o, &size);
    if (rc)
        return rc;
    pshm_body *body = calloc(1, sizeof *body + length + 1);
    if (!body)
        return -ENOMEM;
    body->page = o->hugepage ? o->hugepage : pshm_os_page_size();
    body->offset = o->options.offset;
    /* shmat maps all of it, mmap from the page that the window begins in. */
    body->delta = o->id >= 0 ? body->offset : body->offset & (body->page - 1);
    body->map_size = pshm_round_up(o->id >= 0 ? o->object_size : body->delta + size, body->page);
    body->shared = o->options.access != PSHM_ACCESS_COPY;
    body->head.size = size;
    describe(o, body, address, length);
    rc = o->id >= 0 ? attach_sysv(o, body) : map_memory(o, body);
    if (rc) {
        free(body);
        return rc;
    }
    if (o->options.locked)
        rc = pshm_os_lock_memory(body->map, body->map_size, false);
    if (!rc) {
        body->watch = pshm_os_fault_watch(body->map, body->map_size, body->page, &body->head.lost);
        rc = body->watch ? 0 : -ENOMEM;
    }
    if (rc) {
        if (body->attached)
            pshm_os_sysv_detach(body->map);
        else
            pshm_os_unmap(body->map, body->map_size);
        free(body);
        return rc;
    }
    if (o->address.kind == PSHM_SEGMENT_ZERO && o->fd >= 0)
        pshm_os_close(o->fd); /* the mapping has it */
    body->head.base = body->map + body->delta;
    pshm_body_set_rights(body, o->rights & (PSHM_READ | PSHM_WRITE));
    *out = &body->head;
    return 0;
}

int pshm_segment_open(const char *address, size_t length, const pshm_options *options, pshm_segment **out)
{
    static const uint32_t rights[] = {[PSHM_ACCESS_RW] = PSHM_OS_READ | PSHM_OS_WRITE,
                                      [PSHM_ACCESS_R] = PSHM_OS_READ,
                                      [PSHM_ACCESS_COPY] = PSHM_OS_READ | PSHM_OS_WRITE,
                                      [PSHM_ACCESS_NONE] = 0};
    opening o = {.options = PSHM_OPTIONS_INIT, .fd = -1, .id = -1};
    int rc = pshm_address_parse(address, length, &o.address);
    if (rc)
        return rc;
    if (options)
        o.options = *options;
    if (o.options.reserve < 0)
        o.options.reserve = 1;
    if (o.options.exclusive)
        o.options.create = true;
    if (always_creates(&o.address))
        o.options.create = true;
    if ((unsigned)o.options.access > PSHM_ACCESS_NONE)
        return PSHM_EACCESSNAME;
    o.rights = rights[o.options.access];
    if (o.options.exec && o.options.access != PSHM_ACCESS_NONE)
        o.rights |= PSHM_OS_EXEC;
    rc = check_options(&o);
    if (!rc)
        rc = reach(&o);
    if (rc)
        return rc;
    rc = make_body(&o, address, length, out);
    if (rc)
        unreach(&o);
    return rc;
}
