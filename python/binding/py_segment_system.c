/* SPDX-License-Identifier: MIT
 *
 * Segment: what the kernel does with the memory and with the object behind it.
 */
#include "py_segment.h"

#include <string.h>

/* offset and size of a range, the size to the end where it is left out. */
static int convert_range(const pshm_segment *handle, PyObject *const *given, uint64_t *offset, uint64_t *size)
{
    *offset = 0;
    *size = PSHM_UNSET;
    if (glue_count(given[0], "offset", offset) < 0 || glue_count_or_none(given[1], "size", size) < 0)
        return -1;
    if (*size == PSHM_UNSET)
        *size = *offset <= handle->size ? handle->size - *offset : 0;
    return 0;
}

static int convert_flag(PyObject *value, bool *out)
{
    return value == NULL ? 0 : glue_bool(value, out);
}

PyObject *py_segment_flush(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"flush", 0, 2, 4, {"offset", "size", "wait", "invalidate"}};
    py_segment *self = (py_segment *)object;
    PyObject *given[4];
    uint64_t offset, size;
    bool wait = true, invalidate = false;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || convert_flag(given[2], &wait) < 0 ||
        convert_flag(given[3], &invalidate) < 0 || convert_range(self->handle, given, &offset, &size) < 0)
        return NULL;
    int rc;
    GLUE_UNLOCKED(rc, self->handle, pshm_segment_flush(self->handle, offset, size, wait, invalidate));
    if (rc != 0)
        return glue_raise_range(self, rc, offset, size);
    Py_RETURN_NONE;
}

PyObject *py_segment_protect(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"protect", 1, 3, 3, {"access", "offset", "size"}};
    py_segment *self = (py_segment *)object;
    PyObject *given[3];
    uint64_t offset, size;
    pshm_access access = PSHM_ACCESS_RW;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_access(given[0], &access) < 0 ||
        convert_range(self->handle, given + 1, &offset, &size) < 0)
        return NULL;
    int rc = pshm_segment_protect(self->handle, access, offset, size);
    if (rc != 0)
        return glue_raise_range(self, rc, offset, size);
    Py_RETURN_NONE;
}

PyObject *py_segment_advise(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"advise", 1, 3, 3, {"advice", "offset", "size"}};
    py_segment *self = (py_segment *)object;
    PyObject *given[3];
    uint64_t offset, size;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 ||
        convert_range(self->handle, given + 1, &offset, &size) < 0)
        return NULL;
    if (!PyUnicode_Check(given[0]))
        return PyErr_Format(PyExc_TypeError, "advice must be str, not %.100s", Py_TYPE(given[0])->tp_name);
    Py_ssize_t length;
    const char *advice = PyUnicode_AsUTF8AndSize(given[0], &length);
    if (advice == NULL)
        return NULL;
    int rc = PSHM_EADVICE;
    if (strlen(advice) == (size_t)length && pshm_advice_is_slow(advice))
        GLUE_UNLOCKED(rc, self->handle, pshm_segment_advise(self->handle, advice, offset, size));
    else if (strlen(advice) == (size_t)length)
        rc = pshm_segment_advise(self->handle, advice, offset, size);
    if (rc == PSHM_EADVICE)
        return PyErr_Format(PyExc_ValueError, "advice %R: %s", given[0], pshm_error_text(rc));
    if (rc != 0)
        return glue_raise_range(self, rc, offset, size);
    Py_RETURN_NONE;
}

/* pin and unpin: without offset and size it is the whole segment, which System V has a call of its own for. */
static int convert_pin(const pshm_segment *handle, PyObject *const *given, uint64_t *offset, uint64_t *size)
{
    if ((given[0] == NULL || given[0] == Py_None) && (given[1] == NULL || given[1] == Py_None)) {
        *offset = 0;
        *size = PSHM_UNSET;
        return 0;
    }
    return convert_range(handle, given, offset, size);
}

PyObject *py_segment_pin(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"pin", 0, 3, 3, {"offset", "size", "on_fault"}};
    py_segment *self = (py_segment *)object;
    PyObject *given[3];
    uint64_t offset, size;
    bool on_fault = false;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || convert_flag(given[2], &on_fault) < 0 ||
        convert_pin(self->handle, given, &offset, &size) < 0)
        return NULL;
    int rc;
    GLUE_UNLOCKED(rc, self->handle, pshm_segment_pin(self->handle, offset, size, on_fault));
    if (rc != 0)
        return glue_raise_range(self, rc, offset, size);
    Py_RETURN_NONE;
}

PyObject *py_segment_unpin(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"unpin", 0, 2, 2, {"offset", "size"}};
    py_segment *self = (py_segment *)object;
    PyObject *given[2];
    uint64_t offset, size;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || convert_pin(self->handle, given, &offset, &size) < 0)
        return NULL;
    int rc;
    GLUE_UNLOCKED(rc, self->handle, pshm_segment_unpin(self->handle, offset, size));
    if (rc != 0)
        return glue_raise_range(self, rc, offset, size);
    Py_RETURN_NONE;
}

PyObject *py_segment_resize(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"resize", 1, 1, 1, {"size"}};
    py_segment *self = (py_segment *)object;
    PyObject *given[1];
    uint64_t size = 0;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_size(given[0], "size", &size) < 0)
        return NULL;
    int rc = pshm_segment_resize(self->handle, size);
    if (rc != 0)
        return glue_raise_segment(self, rc, "size %llu", (unsigned long long)size);
    Py_RETURN_NONE;
}

static int convert_owner(PyObject *value, const char *name, int64_t *out)
{
    uint64_t number = 0;
    *out = -1;
    if (value == NULL || value == Py_None)
        return 0;
    if (glue_count(value, name, &number) < 0)
        return -1;
    if (number >= UINT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%s %llu is no id", name, (unsigned long long)number);
        return -1;
    }
    *out = (int64_t)number;
    return 0;
}

PyObject *py_segment_set(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"set", 0, 0, 3, {"uid", "gid", "mode"}};
    py_segment *self = (py_segment *)object;
    PyObject *given[3];
    int64_t uid, gid;
    uint32_t mode = PSHM_MODE_UNSET;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || convert_owner(given[0], "uid", &uid) < 0 ||
        convert_owner(given[1], "gid", &gid) < 0)
        return NULL;
    if (given[2] != NULL && given[2] != Py_None && glue_mode(given[2], &mode) < 0)
        return NULL;
    int rc = pshm_segment_set(self->handle, uid, gid, mode);
    if (rc != 0)
        return glue_raise_segment(self, rc, NULL);
    Py_RETURN_NONE;
}

PyObject *py_segment_unlink(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_segment *self = (py_segment *)object;
    int rc = pshm_segment_unlink(self->handle);
    if (rc != 0)
        return glue_raise_segment(self, rc, NULL);
    Py_RETURN_NONE;
}
