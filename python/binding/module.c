/* SPDX-License-Identifier: MIT
 *
 * polyshm._core: one module object, state and set of types for each interpreter, and nothing shared between them.
 */
#include "py_object.h"

#include <polyshm/polyshm.h>

static PyObject *add_exception(PyObject *module, const char *name, const char *doc, PyObject *bases, PyObject *names)
{
    PyObject *type = PyErr_NewExceptionWithDoc(name, doc, bases, names);
    if (type != NULL && PyModule_AddType(module, (PyTypeObject *)type) < 0)
        Py_CLEAR(type);
    return type;
}

static int add_exceptions(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    state->error = add_exception(module, "polyshm.Error",
                                 "What polyshm itself has to say; the base of Lost, Deleted, Corrupt and Incompatible.",
                                 NULL, NULL);
    if (state->error == NULL)
        return -1;
    state->deleted = add_exception(module, "polyshm.Deleted",
                                   "The object was removed, or removed and made anew under the same name.",
                                   state->error, NULL);
    state->corrupt = add_exception(module, "polyshm.Corrupt", "An arena holds bytes that cannot be.", state->error,
                                   NULL);
    state->incompatible = add_exception(
        module, "polyshm.Incompatible",
        "What is there is no arena, or an arena of another format, machine or size than this version can use.",
        state->error, NULL);
    PyObject *bases = PyTuple_Pack(2, state->error, PyExc_OSError);
    if (bases != NULL)
        state->lost = add_exception(
            module, "polyshm.Lost",
            "Memory under a mapping is gone: the file was cut short, or no room was left for it.\n"
            "errno is EFAULT, filename the address.",
            bases, NULL);
    Py_XDECREF(bases);
    PyObject *names = Py_BuildValue("{sOsOsO}", "lock", Py_None, "pid", Py_None, "participant", Py_None);
    if (names != NULL)
        state->owner_died = add_exception(
            module, "polyshm.OwnerDied",
            "The owner of a lock died while it held it. errno is EOWNERDEAD, lock the lock, pid the\n"
            "process that died or None, participant the slot it had in the arena or None.",
            PyExc_OSError, names);
    Py_XDECREF(names);
    return state->deleted != NULL && state->corrupt != NULL && state->incompatible != NULL && state->lost != NULL &&
                   state->owner_died != NULL
               ? 0
               : -1;
}

static int execute(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    if (add_exceptions(module) < 0 || py_window_register(module) < 0 || py_stat_register(module) < 0 ||
        py_lock_register(module) < 0 || py_task_mutex_register(module) < 0 || py_rwlock_side_register(module) < 0 ||
        py_segment_mutex_register(module) < 0)
        return -1;
#define PSHM_RAW(noun)                                                                                                 \
    if (py_##noun##_register(module) < 0)                                                                              \
        return -1;
#define PSHM_KIND(number, noun)                                                                                        \
    if (glue_type(module, py_##noun##_noun.spec, true, &state->noun##_type) < 0)                                       \
        return -1;
#include <polyshm/kinds.def>
    return PyModule_AddStringConstant(module, "__version__", pshm_version());
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    py_state *state = PyModule_GetState(module);
#define X(name) Py_VISIT(state->name);
    PY_STATE_MAP(X)
#undef X
#define PSHM_KIND(number, noun) Py_VISIT(state->noun##_type);
#include <polyshm/kinds.def>
    return 0;
}

static int clear(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
#define X(name) Py_CLEAR(state->name);
    PY_STATE_MAP(X)
#undef X
#define PSHM_KIND(number, noun) Py_CLEAR(state->noun##_type);
#include <polyshm/kinds.def>
    return 0;
}

static void release(void *module)
{
    (void)clear(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030d0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "polyshm._core",
    .m_doc = "The C core of polyshm; import polyshm instead.",
    .m_size = sizeof(py_state),
    .m_methods = py_stat_functions,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = release,
};

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
