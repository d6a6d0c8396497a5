/* SPDX-License-Identifier: MIT
 *
 * The bytes of an arena, format 1. docs/layout.rst says the same in words; tests/layout reads arenas by that page alone.
 * All numbers are in the machine's byte order, all places are bytes from the arena's start. Memory that is all zero is
 * an arena that nobody has set up yet.
 */
#ifndef PSHM_CORE_LAYOUT_H
#define PSHM_CORE_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#define PSHM_MAGIC UINT64_C(0x1a6d6873796c6f70) /* the bytes "polyshm" and 0x1a */
#define PSHM_FORMAT 1u
/* The unit of everything that is aligned to pages, whatever the machine's are. */
#define PSHM_PAGE UINT64_C(4096)

/* ---- owner words: who has a lock -------------------------------------------------------------------------------
 *
 * 64 bits that change together. The low half is what futex(2) sleeps on:
 *
 *   bits 0 to 14    slot + 1 of the owner; 0: free; PSHM_ID_ABANDONED: free, and a death is still to be told
 *   bit 15          GRANTED: handed over, and the new owner has not seen it yet
 *   bits 16 to 30   generation of the owner, its low 15 bits; of an abandoned word slot + 1 of the dead, 0: not known
 *   bit 31          WAITERS: somebody sleeps on the word
 *
 * and the high half names the waiter who asked to be handed the lock (as the low half does, without the two flags), or
 * 0; of a free word who is about to take it again, whom those let pass who do not want to have it; of an abandoned word
 * the pid of the dead, 0: not known. Of a biased lock two more bits of the high half are in a word that is GRANTED:
 *
 *   bit 63          BIASED: its owner enters and leaves without changing the word
 *   bit 47          REVOKED: it did, and may still be inside
 *
 * and the rest of the high half is a number, another one each time that the lock is biased. */
#define PSHM_ID_SLOT 0x00007fffu
#define PSHM_ID_ABANDONED 0x00007fffu
#define PSHM_ID_GRANTED 0x00008000u
#define PSHM_ID_GENERATION 0x7fff0000u
#define PSHM_ID_GENERATION_SHIFT 16
#define PSHM_ID_WAITERS 0x80000000u
/* What names an owner, without the flags. */
#define PSHM_ID (PSHM_ID_SLOT | PSHM_ID_GENERATION)

#define PSHM_OWNER_BIASED (UINT64_C(1) << 63)
#define PSHM_OWNER_REVOKED (UINT64_C(1) << 47)
/* Of a biased word: the low 15 bits of `times`, and the 15 above these. */
#define PSHM_OWNER_TIMES_SHIFT 32
#define PSHM_OWNER_TIMES_MORE_SHIFT 48

typedef struct pshm_owner {
    uint64_t word;
    uint64_t died; /* its owner's to write. Not 0: took over from a death that is not made good yet; DIED and the pid */
} pshm_owner;

#define PSHM_OWNER_DIED (UINT64_C(1) << 32)
/* Bits 33 to 47 of `died`: slot + 1 of the dead. */
#define PSHM_OWNER_DIED_SLOT_SHIFT 33

/* A lock that may be biased. The rest is its owner's to write. But for the last, it is for speed alone: 0 is always right. */
typedef struct pshm_biased {
    pshm_owner owner;
    uint32_t last;   /* owner id of who had it last */
    uint32_t count;  /* how often in a row */
    uint32_t enough; /* so often, and it is biased */
    uint32_t times;  /* how often it was biased */
} pshm_biased;

/* ---- participants ---------------------------------------------------------------------------------------------- */

/* A beacon: a robust process-shared pthread mutex, which the thread of the slot holds for as long as it has the slot.
 * `kind` is glibc's; 0 until the slot was first taken. */
#define PSHM_BEACON_SIZE UINT64_C(64)

/* The stamp of a slot: generation << 2 | phase. The generation moves on whenever the phase leaves FREE or TAKEN. */
#define PSHM_PHASE 3u
#define PSHM_PHASE_FREE 0u
#define PSHM_PHASE_TAKEN 1u /* whoever holds the beacon has it; nobody: its owner is dead */
#define PSHM_PHASE_DEAD 2u  /* its owner is dead; what it held is being marked by whoever holds the beacon */
#define PSHM_GENERATION_SHIFT 2

#define PSHM_HELD 32u /* locks that a thread can hold and wait for at the same time */

#define PSHM_SLOT_RECORD_LOCK 1u /* a byte of the file is locked for the slot: PSHM_RECORD_BASE + index */
#define PSHM_SLOT_FENCED 2u      /* its process takes part in fences of membarrier(2) */
#define PSHM_RECORD_BASE (UINT64_C(1) << 62)
/* Another byte is locked by whoever takes or reclaims the slot, for as long as that: PSHM_RECORD_WORK + index. */
#define PSHM_RECORD_WORK (PSHM_RECORD_BASE + 0x8000)

typedef struct pshm_slot {
    uint32_t stamp;
    uint32_t flags;
    uint32_t pid, thread; /* as its own PID namespace sees them */
    uint64_t start;       /* when the thread started, in clock ticks since boot: /proc/PID/task/TID/stat, field 22 */
    uint64_t pid_space;   /* inode of its PID namespace */
    uint32_t language;    /* pshm_language */
    uint32_t reserved;
    uint64_t waits; /* the lock or counter it sleeps for, for whoever looks; 0: none */
    uint64_t busy;  /* the object it works on, which must not be freed; 0: none */
    uint64_t unused[9];
    uint64_t held[PSHM_HELD]; /* bits 0 to 47: place of a lock it has or wants; 48 to 63: how often it has it again */
} pshm_slot;

#define PSHM_HELD_PLACE ((UINT64_C(1) << 48) - 1)
/* Added to the place of a lock: a share of it, which its word does not name. So there is nothing there to put right. */
#define PSHM_HELD_SHARED UINT64_C(1)
#define PSHM_HELD_DEPTH_SHIFT 48

/* ---- heap ------------------------------------------------------------------------------------------------------ */

#define PSHM_CLASSES 32
/* Bytes of a block of each class, and pages of a span, which has at most 256 blocks. A size that is a multiple of 64
 * gets a block that is aligned to 64. */
/* clang-format off */
#define PSHM_CLASS_MAP(X)                                                                                              \
    X(16, 1) X(32, 1) X(48, 1) X(64, 1) X(80, 1) X(96, 1) X(112, 1) X(128, 1)                                          \
    X(160, 1) X(192, 1) X(224, 1) X(256, 1) X(320, 1) X(384, 1) X(448, 1) X(512, 1)                                    \
    X(576, 1) X(640, 1) X(768, 1) X(896, 2) X(1024, 1) X(1344, 1) X(1664, 2) X(2048, 1)                                \
    X(2560, 5) X(3072, 3) X(3584, 7) X(5120, 5) X(6144, 3) X(7168, 7) X(10240, 5) X(14336, 7)
/* clang-format on */

#define PSHM_PAGE_FREE 0u
#define PSHM_PAGE_SPAN 1u /* first page of a span of blocks */
#define PSHM_PAGE_RUN 2u  /* first page of one large block */
#define PSHM_PAGE_TAIL 3u /* a further page of either */

/* What is known of one page of the heap: a table of these, one line of cache each. */
typedef struct pshm_page {
    uint32_t state;   /* PSHM_PAGE_... */
    uint32_t class_;  /* of a span */
    uint64_t count;   /* pages of the span or the run; of a tail, how many pages before it that begins */
    uint64_t used[4]; /* a bit for each block of a span that is in use */
    uint64_t unused[2];
} pshm_page;

/* What is being done under the heap's lock, so that whoever takes over from a death finishes or undoes it. */
#define PSHM_INTENT_NONE 0u
#define PSHM_INTENT_ALLOC 1u
#define PSHM_INTENT_FREE 2u

typedef struct pshm_intent {
    uint32_t operation; /* PSHM_INTENT_...; written last, cleared last */
    uint32_t class_;    /* of a span that is made; PSHM_CLASSES: a run */
    uint64_t page;      /* index of the first page concerned */
    uint64_t count;     /* pages that are taken from the free ones; 0: the span is there already */
    uint64_t block;     /* place of the block */
    uint64_t target;    /* place of the destination */
    uint64_t value;     /* what the destination is to hold */
} pshm_intent;

typedef struct pshm_heap_head {
    pshm_biased lock;
    uint64_t sequence; /* odd while an operation is under way */
    pshm_intent intent;
    /* Hints, good for speed alone; 0 is always right. */
    uint64_t free_hint;                  /* no page below is free */
    uint32_t partial_hint[PSHM_CLASSES]; /* no 64 pages with an index below have a span of the class with room */
    uint32_t current[PSHM_CLASSES];      /* index + 1 of a span with room, 0: look for one */
    uint32_t spare[PSHM_CLASSES];        /* index + 1 of an empty span that is kept, 0: none */
} pshm_heap_head;

/* ---- directory ------------------------------------------------------------------------------------------------- */

/* A table of entries, in a block of the heap. An entry is the place of an object's head (bits 0 to 47), with bits of
 * the name's hash above it (48 to 62) and bit 63 for one that is deleted and not freed yet; 0: never used;
 * PSHM_ENTRY_GONE: was used. */
#define PSHM_ENTRY_PLACE ((UINT64_C(1) << 48) - 1)
#define PSHM_ENTRY_TAG_SHIFT 48
#define PSHM_ENTRY_TAG (UINT64_C(0x7fff) << PSHM_ENTRY_TAG_SHIFT)
#define PSHM_ENTRY_DELETED (UINT64_C(1) << 63)
#define PSHM_ENTRY_GONE UINT64_C(1)

typedef struct pshm_directory_head {
    pshm_owner lock;
    uint64_t active;     /* generation << 1 | index of the table that holds; moves on with each new table */
    uint64_t table[2];   /* place of each, or 0 */
    uint64_t entries[2]; /* how many each has: a power of two */
    /* Counts of the active table, kept under the lock and counted anew after a death. */
    uint64_t live, gone, deleted;
} pshm_directory_head;

/* The head of an object; its name and then its body follow. */
typedef struct pshm_node {
    uint64_t serial; /* no other object ever had it; 0: deleted, or not whole yet. Stored last */
    uint64_t hash;   /* of the name */
    uint32_t kind;   /* number in kinds.def */
    uint32_t name_size;
    uint32_t body;  /* place of the body from here, a multiple of 64 */
    uint32_t flags; /* the kind's own */
    uint64_t body_size;
    uint64_t unused;
    char name[]; /* UTF-8, without a NUL */
} pshm_node;

#define PSHM_NAME_MAX 255u

/* The serial of the object that was made as number n: n * PSHM_SERIAL_STEP ^ id of the arena. Other bytes that come to
 * lie where an object was are not its serial by chance, as small numbers would be. */
#define PSHM_SERIAL_STEP UINT64_C(0x9e3779b97f4a7c15)
#define PSHM_SERIAL_STEP_INVERSE UINT64_C(0xf1de83e19937733d) /* times PSHM_SERIAL_STEP it is 1 */

/* ---- the head of all ------------------------------------------------------------------------------------------- */

/* `setup`: one word from which all else follows, so that two who set up at once agree. */
#define PSHM_SETUP_PARTICIPANTS UINT64_C(0x7fff)
#define PSHM_SETUP_LIFE_SHIFT 16 /* two bits: pshm_life */
#define PSHM_SETUP_LIFE UINT64_C(3)
#define PSHM_SETUP_DONE (UINT64_C(1) << 63)

#define PSHM_ROOTS 32

typedef struct pshm_head {
    uint64_t magic; /* stored last */
    uint32_t format;
    uint32_t abi; /* of the beacons, see pshm_os_beacon_abi */
    uint64_t setup;
    uint64_t size;    /* bytes of the arena */
    uint64_t id;      /* random, never 0 */
    uint64_t seed[2]; /* of the names' hash */
    uint64_t boot[2]; /* boot id of the kernel that the participants live on */
    uint64_t device, inode;
    uint64_t serial;     /* number of the object that was made last */
    uint32_t high_water; /* no slot from here on was ever taken */
    uint32_t unused;
    pshm_owner ending; /* System V, last-detach: held by who closes its last handle, and perhaps removes the id */
    uint64_t unused_too;
    pshm_heap_head heap;           /* at 128 */
    pshm_directory_head directory; /* at 608 */
    uint64_t roots[PSHM_ROOTS];    /* at 688: destinations for whoever uses the heap itself */
} pshm_head;

_Static_assert(PSHM_SERIAL_STEP *PSHM_SERIAL_STEP_INVERSE == 1, "layout");
_Static_assert(sizeof(pshm_owner) == 16 && offsetof(pshm_biased, last) == 16 && sizeof(pshm_biased) == 32, "layout");
_Static_assert(offsetof(pshm_slot, start) == 16 && offsetof(pshm_slot, pid_space) == 24, "layout");
_Static_assert(offsetof(pshm_slot, language) == 32 && offsetof(pshm_slot, waits) == 40, "layout");
_Static_assert(offsetof(pshm_slot, busy) == 48 && offsetof(pshm_slot, held) == 128 && sizeof(pshm_slot) == 384,
               "layout");
_Static_assert(offsetof(pshm_page, count) == 8 && offsetof(pshm_page, used) == 16 && sizeof(pshm_page) == 64, "layout");
_Static_assert(offsetof(pshm_intent, page) == 8 && offsetof(pshm_intent, count) == 16, "layout");
_Static_assert(offsetof(pshm_intent, block) == 24 && offsetof(pshm_intent, target) == 32, "layout");
_Static_assert(offsetof(pshm_intent, value) == 40 && sizeof(pshm_intent) == 48, "layout");
_Static_assert(offsetof(pshm_heap_head, sequence) == 32 && offsetof(pshm_heap_head, intent) == 40, "layout");
_Static_assert(offsetof(pshm_heap_head, free_hint) == 88 && offsetof(pshm_heap_head, partial_hint) == 96, "layout");
_Static_assert(offsetof(pshm_heap_head, current) == 224 && offsetof(pshm_heap_head, spare) == 352, "layout");
_Static_assert(sizeof(pshm_heap_head) == 480, "layout");
_Static_assert(offsetof(pshm_directory_head, active) == 16 && offsetof(pshm_directory_head, table) == 24, "layout");
_Static_assert(offsetof(pshm_directory_head, entries) == 40 && offsetof(pshm_directory_head, live) == 56, "layout");
_Static_assert(sizeof(pshm_directory_head) == 80, "layout");
_Static_assert(offsetof(pshm_node, hash) == 8 && offsetof(pshm_node, kind) == 16, "layout");
_Static_assert(offsetof(pshm_node, name_size) == 20 && offsetof(pshm_node, body) == 24, "layout");
_Static_assert(offsetof(pshm_node, flags) == 28 && offsetof(pshm_node, body_size) == 32, "layout");
_Static_assert(offsetof(pshm_node, name) == 48, "layout");
_Static_assert(offsetof(pshm_head, format) == 8 && offsetof(pshm_head, abi) == 12, "layout");
_Static_assert(offsetof(pshm_head, setup) == 16 && offsetof(pshm_head, size) == 24, "layout");
_Static_assert(offsetof(pshm_head, id) == 32 && offsetof(pshm_head, seed) == 40, "layout");
_Static_assert(offsetof(pshm_head, boot) == 56 && offsetof(pshm_head, device) == 72, "layout");
_Static_assert(offsetof(pshm_head, inode) == 80 && offsetof(pshm_head, serial) == 88, "layout");
_Static_assert(offsetof(pshm_head, high_water) == 96 && offsetof(pshm_head, ending) == 104, "layout");
_Static_assert(offsetof(pshm_head, heap) == 128 && offsetof(pshm_head, directory) == 608, "layout");
_Static_assert(offsetof(pshm_head, roots) == 688 && sizeof(pshm_head) <= PSHM_PAGE, "layout");

/* Where things are; it follows from the size and the number of participants alone. */
typedef struct pshm_geometry {
    uint64_t size;
    uint32_t participants;
    uint64_t beacons;    /* at 4096 */
    uint64_t slots;      /* from the next page on */
    uint64_t pages;      /* the table of pages, from the next page on */
    uint64_t taken;      /* a bit for each page that is not free, in words of 64, behind the table */
    uint64_t partial;    /* for each class a bit for each page that is a span of it with room, likewise */
    uint64_t words;      /* 64-bit words of each of these bitmaps: pages / 64, rounded up */
    uint64_t heap;       /* the first page of the heap */
    uint64_t heap_pages; /* how many it has; 0: the arena is too small */
} pshm_geometry;

#endif
