/* SPDX-License-Identifier: MIT
 *
 * Segment(address, ...): every option is converted before anything is opened, so that a half-made segment cannot be.
 */
#include "py_segment.h"

#include <errno.h>

/* The options, in the order of the signature. */
#define OPTION_MAP(X)                                                                                                  \
    X(size)                                                                                                            \
    X(offset)                                                                                                          \
    X(access)                                                                                                          \
    X(exec)                                                                                                            \
    X(create)                                                                                                          \
    X(exclusive)                                                                                                       \
    X(mode)                                                                                                            \
    X(reserve)                                                                                                         \
    X(populate)                                                                                                        \
    X(locked)                                                                                                          \
    X(hugepages)                                                                                                       \
    X(inherit)                                                                                                         \
    X(at)                                                                                                              \
    X(round)

enum option {
#define X(name) OPTION_##name,
    OPTION_MAP(X)
#undef X
};

static const char *const option_names[] = {
#define X(name) #name,
    OPTION_MAP(X)
#undef X
};

#define OPTIONS (sizeof option_names / sizeof *option_names)

typedef struct request {
    PyObject *address;
    pshm_options options;
} request;

static int convert_hugepages(PyObject *value, uint64_t *out)
{
    if (value == Py_None || PyBool_Check(value)) {
        *out = value == Py_True;
        return 0;
    }
    uint64_t size = 0;
    if (glue_size(value, "hugepages", &size) < 0)
        return -1;
    if (size == 1) {
        PyErr_SetString(PyExc_ValueError, "hugepages must be True, False or the size of a page, not 1");
        return -1;
    }
    *out = size;
    return 0;
}

static int convert_option(enum option option, PyObject *value, pshm_options *options)
{
    const bool none = value == Py_None;
    bool truth;
    switch (option) {
    case OPTION_size:
        return none ? 0 : glue_size(value, "size", &options->size);
    case OPTION_offset:
        return glue_size(value, "offset", &options->offset);
    case OPTION_access:
        return glue_access(value, &options->access);
    case OPTION_exec:
        return glue_bool(value, &options->exec);
    case OPTION_create:
        return glue_bool(value, &options->create);
    case OPTION_exclusive:
        return glue_bool(value, &options->exclusive);
    case OPTION_mode:
        return none ? 0 : glue_mode(value, &options->mode);
    case OPTION_reserve:
        if (none)
            return 0;
        if (glue_bool(value, &truth) < 0)
            return -1;
        options->reserve = truth;
        return 0;
    case OPTION_populate:
        return glue_bool(value, &options->populate);
    case OPTION_locked:
        return glue_bool(value, &options->locked);
    case OPTION_hugepages:
        return convert_hugepages(value, &options->hugepages);
    case OPTION_inherit:
        return glue_bool(value, &options->inherit);
    case OPTION_at:
        return none ? 0 : glue_count(value, "at", &options->at);
    case OPTION_round:
        return glue_bool(value, &options->round);
    }
    Py_UNREACHABLE();
}

static int take_keyword(request *wanted, PyObject *key, PyObject *value)
{
    if (PyUnicode_Check(key)) {
        for (size_t i = 0; i < OPTIONS; i++) {
            if (PyUnicode_CompareWithASCIIString(key, option_names[i]) == 0)
                return convert_option((enum option)i, value, &wanted->options);
        }
        if (PyUnicode_CompareWithASCIIString(key, "address") == 0) {
            if (wanted->address != NULL) {
                PyErr_SetString(PyExc_TypeError, "Segment() got multiple values for argument 'address'");
                return -1;
            }
            wanted->address = value;
            return 0;
        }
    }
    PyErr_Format(PyExc_TypeError, "Segment() got an unexpected keyword argument '%S'", key);
    return -1;
}

static int open_unlocked(PyObject *encoded, const pshm_options *options, pshm_segment **out)
{
    int rc;
    do {
        Py_BEGIN_ALLOW_THREADS
        rc = pshm_segment_open(PyBytes_AS_STRING(encoded), (size_t)PyBytes_GET_SIZE(encoded), options, out);
        Py_END_ALLOW_THREADS
        if (rc == -EINTR && PyErr_CheckSignals() < 0)
            return GLUE_RAISED;
    } while (rc == -EINTR);
    return rc;
}

static PyObject *make(PyTypeObject *type, const request *wanted)
{
    if (wanted->address == NULL) {
        PyErr_SetString(PyExc_TypeError, "Segment() missing required argument 'address' (pos 1)");
        return NULL;
    }
    if (!PyUnicode_Check(wanted->address)) {
        PyErr_Format(PyExc_TypeError, "address must be str, not %.100s", Py_TYPE(wanted->address)->tp_name);
        return NULL;
    }
    PyObject *encoded = PyUnicode_EncodeFSDefault(wanted->address);
    if (encoded == NULL)
        return NULL;
    pshm_segment *handle = NULL;
    int rc = open_unlocked(encoded, &wanted->options, &handle);
    Py_DECREF(encoded);
    if (rc != 0)
        return rc == GLUE_RAISED ? NULL : glue_raise(PyType_GetModuleState(type), rc, wanted->address, NULL);

    py_segment *self = (py_segment *)type->tp_alloc(type, 0);
    if (self == NULL) {
        pshm_segment_close(handle);
        pshm_segment_release(handle);
        return NULL;
    }
    self->handle = handle;
    self->offset = wanted->options.offset;
    self->access = wanted->options.access;
    self->exec = wanted->options.exec;
    self->folder = glue_folder(handle->kind, handle->name);
    return (PyObject *)self;
}

static int take_positional(request *wanted, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs > 1) {
        PyErr_Format(PyExc_TypeError, "Segment() takes 1 positional argument (%zd given); options go by keyword",
                     nargs);
        return -1;
    }
    wanted->address = nargs == 1 ? args[0] : NULL;
    return 0;
}

static const pshm_options defaults = {.size = PSHM_UNSET,
                                      .mode = PSHM_MODE_UNSET,
                                      .reserve = -1,
                                      .serial = GLUE_SERIAL};

PyObject *py_segment_call(PyObject *type, PyObject *const *args, size_t nargs, PyObject *kwnames)
{
    request wanted = {NULL, defaults};
    Py_ssize_t given = PyVectorcall_NARGS(nargs);
    if (take_positional(&wanted, args, given) < 0)
        return NULL;
    Py_ssize_t keywords = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < keywords; i++) {
        if (take_keyword(&wanted, PyTuple_GET_ITEM(kwnames, i), args[given + i]) < 0)
            return NULL;
    }
    return make((PyTypeObject *)type, &wanted);
}

PyObject *py_segment_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    request wanted = {NULL, defaults};
    PyObject *first = PyTuple_GET_SIZE(args) > 0 ? PyTuple_GET_ITEM(args, 0) : NULL;
    if (take_positional(&wanted, &first, PyTuple_GET_SIZE(args)) < 0)
        return NULL;
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (kwargs != NULL && PyDict_Next(kwargs, &position, &key, &value)) {
        if (take_keyword(&wanted, key, value) < 0)
            return NULL;
    }
    return make(type, &wanted);
}
