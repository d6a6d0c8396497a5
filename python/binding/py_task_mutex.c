/* SPDX-License-Identifier: MIT
 *
 * polyshm._core.TaskMutex: the quick way of polyshm.aio.Mutex, whose base it is. What needs no waiting is done here; the
 * rest is Python's.
 */
#include "py_task_mutex.h"

/* The running task of a loop, PY_NO_TASK, or 0 with an exception set. */
static uint64_t running_in(const py_task_mutex *self, PyObject *loop)
{
    PyObject *task;
    if (PSHM_LIKELY(self->tasks != NULL)) {
        task = PyDict_GetItemWithError(self->tasks, loop);
        if (task == NULL && PyErr_Occurred())
            return 0;
    } else {
        task = PyObject_CallOneArg(self->current_task, loop);
        if (task == NULL)
            return 0;
        Py_DECREF(task); /* the loop has it */
    }
    return task != NULL && task != Py_None ? (uint64_t)(uintptr_t)task : PY_NO_TASK;
}

/* Another loop runs than the last time: one after the other, as asyncio.run makes them, or in another thread. */
static uint64_t running_anew(py_task_mutex *self)
{
    PyObject *loop = PyObject_CallMethod((PyObject *)self, "_bind", NULL);
    if (loop == NULL)
        return 0;
    uint64_t task = running_in(self, loop);
    self->thread = PyThread_get_thread_ident();
    Py_XSETREF(self->loop, loop);
    return task;
}

uint64_t py_task_running(py_task_mutex *self)
{
    if (PSHM_UNLIKELY(self->loop == NULL || self->thread != PyThread_get_thread_ident()))
        return running_anew(self);
    uint64_t task = running_in(self, self->loop);
    return PSHM_LIKELY(task != PY_NO_TASK) ? task : running_anew(self);
}

/* ---- the type ---- */

static int mutex_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    py_task_mutex *self = (py_task_mutex *)object;
    PyObject *mutex, *current_task, *tasks;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0) {
        PyErr_SetString(PyExc_TypeError, "TaskMutex takes no keyword arguments");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OOO", &mutex, &current_task, &tasks))
        return -1;
    if (Py_TYPE(mutex)->tp_dealloc != py_lock_dealloc || (PyObject *)Py_TYPE(mutex) != glue_state(mutex)->mutex_type) {
        PyErr_Format(PyExc_TypeError, "a polyshm.Mutex is needed, not %.100s", Py_TYPE(mutex)->tp_name);
        return -1;
    }
    if (self->mutex != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "it has a mutex already");
        return -1;
    }
    self->mutex = Py_NewRef(mutex);
    self->current_task = Py_NewRef(current_task);
    self->tasks = PyDict_CheckExact(tasks) ? Py_NewRef(tasks) : NULL;
    return 0;
}

bool py_task_mutex_is_made(const py_task_mutex *self)
{
    if (PSHM_LIKELY(self->mutex != NULL))
        return true;
    PyErr_SetString(PyExc_ValueError, "__init__() was not called");
    return false;
}

static PyObject *mutex_acquire(PyObject *object, PyObject *unused)
{
    (void)unused;
    return py_acquisition_of(object, Py_True);
}

static PyObject *mutex_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    return py_acquisition_of(object, Py_None);
}

static PyObject *mutex_release(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_task_mutex *self = (py_task_mutex *)object;
    uint64_t task = py_task_mutex_is_made(self) ? py_task_running(self) : 0;
    if (PSHM_UNLIKELY(!task))
        return NULL;
    int rc = pshm_mutex_release_task(((py_lock *)self->mutex)->mutex, task);
    if (PSHM_UNLIKELY(rc != 0))
        return py_lock_raise((py_lock *)self->mutex, rc);
    Py_RETURN_NONE;
}

/* For Python's part: what the running task is called. */
static PyObject *mutex_task(PyObject *object, PyObject *unused)
{
    (void)unused;
    uint64_t task = py_task_mutex_is_made((py_task_mutex *)object) ? py_task_running((py_task_mutex *)object) : 0;
    return task ? PyLong_FromUnsignedLongLong(task) : NULL;
}

static PyObject *get_mutex(PyObject *object, void *unused)
{
    (void)unused;
    return py_task_mutex_is_made((py_task_mutex *)object) ? Py_NewRef(((py_task_mutex *)object)->mutex) : NULL;
}

static int mutex_traverse(PyObject *object, visitproc visit, void *arg)
{
    const py_task_mutex *self = (py_task_mutex *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->mutex);
    Py_VISIT(self->loop);
    Py_VISIT(self->current_task);
    Py_VISIT(self->tasks);
    return 0;
}

/* The mutex stays: a method that a finalizer calls later finds it. */
static int mutex_clear(PyObject *object)
{
    Py_CLEAR(((py_task_mutex *)object)->loop);
    return 0;
}

static void mutex_dealloc(PyObject *object)
{
    py_task_mutex *self = (py_task_mutex *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_XDECREF(self->mutex);
    Py_XDECREF(self->loop);
    Py_XDECREF(self->current_task);
    Py_XDECREF(self->tasks);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef mutex_methods[] = {
    {"acquire", mutex_acquire, METH_NOARGS,
     "acquire($self, /)\n--\n\n"
     "Takes the mutex for the task that calls this, which waits without blocking the loop, also where another awaits "
     "it\n"
     "for that one, as wait_for does. Always True.\n\n"
     "Errors: as Mutex.acquire: OwnerDied; RuntimeError if this task holds it and it is not recursive."},
    {"release", mutex_release, METH_NOARGS,
     "release($self, /)\n--\n\nReleases it. RuntimeError unless this task holds it."},
    {"__aenter__", mutex_enter, METH_NOARGS, "__aenter__($self, /)\n--\n\nTakes the mutex."},
    {"_task", mutex_task, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef mutex_members[] = {
    {"_queued", Py_T_PYSSIZET, offsetof(py_task_mutex, queued), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef mutex_attributes[] = {
    {"mutex", get_mutex, NULL, "The Mutex behind it.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot mutex_slots[] = {
    {Py_tp_doc, "The base of polyshm.aio.Mutex."},
    {Py_tp_init, mutex_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, mutex_dealloc},
    {Py_tp_traverse, mutex_traverse},
    {Py_tp_clear, mutex_clear},
    {Py_tp_methods, mutex_methods},
    {Py_tp_members, mutex_members},
    {Py_tp_getset, mutex_attributes},
    {0, NULL},
};

static PyType_Spec mutex_spec = {"polyshm._core.TaskMutex", sizeof(py_task_mutex), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE, mutex_slots};

int py_task_mutex_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    int rc = py_acquisition_register(module);
    return rc < 0 ? rc : glue_type(module, &mutex_spec, true, &state->task_mutex_type);
}
