/* SPDX-License-Identifier: MIT */
#include "os/sleep.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

int pshm_os_event_open(int *out)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    *out = fd;
    return 0;
}

void pshm_os_event_close(int fd)
{
    close(fd);
}

void pshm_os_event_signal(int fd)
{
    /* It fails where it is readable already, and so much that no more fits. */
    if (eventfd_write(fd, 1) < 0)
        errno = 0;
}

void pshm_os_event_drain(int fd)
{
    eventfd_t value;
    if (eventfd_read(fd, &value) < 0)
        errno = 0;
}
