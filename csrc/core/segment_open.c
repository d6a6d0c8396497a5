/* SPDX-License-Identifier: MIT
 *
 * Opening a segment: checks the options, reaches the object, maps the window.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/opening.h"
#include "core/segment.h"
#include "os/file.h"
#include "os/mapping.h"
#include "os/memory.h"
#include "os/sysv.h"

/* How often a lost race is run again. */
#define RACES 100

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

static int check_options(pshm_opening *o)
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
            return PSHM_EHUGEPAGES;
    }
    if (options->at && options->round && options->at < pshm_os_page_size())
        return -EINVAL; /* it would be 0, which means anywhere */
    if (options->offset && (kind == PSHM_SEGMENT_ANON || kind == PSHM_SEGMENT_ZERO))
        return PSHM_EOFFSET;
    if (kind == PSHM_SEGMENT_SYSV && options->access == PSHM_ACCESS_COPY)
        return -EOPNOTSUPP;
    if (kind == PSHM_SEGMENT_FD && options->exclusive)
        return PSHM_EEXCLUSIVE;
    if (kind == PSHM_SEGMENT_SYSV && o->address.by == PSHM_SYSV_ID && options->exclusive)
        return PSHM_EEXCLUSIVE;
    return 0;
}

/* The window's size, once the object's is known. */
static int fit_window(const pshm_opening *o, uint64_t *size)
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

static int map_memory(const pshm_opening *o, pshm_body *body)
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

static int attach_sysv(const pshm_opening *o, pshm_body *body)
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

static void describe(const pshm_opening *o, pshm_body *body, const char *address, size_t length)
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
    body->locked = o->options.locked;
    body->references = 2; /* the caller's, and the mapping's own */
}

/* Maps the window and makes the body whole; on failure nothing of it is left. */
static int make_body(pshm_opening *o, const char *address, size_t length, pshm_segment **out)
{
    uint64_t size;
    int rc = fit_window(o, &size);
    if (rc)
        return rc;
    pshm_body *body = calloc(1, sizeof *body + length + 1);
    if (!body)
        return -ENOMEM;
    body->page = o->page;
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
    if (!rc && body->serial) {
        rc = pshm_body_hook(body);
        if (rc)
            pshm_os_fault_unwatch(body->watch);
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
    return pshm_segment_open_prepared(address, length, options, NULL, NULL, out);
}

int pshm_segment_open_prepared(const char *address, size_t length, const pshm_options *options,
                               int (*prepare)(void *context, pshm_segment *segment), void *context, pshm_segment **out)
{
    static const uint32_t rights[] = {[PSHM_ACCESS_RW] = PSHM_OS_READ | PSHM_OS_WRITE,
                                      [PSHM_ACCESS_R] = PSHM_OS_READ,
                                      [PSHM_ACCESS_COPY] = PSHM_OS_READ | PSHM_OS_WRITE,
                                      [PSHM_ACCESS_NONE] = 0};
    pshm_opening o; /* three paths long, so not cleared */
    int rc = pshm_address_parse(address, length, &o.address);
    if (rc)
        return rc;
    o.options = options ? *options : (pshm_options)PSHM_OPTIONS_INIT;
    o.hugepage = 0;
    o.object_size = 0;
    o.descriptor_rights = 0;
    if (o.options.reserve < 0)
        o.options.reserve = 1;
    if (o.options.exclusive || always_creates(&o.address))
        o.options.create = true;
    if ((unsigned)o.options.access > PSHM_ACCESS_NONE)
        return PSHM_EACCESSNAME;
    o.rights = rights[o.options.access];
    if (o.options.exec && o.options.access != PSHM_ACCESS_NONE)
        o.rights |= PSHM_OS_EXEC;
    rc = check_options(&o);
    if (rc)
        return rc;
    for (int race = 0;; race++) {
        pshm_segment *made = NULL;
        rc = pshm_reach(&o);
        if (!rc)
            rc = make_body(&o, address, length, &made);
        if (!rc && prepare && o.created)
            rc = prepare(context, made);
        if (!rc)
            rc = pshm_publish(&o);
        if (!rc) {
            *out = made;
            return 0;
        }
        bool again = race < RACES && pshm_lost_race(&o, rc);
        if (made) {
            o.fd = -1; /* the segment has it */
            pshm_segment_release(made);
        }
        pshm_unreach(&o);
        if (!again)
            return rc;
    }
}
