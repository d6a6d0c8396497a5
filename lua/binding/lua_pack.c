/* SPDX-License-Identifier: MIT
 *
 * segment:pack and segment:unpack: the formats of string.pack straight on the memory. Alignment counts from the start
 * of the packed data, so that segment:pack(format, offset, ...) writes the very bytes of string.pack(format, ...).
 *
 * pack goes twice over the format: the first time it checks every value and adds up the size, the second time it
 * writes, when nothing can fail any more.
 */
#include "lua_pack.h"

/* Adds to a total, or raises. No total comes near the end of uint64_t: a segment is smaller, and so are strings. */
static void count(lua_State *L, uint64_t *total, uint64_t bytes)
{
    *total += bytes;
    if (*total > (uint64_t)INT64_MAX)
        luaL_argerror(L, 2, "format result too large");
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
static uint64_t check_value(lua_State *L, int arg, const lpshm_pack_item *item)
{
    size_t length;
    const char *string;
    switch (item->kind) {
    case LPSHM_PACK_SIGNED:
    case LPSHM_PACK_UNSIGNED:
        check_integer(L, arg, item->size, item->kind == LPSHM_PACK_SIGNED);
        break;
    case LPSHM_PACK_FLOAT:
    case LPSHM_PACK_DOUBLE:
        luaL_checknumber(L, arg);
        break;
    case LPSHM_PACK_CHARS:
        luaL_checklstring(L, arg, &length);
        luaL_argcheck(L, length <= (size_t)item->size, arg, "string longer than given size");
        break;
    case LPSHM_PACK_STRING:
        luaL_checklstring(L, arg, &length);
        luaL_argcheck(L, item->size >= (int)sizeof(size_t) || length < (size_t)1 << (item->size * 8), arg,
                      "string length does not fit in given size");
        return (uint64_t)item->size + length;
    case LPSHM_PACK_ZSTRING:
        string = luaL_checklstring(L, arg, &length);
        luaL_argcheck(L, strlen(string) == length, arg, "string contains zeros");
        return length + 1;
    default:
        break;
    }
    return (uint64_t)item->size;
}

static bool takes_value(lpshm_pack_kind kind)
{
    return kind < LPSHM_PACK_PAD;
}

static void store_integer(unsigned char *to, uint64_t value, int size, bool big, bool negative)
{
    unsigned char bytes[LPSHM_PACK_INTEGER_MAX];
    memset(bytes, negative ? 0xff : 0, sizeof bytes);
    for (int i = 0; i < size && i < 8; i++)
        bytes[big ? size - 1 - i : i] = (unsigned char)(value >> (8 * i));
    memcpy(to, bytes, (size_t)size);
}

/* Writes the value of an item; the bytes it took. Neither raises nor allocates: check_value has been there. */
static uint64_t store_value(lua_State *L, int arg, const lpshm_pack_item *item, bool big, unsigned char *to)
{
    size_t length;
    const char *string;
    lua_Integer integer;
    switch (item->kind) {
    case LPSHM_PACK_SIGNED:
    case LPSHM_PACK_UNSIGNED:
        integer = lua_tointeger(L, arg);
        store_integer(to, (uint64_t)integer, item->size, big, item->kind == LPSHM_PACK_SIGNED && integer < 0);
        break;
    case LPSHM_PACK_FLOAT: {
        float number = (float)lua_tonumber(L, arg);
        uint32_t bits;
        memcpy(&bits, &number, sizeof bits);
        store_integer(to, bits, item->size, big, false);
        break;
    }
    case LPSHM_PACK_DOUBLE: {
        double number = lua_tonumber(L, arg);
        uint64_t bits;
        memcpy(&bits, &number, sizeof bits);
        store_integer(to, bits, item->size, big, false);
        break;
    }
    case LPSHM_PACK_CHARS:
        string = lua_tolstring(L, arg, &length);
        memcpy(to, string, length);
        memset(to + length, 0, (size_t)item->size - length);
        break;
    case LPSHM_PACK_STRING:
        string = lua_tolstring(L, arg, &length);
        store_integer(to, length, item->size, big, false);
        memcpy(to + item->size, string, length);
        return (uint64_t)item->size + length;
    case LPSHM_PACK_ZSTRING:
        string = lua_tolstring(L, arg, &length);
        memcpy(to, string, length + 1);
        return length + 1;
    case LPSHM_PACK_PAD:
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
    lpshm_pack reader = lpshm_pack_start(L, format);
    lpshm_pack_item item;
    for (int arg = 4; (item = lpshm_pack_next(&reader, total)).kind != LPSHM_PACK_END;) {
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
    reader = lpshm_pack_start(L, format);
    for (int arg = 4; (item = lpshm_pack_next(&reader, done)).kind != LPSHM_PACK_END;) {
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

/* The bytes before the zero that ends a string. Asked for step by step: the memory may be readable no further. */
static uint64_t unpack_length(lua_State *L, uint64_t offset, uint64_t done)
{
    enum { STEP = 4096 };
    const pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    for (uint64_t length = 0;;) {
        uint64_t left = segment->size - offset - done - length;
        uint64_t step = STEP - ((uintptr_t)segment->base + offset + done + length) % STEP;
        if (left < step)
            step = left;
        if (!step)
            luaL_error(L, "%s: unfinished string for format 'z'", segment->address);
        const unsigned char *from = unpack_at(L, offset, done + length, step);
        const unsigned char *zero = memchr(from, 0, step);
        if (zero)
            return length + (uint64_t)(zero - from);
        length += step;
    }
}

/* An integer of up to 16 bytes. Raises where it does not fit a Lua integer. */
static uint64_t load_integer(lua_State *L, const unsigned char *from, int size, bool big, bool is_signed)
{
    unsigned char bytes[LPSHM_PACK_INTEGER_MAX];
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
static uint64_t load_value(lua_State *L, const lpshm_pack_item *item, bool big, uint64_t offset, uint64_t done)
{
    const unsigned char *from = unpack_at(L, offset, done, (uint64_t)item->size);
    switch (item->kind) {
    case LPSHM_PACK_SIGNED:
    case LPSHM_PACK_UNSIGNED:
        lua_pushinteger(L, (lua_Integer)load_integer(L, from, item->size, big, item->kind == LPSHM_PACK_SIGNED));
        break;
    case LPSHM_PACK_FLOAT: {
        uint32_t bits = (uint32_t)load_integer(L, from, item->size, big, false);
        float number;
        memcpy(&number, &bits, sizeof number);
        lua_pushnumber(L, (lua_Number)number);
        break;
    }
    case LPSHM_PACK_DOUBLE: {
        uint64_t bits = load_integer(L, from, item->size, big, false);
        double number;
        memcpy(&number, &bits, sizeof number);
        lua_pushnumber(L, number);
        break;
    }
    case LPSHM_PACK_CHARS:
        lpshm_push_bytes(L, from, (size_t)item->size);
        break;
    case LPSHM_PACK_STRING: {
        uint64_t length = load_integer(L, from, item->size, big, false); /* read once: others may write it */
        from = unpack_at(L, offset, done + (uint64_t)item->size, length);
        lpshm_push_bytes(L, from, length);
        return (uint64_t)item->size + length;
    }
    case LPSHM_PACK_ZSTRING: {
        uint64_t length = unpack_length(L, offset, done);
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
    lpshm_pack reader = lpshm_pack_start(L, luaL_checkstring(L, 2));
    uint64_t offset = lpshm_opt_bytes(L, 3, "offset", 0), done = 0;
    lpshm_pack_item item;
    int values = 0;
    lua_settop(L, 3);
    while ((item = lpshm_pack_next(&reader, done)).kind != LPSHM_PACK_END) {
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
