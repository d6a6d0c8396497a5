/* SPDX-License-Identifier: MIT
 *
 * polyshm: shared memory for C, Python and Lua on one core.
 *
 * Rules that hold for every function of every header:
 *
 *   Errors   A function returns 0 (or a count, where it says so) or a negative code: -errno for what the system
 *            refused, a PSHM_E... code of error.h for everything else. Results go out through pointers, which are
 *            written only on success unless the contract says otherwise.
 *   Units    Sizes and offsets are bytes. Times are nanoseconds; deadlines are absolute on CLOCK_MONOTONIC.
 *   Memory   The caller owns what it passes in; nothing is kept after the return unless `Owns:` says so.
 *   Waits    A call that blocks comes back with -EINTR at the latest every 100 ms (PSHM_SLICE_NS), nothing taken and
 *            nothing changed, so that its caller can look after signals; call again with the same deadline.
 *   Fork     A child may use what its parent opened, under its own identity: what the parent holds is not the child's.
 *
 * Each prototype carries its contract in this order: what it does; Errors:, Owns:, Safe:, Blocks:.
 * A line that would say nothing beyond the rules above is left out.
 */
#ifndef POLYSHM_POLYSHM_H
#define POLYSHM_POLYSHM_H

#include <stdint.h>

#if !defined(__linux__) || UINTPTR_MAX != 0xffffffffffffffffu
#error "polyshm needs 64-bit Linux"
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define PSHM_VERSION "0.1.0"

/* The library hides all but what carries this mark; a language module that links the core in defines
 * PSHM_STATIC and then shows nothing but its own init function. */
#if defined(PSHM_STATIC)
#define PSHM_API
#else
#define PSHM_API __attribute__((visibility("default")))
#endif

#define PSHM_LIKELY(x) __builtin_expect(!!(x), 1)
#define PSHM_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* The longest that any wait sleeps before it looks around again. */
#define PSHM_SLICE_NS INT64_C(100000000)
/* A deadline that never comes. */
#define PSHM_FOREVER INT64_MAX

/* The version of the library that is running, as "MAJOR.MINOR.PATCH".
 * Owns: a static string.  Safe: anywhere, signal handlers too. */
PSHM_API const char *pshm_version(void);

/* Turns a relative time in nanoseconds into a deadline; a negative one and PSHM_FOREVER mean for ever.
 * Safe: anywhere, signal handlers too. */
PSHM_API int64_t pshm_deadline(int64_t timeout_ns);

#ifdef __cplusplus
}
#endif
#endif
