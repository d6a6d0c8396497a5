/* SPDX-License-Identifier: MIT
 *
 * The methods of a segment that are system calls, and the functions of the module that ask by address. They return
 * true or what was asked for; nil, message, code where the system refuses; and raise for the caller's faults.
 */
#include "glue.h"

/* segment:flush(offset, size, {wait = true, invalidate = false}) -> true | nil, message, code
 * msync(2) of the pages around `size` bytes (default: the rest) from `offset` (default: 0) on. */
int lpshm_segment_flush(lua_State *L)
{
    struct flush_options {
        bool wait, invalidate;
    } options = {true, false};
    static const lpshm_option names[] = {
        {"wait", LPSHM_OPTION_BOOLEAN, offsetof(struct flush_options, wait)},
        {"invalidate", LPSHM_OPTION_BOOLEAN, offsetof(struct flush_options, invalidate)},
    };
    pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    uint64_t offset = lpshm_opt_bytes(L, 2, "offset", 0);
    uint64_t size = lpshm_opt_bytes(L, 3, "size", lpshm_rest(segment, offset));
    lpshm_options(L, 4, names, 2, &options);
    int rc = pshm_segment_flush(segment, offset, size, options.wait, options.invalidate);
    return lpshm_result(L, segment, rc, offset, size);
}

/* segment:protect(access, offset, size) -> true | nil, message, code
 * mprotect(2) of the pages around a range (default: all); `access` is "rw", "r" or "none". */
int lpshm_segment_protect(lua_State *L)
{
    pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    pshm_access access = lpshm_access(L, 2, segment->address);
    uint64_t offset = lpshm_opt_bytes(L, 3, "offset", 0);
    uint64_t size = lpshm_opt_bytes(L, 4, "size", lpshm_rest(segment, offset));
    int rc = pshm_segment_protect(segment, access, offset, size);
    if (rc == PSHM_EACCESSNAME)
        return luaL_error(L, "%s: access \"copy\": only when a segment is opened", segment->address);
    return lpshm_result(L, segment, rc, offset, size);
}

/* segment:advise(advice, offset, size) -> true | nil, message, code
 * madvise(2) by name on the pages around a range (default: all). */
int lpshm_segment_advise(lua_State *L)
{
    pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    const char *advice = luaL_checkstring(L, 2);
    uint64_t offset = lpshm_opt_bytes(L, 3, "offset", 0);
    uint64_t size = lpshm_opt_bytes(L, 4, "size", lpshm_rest(segment, offset));
    int rc = pshm_segment_advise(segment, advice, offset, size);
    if (rc == PSHM_EADVICE)
        return luaL_error(L, "%s: advice \"%s\": %s", segment->address, advice, pshm_error_text(rc));
    return lpshm_result(L, segment, rc, offset, size);
}

/* The range of pin and unpin: nothing given is the whole segment, which on System V is another system call. */
static uint64_t pin_range(lua_State *L, const pshm_segment *segment, uint64_t *size)
{
    if (lua_isnoneornil(L, 2) && lua_isnoneornil(L, 3)) {
        *size = PSHM_UNSET;
        return 0;
    }
    uint64_t offset = lpshm_opt_bytes(L, 2, "offset", 0);
    *size = lpshm_opt_bytes(L, 3, "size", lpshm_rest(segment, offset));
    return offset;
}

/* segment:pin(offset, size, {on_fault = false}) -> true | nil, message, code
 * Keeps the pages around a range in memory: mlock2(2). Without a range the whole segment; on System V SHM_LOCK. */
int lpshm_segment_pin(lua_State *L)
{
    static const lpshm_option names[] = {{"on_fault", LPSHM_OPTION_BOOLEAN, 0}};
    bool on_fault = false;
    uint64_t size;
    pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    uint64_t offset = pin_range(L, segment, &size);
    lpshm_options(L, 4, names, 1, &on_fault);
    return lpshm_result(L, segment, pshm_segment_pin(segment, offset, size, on_fault), offset, size);
}

/* segment:unpin(offset, size) -> true | nil, message, code
 * Ends pin: munlock(2); on System V without a range SHM_UNLOCK. */
int lpshm_segment_unpin(lua_State *L)
{
    uint64_t size;
    pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    uint64_t offset = pin_range(L, segment, &size);
    return lpshm_result(L, segment, pshm_segment_unpin(segment, offset, size), offset, size);
}

/* segment:resize(size) -> true | nil, message, code
 * Sets the size of the object so that the window ends at its new end, and maps that. Shrinking raises while locks are
 * held; a view that then lies outside raises when it is used. */
int lpshm_segment_resize(lua_State *L)
{
    pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    uint64_t size = lpshm_bytes(L, 2, "size");
    return lpshm_result(L, segment, pshm_segment_resize(segment, size), 0, size);
}

/* segment:unlink() -> true | nil, message, code
 * Removes the name, or the System V id, if it still leads to this very object. */
int lpshm_segment_unlink(lua_State *L)
{
    pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    return lpshm_result(L, segment, pshm_segment_unlink(segment), 0, 0);
}

/* segment:set{uid =, gid =, mode = "0600"} -> true | nil, message, code
 * Changes owner, group and permissions; what is left out stays. */
int lpshm_segment_set(lua_State *L)
{
    struct set_options {
        int64_t uid, gid;
        uint32_t mode;
    } options = {-1, -1, PSHM_MODE_UNSET};
    static const lpshm_option names[] = {
        {"uid", LPSHM_OPTION_ID, offsetof(struct set_options, uid)},
        {"gid", LPSHM_OPTION_ID, offsetof(struct set_options, gid)},
        {"mode", LPSHM_OPTION_MODE, offsetof(struct set_options, mode)},
    };
    pshm_segment *segment = lpshm_to_segment(L, 1)->segment;
    luaL_checktype(L, 2, LUA_TTABLE);
    lpshm_options(L, 2, names, 3, &options);
    return lpshm_result(L, segment, pshm_segment_set(segment, options.uid, options.gid, options.mode), 0, 0);
}

/* Pushes a table of what is known. */
static void push_stat(lua_State *L, const pshm_stat *stat, const char *address)
{
    lua_createtable(L, 0, 16);
    lua_pushstring(L, address);
    lua_setfield(L, -2, "address");
    lua_pushstring(L, pshm_kind_name(stat->kind));
    lua_setfield(L, -2, "kind");
#define X(name, text)                                                                                                  \
    if (stat->name != PSHM_NONE) {                                                                                     \
        lua_pushinteger(L, stat->name);                                                                                \
        lua_setfield(L, -2, #name);                                                                                    \
    }
    PSHM_STAT_MAP(X)
#undef X
}

/* segment:stat() -> table | nil, message, code
 * What the kernel keeps: address, kind, size, and what else the kind has. */
int lpshm_segment_stat(lua_State *L)
{
    pshm_stat stat;
    lpshm_segment *self = lpshm_to_segment(L, 1);
    int rc = pshm_segment_stat(self->segment, &stat);
    if (rc)
        return lpshm_fail(L, self->segment->address, rc);
    lua_pushstring(L, self->segment->address);
    push_stat(L, &stat, lua_tostring(L, -1));
    return 1;
}

static const char *check_address(lua_State *L, size_t *length)
{
    luaL_checktype(L, 1, LUA_TSTRING);
    return lua_tolstring(L, 1, length);
}

/* polyshm.stat(address) -> table | nil, message, code
 * The same without attaching. */
int lpshm_stat(lua_State *L)
{
    size_t length;
    pshm_stat stat;
    const char *address = check_address(L, &length);
    int rc = pshm_stat_address(address, length, &stat);
    if (rc)
        return lpshm_fail(L, address, rc);
    push_stat(L, &stat, address);
    return 1;
}

/* polyshm.exists(address) -> boolean | nil, message, code */
int lpshm_exists(lua_State *L)
{
    size_t length;
    const char *address = check_address(L, &length);
    int rc = pshm_exists(address, length);
    if (rc < 0)
        return lpshm_fail(L, address, rc);
    lua_pushboolean(L, rc);
    return 1;
}

/* polyshm.unlink(address) -> true | nil, message, code
 * Removes the name, or the System V id, that `address` leads to. */
int lpshm_unlink(lua_State *L)
{
    size_t length;
    const char *address = check_address(L, &length);
    int rc = pshm_unlink(address, length);
    if (rc)
        return lpshm_fail(L, address, rc);
    lua_pushboolean(L, 1);
    return 1;
}

struct listing {
    pshm_stat *stats;
    size_t count;
};

static int push_listing(lua_State *L)
{
    const struct listing *listing = lua_touserdata(L, 1);
    lua_createtable(L, (int)listing->count, 0);
    for (size_t i = 0; i < listing->count; i++) {
        push_stat(L, &listing->stats[i], listing->stats[i].address);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* polyshm.list() -> table of tables | nil, message, code
 * Every POSIX and System V segment that this process can see, each as stat gives it. */
int lpshm_list(lua_State *L)
{
    struct listing listing;
    luaL_checkstack(L, 3, NULL);
    int rc = pshm_list(&listing.stats, &listing.count);
    if (rc)
        return lpshm_fail(L, "list", rc);
    /* Protected: the list must be freed even if memory runs out. */
    lua_pushcfunction(L, push_listing);
    lua_pushlightuserdata(L, &listing);
    rc = lua_pcall(L, 1, 1, 0);
    pshm_list_free(listing.stats);
    return rc == LUA_OK ? 1 : lua_error(L);
}
