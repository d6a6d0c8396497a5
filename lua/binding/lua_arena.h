/* SPDX-License-Identifier: MIT
 *
 * The arena, for the files whose functions are its methods: lua_arena.c has its life and its fields, lua_arena_objects.c
 * what is in it, lua_participant.c who takes part in it, lua_heap.c its blocks, and each noun has a file of its own.
 */
#ifndef POLYSHM_LUA_ARENA_H
#define POLYSHM_LUA_ARENA_H

#include <polyshm/arena.h>

#include "glue.h"

typedef struct lpshm_arena {
    const lpshm_type *type;
    pshm_arena *arena;   /* one reference; NULL before it is opened and after __gc */
    const char *address; /* a string that the user value keeps, whatever a finalizer ends meanwhile */
} lpshm_arena;

extern const lpshm_type lpshm_arena_type;
extern const lpshm_type lpshm_participant_type;

static inline lpshm_arena *lpshm_to_arena(lua_State *L, int arg)
{
    return lpshm_to(L, arg, &lpshm_arena_type, sizeof(lpshm_arena));
}

/* As lpshm_fail_about, for something in the arena at 1; "" for the arena itself. Needs no open one. */
int lpshm_arena_fail(lua_State *L, const char *subject, int rc);
/* The same where there is no way to return nil. */
int lpshm_arena_fail_loudly(lua_State *L, const char *subject, int rc);
/* `true`, or as lpshm_arena_fail. */
int lpshm_arena_result(lua_State *L, const char *subject, int rc);

/* The name of an object at 2, which has to be a string. Raises. */
const char *lpshm_object_name(lua_State *L, size_t *length);

/* Methods that stand in files of their own. */
int lpshm_arena_get(lua_State *L);
int lpshm_arena_has(lua_State *L);
int lpshm_arena_delete(lua_State *L);
int lpshm_arena_list(lua_State *L);
int lpshm_arena_pairs(lua_State *L);
int lpshm_arena_len(lua_State *L);
int lpshm_arena_participants(lua_State *L);

#endif
