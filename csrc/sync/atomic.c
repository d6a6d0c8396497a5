/* SPDX-License-Identifier: MIT */
#include <polyshm/atomic.h>

#include <errno.h>
#include <string.h>

#include "os/clock.h"
#include "os/futex.h"

int pshm_word_parse(const char *token, size_t length, pshm_word *out)
{
    static const char *const tokens[] = {
#define X(name, text, ctype) text,
        PSHM_WORD_MAP(X)
#undef X
    };
    for (unsigned i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        if (strlen(tokens[i]) == length && memcmp(tokens[i], token, length) == 0) {
            *out = (pshm_word)i;
            return 0;
        }
    }
    return PSHM_ETYPE;
}

int pshm_atomic_check(const pshm_segment *segment, pshm_word word, uint64_t offset)
{
    uint64_t size = pshm_word_size(word);
    int rc = pshm_segment_check(segment, offset, size, PSHM_READ);
    if (!rc && ((uintptr_t)segment->base + offset) % size)
        rc = PSHM_EALIGN;
    return rc;
}

int pshm_atomic_wait(pshm_segment *segment, uint64_t offset, uint32_t expected, int64_t deadline)
{
    int rc = pshm_atomic_check(segment, PSHM_WORD_U32, offset);
    if (rc)
        return rc;
    const uint32_t *word = (const uint32_t *)(const void *)(segment->base + offset);
    for (int i = 0;; i++) {
        uint32_t now = pshm_atomic_load32(word);
        rc = pshm_segment_verify(segment);
        if (rc || now != expected)
            return rc;
        if (i == PSHM_OS_YIELDS)
            break;
        if (i == 0 && deadline <= pshm_os_now())
            return -ETIMEDOUT;
        pshm_os_yield();
    }
    int64_t slice = pshm_os_now() + PSHM_SLICE_NS, until = deadline < slice ? deadline : slice;
    rc = pshm_os_futex_wait(word, expected, until);
    uint32_t now = pshm_atomic_load32(word);
    if (pshm_segment_verify(segment))
        return PSHM_ELOST;
    if (now != expected)
        return 0;
    return rc == -ETIMEDOUT && until == deadline ? -ETIMEDOUT : -EINTR;
}

int pshm_atomic_notify(pshm_segment *segment, uint64_t offset, int count)
{
    int rc = pshm_atomic_check(segment, PSHM_WORD_U32, offset);
    if (rc)
        return rc;
    const uint32_t *word = (const uint32_t *)(const void *)(segment->base + offset);
    pshm_atomic_load32(word); /* futex says nothing of a page that is gone; touching it does */
    rc = pshm_segment_verify(segment);
    return rc ? rc : pshm_os_futex_wake(word, count);
}
