/* SPDX-License-Identifier: MIT */
#include <polyshm/error.h>

#include <errno.h>
#include <string.h>

#include "os/clock.h"

const char *pshm_version(void)
{
    return PSHM_VERSION;
}

int64_t pshm_deadline(int64_t timeout_ns)
{
    if (timeout_ns < 0)
        return PSHM_FOREVER;
    int64_t deadline;
    return __builtin_add_overflow(pshm_os_now(), timeout_ns, &deadline) ? PSHM_FOREVER : deadline;
}

const char *pshm_error_name(int code)
{
    switch (code) {
#define X(name, number, class_, text)                                                                                  \
    case number:                                                                                                       \
        return #name;
        PSHM_ERROR_MAP(X)
#undef X
    default: {
        const char *name = code < 0 ? strerrorname_np(-code) : NULL;
        return name ? name : "UNKNOWN";
    }
    }
}

const char *pshm_error_text(int code)
{
    switch (code) {
#define X(name, number, class_, text)                                                                                  \
    case number:                                                                                                       \
        return text;
        PSHM_ERROR_MAP(X)
#undef X
    default: {
        const char *text = code < 0 ? strerrordesc_np(-code) : NULL;
        return text ? text : "unknown error";
    }
    }
}

pshm_class pshm_error_class(int code)
{
    switch (code) {
#define X(name, number, class_, text)                                                                                  \
    case number:                                                                                                       \
        return PSHM_CLASS_##class_;
        PSHM_ERROR_MAP(X)
#undef X
    default:
        return PSHM_CLASS_OS;
    }
}
