/* SPDX-License-Identifier: MIT
 *
 * Arenas: segments with polyshm's header in them, which hold named objects. Any participant may be killed at any
 * instruction: the others go on, nothing is torn and nothing leaks. docs/design/survival.rst says how, docs/layout.rst
 * what every byte is.
 *
 * A process maps an arena once, however many handles it has. A thread becomes a participant when it first owns or waits
 * for something, and is one until it ends, or until the arena has no open handle in its process and it calls the library
 * the next time.
 */
#ifndef POLYSHM_ARENA_H
#define POLYSHM_ARENA_H

#include <polyshm/segment.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How long the name of an arena lives: constant, text. */
#define PSHM_LIFE_MAP(X)                                                                                               \
    X(KEEP, "keep")               /* until somebody unlinks it */                                                      \
    X(LAST_DETACH, "last-detach") /* until the last handle is closed, or its process is dead */

typedef enum pshm_life {
    PSHM_LIFE_UNSET = -1,
#define X(name, text) PSHM_LIFE_##name,
    PSHM_LIFE_MAP(X)
#undef X
        PSHM_LIVES
} pshm_life;

/* What runs a participant, for whoever looks: constant, text. The numbers are stored. */
#define PSHM_LANGUAGE_MAP(X)                                                                                           \
    X(C, "c")                                                                                                          \
    X(PYTHON, "python")                                                                                                \
    X(LUA, "lua")

typedef enum pshm_language {
#define X(name, text) PSHM_LANGUAGE_##name,
    PSHM_LANGUAGE_MAP(X)
#undef X
        PSHM_LANGUAGES
} pshm_language;

#define PSHM_ARENA_SIZE (UINT64_C(16) << 20) /* of a new arena, unless said */
#define PSHM_ARENA_PARTICIPANTS 1024u        /* the same; fewer in an arena of less than 4 MiB */
#define PSHM_PARTICIPANTS_MAX 32766u

typedef struct pshm_arena_options {
    uint64_t size;         /* bytes of what is created; unset: 16 MiB */
    pshm_access access;    /* RW or R */
    uint32_t mode;         /* of what is created; unset: 0600 */
    int reserve;           /* of what is created: 1 or unset (-1), or 0 */
    bool create;           /* create, or open what exists */
    bool exclusive;        /* create or fail */
    pshm_life life;        /* of what is created; unset: keep */
    uint32_t participants; /* of what is created: how many threads at a time; 0: unset */
    int64_t deadline;      /* how long to wait for a creator; 0: not */
    pshm_language language;
} pshm_arena_options;

/* clang-format off */
#define PSHM_ARENA_OPTIONS_INIT                                                                                        \
    { .size = PSHM_UNSET, .mode = PSHM_MODE_UNSET, .reserve = -1, .life = PSHM_LIFE_UNSET }
/* clang-format on */

typedef struct pshm_attachment pshm_attachment; /* the core's own */

/* One handle. Public to read, the core's to write. */
typedef struct pshm_arena {
    pshm_attachment *attachment; /* the mapping, one for all handles of a process; stays until the handle is freed */
    pshm_segment *segment;       /* address, kind, size, descriptor, lost: to look at, not to close */
    uint64_t id;                 /* random; no other arena has it, nor one that is made anew under the same address */
    uint32_t participants;       /* how many threads it has room for */
    pshm_life life;
    bool created; /* this handle made it */
    bool readonly;
    bool closed;
    uint32_t references;
    const char *address; /* as it was opened */
} pshm_arena;

/* Opens or creates the arena at `address`. Memory that is all zero becomes an arena if `create` says so. Creation
 * parameters are those of a new arena; what exists keeps its own, and where they are given they have to agree.
 * Errors: those of pshm_segment_open; PSHM_EACCESSNAME (neither RW nor R), PSHM_ETOOSMALL, PSHM_EPARTICIPANTS,
 *   PSHM_EPARAMETER (another size, life or number of participants); PSHM_ENOTARENA, PSHM_EFORMAT, PSHM_EABI,
 *   PSHM_ETRUNCATED, PSHM_ENETWORK, PSHM_ECORRUPT; -ENOENT (nothing there in time), -EINTR (a slice of the wait for a
 *   creator is over: call again); -EAGAIN, -EBUSY (somebody is stopped in the midst of its last close, or resets it).
 * Owns: *out is the caller's, one reference; pshm_arena_close and then pshm_arena_release end it.
 * Safe: threads, processes.  Blocks: until `options->deadline`, and while memory is reserved. */
PSHM_API int pshm_arena_open(const char *address, size_t length, const pshm_arena_options *options, pshm_arena **out);

/* Closes the handle: from now on it and its objects refuse everything but to give back what is held. The memory is
 * unmapped after the last handle of the process, when no thread of it holds anything, and each that took part has called
 * the library again or ended. With life "last-detach" the last handle of all removes the name.
 * Safe: threads. */
PSHM_API void pshm_arena_close(pshm_arena *arena);

/* One more reference to the struct itself, so that it can be asked `closed` for as long; and one back, the last of which
 * closes and frees it.
 * Safe: threads. */
PSHM_API void pshm_arena_retain(pshm_arena *arena);
PSHM_API void pshm_arena_release(pshm_arena *arena);

/* Removes the name, or the System V id, if it still leads to this very arena. As pshm_segment_unlink.
 * Errors: PSHM_ECLOSED; -ENOENT, -EIDRM, -EACCES, -EPERM. */
PSHM_API int pshm_arena_unlink(pshm_arena *arena);

/* The text of a life: "keep", "last-detach"; of a language: "c", "python", "lua". NULL for what is none.
 * Owns: a static string.  Safe: anywhere, signal handlers too. */
PSHM_API const char *pshm_life_name(pshm_life life);
PSHM_API const char *pshm_language_name(pshm_language language);

/* ---- objects by name ---- */

struct pshm_watch; /* the core's own: what to sleep on */

/* A handle on one object, the head of every noun's handle. Public to read, the core's to write. */
typedef struct pshm_object {
    pshm_arena *arena; /* one reference; NULL: not open */
    void *body;        /* the noun's bytes, and how many */
    uint64_t body_size;
    uint64_t *stamp; /* where its serial stands: another there means that it was deleted */
    uint64_t serial;
    uint64_t place; /* of its head, in bytes from the arena's start */
    uint32_t kind;
    uint32_t name_size;
    char *name; /* with a NUL behind it */
    /* What pshm_wait asks; NULL: it cannot be waited for. */
    int (*watch)(const struct pshm_object *object, int64_t least, struct pshm_watch *watch);
} pshm_object;

/* The number in kinds.def of the object `name`.
 * Errors: PSHM_ECLOSED, PSHM_ELOST, PSHM_ECORRUPT; PSHM_ENONAME; PSHM_ENAMESIZE, PSHM_ENAMETEXT. */
PSHM_API int pshm_arena_find(pshm_arena *arena, const char *name, size_t length, uint32_t *kind);

/* The noun behind such a number: "mutex". NULL for none that this version knows.
 * Owns: a static string.  Safe: anywhere, signal handlers too. */
PSHM_API const char *pshm_noun_name(uint32_t kind);

/* Deletes the object `name`; with `object` only if it is still that very one. Handles on it get PSHM_EDELETED from now
 * on; its memory is free again when no call on it is under way.
 * Errors: as pshm_arena_find; PSHM_EREADONLY, PSHM_EDELETED; PSHM_EPARTICIPANTS; -EINTR (a slice is over: call again).
 * Safe: threads, processes.  Blocks: while another creates or deletes. */
PSHM_API int pshm_arena_delete(pshm_arena *arena, const char *name, size_t length, const pshm_object *object);

typedef struct pshm_entry {
    uint32_t kind;
    uint32_t name_size;
    uint64_t serial;
    uint64_t body_size;
    char name[256]; /* with a NUL behind it */
} pshm_entry;

/* All objects, in no order: whatever is there throughout is there once.
 * Errors: PSHM_ECLOSED, PSHM_ELOST, PSHM_ECORRUPT; -ENOMEM.
 * Owns: *out is the caller's; pshm_entries_free frees it. */
PSHM_API int pshm_arena_list(pshm_arena *arena, pshm_entry **out, size_t *count);
PSHM_API void pshm_entries_free(pshm_entry *entries);

/* Is the object of a handle still there, and its arena open?
 * Errors: PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST. */
PSHM_API int pshm_object_check(const pshm_object *object);

/* ---- the whole ---- */

typedef struct pshm_class_stats {
    uint32_t block;      /* bytes of one */
    uint32_t pages;      /* that its spans take */
    uint64_t used, free; /* blocks */
} pshm_class_stats;

typedef struct pshm_arena_stats {
    uint64_t size;         /* bytes of the arena */
    uint64_t heap;         /* bytes of it that the heap can give out */
    uint64_t used, free;   /* bytes of blocks that are in use; of all others */
    uint64_t largest_free; /* the largest block that could be had now */
    uint64_t large;        /* blocks in use that have pages of their own, and */
    uint64_t large_pages;  /* their pages */
    uint64_t objects;      /* names */
    uint32_t taking_part;  /* slots of threads that live */
    uint32_t participants; /* slots that there are */
    uint32_t classes;
    pshm_class_stats class_[32];
} pshm_arena_stats;

/* Counts without a lock: exact while nobody allocates.
 * Errors: PSHM_ECLOSED, PSHM_ELOST, PSHM_ECORRUPT. */
PSHM_API int pshm_arena_stats_of(pshm_arena *arena, pshm_arena_stats *out);

/* Looks at everything: *count findings as text, one line each, "at 4096: what is wrong"; none: all is well,
 * and *report may be NULL. Where the arena may be written it keeps others from changing it meanwhile, if they let it
 * within a second; otherwise it looks until it sees the same twice, and takes no lock.
 * Errors: PSHM_ECLOSED, PSHM_ELOST; -ENOMEM.
 * Owns: *report is the caller's; pshm_report_free frees it.  Blocks: up to some seconds. */
PSHM_API int pshm_arena_check(pshm_arena *arena, char **report, size_t *count);
PSHM_API void pshm_report_free(char *report);

#ifdef __cplusplus
}
#endif
#endif
