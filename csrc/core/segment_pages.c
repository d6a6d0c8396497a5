/* SPDX-License-Identifier: MIT
 *
 * What works on whole pages: flush, protect, advise, pin.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/segment.h"
#include "os/mapping.h"
#include "os/sysv.h"

/* A range of pages, in bytes from the mapping's start. */
typedef struct pages {
    uint64_t start, end;
} pages;

static int check_range(const pshm_segment *segment, uint64_t offset, uint64_t size)
{
    if (segment->closed)
        return PSHM_ECLOSED;
    return offset > segment->size || size > segment->size - offset ? PSHM_EBOUNDS : 0;
}

static pages pages_around(const pshm_body *body, uint64_t offset, uint64_t size)
{
    uint64_t first = body->delta + offset;
    pages range = {first & ~(body->page - 1), pshm_round_up(first + size, body->page)};
    if (!size)
        range.end = range.start;
    return range;
}

/* The last page of the object belongs to it wholly, though the window may end inside. */
static pages pages_inside(const pshm_body *body, uint64_t offset, uint64_t size)
{
    uint64_t first = body->delta + offset;
    pages range = {pshm_round_up(first, body->page), (first + size) & ~(body->page - 1)};
    if (range.end < range.start)
        range.end = range.start;
    return range;
}

int pshm_segment_flush(pshm_segment *segment, uint64_t offset, uint64_t size, bool wait, bool invalidate)
{
    pshm_body *body = pshm_body_of(segment);
    int rc = check_range(segment, offset, size);
    if (rc)
        return rc;
    pages range = pages_around(body, offset, size);
    return pshm_os_sync(body->map + range.start, range.end - range.start, wait, invalidate);
}

/* The runs with `range` set to `rights`: at most two more than before. NULL: no memory. */
static pshm_runs *cut_runs(const pshm_body *body, pages range, uint32_t rights)
{
    const pshm_run whole = {body->map_size, body->head.map_rights};
    const pshm_run *old = body->runs ? body->runs->run : &whole;
    uint32_t old_count = body->runs ? body->runs->count : 1, n = 0;
    pshm_runs *made = malloc(sizeof *made + (old_count + 2) * sizeof *made->run);
    if (!made)
        return NULL;
    uint64_t from = 0;
    for (uint32_t i = 0; i < old_count; from = old[i].end, i++) {
        const pshm_run parts[] = {
            {range.start < old[i].end ? range.start : old[i].end, old[i].rights},
            {range.end < old[i].end ? range.end : old[i].end, rights},
            {old[i].end, old[i].rights},
        };
        uint64_t at = from;
        for (int part = 0; part < 3; part++) {
            if (parts[part].end <= at)
                continue;
            at = parts[part].end;
            if (n && made->run[n - 1].rights == parts[part].rights)
                made->run[n - 1].end = at;
            else
                made->run[n++] = parts[part];
        }
    }
    made->count = n;
    return made;
}

static bool takes_away(const pshm_body *body, pages range, uint32_t rights)
{
    uint64_t from = 0;
    if (!body->runs)
        return (body->head.map_rights & ~rights) != 0;
    for (uint32_t i = 0; i < body->runs->count; from = body->runs->run[i].end, i++)
        if (from < range.end && body->runs->run[i].end > range.start && (body->runs->run[i].rights & ~rights))
            return true;
    return false;
}

static int set_rights_of_pages(const pshm_body *body, pages range, uint32_t rights)
{
    return pshm_os_protect(body->map + range.start, range.end - range.start,
                           rights | (rights && body->exec ? (uint32_t)PSHM_OS_EXEC : 0));
}

/* mprotect may fail halfway: gives the pages the rights back that the runs say they have. */
static int restore_rights(const pshm_body *body, pages range)
{
    const pshm_run whole = {body->map_size, body->head.map_rights};
    const pshm_run *run = body->runs ? body->runs->run : &whole;
    uint32_t count = body->runs ? body->runs->count : 1;
    uint64_t from = 0;
    int rc = 0;
    for (uint32_t i = 0; i < count && !rc; from = run[i].end, i++) {
        pages part = {range.start > from ? range.start : from, range.end < run[i].end ? range.end : run[i].end};
        if (part.start < part.end)
            rc = set_rights_of_pages(body, part, run[i].rights);
    }
    return rc;
}

static void install_runs(pshm_body *body, pshm_runs *runs)
{
    if (runs->count > 1) {
        pshm_body_set_runs(body, runs);
        pshm_body_set_rights(body, 0);
        return;
    }
    uint32_t rights = runs->run[0].rights;
    free(runs);
    pshm_body_set_runs(body, NULL);
    pshm_body_set_rights(body, rights);
}

int pshm_segment_protect(pshm_segment *segment, pshm_access access, uint64_t offset, uint64_t size)
{
    pshm_body *body = pshm_body_of(segment);
    if (access != PSHM_ACCESS_RW && access != PSHM_ACCESS_R && access != PSHM_ACCESS_NONE)
        return PSHM_EACCESSNAME;
    uint32_t rights = access == PSHM_ACCESS_RW ? PSHM_READ | PSHM_WRITE : access == PSHM_ACCESS_R ? PSHM_READ : 0;
    int rc = check_range(segment, offset, size);
    if (rc || !size)
        return rc;
    pages range = pages_around(body, offset, size);
    if (pshm_body_has_raw(body) && takes_away(body, range, rights))
        return PSHM_EBUFFERS;
    pshm_runs *runs = cut_runs(body, range, rights);
    pshm_runs *nothing = cut_runs(body, range, 0);
    if (!runs || !nothing) {
        free(runs);
        free(nothing);
        return -ENOMEM;
    }
    rc = set_rights_of_pages(body, range, rights);
    if (!rc) {
        free(nothing);
        install_runs(body, runs);
        return 0;
    }
    free(runs);
    if (restore_rights(body, range))
        install_runs(body, nothing); /* nobody knows what the pages may do now: we do not touch them */
    else
        free(nothing);
    return rc;
}

/* Where the child has no pages, nobody else's mapping may come to lie: whoever still has a handle believes them his. */
static void fill_holes(unsigned char *start, uint64_t size, uint64_t page)
{
    pshm_os_map map = {.fd = -1, .size = size, .at = (uint64_t)(uintptr_t)start, .noreserve = true};
    void *address;
    if (pshm_os_map_create(&map, &address) == 0 || size <= page)
        return;
    uint64_t half = pshm_round_up(size / 2, page);
    fill_holes(start, half, page);
    fill_holes(start + half, size - half, page);
}

static void in_child(pshm_os_fork_hook *hook)
{
    pshm_body *body = (pshm_body *)((char *)hook - offsetof(pshm_body, fork_hook));
    if (body->serial) /* the calls under way were other threads', and those are not here */
        body->users &= ~PSHM_BODY_RAW_MASK;
    if (!body->dontfork)
        return;
    body->ghost = true;
    fill_holes(body->map, body->map_size, body->page);
    pshm_body_set_runs(body, NULL);
    pshm_body_set_rights(body, 0);
}

int pshm_body_hook(pshm_body *body)
{
    if (body->hooked)
        return 0;
    body->fork_hook.in_child = in_child;
    int rc = pshm_os_fork_hook_add(&body->fork_hook);
    body->hooked = rc == 0;
    return rc;
}

/* NULL for no advice. */
static const pshm_os_advice *find_advice(const char *name)
{
    const pshm_os_advice *advice = NULL;
    for (size_t i = 0; (advice = pshm_os_advice_at(i)) && strcmp(advice->name, name) != 0; i++)
        continue;
    return advice;
}

int pshm_segment_advise(pshm_segment *segment, const char *name, uint64_t offset, uint64_t size)
{
    pshm_body *body = pshm_body_of(segment);
    const pshm_os_advice *advice = find_advice(name);
    if (!advice)
        return PSHM_EADVICE;
    int rc = check_range(segment, offset, size);
    if (rc)
        return rc;
    bool destroys = advice->destroys || (advice->destroys_private && !body->shared);
    if (destroys && pshm_body_has_raw(body))
        return PSHM_EBUFFERS;
    bool dontfork = strcmp(name, "dontfork") == 0;
    if (dontfork && pshm_body_has_raw(body))
        return PSHM_EBUFFERS;
    if (dontfork)
        rc = pshm_body_hook(body);
    if (rc)
        return rc;
    pages range = destroys ? pages_inside(body, offset, size) : pages_around(body, offset, size);
    if (range.end > range.start)
        rc = pshm_os_advise(body->map + range.start, range.end - range.start, advice->number);
    if (!rc && (dontfork || strcmp(name, "dofork") == 0)) {
        /* A part that is given back does not make the rest safe: only the whole window does. */
        if (dontfork || size == segment->size)
            body->dontfork = dontfork;
    }
    return rc;
}

bool pshm_advice_is_slow(const char *name)
{
    const pshm_os_advice *advice = find_advice(name);
    return advice && advice->slow;
}

const char *pshm_advice_name(size_t index)
{
    const pshm_os_advice *advice = pshm_os_advice_at(index);
    return advice ? advice->name : NULL;
}

/* The whole window or a range of it; System V locks the whole segment for everybody. */
static int pin_or_unpin(pshm_segment *segment, uint64_t offset, uint64_t size, bool pin, bool on_fault)
{
    pshm_body *body = pshm_body_of(segment);
    if (segment->closed)
        return PSHM_ECLOSED;
    if (size == PSHM_UNSET && offset == 0 && segment->id >= 0 && !on_fault)
        return pshm_os_sysv_lock(segment->id, pin);
    if (size == PSHM_UNSET)
        size = offset <= segment->size ? segment->size - offset : 0;
    int rc = check_range(segment, offset, size);
    if (rc || !size)
        return rc;
    pages range = pages_around(body, offset, size);
    if (pin)
        return pshm_os_lock_memory(body->map + range.start, range.end - range.start, on_fault);
    return pshm_os_unlock_memory(body->map + range.start, range.end - range.start);
}

int pshm_segment_pin(pshm_segment *segment, uint64_t offset, uint64_t size, bool on_fault)
{
    return pin_or_unpin(segment, offset, size, true, on_fault);
}

int pshm_segment_unpin(pshm_segment *segment, uint64_t offset, uint64_t size)
{
    return pin_or_unpin(segment, offset, size, false, false);
}
