/* SPDX-License-Identifier: MIT
 *
 * The conversions that all nouns share, waits, and what types need.
 */
#include "glue.h"

#include <limits.h>
#include <math.h>

/* ---- arguments ---- */

static int sort_keyword(const glue_signature *signature, PyObject *key, PyObject *value, PyObject **out)
{
    for (int i = 0; i < signature->count; i++) {
        if (PyUnicode_CompareWithASCIIString(key, signature->names[i]) != 0)
            continue;
        if (out[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'", signature->function, key);
            return -1;
        }
        out[i] = value;
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", signature->function, key);
    return -1;
}

int glue_sort(const glue_signature *signature, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
              PyObject **out)
{
    if (nargs > signature->positional) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d positional argument%s (%zd given)", signature->function,
                     signature->positional, signature->positional == 1 ? "" : "s", nargs);
        return -1;
    }
    for (int i = 0; i < signature->count; i++)
        out[i] = i < nargs ? args[i] : NULL;
    Py_ssize_t keywords = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < keywords; i++) {
        if (sort_keyword(signature, PyTuple_GET_ITEM(kwnames, i), args[nargs + i], out) < 0)
            return -1;
    }
    for (int i = 0; i < signature->required; i++) {
        if (out[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument '%s' (pos %d)", signature->function,
                         signature->names[i], i + 1);
            return -1;
        }
    }
    return 0;
}

int glue_count_slowly(PyObject *value, const char *name, uint64_t *out)
{
    if (!PyIndex_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be an integer, not %.100s", name, Py_TYPE(value)->tp_name);
        return -1;
    }
    PyObject *index = PyNumber_Index(value);
    if (index == NULL)
        return -1;
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(index, &overflow);
    Py_DECREF(index);
    if (overflow > 0) {
        PyErr_Format(PyExc_ValueError, "%s must be less than 2**63", name);
        return -1;
    }
    if (overflow < 0) {
        PyErr_Format(PyExc_ValueError, "%s must not be negative", name);
        return -1;
    }
    if (number < 0) {
        PyErr_Format(PyExc_ValueError, "%s must not be negative, but is %lld", name, number);
        return -1;
    }
    *out = (uint64_t)number;
    return 0;
}

int glue_size(PyObject *value, const char *name, uint64_t *out)
{
    if (!PyUnicode_Check(value)) {
        if (!PyIndex_Check(value)) {
            PyErr_Format(PyExc_TypeError, "%s must be an integer or text such as \"64M\", not %.100s", name,
                         Py_TYPE(value)->tp_name);
            return -1;
        }
        return glue_count(value, name, out);
    }
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(value, &length);
    if (text == NULL)
        return -1;
    uint64_t size;
    int rc = pshm_size_parse(text, (size_t)length, &size);
    if (rc < 0) {
        PyErr_Format(PyExc_ValueError, "%s %R: %s", name, value, pshm_error_text(rc));
        return -1;
    }
    *out = size;
    return 0;
}

int glue_mode(PyObject *value, uint32_t *out)
{
    if (PyUnicode_Check(value)) {
        Py_ssize_t length;
        const char *text = PyUnicode_AsUTF8AndSize(value, &length);
        if (text == NULL)
            return -1;
        int rc = pshm_mode_parse(text, (size_t)length, out);
        if (rc < 0)
            PyErr_Format(PyExc_ValueError, "mode %R: %s", value, pshm_error_text(rc));
        return rc < 0 ? -1 : 0;
    }
    if (!PyIndex_Check(value)) {
        PyErr_Format(PyExc_TypeError, "mode must be an integer or octal digits, not %.100s", Py_TYPE(value)->tp_name);
        return -1;
    }
    uint64_t mode = 0;
    if (glue_count(value, "mode", &mode) < 0)
        return -1;
    if (mode > 0777) {
        PyErr_Format(PyExc_ValueError, "mode %R: %s", value, pshm_error_text(PSHM_EMODE));
        return -1;
    }
    *out = (uint32_t)mode;
    return 0;
}

int glue_bool(PyObject *value, bool *out)
{
    int truth = PyObject_IsTrue(value);
    if (truth < 0)
        return -1;
    *out = truth > 0;
    return 0;
}

int glue_access(PyObject *value, pshm_access *out)
{
    static const char *const names[] = {
        [PSHM_ACCESS_RW] = "rw", [PSHM_ACCESS_R] = "r", [PSHM_ACCESS_COPY] = "copy", [PSHM_ACCESS_NONE] = "none"};
    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "access must be str, not %.100s", Py_TYPE(value)->tp_name);
        return -1;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (PyUnicode_CompareWithASCIIString(value, names[i]) == 0) {
            *out = (pshm_access)i;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "access %R: %s", value, pshm_error_text(PSHM_EACCESSNAME));
    return -1;
}

int glue_timeout(PyObject *value, glue_negative negative, int64_t *out)
{
    if (value == NULL || value == Py_None) {
        *out = -1;
        return 0;
    }
    double seconds = PyFloat_AsDouble(value);
    if (seconds == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_TypeError, "timeout must be a number of seconds or None, not %.100s",
                         Py_TYPE(value)->tp_name);
        else if (PyErr_ExceptionMatches(PyExc_OverflowError))
            PyErr_SetString(PyExc_ValueError, "timeout is too large");
        return -1;
    }
    if (seconds < 0 && negative == GLUE_AT_ONCE)
        seconds = 0;
    if (seconds == -1.0 && negative == GLUE_FOR_EVER) {
        *out = -1;
        return 0;
    }
    if (!(seconds >= 0)) {
        PyErr_Format(PyExc_ValueError, "timeout must not be %sNaN, but is %R",
                     negative == GLUE_AT_ONCE ? "" : "negative or ", value);
        return -1;
    }
    /* What the clock cannot count is for ever; what is shorter than a tick is still a wait. */
    *out = seconds >= 9e9 ? -1 : (int64_t)ceil(seconds * 1e9);
    return 0;
}

int glue_acquire_args(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, glue_negative negative,
                      int64_t *timeout)
{
    static const glue_signature signature = {"acquire", 0, 2, 2, {"blocking", "timeout"}};
    *timeout = -1;
    if (nargs == 0 && kwnames == NULL)
        return 0;
    PyObject *given[2];
    if (glue_sort(&signature, args, nargs, kwnames, given) < 0)
        return -1;
    bool blocking = true;
    if (given[0] != NULL && glue_bool(given[0], &blocking) < 0)
        return -1;
    if (glue_timeout(given[1], negative, timeout) < 0)
        return -1;
    if (blocking)
        return 0;
    const bool for_ever = negative == GLUE_FOR_EVER && *timeout < 0 && given[1] != NULL && given[1] != Py_None &&
                          PyFloat_AsDouble(given[1]) == -1.0;
    if (given[1] != NULL && given[1] != Py_None && !for_ever) {
        PyErr_SetString(PyExc_ValueError, "can't specify a timeout for a non-blocking call");
        return -1;
    }
    *timeout = 0;
    return 0;
}

int glue_wait_args(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, glue_negative negative, int64_t *timeout)
{
    static const glue_signature signature = {"wait", 0, 1, 1, {"timeout"}};
    PyObject *given[1];
    if (glue_args(&signature, args, nargs, kwnames, given) < 0)
        return -1;
    return glue_timeout(given[0], negative, timeout);
}

int glue_borrow(PyObject *value, glue_bytes *out)
{
    out->lent = false;
    if (PyBytes_CheckExact(value)) {
        out->data = PyBytes_AS_STRING(value);
        out->size = (uint64_t)PyBytes_GET_SIZE(value);
        return 0;
    }
    if (!PyObject_CheckBuffer(value)) {
        PyErr_Format(PyExc_TypeError, "data must be a bytes-like object, not %.100s", Py_TYPE(value)->tp_name);
        return -1;
    }
    if (PyObject_GetBuffer(value, &out->buffer, PyBUF_SIMPLE) < 0)
        return -1;
    out->lent = true;
    out->data = out->buffer.buf;
    out->size = (uint64_t)out->buffer.len;
    return 0;
}

/* A relative path means another file once the process has moved, or in another process. Without a working directory
 * such a segment is opened all the same. */
PyObject *glue_folder(pshm_segment_kind kind, const char *path)
{
    if (kind != PSHM_SEGMENT_FILE || path[0] == '/')
        return NULL;
    PyObject *folder = NULL;
    PyObject *os = PyImport_ImportModule("os");
    if (os != NULL) {
        folder = PyObject_CallMethod(os, "getcwd", NULL);
        Py_DECREF(os);
    }
    if (folder == NULL)
        PyErr_Clear();
    return folder;
}

/* ---- waits ---- */

int glue_wait(pshm_segment *handle, glue_step step, void *closure, int64_t deadline)
{
    for (;;) {
        int rc;
        if (handle != NULL) {
            GLUE_UNLOCKED(rc, handle, step(closure, deadline));
        } else {
            Py_BEGIN_ALLOW_THREADS;
            rc = step(closure, deadline);
            Py_END_ALLOW_THREADS;
        }
        if (rc != -EINTR)
            return rc;
        if (PyErr_CheckSignals() < 0)
            return GLUE_RAISED;
    }
}

#if PY_VERSION_HEX >= 0x030C0000
void glue_raised_keep(glue_raised *raised)
{
    *raised = (glue_raised){NULL, PyErr_GetRaisedException(), NULL};
}

static void set_raised(glue_raised *raised)
{
    PyErr_SetRaisedException(raised->value);
}
#else
void glue_raised_keep(glue_raised *raised)
{
    PyErr_Fetch(&raised->type, &raised->value, &raised->trace);
    if (raised->type != NULL)
        PyErr_NormalizeException(&raised->type, &raised->value, &raised->trace);
    if (raised->trace != NULL)
        (void)PyException_SetTraceback(raised->value, raised->trace);
}

static void set_raised(glue_raised *raised)
{
    PyErr_Restore(raised->type, raised->value, raised->trace);
}
#endif

void glue_raised_restore(glue_raised *raised)
{
    if (raised->value == NULL)
        return;
    glue_raised later;
    glue_raised_keep(&later);
    if (later.value == NULL) {
        set_raised(raised);
        return;
    }
    PyException_SetContext(later.value, raised->value); /* takes it */
    Py_XDECREF(raised->type);
    Py_XDECREF(raised->trace);
    set_raised(&later);
}

int glue_wait_through(glue_step step, void *closure)
{
    glue_raised first = {NULL, NULL, NULL};
    int rc;
    while ((rc = glue_wait(NULL, step, closure, PSHM_FOREVER)) == GLUE_RAISED) {
        glue_raised_restore(&first);
        glue_raised_keep(&first);
    }
    glue_raised_restore(&first);
    return rc;
}

/* ---- types ---- */

int glue_type(PyObject *module, PyType_Spec *spec, bool add, PyObject **out)
{
    *out = PyType_FromModuleAndSpec(module, spec, NULL);
    if (*out == NULL)
        return -1;
    return add ? PyModule_AddType(module, (PyTypeObject *)*out) : 0;
}

PyObject *glue_import(const char *module, const char *name)
{
    PyObject *from = PyImport_ImportModule(module);
    PyObject *found = from == NULL ? NULL : PyObject_GetAttrString(from, name);
    Py_XDECREF(from);
    return found;
}

PyObject *glue_reduce(const char *function, PyObject *arguments)
{
    PyObject *callable = arguments == NULL ? NULL : glue_import("polyshm._pickle", function);
    PyObject *result = callable == NULL ? NULL : PyObject_CallObject(callable, arguments);
    Py_XDECREF(callable);
    Py_XDECREF(arguments);
    return result;
}
