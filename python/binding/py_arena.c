/* SPDX-License-Identifier: MIT
 *
 * polyshm.Arena: its life, its attributes and the table of what it can do.
 */
#include "py_object.h"

/* ---- errors ---- */

PyObject *py_arena_address(const py_arena *arena)
{
    return PyUnicode_DecodeFSDefault(arena->handle->address);
}

PyObject *py_arena_raise(py_arena *arena, int rc, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)glue_raise_about(glue_state((PyObject *)arena), rc, arena->handle->address, format, arguments);
    va_end(arguments);
    return NULL;
}

/* ---- life ---- */

static PyObject *arena_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    pshm_arena_close(((py_arena *)object)->handle);
    Py_RETURN_NONE;
}

static PyObject *arena_unlink(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_arena *self = (py_arena *)object;
    int rc;
    Py_BEGIN_ALLOW_THREADS;
    rc = pshm_arena_unlink(self->handle);
    Py_END_ALLOW_THREADS;
    if (rc != 0)
        return py_arena_raise(self, rc, NULL);
    Py_RETURN_NONE;
}

static PyObject *arena_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_arena *self = (py_arena *)object;
    int rc = py_arena_check(self);
    if (rc != 0)
        return py_arena_raise(self, rc, NULL);
    return Py_NewRef(object);
}

static PyObject *arena_exit(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    (void)args;
    (void)nargs;
    return arena_close(object, NULL);
}

static int arena_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    return 0;
}

static void arena_dealloc(PyObject *object)
{
    py_arena *self = (py_arena *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs(object);
    if (self->handle != NULL) {
        pshm_arena_close(self->handle);
        pshm_arena_release(self->handle);
    }
    Py_XDECREF(self->folder);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *arena_repr(PyObject *object)
{
    const py_arena *self = (py_arena *)object;
    const pshm_arena *handle = self->handle;
    PyObject *address = py_arena_address(self);
    if (address == NULL)
        return NULL;
    PyObject *text = PyUnicode_FromFormat("<polyshm.Arena %R size=%llu%s%s%s>", address,
                                          (unsigned long long)handle->segment->size,
                                          handle->readonly ? " readonly" : "", handle->segment->lost ? " lost" : "",
                                          handle->closed ? " closed" : "");
    Py_DECREF(address);
    return text;
}

static PyObject *arena_reduce(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_arena *self = (py_arena *)object;
    const pshm_arena *handle = self->handle;
    int rc = py_arena_check(self);
    if (rc != 0)
        return py_arena_raise(self, rc, NULL);
    return glue_reduce("reduce_arena",
                       Py_BuildValue("(OiiOK)", object, handle->segment->fd, (int)handle->segment->id,
                                     self->folder != NULL ? self->folder : Py_None, (unsigned long long)handle->id));
}

/* ---- attributes ---- */

static PyObject *get_address(PyObject *object, void *unused)
{
    (void)unused;
    return py_arena_address((py_arena *)object);
}

static PyObject *get_kind(PyObject *object, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(pshm_kind_name(((py_arena *)object)->kind));
}

static PyObject *get_size(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((py_arena *)object)->handle->segment->size);
}

static PyObject *get_id(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((py_arena *)object)->handle->id);
}

static PyObject *get_life(PyObject *object, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(pshm_life_name(((py_arena *)object)->handle->life));
}

#define GET_BOOL(name, expression)                                                                                     \
    static PyObject *get_##name(PyObject *object, void *unused)                                                        \
    {                                                                                                                  \
        (void)unused;                                                                                                  \
        return PyBool_FromLong(((py_arena *)object)->handle->expression != 0);                                         \
    }

GET_BOOL(created, created)
GET_BOOL(readonly, readonly)
GET_BOOL(closed, closed)
GET_BOOL(lost, segment->lost)

static PyGetSetDef attributes[] = {
    {"address", get_address, NULL, "The address that leads to it, as text.", NULL},
    {"kind", get_kind, NULL, "\"posix\", \"sysv\", \"file\", \"anon\", \"zero\", \"memfd\" or \"fd\".", NULL},
    {"size", get_size, NULL, "Bytes of the whole.", NULL},
    {"id", get_id, NULL, "A random number that no other arena has, nor one made anew under the same address.", NULL},
    {"life", get_life, NULL,
     "\"keep\": the name lives until somebody unlinks it; \"last-detach\": until the last handle is closed, or its\n"
     "process is dead.",
     NULL},
    {"created", get_created, NULL, "This handle made it.", NULL},
    {"readonly", get_readonly, NULL, "Opened with access \"r\".", NULL},
    {"lost", get_lost, NULL,
     "Memory under the mapping went away: the file was cut short. Every call raises Lost from then on.", NULL},
    {"closed", get_closed, NULL, "close() was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* ---- the table ---- */

#define KEYWORDS (METH_FASTCALL | METH_KEYWORDS)

static PyMethodDef methods[] = {
/* The nouns: each method makes or opens one. */
#define PSHM_KIND(number, noun) {#noun, GLUE_METHOD(py_##noun##_of), KEYWORDS, py_##noun##_doc},
#include <polyshm/kinds.def>
    {"open", GLUE_METHOD(py_arena_get), KEYWORDS,
     "open($self, /, name)\n--\n\nThe object of that name, whatever it is. KeyError where there is none."},
    {"delete", GLUE_METHOD(py_arena_delete), KEYWORDS,
     "delete($self, /, name)\n--\n\n"
     "Deletes the object of that name, as del arena[name] does. Handles on it raise Deleted from then on.\n\n"
     "Errors: KeyError where there is none; TypeError where the arena is read-only."},
    {"keys", py_arena_keys, METH_NOARGS, "keys($self, /)\n--\n\nThe names of all objects as a list, in no order."},
    {"items", py_arena_items, METH_NOARGS,
     "items($self, /)\n--\n\nPairs of a name and its object as a list, in no order."},
    {"check", py_arena_examine, METH_NOARGS,
     "check($self, /)\n--\n\n"
     "Looks at every structure of the arena: findings as text, \"at 4096: what is wrong\"; an empty list is all "
     "well.\n\n"
     "Where the arena may be written, others wait meanwhile; if they do not let it within a second, or it is\n"
     "read-only, it looks without a lock until it sees the same twice."},
    {"stats", py_arena_stats, METH_NOARGS,
     "stats($self, /)\n--\n\n"
     "Numbers of the whole, as a dict: size; heap, the bytes that can be given out; used, free and largest_free of\n"
     "them; large and large_pages, the blocks with pages of their own and these; objects; taking_part of the\n"
     "participants that there is room for; and classes, a dict of block, pages, used and free for each size of block.\n"
     "Exact while nobody allocates."},
    {"participants", py_arena_participants, METH_NOARGS,
     "participants($self, /)\n--\n\n"
     "The threads that own or wait for something here, as a list of Participant; the dead too whose place nobody has\n"
     "needed since."},
    {"root", GLUE_METHOD(py_heap_root), KEYWORDS,
     "root($self, /, index)\n--\n\nThe place of root number index, from 0 to 31, in bytes from the start: a "
     "destination "
     "for alloc_into()."},
    {"alloc_into", GLUE_METHOD(py_heap_alloc_into), KEYWORDS,
     "alloc_into($self, /, place, size)\n--\n\n"
     "Allocates size zeroed bytes and puts the place of the block into the destination at place, in one step: a root,\n"
     "or 8 aligned bytes of a block, which have to hold 0. size may be \"64K\". read(place, 8) has the place of the "
     "block then.\n\n"
     "Errors: ValueError where it is no destination or does not hold 0; OSError ENOSPC; TypeError where the arena is\n"
     "read-only."},
    {"free_from", GLUE_METHOD(py_heap_free_from), KEYWORDS,
     "free_from($self, /, place)\n--\n\n"
     "Frees the block that the destination at place holds, and leaves 0 there; with 0 there already, nothing.\n\n"
     "Errors: ValueError where it is no destination, or holds no block that is in use."},
    {"block_size", GLUE_METHOD(py_heap_block_size), KEYWORDS,
     "block_size($self, /, place)\n--\n\nBytes of the block at place, at least those that were asked for.\n\n"
     "Errors: ValueError where there is no block in use."},
    {"read", GLUE_METHOD(py_heap_read), KEYWORDS,
     "read($self, /, place, size)\n--\n\nCopies size bytes at place out.\n\n"
     "Errors: ValueError unless they lie in one block in use, or in the roots."},
    {"write", GLUE_METHOD(py_heap_write), KEYWORDS,
     "write($self, /, place, data)\n--\n\nCopies data, anything bytes-like, to place.\n\n"
     "Errors: as read(); TypeError where the arena is read-only."},
    {"unlink", arena_unlink, METH_NOARGS,
     "unlink($self, /)\n--\n\nRemoves the name, or the System V id, if it still leads to this very arena; the memory "
     "goes with its last\nuser.\n\n"
     "Errors: FileNotFoundError where the name is gone or another's; PermissionError."},
    {"close", arena_close, METH_NOARGS,
     "close($self, /)\n--\n\n"
     "Ends the handle: from now on it and its objects raise ValueError, but what is held can be released. Waits in\n"
     "other threads end. Closing again does nothing."},
    {"__enter__", arena_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nThe arena itself."},
    {"__exit__", GLUE_METHOD(arena_exit), METH_FASTCALL, "__exit__($self, /, *args)\n--\n\nCloses."},
    {"__reduce__", arena_reduce, METH_NOARGS,
     "__reduce__($self, /)\n--\n\nA pickle reopens by address, and is refused (Deleted) if another arena is there by "
     "then."},
    {"_restore", GLUE_METHOD(py_arena_restore), KEYWORDS,
     "_restore($self, /, name, serial, repair=None)\n--\n\nThe object of that name, if it is still the one that a "
     "pickle was made of."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(py_arena, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(
    arena_doc,
    "Arena(address, *, size=None, access='rw', create=False, exclusive=False, mode=None, reserve=None,\n"
    "      wait=0.0, life=None, participants=None)\n"
    "--\n\n"
    "Shared memory with named objects in it. Who takes part may be killed at any instruction: the others go\n"
    "on, nothing is torn and nothing leaks.\n\n"
    "address        posix:/name, sysv:0x1234, sysv:path#A, sysv:private, sysv:id=42, file:path, anon:, zero:,\n"
    "               memfd:name or fd:7\n"
    "size           bytes of a new one, or \"64M\"; 16 MiB\n"
    "access         \"rw\" or \"r\"\n"
    "create         create, or open what exists as it is\n"
    "exclusive      create or fail\n"
    "mode           permissions of a new one, 0600; an int or octal digits\n"
    "reserve        take the memory at creation (the default), so that a full /dev/shm is an error then\n"
    "wait           seconds to wait for a creator; None for ever\n"
    "life           of a new one: \"keep\" or \"last-detach\"\n"
    "participants   of a new one: how many threads can take part at a time; 1024, fewer in less than 4 MiB\n\n"
    "What exists keeps its size, life and participants; given, they have to agree.\n\n"
    "Errors: ValueError and TypeError for arguments; FileNotFoundError, FileExistsError, PermissionError and\n"
    "other OSErrors, with the address as filename; Incompatible where there is something else; Corrupt.");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)arena_doc},
    {Py_tp_new, py_arena_new},
    {Py_tp_dealloc, arena_dealloc},
    {Py_tp_traverse, arena_traverse},
    {Py_tp_repr, arena_repr},
    {Py_tp_iter, py_arena_iterate},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, attributes},
    {Py_sq_contains, py_arena_contains},
    {Py_mp_length, py_arena_length},
    {Py_mp_subscript, py_arena_subscript},
    {Py_mp_ass_subscript, py_arena_assign},
    {0, NULL},
};

static PyType_Spec spec = {"polyshm.Arena", sizeof(py_arena), 0, GLUE_FLAGS, slots};

int py_arena_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    if (glue_type(module, &spec, true, &state->arena_type) < 0)
        return -1;
    /* There is no slot for it before 3.14. */
    ((PyTypeObject *)state->arena_type)->tp_vectorcall = py_arena_call;
    return 0;
}
