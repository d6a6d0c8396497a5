/* SPDX-License-Identifier: MIT
 *
 * Locks on files, and what kind of file system one is on.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "os/file.h"

static int checked(long rc)
{
    return rc < 0 ? -errno : (int)rc;
}

int pshm_os_record_lock(int fd, char type, uint64_t start, uint64_t size)
{
    struct flock lock = {.l_type = type == 'r'   ? F_RDLCK
                                   : type == 'w' ? F_WRLCK
                                                 : F_UNLCK,
                         .l_whence = SEEK_SET,
                         .l_start = (off_t)start,
                         .l_len = (off_t)size};
    int rc = checked(fcntl(fd, F_OFD_SETLK, &lock));
    return rc == -EACCES ? -EAGAIN : rc;
}

int pshm_os_record_blocked(int fd, char type, uint64_t start, uint64_t size)
{
    struct flock lock = {.l_type = type == 'r' ? F_RDLCK : F_WRLCK,
                         .l_whence = SEEK_SET,
                         .l_start = (off_t)start,
                         .l_len = (off_t)size};
    int rc = checked(fcntl(fd, F_OFD_GETLK, &lock));
    return rc < 0 ? rc : lock.l_type != F_UNLCK;
}

int pshm_os_flock(int fd, char type)
{
    int operation = type == 's' ? LOCK_SH : type == 'x' ? LOCK_EX : LOCK_UN, rc;
    do
        rc = checked(flock(fd, operation | LOCK_NB));
    while (rc == -EINTR);
    return rc;
}

bool pshm_os_file_is_remote(int fd)
{
    struct statfs fs;
    if (fstatfs(fd, &fs))
        return false;
    switch ((unsigned long)fs.f_type) {
    case NFS_SUPER_MAGIC:
    case SMB_SUPER_MAGIC:
    case CIFS_SUPER_MAGIC:
    case SMB2_SUPER_MAGIC:
    case AFS_SUPER_MAGIC:
    case AFS_FS_MAGIC:
    case CODA_SUPER_MAGIC:
    case V9FS_MAGIC:
    case CEPH_SUPER_MAGIC:
    case FUSE_SUPER_MAGIC: /* not always, but nobody can tell */
    case OCFS2_SUPER_MAGIC:
    case 0x0bd00bd0ul: /* Lustre */
    case 0x01161970ul: /* GFS2 */
        return true;
    default:
        return false;
    }
}

int pshm_os_file_links(int fd)
{
    struct stat st;
    return fstat(fd, &st) ? -errno : (int)st.st_nlink;
}
