/* SPDX-License-Identifier: MIT
 *
 * Bare operations in C, timed from the inside, so that they can stand beside a language's figures in one run.
 * Each function returns nanoseconds per operation, the mean of `n`.
 */
#ifndef BENCH_FLOOR_H
#define BENCH_FLOOR_H

#include <stddef.h>

double floor_now(void); /* seconds, monotonic */
double floor_atomic_add(long n);
double floor_mutex_pair(long n);               /* pthread, process-shared, robust, error-checking: trylock and unlock */
double floor_copy(long n, size_t size);        /* memcpy between private memory and a shared mapping */
double floor_malloc_copy(long n, size_t size); /* into memory that malloc has just given */
double floor_create(long n);                   /* the system calls that a new POSIX segment of 4 KiB takes */
double floor_attach(long n, const char *path); /* those that opening one takes */

#endif
