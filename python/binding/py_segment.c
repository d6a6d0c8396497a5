/* SPDX-License-Identifier: MIT
 *
 * polyshm.Segment: its life, its attributes and the table of what it can do.
 */
#include "py_segment.h"

#include <stddef.h>

/* ---- life ---- */

static PyObject *segment_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    pshm_segment_close(((py_segment *)object)->handle);
    Py_RETURN_NONE;
}

static PyObject *segment_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_segment *self = (py_segment *)object;
    if (self->handle->closed)
        return glue_raise_segment(self, PSHM_ECLOSED, NULL);
    Py_INCREF(object);
    return object;
}

static PyObject *segment_exit(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    (void)args;
    (void)nargs;
    return segment_close(object, NULL);
}

static int segment_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    return 0;
}

static void segment_dealloc(PyObject *object)
{
    py_segment *self = (py_segment *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->weakrefs != NULL)
        PyObject_ClearWeakRefs(object);
    if (self->handle != NULL) {
        pshm_segment_close(self->handle);
        pshm_segment_release(self->handle);
    }
    Py_XDECREF(self->folder);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *segment_repr(PyObject *object)
{
    const pshm_segment *handle = ((py_segment *)object)->handle;
    PyObject *address = glue_address(handle);
    if (address == NULL)
        return NULL;
    PyObject *text = PyUnicode_FromFormat("<polyshm.Segment %R size=%llu%s%s%s>", address,
                                          (unsigned long long)handle->size, handle->readonly ? " readonly" : "",
                                          handle->lost ? " lost" : "", handle->closed ? " closed" : "");
    Py_DECREF(address);
    return text;
}

/* ---- pickling ---- */

static PyObject *segment_reduce(PyObject *object, PyObject *unused)
{
    (void)unused;
    static const char *const names[] = {
        [PSHM_ACCESS_RW] = "rw", [PSHM_ACCESS_R] = "r", [PSHM_ACCESS_COPY] = "copy", [PSHM_ACCESS_NONE] = "none"};
    py_segment *self = (py_segment *)object;
    uint64_t device, inode;
    int rc = pshm_segment_identity(self->handle, &device, &inode);
    if (rc != 0)
        return glue_raise_segment(self, rc, NULL);
    PyObject *options = Py_BuildValue("{sKsKsssO}", "size", (unsigned long long)self->handle->size, "offset",
                                      (unsigned long long)self->offset, "access", names[self->access], "exec",
                                      self->exec ? Py_True : Py_False);
    if (options == NULL)
        return NULL;
    return glue_reduce("reduce_segment", Py_BuildValue("(OiON(KK))", object, (int)self->handle->id,
                                                       self->folder != NULL ? self->folder : Py_None, options,
                                                       (unsigned long long)device, (unsigned long long)inode));
}

static PyObject *segment_identity(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_segment *self = (py_segment *)object;
    uint64_t device, inode;
    int rc = pshm_segment_identity(self->handle, &device, &inode);
    if (rc != 0)
        return glue_raise_segment(self, rc, NULL);
    return Py_BuildValue("(KK)", (unsigned long long)device, (unsigned long long)inode);
}

/* ---- attributes ---- */

static PyObject *get_size(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((py_segment *)object)->handle->size);
}

static PyObject *get_kind(PyObject *object, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(pshm_kind_name(((py_segment *)object)->handle->kind));
}

static PyObject *get_name(PyObject *object, void *unused)
{
    (void)unused;
    return PyUnicode_DecodeFSDefault(((py_segment *)object)->handle->name);
}

static PyObject *get_address(PyObject *object, void *unused)
{
    (void)unused;
    return glue_address(((py_segment *)object)->handle);
}

static PyObject *get_fd(PyObject *object, void *unused)
{
    (void)unused;
    const pshm_segment *handle = ((py_segment *)object)->handle;
    if (handle->fd < 0 || handle->closed)
        Py_RETURN_NONE;
    return PyLong_FromLong(handle->fd);
}

#define GET_BOOL(name)                                                                                                 \
    static PyObject *get_##name(PyObject *object, void *unused)                                                        \
    {                                                                                                                  \
        (void)unused;                                                                                                  \
        return PyBool_FromLong(((py_segment *)object)->handle->name != 0);                                             \
    }

GET_BOOL(readonly)
GET_BOOL(created)
GET_BOOL(lost)
GET_BOOL(closed)

static PyGetSetDef attributes[] = {
    {"size", get_size, NULL, "Bytes of the window that is mapped.", NULL},
    {"kind", get_kind, NULL, "\"posix\", \"sysv\", \"file\", \"anon\", \"zero\", \"memfd\" or \"fd\".", NULL},
    {"name", get_name, NULL, "The part of the address behind the colon.", NULL},
    {"address", get_address, NULL, "The address that leads to it, as text.", NULL},
    {"fd", get_fd, NULL, "The file descriptor; None for System V, anon, zero and what is closed.", NULL},
    {"readonly", get_readonly, NULL, "Opened with access \"r\".", NULL},
    {"created", get_created, NULL, "This handle made what it maps: its holder initialises.", NULL},
    {"lost", get_lost, NULL,
     "Memory under the mapping went away: the file was cut short, or no room was left for it.\n"
     "From then on the methods raise Lost; views and arrays read zeros there.",
     NULL},
    {"closed", get_closed, NULL, "close() was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* ---- the table ---- */

#define KEYWORDS (METH_FASTCALL | METH_KEYWORDS)

static PyMethodDef methods[] = {
    {"read", GLUE_METHOD(py_segment_read), KEYWORDS,
     "read($self, /, offset=0, size=None)\n--\n\nCopies size bytes at offset out; without size, to the end.\n\n"
     "No partial reads: ValueError where the range is not inside, or the segment is closed; Lost where memory is "
     "gone.\n"
     "Copies of 64 KiB and more let other threads run meanwhile."},
    {"write", GLUE_METHOD(py_segment_write), KEYWORDS,
     "write($self, /, offset, data)\n--\n\nCopies data, anything bytes-like, to offset.\n\n"
     "Errors: ValueError as read(); TypeError where the memory is read-only; Lost."},
    {"read_into", GLUE_METHOD(py_segment_read_into), KEYWORDS,
     "read_into($self, /, buffer, offset=0)\n--\n\nFills a writable buffer with the bytes at offset.\n\n"
     "Errors: as read()."},
    {"fill", GLUE_METHOD(py_segment_fill), KEYWORDS,
     "fill($self, /, byte=0, offset=0, size=None)\n--\n\nSets size bytes at offset to byte; without size, to the "
     "end.\n\n"
     "Errors: as write()."},
    {"copy", GLUE_METHOD(py_segment_copy), KEYWORDS,
     "copy($self, /, target, source, size)\n--\n\nCopies size bytes from offset source to offset target; they may "
     "overlap.\n\n"
     "Errors: as write()."},
    {"find", GLUE_METHOD(py_segment_find), KEYWORDS,
     "find($self, /, data, start=0, end=None)\n--\n\nThe offset of the first data that lies wholly in [start, end), or "
     "-1.\n\n"
     "Errors: as read()."},
    {"view", GLUE_METHOD(py_window_view), KEYWORDS,
     "view($self, /, type, offset=0, count=None)\n--\n\nA memoryview of count elements at offset; without count, of "
     "all that fit.\n\n"
     "type is i8 u8 i16 u16 i32 u32 i64 u64 f32 or f64, with < or > in front for a byte order. Nothing is copied.\n"
     "The view is read-only where the memory is, keeps the mapping until it is released, and outlives close().\n"
     "It is not checked: where memory is gone it reads zeros, and lost tells.\n\n"
     "Errors: ValueError for an unknown type and a range outside."},
    {"atomic", GLUE_METHOD(py_atomic_of), KEYWORDS,
     "atomic($self, /, type, offset)\n--\n\nAn Atomic on the word at offset; type is i32, u32, i64 or u64.\n\n"
     "Errors: ValueError where the word is not inside, not aligned to its size, or of another type."},
    {"mutex", GLUE_METHOD(py_segment_mutex_of), KEYWORDS,
     "mutex($self, /, offset, create=False, recursive=None, repair=None)\n--\n\n"
     "A SegmentMutex at offset: MUTEX_SIZE bytes, aligned to MUTEX_ALIGN; pthread_mutexattr_setrobust(3).\n\n"
     "create=True initialises it, as pthread_mutex_init does: for one process, while nobody uses it. recursive is "
     "taken\n"
     "from what exists, and False when creating. repair(died) is called with the lock held when its owner has died;\n"
     "if it returns, the lock is clean, if it raises, it stays marked.\n\n"
     "Errors: ValueError where there is no robust process-shared mutex, or one whose recursive is another."},
    {"record_lock", GLUE_METHOD(py_record_lock_of), KEYWORDS,
     "record_lock($self, /, offset=0, size=None, shared=False)\n--\n\n"
     "A RecordLock on size bytes at offset of the window: fcntl(2), F_OFD_SETLK. Two of them exclude each other.\n\n"
     "Errors: OSError EOPNOTSUPP where there is no file (System V, anon, zero); TypeError for an exclusive lock on "
     "what\n"
     "may only be read."},
    {"flush", GLUE_METHOD(py_segment_flush), KEYWORDS,
     "flush($self, /, offset=0, size=None, *, wait=True, invalidate=False)\n--\n\n"
     "msync(2) of the pages around a range: MS_SYNC, or MS_ASYNC without wait, and MS_INVALIDATE.\n\n"
     "Errors: ValueError; OSError EBUSY (invalidate of pinned pages), EIO."},
    {"protect", GLUE_METHOD(py_segment_protect), KEYWORDS,
     "protect($self, /, access, offset=0, size=None)\n--\n\n"
     "mprotect(2) of the pages around a range: access is \"rw\", \"r\" or \"none\".\n\n"
     "Errors: PermissionError for more than the descriptor has; BufferError for less while views are exported."},
    {"advise", GLUE_METHOD(py_segment_advise), KEYWORDS,
     "advise($self, /, advice, offset=0, size=None)\n--\n\n"
     "madvise(2) by name: \"willneed\", \"sequential\", \"hugepage\" and so on, on the pages around a range. What "
     "destroys\n"
     "(\"remove\") takes only the pages wholly inside.\n\n"
     "Errors: ValueError for an unknown name; BufferError where it destroys and views are exported; OSError."},
    {"pin", GLUE_METHOD(py_segment_pin), KEYWORDS,
     "pin($self, /, offset=0, size=None, on_fault=False)\n--\n\n"
     "Keeps the pages around a range in memory: mlock2(2); on System V without a range SHM_LOCK, for everybody.\n\n"
     "Errors: OSError ENOMEM, EPERM (RLIMIT_MEMLOCK)."},
    {"unpin", GLUE_METHOD(py_segment_unpin), KEYWORDS,
     "unpin($self, /, offset=0, size=None)\n--\n\nUndoes pin(): munlock(2), SHM_UNLOCK."},
    {"resize", GLUE_METHOD(py_segment_resize), KEYWORDS,
     "resize($self, /, size)\n--\n\n"
     "Sets the size of the object so that the window has size bytes, and maps that: ftruncate(2).\n\n"
     "Errors: BufferError for shrinking while views are exported; OSError EOPNOTSUPP (posix, file and memfd alone),\n"
     "ENOSPC, EPERM (sealed)."},
    {"stat", py_stat_of, METH_NOARGS,
     "stat($self, /)\n--\n\nWhat the kernel keeps of it, as a Stat: fstat(2), shmctl(2) with IPC_STAT."},
    {"set", GLUE_METHOD(py_segment_set), KEYWORDS,
     "set($self, /, *, uid=None, gid=None, mode=None)\n--\n\n"
     "Changes owner, group and permissions: fchown(2), fchmod(2), shmctl(2) with IPC_SET. None leaves one as it is.\n\n"
     "Errors: PermissionError; OSError EOPNOTSUPP (anon, zero)."},
    {"unlink", py_segment_unlink, METH_NOARGS,
     "unlink($self, /)\n--\n\nRemoves the name, or the System V id, if it still leads to this object; the memory goes "
     "with its\n"
     "last user. What has no name has nothing to remove.\n\n"
     "Errors: FileNotFoundError where the name is gone or another's; PermissionError."},
    {"close", segment_close, METH_NOARGS,
     "close($self, /)\n--\n\nEnds the handle: from now on its methods raise ValueError. Views that were taken stay "
     "valid until they are\n"
     "released, a lock that is held can be released, and the memory is unmapped after the last of them. Closing again\n"
     "does nothing."},
    {"__enter__", segment_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nThe segment itself."},
    {"__exit__", GLUE_METHOD(segment_exit), METH_FASTCALL, "__exit__($self, /, *args)\n--\n\nCloses."},
    {"__reduce__", segment_reduce, METH_NOARGS,
     "__reduce__($self, /)\n--\n\nA pickle reopens by address, and is refused (Deleted) if another object is there by "
     "then."},
    {"_identity", segment_identity, METH_NOARGS,
     "_identity($self, /)\n--\n\nTwo numbers that no other object has while this one lives."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(py_segment, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(segment_doc,
             "Segment(address, *, size=None, offset=0, access='rw', exec=False, create=False, exclusive=False,\n"
             "        mode=None, reserve=None, populate=False, locked=False, hugepages=False, inherit=False,\n"
             "        at=None, round=False)\n"
             "--\n\n"
             "Shared memory: raw bytes, exactly what the kernel gives, without a header.\n\n"
             "address     posix:/name, sysv:0x1234, sysv:path#A, sysv:private, sysv:id=42, file:path, anon:, zero:,\n"
             "            memfd:name or fd:7\n"
             "size        bytes, or \"64M\"; to the end of what exists\n"
             "offset      first byte of the window\n"
             "access      \"rw\", \"r\", \"copy\" (private, copy on write) or \"none\"\n"
             "exec        executable too\n"
             "create      create, or open what exists as it is\n"
             "exclusive   create or fail\n"
             "mode        permissions of what is created, 0600; an int or octal digits. The umask does not narrow it\n"
             "reserve     take the memory at creation (the default), so that a full /dev/shm is an error then\n"
             "populate    fill the page tables now\n"
             "locked      keep it in memory: mlock(2)\n"
             "hugepages   True, or the size of one\n"
             "inherit     leave the descriptor open across exec\n"
             "at, round   map at this address; rounded down to what the kernel takes\n\n"
             "Errors: ValueError and TypeError for arguments; FileNotFoundError, FileExistsError, PermissionError and\n"
             "other OSErrors, with the address as filename.\n"
             "See shm_open(3), shmget(2), shmat(2), mmap(2), memfd_create(2).");

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)segment_doc},
    {Py_tp_new, py_segment_new},
    {Py_tp_dealloc, segment_dealloc},
    {Py_tp_traverse, segment_traverse},
    {Py_tp_repr, segment_repr},
    {Py_tp_iter, PySeqIter_New},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, attributes},
    {Py_sq_length, py_segment_length},
    {Py_sq_item, py_segment_item},
    {Py_mp_length, py_segment_length},
    {Py_mp_subscript, py_segment_subscript},
    {Py_mp_ass_subscript, py_segment_assign},
    {Py_bf_getbuffer, py_segment_get_buffer},
    {Py_bf_releasebuffer, py_segment_release_buffer},
    {0, NULL},
};

static PyType_Spec spec = {"polyshm.Segment", sizeof(py_segment), 0, GLUE_FLAGS, slots};

int py_segment_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    if (glue_type(module, &spec, true, &state->segment_type) < 0)
        return -1;
    /* There is no slot for it before 3.14; the constructor saves a tuple and a dict. */
    ((PyTypeObject *)state->segment_type)->tp_vectorcall = py_segment_call;
    return 0;
}
