/* SPDX-License-Identifier: MIT
 *
 * segment:pack and segment:unpack: the formats of string.pack straight on the memory. Alignment counts from the start
 * of the packed data, so that segment:pack(format, offset, ...) writes the very bytes of string.pack(format, ...).
 *
 * pack goes twice over the format: the first time it checks every value and adds up the size, the second time it
 * writes, when nothing can fail any more.
 */
#include "glue.h"

#include <limits.h>
#include <stdalign.h>

#define PACK_INTEGER_MAX 16 /* bytes of the longest integer that a format may ask for */

enum pack_kind {
    PACK_SIGNED,
    PACK_UNSIGNED,
    PACK_FLOAT,
    PACK_DOUBLE,
    PACK_CHARS,  /* cn */
    PACK_STRING, /* sn */
    PACK_ZSTRING,
    PACK_PAD,   /* x */
    PACK_ALIGN, /* X */
    PACK_NONE,  /* an option that only sets something */
    PACK_END,
};

typedef struct pack_reader {
    lua_State *L;
    const char *next; /* in the format */
    int align;        /* the largest alignment, by "!" */
    bool big;
} pack_reader;

typedef struct pack_item {
    enum pack_kind kind;
    int size;     /* bytes of the value, of its length for s */
    uint64_t pad; /* bytes of alignment before it */
} pack_item;

static int pack_error(lua_State *L, const char *message)
{
    return luaL_argerror(L, 2, message);
}

/* A decimal number behind an option, or `otherwise` where there is none. Digits that would exceed an int are left, and
 * are then no option. */
static int read_number(pack_reader *reader, int otherwise)
{
    int number = 0;
    if (*reader->next < '0' || *reader->next > '9')
        return otherwise;
    while (*reader->next >= '0' && *reader->next <= '9' && number <= (INT_MAX - 9) / 10)
        number = number * 10 + (*reader->next++ - '0');
    return number;
}

static int read_width(pack_reader *reader, int otherwise)
{
    int width = read_number(reader, otherwise);
    if (width < 1 || width > PACK_INTEGER_MAX)
        luaL_error(reader->L, "integral size (%d) out of limits [1,%d]", width, PACK_INTEGER_MAX);
    return width;
}

static enum pack_kind read_option(pack_reader *reader, int *size)
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
        return PACK_END;
    reader->next++;
    switch (option) {
    case 'b':
        *size = sizeof(char);
        return PACK_SIGNED;
    case 'B':
        *size = sizeof(char);
        return PACK_UNSIGNED;
    case 'h':
        *size = sizeof(short);
        return PACK_SIGNED;
    case 'H':
        *size = sizeof(short);
        return PACK_UNSIGNED;
    case 'l':
        *size = sizeof(long);
        return PACK_SIGNED;
    case 'L':
        *size = sizeof(long);
        return PACK_UNSIGNED;
    case 'j':
        *size = sizeof(lua_Integer);
        return PACK_SIGNED;
    case 'J':
        *size = sizeof(lua_Integer);
        return PACK_UNSIGNED;
    case 'T':
        *size = sizeof(size_t);
        return PACK_UNSIGNED;
    case 'i':
        *size = read_width(reader, sizeof(int));
        return PACK_SIGNED;
    case 'I':
        *size = read_width(reader, sizeof(int));
        return PACK_UNSIGNED;
    case 's':
        *size = read_width(reader, sizeof(size_t));
        return PACK_STRING;
    case 'f':
        *size = sizeof(float);
        return PACK_FLOAT;
    case 'd':
    case 'n':
        *size = sizeof(double);
        return PACK_DOUBLE;
    case 'c':
        *size = read_number(reader, -1);
        if (*size < 0)
            luaL_error(reader->L, "missing size for format option 'c'");
        return PACK_CHARS;
    case 'z':
        return PACK_ZSTRING;
    case 'x':
        *size = 1;
        return PACK_PAD;
    case 'X':
        return PACK_ALIGN;
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
    return PACK_NONE;
}

static pack_reader read_start(lua_State *L, const char *format)
{
    const uint16_t probe = 1;
    return (pack_reader){.L = L, .next = format, .align = 1, .big = *(const unsigned char *)&probe == 0};
}

/* The next option of the format, where `done` bytes of data are behind it. */
static pack_item read_item(pack_reader *reader, uint64_t done)
{
    pack_item item = {.kind = read_option(reader, &item.size)};
    int align = item.size;
    if (item.kind == PACK_ALIGN) { /* as the option behind it would be, which is taken with it */
        enum pack_kind next = read_option(reader, &align);
        if (next == PACK_END || next == PACK_CHARS || !align)
            pack_error(reader->L, "invalid next option for option 'X'");
    }
    if (align > 1 && item.kind != PACK_CHARS) {
        if (align > reader->align)
            align = reader->align;
        if (align & (align - 1))
            pack_error(reader->L, "format asks for alignment not power of 2");
        uint64_t mask = (uint64_t)align - 1;
        item.pad = ((uint64_t)align - (done & mask)) & mask;
    }
    return item;
}

/* Adds to a total, or raises. No total comes near the end of uint64_t: a segment is smaller, and so are strings. */
static void count(lua_State *L, uint64_t *total, uint64_t bytes)
{
    *total += bytes;
    if (*total > (uint64_t)INT64_MAX)
        pack_error(L, "format result too large");
}

static void check_integer(lua_State *L, int arg, int size, bool is_signed)
{
    lua_Integer value = luaL_checkinteger(L, arg);
    if (size >= (int)sizeof value)
        return;
    if (is_signed) {
        lua_Integer limit = (lua_Integer)1 << (size * 8 - 1);
        luaL_argcheck(L, -limit <= value && value < limit, arg, "integer overflow");
    } else
        luaL_argcheck(L, (lua_Unsigned)value < (lua_Unsigned)1 << (size * 8), arg, "unsigned overflow");
}

/* Checks the value of an item; the bytes it takes. */
static uint64_t check_value(lua_State *L, int arg, const pack_item *item)
{
    size_t length;
    const char *string;
    switch (item->kind) {
    case PACK_SIGNED:
    case PACK_UNSIGNED:
        check_integer(L, arg, item->size, item->kind == PACK_SIGNED);
        break;
    case PACK_FLOAT:
    case PACK_DOUBLE:
        luaL_checknumber(L, arg);
        break;
    case PACK_CHARS:
        luaL_checklstring(L, arg, &length);
        luaL_argcheck(L, length <= (size_t)item->size, arg, "string longer than given size");
        break;
    case PACK_STRING:
        luaL_checklstring(L, arg, &length);
        luaL_argcheck(L, item->size >= (int)sizeof(size_t) || length < (size_t)1 << (item->size * 8), arg,
                      "string length does not fit in given size");
        return (uint64_t)item->size + length;
    case PACK_ZSTRING:
        string = luaL_checklstring(L, arg, &length);
        luaL_argcheck(L, strlen(string) == length, arg, "string contains zeros");
        return length + 1;
    default:
        break;
    }
    return (uint64_t)item->size;
}

static bool takes_value(enum pack_kind kind)
{
    return kind < PACK_PAD;
}

static void store_integer(unsigned char *to, uint64_t value, int size, bool big, bool negative)
{
    unsigned char bytes[PACK_INTEGER_MAX];
    memset(bytes, negative ? 0xff : 0, sizeof bytes);
    for (int i = 0; i < size && i < 8; i++)
        bytes[big ? size - 1 - i : i] = (unsigned char)(value >> (8 * i));
    memcpy(to, bytes, (size_t)size);
}

/* Writes the value of an item; the bytes it took. Neither raises nor allocates: check_value has been there. */
static uint64_t store_value(lua_State *L, int arg, const pack_item *item, bool big, unsigned char *to)
{
    size_t length;
    const char *string;
    lua_Integer integer;
    switch (item->kind) {
    case PACK_SIGNED:
    case PACK_UNSIGNED:
        integer = lua_tointeger(L, arg);
        store_integer(to, (uint64_t)integer, item->size, big, item->kind == PACK_SIGNED && integer < 0);
        break;
    case PACK_FLOAT: {
        float number = (float)lua_tonumber(L, arg);
        uint32_t bits;
        memcpy(&bits, &number, sizeof bits);
        store_integer(to, bits, item->size, big, false);
        break;
    }
    case PACK_DOUBLE: {
        double number = lua_tonumber(L, arg);
        uint64_t bits;
        memcpy(&bits, &number, sizeof bits);
        store_integer(to, bits, item->size, big, false);
        break;
    }
    case PACK_CHARS:
        string = lua_tolstring(L, arg, &length);
        memcpy(to, string, length);
        memset(to + length, 0, (size_t)item->size - length);
        break;
    case PACK_STRING:
        string = lua_tolstring(L, arg, &length);
        store_integer(to, length, item->size, big, false);
        memcpy(to + item->size, string, length);
        return (uint64_t)item->size + length;
    case PACK_ZSTRING:
        string = lua_tolstring(L, arg, &length);
        memcpy(to, string, length + 1);
        return length + 1;
    case PACK_PAD:
        *to = 0;
        break;
    default:
        break;
    }
    return (uint64_t)item->size;
}

/* segment:pack(format, offset, ...) -> offset
 * Writes the bytes of string.pack(format, ...) to `offset`; the offset behind the last one. Nothing is written unless
 * everything fits. */
int lpshm_segment_pack(lua_State *L)
{
    (void)lpshm_to_segment(L, 1);
    const char *format = luaL_checkstring(L, 2);
    uint64_t offset = lpshm_bytes(L, 3, "offset"), total = 0;
    pack_reader reader = read_start(L, format);
    pack_item item;
    for (int arg = 4; (item = read_item(&reader, total)).kind != PACK_END;) {
        count(L, &total, item.pad);
        if (takes_value(item.kind))
            count(L, &total, check_value(L, arg++, &item));
        else
            count(L, &total, (uint64_t)item.size);
    }

    const pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    int rc = pshm_segment_check(segment, offset, total, PSHM_WRITE);
    if (rc)
        return lpshm_fail_range(L, segment, rc, offset, total);
    unsigned char *to = segment->base + offset;
    uint64_t done = 0;
    reader = read_start(L, format);
    for (int arg = 4; (item = read_item(&reader, done)).kind != PACK_END;) {
        memset(to + done, 0, item.pad);
        done += item.pad;
        done += store_value(L, takes_value(item.kind) ? arg++ : 0, &item, reader.big, to + done);
    }
    rc = pshm_segment_verify(segment);
    if (rc)
        return lpshm_fail(L, segment->address, rc);
    lua_pushinteger(L, (lua_Integer)(offset + total));
    return 1;
}

/* Where `size` bytes of data lie, `done` bytes behind `offset`. Looks everything up anew: strings were made since. */
static const unsigned char *unpack_at(lua_State *L, uint64_t offset, uint64_t done, uint64_t size)
{
    const pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    uint64_t start = offset > (uint64_t)INT64_MAX - done ? INT64_MAX : offset + done;
    int rc = pshm_segment_check(segment, start, size, PSHM_READ);
    if (rc)
        lpshm_fail_range(L, segment, rc, start, size);
    return segment->base + start;
}

/* An integer of up to 16 bytes. Raises where it does not fit a Lua integer. */
static uint64_t load_integer(lua_State *L, const unsigned char *from, int size, bool big, bool is_signed)
{
    unsigned char bytes[PACK_INTEGER_MAX];
    uint64_t value = 0;
    memcpy(bytes, from, (size_t)size);
    for (int i = size < 8 ? size : 8; i-- > 0;)
        value = value << 8 | bytes[big ? size - 1 - i : i];
    if (size < 8) {
        if (is_signed) {
            uint64_t sign = UINT64_C(1) << (size * 8 - 1);
            value = (value ^ sign) - sign;
        }
        return value;
    }
    unsigned char rest = is_signed && (int64_t)value < 0 ? 0xff : 0;
    for (int i = 8; i < size; i++)
        if (bytes[big ? size - 1 - i : i] != rest)
            luaL_error(L, "%d-byte integer does not fit into Lua Integer", size);
    return value;
}

/* Pushes the value of an item; the bytes it took. */
static uint64_t load_value(lua_State *L, const pack_item *item, bool big, uint64_t offset, uint64_t done)
{
    const unsigned char *from = unpack_at(L, offset, done, (uint64_t)item->size);
    switch (item->kind) {
    case PACK_SIGNED:
    case PACK_UNSIGNED:
        lua_pushinteger(L, (lua_Integer)load_integer(L, from, item->size, big, item->kind == PACK_SIGNED));
        break;
    case PACK_FLOAT: {
        uint32_t bits = (uint32_t)load_integer(L, from, item->size, big, false);
        float number;
        memcpy(&number, &bits, sizeof number);
        lua_pushnumber(L, (lua_Number)number);
        break;
    }
    case PACK_DOUBLE: {
        uint64_t bits = load_integer(L, from, item->size, big, false);
        double number;
        memcpy(&number, &bits, sizeof number);
        lua_pushnumber(L, number);
        break;
    }
    case PACK_CHARS:
        lpshm_push_bytes(L, from, (size_t)item->size);
        break;
    case PACK_STRING: {
        uint64_t length = load_integer(L, from, item->size, big, false); /* read once: others may write it */
        from = unpack_at(L, offset, done + (uint64_t)item->size, length);
        lpshm_push_bytes(L, from, length);
        return (uint64_t)item->size + length;
    }
    case PACK_ZSTRING: {
        const pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
        const unsigned char *zero = memchr(from, 0, segment->size - offset - done);
        if (!zero)
            luaL_error(L, "%s: unfinished string for format 'z'", segment->address);
        uint64_t length = (uint64_t)(zero - from);
        lpshm_push_bytes(L, from, length);
        return length + 1;
    }
    default:
        break;
    }
    return (uint64_t)item->size;
}

/* segment:unpack(format, offset) -> values..., offset
 * Reads what string.pack(format, ...) would have written to `offset` (default: 0); then the offset behind it. */
int lpshm_segment_unpack(lua_State *L)
{
    (void)lpshm_to_segment(L, 1);
    pack_reader reader = read_start(L, luaL_checkstring(L, 2));
    uint64_t offset = lpshm_opt_bytes(L, 3, "offset", 0), done = 0;
    pack_item item;
    int values = 0;
    lua_settop(L, 3);
    while ((item = read_item(&reader, done)).kind != PACK_END) {
        count(L, &done, item.pad);
        if (takes_value(item.kind)) {
            luaL_checkstack(L, 2, "too many results");
            uint64_t took = load_value(L, &item, reader.big, offset, done);
            count(L, &done, took);
            values++;
        } else
            count(L, &done, (uint64_t)item.size);
    }
    (void)unpack_at(L, offset, 0, done);
    const pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    int rc = pshm_segment_verify(segment);
    if (rc)
        return lpshm_fail(L, segment->address, rc);
    lua_pushinteger(L, (lua_Integer)(offset + done));
    return values + 1;
}
