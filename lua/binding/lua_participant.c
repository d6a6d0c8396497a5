/* SPDX-License-Identifier: MIT
 *
 * Participants in Lua: each as it was when arena:participants() looked, and the wait for its end.
 */
#include <polyshm/participant.h>

#include "lua_arena.h"
#include "lua_wait.h"

#include <errno.h>

const lpshm_type lpshm_participant_type = {"polyshm.participant", "participant"};

/* User values: the arena, the table of names, and the name of what it waits for. */
enum { VALUE_ARENA = 1, VALUE_HOLDS, VALUE_WAITS, VALUES = 3 };

typedef struct lpshm_participant {
    const lpshm_type *type;
    pshm_arena *arena; /* one reference */
    const char *address;
    uint32_t slot, generation, pid, thread;
    pshm_language language;
    bool alive, self;
    pshm_notifier *notifier; /* of pollfd(); NULL: nobody has asked */
} lpshm_participant;

enum {
    FIELD_SLOT = 1,
    FIELD_GENERATION,
    FIELD_PID,
    FIELD_THREAD,
    FIELD_LANGUAGE,
    FIELD_ALIVE,
    FIELD_SELF,
    FIELD_HOLDS,
    FIELD_WAITS,
};

static inline lpshm_participant *to_participant(lua_State *L)
{
    return lpshm_to(L, 1, &lpshm_participant_type, sizeof(lpshm_participant));
}

/* Pushes one, of the arena at 2. */
static void push_participant(lua_State *L, const pshm_participant *participant)
{
    lpshm_participant *self = lpshm_new(L, &lpshm_participant_type, sizeof *self, VALUES);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, -2, VALUE_ARENA);
    lua_createtable(L, (int)participant->holding, 0);
    for (uint32_t i = 0; i < participant->holding && i < PSHM_HOLDS_MAX; i++) {
        lua_pushstring(L, participant->holds[i].name);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_setiuservalue(L, -2, VALUE_HOLDS);
    if (*participant->waits) {
        lua_pushstring(L, participant->waits);
        lua_setiuservalue(L, -2, VALUE_WAITS);
    }
    self->slot = participant->slot;
    self->generation = participant->generation;
    self->pid = participant->pid;
    self->thread = participant->thread;
    self->language = participant->language;
    self->alive = participant->alive;
    self->self = participant->self;
    const lpshm_arena *owner = lpshm_to_arena(L, 2);
    pshm_arena_retain(owner->arena);
    self->arena = owner->arena;
    self->address = owner->address;
    self->type = &lpshm_participant_type;
}

struct listing {
    pshm_participant *participants;
    size_t count;
};

static int push_listing(lua_State *L)
{
    const struct listing *listing = lua_touserdata(L, 1);
    lua_createtable(L, (int)listing->count, 0);
    for (size_t i = 0; i < listing->count; i++) {
        push_participant(L, &listing->participants[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* arena:participants() -> table | nil, message, code
 * The threads that own or wait for something, or did, and the dead whose place nobody has needed since. */
int lpshm_arena_participants(lua_State *L)
{
    struct listing listing;
    int rc = pshm_arena_list_participants(lpshm_to_arena(L, 1)->arena, &listing.participants, &listing.count);
    if (rc)
        return lpshm_arena_fail(L, "", rc);
    rc = lpshm_protected(L, push_listing, &listing, 1);
    pshm_participants_free(listing.participants);
    return rc == LUA_OK ? 1 : lua_error(L);
}

/* participant:wait(timeout) -> true | false, "timeout"
 * Waits until it is gone (its thread or process ended, or it took part no longer), up to `timeout` seconds: nil for ever, 0
 * not at all. */
static int participant_wait(lua_State *L)
{
    const lpshm_participant *self = to_participant(L);
    int64_t deadline = pshm_deadline(lpshm_timeout(L, 2));
    int rc;
    while ((rc = pshm_participant_wait(self->arena, self->slot, self->generation, deadline)) == -EINTR) {
        lpshm_run_hooks(L);
        self = to_participant(L);
    }
    if (!rc) {
        lua_pushboolean(L, 1);
        return 1;
    }
    if (rc == -ETIMEDOUT) {
        lua_pushboolean(L, 0);
        lua_pushliteral(L, "timeout");
        return 2;
    }
    if (rc == PSHM_ECLOSED)
        return luaL_error(L, "%s is closed", lpshm_arena_type.noun);
    const char *subject = lua_pushfstring(L, "%s: participant %I", self->address, (LUAI_UACINT)self->slot);
    return lpshm_fail_about(L, subject, self->address, rc);
}

const void *lpshm_participant_waitable(lua_State *L, int arg, pshm_waitable *out, pshm_notifier ***notifier)
{
    lpshm_participant *self = lpshm_test(L, arg, &lpshm_participant_type, sizeof *self);
    if (!self)
        return NULL;
    *out = (pshm_waitable){.arena = self->arena, .slot = self->slot, .generation = self->generation};
    *notifier = &self->notifier;
    return self;
}

int lpshm_participant_fail(lua_State *L, int arg, int rc)
{
    const lpshm_participant *self = lpshm_to(L, arg, &lpshm_participant_type, sizeof *self);
    if (rc == PSHM_ECLOSED)
        return luaL_error(L, "%s is closed", lpshm_arena_type.noun);
    const char *subject = lua_pushfstring(L, "%s: participant %I", self->address, (LUAI_UACINT)self->slot);
    return lpshm_fail_loudly(L, subject, self->address, rc);
}

static int participant_field(lua_State *L, const lpshm_participant *self, lua_Integer field)
{
    switch (field) {
    case FIELD_SLOT:
        lua_pushinteger(L, self->slot);
        break;
    case FIELD_GENERATION:
        lua_pushinteger(L, self->generation);
        break;
    case FIELD_PID:
        lua_pushinteger(L, self->pid);
        break;
    case FIELD_THREAD:
        lua_pushinteger(L, self->thread);
        break;
    case FIELD_LANGUAGE:
        lua_pushstring(L, pshm_language_name(self->language));
        break;
    case FIELD_ALIVE:
        lua_pushboolean(L, self->alive);
        break;
    case FIELD_SELF:
        lua_pushboolean(L, self->self);
        break;
    case FIELD_HOLDS:
        lua_getiuservalue(L, 1, VALUE_HOLDS);
        break;
    case FIELD_WAITS:
        lua_getiuservalue(L, 1, VALUE_WAITS);
        break;
    default:
        lua_pushnil(L);
    }
    return 1;
}

static int participant_index(lua_State *L)
{
    lua_Integer field = lpshm_index(L);
    return field ? participant_field(L, to_participant(L), field) : 1;
}

/* Its end: as __gc and __close. The participant stays what it is. */
static int participant_close(lua_State *L)
{
    lpshm_participant *self = lpshm_to_close(L, 1, &lpshm_participant_type, sizeof *self);
    if (self) {
        self->type = &lpshm_closed;
        if (self->notifier)
            pshm_notifier_close(self->notifier);
        pshm_arena_release(self->arena);
    }
    return 0;
}

static int participant_tostring(lua_State *L)
{
    const lpshm_participant *self = lpshm_to_close(L, 1, &lpshm_participant_type, sizeof *self);
    if (!self)
        lua_pushfstring(L, "%s (closed)", lpshm_participant_type.name);
    else
        lua_pushfstring(L, "%s (%s, slot %I, process %I, %s)", lpshm_participant_type.name, self->address,
                        (LUAI_UACINT)self->slot, (LUAI_UACINT)self->pid, self->alive ? "alive" : "dead");
    return 1;
}

/* participant:pollfd() -> integer */
static int participant_pollfd(lua_State *L)
{
    (void)lpshm_to(L, 1, &lpshm_participant_type, sizeof(lpshm_participant));
    return lpshm_pollfd(L);
}

void lpshm_participant_register(lua_State *L)
{
    static const luaL_Reg meta[] = {{"__gc", participant_close},
                                    {"__close", participant_close},
                                    {"__tostring", participant_tostring},
                                    {NULL, NULL}};
    static const luaL_Reg methods[] = {{"wait", participant_wait}, {"pollfd", participant_pollfd}, {NULL, NULL}};
    static const lpshm_field fields[] = {
        {"slot", FIELD_SLOT},     {"generation", FIELD_GENERATION}, {"pid", FIELD_PID},
        {"thread", FIELD_THREAD}, {"language", FIELD_LANGUAGE},     {"alive", FIELD_ALIVE},
        {"self", FIELD_SELF},     {"holds", FIELD_HOLDS},           {"waits", FIELD_WAITS},
    };
    lpshm_new_type(L, &lpshm_participant_type, meta, methods, participant_index);
    lpshm_new_fields(L, fields, sizeof fields / sizeof fields[0]);
    lua_pop(L, 1);
}
