/* SPDX-License-Identifier: MIT
 *
 * polyshm.Mutex: the protocol of py_lock.h over the mutex of an arena.
 */
#include "py_arena.h"
#include "py_lock.h"

typedef struct py_mutex {
    py_lock lock; /* its `whole` is the arena */
    pshm_mutex mutex;
} py_mutex;

/* ---- verbs ---- */

static int verb_try(void *mutex, pshm_death *death)
{
    return pshm_mutex_try(mutex, death);
}

static int verb_acquire(void *mutex, int64_t deadline, pshm_death *death)
{
    return pshm_mutex_acquire(mutex, deadline, death);
}

static int verb_recover(void *mutex, int64_t deadline, pshm_death *death)
{
    return pshm_mutex_recover(mutex, deadline, death);
}

static int verb_consistent(void *mutex)
{
    return pshm_mutex_consistent(mutex);
}

static int verb_release(void *mutex)
{
    return pshm_mutex_release(mutex);
}

static int verb_locked(void *mutex)
{
    return pshm_mutex_locked(mutex);
}

static int verb_owner(void *mutex, uint32_t *pid)
{
    return pshm_mutex_owner(mutex, pid);
}

static PyObject *verb_address(const py_lock *lock)
{
    return py_arena_address((py_arena *)lock->whole);
}

static PyObject *verb_describe(const py_lock *lock)
{
    return py_object_describe(&((const py_mutex *)lock)->mutex.object);
}

static const py_lock_verbs verbs = {verb_try,    verb_acquire, verb_recover, verb_consistent, verb_release,
                                    verb_locked, verb_owner,   verb_address, verb_describe};

/* ---- life ---- */

const pshm_object *py_mutex_object(PyObject *self)
{
    return &((py_mutex *)self)->mutex.object;
}

static PyObject *mutex_reduce(PyObject *object, PyObject *unused)
{
    (void)unused;
    const py_mutex *self = (py_mutex *)object;
    return py_object_reduce((py_arena *)self->lock.whole, &self->mutex.object, self->lock.repair);
}

static PyObject *mutex_repr(PyObject *object)
{
    const py_mutex *self = (py_mutex *)object;
    PyObject *name = py_object_name_of(&self->mutex.object);
    PyObject *text = name == NULL ? NULL
                                  : PyUnicode_FromFormat("<polyshm.Mutex %R%s of %R>", name,
                                                         self->mutex.recursive ? " recursive" : "", self->lock.whole);
    Py_XDECREF(name);
    return text;
}

static void mutex_dealloc(PyObject *object)
{
    py_mutex *self = (py_mutex *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->lock.mutex != NULL)
        pshm_mutex_fini(&self->mutex);
    Py_XDECREF(self->lock.repair);
    Py_XDECREF(self->lock.whole);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *get_name(PyObject *object, void *unused)
{
    (void)unused;
    return py_object_name_of(&((py_mutex *)object)->mutex.object);
}

static PyObject *get_recursive(PyObject *object, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((py_mutex *)object)->mutex.recursive);
}

static PyGetSetDef attributes[] = {
    {"name", get_name, NULL, "Its name in the arena.", NULL},
    {"recursive", get_recursive, NULL, "May the owner take it again?", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
    PY_LOCK_METHODS("Deleted; ValueError once the arena is closed."),
    {"__reduce__", mutex_reduce, METH_NOARGS,
     "__reduce__($self, /)\n--\n\nPickles with its arena, and with its repair; refused (Deleted) if another object has "
     "its name by then."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "A lock by name that survives the death of whoever holds it.\n\n"
                "Only the thread that took it may release it. Who waits long is handed it next."},
    {Py_tp_dealloc, mutex_dealloc},
    {Py_tp_traverse, py_lock_traverse},
    {Py_tp_clear, py_lock_clear},
    {Py_tp_repr, mutex_repr},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, NULL},
};

static PyType_Spec spec = {"polyshm.Mutex", sizeof(py_mutex), 0, GLUE_FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

int py_mutex_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    return glue_type(module, &spec, true, &state->mutex_type);
}

/* ---- opening ---- */

typedef struct opening {
    pshm_mutex *mutex;
    pshm_arena *arena;
    const char *name;
    size_t length;
    bool create;
    pshm_recursive recursive;
} opening;

static int open_step(void *closure, int64_t deadline)
{
    (void)deadline;
    const opening *wanted = closure;
    bool created;
    return pshm_mutex_init(wanted->mutex, wanted->arena, wanted->name, wanted->length, wanted->create,
                           wanted->recursive, &created);
}

static PyObject *make(py_arena *arena, PyObject *name, bool create, pshm_recursive recursive, PyObject *repair)
{
    opening wanted = {.arena = arena->handle, .create = create, .recursive = recursive};
    if (py_object_name(arena, name, &wanted.name, &wanted.length) < 0)
        return NULL;
    PyTypeObject *type = (PyTypeObject *)glue_state((PyObject *)arena)->mutex_type;
    py_mutex *self = (py_mutex *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    wanted.mutex = &self->mutex;
    int rc = glue_wait(NULL, open_step, &wanted, 0);
    if (rc != 0) {
        Py_DECREF(self);
        return py_arena_raise(arena, rc, "mutex %R", name);
    }
    self->lock.verbs = &verbs;
    self->lock.mutex = &self->mutex;
    self->lock.whole = Py_NewRef((PyObject *)arena);
    self->lock.repair = Py_XNewRef(repair);
    return (PyObject *)self;
}

PyObject *py_mutex_open(py_arena *arena, PyObject *name, PyObject *repair)
{
    return make(arena, name, false, PSHM_RECURSIVE_ANY, repair);
}

PyObject *py_mutex_of(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"mutex", 1, 3, 3, {"name", "recursive", "repair"}};
    py_arena *arena = (py_arena *)object;
    PyObject *given[3], *repair;
    pshm_recursive recursive;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || py_lock_recursive(given[1], &recursive) < 0 ||
        py_lock_repair(given[2], &repair) < 0)
        return NULL;
    return make(arena, given[0], !arena->handle->readonly, recursive, repair);
}
