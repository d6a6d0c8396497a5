/* SPDX-License-Identifier: MIT
 *
 * What can be waited for: handles on objects, and participants.
 */
#ifndef POLYSHM_LUA_WAIT_H
#define POLYSHM_LUA_WAIT_H

#include <polyshm/notifier.h>

#include "lua_object.h"

/* The userdata at `arg`, or NULL where it cannot be waited for. */
const void *lpshm_waitable(lua_State *L, int arg, pshm_waitable *out);

/* Raises the code about the one at `arg`. */
int lpshm_waitable_fail(lua_State *L, int arg, int rc);

/* <object>:pollfd(at_least) -> integer */
int lpshm_pollfd(lua_State *L);

/* lua_participant.c: the same of a participant, and whose notifier that is. */
const void *lpshm_participant_waitable(lua_State *L, int arg, pshm_waitable *out, pshm_notifier ***notifier);
int lpshm_participant_fail(lua_State *L, int arg, int rc);

/* polyshm.wait(objects, timeout) */
int lpshm_wait(lua_State *L);

#endif
