/* SPDX-License-Identifier: MIT */
#include "core/hash.h"

static inline uint64_t rotated(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

/* Little-endian on every machine, as the paper has it. */
static inline uint64_t word_at(const unsigned char *p, size_t size)
{
    uint64_t word = 0;
    for (size_t i = 0; i < size; i++)
        word |= (uint64_t)p[i] << (8 * i);
    return word;
}

static inline void rounds(uint64_t v[4], int count)
{
    for (int i = 0; i < count; i++) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotated(v[1], 13) ^ v[0];
        v[3] = rotated(v[3], 16) ^ v[2];
        v[0] = rotated(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotated(v[1], 17) ^ v[2];
        v[3] = rotated(v[3], 21) ^ v[0];
        v[2] = rotated(v[2], 32);
    }
}

static inline void take_in(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    rounds(v, 1);
    v[0] ^= word;
}

uint64_t pshm_hash(const uint64_t seed[2], const void *data, size_t size)
{
    const unsigned char *p = data;
    uint64_t v[4] = {seed[0] ^ UINT64_C(0x736f6d6570736575), seed[1] ^ UINT64_C(0x646f72616e646f6d),
                     seed[0] ^ UINT64_C(0x6c7967656e657261), seed[1] ^ UINT64_C(0x7465646279746573)};
    size_t left = size;
    for (; left >= 8; left -= 8, p += 8)
        take_in(v, word_at(p, 8));
    take_in(v, word_at(p, left) | (uint64_t)size << 56);
    v[2] ^= 0xff;
    rounds(v, 3);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}
