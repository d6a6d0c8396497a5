/* SPDX-License-Identifier: MIT
 *
 * Empty methods of CPython: they check and convert what polyshm's methods do, and return the same types.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "floor.h"

typedef struct {
    PyObject_HEAD
    long long value;
} Empty;

static PyObject *empty_add(PyObject *self, PyObject *argument)
{
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(argument, &overflow);
    if (overflow || (value == -1 && PyErr_Occurred()))
        return NULL;
    Empty *empty = (Empty *)self;
    long long previous = empty->value;
    empty->value = previous + value;
    return PyLong_FromLongLong(previous);
}

static PyObject *empty_nop(PyObject *self, PyObject *nothing)
{
    (void)self;
    (void)nothing;
    Py_RETURN_NONE;
}

static PyMethodDef empty_methods[] = {{"add", empty_add, METH_O, NULL},
                                      {"nop", empty_nop, METH_NOARGS, NULL},
                                      {NULL, NULL, 0, NULL}};

static PyType_Slot empty_slots[] = {{Py_tp_methods, empty_methods}, {0, NULL}};
static PyType_Spec empty_spec = {.name = "floor_python.Empty",
                                 .basicsize = sizeof(Empty),
                                 .flags = Py_TPFLAGS_DEFAULT,
                                 .slots = empty_slots};

static PyObject *atomic_add(PyObject *module, PyObject *n)
{
    (void)module;
    return PyFloat_FromDouble(floor_atomic_add(PyLong_AsLong(n)));
}

static PyObject *mutex_pair(PyObject *module, PyObject *n)
{
    (void)module;
    return PyFloat_FromDouble(floor_mutex_pair(PyLong_AsLong(n)));
}

static PyObject *create(PyObject *module, PyObject *n)
{
    (void)module;
    return PyFloat_FromDouble(floor_create(PyLong_AsLong(n)));
}

static PyObject *copy(PyObject *module, PyObject *arguments)
{
    long n;
    Py_ssize_t size;
    (void)module;
    return PyArg_ParseTuple(arguments, "ln", &n, &size) ? PyFloat_FromDouble(floor_copy(n, (size_t)size)) : NULL;
}

static PyObject *malloc_copy(PyObject *module, PyObject *arguments)
{
    long n;
    Py_ssize_t size;
    (void)module;
    return PyArg_ParseTuple(arguments, "ln", &n, &size) ? PyFloat_FromDouble(floor_malloc_copy(n, (size_t)size)) : NULL;
}

static PyObject *attach(PyObject *module, PyObject *arguments)
{
    long n;
    const char *path;
    (void)module;
    return PyArg_ParseTuple(arguments, "ls", &n, &path) ? PyFloat_FromDouble(floor_attach(n, path)) : NULL;
}

static PyMethodDef functions[] = {{"atomic_add", atomic_add, METH_O, NULL},
                                  {"mutex_pair", mutex_pair, METH_O, NULL},
                                  {"create", create, METH_O, NULL},
                                  {"copy", copy, METH_VARARGS, NULL},
                                  {"malloc_copy", malloc_copy, METH_VARARGS, NULL},
                                  {"attach", attach, METH_VARARGS, NULL},
                                  {NULL, NULL, 0, NULL}};

static int execute(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &empty_spec, NULL);
    return type ? PyModule_AddObject(module, "Empty", type) : -1;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "floor_python", .m_methods = functions,
                                 .m_slots = slots};

PyMODINIT_FUNC PyInit_floor_python(void)
{
    return PyModuleDef_Init(&definition);
}
