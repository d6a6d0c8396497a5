/* SPDX-License-Identifier: MIT */
#include <polyshm/address.h>

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>

#include <polyshm/error.h>

_Static_assert(PSHM_ADDRESS_MAX >= PATH_MAX + 16, "an address holds a kind and any path");

#define NAME_LIMIT 255  /* NAME_MAX of tmpfs, without the slash */
#define MEMFD_LIMIT 249 /* memfd_create(2) */

static const char *const kinds[] = {
#define X(name, text) text,
    PSHM_SEGMENT_MAP(X)
#undef X
};

const char *pshm_kind_name(pshm_segment_kind kind)
{
    return kind < PSHM_SEGMENT_KINDS ? kinds[kind] : NULL;
}

/* All of `text` as a number in `base` not above `limit`. */
static bool read_number(const char *text, size_t length, unsigned base, uint64_t limit, uint64_t *out)
{
    uint64_t value = 0;
    if (!length)
        return false;
    for (size_t i = 0; i < length; i++) {
        unsigned digit = text[i] >= '0' && text[i] <= '9'   ? (unsigned)(text[i] - '0')
                         : text[i] >= 'a' && text[i] <= 'f' ? (unsigned)(text[i] - 'a') + 10
                         : text[i] >= 'A' && text[i] <= 'F' ? (unsigned)(text[i] - 'A') + 10
                                                            : 99;
        if (digit >= base || __builtin_mul_overflow(value, base, &value) ||
            __builtin_add_overflow(value, digit, &value) || value > limit)
            return false;
    }
    *out = value;
    return true;
}

static bool read_hex_or_decimal(const char *text, size_t length, uint64_t limit, uint64_t *out)
{
    if (length > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
        return read_number(text + 2, length - 2, 16, limit, out);
    return read_number(text, length, 10, limit, out);
}

static int parse_posix(const char *rest, size_t length)
{
    if (length && rest[0] == '/' && length - 1 > NAME_LIMIT)
        return -ENAMETOOLONG;
    if (length < 2 || rest[0] != '/' || memchr(rest + 1, '/', length - 1) || (length == 2 && rest[1] == '.') ||
        (length == 3 && rest[1] == '.' && rest[2] == '.'))
        return PSHM_ENAME;
    return 0;
}

static int parse_ftok(const char *rest, size_t length, const char *hash, pshm_address *out)
{
    const char *project = hash + 1;
    size_t left = (size_t)(rest + length - project);
    uint64_t value;
    if (hash == rest)
        return PSHM_EADDRESS;
    if (left == 1)
        value = (unsigned char)*project;
    else if (left < 3 || project[0] != '0' || !read_hex_or_decimal(project, left, 255, &value) || value == 0)
        return PSHM_EPROJECT;
    out->by = PSHM_SYSV_FTOK;
    out->number = (int32_t)value;
    out->name[hash - rest] = '\0';
    return 0;
}

static int parse_sysv(const char *rest, size_t length, pshm_address *out)
{
    uint64_t value;
    const char *hash = memrchr(rest, '#', length);
    if (hash)
        return parse_ftok(rest, length, hash, out);
    if (length == 7 && memcmp(rest, "private", 7) == 0) {
        out->by = PSHM_SYSV_PRIVATE;
    } else if (length > 3 && memcmp(rest, "id=", 3) == 0 && read_number(rest + 3, length - 3, 10, INT32_MAX, &value)) {
        out->by = PSHM_SYSV_ID;
        out->number = (int32_t)value;
    } else if (read_hex_or_decimal(rest, length, UINT32_MAX, &value) && value) {
        out->by = PSHM_SYSV_KEY;
        out->number = (int32_t)(uint32_t)value;
    } else {
        return PSHM_EADDRESS;
    }
    out->name[0] = '\0';
    return 0;
}

int pshm_address_parse(const char *text, size_t length, pshm_address *out)
{
    const char *colon = memchr(text, ':', length);
    size_t prefix = colon ? (size_t)(colon - text) : 0;
    int kind = 0;
    while (kind < PSHM_SEGMENT_KINDS && (strlen(kinds[kind]) != prefix || memcmp(kinds[kind], text, prefix) != 0))
        kind++;
    if (!colon || kind == PSHM_SEGMENT_KINDS)
        return PSHM_EADDRESS;
    const char *rest = colon + 1;
    size_t left = length - prefix - 1;
    if (memchr(rest, '\0', left))
        return PSHM_ENUL;
    if (left >= PATH_MAX)
        return -ENAMETOOLONG;
    out->kind = (pshm_segment_kind)kind;
    out->by = PSHM_SYSV_KEY;
    out->number = 0;
    memcpy(out->name, rest, left);
    out->name[left] = '\0';
    uint64_t value;
    switch (out->kind) {
    case PSHM_SEGMENT_POSIX:
        return parse_posix(rest, left);
    case PSHM_SEGMENT_SYSV:
        return parse_sysv(rest, left, out);
    case PSHM_SEGMENT_FILE:
        return left ? 0 : PSHM_EADDRESS;
    case PSHM_SEGMENT_MEMFD:
        return left <= MEMFD_LIMIT ? 0 : -ENAMETOOLONG;
    case PSHM_SEGMENT_FD:
        if (!read_number(rest, left, 10, INT32_MAX, &value))
            return PSHM_EADDRESS;
        out->number = (int32_t)value;
        out->name[0] = '\0';
        return 0;
    default: /* anon, zero */
        return left ? PSHM_EADDRESS : 0;
    }
}

int pshm_size_parse(const char *text, size_t length, uint64_t *out)
{
    unsigned shift = 0;
    uint64_t value;
    if (length) {
        char unit = text[length - 1];
        shift = unit == 'K' || unit == 'k' ? 10 : unit == 'M' || unit == 'm' ? 20 : unit == 'G' || unit == 'g' ? 30 : 0;
        length -= shift != 0;
    }
    if (!length || length > 20 || !read_number(text, length, 10, UINT64_MAX, &value))
        return PSHM_ESIZE;
    if (value > ((uint64_t)INT64_MAX >> shift))
        return PSHM_ETOOBIG;
    *out = value << shift;
    return 0;
}

int pshm_mode_parse(const char *text, size_t length, uint32_t *out)
{
    uint64_t value;
    if (length > 2 && text[0] == '0' && (text[1] == 'o' || text[1] == 'O')) {
        text += 2;
        length -= 2;
    }
    if (!read_number(text, length, 8, 0777, &value))
        return PSHM_EMODE;
    *out = (uint32_t)value;
    return 0;
}
