/* SPDX-License-Identifier: MIT
 *
 * Segment: bytes in and out. Arguments are converted first, which may run Python code; the core then checks the
 * segment as it is, and nothing runs between that check and the copy.
 */
#include "py_segment.h"

/* The size that was left out: to the end of the segment. */
static uint64_t rest(const pshm_segment *handle, uint64_t offset, uint64_t size)
{
    if (size != PSHM_UNSET)
        return size;
    return offset <= handle->size ? handle->size - offset : 0;
}

PyObject *py_segment_read(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"read", 0, 2, 2, {"offset", "size"}};
    py_segment *self = (py_segment *)object;
    pshm_segment *handle = self->handle;
    PyObject *given[2];
    uint64_t offset = 0, size = PSHM_UNSET;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "offset", &offset) < 0 ||
        glue_count_or_none(given[1], "size", &size) < 0)
        return NULL;
    size = rest(handle, offset, size);
    int rc = pshm_segment_check(handle, offset, size, PSHM_READ);
    if (PSHM_UNLIKELY(rc != 0))
        return glue_raise_range(self, rc, offset, size);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes == NULL)
        return NULL;
    GLUE_COPY(rc, handle, offset, size, PSHM_READ, pshm_segment_read(handle, offset, PyBytes_AS_STRING(bytes), size));
    if (PSHM_UNLIKELY(rc != 0)) {
        Py_DECREF(bytes);
        return glue_raise_range(self, rc, offset, size);
    }
    return bytes;
}

PyObject *py_segment_write(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"write", 2, 2, 2, {"offset", "data"}};
    py_segment *self = (py_segment *)object;
    pshm_segment *handle = self->handle;
    PyObject *given[2];
    uint64_t offset = 0;
    glue_bytes data;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "offset", &offset) < 0 ||
        glue_borrow(given[1], &data) < 0)
        return NULL;
    uint64_t size = data.size;
    int rc;
    GLUE_COPY(rc, handle, offset, size, PSHM_WRITE, pshm_segment_write(handle, offset, data.data, size));
    glue_give_back(&data);
    if (PSHM_UNLIKELY(rc != 0))
        return glue_raise_range(self, rc, offset, size);
    Py_RETURN_NONE;
}

PyObject *py_segment_read_into(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"read_into", 1, 2, 2, {"buffer", "offset"}};
    py_segment *self = (py_segment *)object;
    pshm_segment *handle = self->handle;
    PyObject *given[2];
    uint64_t offset = 0;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[1], "offset", &offset) < 0)
        return NULL;
    if (!PyObject_CheckBuffer(given[0]))
        return PyErr_Format(PyExc_TypeError, "buffer must be a writable bytes-like object, not %.100s",
                            Py_TYPE(given[0])->tp_name);
    Py_buffer buffer;
    if (PyObject_GetBuffer(given[0], &buffer, PyBUF_WRITABLE) < 0)
        return NULL;
    uint64_t size = (uint64_t)buffer.len;
    int rc;
    GLUE_COPY(rc, handle, offset, size, PSHM_READ, pshm_segment_read(handle, offset, buffer.buf, size));
    PyBuffer_Release(&buffer);
    if (PSHM_UNLIKELY(rc != 0))
        return glue_raise_range(self, rc, offset, size);
    Py_RETURN_NONE;
}

PyObject *py_segment_fill(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"fill", 0, 3, 3, {"byte", "offset", "size"}};
    py_segment *self = (py_segment *)object;
    pshm_segment *handle = self->handle;
    PyObject *given[3];
    uint64_t byte = 0, offset = 0, size = PSHM_UNSET;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "byte", &byte) < 0 ||
        glue_count(given[1], "offset", &offset) < 0 || glue_count_or_none(given[2], "size", &size) < 0)
        return NULL;
    if (byte > 255)
        return PyErr_Format(PyExc_ValueError, "byte must be in range(0, 256), but is %llu", (unsigned long long)byte);
    size = rest(handle, offset, size);
    int rc;
    GLUE_COPY(rc, handle, offset, size, PSHM_WRITE, pshm_segment_fill(handle, (int)byte, offset, size));
    if (rc != 0)
        return glue_raise_range(self, rc, offset, size);
    Py_RETURN_NONE;
}

PyObject *py_segment_copy(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"copy", 3, 3, 3, {"target", "source", "size"}};
    py_segment *self = (py_segment *)object;
    pshm_segment *handle = self->handle;
    PyObject *given[3];
    uint64_t target = 0, source = 0, size = 0;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "target", &target) < 0 ||
        glue_count(given[1], "source", &source) < 0 || glue_count(given[2], "size", &size) < 0)
        return NULL;
    int rc = pshm_segment_check(handle, target, size, PSHM_WRITE);
    if (rc == 0)
        GLUE_COPY(rc, handle, source, size, PSHM_READ, pshm_segment_copy(handle, target, source, size));
    if (rc == PSHM_EBOUNDS)
        return glue_raise_range(self, rc, target > source ? target : source, size);
    if (rc != 0)
        return glue_raise_segment(self, rc, NULL);
    Py_RETURN_NONE;
}

PyObject *py_segment_find(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"find", 1, 3, 3, {"data", "start", "end"}};
    py_segment *self = (py_segment *)object;
    pshm_segment *handle = self->handle;
    PyObject *given[3];
    uint64_t start = 0, end = PSHM_UNSET;
    glue_bytes data;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[1], "start", &start) < 0 ||
        glue_count_or_none(given[2], "end", &end) < 0 || glue_borrow(given[0], &data) < 0)
        return NULL;
    if (end == PSHM_UNSET)
        end = handle->size;
    int rc;
    int64_t at = -1;
    uint64_t size = end > start ? end - start : 0;
    GLUE_COPY(rc, handle, start, size, PSHM_READ, pshm_segment_find(handle, data.data, data.size, start, end, &at));
    glue_give_back(&data);
    if (rc == PSHM_EBOUNDS)
        return glue_raise_segment(self, rc, "start %llu, end %llu of size %llu", (unsigned long long)start,
                                  (unsigned long long)end, (unsigned long long)handle->size);
    if (rc != 0)
        return glue_raise_segment(self, rc, NULL);
    return PyLong_FromLongLong(at);
}
