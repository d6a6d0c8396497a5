/* SPDX-License-Identifier: MIT
 *
 * Of io_uring(7) what older headers do not have: for ring.c alone.
 */
#ifndef PSHM_OS_RING_ABI_H
#define PSHM_OS_RING_ABI_H

#include <linux/io_uring.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OP_FUTEX_WAIT 51
#define OP_FUTEX_WAITV 53
#define SETUP (1u << 9 | 1u << 12 | 1u << 13) /* TASKRUN_FLAG, SINGLE_ISSUER, DEFER_TASKRUN */
#define FUTEX_SHARED_32 2u
#define OPERATIONS 64u

/* The kernel notes that it has put something off, and then asks whether to signal that: in this order here. Elsewhere the
 * one may overtake the other, so that a signal and the note of it are both missed, if the kernel itself is not asked. */
#ifdef __x86_64__
#define IN_ORDER true
#else
#define IN_ORDER false
#endif

typedef struct entry {
    uint8_t opcode, flags;
    uint16_t priority;
    int32_t fd;
    uint64_t second; /* off, addr2 */
    uint64_t address;
    uint32_t length, operation_flags;
    uint64_t tag;
    uint16_t buffer, personality;
    int32_t file;
    uint64_t third;
    uint64_t unused;
} entry;

_Static_assert(sizeof(entry) == sizeof(struct io_uring_sqe), "io_uring(7)");

/* struct futex_waitv */
typedef struct wait_for {
    uint64_t value;
    uint64_t word;
    uint32_t flags;
    uint32_t reserved;
} wait_for;

/* Does the kernel have them? */
static inline bool can_sleep(int fd)
{
    struct {
        struct io_uring_probe head;
        struct io_uring_probe_op operations[OPERATIONS];
    } probe;
    memset(&probe, 0, sizeof probe);
    if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_PROBE, &probe, OPERATIONS))
        return false;
    return probe.head.last_op >= OP_FUTEX_WAITV && (probe.operations[OP_FUTEX_WAIT].flags & IO_URING_OP_SUPPORTED) &&
           (probe.operations[OP_FUTEX_WAITV].flags & IO_URING_OP_SUPPORTED);
}

#endif
