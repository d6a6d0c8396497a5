/* SPDX-License-Identifier: MIT
 *
 * polyshm.RecordLock: a lock on a range of the file behind a segment.
 */
#include "glue.h"

#include <errno.h>

#include <polyshm/record_lock.h>

typedef struct py_record_lock {
    PyObject_HEAD
    pshm_record_lock *lock; /* never NULL */
    py_segment *segment;
    uint64_t offset, size; /* as given: what a pickle repeats */
    bool shared;
} py_record_lock;

static PyObject *raise_lock(py_record_lock *self, int rc)
{
    return glue_raise_segment(self->segment, rc, "record lock at offset %llu", (unsigned long long)self->offset);
}

static int wait_step(void *closure, int64_t deadline)
{
    return pshm_record_lock_acquire(closure, deadline);
}

/* 0, -ETIMEDOUT, another code, or GLUE_RAISED. */
static int take(py_record_lock *self, int64_t timeout)
{
    pshm_segment *handle = self->segment->handle;
    int rc = glue_enter(handle);
    if (rc != 0)
        return rc;
    rc = pshm_record_lock_try(self->lock);
    glue_leave(handle);
    if (rc != -EBUSY)
        return rc;
    return timeout == 0 ? -ETIMEDOUT : glue_wait(handle, wait_step, self->lock, pshm_deadline(timeout));
}

static PyObject *record_lock_acquire(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_record_lock *self = (py_record_lock *)object;
    int64_t timeout;
    if (glue_acquire_args(args, nargs, kwnames, GLUE_FOR_EVER, &timeout) < 0)
        return NULL;
    int rc = take(self, timeout);
    if (rc == 0)
        Py_RETURN_TRUE;
    if (rc == -ETIMEDOUT || (rc == PSHM_EHELD && timeout == 0))
        Py_RETURN_FALSE;
    return raise_lock(self, rc);
}

static PyObject *record_lock_release(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_record_lock *self = (py_record_lock *)object;
    int rc = pshm_record_lock_release(self->lock);
    if (rc != 0)
        return raise_lock(self, rc);
    Py_RETURN_NONE;
}

static PyObject *record_lock_locked(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_record_lock *self = (py_record_lock *)object;
    int rc = pshm_record_lock_locked(self->lock);
    if (rc < 0)
        return raise_lock(self, rc);
    return PyBool_FromLong(rc);
}

static PyObject *record_lock_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_record_lock *self = (py_record_lock *)object;
    int rc = take(self, -1);
    if (rc != 0)
        return raise_lock(self, rc);
    Py_RETURN_TRUE;
}

static PyObject *record_lock_exit(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    py_record_lock *self = (py_record_lock *)object;
    int rc = pshm_record_lock_release(self->lock);
    if (rc != 0 && (nargs == 0 || args[0] == Py_None))
        return raise_lock(self, rc);
    Py_RETURN_NONE;
}

static PyObject *record_lock_reduce(PyObject *object, PyObject *unused)
{
    (void)unused;
    const py_record_lock *self = (py_record_lock *)object;
    PyObject *size = self->size == PSHM_UNSET ? Py_NewRef(Py_None) : PyLong_FromUnsignedLongLong(self->size);
    if (size == NULL)
        return NULL;
    return glue_reduce("reduce_record_lock", Py_BuildValue("(OKNO)", self->segment, (unsigned long long)self->offset,
                                                           size, self->shared ? Py_True : Py_False));
}

static PyObject *record_lock_repr(PyObject *object)
{
    const py_record_lock *self = (py_record_lock *)object;
    const char *shared = self->shared ? "shared " : "";
    if (self->size == PSHM_UNSET)
        return PyUnicode_FromFormat("<polyshm.RecordLock %sfrom offset %llu of %R>", shared,
                                    (unsigned long long)self->offset, self->segment);
    return PyUnicode_FromFormat("<polyshm.RecordLock %son %llu bytes at offset %llu of %R>", shared,
                                (unsigned long long)self->size, (unsigned long long)self->offset, self->segment);
}

static int record_lock_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((py_record_lock *)object)->segment);
    return 0;
}

static void record_lock_dealloc(PyObject *object)
{
    py_record_lock *self = (py_record_lock *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->lock != NULL)
        pshm_record_lock_free(self->lock);
    Py_XDECREF(self->segment);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"acquire", GLUE_METHOD(record_lock_acquire), METH_FASTCALL | METH_KEYWORDS,
     "acquire($self, /, blocking=True, timeout=None)\n--\n\n"
     "Takes the lock, waiting up to timeout seconds (None or -1: for ever). True, or False if it was not to be had.\n\n"
     "Errors: RuntimeError if this object holds it already (not blocking: False); ValueError once the segment is "
     "closed;\n"
     "OSError ENOLCK."},
    {"release", record_lock_release, METH_NOARGS,
     "release($self, /)\n--\n\nReleases, on a closed segment too. RuntimeError unless this object holds it."},
    {"locked", record_lock_locked, METH_NOARGS, "locked($self, /)\n--\n\nWould acquire() have to wait?"},
    {"__enter__", record_lock_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nacquire()"},
    {"__exit__", GLUE_METHOD(record_lock_exit), METH_FASTCALL, "__exit__($self, /, *args)\n--\n\nrelease()"},
    {"__reduce__", record_lock_reduce, METH_NOARGS,
     "__reduce__($self, /)\n--\n\nPickles with its segment, held or not."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc,
     "A lock on a range of the file behind a segment: fcntl(2), an open-file-description lock on a descriptor of its\n"
     "own. The kernel drops it when the process dies."},
    {Py_tp_dealloc, record_lock_dealloc},
    {Py_tp_traverse, record_lock_traverse},
    {Py_tp_repr, record_lock_repr},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {"polyshm.RecordLock", sizeof(py_record_lock), 0,
                           GLUE_FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

int py_record_lock_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    return glue_type(module, &spec, true, &state->record_lock_type);
}

PyObject *py_record_lock_of(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"record_lock", 0, 3, 3, {"offset", "size", "shared"}};
    py_segment *segment = (py_segment *)object;
    PyObject *given[3];
    uint64_t offset = 0, size = PSHM_UNSET;
    bool shared = false;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "offset", &offset) < 0 ||
        glue_count_or_none(given[1], "size", &size) < 0)
        return NULL;
    if (given[2] != NULL && glue_bool(given[2], &shared) < 0)
        return NULL;

    PyTypeObject *type = (PyTypeObject *)glue_state(object)->record_lock_type;
    py_record_lock *self = (py_record_lock *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    int rc = glue_enter(segment->handle);
    if (rc == 0) {
        rc = pshm_record_lock_new(segment->handle, offset, size, shared, &self->lock);
        glue_leave(segment->handle);
    }
    if (rc != 0) {
        self->lock = NULL;
        Py_DECREF(self);
        return glue_raise_range(segment, rc, offset, size == PSHM_UNSET ? 0 : size);
    }
    self->segment = (py_segment *)Py_NewRef(object);
    self->offset = offset;
    self->size = size;
    self->shared = shared;
    return (PyObject *)self;
}
