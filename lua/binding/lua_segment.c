/* SPDX-License-Identifier: MIT
 *
 * The segment in Lua: opening and closing, its fields, and copying bytes in and out. The methods that are system
 * calls stand in lua_segment_system.c, views in lua_view.c, pack and unpack in lua_pack.c.
 */
#include "glue.h"

const lpshm_type lpshm_segment_type = {"polyshm.segment", "segment"};

enum {
    FIELD_SIZE = 1,
    FIELD_KIND,
    FIELD_NAME,
    FIELD_ADDRESS,
    FIELD_FD,
    FIELD_READONLY,
    FIELD_CREATED,
    FIELD_LOST,
    FIELD_CLOSED,
};

/* polyshm.segment(address, options) -> segment | nil, message, code
 * Opens, or with `create` makes, the segment that `address` names. Sizes are bytes or texts such as "64M"; `mode` is an
 * octal text. Raises for a malformed address, unknown options and values that cannot be. */
int lpshm_segment_open(lua_State *L)
{
    static const lpshm_option names[] = {
        {"size", LPSHM_OPTION_BYTES, offsetof(pshm_options, size)},
        {"offset", LPSHM_OPTION_BYTES, offsetof(pshm_options, offset)},
        {"access", LPSHM_OPTION_ACCESS, offsetof(pshm_options, access)},
        {"create", LPSHM_OPTION_BOOLEAN, offsetof(pshm_options, create)},
        {"exclusive", LPSHM_OPTION_BOOLEAN, offsetof(pshm_options, exclusive)},
        {"mode", LPSHM_OPTION_MODE, offsetof(pshm_options, mode)},
        {"reserve", LPSHM_OPTION_TRISTATE, offsetof(pshm_options, reserve)},
        {"exec", LPSHM_OPTION_BOOLEAN, offsetof(pshm_options, exec)},
        {"populate", LPSHM_OPTION_BOOLEAN, offsetof(pshm_options, populate)},
        {"locked", LPSHM_OPTION_BOOLEAN, offsetof(pshm_options, locked)},
        {"hugepages", LPSHM_OPTION_HUGE, offsetof(pshm_options, hugepages)},
        {"inherit", LPSHM_OPTION_BOOLEAN, offsetof(pshm_options, inherit)},
        {"at", LPSHM_OPTION_BYTES, offsetof(pshm_options, at)},
        {"round", LPSHM_OPTION_BOOLEAN, offsetof(pshm_options, round)},
    };
    pshm_options options = PSHM_OPTIONS_INIT;
    size_t length;

    luaL_checktype(L, 1, LUA_TSTRING);
    const char *address = lua_tolstring(L, 1, &length);
    lpshm_options(L, 2, names, sizeof names / sizeof names[0], &options);
    options.serial = true; /* one lua_State, one thread at a time */

    lpshm_segment *self = lpshm_new(L, &lpshm_segment_type, sizeof *self, 0);
    int rc = pshm_segment_open(address, length, &options, &self->segment);
    if (rc)
        return lpshm_fail(L, address, rc);
    self->type = &lpshm_segment_type;
    return 1;
}

/* segment:close()
 * The handle raises from then on; views and held locks go on working. Closing again does nothing. */
static int segment_close(lua_State *L)
{
    lpshm_segment *self = lpshm_to_close(L, 1, &lpshm_segment_type, sizeof *self);
    if (self)
        pshm_segment_close(self->segment);
    return 0;
}

/* What close does, and gives the reference back: the fields of a closed segment can be read until then. */
static int segment_gc(lua_State *L)
{
    lpshm_segment *self = lpshm_to_close(L, 1, &lpshm_segment_type, sizeof *self);
    if (self) {
        pshm_segment *segment = self->segment;
        self->type = &lpshm_closed;
        self->segment = NULL;
        pshm_segment_close(segment);
        pshm_segment_release(segment);
    }
    return 0;
}

static int segment_tostring(lua_State *L)
{
    lpshm_segment *self = lpshm_to_close(L, 1, &lpshm_segment_type, sizeof *self);
    if (!self || self->segment->closed)
        lua_pushfstring(L, "%s (closed)", lpshm_segment_type.name);
    else
        lua_pushfstring(L, "%s (%s, %I bytes)", lpshm_segment_type.name, self->segment->address,
                        (LUAI_UACINT)self->segment->size);
    return 1;
}

static int segment_len(lua_State *L)
{
    const pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    if (segment->closed)
        return lpshm_fail(L, segment->address, PSHM_ECLOSED);
    lua_pushinteger(L, (lua_Integer)segment->size);
    return 1;
}

static int segment_field(lua_State *L, const pshm_segment *segment, lua_Integer field)
{
    switch (field) {
    case FIELD_SIZE:
        lua_pushinteger(L, (lua_Integer)segment->size);
        break;
    case FIELD_KIND:
        lua_pushstring(L, pshm_kind_name(segment->kind));
        break;
    case FIELD_NAME:
        lua_pushstring(L, segment->name);
        break;
    case FIELD_ADDRESS:
        lua_pushstring(L, segment->address);
        break;
    case FIELD_FD:
        if (segment->fd < 0 || segment->closed)
            lua_pushnil(L);
        else
            lua_pushinteger(L, segment->fd);
        break;
    case FIELD_READONLY:
        lua_pushboolean(L, segment->readonly);
        break;
    case FIELD_CREATED:
        lua_pushboolean(L, segment->created);
        break;
    case FIELD_LOST:
        lua_pushboolean(L, segment->lost != 0);
        break;
    case FIELD_CLOSED:
        lua_pushboolean(L, segment->closed);
        break;
    default:
        lua_pushnil(L);
    }
    return 1;
}

static int segment_index(lua_State *L)
{
    lua_Integer field = lpshm_index(L);
    if (PSHM_LIKELY(!field))
        return 1;
    lpshm_segment *self = lpshm_test(L, 1, &lpshm_segment_type, sizeof *self);
    if (!self) {
        if (field != FIELD_CLOSED)
            lpshm_type_error(L, 1, &lpshm_segment_type);
        lua_pushboolean(L, 1);
        return 1;
    }
    return segment_field(L, self->segment, field);
}

/* segment:read(offset, size) -> string
 * `size` bytes (default: the rest) from `offset` (default: 0) on. Raises out of range, and if the memory is gone. */
static int segment_read(lua_State *L)
{
    lpshm_segment *self = lpshm_to_segment(L, 1);
    uint64_t offset = lpshm_opt_bytes(L, 2, "offset", 0);
    uint64_t size = lpshm_opt_bytes(L, 3, "size", lpshm_rest(self->segment, offset));
    int rc = pshm_segment_check(self->segment, offset, size, PSHM_READ);
    if (PSHM_UNLIKELY(rc))
        return lpshm_fail_range(L, self->segment, rc, offset, size);
    /* Copies before it collects, so the memory is there for as long as it is read; what is collected may be this. */
    lpshm_push_bytes(L, self->segment->base + offset, size);
    if (PSHM_LIKELY(self->segment && !self->segment->lost))
        return 1;
    self = lpshm_to_segment(L, 1);
    return lpshm_fail(L, self->segment->address, PSHM_ELOST);
}

/* segment:write(offset, data)
 * The bytes of a string to `offset`. Raises out of range (and nothing is written), and if the memory is gone. */
static int segment_write(lua_State *L)
{
    size_t length;
    const pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    uint64_t offset = lpshm_bytes(L, 2, "offset");
    if (PSHM_UNLIKELY(lua_type(L, 3) != LUA_TSTRING))
        return luaL_typeerror(L, 3, "string");
    const char *data = lua_tolstring(L, 3, &length);
    int rc = pshm_segment_check(segment, offset, length, PSHM_WRITE);
    if (PSHM_UNLIKELY(rc))
        return lpshm_fail_range(L, segment, rc, offset, length);
    memcpy(segment->base + offset, data, length);
    rc = pshm_segment_verify(segment);
    return PSHM_LIKELY(!rc) ? 0 : lpshm_fail(L, segment->address, rc);
}

/* segment:read_into(target, offset)
 * Fills `target`, a segment or a view, with its own length of bytes from `offset` (default: 0) on. */
static int segment_read_into(lua_State *L)
{
    const pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    uint64_t offset = lpshm_opt_bytes(L, 3, "offset", 0);
    lpshm_segment *other = lpshm_test(L, 2, &lpshm_segment_type, sizeof *other);
    unsigned char *to;
    uint64_t size;
    int rc;
    if (other) {
        size = other->segment->size;
        rc = pshm_segment_check(other->segment, 0, size, PSHM_WRITE);
        if (rc)
            return lpshm_fail_range(L, other->segment, rc, 0, size);
        to = other->segment->base;
    } else if (luaL_testudata(L, 2, lpshm_view_type.name))
        to = lpshm_view_bytes(L, 2, PSHM_WRITE, &size);
    else if (luaL_testudata(L, 2, lpshm_segment_type.name))
        lpshm_type_error(L, 2, &lpshm_segment_type);
    else
        return luaL_typeerror(L, 2, "polyshm.segment or polyshm.view");
    rc = pshm_segment_check(segment, offset, size, PSHM_READ);
    if (rc)
        return lpshm_fail_range(L, segment, rc, offset, size);
    memmove(to, segment->base + offset, size);
    rc = pshm_segment_verify(segment);
    if (rc)
        return lpshm_fail(L, segment->address, rc);
    if (!other)
        lpshm_view_verify(L, 2);
    else if ((rc = pshm_segment_verify(other->segment)) != 0)
        return lpshm_fail(L, other->segment->address, rc);
    return 0;
}

/* segment:fill(byte, offset, size)
 * Sets `size` bytes (default: the rest) from `offset` (default: 0) on to `byte` (default: 0). */
static int segment_fill(lua_State *L)
{
    pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    lua_Integer byte = luaL_optinteger(L, 2, 0);
    uint64_t offset = lpshm_opt_bytes(L, 3, "offset", 0);
    uint64_t size = lpshm_opt_bytes(L, 4, "size", lpshm_rest(segment, offset));
    luaL_argcheck(L, byte >= 0 && byte <= 255, 2, "byte must be from 0 to 255");
    int rc = pshm_segment_fill(segment, (int)byte, offset, size);
    return rc ? lpshm_fail_range(L, segment, rc, offset, size) : 0;
}

/* segment:copy(target, source, size)
 * Moves `size` bytes from offset `source` to offset `target`; the ranges may overlap. */
static int segment_copy(lua_State *L)
{
    pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    uint64_t target = lpshm_bytes(L, 2, "target");
    uint64_t source = lpshm_bytes(L, 3, "source");
    uint64_t size = lpshm_bytes(L, 4, "size");
    int rc = pshm_segment_copy(segment, target, source, size);
    if (!rc)
        return 0;
    /* The message names the range that was refused. */
    bool from = pshm_segment_check(segment, source, size, PSHM_READ) != 0;
    return lpshm_fail_range(L, segment, rc, from ? source : target, size);
}

/* segment:find(data, start, end) -> offset | nil
 * The first place of `data` that lies wholly in [start, end); default: the whole segment. */
static int segment_find(lua_State *L)
{
    size_t length;
    int64_t at;
    pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    luaL_checktype(L, 2, LUA_TSTRING);
    const char *data = lua_tolstring(L, 2, &length);
    uint64_t start = lpshm_opt_bytes(L, 3, "start", 0);
    uint64_t end = lpshm_opt_bytes(L, 4, "end", segment->size);
    int rc = pshm_segment_find(segment, data, length, start, end, &at);
    if (rc)
        return lpshm_fail_range(L, segment, rc, start, end > start ? end - start : 0);
    if (at < 0)
        lua_pushnil(L);
    else
        lua_pushinteger(L, at);
    return 1;
}

void lpshm_segment_register(lua_State *L)
{
    static const luaL_Reg meta[] = {{"__gc", segment_gc},
                                    {"__close", segment_close},
                                    {"__len", segment_len},
                                    {"__tostring", segment_tostring},
                                    {NULL, NULL}};
    static const luaL_Reg methods[] = {{"close", segment_close},
                                       {"read", segment_read},
                                       {"write", segment_write},
                                       {"read_into", segment_read_into},
                                       {"fill", segment_fill},
                                       {"copy", segment_copy},
                                       {"find", segment_find},
                                       {"view", lpshm_segment_view},
                                       {"pack", lpshm_segment_pack},
                                       {"unpack", lpshm_segment_unpack},
                                       {"atomic", lpshm_segment_atomic},
                                       {"mutex", lpshm_segment_mutex},
                                       {"record_lock", lpshm_segment_record_lock},
                                       {"flush", lpshm_segment_flush},
                                       {"protect", lpshm_segment_protect},
                                       {"advise", lpshm_segment_advise},
                                       {"pin", lpshm_segment_pin},
                                       {"unpin", lpshm_segment_unpin},
                                       {"resize", lpshm_segment_resize},
                                       {"stat", lpshm_segment_stat},
                                       {"set", lpshm_segment_set},
                                       {"unlink", lpshm_segment_unlink},
                                       {NULL, NULL}};
    static const lpshm_field fields[] = {
        {"size", FIELD_SIZE},       {"kind", FIELD_KIND}, {"name", FIELD_NAME},
        {"address", FIELD_ADDRESS}, {"fd", FIELD_FD},     {"readonly", FIELD_READONLY},
        {"created", FIELD_CREATED}, {"lost", FIELD_LOST}, {"closed", FIELD_CLOSED},
    };
    lpshm_new_type(L, &lpshm_segment_type, meta, methods, segment_index);
    lpshm_new_fields(L, fields, sizeof fields / sizeof fields[0]);
    lua_pop(L, 1);
}
