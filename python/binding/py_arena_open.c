/* SPDX-License-Identifier: MIT
 *
 * Arena(address, ...): every option is converted before anything is opened, so that a half-made arena cannot be.
 */
#include "py_arena.h"

#include <string.h>

/* The arguments, in the order of the signature: the address first. */
enum { ADDRESS, SIZE, ACCESS, CREATE, EXCLUSIVE, MODE, RESERVE, WAIT, LIFE, PARTICIPANTS, ARGUMENTS };

static const glue_signature signature = {"Arena",
                                         1,
                                         1,
                                         ARGUMENTS,
                                         {"address", "size", "access", "create", "exclusive", "mode", "reserve", "wait",
                                          "life", "participants"}};

static bool is_given(PyObject *value)
{
    return value != NULL && value != Py_None;
}

static int convert_life(PyObject *value, pshm_life *out)
{
    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "life must be str, not %.100s", Py_TYPE(value)->tp_name);
        return -1;
    }
    for (int life = 0; life < PSHM_LIVES; life++) {
        if (PyUnicode_CompareWithASCIIString(value, pshm_life_name((pshm_life)life)) == 0) {
            *out = (pshm_life)life;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "life %R: %s", value, pshm_error_text(PSHM_ELIFE));
    return -1;
}

static int convert_participants(PyObject *value, uint32_t *out)
{
    uint64_t count = 0;
    if (glue_count(value, "participants", &count) < 0)
        return -1;
    if (count == 0 || count > PSHM_PARTICIPANTS_MAX) {
        PyErr_Format(PyExc_ValueError, "participants %R: %s", value, pshm_error_text(PSHM_EPARTICIPANTCOUNT));
        return -1;
    }
    *out = (uint32_t)count;
    return 0;
}

/* Seconds to wait for a creator; 0 is not to wait. */
static int convert_wait(PyObject *value, int64_t *deadline)
{
    int64_t timeout;
    if (glue_timeout(value, GLUE_REFUSED, &timeout) < 0)
        return -1;
    *deadline = timeout == 0 ? 0 : pshm_deadline(timeout);
    return 0;
}

static int convert(PyObject *const *given, pshm_arena_options *options)
{
    bool reserve;
    if (is_given(given[SIZE]) && glue_size(given[SIZE], "size", &options->size) < 0)
        return -1;
    if (given[ACCESS] != NULL && glue_access(given[ACCESS], &options->access) < 0)
        return -1;
    if (given[CREATE] != NULL && glue_bool(given[CREATE], &options->create) < 0)
        return -1;
    if (given[EXCLUSIVE] != NULL && glue_bool(given[EXCLUSIVE], &options->exclusive) < 0)
        return -1;
    if (is_given(given[MODE]) && glue_mode(given[MODE], &options->mode) < 0)
        return -1;
    if (is_given(given[RESERVE])) {
        if (glue_bool(given[RESERVE], &reserve) < 0)
            return -1;
        options->reserve = reserve;
    }
    if (is_given(given[LIFE]) && convert_life(given[LIFE], &options->life) < 0)
        return -1;
    if (is_given(given[PARTICIPANTS]) && convert_participants(given[PARTICIPANTS], &options->participants) < 0)
        return -1;
    return given[WAIT] == NULL ? 0 : convert_wait(given[WAIT], &options->deadline);
}

/* Which of the parameters that a new arena would have were given: "size 4194304, life 'keep'". */
static PyObject *describe(PyObject *const *given)
{
    static const int parameters[] = {SIZE, LIFE, PARTICIPANTS};
    PyObject *text = PyUnicode_FromString("");
    for (size_t i = 0; i < sizeof parameters / sizeof *parameters && text != NULL; i++) {
        PyObject *value = given[parameters[i]];
        if (!is_given(value))
            continue;
        PyObject *more = PyUnicode_FromFormat("%U%s%s %.100R", text, PyUnicode_GET_LENGTH(text) > 0 ? ", " : "",
                                              signature.names[parameters[i]], value);
        Py_SETREF(text, more);
    }
    return text;
}

static PyObject *refuse(PyTypeObject *type, int rc, PyObject *const *given)
{
    PyObject *detail = NULL;
    if (rc == PSHM_EPARAMETER || rc == PSHM_ETOOSMALL) {
        detail = describe(given);
        if (detail == NULL)
            return NULL;
    }
    const bool says = detail != NULL && PyUnicode_GET_LENGTH(detail) > 0;
    (void)glue_raise(PyType_GetModuleState(type), rc, given[ADDRESS], says ? detail : NULL);
    Py_XDECREF(detail);
    return NULL;
}

typedef struct opening {
    const char *address;
    size_t length;
    const pshm_arena_options *options;
    pshm_arena *handle;
} opening;

static int open_step(void *closure, int64_t deadline)
{
    (void)deadline;
    opening *wanted = closure;
    return pshm_arena_open(wanted->address, wanted->length, wanted->options, &wanted->handle);
}

static PyObject *make(PyTypeObject *type, pshm_arena *handle)
{
    py_arena *self = (py_arena *)type->tp_alloc(type, 0);
    if (self == NULL) {
        pshm_arena_close(handle);
        pshm_arena_release(handle);
        return NULL;
    }
    self->handle = handle;
    self->kind = handle->segment->kind;
    const char *colon = strchr(handle->address, ':');
    for (int kind = 0; colon != NULL && kind < PSHM_SEGMENT_KINDS; kind++) {
        const char *name = pshm_kind_name((pshm_segment_kind)kind);
        const size_t length = (size_t)(colon - handle->address);
        if (strlen(name) == length && memcmp(name, handle->address, length) == 0)
            self->kind = (pshm_segment_kind)kind;
    }
    self->folder = glue_folder(self->kind, colon != NULL ? colon + 1 : "");
    return (PyObject *)self;
}

PyObject *py_arena_call(PyObject *type, PyObject *const *args, size_t nargs, PyObject *kwnames)
{
    PyObject *given[ARGUMENTS];
    pshm_arena_options options = PSHM_ARENA_OPTIONS_INIT;
    options.language = PSHM_LANGUAGE_PYTHON;
    if (glue_args(&signature, args, PyVectorcall_NARGS(nargs), kwnames, given) < 0 || convert(given, &options) < 0)
        return NULL;
    if (!PyUnicode_Check(given[ADDRESS]))
        return PyErr_Format(PyExc_TypeError, "address must be str, not %.100s", Py_TYPE(given[ADDRESS])->tp_name);
    PyObject *encoded = PyUnicode_EncodeFSDefault(given[ADDRESS]);
    if (encoded == NULL)
        return NULL;
    opening wanted = {PyBytes_AS_STRING(encoded), (size_t)PyBytes_GET_SIZE(encoded), &options, NULL};
    int rc = glue_wait(NULL, open_step, &wanted, options.deadline);
    Py_DECREF(encoded);
    if (rc != 0)
        return refuse((PyTypeObject *)type, rc, given);
    return make((PyTypeObject *)type, wanted.handle);
}

/* Whoever does not call the type: Arena.__new__(Arena, ...). */
PyObject *py_arena_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return PyVectorcall_Call((PyObject *)type, args, kwargs);
}
