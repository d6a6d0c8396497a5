/* SPDX-License-Identifier: MIT
 *
 * Reads a format of string.pack: what each option is, how long, and how much alignment comes before it.
 */
#include "lua_pack.h"

#include <limits.h>

static int pack_error(lua_State *L, const char *message)
{
    return luaL_argerror(L, 2, message);
}

/* A decimal number behind an option, or `otherwise` where there is none. Digits that would exceed an int are left, and
 * are then no option. */
static int read_number(lpshm_pack *reader, int otherwise)
{
    int number = 0;
    if (*reader->next < '0' || *reader->next > '9')
        return otherwise;
    while (*reader->next >= '0' && *reader->next <= '9' && number <= (INT_MAX - 9) / 10)
        number = number * 10 + (*reader->next++ - '0');
    return number;
}

static int read_width(lpshm_pack *reader, int otherwise)
{
    int width = read_number(reader, otherwise);
    if (width < 1 || width > LPSHM_PACK_INTEGER_MAX)
        luaL_error(reader->L, "integral size (%d) out of limits [1,%d]", width, LPSHM_PACK_INTEGER_MAX);
    return width;
}

static lpshm_pack_kind read_option(lpshm_pack *reader, int *size)
{
    struct native { /* the alignment of "!" alone */
        char c;
        union {
            lua_Number n;
            double d;
            void *p;
            lua_Integer i;
            long l;
        } u;
    };
    const uint16_t probe = 1;
    char option = *reader->next;
    *size = 0;
    if (!option)
        return LPSHM_PACK_END;
    reader->next++;
    switch (option) {
    case 'b':
        *size = sizeof(char);
        return LPSHM_PACK_SIGNED;
    case 'B':
        *size = sizeof(char);
        return LPSHM_PACK_UNSIGNED;
    case 'h':
        *size = sizeof(short);
        return LPSHM_PACK_SIGNED;
    case 'H':
        *size = sizeof(short);
        return LPSHM_PACK_UNSIGNED;
    case 'l':
        *size = sizeof(long);
        return LPSHM_PACK_SIGNED;
    case 'L':
        *size = sizeof(long);
        return LPSHM_PACK_UNSIGNED;
    case 'j':
        *size = sizeof(lua_Integer);
        return LPSHM_PACK_SIGNED;
    case 'J':
        *size = sizeof(lua_Integer);
        return LPSHM_PACK_UNSIGNED;
    case 'T':
        *size = sizeof(size_t);
        return LPSHM_PACK_UNSIGNED;
    case 'i':
        *size = read_width(reader, sizeof(int));
        return LPSHM_PACK_SIGNED;
    case 'I':
        *size = read_width(reader, sizeof(int));
        return LPSHM_PACK_UNSIGNED;
    case 's':
        *size = read_width(reader, sizeof(size_t));
        return LPSHM_PACK_STRING;
    case 'f':
        *size = sizeof(float);
        return LPSHM_PACK_FLOAT;
    case 'd':
    case 'n':
        *size = sizeof(double);
        return LPSHM_PACK_DOUBLE;
    case 'c':
        *size = read_number(reader, -1);
        if (*size < 0)
            luaL_error(reader->L, "missing size for format option 'c'");
        return LPSHM_PACK_CHARS;
    case 'z':
        return LPSHM_PACK_ZSTRING;
    case 'x':
        *size = 1;
        return LPSHM_PACK_PAD;
    case 'X':
        return LPSHM_PACK_ALIGN;
    case ' ':
        break;
    case '<':
        reader->big = false;
        break;
    case '>':
        reader->big = true;
        break;
    case '=':
        reader->big = *(const unsigned char *)&probe == 0;
        break;
    case '!':
        reader->align = read_width(reader, (int)offsetof(struct native, u));
        break;
    default:
        luaL_error(reader->L, "invalid format option '%c'", option);
    }
    return LPSHM_PACK_NONE;
}

lpshm_pack lpshm_pack_start(lua_State *L, const char *format)
{
    const uint16_t probe = 1;
    return (lpshm_pack){.L = L, .next = format, .align = 1, .big = *(const unsigned char *)&probe == 0};
}

lpshm_pack_item lpshm_pack_next(lpshm_pack *reader, uint64_t done)
{
    lpshm_pack_item item = {.kind = read_option(reader, &item.size)};
    int align = item.size;
    if (item.kind == LPSHM_PACK_ALIGN) { /* as the option behind it would be, which is taken with it */
        lpshm_pack_kind next = read_option(reader, &align);
        if (next == LPSHM_PACK_END || next == LPSHM_PACK_CHARS || !align)
            pack_error(reader->L, "invalid next option for option 'X'");
    }
    if (align > 1 && item.kind != LPSHM_PACK_CHARS) {
        if (align > reader->align)
            align = reader->align;
        if (align & (align - 1))
            pack_error(reader->L, "format asks for alignment not power of 2");
        uint64_t mask = (uint64_t)align - 1;
        item.pad = ((uint64_t)align - (done & mask)) & mask;
    }
    return item;
}
