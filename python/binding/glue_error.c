/* SPDX-License-Identifier: MIT
 *
 * The only place where a code of the core becomes an exception.
 */
#include "glue.h"

#include <errno.h>
#include <stdarg.h>

static PyObject *raise_os(PyObject *type, int number, PyObject *text, PyObject *address)
{
    PyObject *error = text == NULL ? NULL : PyObject_CallFunction(type, "iOO", number, text, address);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error); /* OSError made the subclass of the number */
        Py_DECREF(error);
    }
    Py_XDECREF(text);
    return NULL;
}

/* The class is imported when it is needed. */
static PyObject *raise_broken(PyObject *address, PyObject *detail, const char *text)
{
    PyObject *type = glue_import("threading", "BrokenBarrierError");
    if (type != NULL)
        (void)(detail != NULL ? PyErr_Format(type, "%U: %U: %s", address, detail, text)
                              : PyErr_Format(type, "%U: %s", address, text));
    Py_XDECREF(type);
    return NULL;
}

PyObject *glue_raise(py_state *state, int rc, PyObject *address, PyObject *detail)
{
    if (rc == GLUE_RAISED)
        return NULL;
    if (rc == PSHM_ECLOSED)
        detail = NULL; /* whatever was asked for */
    PyObject *type = PyExc_ValueError;
    const char *text = pshm_error_text(rc);
    switch (pshm_error_class(rc)) {
    case PSHM_CLASS_OS:
        return raise_os(PyExc_OSError, -rc,
                        detail == NULL ? PyUnicode_FromString(text) : PyUnicode_FromFormat("%U: %s", detail, text),
                        address);
    case PSHM_CLASS_BROKEN:
        return raise_broken(address, detail, text);
    case PSHM_CLASS_LOST:
        return raise_os(state->lost, EFAULT, PyUnicode_FromString(text), address);
    case PSHM_CLASS_DELETED:
        type = state->deleted;
        break;
    case PSHM_CLASS_TYPE:
        type = PyExc_TypeError;
        break;
    case PSHM_CLASS_INDEX:
        type = PyExc_IndexError;
        break;
    case PSHM_CLASS_BUFFER:
        type = PyExc_BufferError;
        break;
    case PSHM_CLASS_RUNTIME:
        type = PyExc_RuntimeError;
        break;
    case PSHM_CLASS_KEY:
        type = PyExc_KeyError;
        break;
    case PSHM_CLASS_INCOMPATIBLE:
        type = state->incompatible;
        break;
    case PSHM_CLASS_CORRUPT:
        type = state->corrupt;
        break;
    case PSHM_CLASS_VALUE:
        break;
    }
    if (detail != NULL)
        return PyErr_Format(type, "%U: %U: %s", address, detail, text);
    return PyErr_Format(type, "%U: %s", address, text);
}

PyObject *glue_address(const pshm_segment *handle)
{
    return PyUnicode_DecodeFSDefault(handle->address);
}

PyObject *glue_raise_about(py_state *state, int rc, const char *address, const char *format, va_list arguments)
{
    if (rc == GLUE_RAISED)
        return NULL;
    PyObject *detail = format == NULL ? NULL : PyUnicode_FromFormatV(format, arguments);
    if (format != NULL && detail == NULL)
        return NULL;
    PyObject *text = PyUnicode_DecodeFSDefault(address);
    if (text != NULL) {
        (void)glue_raise(state, rc, text, detail);
        Py_DECREF(text);
    }
    Py_XDECREF(detail);
    return NULL;
}

PyObject *glue_raise_segment(py_segment *segment, int rc, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)glue_raise_about(glue_state((PyObject *)segment), rc, segment->handle->address, format, arguments);
    va_end(arguments);
    return NULL;
}

PyObject *glue_raise_range(py_segment *segment, int rc, uint64_t offset, uint64_t size)
{
    if (rc != PSHM_EBOUNDS)
        return glue_raise_segment(segment, rc, NULL);
    PyObject *address = glue_address(segment->handle);
    if (address == NULL)
        return NULL;
    (void)PyErr_Format(PyExc_ValueError, "%U: offset %llu + size %llu: %s (size %llu)", address,
                       (unsigned long long)offset, (unsigned long long)size, pshm_error_text(rc),
                       (unsigned long long)segment->handle->size);
    Py_DECREF(address);
    return NULL;
}
