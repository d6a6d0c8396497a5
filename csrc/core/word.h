/* SPDX-License-Identifier: MIT
 *
 * Words that others write at the same time: load and store in order with what stands around them, a peek without, and a
 * compare-and-swap that leaves what it found in *expected.
 */
#ifndef PSHM_CORE_WORD_H
#define PSHM_CORE_WORD_H

#define pshm_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define pshm_peek(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define pshm_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define pshm_cas(p, expected, desired)                                                                                 \
    __atomic_compare_exchange_n((p), (expected), (desired), false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)

#endif
