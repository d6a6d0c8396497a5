/* SPDX-License-Identifier: MIT
 *
 * Segment is one type in several files: what its table of methods takes from each.
 */
#ifndef POLYSHM_PYTHON_SEGMENT_H
#define POLYSHM_PYTHON_SEGMENT_H

#include "glue.h"

#define METHOD_OF(name) PyObject *name(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);

/* py_segment_bytes.c: bytes in and out */
METHOD_OF(py_segment_read)
METHOD_OF(py_segment_write)
METHOD_OF(py_segment_read_into)
METHOD_OF(py_segment_fill)
METHOD_OF(py_segment_copy)
METHOD_OF(py_segment_find)

/* py_segment_system.c: what the kernel does with the memory */
METHOD_OF(py_segment_flush)
METHOD_OF(py_segment_protect)
METHOD_OF(py_segment_advise)
METHOD_OF(py_segment_pin)
METHOD_OF(py_segment_unpin)
METHOD_OF(py_segment_resize)
METHOD_OF(py_segment_set)
PyObject *py_segment_unlink(PyObject *self, PyObject *unused);

/* py_segment_sequence.c: len, s[i], s[a:b], iteration, the buffer protocol */
Py_ssize_t py_segment_length(PyObject *self);
PyObject *py_segment_item(PyObject *self, Py_ssize_t index);
PyObject *py_segment_subscript(PyObject *self, PyObject *key);
int py_segment_assign(PyObject *self, PyObject *key, PyObject *value);
int py_segment_get_buffer(PyObject *self, Py_buffer *view, int flags);
void py_segment_release_buffer(PyObject *self, Py_buffer *view);

/* py_segment_open.c: the constructor */
PyObject *py_segment_new(PyTypeObject *type, PyObject *args, PyObject *kwargs);
PyObject *py_segment_call(PyObject *type, PyObject *const *args, size_t nargs, PyObject *kwnames);

#undef METHOD_OF
#endif
