/* SPDX-License-Identifier: MIT */
#include "os/sysv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#include "os/file.h"

#ifndef SHM_HUGE_SHIFT
#define SHM_HUGE_SHIFT 26
#endif
#ifndef SHM_DEST
#define SHM_DEST 01000
#endif

static int checked(int rc)
{
    return rc < 0 ? -errno : rc;
}

int pshm_os_sysv_ftok(const char *path, int project, int32_t *key)
{
    errno = 0;
    key_t made = ftok(path, project);
    if (made == (key_t)-1 && errno) /* -1 may be a key */
        return -errno;
    *key = (int32_t)made;
    return 0;
}

int pshm_os_sysv_create(int32_t key, uint64_t size, uint32_t mode, bool noreserve, uint64_t hugepage)
{
    int flags = IPC_CREAT | IPC_EXCL | (int)mode;
    if (noreserve)
        flags |= SHM_NORESERVE;
    if (hugepage)
        flags |= SHM_HUGETLB | (int)((unsigned)__builtin_ctzll(hugepage) << SHM_HUGE_SHIFT);
    return checked(shmget((key_t)key, size, flags));
}

int pshm_os_sysv_find(int32_t key)
{
    return checked(shmget((key_t)key, 0, 0));
}

int pshm_os_sysv_attach(int32_t id, uint64_t at, bool round, bool readonly, bool exec, void **address)
{
    int flags = (readonly ? SHM_RDONLY : 0) | (exec ? SHM_EXEC : 0) | (round ? SHM_RND : 0);
    void *p = shmat(id, (void *)(uintptr_t)at, flags);
    if (p == (void *)-1)
        return -errno;
    *address = p;
    return 0;
}

int pshm_os_sysv_detach(void *address)
{
    return checked(shmdt(address));
}

int pshm_os_sysv_stat(int32_t id, pshm_stat *out)
{
    struct shmid_ds ds;
    if (shmctl(id, IPC_STAT, &ds))
        return -errno;
    out->size = (int64_t)ds.shm_segsz;
    out->mode = ds.shm_perm.mode & 0777;
    out->uid = ds.shm_perm.uid;
    out->gid = ds.shm_perm.gid;
    out->key = (int64_t)(uint32_t)ds.shm_perm.__key;
    out->id = id;
    out->cuid = ds.shm_perm.cuid;
    out->cgid = ds.shm_perm.cgid;
    out->attaches = (int64_t)ds.shm_nattch;
    out->creator_pid = ds.shm_cpid;
    out->last_pid = ds.shm_lpid;
    out->attach_time = ds.shm_atime;
    out->detach_time = ds.shm_dtime;
    out->change_time = ds.shm_ctime;
    return (ds.shm_perm.mode & SHM_DEST) ? -EIDRM : 0;
}

int pshm_os_sysv_set(int32_t id, int64_t uid, int64_t gid, uint32_t mode)
{
    struct shmid_ds ds;
    if (shmctl(id, IPC_STAT, &ds))
        return -errno;
    if (uid >= 0)
        ds.shm_perm.uid = (uid_t)uid;
    if (gid >= 0)
        ds.shm_perm.gid = (gid_t)gid;
    if (mode != PSHM_MODE_UNSET)
        ds.shm_perm.mode = (unsigned short)mode;
    return checked(shmctl(id, IPC_SET, &ds));
}

int pshm_os_sysv_remove(int32_t id)
{
    struct shmid_ds ds;
    /* The kernel marks again what is marked, and calls that a success. */
    if (!shmctl(id, IPC_STAT, &ds) && (ds.shm_perm.mode & SHM_DEST))
        return -EIDRM;
    return checked(shmctl(id, IPC_RMID, NULL));
}

int pshm_os_sysv_lock(int32_t id, bool lock)
{
    return checked(shmctl(id, lock ? SHM_LOCK : SHM_UNLOCK, NULL));
}

int pshm_os_sysv_each(int (*each)(void *context, const pshm_stat *stat), void *context)
{
    FILE *table = fopen("/proc/sysvipc/shm", "re");
    if (!table)
        return -errno;
    char line[512];
    int rc = 0;
    while (rc == 0 && fgets(line, sizeof line, table)) {
        pshm_stat st;
        pshm_os_stat_clear(&st);
        int32_t key;
        uint32_t mode;
        uint64_t rss;
        int n = sscanf(line,
                       "%" SCNd32 " %" SCNd64 " %" SCNo32 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64
                       " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNu64,
                       &key, &st.id, &mode, &st.size, &st.creator_pid, &st.last_pid, &st.attaches, &st.uid, &st.gid,
                       &st.cuid, &st.cgid, &st.attach_time, &st.detach_time, &st.change_time, &rss);
        if (n < 15) /* the heading */
            continue;
        st.key = (int64_t)(uint32_t)key;
        st.mode = mode & 0777;
        st.allocated = (int64_t)rss;
        rc = each(context, &st);
    }
    fclose(table);
    return rc;
}
