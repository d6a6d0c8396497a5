/* SPDX-License-Identifier: MIT
 *
 * What pshm_arena_check finds: lines of text in private memory.
 */
#ifndef PSHM_CORE_FINDINGS_H
#define PSHM_CORE_FINDINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct pshm_findings {
    char *text;
    size_t size, room;
    size_t count;
    bool out_of_memory;
} pshm_findings;

/* Adds "at PLACE: text", as printf writes it. */
void pshm_find(pshm_findings *f, uint64_t place, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
