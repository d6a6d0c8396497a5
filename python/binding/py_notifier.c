/* SPDX-License-Identifier: MIT
 *
 * pollfd() of whatever can be waited for, and polyshm._core.Notifier, which watches many: what polyshm.aio stands on.
 */
#include "py_wait.h"

#include <errno.h>

/* ---- pollfd ---- */

PyObject *py_object_pollfd(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"pollfd", 0, 1, 1, {"at_least"}};
    PyObject *given[1] = {NULL};
    py_waitable waitable;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    PyObject *pair = given[0] != NULL ? PyTuple_Pack(2, self, given[0]) : Py_NewRef(self);
    if (pair == NULL)
        return NULL;
    int rc = py_waitable_of(glue_state(self), pair, &waitable, "pollfd()", false);
    Py_DECREF(pair);
    if (rc < 0)
        return NULL;
    GLUE_LOCK(self);
    rc = pshm_notifier_pollfd(&((py_object *)self)->notifier, &waitable.core);
    GLUE_UNLOCK();
    return rc >= 0 ? PyLong_FromLong(rc) : py_object_raise(self, rc);
}

/* ---- polyshm._core.Notifier ---- */

typedef struct py_notifier {
    PyObject_HEAD
    pshm_notifier *core; /* NULL: closed */
    PyObject *handles;   /* by token: what is watched stays, alone or as (handle, key, futures) */
    PyObject *done;      /* names */
    PyObject *set_result;
} py_notifier;

static PyObject *refuse(const py_notifier *self, int rc)
{
    if (self->core == NULL || rc == PSHM_ECLOSED) {
        PyErr_SetString(PyExc_ValueError,
                        self->core == NULL ? "the notifier is closed" : "the notifier is the parent's, before a fork");
        return NULL;
    }
    errno = -rc;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *notifier_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (!PyArg_ParseTuple(args, "") || (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "Notifier takes no arguments");
        return NULL;
    }
    py_notifier *self = (py_notifier *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->handles = PyDict_New();
    self->done = PyUnicode_InternFromString("done");
    self->set_result = PyUnicode_InternFromString("set_result");
    const bool made = self->handles != NULL && self->done != NULL && self->set_result != NULL;
    int rc = made ? pshm_notifier_open(&self->core) : 0;
    if (self->core == NULL) {
        if (rc != 0) {
            errno = -rc;
            (void)PyErr_SetFromErrno(PyExc_OSError);
        }
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *notifier_fileno(PyObject *object, PyObject *unused)
{
    (void)unused;
    const py_notifier *self = (py_notifier *)object;
    int fd = -1;
    GLUE_LOCK(object);
    if (self->core != NULL)
        fd = pshm_notifier_fd(self->core);
    GLUE_UNLOCK();
    return fd >= 0 ? PyLong_FromLong(fd) : refuse(self, 0);
}

/* A token, and the key for it in the dict of handles: a plain int, whose hash runs no code that might close this. */
static PyObject *key_of(PyObject *value, uint64_t *out)
{
    *out = PyLong_AsUnsignedLongLong(value);
    return *out == UINT64_MAX && PyErr_Occurred() ? NULL : PyLong_FromUnsignedLongLong(*out);
}

static PyObject *notifier_add(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    py_notifier *self = (py_notifier *)object;
    py_waitable waitable;
    uint64_t token;
    if (nargs != 2 && (nargs != 4 || !PyList_CheckExact(args[3]))) {
        PyErr_SetString(PyExc_TypeError, "add() takes an object and a token, and perhaps a key and a list of futures");
        return NULL;
    }
    if (py_waitable_of(glue_state(object), args[0], &waitable, "add()", true) < 0)
        return NULL;
    PyObject *key = key_of(args[1], &token);
    if (key == NULL)
        return NULL;
    PyObject *kept = nargs == 2 ? Py_NewRef(waitable.handle) : PyTuple_Pack(3, waitable.handle, args[2], args[3]);
    if (kept == NULL) {
        Py_DECREF(key);
        return NULL;
    }
    int rc = 0;
    GLUE_LOCK(object);
    int known = PyDict_Contains(self->handles, key);
    if (known > 0)
        rc = -EEXIST;
    else if (known == 0 && self->core != NULL && PyDict_SetItem(self->handles, key, kept) == 0) {
        rc = pshm_notifier_add(self->core, &waitable.core, token);
        if (rc != 0 && PyDict_DelItem(self->handles, key) < 0)
            PyErr_Clear();
    }
    GLUE_UNLOCK();
    Py_DECREF(kept);
    Py_DECREF(key);
    if (PyErr_Occurred())
        return NULL;
    if (self->core == NULL || rc == -EEXIST || rc == -ENOMEM || rc == -EAGAIN)
        return refuse(self, rc);
    return rc >= 0 ? PyBool_FromLong(rc) : py_waitable_raise(&waitable, rc);
}

static PyObject *notifier_remove(PyObject *object, PyObject *value)
{
    py_notifier *self = (py_notifier *)object;
    uint64_t token;
    PyObject *key = key_of(value, &token);
    if (key == NULL)
        return NULL;
    int rc = 0;
    GLUE_LOCK(object);
    if (self->core != NULL)
        rc = pshm_notifier_remove(self->core, token);
    if (self->core != NULL && rc == 0 && PyDict_DelItem(self->handles, key) < 0)
        PyErr_Clear();
    GLUE_UNLOCK();
    Py_DECREF(key);
    if (self->core == NULL || (rc != 0 && rc != -ENOENT))
        return refuse(self, rc);
    return PyBool_FromLong(rc == 0);
}

#define ROOM 64

/* Adds what there is to the list; how many, or an error. */
static int take_some(py_notifier *self, PyObject *list)
{
    uint64_t tokens[ROOM];
    int rc = self->core != NULL ? pshm_notifier_take(self->core, tokens, ROOM) : PSHM_ECLOSED;
    for (int i = 0; i < rc; i++) {
        PyObject *token = PyLong_FromUnsignedLongLong(tokens[i]);
        int added = token != NULL ? PyList_Append(list, token) : -1;
        if (added == 0 && PyDict_DelItem(self->handles, token) < 0)
            PyErr_Clear();
        Py_XDECREF(token);
        if (added < 0)
            return GLUE_RAISED;
    }
    return rc == ROOM ? -EAGAIN : rc < 0 ? rc : 0;
}

static PyObject *notifier_take(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_notifier *self = (py_notifier *)object;
    PyObject *list = PyList_New(0);
    int rc = -EAGAIN;
    while (list != NULL && rc == -EAGAIN) {
        GLUE_LOCK(object);
        rc = take_some(self, list);
        GLUE_UNLOCK();
    }
    if (list != NULL && rc != 0)
        Py_CLEAR(list);
    return list != NULL || PyErr_Occurred() ? list : refuse(self, rc);
}

/* ---- for polyshm.aio ---- */

/* What goes wrong with one keeps nothing from the others. */
static void finish_all(const py_notifier *self, PyObject *futures)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(futures); i++) {
        PyObject *future = Py_NewRef(PyList_GET_ITEM(futures, i));
        PyObject *result = PyObject_CallMethodNoArgs(future, self->done);
        if (result == Py_False)
            Py_SETREF(result, PyObject_CallMethodOneArg(future, self->set_result, Py_None));
        if (result == NULL)
            PyErr_WriteUnraisable(future);
        Py_XDECREF(result);
        Py_DECREF(future);
    }
}

static void tell_one(const py_notifier *self, PyObject *watched, uint64_t number)
{
    PyObject *token = PyLong_FromUnsignedLongLong(number);
    PyObject *kept = token != NULL ? PyDict_GetItemWithError(self->handles, token) : NULL;
    if (kept != NULL) {
        Py_INCREF(kept);
        if (PyDict_DelItem(self->handles, token) < 0)
            PyErr_Clear();
        if (PyTuple_CheckExact(kept)) {
            if (PyDict_DelItem(watched, PyTuple_GET_ITEM(kept, 1)) < 0)
                PyErr_Clear();
            finish_all(self, PyTuple_GET_ITEM(kept, 2));
        }
        Py_DECREF(kept);
    }
    if (PyErr_Occurred())
        PyErr_WriteUnraisable((PyObject *)self);
    Py_XDECREF(token);
}

static PyObject *notifier_tell(PyObject *object, PyObject *watched)
{
    py_notifier *self = (py_notifier *)object;
    if (!PyDict_CheckExact(watched)) {
        PyErr_SetString(PyExc_TypeError, "tell() takes a dict");
        return NULL;
    }
    uint64_t tokens[ROOM];
    int rc;
    do {
        GLUE_LOCK(object);
        rc = self->core != NULL ? pshm_notifier_take(self->core, tokens, ROOM) : PSHM_ECLOSED;
        for (int i = 0; i < rc; i++)
            tell_one(self, watched, tokens[i]);
        GLUE_UNLOCK();
    } while (rc == ROOM);
    if (rc < 0)
        return refuse(self, rc);
    Py_RETURN_NONE;
}

static PyObject *notifier_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_notifier *self = (py_notifier *)object;
    GLUE_LOCK(object);
    if (self->core != NULL)
        pshm_notifier_close(self->core);
    self->core = NULL;
    PyDict_Clear(self->handles);
    GLUE_UNLOCK();
    Py_RETURN_NONE;
}

static int notifier_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((py_notifier *)object)->handles);
    return 0;
}

static void notifier_dealloc(PyObject *object)
{
    py_notifier *self = (py_notifier *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->core != NULL)
        pshm_notifier_close(self->core);
    Py_XDECREF(self->handles);
    Py_XDECREF(self->done);
    Py_XDECREF(self->set_result);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"fileno", notifier_fileno, METH_NOARGS,
     "fileno($self, /)\n--\n\nReadable when take() has something to tell, and sometimes without."},
    {"add", GLUE_METHOD(notifier_add), METH_FASTCALL,
     "add($self, object, token, key=None, futures=None, /)\n--\n\nWatches a handle, or (handle, at_least), once; "
     "take() gives the token, an int from 0, when it may be ready.\nTrue: it is ready now, and not watched."},
    {"remove", notifier_remove, METH_O,
     "remove($self, token, /)\n--\n\nWatches no longer, and passes on a wake that came for it. False: it was told "
     "already."},
    {"take", notifier_take, METH_NOARGS, "take($self, /)\n--\n\nThe tokens of those that may be ready."},
    {"tell", notifier_tell, METH_O,
     "tell($self, watched, /)\n--\n\nOf those that may be ready, which were added with a key and a list of futures: "
     "watched[key] goes, and the\nfutures are done."},
    {"close", notifier_close, METH_NOARGS, "close($self, /)\n--\n\nWatches nothing any more. Safe to repeat."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "A descriptor for an event loop, readable when something that is watched may be ready."},
    {Py_tp_new, notifier_new},
    {Py_tp_dealloc, notifier_dealloc},
    {Py_tp_traverse, notifier_traverse},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {"polyshm._core.Notifier", sizeof(py_notifier), 0, GLUE_FLAGS, slots};

int py_notifier_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    return glue_type(module, &spec, true, &state->notifier_type);
}
