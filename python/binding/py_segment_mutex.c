/* SPDX-License-Identifier: MIT
 *
 * polyshm.SegmentMutex: the protocol of py_lock.h over a mutex on raw memory.
 */
#include "py_lock.h"

typedef struct py_segment_mutex {
    py_lock lock;
    pshm_segment_mutex mutex;
} py_segment_mutex;

/* ---- verbs ---- */

static int verb_try(void *mutex, pshm_death *death)
{
    pshm_segment *handle = ((pshm_segment_mutex *)mutex)->segment;
    int rc = glue_enter(handle);
    if (rc == 0) {
        rc = pshm_segment_mutex_try(mutex, death);
        glue_leave(handle);
    }
    return rc;
}

static int verb_acquire(void *mutex, int64_t deadline, pshm_death *death)
{
    return pshm_segment_mutex_acquire(mutex, deadline, death);
}

static int verb_recover(void *mutex, int64_t deadline, pshm_death *death)
{
    pshm_segment *handle = ((pshm_segment_mutex *)mutex)->segment;
    int rc = glue_enter(handle);
    if (rc == 0) {
        rc = pshm_segment_mutex_recover(mutex, deadline, death);
        glue_leave(handle);
    }
    return rc;
}

static int verb_consistent(void *mutex)
{
    return pshm_segment_mutex_consistent(mutex);
}

static int verb_release(void *mutex)
{
    return pshm_segment_mutex_release(mutex);
}

static int verb_locked(void *mutex)
{
    pshm_segment *handle = ((pshm_segment_mutex *)mutex)->segment;
    int rc = glue_enter(handle);
    if (rc == 0) {
        rc = pshm_segment_mutex_locked(mutex);
        glue_leave(handle);
    }
    return rc;
}

static int verb_owner(void *mutex, uint32_t *pid)
{
    pshm_segment *handle = ((pshm_segment_mutex *)mutex)->segment;
    int rc = glue_enter(handle);
    if (rc == 0) {
        rc = pshm_segment_mutex_owner(mutex, pid);
        glue_leave(handle);
    }
    return rc;
}

static PyObject *verb_describe(const py_lock *lock)
{
    const py_segment_mutex *self = (const py_segment_mutex *)lock;
    return PyUnicode_FromFormat("mutex at offset %llu", (unsigned long long)self->mutex.offset);
}

static const py_lock_verbs verbs = {verb_try,     verb_acquire, verb_recover, verb_consistent,
                                    verb_release, verb_locked,  verb_owner,   verb_describe};

/* ---- life ---- */

static PyObject *mutex_reduce(PyObject *object, PyObject *unused)
{
    (void)unused;
    const py_segment_mutex *self = (py_segment_mutex *)object;
    return glue_reduce("reduce_segment_mutex",
                       Py_BuildValue("(OKOO)", self->lock.head.whole, (unsigned long long)self->mutex.offset,
                                     self->mutex.recursive ? Py_True : Py_False,
                                     self->lock.repair != NULL ? self->lock.repair : Py_None));
}

static PyObject *mutex_repr(PyObject *object)
{
    const py_segment_mutex *self = (py_segment_mutex *)object;
    return PyUnicode_FromFormat("<polyshm.SegmentMutex at offset %llu%s of %R>", (unsigned long long)self->mutex.offset,
                                self->mutex.recursive ? " recursive" : "", self->lock.head.whole);
}

static void mutex_dealloc(PyObject *object)
{
    py_segment_mutex *self = (py_segment_mutex *)object;
    PyObject_GC_UnTrack(object);
    if (self->lock.mutex != NULL)
        pshm_segment_mutex_fini(&self->mutex);
    py_lock_dealloc(object);
}

static PyMethodDef methods[] = {
    PY_LOCK_METHODS("ValueError once the segment is closed."),
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
    {Py_tp_members, py_object_members},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {"polyshm.SegmentMutex", sizeof(py_segment_mutex), 0,
                           GLUE_FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

int py_segment_mutex_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    if (glue_type(module, &spec, true, &state->segment_mutex_type) < 0 ||
        PyModule_AddIntConstant(module, "MUTEX_SIZE", (long)PSHM_MUTEX_SIZE) < 0)
        return -1;
    return PyModule_AddIntConstant(module, "MUTEX_ALIGN", PSHM_MUTEX_ALIGN);
}

PyObject *py_segment_mutex_of(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"mutex", 1, 4, 4, {"offset", "create", "recursive", "repair"}};
    py_segment *segment = (py_segment *)object;
    PyObject *given[4], *repair;
    uint64_t offset = 0;
    bool create = false;
    pshm_recursive recursive;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "offset", &offset) < 0)
        return NULL;
    if (given[1] != NULL && glue_bool(given[1], &create) < 0)
        return NULL;
    if (py_lock_recursive(given[2], &recursive) < 0 || py_lock_repair(given[3], &repair) < 0)
        return NULL;

    PyTypeObject *type = (PyTypeObject *)glue_state(object)->segment_mutex_type;
    py_segment_mutex *self = (py_segment_mutex *)type->tp_alloc(type, 0);
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
    self->lock.handle = segment->handle;
    self->lock.head.whole = Py_NewRef(object);
    self->lock.repair = Py_XNewRef(repair);
    return (PyObject *)self;
}
