/* SPDX-License-Identifier: MIT
 *
 * What all handles have in common that are userdata on one thing in an arena or a segment: the head of the userdata, its
 * beginning and end, its texts, errors about it, and waiting for it in slices.
 *
 * A noun of an arena is one file: an lpshm_noun, the three functions that kinds.def asks for, and its verbs.
 */
#ifndef POLYSHM_LUA_OBJECT_H
#define POLYSHM_LUA_OBJECT_H

#include <polyshm/notifier.h>

#include "glue.h"

/* What is shared by all handles of a noun. */
typedef struct lpshm_noun {
    lpshm_type type;
    const char *within; /* what it lies in; NULL: an arena, where it has a name */
    size_t size;        /* of its userdata, whose first member is an lpshm_object */
    size_t handle;      /* offsetof the core's handle in it, whose first member in an arena is a pshm_object */
    int values;         /* user values of its own, from LPSHM_OBJECT_VALUES + 1 on */
    /* Opens it, or with `create` makes it. `options` are those of the call of lpshm_object_of or lpshm_object_open. NULL
     * where that is done otherwise. */
    int (*init)(void *handle, pshm_arena *arena, const char *name, size_t length, bool create, const void *options,
                bool *created);
    void (*fini)(void *handle);
} lpshm_noun;

/* User values: what it lies in, and its two texts. These are strings of Lua's, so that messages can be made of them
 * whatever a finalizer ended meanwhile. */
enum { LPSHM_OBJECT_WITHIN = 1, LPSHM_OBJECT_ADDRESS, LPSHM_OBJECT_SUBJECT, LPSHM_OBJECT_VALUES = 3 };

typedef struct lpshm_object {
    const lpshm_type *type;    /* that of its noun, or lpshm_closed */
    void *handle;              /* the core's */
    const lpshm_noun *noun;    /* for its end */
    struct lpshm_object *base; /* whose handle that is; NULL: its own */
    const char *address;       /* "posix:/demo" */
    const char *subject;       /* "posix:/demo: mutex at 64" */
    uint32_t uses;             /* what still needs the handle: guards, repairs, others that share it */
    bool ended;                /* the handle goes with the last of them */
    pshm_notifier *notifier;   /* of pollfd(); NULL: nobody has asked */
} lpshm_object;

static inline void *lpshm_to_object(lua_State *L, int arg, const lpshm_noun *noun)
{
    return lpshm_to(L, arg, &noun->type, sizeof(lpshm_object));
}

/* Beginning and end */

/* arena:<noun>(name, ...): looks at the arena and the name. Raises. */
void lpshm_object_arguments(lua_State *L);
/* The rest of it: pushes a handle on the object whose name is at 2 in the arena at 1, made where there is none and the arena
 * may be written. Raises if it cannot. */
void *lpshm_object_of(lua_State *L, const lpshm_noun *noun, const void *options);
/* Opens that object: pushes the handle and sets *self, which may be NULL. 0 or a code. */
int lpshm_object_open(lua_State *L, const lpshm_noun *noun, const void *options, void *self);

/* Pushes a new handle on something in what stands at 1, whose address is given; its subject's text is at the top and is
 * taken. It is closed until its type is set. */
void *lpshm_object_new(lua_State *L, const lpshm_noun *noun, const char *address);
/* Pushes an object of `noun` on the very handle of the one at `index`, which stays alive with it. */
void *lpshm_object_share(lua_State *L, const lpshm_noun *noun, int index);

/* While something uses the handle, the end of its userdata leaves it alone. */
void lpshm_object_keep(lpshm_object *self);
void lpshm_object_let_go(lpshm_object *self);

/* Makes the type of a noun, with __gc, __close, __tostring and, in an arena, name() and pollfd(). Else as lpshm_new_type, and leaves the
 * table of methods on the stack. */
void lpshm_new_noun(lua_State *L, const lpshm_noun *noun, const luaL_Reg *methods, lua_CFunction index);

/* Codes of the core */

/* About the object, as lpshm_fail_about and lpshm_fail_loudly; needs no live one. */
int lpshm_object_fail(lua_State *L, const lpshm_object *self, int rc);
int lpshm_object_fail_loudly(lua_State *L, const lpshm_object *self, int rc);

/* Waits in slices for the object of `noun` at 1, with hooks run between: calls slice(handle, deadline, data) until it says
 * something other than -EINTR, which is what comes back. Raises what a hook raises, and if one closed the object. */
typedef int (*lpshm_slice)(void *handle, int64_t deadline, void *data);
int lpshm_object_slices(lua_State *L, const lpshm_noun *noun, int64_t timeout, lpshm_slice slice, void *data);
/* The same for verbs like wait(timeout): true | false, "timeout", else as lpshm_object_fail. */
int lpshm_object_wait(lua_State *L, const lpshm_noun *noun, int64_t timeout, lpshm_slice slice, void *data);

/* One of each per noun of an arena: arena:<noun>(name, ...), which raises if it cannot; and what opens the object whose name
 * is at 2 in the arena at 1, and pushes the handle: 0, or a code. glue.h has the third, lpshm_<noun>_register. */
#define PSHM_KIND(number, noun)                                                                                        \
    extern const lpshm_noun lpshm_##noun##_noun;                                                                       \
    int lpshm_##noun##_of(lua_State *L);                                                                               \
    int lpshm_##noun##_open(lua_State *L);
#include <polyshm/kinds.def>

#endif
