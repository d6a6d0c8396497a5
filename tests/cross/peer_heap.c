/* SPDX-License-Identifier: MIT
 *
 * The partner's commands on the heap of an arena.
 */
#include "peer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <polyshm/heap.h>

static pshm_arena *arena_of(const char *name)
{
    return peer_find(name, PEER_ARENA)->arena;
}

static int do_root(const peer_words *words)
{
    peer_say(" %llu", (unsigned long long)pshm_heap_root((uint32_t)peer_number(words->word[1])));
    return 0;
}

static int allocate(pshm_arena *arena, uint64_t target, uint64_t size)
{
    int rc;
    do
        rc = pshm_heap_alloc_into(arena, target, size);
    while (rc == -EINTR);
    return rc;
}

static int release(pshm_arena *arena, uint64_t target)
{
    int rc;
    do
        rc = pshm_heap_free_from(arena, target);
    while (rc == -EINTR);
    return rc;
}

static int do_alloc(const peer_words *words)
{
    return allocate(arena_of(words->word[0]), peer_number(words->word[1]), peer_number(words->word[2]));
}

static int do_free(const peer_words *words)
{
    return release(arena_of(words->word[0]), peer_number(words->word[1]));
}

static int do_blocksize(const peer_words *words)
{
    uint64_t size;
    int rc = pshm_heap_block_size(arena_of(words->word[0]), peer_number(words->word[1]), &size);
    if (!rc)
        peer_say(" %llu", (unsigned long long)size);
    return rc;
}

static int do_peek(const peer_words *words)
{
    uint64_t size = peer_number(words->word[2]);
    unsigned char *bytes = malloc(size + 1);
    if (!bytes)
        return -ENOMEM;
    int rc = pshm_heap_read(arena_of(words->word[0]), peer_number(words->word[1]), bytes, size);
    if (!rc) {
        peer_say(size ? " " : " -");
        peer_say_hex(bytes, size);
    }
    free(bytes);
    return rc;
}

static int do_poke(const peer_words *words)
{
    uint64_t size;
    unsigned char *bytes = peer_unhex(words->word[2], &size);
    int rc = pshm_heap_write(arena_of(words->word[0]), peer_number(words->word[1]), bytes, size);
    free(bytes);
    return rc;
}

static bool all_are(const unsigned char *bytes, uint64_t size, unsigned char value)
{
    return bytes[0] == value && !memcmp(bytes, bytes + 1, size - 1);
}

static int do_heaploop(const peer_words *words)
{
    static unsigned char bytes[20001];
    pshm_arena *arena = arena_of(words->word[0]);
    uint64_t index = peer_number(words->word[1]), count = peer_number(words->word[2]), place;
    uint64_t target = pshm_heap_root((uint32_t)index);
    int rc = 0;
    for (uint64_t i = 0; i < count && !rc; i++) {
        uint64_t size = 1 + i * 7919 % 20000;
        unsigned char value = (unsigned char)(1 + (index + i) % 255);
        if ((rc = allocate(arena, target, size)) != 0 ||
            (rc = pshm_heap_read(arena, target, &place, sizeof place)) != 0 ||
            (rc = pshm_heap_read(arena, place, bytes, size)) != 0)
            return rc;
        if (!all_are(bytes, size, 0)) {
            peer_say(" a new block is not zero");
            return PEER_MISTAKE;
        }
        memset(bytes, value, size);
        if ((rc = pshm_heap_write(arena, place, bytes, size)) != 0 ||
            (rc = pshm_heap_read(arena, place, bytes, size)) != 0)
            return rc;
        if (!all_are(bytes, size, value)) {
            peer_say(" somebody else has the block");
            return PEER_MISTAKE;
        }
        rc = release(arena, target);
    }
    return rc;
}

const peer_command peer_heap_commands[] = {
    {"root", 2, do_root}, {"alloc", 3, do_alloc}, {"free", 2, do_free},         {"blocksize", 2, do_blocksize},
    {"peek", 3, do_peek}, {"poke", 3, do_poke},   {"heaploop", 3, do_heaploop}, {NULL, 0, NULL},
};
