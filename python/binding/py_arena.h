/* SPDX-License-Identifier: MIT
 *
 * Arena is one type in several files: what its table of methods takes from each. py_object.h has its objects.
 */
#ifndef POLYSHM_PYTHON_ARENA_H
#define POLYSHM_PYTHON_ARENA_H

#include "glue.h"

#include <polyshm/arena.h>

typedef struct py_arena {
    PyObject_HEAD
    pshm_arena *handle; /* never NULL; closed or not */
    PyObject *weakrefs;
    PyObject *folder;       /* where a relative path starts; else NULL */
    pshm_segment_kind kind; /* by the handle's own address: another handle may have come by another way */
} py_arena;

/* ---- errors ---- */

/* Sets the exception of `rc`, the detail as PyUnicode_FromFormat writes it; NULL for none. Returns NULL. */
PyObject *py_arena_raise(py_arena *arena, int rc, const char *format, ...);

/* The address as str. */
PyObject *py_arena_address(const py_arena *arena);

/* 0, or PSHM_ECLOSED */
static inline int py_arena_check(const py_arena *arena)
{
    return PSHM_LIKELY(!arena->handle->closed) ? 0 : PSHM_ECLOSED;
}

#define METHOD_OF(name) PyObject *name(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);

/* py_arena_open.c: the constructor */
PyObject *py_arena_new(PyTypeObject *type, PyObject *args, PyObject *kwargs);
PyObject *py_arena_call(PyObject *type, PyObject *const *args, size_t nargs, PyObject *kwnames);

/* py_arena_objects.c: what it holds, by name */
METHOD_OF(py_arena_get)
METHOD_OF(py_arena_delete)
METHOD_OF(py_arena_restore)
PyObject *py_arena_keys(PyObject *self, PyObject *unused);
PyObject *py_arena_items(PyObject *self, PyObject *unused);
PyObject *py_arena_iterate(PyObject *self);
PyObject *py_arena_subscript(PyObject *self, PyObject *key);
int py_arena_assign(PyObject *self, PyObject *key, PyObject *value);
int py_arena_contains(PyObject *self, PyObject *key);
Py_ssize_t py_arena_length(PyObject *self);

/* py_arena_report.c: what there is to tell of the whole */
PyObject *py_arena_examine(PyObject *self, PyObject *unused);
PyObject *py_arena_stats(PyObject *self, PyObject *unused);

/* py_participant.c */
PyObject *py_arena_participants(PyObject *self, PyObject *unused);

/* py_heap.c: blocks by place */
METHOD_OF(py_heap_root)
METHOD_OF(py_heap_alloc_into)
METHOD_OF(py_heap_free_from)
METHOD_OF(py_heap_block_size)
METHOD_OF(py_heap_read)
METHOD_OF(py_heap_write)

#undef METHOD_OF
#endif
