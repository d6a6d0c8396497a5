/* SPDX-License-Identifier: MIT */
#include "core/findings.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes room for `size` bytes more, and a NUL. */
static bool has_room(pshm_findings *f, size_t size)
{
    if (f->room - f->size > size)
        return true;
    size_t room = f->room * 2 > f->size + size + 1 ? f->room * 2 : f->size + size + 1;
    char *text = realloc(f->text, room);
    if (!text)
        return false;
    f->text = text;
    f->room = room;
    return true;
}

void pshm_find(pshm_findings *f, uint64_t place, const char *format, ...)
{
    char where[32];
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int before = snprintf(where, sizeof where, "at %" PRIu64 ": ", place);
    int size = vsnprintf(NULL, 0, format, arguments);
    if (before > 0 && size >= 0 && has_room(f, (size_t)before + (size_t)size + 1)) {
        char *to = f->text + f->size;
        memcpy(to, where, (size_t)before);
        vsnprintf(to + before, (size_t)size + 1, format, again);
        to[before + size] = '\n';
        to[before + size + 1] = '\0';
        f->size += (size_t)before + (size_t)size + 1;
        f->count++;
    } else {
        f->out_of_memory = true;
    }
    va_end(again);
    va_end(arguments);
}
