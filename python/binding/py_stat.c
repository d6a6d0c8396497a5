/* SPDX-License-Identifier: MIT
 *
 * Stat, a tuple with names, and the questions by address: list, stat, exists, unlink.
 */
#include "glue.h"

#include <errno.h>

static PyStructSequence_Field fields[] = {{"address", "what leads to it"},
                                          {"kind", "posix, sysv, file, anon, zero, memfd or fd"},
#define X(name, text) {#name, text},
                                          PSHM_STAT_MAP(X)
#undef X
                                              {NULL, NULL}};

#define FIELDS ((int)(sizeof fields / sizeof *fields) - 1)

static PyStructSequence_Desc description = {
    "polyshm.Stat",
    "What the kernel keeps of a segment, as shmctl(2) with IPC_STAT or fstat(2) tells it. Sizes are bytes, times "
    "seconds\n"
    "since 1970; a field that the kind does not have is None.",
    fields,
    FIELDS,
};

int py_stat_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    state->stat_type = (PyObject *)PyStructSequence_NewType(&description);
    if (state->stat_type == NULL)
        return -1;
    return PyModule_AddType(module, (PyTypeObject *)state->stat_type);
}

static PyObject *number_or_none(int64_t number)
{
    if (number == PSHM_NONE)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(number);
}

/* `address` is a new reference and may be NULL with an exception set. */
static PyObject *make_stat(py_state *state, const pshm_stat *stat, PyObject *address)
{
    if (address == NULL)
        return NULL;
    PyObject *result = PyStructSequence_New((PyTypeObject *)state->stat_type);
    if (result == NULL) {
        Py_DECREF(address);
        return NULL;
    }
    Py_ssize_t at = 0;
    PyStructSequence_SetItem(result, at++, address);
    PyStructSequence_SetItem(result, at++, PyUnicode_FromString(pshm_kind_name(stat->kind)));
#define X(name, text) PyStructSequence_SetItem(result, at++, number_or_none(stat->name));
    PSHM_STAT_MAP(X)
#undef X
    if (PyErr_Occurred()) {
        Py_DECREF(result);
        return NULL;
    }
    return result;
}

PyObject *py_stat_of(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_segment *self = (py_segment *)object;
    pshm_stat stat;
    int rc = pshm_segment_stat(self->handle, &stat);
    if (rc != 0)
        return glue_raise_segment(self, rc, NULL);
    return make_stat(glue_state(object), &stat, glue_address(self->handle));
}

/* ---- by address ---- */

static PyObject *encode(PyObject *address)
{
    if (!PyUnicode_Check(address))
        return PyErr_Format(PyExc_TypeError, "address must be str, not %.100s", Py_TYPE(address)->tp_name);
    return PyUnicode_EncodeFSDefault(address);
}

static PyObject *one_address(const char *function, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    const glue_signature signature = {function, 1, 1, 1, {"address"}};
    PyObject *given[1];
    return glue_args(&signature, args, nargs, kwnames, given) < 0 ? NULL : given[0];
}

static PyObject *module_stat(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *address = one_address("stat", args, nargs, kwnames);
    PyObject *encoded = address == NULL ? NULL : encode(address);
    if (encoded == NULL)
        return NULL;
    pshm_stat stat;
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = pshm_stat_address(PyBytes_AS_STRING(encoded), (size_t)PyBytes_GET_SIZE(encoded), &stat);
    Py_END_ALLOW_THREADS
    Py_DECREF(encoded);
    py_state *state = PyModule_GetState(module);
    if (rc < 0)
        return glue_raise(state, rc, address, NULL);
    Py_INCREF(address);
    return make_stat(state, &stat, address);
}

typedef int (*question)(const char *address, size_t length);

static PyObject *ask(PyObject *module, const char *function, question put, bool answer, PyObject *const *args,
                     Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *address = one_address(function, args, nargs, kwnames);
    PyObject *encoded = address == NULL ? NULL : encode(address);
    if (encoded == NULL)
        return NULL;
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = put(PyBytes_AS_STRING(encoded), (size_t)PyBytes_GET_SIZE(encoded));
    Py_END_ALLOW_THREADS
    Py_DECREF(encoded);
    if (rc < 0)
        return glue_raise(PyModule_GetState(module), rc, address, NULL);
    if (answer)
        return PyBool_FromLong(rc);
    Py_RETURN_NONE;
}

static PyObject *module_exists(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return ask(module, "exists", pshm_exists, true, args, nargs, kwnames);
}

static PyObject *module_unlink(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return ask(module, "unlink", pshm_unlink, false, args, nargs, kwnames);
}

static PyObject *module_list(PyObject *module, PyObject *unused)
{
    (void)unused;
    py_state *state = PyModule_GetState(module);
    pshm_stat *found = NULL;
    size_t count = 0;
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = pshm_list(&found, &count);
    Py_END_ALLOW_THREADS
    if (rc < 0) {
        errno = -rc;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *result = PyList_New(0);
    for (size_t i = 0; i < count && result != NULL; i++) {
        PyObject *stat = make_stat(state, &found[i], PyUnicode_DecodeFSDefault(found[i].address));
        if (stat == NULL || PyList_Append(result, stat) < 0)
            Py_CLEAR(result);
        Py_XDECREF(stat);
    }
    pshm_list_free(found);
    return result;
}

PyMethodDef py_stat_functions[] = {
    {"list", module_list, METH_NOARGS,
     "list()\n--\n\nEvery POSIX and System V segment that this process can see, as a list of Stat.\n\n"
     "Reads /dev/shm and /proc/sysvipc/shm; nothing is attached."},
    {"stat", GLUE_METHOD(module_stat), METH_FASTCALL | METH_KEYWORDS,
     "stat(address)\n--\n\nWhat the kernel keeps of a segment, as a Stat, without attaching it.\n\n"
     "Errors: FileNotFoundError and the other OSErrors of fstat(2) and shmctl(2); EOPNOTSUPP for anon:, zero:, memfd:\n"
     "and sysv:private, which name nothing that could be asked."},
    {"exists", GLUE_METHOD(module_exists), METH_FASTCALL | METH_KEYWORDS,
     "exists(address)\n--\n\nIs there a segment with this address? Nothing is attached.\n\n"
     "Errors: PermissionError where the way there may not be looked at; EOPNOTSUPP as stat()."},
    {"unlink", GLUE_METHOD(module_unlink), METH_FASTCALL | METH_KEYWORDS,
     "unlink(address)\n--\n\nRemoves a name, or a System V id, without attaching: shm_unlink(3), unlink(2), shmctl(2) "
     "with\n"
     "IPC_RMID. The memory goes with its last user.\n\n"
     "Errors: FileNotFoundError, PermissionError; EOPNOTSUPP as stat()."},
    {NULL, NULL, 0, NULL},
};
