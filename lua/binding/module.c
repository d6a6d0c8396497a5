/* SPDX-License-Identifier: MIT
 *
 * polyshm.core: the functions and constants of the module. kinds.def says which nouns have a type.
 */
#include "lua_wait.h"

#include <polyshm/mutex.h>

__attribute__((visibility("default"))) int luaopen_polyshm_core(lua_State *L);

int luaopen_polyshm_core(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"segment", lpshm_segment_open}, {"arena", lpshm_arena_open}, {"list", lpshm_list}, {"stat", lpshm_stat},
        {"exists", lpshm_exists},        {"unlink", lpshm_unlink},    {"wait", lpshm_wait}, {NULL, NULL}};
    luaL_checkversion(L);
    lpshm_glue_register(L);
    lpshm_lock_register(L);
    lpshm_view_register(L);
    lpshm_segment_mutex_register(L);
#define PSHM_RAW(noun) lpshm_##noun##_register(L);
#define PSHM_KIND(number, noun) PSHM_RAW(noun)
#include <polyshm/kinds.def>

    luaL_newlib(L, functions);
    lua_pushinteger(L, (lua_Integer)PSHM_MUTEX_SIZE);
    lua_setfield(L, -2, "MUTEX_SIZE");
    lua_pushinteger(L, PSHM_MUTEX_ALIGN);
    lua_setfield(L, -2, "MUTEX_ALIGN");
    lua_pushliteral(L, PSHM_VERSION);
    lua_setfield(L, -2, "_VERSION");
    return 1;
}
