/* SPDX-License-Identifier: MIT
 *
 * Segments: raw bytes, exactly what the kernel gives, without a header of ours. A foreign program sees the same bytes.
 *
 * A pshm_segment is one handle on one mapping. `close` is logical: the handle refuses everything from then on, and the
 * memory is unmapped when the last user that entered (a view, a held lock, a call under way) has left.
 */
#ifndef POLYSHM_SEGMENT_H
#define POLYSHM_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <polyshm/address.h>
#include <polyshm/error.h>
#include <polyshm/polyshm.h>

#ifdef __cplusplus
extern "C" {
#endif

/* "Not given": the default applies. */
#define PSHM_UNSET UINT64_MAX
#define PSHM_MODE_UNSET UINT32_MAX

/* Rights to memory, as bits. */
enum { PSHM_READ = 1, PSHM_WRITE = 2 };

typedef enum pshm_access {
    PSHM_ACCESS_RW,   /* shared, read and write */
    PSHM_ACCESS_R,    /* shared, read only */
    PSHM_ACCESS_COPY, /* private, copy on write */
    PSHM_ACCESS_NONE, /* mapped, no access until `protect` gives it */
} pshm_access;

typedef struct pshm_options {
    uint64_t size;   /* bytes; unset: to the end of what exists */
    uint64_t offset; /* first byte of the window; any value, page-aligned inside */
    pshm_access access;
    uint32_t mode; /* of what is created; unset: 0600. The umask does not narrow it. */
    int reserve;   /* of what is created: 1 or unset (-1): see that the memory is there; 0: leave it to the first touch.
                       Files, posix and memfd take it now; for anon, zero and sysv the kernel sets it aside. */
    bool exec;     /* executable too */
    bool create;   /* create, or open what exists */
    bool exclusive; /* create or fail */
    bool populate;  /* page tables filled now */
    bool locked;    /* kept in memory: mlock(2) */
    bool inherit;   /* the descriptor stays open across exec */
    bool round;     /* `at` is rounded down to what the kernel takes (SHM_RND) */
    bool serial;    /* the caller promises one thread at a time per segment (the GIL, a lua_State): cheaper counting */
    uint64_t hugepages; /* 0: none, 1: the default size, else the size of one: anon, zero, sysv, memfd */
    uint64_t at;        /* 0: anywhere, else the address to map at; never replaces a mapping */
} pshm_options;

/* clang-format off */
#define PSHM_OPTIONS_INIT                                                                                              \
    { .size = PSHM_UNSET, .mode = PSHM_MODE_UNSET, .reserve = -1 }
/* clang-format on */

/* What a lock holds of a mapping, counted in the lock's own handle, so that taking a lock does not also cost a counter
 * of the segment's. The core's own. */
typedef struct pshm_hold {
    struct pshm_hold *next, *previous;
    uint32_t count;       /* how often the owner holds it through this handle; the owner's to write */
    uint32_t pid, thread; /* the owner */
    uint32_t stranded; /* a pid: a thread of that process may have the lock in its list, though it is not the owner */
    bool outermost;    /* it was had through this handle first: the owner's list leads through this mapping */
    const void *outlived; /* NULL, or the pthread mutex: given back here, and still held through another handle */
} pshm_hold;

/* What stands here is public to read and the core's to write; more follows behind it. */
typedef struct pshm_segment {
    unsigned char *base;    /* first byte of the window; NULL once unmapped */
    uint64_t size;          /* bytes of the window */
    uint32_t rights;        /* rights that the handle has on every byte; 0 once closed */
    uint32_t map_rights;    /* the same of the mapping, for views: it outlives close */
    volatile uint32_t lost; /* not 0: memory under the mapping went away */
    uint32_t epoch;         /* changes whenever base, size, rights or map_rights do */
    pshm_segment_kind kind;
    int fd;        /* the descriptor, or -1: System V, anon, zero */
    int32_t id;    /* the System V id, or -1 */
    bool created;  /* this handle made what it maps */
    bool readonly; /* opened with access "r" */
    bool closed;
    const char *address; /* canonical text, as it was opened */
    const char *name;    /* the part behind the colon */
} pshm_segment;

/* Opens or creates what `address` names, and maps it. Creation is atomic: no opener ever sees a half-made object, and
 * a creator killed on the way leaves nothing behind that has the name. `options` NULL: all defaults.
 * Errors: those of pshm_address_parse; PSHM_ENOSIZE, PSHM_EZEROSIZE, PSHM_ETOOBIG, PSHM_EWINDOW, PSHM_EOFFSET,
 *   PSHM_EEXCLUSIVE, PSHM_EHUGEPAGES, PSHM_EMODE; -ENOENT, -EEXIST, -EACCES, -ENOSPC (no room in /dev/shm or the file system), -ENOMEM
 *   (more than there is), -EIDRM (System V: marked for removal), -EOPNOTSUPP (this kind cannot do that), and what
 *   open(2), shmget(2), shmat(2), mmap(2) and fallocate(2) say.
 * Owns: *out is the caller's, one reference; pshm_segment_close and then pshm_segment_release end it.
 * Safe: threads, processes.  Blocks: while the memory is reserved. */
PSHM_API int pshm_segment_open(const char *address, size_t length, const pshm_options *options, pshm_segment **out);

/* Closes the handle: it refuses everything from now on. The memory is unmapped when the last user has left. Closing
 * again does nothing.
 * Safe: threads, if not opened `serial`. */
PSHM_API void pshm_segment_close(pshm_segment *segment);

/* One more reference to the struct itself (not to the mapping), so that it can be asked `closed` for as long.
 * Safe: threads, if not opened `serial`. */
PSHM_API void pshm_segment_retain(pshm_segment *segment);

/* Gives a reference back; the last one closes the handle and frees the struct once nobody is inside.
 * Safe: threads, if not opened `serial`. */
PSHM_API void pshm_segment_release(pshm_segment *segment);

typedef enum pshm_use {
    PSHM_USE_RAW,     /* has a pointer that nobody checks: keeps it mapped, where it is and with its rights */
    PSHM_USE_LENT,    /* as raw, for longer than a call: refused where a forked child would find nothing there */
    PSHM_USE_CHECKED, /* asks before each access (map_rights, size, epoch): keeps it mapped; one thread at a time */
} pshm_use;

/* Keeps the mapping until the matching pshm_segment_leave, however soon the handle is closed.
 * Errors: PSHM_ECLOSED; PSHM_EDONTFORK (lent, after advice "dontfork").
 * Safe: threads, if not opened `serial`. */
PSHM_API int pshm_segment_enter(pshm_segment *segment, pshm_use use);

/* The same for one that is already inside (a slice of a view): works on a closed handle too, and cannot fail. */
PSHM_API void pshm_segment_enter_again(pshm_segment *segment, pshm_use use);

/* Ends pshm_segment_enter. The last user to leave a closed segment unmaps it.
 * Safe: threads, if not opened `serial`. */
PSHM_API void pshm_segment_leave(pshm_segment *segment, pshm_use use);

/* The exact answer behind pshm_segment_check: 0 where a part of the window has rights that the whole has not.
 * Errors: PSHM_ECLOSED, PSHM_EBOUNDS, PSHM_EREADONLY, PSHM_ENOACCESS. */
PSHM_API int pshm_segment_refuse(const pshm_segment *segment, uint64_t offset, uint64_t size, uint32_t rights);

/* May the handle do `rights` on `size` bytes at `offset`? Never overflows.
 * Errors: as pshm_segment_refuse. */
static inline int pshm_segment_check(const pshm_segment *segment, uint64_t offset, uint64_t size, uint32_t rights)
{
    if (PSHM_LIKELY((segment->rights & rights) == rights && offset <= segment->size && size <= segment->size - offset))
        return 0;
    return pshm_segment_refuse(segment, offset, size, rights);
}

/* After an access: did it touch memory that is gone?
 * Errors: PSHM_ELOST.  Safe: anywhere. */
static inline int pshm_segment_verify(const pshm_segment *segment)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the compiler must not move the access behind the question */
    return PSHM_LIKELY(!segment->lost) ? 0 : PSHM_ELOST;
}

/* The rights of `size` bytes at `offset` of the mapping, closed handle or not: what a checked view may do there.
 * Returns a set of PSHM_READ and PSHM_WRITE, 0 where the range is not inside or not mapped any more. */
PSHM_API uint32_t pshm_segment_rights(const pshm_segment *segment, uint64_t offset, uint64_t size);

/* Copies `size` bytes at `offset` out. No partial copies. `to` may be memory of the segment itself.
 * Errors: as pshm_segment_check; PSHM_ELOST (then `to` holds what could be read, and zeros).
 * Safe: threads that entered; torn against a writer that has no lock. */
static inline int pshm_segment_read(pshm_segment *segment, uint64_t offset, void *to, uint64_t size)
{
    int rc = pshm_segment_check(segment, offset, size, PSHM_READ);
    if (PSHM_UNLIKELY(rc))
        return rc;
    memmove(to, segment->base + offset, size);
    return pshm_segment_verify(segment);
}

/* Copies `size` bytes in at `offset`. No partial copies. `from` may be memory of the segment itself.
 * Errors: as pshm_segment_check; PSHM_ELOST.
 * Safe: threads that entered. */
static inline int pshm_segment_write(pshm_segment *segment, uint64_t offset, const void *from, uint64_t size)
{
    int rc = pshm_segment_check(segment, offset, size, PSHM_WRITE);
    if (PSHM_UNLIKELY(rc))
        return rc;
    memmove(segment->base + offset, from, size);
    return pshm_segment_verify(segment);
}

/* Sets `size` bytes at `offset` to `byte`; moves `size` bytes inside the segment (they may overlap).
 * Errors: as pshm_segment_read. */
PSHM_API int pshm_segment_fill(pshm_segment *segment, int byte, uint64_t offset, uint64_t size);
PSHM_API int pshm_segment_copy(pshm_segment *segment, uint64_t target, uint64_t source, uint64_t size);

/* Finds the first place of `data` that lies wholly in [start, end): its offset in *at, or -1.
 * Errors: as pshm_segment_read. */
PSHM_API int pshm_segment_find(pshm_segment *segment, const void *data, uint64_t length, uint64_t start, uint64_t end,
                               int64_t *at);

/* msync(2) of the pages around a range: waiting (MS_SYNC) or not (MS_ASYNC), and with MS_INVALIDATE.
 * Errors: PSHM_ECLOSED, PSHM_EBOUNDS; -EBUSY (invalidate of locked pages), -EIO.
 * Blocks: until written, if `wait`. */
PSHM_API int pshm_segment_flush(pshm_segment *segment, uint64_t offset, uint64_t size, bool wait, bool invalidate);

/* mprotect(2) of the pages around a range. `access` is RW, R or NONE; rights above those of the descriptor are -EACCES.
 * Errors: PSHM_ECLOSED, PSHM_EBOUNDS, PSHM_EACCESSNAME (COPY); PSHM_EBUFFERS where it would take a right away from
 *   somebody inside; -EACCES, -ENOMEM. */
PSHM_API int pshm_segment_protect(pshm_segment *segment, pshm_access access, uint64_t offset, uint64_t size);

/* madvise(2) by name ("willneed", "sequential", ...; docs/segment.rst has the list) on the pages around a range.
 * Advice that destroys ("remove", "dontneed" on copy on write) takes only the pages wholly inside.
 * Errors: PSHM_EADVICE, PSHM_ECLOSED, PSHM_EBOUNDS; PSHM_EBUFFERS (it destroys, and somebody is inside); -EINVAL (not
 *   for this mapping), -EFAULT (populate beyond the file), -ENOMEM. */
PSHM_API int pshm_segment_advise(pshm_segment *segment, const char *advice, uint64_t offset, uint64_t size);

/* May the advice take long, so that a caller with a lock of its own should let that go meanwhile? False for no advice.
 * Safe: anywhere, signal handlers too. */
PSHM_API bool pshm_advice_is_slow(const char *advice);

/* The name of advice number `index`, counting from 0, NULL past the last: for lists and tests.
 * Owns: a static string. */
PSHM_API const char *pshm_advice_name(size_t index);

/* Locks the pages around a range into memory and unlocks them: mlock2(2), munlock(2). With `size` PSHM_UNSET the whole
 * segment; on System V then SHM_LOCK and SHM_UNLOCK, which hold for everybody.
 * Errors: PSHM_ECLOSED, PSHM_EBOUNDS; -ENOMEM and -EPERM (RLIMIT_MEMLOCK). */
PSHM_API int pshm_segment_pin(pshm_segment *segment, uint64_t offset, uint64_t size, bool on_fault);
PSHM_API int pshm_segment_unpin(pshm_segment *segment, uint64_t offset, uint64_t size);

/* Sets the size of the object so that the window ends at its new end, and maps that. Growth reserves as creation did.
 * What others have mapped stays; what they touch beyond a new end is lost to them.
 * Errors: PSHM_ECLOSED, PSHM_EZEROSIZE, PSHM_ETOOBIG, PSHM_EREADONLY, PSHM_ELOST; PSHM_EBUFFERS (shrinking, or a move of a copy on
 *   write mapping, with raw users inside); -EOPNOTSUPP (posix, file, memfd and fd alone), -EPERM (sealed), -ENOSPC. */
PSHM_API int pshm_segment_resize(pshm_segment *segment, uint64_t size);

/* What the kernel keeps of a segment. A field that the kind does not have is PSHM_NONE. Times are seconds since 1970. */
#define PSHM_NONE INT64_MIN
#define PSHM_STAT_MAP(X)                                                                                               \
    X(size, "bytes")                                                                                                   \
    X(mode, "permissions")                                                                                             \
    X(uid, "owner")                                                                                                    \
    X(gid, "group of the owner")                                                                                       \
    X(key, "System V: the key, 0 for private")                                                                         \
    X(id, "System V: the id")                                                                                          \
    X(cuid, "System V: creator")                                                                                       \
    X(cgid, "System V: group of the creator")                                                                          \
    X(attaches, "System V: attachments now (shm_nattch)")                                                              \
    X(creator_pid, "System V: process that created it")                                                                \
    X(last_pid, "System V: process that attached or detached last")                                                    \
    X(attach_time, "System V: last attach, 0 for never")                                                               \
    X(detach_time, "System V: last detach, 0 for never")                                                               \
    X(change_time, "last change of owner, mode or size")                                                               \
    X(device, "device number")                                                                                         \
    X(inode, "inode number")                                                                                           \
    X(links, "names that lead to it")                                                                                  \
    X(allocated, "bytes that are really there")                                                                        \
    X(access_time, "last read")                                                                                        \
    X(modify_time, "last write through a descriptor")

typedef struct pshm_stat {
    pshm_segment_kind kind;
    char address[304]; /* of what pshm_list found */
#define X(name, text) int64_t name;
    PSHM_STAT_MAP(X)
#undef X
} pshm_stat;

/* What the kernel says of the segment: shmctl IPC_STAT, or fstat. anon and zero have a size and nothing else.
 * Errors: PSHM_ECLOSED; -EIDRM, -EACCES. */
PSHM_API int pshm_segment_stat(pshm_segment *segment, pshm_stat *out);

/* Changes owner, group and mode (IPC_SET; fchown and fchmod where there is a descriptor); unset is -1 or
 * PSHM_MODE_UNSET and leaves it.
 * Errors: PSHM_ECLOSED, PSHM_EMODE, PSHM_EOWNERID; -EPERM, -EOPNOTSUPP (anon, zero). */
PSHM_API int pshm_segment_set(pshm_segment *segment, int64_t uid, int64_t gid, uint32_t mode);

/* Removes the name, or the System V id, if it still leads to this very object; the memory goes with its last user.
 * Kinds without a name have nothing to remove: 0.
 * Errors: PSHM_ECLOSED; -ENOENT (no longer there, or another object has the name now), -EIDRM, -EACCES, -EPERM. */
PSHM_API int pshm_segment_unlink(pshm_segment *segment);

/* Two numbers that no other object has while this one lives: device and inode, or 0 and the System V id. Both 0 for
 * anon and zero.
 * Errors: PSHM_ECLOSED. */
PSHM_API int pshm_segment_identity(pshm_segment *segment, uint64_t *device, uint64_t *inode);

/* The same questions by address, without attaching. exists: 1 or 0. anon, zero, memfd and sysv:private name nothing
 * that could be asked: -EOPNOTSUPP.
 * Errors: those of pshm_address_parse; -ENOENT, -EACCES, -EIDRM, -EOPNOTSUPP. */
PSHM_API int pshm_stat_address(const char *address, size_t length, pshm_stat *out);
PSHM_API int pshm_exists(const char *address, size_t length);
PSHM_API int pshm_unlink(const char *address, size_t length);

/* Every POSIX and System V segment that this process can see.
 * Errors: -ENOMEM, and what reading /dev/shm and /proc/sysvipc/shm says.
 * Owns: *out is the caller's; pshm_list_free frees it. */
PSHM_API int pshm_list(pshm_stat **out, size_t *count);
PSHM_API void pshm_list_free(pshm_stat *list);

#ifdef __cplusplus
}
#endif
#endif
