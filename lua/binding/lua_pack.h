/* SPDX-License-Identifier: MIT
 *
 * The formats of string.pack, read option by option: lua_pack_format.c. What is done with them: lua_pack.c.
 */
#ifndef POLYSHM_LUA_PACK_H
#define POLYSHM_LUA_PACK_H

#include "glue.h"

#define LPSHM_PACK_INTEGER_MAX 16 /* bytes of the longest integer that a format may ask for */

typedef enum lpshm_pack_kind {
    LPSHM_PACK_SIGNED,
    LPSHM_PACK_UNSIGNED,
    LPSHM_PACK_FLOAT,
    LPSHM_PACK_DOUBLE,
    LPSHM_PACK_CHARS,  /* cn */
    LPSHM_PACK_STRING, /* sn */
    LPSHM_PACK_ZSTRING,
    LPSHM_PACK_PAD,   /* x */
    LPSHM_PACK_ALIGN, /* X */
    LPSHM_PACK_NONE,  /* an option that only sets something */
    LPSHM_PACK_END,
} lpshm_pack_kind;

typedef struct lpshm_pack {
    lua_State *L;
    const char *next; /* in the format */
    int align;        /* the largest alignment, by "!" */
    bool big;
} lpshm_pack;

typedef struct lpshm_pack_item {
    lpshm_pack_kind kind;
    int size;     /* bytes of the value, of its length for s */
    uint64_t pad; /* bytes of alignment before it */
} lpshm_pack_item;

/* Starts to read a format. */
lpshm_pack lpshm_pack_start(lua_State *L, const char *format);

/* The next option, where `done` bytes of data are behind it. Raises for what is none. */
lpshm_pack_item lpshm_pack_next(lpshm_pack *reader, uint64_t done);

#endif
