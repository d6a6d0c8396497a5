/* SPDX-License-Identifier: MIT
 *
 * What somebody who means harm, or whose pointer is wild, writes into an arena.
 */
#include <string.h>

#include "core/layout.h"
#include "fuzz.h"

uint64_t fuzz_next(fuzz_random *r)
{
    r->state ^= r->state << 13;
    r->state ^= r->state >> 7;
    r->state ^= r->state << 17;
    return r->state * UINT64_C(0x2545f4914f6cdd1d) >> 11;
}

/* Where the slots begin and the beacons end, as an honest head says. */
static uint64_t end_of_beacons(const pshm_head *head, uint64_t size)
{
    uint64_t participants = head->setup & PSHM_SETUP_PARTICIPANTS;
    uint64_t end = PSHM_PAGE + (participants * PSHM_BEACON_SIZE + PSHM_PAGE - 1) / PSHM_PAGE * PSHM_PAGE;
    return end < size ? end : PSHM_PAGE;
}

/* A number that means something here or there. */
static uint64_t telling(fuzz_random *r, const unsigned char *base, uint64_t size)
{
    static const uint64_t odd[] = {0,   1,   2,    3,          7,         8,          63,       64,
                                   255, 256, 4096, UINT32_MAX, INT32_MAX, UINT64_MAX, INT64_MAX};
    uint64_t somewhere = fuzz_below(r, size) & ~UINT64_C(7), word;
    switch (fuzz_below(r, 9)) {
    case 0:
        return fuzz_next(r) | fuzz_next(r) << 32;
    case 1:
        return somewhere;
    case 2:
        return somewhere & ~UINT64_C(63);
    case 3:
        return size - fuzz_below(r, 3) * 8;
    case 4: /* an owner */
        return (1 + fuzz_below(r, 20)) | fuzz_below(r, 8) << PSHM_ID_GENERATION_SHIFT |
               (fuzz_below(r, 3) ? 0 : PSHM_ID_WAITERS) | (fuzz_below(r, 4) ? 0 : PSHM_ID_GRANTED);
    case 5: /* what stands elsewhere */
        memcpy(&word, base + somewhere, sizeof word);
        return word;
    case 6: /* a page of the heap's, first block */
        return (size - PSHM_PAGE * (1 + fuzz_below(r, 40))) & ~(PSHM_PAGE - 1);
    default:
        return odd[fuzz_below(r, sizeof odd / sizeof *odd)];
    }
}

/* Where. The tables are small beside the blocks, and are met as often. */
static uint64_t somewhere_in(fuzz_random *r, const unsigned char *base, uint64_t size)
{
    const pshm_head *head = (const pshm_head *)(const void *)base;
    uint64_t slots = end_of_beacons(head, size), participants = head->setup & PSHM_SETUP_PARTICIPANTS;
    uint64_t tables = slots + participants * sizeof(pshm_slot);
    uint64_t nodes = head->directory.table[head->directory.active & 1] % size;
    switch (fuzz_below(r, 10)) {
    case 0:
    case 1:
        return fuzz_below(r, sizeof(pshm_head));
    case 2: /* the first slots are those that are used */
        return slots + fuzz_below(r, 4 * sizeof(pshm_slot));
    case 3:
    case 4:
        return tables + fuzz_below(r, 12 * sizeof(pshm_page));
    case 5:
        return tables + fuzz_below(r, size / 32);
    case 6:
    case 7:
        return nodes + fuzz_below(r, 20000);
    case 8:
        return offsetof(pshm_head, heap) + fuzz_below(r, sizeof(pshm_heap_head) + sizeof(pshm_directory_head));
    default:
        return slots + fuzz_below(r, size - slots);
    }
}

static void change(fuzz_random *r, unsigned char *base, uint64_t size, uint64_t at)
{
    uint64_t word = telling(r, base, size), bit = fuzz_below(r, 64);
    at &= ~UINT64_C(7);
    if (at > size - 8)
        return;
    uint64_t *to = (uint64_t *)(void *)(base + at);
    uint32_t *half = (uint32_t *)(void *)to + fuzz_below(r, 2);
    switch (fuzz_below(r, 6)) {
    case 0:
        __atomic_store_n(half, (uint32_t)word, __ATOMIC_RELAXED);
        break;
    case 1:
        __atomic_xor_fetch(to, UINT64_C(1) << bit, __ATOMIC_RELAXED);
        break;
    case 2:
        __atomic_store_n((unsigned char *)to + bit % 8, (unsigned char)word, __ATOMIC_RELAXED);
        break;
    case 3:
        __atomic_add_fetch(to, bit - 32, __ATOMIC_RELAXED);
        break;
    default:
        __atomic_store_n(to, word, __ATOMIC_RELAXED);
    }
}

void fuzz_flip(fuzz_random *r, unsigned char *base, uint64_t size)
{
    uint64_t end = end_of_beacons((const pshm_head *)(const void *)base, size), at = somewhere_in(r, base, size);
    /* A head that was flipped says nothing of where the beacons end: so it stays, but for a moment now and then. */
    bool geometry = at / 8 == offsetof(pshm_head, setup) / 8;
    if (!geometry && (at < PSHM_PAGE || at >= end) && at < size)
        change(r, base, size, at);
}

void fuzz_flip_head(fuzz_random *r, unsigned char *base, uint64_t size)
{
    change(r, base, size, fuzz_below(r, 4) ? fuzz_below(r, 128) : fuzz_below(r, sizeof(pshm_head)));
}
