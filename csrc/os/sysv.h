/* SPDX-License-Identifier: MIT
 *
 * System V segments: shmget(2), shmat(2), shmctl(2), ftok(3). Functions return 0, an id where they say so, or -errno.
 */
#ifndef PSHM_OS_SYSV_H
#define PSHM_OS_SYSV_H

#include <stdbool.h>
#include <stdint.h>

#include <polyshm/segment.h>

/* IPC_PRIVATE, which no address but sysv:private may name. */
#define PSHM_OS_SYSV_PRIVATE 0

int pshm_os_sysv_ftok(const char *path, int project, int32_t *key);

/* Returns the id of a new segment; -EEXIST where the key is taken. */
int pshm_os_sysv_create(int32_t key, uint64_t size, uint32_t mode, bool noreserve, uint64_t hugepage);

/* Returns the id that a key leads to. */
int pshm_os_sysv_find(int32_t key);

int pshm_os_sysv_attach(int32_t id, uint64_t at, bool round, bool readonly, bool exec, void **address);
int pshm_os_sysv_detach(void *address);

/* -EIDRM for one that is only waiting for its last detach: nobody new may come in. */
int pshm_os_sysv_stat(int32_t id, pshm_stat *out);
int pshm_os_sysv_set(int32_t id, int64_t uid, int64_t gid, uint32_t mode);
int pshm_os_sysv_remove(int32_t id);
int pshm_os_sysv_lock(int32_t id, bool lock);

/* Calls `each` for every segment in /proc/sysvipc/shm, until it returns non-zero; returns that. */
int pshm_os_sysv_each(int (*each)(void *context, const pshm_stat *stat), void *context);

#endif
