/* SPDX-License-Identifier: MIT
 *
 * What all handles on the objects of an arena share: their head, opening, messages, pickling, the slots of their types.
 * A noun's file has the struct, the verbs, and the one table that the rest is made from: py_<noun>_noun.
 */
#ifndef POLYSHM_PYTHON_OBJECT_H
#define POLYSHM_PYTHON_OBJECT_H

#include <stddef.h>

#include "py_arena.h"

#include <polyshm/notifier.h>

typedef struct py_noun py_noun;

/* The head of every handle, the noun's own of the core behind it in the same allocation. */
typedef struct py_object {
    PyObject_HEAD
    const py_noun *noun; /* NULL: what lies behind is not an object's own handle, but on raw memory or a part of one */
    PyObject *whole; /* what it keeps alive: the Arena, or of such a one the Segment or the object; NULL: not open */
    pshm_object *object;     /* what verbs and messages are about; NULL: raw memory */
    pshm_notifier *notifier; /* of pollfd(); NULL: nobody has asked */
    PyObject *weakrefs;
} py_object;

struct py_noun {
    const char *name;
    PyType_Spec *spec;
    size_t type;   /* where in the state its type stands */
    size_t handle; /* where in the allocation the core's handle is, which starts with the pshm_object */
    /* As pshm_<noun>_init; `options` are what the method of Arena passed on, NULL: what exists, whatever it is. */
    int (*init)(void *handle, pshm_arena *arena, const char *name, size_t length, bool create, const void *options);
    void (*fini)(void *handle);
    /* May be NULL: what follows once the handle is open. 0, or -1 with an exception set. */
    int (*opened)(PyObject *self, PyObject *repair);
    /* May be NULL: what repr says behind the name, with a space before it. */
    const char *(*suffix)(PyObject *self);
};

/* Every noun of a directory: its table, the method of Arena that opens or makes one, and the method's docstring. */
#define PSHM_KIND(number, noun)                                                                                        \
    extern const py_noun py_##noun##_noun;                                                                             \
    extern const char py_##noun##_doc[];                                                                               \
    PyObject *py_##noun##_of(PyObject *arena, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
#include <polyshm/kinds.def>

/* The rows of py_<noun>_noun that follow from the name alone: py_<noun> is the struct, `noun` in it the core's handle, and
 * the file has `spec`, noun_init and noun_fini. */
#define PY_NOUN(noun_)                                                                                                 \
    .name = #noun_, .spec = &spec, .type = offsetof(py_state, noun_##_type), .handle = offsetof(py_##noun_, noun_),    \
    .init = noun_##_init, .fini = noun_##_fini

/* noun_fini; and noun_init where there are no options. */
#define PY_OBJECT_FINI(noun)                                                                                           \
    static void noun##_fini(void *handle)                                                                              \
    {                                                                                                                  \
        pshm_##noun##_fini(handle);                                                                                    \
    }

#define PY_OBJECT_INIT(noun)                                                                                           \
    static int noun##_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,              \
                           const void *options)                                                                        \
    {                                                                                                                  \
        (void)options;                                                                                                 \
        return pshm_##noun##_init(handle, arena, name, length, create, NULL);                                          \
    }

/* A handle on the object of that name; where there is none, `create` makes it. `repair` is for locks: a callable, or NULL.
 * NULL with an exception set. */
PyObject *py_object_open(py_arena *arena, const py_noun *noun, PyObject *name, bool create, const void *options,
                         PyObject *repair);

/* The same for a method of Arena: creates where the arena may be written. */
PyObject *py_object_make(PyObject *arena, const py_noun *noun, PyObject *name, const void *options, PyObject *repair);

/* The method of Arena whose one argument is the name. */
PyObject *py_object_of(PyObject *arena, const py_noun *noun, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames);

/* ---- verbs ---- */

/* Sets the exception of `rc`. Returns NULL. */
PyObject *py_object_raise(PyObject *self, int rc);
/* The same, which says how many were asked for where that was wrong. */
PyObject *py_object_raise_count(PyObject *self, int rc, uint64_t n);

/* True once a step returned 0, False after the timeout, NULL with an exception set. */
PyObject *py_object_wait(PyObject *self, glue_step step, void *closure, int64_t timeout);

/* A whole verb wait(timeout=None) over one slice of the core's; its closure is the core's handle. */
PyObject *py_object_wait_verb(PyObject *self, glue_step step, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames);

/* ---- names ---- */

/* A name as UTF-8, borrowed from `value`: 0, or -1 with an exception set. */
int py_object_name(py_arena *arena, PyObject *value, const char **name, size_t *length);

/* What messages call it, as str: "mutex 'books'". */
PyObject *py_object_describe(const pshm_object *object);

/* ---- the type ---- */

int py_object_traverse(PyObject *self, visitproc visit, void *arg);
void py_object_dealloc(PyObject *self);
PyObject *py_object_repr(PyObject *self);
extern PyMemberDef py_object_members[]; /* weak references, as to what threading has */
PyObject *py_object_get_name(PyObject *self, void *unused);
PyObject *py_object_reduce(PyObject *self, PyObject *unused);

/* What __reduce__ returns of one with a repair, or NULL. */
PyObject *py_object_reduce_with(PyObject *self, PyObject *repair);

#define PY_OBJECT_SPEC(name, type)                                                                                     \
    {                                                                                                                  \
        "polyshm." name, sizeof(type), 0, GLUE_FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots                        \
    }

/* The slots of one that refers to nothing but its arena. */
#define PY_OBJECT_SLOTS(doc)                                                                                           \
    {Py_tp_doc, (void *)(doc)}, {Py_tp_dealloc, py_object_dealloc}, {Py_tp_traverse, py_object_traverse},              \
        {Py_tp_repr, py_object_repr}, {Py_tp_methods, methods}, {Py_tp_members, py_object_members},                    \
    {                                                                                                                  \
        Py_tp_getset, attributes                                                                                       \
    }

/* py_notifier.c: the row of what can be waited for. */
PyObject *py_object_pollfd(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);

#define PY_OBJECT_POLLFD                                                                                               \
    {                                                                                                                  \
        "pollfd", GLUE_METHOD(py_object_pollfd), METH_FASTCALL | METH_KEYWORDS,                                        \
            "pollfd($self, /, at_least=1)\n--\n\nA descriptor for an event loop, which becomes readable when it may "  \
            "be ready. Each call arms\nit anew, once: then try, and if that fails, call it again before you poll. "    \
            "at_least is for a\nCounter and Permits alone. It is closed with the handle."                              \
    }

/* The rows that every table of attributes, and every table of methods has. */
#define PY_OBJECT_ATTRIBUTES                                                                                           \
    {                                                                                                                  \
        "name", py_object_get_name, NULL, "Its name in the arena.", NULL                                               \
    }

#define PY_OBJECT_METHODS                                                                                              \
    {                                                                                                                  \
        "__reduce__", py_object_reduce, METH_NOARGS,                                                                   \
            "__reduce__($self, /)\n--\n\nPickles with its arena; refused (Deleted) if another object has its name by " \
            "then."                                                                                                    \
    }

#endif
