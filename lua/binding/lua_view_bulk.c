/* SPDX-License-Identifier: MIT
 *
 * What a view does with many elements at once: get, set, fill, copy, totable, each. Values are checked before the
 * first of them is written, so that nothing is written unless everything fits.
 */
#include "lua_view.h"

#include <limits.h>

/* view:get(i, j) -> values...
 * The elements i to j; j defaults to i, and i to 1. */
int lpshm_view_get(lua_State *L)
{
    uint64_t first, count;
    lpshm_view *view = lpshm_to_view(L, 1);
    lpshm_view_range(L, 2, view, (uint64_t)luaL_optinteger(L, 2, 1), &first, &count);
    if (count >= INT_MAX || !lua_checkstack(L, (int)count + 1))
        return luaL_error(L, "%s: too many elements to return: %I", view->segment->address, (LUAI_UACINT)count);
    if (!count)
        return 0;
    /* Numbers are pushed without allocating: nothing can close the view meanwhile. */
    const unsigned char *from = lpshm_view_at(L, view, first, count, PSHM_READ);
    for (uint64_t i = 0; i < count; i++)
        lpshm_element_push(L, view->code, from + i * view->element.size);
    lpshm_view_done(L, view);
    return (int)count;
}

/* view:set(i, ...)
 * Stores the values from element i on. */
int lpshm_view_set(lua_State *L)
{
    lpshm_view *view = lpshm_to_view(L, 1);
    int values = lua_gettop(L) - 2;
    lua_Integer start = luaL_checkinteger(L, 2);
    if (values <= 0)
        return 0;
    if (start < 1 || (uint64_t)start - 1 >= view->count || (uint64_t)values > view->count - ((uint64_t)start - 1))
        return luaL_error(L, "%s: %d values from view index %I on: %s (1 to %I)", view->segment->address, values,
                          (LUAI_UACINT)start, pshm_error_text(PSHM_EINDEX), (LUAI_UACINT)view->count);
    for (int i = 0; i < values; i++)
        (void)lpshm_element_bits(L, 3 + i, view);
    unsigned char *to = lpshm_view_at(L, view, (uint64_t)start - 1, (uint64_t)values, PSHM_WRITE);
    for (int i = 0; i < values; i++)
        lpshm_element_store(to + (unsigned)i * view->element.size, view->element.size,
                            lpshm_element_bits(L, 3 + i, view));
    lpshm_view_done(L, view);
    return 0;
}

/* view:fill(x, i, j)
 * Sets the elements i to j (default: all) to x. */
int lpshm_view_fill(lua_State *L)
{
    uint64_t first, count;
    lpshm_view *view = lpshm_to_view(L, 1);
    uint64_t bits = lpshm_element_bits(L, 2, view);
    lpshm_view_range(L, 3, view, view->count, &first, &count);
    if (!count)
        return 0;
    unsigned char *to = lpshm_view_at(L, view, first, count, PSHM_WRITE);
    if (view->element.size == 1)
        memset(to, (int)(bits & 0xff), count);
    else
        for (uint64_t i = 0; i < count; i++)
            lpshm_element_store(to + i * view->element.size, view->element.size, bits);
    lpshm_view_done(L, view);
    return 0;
}

/* view:copy(target, i, j, at)
 * Copies the elements i to j (default: all) to the view `target`, from its element `at` (default: 1) on. Both have one
 * type and byte order; they may overlap, and may be of different segments. */
int lpshm_view_copy(lua_State *L)
{
    uint64_t first, count;
    lpshm_view *view = lpshm_to_view(L, 1), *target = lpshm_to_view(L, 2);
    lpshm_view_range(L, 3, view, view->count, &first, &count);
    lua_Integer at = luaL_optinteger(L, 5, 1);
    if (view->code != target->code)
        return luaL_argerror(L, 2, "a view of the same type and byte order expected");
    if (!count)
        return 0;
    if (at < 1 || (uint64_t)at - 1 > target->count || count > target->count - ((uint64_t)at - 1))
        return luaL_error(L, "%s: %I elements from view index %I on: %s (1 to %I)", target->segment->address,
                          (LUAI_UACINT)count, (LUAI_UACINT)at, pshm_error_text(PSHM_EINDEX),
                          (LUAI_UACINT)target->count);
    unsigned char *to = lpshm_view_at(L, target, (uint64_t)at - 1, count, PSHM_WRITE);
    const unsigned char *from = lpshm_view_at(L, view, first, count, PSHM_READ);
    memmove(to, from, count * view->element.size);
    lpshm_view_done(L, view);
    lpshm_view_done(L, target);
    return 0;
}

/* view:totable(i, j) -> table
 * A new table of the elements i to j (default: all), counted from 1. */
int lpshm_view_totable(lua_State *L)
{
    uint64_t first, count;
    lpshm_view *view = lpshm_to_view(L, 1);
    lpshm_view_range(L, 2, view, view->count, &first, &count);
    if (count > INT_MAX)
        return luaL_error(L, "%s: too many elements for a table: %I", view->segment->address, (LUAI_UACINT)count);
    lua_createtable(L, (int)count, 0);
    if (!count)
        return 1;
    /* The table has its room: from here on nothing allocates, and nothing can close the view. */
    view = lpshm_to_view(L, 1);
    const unsigned char *from = lpshm_view_at(L, view, first, count, PSHM_READ);
    for (uint64_t i = 0; i < count; i++) {
        lpshm_element_push(L, view->code, from + i * view->element.size);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lpshm_view_done(L, view);
    return 1;
}

static int view_next(lua_State *L)
{
    int isnum;
    lpshm_view *view = lpshm_to_view(L, 1);
    uint64_t i = (uint64_t)lua_tointegerx(L, 2, &isnum);
    if (PSHM_UNLIKELY(!isnum || i >= view->count))
        return 0;
    const unsigned char *from = lpshm_view_at(L, view, i, 1, PSHM_READ);
    lua_pushinteger(L, (lua_Integer)i + 1);
    lpshm_element_push(L, view->code, from);
    lpshm_view_done(L, view);
    return 2;
}

/* view:each() -> iterator, view, 0
 * For `for i, x in view:each() do`: i from 1, and the element. Holds nothing between the steps. */
int lpshm_view_each(lua_State *L)
{
    (void)lpshm_to_view(L, 1);
    lua_pushcfunction(L, view_next);
    lua_pushvalue(L, 1);
    lua_pushinteger(L, 0);
    return 3;
}
