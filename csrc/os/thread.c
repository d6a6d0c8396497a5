/* SPDX-License-Identifier: MIT
 *
 * Who a thread is beyond its number, and whether it is gone: proc(5).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "os/process.h"

/* The whole of a small file; its length, or -errno. */
static int read_all(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t got;
    do
        got = read(fd, text, size - 1);
    while (got < 0 && errno == EINTR);
    int rc = got < 0 ? -errno : (int)got;
    close(fd);
    text[got > 0 ? got : 0] = '\0';
    return rc;
}

/* State and start of a thread of this PID namespace. 0 or -errno. */
static int thread_stat(uint32_t pid, uint32_t tid, char *state, uint64_t *start)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%u/task/%u/stat", pid, tid);
    int rc = read_all(path, text, sizeof text);
    if (rc <= 0)
        return rc ? rc : -ESRCH;
    const char *at = strrchr(text, ')'); /* the name may have anything in it */
    unsigned long long value = 0;
    char letter = 0;
    if (!at || sscanf(at + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                      &letter, &value) != 2)
        return -EINVAL;
    *state = letter;
    *start = value;
    return 0;
}

static uint64_t own_space; /* the inode of the PID namespace above, the process's id below */

/* Of the calling process; unshare(2) changes that of its children alone, which are asked anew. */
static uint64_t own_pid_space(void)
{
    uint64_t was = __atomic_load_n(&own_space, __ATOMIC_RELAXED);
    if ((uint32_t)was == pshm_os_pid())
        return was >> 32;
    struct stat st;
    if (stat("/proc/self/ns/pid", &st))
        return 0;
    __atomic_store_n(&own_space, (uint64_t)(uint32_t)st.st_ino << 32 | pshm_os_pid(), __ATOMIC_RELAXED);
    return (uint32_t)st.st_ino;
}

void pshm_os_thread_now(pshm_os_thread *out)
{
    char state;
    *out = (pshm_os_thread){.pid = pshm_os_pid(), .tid = pshm_os_tid(), .pid_space = own_pid_space()};
    if (thread_stat(out->pid, out->tid, &state, &out->start))
        out->start = 0;
}

void pshm_os_thread_forget(void)
{
    __atomic_store_n(&own_space, 0, __ATOMIC_RELAXED);
}

bool pshm_os_thread_lives(const pshm_os_thread *thread)
{
    char state;
    uint64_t start, space = own_pid_space();
    return space && space == thread->pid_space && thread->start &&
           thread_stat(thread->pid, thread->tid, &state, &start) == 0 && start == thread->start && state != 'Z' &&
           state != 'X';
}

bool pshm_os_thread_is_gone(const pshm_os_thread *thread)
{
    char state;
    uint64_t start, space = own_pid_space();
    if (!space || space != thread->pid_space || !thread->start || !thread->pid || !thread->tid)
        return false;
    int rc = thread_stat(thread->pid, thread->tid, &state, &start);
    if (rc == 0)
        return start != thread->start || state == 'Z' || state == 'X';
    if (rc != -ENOENT && rc != -ESRCH)
        return false;
    /* Only a /proc that knows this very thread can say who is not there. */
    return thread_stat(pshm_os_pid(), pshm_os_tid(), &state, &start) == 0;
}

void pshm_os_boot_id(uint64_t id[2])
{
    static uint64_t known[2]; /* a machine boots once in the life of a process */
    static uint32_t ready;
    if (!__atomic_load_n(&ready, __ATOMIC_ACQUIRE)) {
        char text[64];
        uint64_t value[2] = {0, 0};
        if (read_all("/proc/sys/kernel/random/boot_id", text, sizeof text) > 0) {
            int digits = 0;
            for (const char *c = text; *c && digits < 32; c++) {
                int digit = *c >= '0' && *c <= '9' ? *c - '0' : *c >= 'a' && *c <= 'f' ? *c - 'a' + 10 : -1;
                if (digit < 0)
                    continue;
                value[digits / 16] = value[digits / 16] << 4 | (uint64_t)digit;
                digits++;
            }
        }
        __atomic_store_n(&known[0], value[0], __ATOMIC_RELAXED); /* whoever else does so stores the same */
        __atomic_store_n(&known[1], value[1], __ATOMIC_RELAXED);
        __atomic_store_n(&ready, 1, __ATOMIC_RELEASE);
    }
    id[0] = __atomic_load_n(&known[0], __ATOMIC_RELAXED);
    id[1] = __atomic_load_n(&known[1], __ATOMIC_RELAXED);
}

void pshm_os_random(uint64_t *out, unsigned count)
{
    size_t size = count * sizeof *out;
    bool zero = true;
    do {
        if (getrandom(out, size, 0) != (ssize_t)size)
            continue;
        for (unsigned i = 0; i < count; i++)
            zero &= !out[i];
    } while (zero);
}

bool pshm_os_fence_register(void)
{
    static uint32_t registered; /* the process that has; a child asks anew */
    uint32_t pid = pshm_os_pid();
    if (__atomic_load_n(&registered, __ATOMIC_RELAXED) == pid)
        return true;
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0))
        return false;
    __atomic_store_n(&registered, pid, __ATOMIC_RELAXED);
    return true;
}

bool pshm_os_fence_all(bool registered)
{
    return syscall(SYS_membarrier, registered ? MEMBARRIER_CMD_GLOBAL_EXPEDITED : MEMBARRIER_CMD_GLOBAL, 0, 0) == 0;
}
