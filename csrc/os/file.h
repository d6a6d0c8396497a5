/* SPDX-License-Identifier: MIT
 *
 * Objects with a descriptor: files, POSIX segments (files in /dev/shm), memfds. Functions return 0, a descriptor where
 * they say so, or -errno.
 */
#ifndef PSHM_OS_FILE_H
#define PSHM_OS_FILE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include <polyshm/segment.h>

/* Where Linux keeps POSIX segments: shm_overview(7). */
#define PSHM_OS_POSIX_DIR "/dev/shm"

/* Opens what exists; returns the descriptor. Never waits for a FIFO's other end. */
int pshm_os_file_open(const char *path, bool write, bool nofollow, bool inherit);

/* A file that has no name yet. */
typedef struct pshm_os_draft {
    int fd;
    char temporary[PATH_MAX]; /* empty: truly unnamed (O_TMPFILE) */
} pshm_os_draft;

/* Begins a file in the directory where `path` will be. The umask has no say in its mode. */
int pshm_os_draft_begin(const char *path, uint32_t mode, bool inherit, pshm_os_draft *draft);

/* Gives the draft its name in one step; -EEXIST where the name is taken. The descriptor stays open. */
int pshm_os_draft_publish(pshm_os_draft *draft, const char *path);

/* Forgets a draft that was not published; the descriptor is the caller's to close. */
void pshm_os_draft_forget(pshm_os_draft *draft);

/* Does the path exist, and is it itself a symbolic link? Without following it. */
bool pshm_os_path_exists(const char *path);
bool pshm_os_path_is_link(const char *path);

/* -ENOSPC where the file system behind the descriptor has less room than `size`. */
int pshm_os_room_for(int fd, uint64_t size);

/* Creates a memfd that can be sealed, and returns the descriptor. `hugepage` as in pshm_os_map. */
int pshm_os_memfd(const char *name, bool inherit, bool exec, uint64_t hugepage);
int pshm_os_seal_shrink(int fd);

/* Another descriptor of the same open file description; with `reopen` of a description of its own, for writing or not.
 */
int pshm_os_duplicate(int fd, bool inherit);
int pshm_os_reopen(int fd, bool write);
void pshm_os_close(int fd);

/* May the descriptor read, write? As PSHM_READ | PSHM_WRITE. */
int pshm_os_file_rights(int fd, uint32_t *rights);

/* Bytes that can be mapped of a file or block device; -ENODEV for what cannot be mapped at all. A character device
 * has no end: PSHM_UNSET. And the bytes of a page of its mappings, larger on hugetlbfs. */
int pshm_os_file_size(int fd, uint64_t *size, uint64_t *page);
int pshm_os_truncate(int fd, uint64_t size);

/* Takes the room for a range now, so that no later touch can fail; a range beyond the end moves the end. In chunks: a
 * signal costs one chunk, not all. */
int pshm_os_reserve(int fd, uint64_t offset, uint64_t size);

/* Is the file's content memory (tmpfs, memfd)? */
bool pshm_os_file_is_memory(int fd);

/* Sets every field to "not there": what fills one leaves the others alone. */
void pshm_os_stat_clear(pshm_stat *out);

int pshm_os_file_stat(int fd, pshm_stat *out);
int pshm_os_path_stat(const char *path, pshm_stat *out);
int pshm_os_file_set(int fd, int64_t uid, int64_t gid, uint32_t mode);
int pshm_os_path_unlink(const char *path);

/* Calls `each` for every regular file in /dev/shm but named semaphores, until it returns non-zero; returns that. */
int pshm_os_posix_each(int (*each)(void *context, const char *name, const pshm_stat *stat), void *context);

/* Open-file-description locks, fcntl(2). type: 'r', 'w', 'u'. -EAGAIN where somebody is in the way. */
int pshm_os_record_lock(int fd, char type, uint64_t start, uint64_t size);
/* 1 where a lock of `type` would meet another description's lock, else 0. */
int pshm_os_record_blocked(int fd, char type, uint64_t start, uint64_t size);

/* flock(2) of the descriptor's description: 's' shared, 'x' exclusive, 'u' none. -EAGAIN where somebody is in the way:
 * never waits. */
int pshm_os_flock(int fd, char type);

/* Is the file on a file system that other machines share? Their mappings would not be the same memory. */
bool pshm_os_file_is_remote(int fd);

/* How many names lead to it; 0 once it is unlinked. Negative: -errno. */
int pshm_os_file_links(int fd);

#endif
