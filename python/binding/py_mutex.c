/* SPDX-License-Identifier: MIT
 *
 * polyshm.Mutex: the protocol of py_lock.h over the mutex of a segment.
 */
#include "py_lock.h"

typedef struct py_mutex {
    py_lock lock;
    pshm_segment_mutex mutex;
} py_mutex;

static int verb_try(void *mutex, pshm_death *death)
{
    return pshm_segment_mutex_try(mutex, death);
}

static int verb_acquire(void *mutex, int64_t deadline, pshm_death *death)
{
    return pshm_segment_mutex_acquire(mutex, deadline, death);
}

static int verb_recover(void *mutex, int64_t deadline, pshm_death *death)
{
    return pshm_segment_mutex_recover(mutex, deadline, death);
}

static int verb_consistent(void *mutex)
{
    return pshm_segment_mutex_consistent(mutex);
}

static int verb_release(void *mutex)
{
    return pshm_segment_mutex_release(mutex);
}

static const py_lock_verbs verbs = {verb_try, verb_acquire, verb_recover, verb_consistent, verb_release};

static PyObject *mutex_locked(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_mutex *self = (py_mutex *)object;
    int rc = glue_enter(self->mutex.segment);
    if (rc == 0) {
        rc = pshm_segment_mutex_locked(&self->mutex);
        glue_leave(self->mutex.segment);
    }
    if (rc < 0)
        return py_lock_raise(&self->lock, rc);
    return PyBool_FromLong(rc);
}

static PyObject *mutex_owner(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_mutex *self = (py_mutex *)object;
    uint32_t pid = 0;
    int rc = glue_enter(self->mutex.segment);
    if (rc == 0) {
        rc = pshm_segment_mutex_owner(&self->mutex, &pid);
        glue_leave(self->mutex.segment);
    }
    if (rc < 0)
        return py_lock_raise(&self->lock, rc);
    if (pid == 0)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLong(pid);
}

static PyObject *mutex_reduce(PyObject *object, PyObject *unused)
{
    (void)unused;
    const py_mutex *self = (py_mutex *)object;
    return glue_reduce("reduce_mutex",
                       Py_BuildValue("(OKOO)", self->lock.segment, (unsigned long long)self->mutex.offset,
                                     self->mutex.recursive ? Py_True : Py_False,
                                     self->lock.repair != NULL ? self->lock.repair : Py_None));
}

static PyObject *mutex_repr(PyObject *object)
{
    const py_mutex *self = (py_mutex *)object;
    return PyUnicode_FromFormat("<polyshm.Mutex at offset %llu%s of %R>", (unsigned long long)self->mutex.offset,
                                self->mutex.recursive ? " recursive" : "", self->lock.segment);
}

static void mutex_dealloc(PyObject *object)
{
    py_mutex *self = (py_mutex *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->lock.mutex != NULL)
        pshm_segment_mutex_fini(&self->mutex);
    Py_XDECREF(self->lock.repair);
    Py_XDECREF(self->lock.segment);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"acquire", GLUE_METHOD(py_lock_acquire), METH_FASTCALL | METH_KEYWORDS,
     "acquire($self, /, blocking=True, timeout=None)\n--\n\n"
     "Takes the lock, waiting up to timeout seconds (None or -1: for ever). True, or False if it was not to be had.\n\n"
     "Errors: OwnerDied if the owner died and there is no repair, the lock is not held and stays marked;\n"
     "RuntimeError if this thread holds it already and it is not recursive (not blocking: False); ValueError once the\n"
     "segment is closed. A signal's handler runs during the wait; if it raises, the lock is not held."},
    {"release", py_lock_release, METH_NOARGS,
     "release($self, /)\n--\n\nReleases, on a closed segment too. RuntimeError unless this thread holds it."},
    {"locked", mutex_locked, METH_NOARGS, "locked($self, /)\n--\n\nIs it held by a living owner?"},
    {"owner", mutex_owner, METH_NOARGS,
     "owner($self, /)\n--\n\nThe pid of the process that holds it; None for nobody, or one that does not leave its "
     "mark."},
    {"recover", GLUE_METHOD(py_lock_recover), METH_FASTCALL | METH_KEYWORDS,
     "recover($self, /, timeout=None)\n--\n\n"
     "A context manager that acquires, whether the owner died or not, and gives the OwnerDied, or None. Leaving it "
     "takes\n"
     "the mark away and releases; leaving it by an exception only releases. TimeoutError after timeout seconds."},
    {"__enter__", py_lock_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nacquire()"},
    {"__exit__", GLUE_METHOD(py_lock_exit), METH_FASTCALL, "__exit__($self, /, *args)\n--\n\nrelease()"},
    {"__reduce__", mutex_reduce, METH_NOARGS,
     "__reduce__($self, /)\n--\n\nPickles with its segment, and with its repair."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "A robust, process-shared pthread mutex on raw memory, with a mark that tells of an owner's death.\n\n"
                "Only the thread that took it may release it; see pthread_mutex_lock(3)."},
    {Py_tp_dealloc, mutex_dealloc},
    {Py_tp_traverse, py_lock_traverse},
    {Py_tp_clear, py_lock_clear},
    {Py_tp_repr, mutex_repr},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {"polyshm.Mutex", sizeof(py_mutex), 0, GLUE_FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

int py_mutex_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    if (py_lock_register(module) < 0 || glue_type(module, &spec, true, &state->mutex_type) < 0 ||
        PyModule_AddIntConstant(module, "MUTEX_SIZE", (long)PSHM_MUTEX_SIZE) < 0)
        return -1;
    return PyModule_AddIntConstant(module, "MUTEX_ALIGN", PSHM_MUTEX_ALIGN);
}

PyObject *py_mutex_of(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"mutex", 1, 4, 4, {"offset", "create", "recursive", "repair"}};
    py_segment *segment = (py_segment *)object;
    PyObject *given[4];
    uint64_t offset = 0;
    bool create = false, truth;
    pshm_recursive recursive = PSHM_RECURSIVE_ANY;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "offset", &offset) < 0)
        return NULL;
    if (given[1] != NULL && glue_bool(given[1], &create) < 0)
        return NULL;
    if (given[2] != NULL && given[2] != Py_None) {
        if (glue_bool(given[2], &truth) < 0)
            return NULL;
        recursive = truth ? PSHM_RECURSIVE_YES : PSHM_RECURSIVE_NO;
    }
    PyObject *repair = given[3] == Py_None ? NULL : given[3];
    if (repair != NULL && !PyCallable_Check(repair))
        return PyErr_Format(PyExc_TypeError, "repair must be callable or None, not %.100s", Py_TYPE(repair)->tp_name);

    PyTypeObject *type = (PyTypeObject *)glue_state(object)->mutex_type;
    py_mutex *self = (py_mutex *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    int rc = glue_enter(segment->handle);
    if (rc == 0) {
        rc = pshm_segment_mutex_init(&self->mutex, segment->handle, offset, create, recursive);
        glue_leave(segment->handle);
    }
    if (rc != 0) {
        Py_DECREF(self);
        if (rc == PSHM_EBOUNDS)
            return glue_raise_range(segment, rc, offset, PSHM_MUTEX_SIZE);
        return glue_raise_segment(segment, rc, "mutex at offset %llu", (unsigned long long)offset);
    }
    self->lock.verbs = &verbs;
    self->lock.mutex = &self->mutex;
    self->lock.segment = (py_segment *)Py_NewRef(object);
    self->lock.offset = offset;
    self->lock.repair = Py_XNewRef(repair);
    return (PyObject *)self;
}
