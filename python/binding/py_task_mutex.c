/* SPDX-License-Identifier: MIT
 *
 * polyshm._core.TaskMutex: the quick way of polyshm.aio.Mutex, whose base it is. What needs no waiting is done here; the
 * rest is Python's.
 */
#include "py_lock.h"

typedef struct py_task_mutex {
    PyObject_HEAD
    PyObject *mutex;        /* a Mutex */
    PyObject *loop;         /* of the tasks that used it last; NULL: none yet */
    unsigned long thread;   /* that loop's */
    PyObject *current_task; /* asyncio.current_task */
    PyObject *tasks;   /* asyncio's dict of the running task of each loop, which is quicker; NULL where it has none */
    Py_ssize_t queued; /* so many wait in a queue already */
} py_task_mutex;

static const pshm_mutex *core_of(const py_task_mutex *self)
{
    return ((const py_lock *)self->mutex)->mutex;
}

#define NO_TASK 1 /* what runs is none */

/* The running task of a loop, NO_TASK, or 0 with an exception set. */
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
    return task != NULL && task != Py_None ? (uint64_t)(uintptr_t)task : NO_TASK;
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

/* What tells the running task from others of the thread; never 0, which is the thread itself. 0: an exception is set. */
static uint64_t running(py_task_mutex *self)
{
    if (PSHM_UNLIKELY(self->loop == NULL || self->thread != PyThread_get_thread_ident()))
        return running_anew(self);
    uint64_t task = running_in(self, self->loop);
    return PSHM_LIKELY(task != NO_TASK) ? task : running_anew(self);
}

/* 1: it is the task's; 0: it has to be waited for; -1. */
static int take(py_task_mutex *self, uint64_t task)
{
    if (PSHM_UNLIKELY(self->queued > 0 && !pshm_mutex_held_by_task(core_of(self), task)))
        return 0;
    return py_mutex_attempt(self->mutex, task, false);
}

/* ---- what acquire() gives: a coroutine that ends at its first step where nobody has the mutex ---- */

typedef struct acquisition {
    PyObject_HEAD
    py_task_mutex *lock;
    PyObject *slow; /* the coroutine that waits; NULL: not begun, or over */
    PyObject *result;
    uint64_t task; /* that called, or (0: none did) that awaits */
    bool begun, inside;
} acquisition;

static bool is_inside(const acquisition *self)
{
    if (PSHM_UNLIKELY(self->inside))
        PyErr_SetString(PyExc_ValueError, "acquire() is already executing");
    return self->inside;
}

/* What was called in one task and is awaited by another, as wait_for does, is for that which called; where that one has the
 * mutex already, the other waits until it has not. As take. */
static int take_for_caller(acquisition *self)
{
    if (PSHM_UNLIKELY(self->task == 0)) {
        self->task = running(self->lock);
        if (self->task == 0)
            return -1;
    } else if (PSHM_UNLIKELY(pshm_mutex_held_by_task(core_of(self->lock), self->task))) {
        uint64_t task = running(self->lock);
        if (task != self->task)
            return task != 0 ? 0 : -1;
    }
    return take(self->lock, self->task);
}

static PySendResult acquisition_send_slot(PyObject *object, PyObject *value, PyObject **result)
{
    acquisition *self = (acquisition *)object;
    if (is_inside(self))
        return PYGEN_ERROR;
    if (!self->begun) {
        self->begun = true;
        int rc = take_for_caller(self);
        if (PSHM_LIKELY(rc == 1)) {
            *result = Py_NewRef(self->result);
            return PYGEN_RETURN;
        }
        if (rc < 0)
            return PYGEN_ERROR;
        self->slow = PyObject_CallMethod((PyObject *)self->lock, "_acquire_slowly", "K",
                                         (unsigned long long)self->task);
        if (self->slow == NULL)
            return PYGEN_ERROR;
    }
    if (self->slow == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited acquire()");
        return PYGEN_ERROR;
    }
    self->inside = true;
    PySendResult sent = PyIter_Send(self->slow, value, result);
    self->inside = false;
    if (sent == PYGEN_RETURN)
        Py_SETREF(*result, Py_NewRef(self->result));
    if (sent != PYGEN_NEXT)
        Py_CLEAR(self->slow);
    return sent;
}

static PyObject *acquisition_send(PyObject *object, PyObject *value)
{
    PyObject *result;
    PySendResult sent = acquisition_send_slot(object, value, &result);
    if (sent == PYGEN_NEXT)
        return result;
    if (sent == PYGEN_RETURN) {
        PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);
        Py_DECREF(result);
        if (stop != NULL)
            PyErr_SetObject(PyExc_StopIteration, stop);
        Py_XDECREF(stop);
    }
    return NULL;
}

static PyObject *acquisition_next(PyObject *object)
{
    return acquisition_send(object, Py_None);
}

/* One that has not begun, or is over, ends with what is thrown, as coroutines do. */
static PyObject *acquisition_throw(PyObject *object, PyObject *args)
{
    acquisition *self = (acquisition *)object;
    PyObject *type, *value = NULL, *trace = NULL;
    if (is_inside(self) || !PyArg_ParseTuple(args, "O|OO", &type, &value, &trace))
        return NULL;
    if (self->slow == NULL) {
        self->begun = true;
        if (PyExceptionInstance_Check(type))
            PyErr_SetObject((PyObject *)Py_TYPE(type), type);
        else if (PyExceptionClass_Check(type))
            PyErr_SetObject(type, value);
        else
            PyErr_SetString(PyExc_TypeError, "exceptions must be classes or instances deriving from BaseException");
        return NULL;
    }
    PyObject *method = PyObject_GetAttrString(self->slow, "throw");
    self->inside = true;
    PyObject *result = method == NULL ? NULL : PyObject_CallObject(method, args);
    self->inside = false;
    Py_XDECREF(method);
    if (result == NULL)
        Py_CLEAR(self->slow);
    return result;
}

static PyObject *acquisition_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    acquisition *self = (acquisition *)object;
    if (is_inside(self))
        return NULL;
    self->begun = true;
    if (self->slow == NULL)
        Py_RETURN_NONE;
    self->inside = true;
    PyObject *result = PyObject_CallMethod(self->slow, "close", NULL);
    self->inside = false;
    Py_CLEAR(self->slow);
    return result;
}

static int acquisition_traverse(PyObject *object, visitproc visit, void *arg)
{
    const acquisition *self = (acquisition *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->lock);
    Py_VISIT(self->slow);
    return 0;
}

static void acquisition_dealloc(PyObject *object)
{
    acquisition *self = (acquisition *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_XDECREF(self->lock);
    Py_XDECREF(self->slow);
    Py_XDECREF(self->result);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef acquisition_methods[] = {
    {"send", acquisition_send, METH_O, NULL},
    {"throw", acquisition_throw, METH_VARARGS, NULL},
    {"close", acquisition_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot acquisition_slots[] = {
    {Py_tp_doc, "What polyshm.aio.Mutex.acquire() gives: a coroutine."},
    {Py_tp_dealloc, acquisition_dealloc},
    {Py_tp_traverse, acquisition_traverse},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, acquisition_next},
    {Py_tp_methods, acquisition_methods},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, acquisition_send_slot},
    {0, NULL},
};

static PyType_Spec acquisition_spec = {"polyshm._Acquisition", sizeof(acquisition), 0,
                                       GLUE_FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION, acquisition_slots};

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

static bool is_made(const py_task_mutex *self)
{
    if (PSHM_LIKELY(self->mutex != NULL))
        return true;
    PyErr_SetString(PyExc_ValueError, "__init__() was not called");
    return false;
}

/* The task that calls; 0: none does. */
static uint64_t calling(py_task_mutex *self)
{
    uint64_t task = running(self);
    if (task == 0)
        PyErr_Clear(); /* no loop runs: whoever awaits is told */
    return task != NO_TASK ? task : 0;
}

static PyObject *acquisition_of(PyObject *object, PyObject *result)
{
    py_task_mutex *self = (py_task_mutex *)object;
    if (!is_made(self))
        return NULL;
    const uint64_t task = calling(self);
    PyTypeObject *type = (PyTypeObject *)glue_state(self->mutex)->acquisition_type;
    acquisition *made = (acquisition *)type->tp_alloc(type, 0);
    if (made == NULL)
        return NULL;
    made->lock = (py_task_mutex *)Py_NewRef(object);
    made->result = Py_NewRef(result);
    made->task = task;
    return (PyObject *)made;
}

static PyObject *mutex_acquire(PyObject *object, PyObject *unused)
{
    (void)unused;
    return acquisition_of(object, Py_True);
}

static PyObject *mutex_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    return acquisition_of(object, Py_None);
}

static PyObject *mutex_release(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_task_mutex *self = (py_task_mutex *)object;
    uint64_t task = is_made(self) ? running(self) : 0;
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
    uint64_t task = is_made((py_task_mutex *)object) ? running((py_task_mutex *)object) : 0;
    return task ? PyLong_FromUnsignedLongLong(task) : NULL;
}

static PyObject *get_mutex(PyObject *object, void *unused)
{
    (void)unused;
    return is_made((py_task_mutex *)object) ? Py_NewRef(((py_task_mutex *)object)->mutex) : NULL;
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
    int rc = glue_type(module, &acquisition_spec, false, &state->acquisition_type);
    return rc < 0 ? rc : glue_type(module, &mutex_spec, true, &state->task_mutex_type);
}
