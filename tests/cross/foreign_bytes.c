/* SPDX-License-Identifier: MIT
 *
 * A program that knows nothing of polyshm, and shares bytes by the system's own calls:
 *
 *   foreign_bytes KIND NAME make SIZE             makes it, of zeros; for sysv it prints the id
 *   foreign_bytes KIND NAME write OFFSET TEXT     maps it and writes
 *   foreign_bytes KIND NAME read OFFSET SIZE      maps it and prints SIZE bytes
 *   foreign_bytes KIND NAME size | remove
 *
 * KIND and NAME: posix /name, sysv 0x1234 (a key), ftok path (project 'A'), id 42, file path, fd 7.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

static size_t size;

static void fatal(const char *what)
{
    perror(what);
    exit(1);
}

static int is_sysv(const char *kind)
{
    return !strcmp(kind, "sysv") || !strcmp(kind, "ftok") || !strcmp(kind, "id");
}

static int sysv_id(const char *kind, const char *name, size_t create)
{
    if (!strcmp(kind, "id"))
        return atoi(name);
    key_t key = !strcmp(kind, "ftok") ? ftok(name, 'A') : (key_t)strtoul(name, NULL, 0);
    int id = key == -1 ? -1 : shmget(key, create, create ? IPC_CREAT | IPC_EXCL | 0600 : 0);
    if (id < 0)
        fatal("shmget");
    return id;
}

static int descriptor(const char *kind, const char *name, int create)
{
    int flags = O_RDWR | (create ? O_CREAT | O_EXCL : 0), fd;
    if (!strcmp(kind, "posix"))
        fd = shm_open(name, flags, 0600);
    else if (!strcmp(kind, "file"))
        fd = open(name, flags, 0600);
    else
        fd = atoi(name);
    if (fd < 0)
        fatal(name);
    return fd;
}

static unsigned char *map(const char *kind, const char *name)
{
    if (is_sysv(kind)) {
        struct shmid_ds status;
        int id = sysv_id(kind, name, 0);
        void *at = shmat(id, NULL, 0);
        if (at == (void *)-1 || shmctl(id, IPC_STAT, &status))
            fatal("shmat");
        size = status.shm_segsz;
        return at;
    }
    struct stat status;
    int fd = descriptor(kind, name, 0);
    if (fstat(fd, &status))
        fatal("fstat");
    size = (size_t)status.st_size;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        fatal("mmap");
    return at;
}

static void make(const char *kind, const char *name, size_t bytes)
{
    if (is_sysv(kind))
        printf("%d\n", sysv_id(kind, name, bytes));
    else if (ftruncate(descriptor(kind, name, 1), (off_t)bytes))
        fatal("ftruncate");
}

static void remove_it(const char *kind, const char *name)
{
    int rc = is_sysv(kind)            ? shmctl(sysv_id(kind, name, 0), IPC_RMID, NULL)
             : !strcmp(kind, "posix") ? shm_unlink(name)
                                      : unlink(name);
    if (rc)
        fatal("remove");
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    const char *kind = argv[1], *name = argv[2], *verb = argv[3];
    size_t number = argc > 4 ? strtoul(argv[4], NULL, 0) : 0;
    if (!strcmp(verb, "make"))
        make(kind, name, number);
    else if (!strcmp(verb, "remove"))
        remove_it(kind, name);
    else {
        unsigned char *bytes = map(kind, name);
        if (!strcmp(verb, "size"))
            printf("%zu\n", size);
        else if (!strcmp(verb, "write") && argc == 6)
            memcpy(bytes + number, argv[5], strlen(argv[5]));
        else if (!strcmp(verb, "read") && argc == 6)
            fwrite(bytes + number, 1, strtoul(argv[5], NULL, 0), stdout);
        else
            return 2;
    }
    return fflush(stdout) ? 1 : 0;
}
