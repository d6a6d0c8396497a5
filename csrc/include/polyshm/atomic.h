/* SPDX-License-Identifier: MIT
 *
 * Atomic words on raw memory, all sequentially consistent, and waiting for one to change (futex(2)).
 */
#ifndef POLYSHM_ATOMIC_H
#define POLYSHM_ATOMIC_H

#include <polyshm/segment.h>

#ifdef __cplusplus
extern "C" {
#endif

/* constant, token, C type */
#define PSHM_WORD_MAP(X)                                                                                               \
    X(I32, "i32", int32_t)                                                                                             \
    X(U32, "u32", uint32_t)                                                                                            \
    X(I64, "i64", int64_t)                                                                                             \
    X(U64, "u64", uint64_t)

typedef enum pshm_word {
#define X(name, token, ctype) PSHM_WORD_##name,
    PSHM_WORD_MAP(X)
#undef X
} pshm_word;

/* Reads "i32", "u32", "i64" or "u64".
 * Errors: PSHM_ETYPE. */
PSHM_API int pshm_word_parse(const char *token, size_t length, pshm_word *out);

/* Bytes of a word, and its alignment: 4 or 8. */
static inline uint64_t pshm_word_size(pshm_word word)
{
    return word <= PSHM_WORD_U32 ? 4 : 8;
}

/* Is `offset` inside the segment, readable, and aligned for `word`?
 * Errors: as pshm_segment_check; PSHM_EALIGN. */
PSHM_API int pshm_atomic_check(const pshm_segment *segment, pshm_word word, uint64_t offset);

/* The operations of one word at `address`, for 32 and 64 bits: load gives the value, store nothing, the others the
 * previous value; arithmetic wraps. compare_exchange stores `desired` if the word is *expected, and leaves what it
 * found in *expected either way.
 * The caller has checked the word and verifies the segment afterwards.
 * Safe: threads, processes, signal handlers. */
#define PSHM_ATOMIC_DEFINE(bits)                                                                                       \
    static inline uint##bits##_t pshm_atomic_load##bits(const void *address)                                           \
    {                                                                                                                  \
        return __atomic_load_n((const uint##bits##_t *)address, __ATOMIC_SEQ_CST);                                     \
    }                                                                                                                  \
    static inline void pshm_atomic_store##bits(void *address, uint##bits##_t value)                                    \
    {                                                                                                                  \
        __atomic_store_n((uint##bits##_t *)address, value, __ATOMIC_SEQ_CST);                                          \
    }                                                                                                                  \
    static inline uint##bits##_t pshm_atomic_add##bits(void *address, uint##bits##_t value)                            \
    {                                                                                                                  \
        return __atomic_fetch_add((uint##bits##_t *)address, value, __ATOMIC_SEQ_CST);                                 \
    }                                                                                                                  \
    static inline uint##bits##_t pshm_atomic_sub##bits(void *address, uint##bits##_t value)                            \
    {                                                                                                                  \
        return __atomic_fetch_sub((uint##bits##_t *)address, value, __ATOMIC_SEQ_CST);                                 \
    }                                                                                                                  \
    static inline uint##bits##_t pshm_atomic_and##bits(void *address, uint##bits##_t value)                            \
    {                                                                                                                  \
        return __atomic_fetch_and((uint##bits##_t *)address, value, __ATOMIC_SEQ_CST);                                 \
    }                                                                                                                  \
    static inline uint##bits##_t pshm_atomic_or##bits(void *address, uint##bits##_t value)                             \
    {                                                                                                                  \
        return __atomic_fetch_or((uint##bits##_t *)address, value, __ATOMIC_SEQ_CST);                                  \
    }                                                                                                                  \
    static inline uint##bits##_t pshm_atomic_xor##bits(void *address, uint##bits##_t value)                            \
    {                                                                                                                  \
        return __atomic_fetch_xor((uint##bits##_t *)address, value, __ATOMIC_SEQ_CST);                                 \
    }                                                                                                                  \
    static inline uint##bits##_t pshm_atomic_exchange##bits(void *address, uint##bits##_t value)                       \
    {                                                                                                                  \
        return __atomic_exchange_n((uint##bits##_t *)address, value, __ATOMIC_SEQ_CST);                                \
    }                                                                                                                  \
    static inline bool pshm_atomic_compare_exchange##bits(void *address, uint##bits##_t *expected,                     \
                                                          uint##bits##_t desired)                                      \
    {                                                                                                                  \
        return __atomic_compare_exchange_n((uint##bits##_t *)address, expected, desired, false, __ATOMIC_SEQ_CST,      \
                                           __ATOMIC_SEQ_CST);                                                          \
    }

PSHM_ATOMIC_DEFINE(32)
PSHM_ATOMIC_DEFINE(64)

/* Waits while the 32-bit word at `offset` is `expected`, for one slice at the most; 0 once it is anything else.
 * Errors: as pshm_atomic_check; -ETIMEDOUT; -EINTR (the slice is over, or a signal came: call again); PSHM_ELOST.
 * Safe: threads that entered, processes.  Blocks: until the word changes and somebody notifies, or `deadline`. */
PSHM_API int pshm_atomic_wait(pshm_segment *segment, uint64_t offset, uint32_t expected, int64_t deadline);

/* Wakes up to `count` waiters of the 32-bit word at `offset`; returns how many.
 * Errors: as pshm_atomic_check; PSHM_ELOST. */
PSHM_API int pshm_atomic_notify(pshm_segment *segment, uint64_t offset, int count);

#ifdef __cplusplus
}
#endif
#endif
