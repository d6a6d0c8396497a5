/* SPDX-License-Identifier: MIT
 *
 * From an address to the object behind it: opening what exists, creating what does not.
 */
#include "core/opening.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>

#include "core/segment.h"
#include "os/file.h"
#include "os/mapping.h"
#include "os/memory.h"
#include "os/sysv.h"

/* Below this a reservation passes without asking how much memory there is. */
#define ASK_ABOVE (UINT64_C(16) << 20)

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

/* The size that creation gives the object: the window is its end. */
static int creation_size(const pshm_opening *o, uint64_t *size)
{
    if (o->options.size == PSHM_UNSET)
        return PSHM_ENOSIZE;
    *size = o->options.offset + o->options.size;
    if (o->hugepage)
        *size = pshm_round_up(*size, o->hugepage);
    return 0;
}

static uint32_t creation_mode(const pshm_opening *o)
{
    return o->options.mode == PSHM_MODE_UNSET ? 0600 : o->options.mode;
}

/* Gives a new descriptor its size, and takes the memory. */
static int size_descriptor(const pshm_opening *o, int fd, uint64_t size, bool memory)
{
    if (!o->options.reserve)
        return pshm_os_truncate(fd, size);
    int rc = size >= ASK_ABOVE && !o->hugepage ? pshm_os_room_for(fd, size) : 0;
    if (!rc && memory && !o->hugepage) /* huge pages are a pool of their own */
        rc = pshm_memory_allows(size);
    return rc ? rc : pshm_os_reserve(fd, 0, size);
}

/* Makes the file, without its name: that comes when all else is done. */
static int create_file(pshm_opening *o)
{
    uint64_t size;
    int rc = creation_size(o, &size);
    if (rc)
        return rc;
    if (o->options.exclusive && size >= ASK_ABOVE && pshm_os_path_exists(o->path))
        return -EEXIST; /* before the memory is taken for nothing */
    rc = pshm_os_draft_begin(o->path, creation_mode(o), o->options.inherit, &o->draft);
    if (rc)
        return rc;
    o->fd = o->draft.fd;
    o->drafted = true;
    o->created = true;
    o->descriptor_rights = PSHM_READ | PSHM_WRITE;
    o->object_size = size;
    return size_descriptor(o, o->fd, size, o->address.kind == PSHM_SEGMENT_POSIX || pshm_os_file_is_memory(o->fd));
}

static int open_file(pshm_opening *o)
{
    const pshm_options *options = &o->options;
    bool write = options->access == PSHM_ACCESS_RW || options->access == PSHM_ACCESS_NONE;
    bool nofollow = o->address.kind == PSHM_SEGMENT_POSIX;
    int fd = pshm_os_file_open(o->path, write, nofollow, options->inherit);
    if (fd == -EACCES && options->access == PSHM_ACCESS_NONE) { /* protect may give reading later */
        write = false;
        fd = pshm_os_file_open(o->path, false, nofollow, options->inherit);
    }
    if (fd < 0)
        return fd;
    o->descriptor_rights = PSHM_READ | (write ? (uint32_t)PSHM_WRITE : 0);
    o->fd = fd;
    return pshm_os_file_size(fd, &o->object_size, &o->page);
}

static int reach_file(pshm_opening *o)
{
    int rc = pshm_address_path(&o->address, o->path);
    if (rc)
        return rc;
    if (!o->options.exclusive) {
        rc = open_file(o);
        if (rc != -ENOENT || !o->options.create)
            return rc;
    }
    return create_file(o);
}

static int create_sysv(pshm_opening *o, int32_t key)
{
    uint64_t size;
    int rc = creation_size(o, &size);
    if (!rc && o->options.reserve && !o->hugepage)
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

static int open_sysv(pshm_opening *o, int32_t id)
{
    pshm_stat stat;
    int rc = pshm_os_sysv_stat(id, &stat);
    if (rc)
        return rc == -EINVAL ? -ENOENT : rc;
    o->id = id;
    o->object_size = (uint64_t)stat.size;
    o->page = pshm_os_page_size(); /* whatever the options say: it is there already */
    return 0;
}

static int reach_sysv(pshm_opening *o)
{
    int32_t key;
    if (o->address.by == PSHM_SYSV_PRIVATE)
        return create_sysv(o, PSHM_OS_SYSV_PRIVATE);
    if (o->address.by == PSHM_SYSV_ID)
        return open_sysv(o, o->address.number);
    int rc = pshm_address_key(&o->address, &key);
    if (rc)
        return rc;
    if (!o->options.exclusive) {
        int id = pshm_os_sysv_find(key);
        rc = id < 0 ? id : open_sysv(o, id);
        if ((rc != -ENOENT && rc != -EIDRM) || !o->options.create)
            return rc;
    }
    return create_sysv(o, key);
}

static int reach_memfd(pshm_opening *o)
{
    uint64_t size;
    int rc = creation_size(o, &size);
    if (rc)
        return rc;
    int fd = pshm_os_memfd(o->address.name, o->options.inherit, o->options.exec, o->hugepage);
    if (fd < 0)
        return fd;
    o->fd = fd;
    o->created = true;
    o->descriptor_rights = PSHM_READ | PSHM_WRITE;
    o->object_size = size;
    rc = size_descriptor(o, fd, size, true);
    if (!rc)
        rc = pshm_os_file_set(fd, -1, -1, creation_mode(o));
    return rc ? rc : pshm_os_seal_shrink(fd);
}

static int reach_fd(pshm_opening *o)
{
    int fd = pshm_os_duplicate(o->address.number, o->options.inherit);
    if (fd < 0)
        return fd;
    o->fd = fd;
    int rc = pshm_os_file_size(fd, &o->object_size, &o->page);
    return rc ? rc : pshm_os_file_rights(fd, &o->descriptor_rights);
}

static int reach_nameless(pshm_opening *o)
{
    uint64_t size;
    int rc = creation_size(o, &size);
    if (!rc && o->options.reserve && !o->hugepage)
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

int pshm_reach(pshm_opening *o)
{
    o->fd = o->id = -1;
    o->created = o->drafted = false;
    o->page = o->hugepage ? o->hugepage : pshm_os_page_size();
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

int pshm_publish(pshm_opening *o)
{
    if (!o->drafted)
        return 0;
    int rc = pshm_os_draft_publish(&o->draft, o->path);
    o->drafted = rc != 0;
    return rc;
}

/* A System V id may be gone before it is attached, also one that was just made: then there was nothing. */
static bool was_removed(const pshm_opening *o, int rc)
{
    pshm_stat stat;
    if (o->id < 0 || (rc != -EINVAL && rc != -EIDRM))
        return false;
    rc = pshm_os_sysv_stat(o->id, &stat);
    return rc == -EINVAL || rc == -EIDRM;
}

bool pshm_lost_race(const pshm_opening *o, int rc)
{
    if (o->address.kind == PSHM_SEGMENT_SYSV)
        return (rc == -EEXIST && !o->options.exclusive) || (o->address.by != PSHM_SYSV_ID && was_removed(o, rc));
    /* A symbolic link that leads nowhere is there and not there, however often one looks. */
    return rc == -EEXIST && o->drafted && !o->options.exclusive && !pshm_os_path_is_link(o->path);
}

void pshm_unreach(pshm_opening *o)
{
    if (o->created && o->id >= 0)
        pshm_os_sysv_remove(o->id);
    if (o->drafted)
        pshm_os_draft_forget(&o->draft);
    if (o->fd >= 0)
        pshm_os_close(o->fd);
}
