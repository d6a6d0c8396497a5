/* SPDX-License-Identifier: MIT
 *
 * Segment as a sequence of bytes: len, s[i], s[a:b:c], iteration, and the buffer protocol.
 */
#include "py_segment.h"

#include <string.h>

Py_ssize_t py_segment_length(PyObject *object)
{
    py_segment *self = (py_segment *)object;
    if (self->handle->closed) {
        (void)glue_raise_segment(self, PSHM_ECLOSED, NULL);
        return -1;
    }
    return (Py_ssize_t)self->handle->size;
}

/* ---- one byte ---- */

static int load_byte(pshm_segment *handle, uint64_t index, unsigned char *out)
{
    int rc = glue_enter(handle);
    if (rc != 0)
        return rc;
    rc = pshm_segment_check(handle, index, 1, PSHM_READ);
    if (PSHM_LIKELY(rc == 0)) {
        *out = *(volatile unsigned char *)(handle->base + index);
        rc = pshm_segment_verify(handle);
    }
    glue_leave(handle);
    return rc;
}

static int store_byte(pshm_segment *handle, uint64_t index, unsigned char byte)
{
    int rc = glue_enter(handle);
    if (rc != 0)
        return rc;
    rc = pshm_segment_check(handle, index, 1, PSHM_WRITE);
    if (PSHM_LIKELY(rc == 0)) {
        *(volatile unsigned char *)(handle->base + index) = byte;
        rc = pshm_segment_verify(handle);
    }
    glue_leave(handle);
    return rc;
}

static PyObject *raise_index(py_segment *self, int rc, Py_ssize_t index)
{
    if (rc != PSHM_EBOUNDS)
        return glue_raise_segment(self, rc, NULL);
    return glue_raise_segment(self, PSHM_EINDEX, "index %zd of size %llu", index,
                              (unsigned long long)self->handle->size);
}

PyObject *py_segment_item(PyObject *object, Py_ssize_t index)
{
    py_segment *self = (py_segment *)object;
    unsigned char byte = 0;
    int rc = load_byte(self->handle, (uint64_t)index, &byte); /* a negative one is far outside */
    if (PSHM_UNLIKELY(rc != 0))
        return raise_index(self, rc, index);
    return PyLong_FromLong(byte);
}

/* The index as an integer, and the byte that it means. */
static int convert_index(py_segment *self, PyObject *key, Py_ssize_t *index, uint64_t *out)
{
    *index = PyNumber_AsSsize_t(key, PyExc_IndexError);
    if (*index == -1 && PyErr_Occurred())
        return -1;
    *out = (uint64_t)*index;
    if (*index < 0)
        *out += self->handle->size;
    return 0;
}

/* ---- slices ---- */

typedef struct range {
    Py_ssize_t start, step, count;
    uint64_t first, extent; /* the bytes from the lowest to the highest */
} range;

static inline int convert_slice(py_segment *self, PyObject *key, range *out)
{
    Py_ssize_t stop;
    if (PySlice_Unpack(key, &out->start, &stop, &out->step) < 0) /* may run Python code */
        return -1;
    if (PSHM_UNLIKELY(self->handle->closed)) {
        (void)glue_raise_segment(self, PSHM_ECLOSED, NULL);
        return -1;
    }
    out->count = PySlice_AdjustIndices((Py_ssize_t)self->handle->size, &out->start, &stop, out->step);
    out->first = (uint64_t)out->start;
    out->extent = (uint64_t)out->count;
    if (out->step == 1 && PSHM_LIKELY(out->count > 0))
        return 0;
    if (out->count == 0) {
        out->first = 0; /* nothing, wherever that is */
    } else {
        Py_ssize_t last = out->start + (out->count - 1) * out->step;
        out->first = (uint64_t)(out->step > 0 ? out->start : last);
        out->extent = (uint64_t)(out->step > 0 ? last - out->start : out->start - last) + 1;
    }
    return 0;
}

/* Both ways of a slice with steps, between the segment and `count` bytes outside. */
static int gather(pshm_segment *handle, const range *slice, unsigned char *to)
{
    int rc = pshm_segment_check(handle, slice->first, slice->extent, PSHM_READ);
    if (rc != 0)
        return rc;
    const volatile unsigned char *from = handle->base;
    for (Py_ssize_t i = 0, at = slice->start; i < slice->count;
         i++, at = (Py_ssize_t)((size_t)at + (size_t)slice->step))
        to[i] = from[at];
    return pshm_segment_verify(handle);
}

static int scatter(pshm_segment *handle, const range *slice, const unsigned char *from)
{
    int rc = pshm_segment_check(handle, slice->first, slice->extent, PSHM_WRITE);
    if (rc != 0)
        return rc;
    volatile unsigned char *to = handle->base;
    for (Py_ssize_t i = 0, at = slice->start; i < slice->count;
         i++, at = (Py_ssize_t)((size_t)at + (size_t)slice->step))
        to[at] = from[i];
    return pshm_segment_verify(handle);
}

static PyObject *read_slice(py_segment *self, PyObject *key)
{
    pshm_segment *handle = self->handle;
    range slice;
    if (convert_slice(self, key, &slice) < 0)
        return NULL;
    int rc;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, slice.count);
    if (bytes == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(bytes);
    if (slice.step == 1)
        GLUE_COPY(rc, handle, slice.first, slice.extent, PSHM_READ,
                  pshm_segment_read(handle, slice.first, to, slice.extent));
    else
        GLUE_COPY(rc, handle, slice.first, slice.extent, PSHM_READ, gather(handle, &slice, (unsigned char *)to));
    if (PSHM_UNLIKELY(rc != 0)) {
        Py_DECREF(bytes);
        return glue_raise_range(self, rc, slice.first, slice.extent);
    }
    return bytes;
}

static int write_slice(py_segment *self, PyObject *key, PyObject *value)
{
    pshm_segment *handle = self->handle;
    glue_bytes data;
    range slice;
    if (glue_borrow(value, &data) < 0) /* may run Python code: before the segment is looked at */
        return -1;
    if (convert_slice(self, key, &slice) < 0) {
        glue_give_back(&data);
        return -1;
    }
    if (data.size != (uint64_t)slice.count) {
        PyErr_Format(PyExc_ValueError, "cannot assign %llu bytes to a slice of %zd: a segment keeps its size",
                     (unsigned long long)data.size, slice.count);
        glue_give_back(&data);
        return -1;
    }
    int rc;
    if (slice.step == 1)
        GLUE_COPY(rc, handle, slice.first, slice.extent, PSHM_WRITE,
                  pshm_segment_write(handle, slice.first, data.data, slice.extent));
    else
        GLUE_COPY(rc, handle, slice.first, slice.extent, PSHM_WRITE, scatter(handle, &slice, data.data));
    glue_give_back(&data);
    if (PSHM_UNLIKELY(rc != 0)) {
        (void)glue_raise_range(self, rc, slice.first, slice.extent);
        return -1;
    }
    return 0;
}

static void raise_key(PyObject *key)
{
    PyErr_Format(PyExc_TypeError, "segment indices must be integers or slices, not %.100s", Py_TYPE(key)->tp_name);
}

PyObject *py_segment_subscript(PyObject *object, PyObject *key)
{
    py_segment *self = (py_segment *)object;
    if (PySlice_Check(key))
        return read_slice(self, key);
    if (PSHM_UNLIKELY(!PyIndex_Check(key))) {
        raise_key(key);
        return NULL;
    }
    Py_ssize_t index;
    uint64_t at;
    if (convert_index(self, key, &index, &at) < 0)
        return NULL;
    unsigned char byte = 0;
    int rc = load_byte(self->handle, at, &byte);
    if (PSHM_UNLIKELY(rc != 0))
        return raise_index(self, rc, index);
    return PyLong_FromLong(byte);
}

int py_segment_assign(PyObject *object, PyObject *key, PyObject *value)
{
    py_segment *self = (py_segment *)object;
    if (value == NULL) {
        PyErr_SetString(PyExc_TypeError, "a segment keeps its size: bytes cannot be deleted");
        return -1;
    }
    if (PySlice_Check(key))
        return write_slice(self, key, value);
    if (!PyIndex_Check(key)) {
        raise_key(key);
        return -1;
    }
    uint64_t byte = 0, at;
    Py_ssize_t index;
    if (glue_count(value, "byte", &byte) < 0)
        return -1;
    if (byte > 255) {
        PyErr_Format(PyExc_ValueError, "byte must be in range(0, 256), but is %llu", (unsigned long long)byte);
        return -1;
    }
    if (convert_index(self, key, &index, &at) < 0)
        return -1;
    int rc = store_byte(self->handle, at, (unsigned char)byte);
    if (PSHM_UNLIKELY(rc != 0)) {
        (void)raise_index(self, rc, index);
        return -1;
    }
    return 0;
}

/* ---- the buffer protocol ---- */

int py_segment_get_buffer(PyObject *object, Py_buffer *view, int flags)
{
    py_segment *self = (py_segment *)object;
    pshm_segment *handle = self->handle;
    view->obj = NULL;
    int rc = pshm_segment_enter(handle, PSHM_USE_LENT);
    if (rc == 0) {
        uint32_t rights = pshm_segment_rights(handle, 0, handle->size);
        if ((rights & PSHM_READ) == 0) {
            rc = PSHM_ENOACCESS;
        } else if (PyBuffer_FillInfo(view, object, handle->base, (Py_ssize_t)handle->size, !(rights & PSHM_WRITE),
                                     flags) < 0) {
            rc = GLUE_RAISED;
        }
        if (rc != 0)
            pshm_segment_leave(handle, PSHM_USE_LENT);
    }
    if (rc == 0)
        return 0;
    (void)glue_raise_segment(self, rc, NULL);
    return -1;
}

void py_segment_release_buffer(PyObject *object, Py_buffer *view)
{
    (void)view;
    pshm_segment_leave(((py_segment *)object)->handle, PSHM_USE_LENT);
}
