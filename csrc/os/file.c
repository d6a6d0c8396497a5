/* SPDX-License-Identifier: MIT */
#include "os/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT 26
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#define MFD_EXEC 0x0010U
#endif

/* A chunk takes about 10 ms to reserve; signals make it smaller, so that it ends between two of them. */
#define RESERVE_CHUNK (UINT64_C(64) << 20)
#define LEAST_CHUNK (UINT64_C(64) << 10)

static int checked(long rc)
{
    return rc < 0 ? -errno : (int)rc;
}

int pshm_os_file_open(const char *path, bool write, bool nofollow, bool inherit)
{
    int flags = (write ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_NOCTTY | (nofollow ? O_NOFOLLOW : 0) |
                (inherit ? 0 : O_CLOEXEC);
    return checked(open(path, flags));
}

static int directory_of(const char *path, char *directory)
{
    const char *slash = strrchr(path, '/');
    size_t length = !slash ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (length >= PATH_MAX)
        return -ENAMETOOLONG;
    memcpy(directory, path, length);
    directory[length] = '\0';
    if (!length)
        strcpy(directory, ".");
    return 0;
}

/* File systems without O_TMPFILE get a name that nobody guesses, with O_EXCL. */
static int begin_named(const char *directory, int flags, pshm_os_draft *draft)
{
    for (;;) {
        uint64_t random[2];
        if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
            return -errno;
        int length = snprintf(draft->temporary, sizeof draft->temporary, "%s/.polyshm-%016llx%016llx", directory,
                              (unsigned long long)random[0], (unsigned long long)random[1]);
        if (length < 0 || (size_t)length >= sizeof draft->temporary)
            return -ENAMETOOLONG;
        int fd = open(draft->temporary, flags | O_CREAT | O_EXCL, 0600);
        if (fd >= 0 || errno != EEXIST)
            return checked(fd);
    }
}

int pshm_os_draft_begin(const char *path, uint32_t mode, bool inherit, pshm_os_draft *draft)
{
    char directory[PATH_MAX];
    int flags = O_RDWR | (inherit ? 0 : O_CLOEXEC);
    int fd = directory_of(path, directory);
    if (fd < 0)
        return fd;
    draft->temporary[0] = '\0';
    fd = checked(open(directory, flags | O_TMPFILE, 0600));
    if (fd == -EOPNOTSUPP || fd == -EISDIR || fd == -EINVAL)
        fd = begin_named(directory, flags, draft);
    if (fd < 0)
        return fd;
    draft->fd = fd;
    int rc = checked(fchmod(fd, mode)); /* open's own was narrowed by the umask */
    if (rc < 0) {
        pshm_os_draft_forget(draft);
        pshm_os_close(fd);
    }
    return rc;
}

/* A file system without hard links can still rename without replacing. */
static int publish_named(pshm_os_draft *draft, const char *path)
{
    int rc = checked(link(draft->temporary, path));
    if (rc == 0)
        unlink(draft->temporary);
    else if (rc == -EPERM || rc == -EOPNOTSUPP || rc == -ENOSYS)
        rc = checked(renameat2(AT_FDCWD, draft->temporary, AT_FDCWD, path, RENAME_NOREPLACE));
    if (rc == 0)
        draft->temporary[0] = '\0';
    return rc;
}

int pshm_os_draft_publish(pshm_os_draft *draft, const char *path)
{
    if (draft->temporary[0])
        return publish_named(draft, path);
    /* Without a path, and so faster: for privileged callers, and since 6.10 for whoever opened the file. */
    int rc = checked(linkat(draft->fd, "", AT_FDCWD, path, AT_EMPTY_PATH));
    if (rc != -ENOENT && rc != -EPERM)
        return rc;
    char self[40];
    snprintf(self, sizeof self, "/proc/self/fd/%d", draft->fd);
    return checked(linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW));
}

void pshm_os_draft_forget(pshm_os_draft *draft)
{
    if (draft->temporary[0])
        unlink(draft->temporary);
    draft->temporary[0] = '\0';
}

bool pshm_os_path_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

bool pshm_os_path_is_link(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
}

int pshm_os_room_for(int fd, uint64_t size)
{
    struct statvfs fs;
    if (fstatvfs(fd, &fs) || !fs.f_blocks) /* without a limit, or it does not say */
        return 0;
    return size / fs.f_frsize > fs.f_bfree ? -ENOSPC : 0;
}

int pshm_os_memfd(const char *name, bool inherit, bool exec, uint64_t hugepage)
{
    unsigned flags = MFD_ALLOW_SEALING | (inherit ? 0 : MFD_CLOEXEC);
    if (hugepage)
        flags |= MFD_HUGETLB | ((unsigned)__builtin_ctzll(hugepage) << MFD_HUGE_SHIFT);
    int fd = memfd_create(name, flags | (exec ? MFD_EXEC : MFD_NOEXEC_SEAL));
    if (fd < 0 && errno == EINVAL) /* a kernel before 6.3 does not know the two */
        fd = memfd_create(name, flags);
    return checked(fd);
}

int pshm_os_seal_shrink(int fd)
{
    return checked(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
}

int pshm_os_duplicate(int fd, bool inherit)
{
    return checked(fcntl(fd, inherit ? F_DUPFD : F_DUPFD_CLOEXEC, 3));
}

int pshm_os_reopen(int fd, bool write)
{
    char self[40];
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    return pshm_os_file_open(self, write, false, false);
}

void pshm_os_close(int fd)
{
    int error = errno;
    close(fd);
    errno = error;
}

int pshm_os_file_rights(int fd, uint32_t *rights)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -errno;
    *rights = 0;
    if ((flags & O_ACCMODE) != O_WRONLY)
        *rights |= PSHM_READ;
    if ((flags & O_ACCMODE) != O_RDONLY)
        *rights |= PSHM_WRITE;
    return 0;
}

int pshm_os_file_size(int fd, uint64_t *size, uint64_t *page)
{
    struct stat st;
    struct statfs fs;
    *page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (fstat(fd, &st))
        return -errno;
    if ((uint64_t)st.st_blksize > *page && fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC)
        *page = (uint64_t)fs.f_bsize;
    if (S_ISREG(st.st_mode)) {
        *size = (uint64_t)st.st_size;
    } else if (S_ISBLK(st.st_mode)) {
        off_t end = lseek(fd, 0, SEEK_END);
        if (end < 0)
            return -errno;
        *size = (uint64_t)end;
    } else if (S_ISCHR(st.st_mode)) {
        *size = PSHM_UNSET;
    } else {
        return -ENODEV;
    }
    return 0;
}

int pshm_os_truncate(int fd, uint64_t size)
{
    int rc;
    do
        rc = checked(ftruncate(fd, (off_t)size));
    while (rc == -EINTR);
    return rc;
}

/* One byte per block makes the block real, where the file system cannot allocate without writing. */
static int reserve_by_writing(int fd, uint64_t offset, uint64_t size)
{
    struct stat st;
    if (fstat(fd, &st))
        return -errno;
    if ((uint64_t)st.st_size < offset + size && ftruncate(fd, (off_t)(offset + size)))
        return -errno;
    uint64_t block = st.st_blksize > 0 ? (uint64_t)st.st_blksize : 4096;
    for (uint64_t at = offset; at < offset + size; at = (at / block + 1) * block)
        while (pwrite(fd, "", 1, (off_t)at) != 1)
            if (errno != EINTR)
                return -errno;
    return 0;
}

int pshm_os_reserve(int fd, uint64_t offset, uint64_t size)
{
    uint64_t limit = RESERVE_CHUNK;
    while (size) {
        uint64_t chunk = size < limit ? size : limit;
        if (fallocate(fd, 0, (off_t)offset, (off_t)chunk)) {
            if (errno == EINTR) { /* undone: what takes less time ends before the next signal */
                limit = limit > LEAST_CHUNK ? limit / 2 : LEAST_CHUNK;
                continue;
            }
            if (errno == EOPNOTSUPP)
                return reserve_by_writing(fd, offset, size);
            return -errno;
        }
        offset += chunk;
        size -= chunk;
    }
    return 0;
}

bool pshm_os_file_is_memory(int fd)
{
    struct statfs fs;
    return !fstatfs(fd, &fs) && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

void pshm_os_stat_clear(pshm_stat *out)
{
    memset(out, 0, sizeof *out);
#define X(name, text) out->name = PSHM_NONE;
    PSHM_STAT_MAP(X)
#undef X
}

static void fill_stat(const struct stat *st, pshm_stat *out)
{
    out->size = st->st_size;
    out->mode = st->st_mode & 07777;
    out->uid = st->st_uid;
    out->gid = st->st_gid;
    out->device = (int64_t)st->st_dev;
    out->inode = (int64_t)st->st_ino;
    out->links = (int64_t)st->st_nlink;
    out->allocated = (int64_t)st->st_blocks * 512;
    out->access_time = st->st_atim.tv_sec;
    out->modify_time = st->st_mtim.tv_sec;
    out->change_time = st->st_ctim.tv_sec;
}

int pshm_os_file_stat(int fd, pshm_stat *out)
{
    struct stat st;
    if (fstat(fd, &st))
        return -errno;
    fill_stat(&st, out);
    return 0;
}

int pshm_os_path_stat(const char *path, pshm_stat *out)
{
    struct stat st;
    if (stat(path, &st))
        return -errno;
    fill_stat(&st, out);
    return 0;
}

int pshm_os_file_set(int fd, int64_t uid, int64_t gid, uint32_t mode)
{
    if ((uid >= 0 || gid >= 0) && fchown(fd, (uid_t)uid, (gid_t)gid))
        return -errno;
    return mode == PSHM_MODE_UNSET ? 0 : checked(fchmod(fd, mode));
}

int pshm_os_path_unlink(const char *path)
{
    return checked(unlink(path));
}
