/* SPDX-License-Identifier: MIT
 *
 * What the programs of tests/c share: names that nobody else has, opening, children that check, namespaces, and the
 * fixture that fails a test which leaves something behind.
 */
#ifndef TESTS_HELPER_H
#define TESTS_HELPER_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include <cmocka.h>

#include <polyshm/segment.h>

#define SECOND INT64_C(1000000000)
#define PAGE UINT64_C(4096)

/* A test with the fixture around it: descriptors, mappings, names, System V ids and children are as before. */
#define TEST(function) cmocka_unit_test_setup_teardown(function, helper_before, helper_after)
int helper_before(void **state);
int helper_after(void **state);

/* Fails unless `call` gives `code`, naming both. */
#define assert_rc(call, code) helper_assert_rc((call), (code), #call, __FILE__, __LINE__)
void helper_assert_rc(int rc, int code, const char *call, const char *file, int line);

/* In children, where cmocka's own asserts would unwind into the parent's test: ends the child with 1. */
#define CHECK(condition) ((condition) ? (void)0 : helper_die(#condition, __FILE__, __LINE__))
void helper_die(const char *condition, const char *file, int line) __attribute__((noreturn));

/* The next name of this program, "posix:/polyshm-c-PID-N"; the same N in others of the kind "file:/tmp/...". Static. */
const char *helper_posix(void);
const char *helper_file(void);

/* pshm_segment_open of a text. */
int helper_open(const char *address, const pshm_options *options, pshm_segment **out);
/* The same, which has to succeed. */
pshm_segment *helper_segment(const char *address, const pshm_options *options);
/* Options with a size; `create` set. */
pshm_options helper_sized(uint64_t size);
/* Closes and releases. */
void helper_end(pshm_segment *segment);
void helper_end_unlink(pshm_segment *segment);

/* cmocka puts a SIGBUS handler of its own in place for each test: this puts polyshm's back until the test ends. */
void helper_sigbus(void);

/* Runs `function` in a forked child, which returns 0 for well. */
typedef int helper_child(void *context);
pid_t helper_fork(helper_child *function, void *context);
/* Its exit code, or 256 and the signal that killed it. */
int helper_wait(pid_t pid);
/* Both, and it must end with 0. */
void helper_in_child(helper_child *function, void *context);
/* Runs a program with arguments, NULL at the end: its exit code. Its output, if `output` is not NULL, goes there. */
int helper_run(char *output, size_t size, const char *program, ...);
/* The path of another program of this build. */
const char *helper_program(const char *name);

/* Does mlock(2) lock? AddressSanitizer makes it do nothing and say that it did; then only results are looked at. */
static inline bool helper_mlock_works(void)
{
#if defined(__SANITIZE_ADDRESS__)
    return false;
#else
    return true;
#endif
}

/* Is this valgrind, which cannot do `what`? Says so; outside of it the same test does all of it. */
bool helper_valgrind_lacks(const char *what);

/* Waits until `pid` sleeps in a system call. */
void helper_until_asleep(pid_t pid);

/* In a child: a world of its own, as its root. 0, or 1 where this machine does not allow it. */
int helper_unshare(int flags);
/* What such a child returns where it is not allowed: the parent calls skip() and prints why. */
#define HELPER_NOT_ALLOWED 77
void helper_in_namespace(helper_child *function, const char *why);

/* Shared with children, zeroed; helper_memory_end gives it back. */
void *helper_memory(size_t size);
void helper_memory_end(void *memory, size_t size);

#endif
