/* SPDX-License-Identifier: MIT
 *
 * The one table of polyshm's own codes: name, number, class, text. Exceptions, Lua codes and docs/errors.rst follow
 * from it. Numbers are never reused.
 */
#ifndef POLYSHM_ERROR_H
#define POLYSHM_ERROR_H

#include <polyshm/polyshm.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What kind of fault a code is; the bindings choose the exception by it. */
typedef enum pshm_class {
    PSHM_CLASS_OS,           /* the system refused: OSError; nil, message, name */
    PSHM_CLASS_VALUE,        /* the caller's fault: ValueError; error() */
    PSHM_CLASS_TYPE,         /* the caller's fault: TypeError; error() */
    PSHM_CLASS_INDEX,        /* the caller's fault: IndexError; error() */
    PSHM_CLASS_BUFFER,       /* memory is lent out: BufferError; error() */
    PSHM_CLASS_RUNTIME,      /* not the owner, or the owner again: RuntimeError; error() */
    PSHM_CLASS_BROKEN,       /* of a barrier: threading.BrokenBarrierError; error object with a code */
    PSHM_CLASS_LOST,         /* memory that is gone: polyshm.Lost; error object with a code */
    PSHM_CLASS_DELETED,      /* removed, or made anew: polyshm.Deleted; error object with a code */
    PSHM_CLASS_KEY,          /* nothing has the name: KeyError; nil, message, name */
    PSHM_CLASS_INCOMPATIBLE, /* no arena, or not one of this kind: polyshm.Incompatible; error object with a code */
    PSHM_CLASS_CORRUPT,      /* bytes that cannot be: polyshm.Corrupt; error object with a code */
} pshm_class;

#define PSHM_ERROR_MAP(X)                                                                                              \
    X(ECLOSED, -1000, VALUE, "the segment is closed")                                                                  \
    X(EBOUNDS, -1001, VALUE, "outside the segment")                                                                    \
    X(EINDEX, -1002, INDEX, "index out of range")                                                                      \
    X(EREADONLY, -1003, TYPE, "the memory is read-only")                                                               \
    X(ENOACCESS, -1004, VALUE, "the memory may not be accessed (access \"none\")")                                     \
    X(ELOST, -1005, LOST, "memory under the mapping is gone: the file was cut short, or no room was left for it")      \
    X(ENUL, -1009, VALUE, "a name must not contain a NUL byte")                                                        \
    X(EADDRESS, -1010, VALUE,                                                                                          \
      "not an address: use posix:/name, sysv:0x1234, sysv:path#A, sysv:private, sysv:id=42, file:path, anon:, "        \
      "zero:, memfd:name or fd:7")                                                                                     \
    X(ENAME, -1011, VALUE,                                                                                             \
      "not a name: a POSIX name is one slash and 1 to 255 bytes without a slash or NUL, and not /. or /..")            \
    X(EPROJECT, -1012, VALUE, "not a ftok project: one character, or #0x01 to #0xff, after the last #")                \
    X(ENOSIZE, -1013, VALUE, "size is needed to create")                                                               \
    X(EZEROSIZE, -1014, VALUE, "size must be at least 1 byte, and there must be something to map")                     \
    X(ETOOBIG, -1015, VALUE, "size or offset is larger than a mapping can be")                                         \
    X(EWINDOW, -1016, VALUE, "offset and size do not fit into what exists")                                            \
    X(EOFFSET, -1017, VALUE, "this kind has no offset when it is created")                                             \
    X(EEXCLUSIVE, -1018, VALUE, "exclusive goes with an address that can be created: not fd: and sysv:id=")            \
    X(EACCESSNAME, -1019, VALUE, "access must be \"rw\" or \"r\", or of a segment \"copy\" or \"none\"")               \
    X(EMODE, -1020, VALUE, "mode must be permissions alone, 0 to 0777")                                                \
    X(ESIZE, -1021, VALUE, "not a size: bytes, or a number with K, M or G")                                            \
    X(EADVICE, -1022, VALUE, "unknown advice")                                                                         \
    X(EALIGN, -1023, VALUE, "offset is not aligned")                                                                   \
    X(ETYPE, -1024, VALUE, "unknown element type")                                                                     \
    X(ERANGE, -1025, VALUE, "value does not fit the element type")                                                     \
    X(EBUFFERS, -1026, BUFFER, "views are exported, locks held or calls under way: release them first")                \
    X(EDONTFORK, -1027, BUFFER, "no buffer of memory that is advised \"dontfork\"")                                    \
    X(EHUGEPAGES, -1028, VALUE, "hugepages must be true, or a power of two")                                           \
    X(EOWNERID, -1029, VALUE, "uid and gid must be from 0 to 4294967295, or left out")                                 \
    X(ENOTMUTEX, -1030, VALUE, "no robust process-shared mutex at this offset")                                        \
    X(ERECURSIVE, -1031, VALUE, "the mutex exists and its recursive setting is another")                               \
    X(ENOTOWNER, -1032, RUNTIME, "not held by this thread")                                                            \
    X(ERELOCK, -1033, RUNTIME, "already held by this thread, and not recursive")                                       \
    X(EHELD, -1034, RUNTIME, "already held by this lock object")                                                       \
    X(ENOCOUNT, -1035, VALUE, "does not exist, and to create it takes the number that it begins with")                 \
    X(ESELFWAIT, -1036, RUNTIME, "this thread would wait for itself")                                                  \
    X(EREMADE, -1040, DELETED, "was removed, or removed and made anew")                                                \
    X(EDELETED, -1041, DELETED, "the object was deleted")                                                              \
    X(ENONAME, -1050, KEY, "no object has this name")                                                                  \
    X(ENAMESIZE, -1051, VALUE, "a name of an object has 1 to 255 bytes")                                               \
    X(ENAMETEXT, -1052, VALUE, "a name of an object is UTF-8, without a NUL")                                          \
    X(EKIND, -1053, VALUE, "the name belongs to an object of another kind")                                            \
    X(EPARAMETER, -1054, VALUE, "exists, and this parameter of it is another")                                         \
    X(ETOOSMALL, -1055, VALUE, "the size is too small for an arena with so many participants")                         \
    X(EPARTICIPANTS, -1056, RUNTIME, "as many threads as the arena has room for take part already")                    \
    X(EPARTICIPANTCOUNT, -1057, VALUE, "participants must be from 1 to 32766")                                         \
    X(EHOLDS, -1058, RUNTIME, "this thread holds as many locks of the arena as it can")                                \
    X(EDESTINATION, -1059, VALUE, "not a destination: neither a root nor an aligned word of a block in use")           \
    X(EOCCUPIED, -1060, VALUE, "the destination does not hold 0")                                                      \
    X(ENOTBLOCK, -1061, VALUE, "no block in use is there")                                                             \
    X(ELIFE, -1062, VALUE, "life must be \"keep\" or \"last-detach\"")                                                 \
    X(EDEPTH, -1063, RUNTIME, "held too often by this thread")                                                         \
    X(EBROKEN, -1064, BROKEN, "the barrier is broken")                                                                 \
    X(EPARTIES, -1065, RUNTIME, "as many have joined the barrier as it has parties")                                   \
    X(ETOOMANY, -1066, VALUE, "more than there are, or can be")                                                        \
    X(ETOOFEW, -1067, VALUE, "must be at least 1")                                                                     \
    X(ENOMUTEX, -1068, VALUE, "a new condition needs a mutex of the same arena")                                       \
    X(EUNWAITABLE, -1069, TYPE, "cannot be waited for")                                                                \
    X(ENOTARENA, -1070, INCOMPATIBLE, "holds something else than a polyshm arena")                                     \
    X(EFORMAT, -1071, INCOMPATIBLE, "an arena of another format")                                                      \
    X(EABI, -1072, INCOMPATIBLE, "an arena of another libc or byte order, whose mutexes are not those of this one")    \
    X(ETRUNCATED, -1073, INCOMPATIBLE, "an arena that was cut short or has grown: its header has another size")        \
    X(ENETWORK, -1074, INCOMPATIBLE, "on a network file system: other machines would not share its memory")            \
    X(EELSEWHERE, -1075, INCOMPATIBLE, "an arena that others use by another way: its header names another file")       \
    X(ECORRUPT, -1080, CORRUPT, "bytes of the arena that cannot be")

/* The codes: PSHM_ECLOSED and so on. */
enum {
#define X(name, number, class_, text) PSHM_##name = (number),
    PSHM_ERROR_MAP(X)
#undef X
};

/* The symbolic name of a code: "ECLOSED", or errno's own, "ENOENT". "UNKNOWN" for what is neither.
 * Owns: a static string.  Safe: anywhere, signal handlers too. */
PSHM_API const char *pshm_error_name(int code);

/* What a code means, in English. For an errno it is strerror's text.
 * Owns: a static string.  Safe: threads. */
PSHM_API const char *pshm_error_text(int code);

/* The class of a code; every errno is PSHM_CLASS_OS.
 * Safe: anywhere, signal handlers too. */
PSHM_API pshm_class pshm_error_class(int code);

#ifdef __cplusplus
}
#endif
#endif
