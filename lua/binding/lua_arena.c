/* SPDX-License-Identifier: MIT
 *
 * The arena in Lua: opening and closing, its fields, and looking at the whole.
 */
#include "lua_arena.h"
#include "lua_object.h"

#include <errno.h>

const lpshm_type lpshm_arena_type = {"polyshm.arena", "arena"};

enum {
    FIELD_ADDRESS = 1,
    FIELD_KIND,
    FIELD_SIZE,
    FIELD_ID,
    FIELD_CREATED,
    FIELD_READONLY,
    FIELD_CLOSED,
    FIELD_LOST,
    FIELD_LIFE,
};

/* Errors */

/* Pushes the address, and the subject behind it. */
static const char *push_subject(lua_State *L, const lpshm_arena *self, const char *subject)
{
    return *subject ? lua_pushfstring(L, "%s: %s", self->address, subject) : lua_pushstring(L, self->address);
}

int lpshm_arena_fail(lua_State *L, const char *subject, int rc)
{
    const lpshm_arena *self = lua_touserdata(L, 1);
    if (rc == PSHM_ECLOSED)
        return luaL_error(L, "%s is closed", lpshm_arena_type.noun);
    return lpshm_fail_about(L, push_subject(L, self, subject), self->address, rc);
}

int lpshm_arena_fail_loudly(lua_State *L, const char *subject, int rc)
{
    const lpshm_arena *self = lua_touserdata(L, 1);
    if (rc == PSHM_ECLOSED)
        return lpshm_arena_fail(L, subject, rc);
    return lpshm_fail_loudly(L, push_subject(L, self, subject), self->address, rc);
}

int lpshm_arena_result(lua_State *L, const char *subject, int rc)
{
    if (rc)
        return lpshm_arena_fail(L, subject, rc);
    lua_pushboolean(L, 1);
    return 1;
}

/* Opening and closing */

/* polyshm.arena(address, options) -> arena | nil, message, code
 * Opens, or with `create` makes, the arena at `address`; `wait` seconds for a creator. What `size`, `life` and `participants`
 * say of an arena that exists has to be so. Raises for what is no arena, or not one that can be used here: an error object
 * with a code; and for a malformed address, unknown options and values that cannot be. */
int lpshm_arena_open(lua_State *L)
{
    struct arena_options {
        pshm_arena_options open;
        int64_t wait;
    } options = {PSHM_ARENA_OPTIONS_INIT, 0};
    static const lpshm_option names[] = {
        {"size", LPSHM_OPTION_BYTES, offsetof(struct arena_options, open.size)},
        {"access", LPSHM_OPTION_ACCESS, offsetof(struct arena_options, open.access)},
        {"create", LPSHM_OPTION_BOOLEAN, offsetof(struct arena_options, open.create)},
        {"exclusive", LPSHM_OPTION_BOOLEAN, offsetof(struct arena_options, open.exclusive)},
        {"mode", LPSHM_OPTION_MODE, offsetof(struct arena_options, open.mode)},
        {"reserve", LPSHM_OPTION_TRISTATE, offsetof(struct arena_options, open.reserve)},
        {"wait", LPSHM_OPTION_SECONDS, offsetof(struct arena_options, wait)},
        {"life", LPSHM_OPTION_LIFE, offsetof(struct arena_options, open.life)},
        {"participants", LPSHM_OPTION_COUNT, offsetof(struct arena_options, open.participants)},
    };
    size_t length;

    luaL_checktype(L, 1, LUA_TSTRING);
    const char *address = lua_tolstring(L, 1, &length);
    lpshm_options(L, 2, names, sizeof names / sizeof names[0], &options);
    options.open.language = PSHM_LANGUAGE_LUA;

    lpshm_arena *self = lpshm_new(L, &lpshm_arena_type, sizeof *self, 1);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    self->address = address;
    if (options.wait)
        options.open.deadline = pshm_deadline(options.wait);
    int rc;
    while ((rc = pshm_arena_open(address, length, &options.open, &self->arena)) == -EINTR)
        lpshm_run_hooks(L);
    if (rc)
        return lpshm_fail(L, address, rc);
    self->type = &lpshm_arena_type;
    return 1;
}

/* arena:close()
 * The handle and its objects raise from then on, but to give back what is held. Closing again does nothing. */
static int arena_close(lua_State *L)
{
    lpshm_arena *self = lpshm_to_close(L, 1, &lpshm_arena_type, sizeof *self);
    if (self)
        pshm_arena_close(self->arena);
    return 0;
}

/* What close does, and gives the reference back: the fields of a closed arena can be read until then. */
static int arena_gc(lua_State *L)
{
    lpshm_arena *self = lpshm_to_close(L, 1, &lpshm_arena_type, sizeof *self);
    if (self) {
        pshm_arena *arena = self->arena;
        self->type = &lpshm_closed;
        self->arena = NULL;
        pshm_arena_close(arena);
        pshm_arena_release(arena);
    }
    return 0;
}

static int arena_tostring(lua_State *L)
{
    const lpshm_arena *self = lpshm_to_close(L, 1, &lpshm_arena_type, sizeof *self);
    if (!self || self->arena->closed)
        lua_pushfstring(L, "%s (closed)", lpshm_arena_type.name);
    else
        lua_pushfstring(L, "%s (%s, %I bytes)", lpshm_arena_type.name, self->address,
                        (LUAI_UACINT)self->arena->segment->size);
    return 1;
}

/* arena:unlink() -> true | nil, message, code
 * Removes the name, or the System V id, if it still leads to this very arena. */
static int arena_unlink(lua_State *L)
{
    return lpshm_arena_result(L, "", pshm_arena_unlink(lpshm_to_arena(L, 1)->arena));
}

/* Fields */

static int arena_field(lua_State *L, const pshm_arena *arena, lua_Integer field)
{
    const pshm_segment *segment = arena->segment;
    switch (field) {
    case FIELD_ADDRESS:
        lua_pushstring(L, arena->address);
        break;
    case FIELD_KIND:
        lua_pushstring(L, pshm_kind_name(segment->kind));
        break;
    case FIELD_SIZE:
        lua_pushinteger(L, (lua_Integer)segment->size);
        break;
    case FIELD_ID:
        lua_pushinteger(L, (lua_Integer)arena->id);
        break;
    case FIELD_CREATED:
        lua_pushboolean(L, arena->created);
        break;
    case FIELD_READONLY:
        lua_pushboolean(L, arena->readonly);
        break;
    case FIELD_CLOSED:
        lua_pushboolean(L, arena->closed);
        break;
    case FIELD_LOST:
        lua_pushboolean(L, segment->lost != 0);
        break;
    case FIELD_LIFE:
        lua_pushstring(L, pshm_life_name(arena->life));
        break;
    default:
        lua_pushnil(L);
    }
    return 1;
}

static int arena_index(lua_State *L)
{
    lua_Integer field = lpshm_index(L);
    if (PSHM_LIKELY(!field))
        return 1;
    lpshm_arena *self = lpshm_test(L, 1, &lpshm_arena_type, sizeof *self);
    if (self)
        return arena_field(L, self->arena, field);
    if (field != FIELD_CLOSED)
        lpshm_type_error(L, 1, &lpshm_arena_type);
    lua_pushboolean(L, 1);
    return 1;
}

/* The whole */

static void set_integer(lua_State *L, const char *name, uint64_t value)
{
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, name);
}

/* arena:stats() -> table
 * What is used and what is free, in bytes; `classes` has the sizes of small blocks: {block =, pages =, used =, free =}.
 * Exact while nobody allocates. */
static int arena_stats(lua_State *L)
{
    pshm_arena_stats stats;
    int rc = pshm_arena_stats_of(lpshm_to_arena(L, 1)->arena, &stats);
    if (rc)
        return lpshm_arena_fail(L, "", rc);
    lua_createtable(L, 0, 11);
    set_integer(L, "size", stats.size);
    set_integer(L, "heap", stats.heap);
    set_integer(L, "used", stats.used);
    set_integer(L, "free", stats.free);
    set_integer(L, "largest_free", stats.largest_free);
    set_integer(L, "large", stats.large);
    set_integer(L, "large_pages", stats.large_pages);
    set_integer(L, "objects", stats.objects);
    set_integer(L, "taking_part", stats.taking_part);
    set_integer(L, "participants", stats.participants);
    lua_createtable(L, (int)stats.classes, 0);
    for (uint32_t i = 0; i < stats.classes; i++) {
        lua_createtable(L, 0, 4);
        set_integer(L, "block", stats.class_[i].block);
        set_integer(L, "pages", stats.class_[i].pages);
        set_integer(L, "used", stats.class_[i].used);
        set_integer(L, "free", stats.class_[i].free);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_setfield(L, -2, "classes");
    return 1;
}

struct report {
    char *text;
    size_t count;
};

/* A table of the lines. */
static int push_report(lua_State *L)
{
    const struct report *report = lua_touserdata(L, 1);
    const char *line = report->text;
    lua_createtable(L, (int)report->count, 0);
    for (size_t i = 0; i < report->count && *line; i++) {
        size_t length = strcspn(line, "\n");
        lua_pushlstring(L, line, length);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
        line += length + (line[length] != 0);
    }
    return 1;
}

/* arena:check() -> table | nil, message, code
 * Looks at everything: what is wrong, as texts; an empty table: all is well. */
static int arena_check(lua_State *L)
{
    struct report report = {NULL, 0};
    int rc = pshm_arena_check(lpshm_to_arena(L, 1)->arena, &report.text, &report.count);
    if (rc)
        return lpshm_arena_fail(L, "", rc);
    if (!report.text)
        report.count = 0;
    rc = lpshm_protected(L, push_report, &report, 1);
    pshm_report_free(report.text);
    return rc == LUA_OK ? 1 : lua_error(L);
}

void lpshm_arena_register(lua_State *L)
{
    static const luaL_Reg meta[] = {{"__gc", arena_gc},
                                    {"__close", arena_close},
                                    {"__len", lpshm_arena_len},
                                    {"__pairs", lpshm_arena_pairs},
                                    {"__tostring", arena_tostring},
                                    {NULL, NULL}};
    static const luaL_Reg methods[] = {{"close", arena_close},
                                       {"unlink", arena_unlink},
#define PSHM_KIND(number, noun) {#noun, lpshm_##noun##_of},
#include <polyshm/kinds.def>
                                       {"open", lpshm_arena_get},
                                       {"has", lpshm_arena_has},
                                       {"delete", lpshm_arena_delete},
                                       {"list", lpshm_arena_list},
                                       {"stats", arena_stats},
                                       {"check", arena_check},
                                       {"participants", lpshm_arena_participants},
                                       {NULL, NULL}};
    static const lpshm_field fields[] = {
        {"address", FIELD_ADDRESS}, {"kind", FIELD_KIND},       {"size", FIELD_SIZE},
        {"id", FIELD_ID},           {"created", FIELD_CREATED}, {"readonly", FIELD_READONLY},
        {"closed", FIELD_CLOSED},   {"lost", FIELD_LOST},       {"life", FIELD_LIFE},
    };
    lpshm_new_type(L, &lpshm_arena_type, meta, methods, arena_index);
    lpshm_new_fields(L, fields, sizeof fields / sizeof fields[0]);
    lua_pop(L, 1);
}
