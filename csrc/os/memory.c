/* SPDX-License-Identifier: MIT */
#include "os/memory.h"

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
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

/* Bytes of a cgroup's usage that are page cache, which goes when memory is wanted. */
static uint64_t cache_in(const char *directory, const char *prefix)
{
    char path[PATH_MAX], line[128], name[64];
    uint64_t value, sum = 0;
    int length = snprintf(path, sizeof path, "%s/memory.stat", directory);
    FILE *file = length > 0 && (size_t)length < sizeof path ? fopen(path, "re") : NULL;
    size_t skip = strlen(prefix);
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%63s %" SCNu64, name, &value) == 2 && strncmp(name, prefix, skip) == 0 &&
            (strcmp(name + skip, "active_file") == 0 || strcmp(name + skip, "inactive_file") == 0))
            sum += value;
    }
    if (file)
        fclose(file);
    return sum;
}

/* What is left in a cgroup and in each above it: a limit holds for all below. */
static uint64_t left_in(const char *root, const char *group, bool first)
{
    const char *limit_file = first ? "memory.limit_in_bytes" : "memory.max";
    const char *usage_file = first ? "memory.usage_in_bytes" : "memory.current";
    char directory[PATH_MAX];
    uint64_t least = UINT64_MAX;
    int length = snprintf(directory, sizeof directory, "%s%s", root, group);
    if (length < 0 || (size_t)length >= sizeof directory)
        return least;
    for (;;) {
        uint64_t limit = number_in(directory, limit_file);
        uint64_t usage = number_in(directory, usage_file);
        if (limit != UINT64_MAX && usage != UINT64_MAX) {
            uint64_t cache = usage > limit / 2 ? cache_in(directory, first ? "total_" : "") : 0;
            usage -= cache < usage ? cache : usage;
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

/* Is "memory" in a list such as "memory,hugetlb"? */
static bool names_memory(const char *controllers)
{
    for (const char *at = controllers; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, "memory", 6) == 0 && (at[6] == '\0' || at[6] == ','))
            return true;
    }
    return false;
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
            left = left_in("/sys/fs/cgroup", path, false);
        else if (names_memory(controllers + 1))
            left = left_in("/sys/fs/cgroup/memory", path, true);
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
