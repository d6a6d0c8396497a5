/* SPDX-License-Identifier: MIT */
#include "os/memory.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

/* A field of /proc/meminfo in bytes; `otherwise` where it is not there. */
static uint64_t meminfo(const char *field, uint64_t otherwise)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    uint64_t kib = 0;
    size_t length = strlen(field);
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, field, length) == 0 && line[length] == ':' &&
            sscanf(line + length + 1, "%" SCNu64, &kib) == 1) {
            otherwise = kib * 1024;
            break;
        }
    }
    if (file)
        fclose(file);
    return otherwise;
}

/* The number in a one-line file; UINT64_MAX for "max" and for no such file. */
static uint64_t number_in(const char *directory, const char *name)
{
    char path[PATH_MAX];
    uint64_t value = UINT64_MAX;
    int length = snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = length > 0 && (size_t)length < sizeof path ? fopen(path, "re") : NULL;
    if (!file)
        return UINT64_MAX;
    if (fscanf(file, "%" SCNu64, &value) != 1)
        value = UINT64_MAX;
    fclose(file);
    return value;
}

/* What is left in a cgroup and in each above it: a limit holds for all below. */
static uint64_t left_in(const char *root, const char *group, const char *limit_file, const char *usage_file)
{
    char directory[PATH_MAX];
    uint64_t least = UINT64_MAX;
    int length = snprintf(directory, sizeof directory, "%s%s", root, group);
    if (length < 0 || (size_t)length >= sizeof directory)
        return least;
    for (;;) {
        uint64_t limit = number_in(directory, limit_file);
        uint64_t usage = number_in(directory, usage_file);
        if (limit != UINT64_MAX && usage != UINT64_MAX) {
            uint64_t left = limit > usage ? limit - usage : 0;
            if (left < least)
                least = left;
        }
        char *slash = strrchr(directory, '/');
        if (!slash || (size_t)(slash - directory) < strlen(root))
            return least;
        *slash = '\0';
    }
}

uint64_t pshm_os_memory_available(void)
{
    uint64_t least = meminfo("MemAvailable", UINT64_MAX);
    FILE *groups = fopen("/proc/self/cgroup", "re");
    char line[PATH_MAX];
    while (groups && fgets(line, sizeof line, groups)) {
        uint64_t left = UINT64_MAX;
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        if (controllers[1] == '\0') /* cgroup v2 has one line, without controllers */
            left = left_in("/sys/fs/cgroup", path, "memory.max", "memory.current");
        else if (strcmp(controllers + 1, "memory") == 0)
            left = left_in("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes");
        if (left < least)
            least = left;
    }
    if (groups)
        fclose(groups);
    return least;
}

uint64_t pshm_os_hugepage_default(void)
{
    return meminfo("Hugepagesize", 0);
}
