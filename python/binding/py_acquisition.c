/* SPDX-License-Identifier: MIT
 *
 * What acquire() of a TaskMutex gives: a coroutine that ends at its first step where nobody has the mutex.
 */
#include "py_task_mutex.h"

static const pshm_mutex *core_of(const py_task_mutex *self)
{
    return ((const py_lock *)self->mutex)->mutex;
}

/* 1: it is the task's; 0: it has to be waited for; -1. */
static int take(py_task_mutex *self, uint64_t task)
{
    if (PSHM_UNLIKELY(self->queued > 0 && !pshm_mutex_held_by_task(core_of(self), task)))
        return 0;
    return py_mutex_attempt(self->mutex, task, false);
}

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
        self->task = py_task_running(self->lock);
        if (self->task == 0)
            return -1;
    } else if (PSHM_UNLIKELY(pshm_mutex_held_by_task(core_of(self->lock), self->task))) {
        uint64_t task = py_task_running(self->lock);
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

/* The task that calls; 0: none does. */
static uint64_t calling(py_task_mutex *self)
{
    uint64_t task = py_task_running(self);
    if (task == 0)
        PyErr_Clear(); /* no loop runs: whoever awaits is told */
    return task != PY_NO_TASK ? task : 0;
}

PyObject *py_acquisition_of(PyObject *object, PyObject *result)
{
    py_task_mutex *self = (py_task_mutex *)object;
    if (!py_task_mutex_is_made(self))
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

int py_acquisition_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    return glue_type(module, &acquisition_spec, false, &state->acquisition_type);
}
