/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "os/file.h"

int pshm_os_posix_each(int (*each)(void *context, const char *name, const pshm_stat *stat), void *context)
{
    DIR *directory = opendir(PSHM_OS_POSIX_DIR);
    if (!directory)
        return -errno;
    int rc = 0;
    for (struct dirent *entry; rc == 0 && (entry = readdir(directory));) {
        char path[sizeof PSHM_OS_POSIX_DIR + sizeof entry->d_name];
        struct stat st;
        pshm_stat found;
        /* sem_open(3) keeps its semaphores here too; they are no segments. */
        if (strncmp(entry->d_name, "sem.", 4) == 0 ||
            fstatat(dirfd(directory), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode))
            continue;
        snprintf(path, sizeof path, "%s/%s", PSHM_OS_POSIX_DIR, entry->d_name);
        pshm_os_stat_clear(&found);
        if (pshm_os_path_stat(path, &found) == 0) /* it may be gone since */
            rc = each(context, entry->d_name, &found);
    }
    closedir(directory);
    return rc;
}
