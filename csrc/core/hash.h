/* SPDX-License-Identifier: MIT
 *
 * A keyed hash, part of the format: SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), so that
 * nobody who may choose names can make them collide.
 */
#ifndef PSHM_CORE_HASH_H
#define PSHM_CORE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t pshm_hash(const uint64_t seed[2], const void *data, size_t size);

#endif
