/* SPDX-License-Identifier: MIT */
#include "core/setup.h"

#include <errno.h>
#include <string.h>

#include "core/segment.h"
#include "core/word.h"
#include "os/beacon.h"
#include "os/process.h"

/* Below this an arena that nobody has counted participants for has fewer. */
#define SMALL (UINT64_C(4) << 20)
#define FEWEST 8u

int pshm_geometry_of(uint64_t size, uint32_t participants, pshm_geometry *out)
{
    pshm_geometry g = {.size = size, .participants = participants, .beacons = PSHM_PAGE};
    g.slots = g.beacons + pshm_round_up(participants * PSHM_BEACON_SIZE, PSHM_PAGE);
    g.pages = g.slots + pshm_round_up(participants * (uint64_t)sizeof(pshm_slot), PSHM_PAGE);
    uint64_t least = 0, most = size > g.pages ? (size - g.pages) / PSHM_PAGE : 0;
    while (least < most) { /* the largest number of pages that fits with its tables */
        uint64_t n = least + (most - least + 1) / 2;
        g.words = (n + 63) / 64;
        g.taken = g.pages + n * sizeof(pshm_page);
        g.partial = g.taken + g.words * 8;
        g.heap = pshm_round_up(g.partial + PSHM_CLASSES * g.words * 8, PSHM_PAGE);
        if (g.heap <= size && n <= (size - g.heap) / PSHM_PAGE)
            least = n;
        else
            most = n - 1;
    }
    g.heap_pages = least;
    g.words = (least + 63) / 64;
    g.taken = g.pages + least * sizeof(pshm_page);
    g.partial = g.taken + g.words * 8;
    g.heap = pshm_round_up(g.partial + PSHM_CLASSES * g.words * 8, PSHM_PAGE);
    *out = g;
    return least ? 0 : PSHM_ETOOSMALL;
}

int pshm_setup_participants(uint64_t size, uint32_t wanted, uint32_t *participants)
{
    pshm_geometry at;
    if (wanted > PSHM_PARTICIPANTS_MAX)
        return PSHM_EPARTICIPANTCOUNT;
    *participants = wanted;
    if (!wanted) {
        uint64_t fitting = size / (SMALL / PSHM_ARENA_PARTICIPANTS);
        *participants = fitting < FEWEST                    ? FEWEST
                        : fitting > PSHM_ARENA_PARTICIPANTS ? PSHM_ARENA_PARTICIPANTS
                                                            : (uint32_t)fitting;
    }
    return pshm_geometry_of(size, *participants, &at);
}

/* true: it was 0. */
static bool set_once(uint64_t *field, uint64_t value)
{
    uint64_t nothing = 0;
    return pshm_cas(field, &nothing, value);
}

static void set_once32(uint32_t *field, uint32_t value)
{
    uint32_t nothing = 0;
    pshm_cas(field, &nothing, value);
}

void pshm_setup_finish(pshm_segment *segment, uint64_t device, uint64_t inode)
{
    pshm_head *head = (pshm_head *)(void *)segment->base;
    uint64_t boot[2], random[3];
    pshm_os_boot_id(boot);
    pshm_os_random(random, 3);
    set_once32(&head->format, PSHM_FORMAT);
    set_once32(&head->abi, pshm_os_beacon_abi());
    set_once(&head->size, segment->size);
    set_once(&head->id, random[0] ? random[0] : 1);
    set_once(&head->seed[0], random[1]);
    set_once(&head->seed[1], random[2]);
    set_once(&head->boot[0], boot[0]);
    set_once(&head->boot[1], boot[1]);
    set_once(&head->device, device);
    set_once(&head->inode, inode);
    set_once(&head->magic, PSHM_MAGIC);
}

bool pshm_setup(pshm_segment *segment, uint32_t participants, pshm_life life, uint64_t device, uint64_t inode)
{
    pshm_head *head = (pshm_head *)(void *)segment->base;
    uint64_t setup = PSHM_SETUP_DONE | participants | (uint64_t)(unsigned)life << PSHM_SETUP_LIFE_SHIFT;
    bool first = set_once(&head->setup, setup);
    pshm_setup_finish(segment, device, inode);
    return first;
}

static bool is_zero(const unsigned char *bytes, uint64_t size)
{
    return !size || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

bool pshm_setup_is_blank(const pshm_segment *segment)
{
    return is_zero(segment->base, segment->size);
}

/* `setup` that this code could have written. */
static bool is_plausible(uint64_t setup)
{
    uint64_t known = PSHM_SETUP_DONE | PSHM_SETUP_PARTICIPANTS | PSHM_SETUP_LIFE << PSHM_SETUP_LIFE_SHIFT;
    uint64_t participants = setup & PSHM_SETUP_PARTICIPANTS;
    return (setup & PSHM_SETUP_DONE) && !(setup & ~known) && participants && participants <= PSHM_PARTICIPANTS_MAX &&
           (setup >> PSHM_SETUP_LIFE_SHIFT & PSHM_SETUP_LIFE) < PSHM_LIVES;
}

static int check(const pshm_segment *segment, pshm_geometry *at, pshm_life *life)
{
    if (segment->size < PSHM_PAGE)
        return PSHM_ENOTARENA;
    const pshm_head *head = (const pshm_head *)(const void *)segment->base;
    uint64_t magic = pshm_load(&head->magic), setup = pshm_load(&head->setup);
    if (magic != PSHM_MAGIC) {
        if (magic)
            return PSHM_ENOTARENA;
        if (is_zero(segment->base, PSHM_PAGE))
            return -ENOENT;
        /* Somebody is at it, or died at it, if there is nothing yet that comes after. */
        bool begun = is_plausible(setup) &&
                     is_zero((const unsigned char *)&head->serial, PSHM_PAGE - offsetof(pshm_head, serial));
        return begun ? -EAGAIN : PSHM_ENOTARENA;
    }
    if (pshm_load(&head->format) != PSHM_FORMAT)
        return PSHM_EFORMAT;
    if (pshm_load(&head->abi) != pshm_os_beacon_abi())
        return PSHM_EABI;
    if (pshm_load(&head->size) != segment->size)
        return PSHM_ETRUNCATED;
    if (!is_plausible(setup) || !pshm_load(&head->id))
        return PSHM_ECORRUPT;
    *life = (pshm_life)(setup >> PSHM_SETUP_LIFE_SHIFT & PSHM_SETUP_LIFE);
    return pshm_geometry_of(segment->size, (uint32_t)(setup & PSHM_SETUP_PARTICIPANTS), at) ? PSHM_ECORRUPT : 0;
}

int pshm_setup_check(const pshm_segment *segment, pshm_geometry *at, pshm_life *life)
{
    const pshm_head *head = (const pshm_head *)(const void *)segment->base;
    int rc = PSHM_ENOTARENA;
    /* Each of `setup` and `magic` is set once. So what looks like no arena, and had one of them set meanwhile, was looked at
     * while somebody else set it up. */
    for (int tries = 0; rc == PSHM_ENOTARENA && tries < 3; tries++) {
        uint64_t before[2] = {0, 0};
        if (segment->size >= PSHM_PAGE) {
            before[0] = pshm_load(&head->setup);
            before[1] = pshm_load(&head->magic);
        }
        rc = check(segment, at, life);
        if (segment->size < PSHM_PAGE || (pshm_load(&head->setup) == before[0] && pshm_load(&head->magic) == before[1]))
            break;
    }
    int lost = pshm_segment_verify(segment);
    return lost ? lost : rc;
}
