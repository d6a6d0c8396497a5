/* SPDX-License-Identifier: MIT
 *
 * Addresses: one text names a segment, in every language and on the command line.
 *
 *   posix:/name                           shm_overview(7)
 *   sysv:0x1234  sysv:4660                a System V key, svipc(7)
 *   sysv:path#A  sysv:path#0x41           ftok(path, 'A'), ftok(3)
 *   sysv:private  sysv:id=42              IPC_PRIVATE; a segment by its id
 *   file:path                             any file that can be mapped
 *   anon:  zero:                          MAP_ANONYMOUS and /dev/zero, shared with forked children
 *   memfd:name  fd:7                      memfd_create(2); a descriptor that is already open
 */
#ifndef POLYSHM_ADDRESS_H
#define POLYSHM_ADDRESS_H

#include <stddef.h>

#include <polyshm/polyshm.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The kinds of segment: constant, text. The text is the part of an address before its colon. */
#define PSHM_SEGMENT_MAP(X)                                                                                            \
    X(POSIX, "posix")                                                                                                  \
    X(SYSV, "sysv")                                                                                                    \
    X(FILE, "file")                                                                                                    \
    X(ANON, "anon")                                                                                                    \
    X(ZERO, "zero")                                                                                                    \
    X(MEMFD, "memfd")                                                                                                  \
    X(FD, "fd")

typedef enum pshm_segment_kind {
#define X(name, text) PSHM_SEGMENT_##name,
    PSHM_SEGMENT_MAP(X)
#undef X
        PSHM_SEGMENT_KINDS
} pshm_segment_kind;

typedef enum pshm_sysv_by {
    PSHM_SYSV_KEY,
    PSHM_SYSV_FTOK,
    PSHM_SYSV_PRIVATE,
    PSHM_SYSV_ID,
} pshm_sysv_by;

/* The longest address, with its NUL: a kind and PATH_MAX. */
#define PSHM_ADDRESS_MAX 4112

typedef struct pshm_address {
    pshm_segment_kind kind;
    pshm_sysv_by by;             /* sysv alone */
    int32_t number;              /* the System V key or id, the ftok project, or the descriptor */
    char name[PSHM_ADDRESS_MAX]; /* "/name", path or memfd name; empty where there is none */
} pshm_address;

/* Reads an address of `length` bytes (which may hold a NUL: that is an error).
 * Errors: PSHM_EADDRESS, PSHM_ENUL, PSHM_ENAME, PSHM_EPROJECT; -ENAMETOOLONG. */
PSHM_API int pshm_address_parse(const char *text, size_t length, pshm_address *out);

/* The text of a kind: "posix", "sysv", ...; NULL for what is none.
 * Owns: a static string.  Safe: anywhere, signal handlers too. */
PSHM_API const char *pshm_kind_name(pshm_segment_kind kind);

/* Reads a size: decimal digits and an optional K, M or G (powers of 1024).
 * Errors: PSHM_ESIZE, PSHM_ETOOBIG. */
PSHM_API int pshm_size_parse(const char *text, size_t length, uint64_t *out);

/* Reads permissions: octal digits, with or without "0o", from 0 to 0777.
 * Errors: PSHM_EMODE. */
PSHM_API int pshm_mode_parse(const char *text, size_t length, uint32_t *out);

#ifdef __cplusplus
}
#endif
#endif
