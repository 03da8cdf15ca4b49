/* Directories that are read many at once, without the interpreter's lock (listings.py). */
#include "_native.h"

#include <structmember.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    MOST_DIRECTORIES = 256,  /* that are read in one call */
    MOST_RECORDS = 1 << 20,  /* bytes that the kernel tells of one directory, and enough for a call */
    MOST_ENTRIES = 1024,     /* that are made in one call: it holds the interpreter's lock */
};

static const double ENOUGH_S = 0.02; /* for one call that reads directories */

/* What the kernel writes for each entry (getdents64(2)). */
typedef struct {
    uint64_t inode;
    int64_t offset;
    uint16_t size;
    uint8_t type;
    char name[];
} Record;

enum { NAME = offsetof(Record, name) };

/* How one directory was read. */
typedef struct {
    size_t size;     /* of its records */
    int error;       /* an errno, or 0 */
    int is_ordinary; /* else it is for whoever asked to read it */
} Listing;

static const int DIRECTORY_FLAGS = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;

/* Whether the kernel tells of all entries what they are. */
static int
types_are_known(const char *records, size_t size)
{
    for (size_t place = 0; place < size;) {
        const Record *record = (const Record *)(const void *)(records + place);
        if (record->type == DT_UNKNOWN)
            return 0;
        place += record->size;
    }
    return 1;
}

/* All records of a directory, into room for MOST_RECORDS. */
static Listing
read_directory(const char *path, char *records)
{
    Listing listing = {0, 0, 0};
    int fd = openat(AT_FDCWD, path, DIRECTORY_FLAGS);
    if (fd < 0) {
        listing.error = errno;
        return listing;
    }
    long size = 1; /* -1 as well where what is left has no room for a record */
    while (size > 0 && listing.size < MOST_RECORDS) {
        size = syscall(SYS_getdents64, fd, records + listing.size, MOST_RECORDS - listing.size);
        listing.size += size > 0 ? (size_t)size : 0;
    }
    close(fd);
    listing.is_ordinary = size == 0 && types_are_known(records, listing.size);
    if (!listing.is_ordinary)
        listing.size = 0;
    return listing;
}

/* How many directories were read before it was enough for one call, and at least one. */
static Py_ssize_t
read_all(const char *path, Py_ssize_t count, char *records, Listing *listings)
{
    double end_s = now_s() + ENOUGH_S;
    size_t size = 0;
    Py_ssize_t i = 0;
    do {
        listings[i] = read_directory(path, records + size);
        size += listings[i++].size;
        path += strlen(path) + 1;
    } while (i < count && size < MOST_RECORDS && now_s() < end_s);
    return i;
}

static PyObject *
answers_of(Py_ssize_t count, const char *records, const Listing *listings)
{
    PyObject *answers = PyList_New(count);
    for (Py_ssize_t i = 0; answers != NULL && i < count; i++) {
        PyObject *answer;
        if (listings[i].error)
            answer = PyLong_FromLong(listings[i].error);
        else if (listings[i].is_ordinary)
            answer = PyBytes_FromStringAndSize(records, (Py_ssize_t)listings[i].size);
        else
            answer = Py_NewRef(Py_None);
        records += listings[i].size;
        if (answer == NULL || PyList_SetItem(answers, i, answer) < 0)
            Py_CLEAR(answers);
    }
    return answers;
}

PyDoc_STRVAR(directories_doc,
"read_directories(paths, /)\n--\n\n"
"What directories hold: for each its records, for `entries`; or an errno, where it cannot be opened\n"
"or is a link; or None: it is large, or something about it is not known. Less than for all, and at\n"
"least one, where it takes long: ask again for the rest.\n\n"
"paths: 1 to 256, with a NUL between two.");

static PyObject *
read_directories(PyObject *Py_UNUSED(module), PyObject *joined)
{
    char *paths;
    Py_ssize_t paths_size;
    if (PyBytes_AsStringAndSize(joined, &paths, &paths_size) < 0)
        return NULL;
    Py_ssize_t count = count_of(paths, paths_size);
    if (count > MOST_DIRECTORIES)
        count = MOST_DIRECTORIES;
    Listing listings[MOST_DIRECTORIES];
    char *records = malloc(2 * MOST_RECORDS); /* of which what is not written to takes no memory */
    if (records == NULL)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    count = read_all(paths, count, records, listings);
    Py_END_ALLOW_THREADS
    PyObject *answers = answers_of(count, records, listings);
    free(records);
    return answers;
}

/* What os.DirEntry is, without what needs another call. */
typedef struct {
    PyObject_HEAD
    PyObject *name;
    PyObject *path;
    uint8_t type;
} Entry;

static void
free_entry(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((Entry *)self)->name);
    Py_XDECREF(((Entry *)self)->path);
    PyObject_Free(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(is_dir_doc,
"is_dir(*, follow_symlinks)\n--\n\n"
"As of os.DirEntry. Links cannot be followed.");

static PyObject *
is_dir(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *name = count != 0 || names == NULL ? NULL : PyTuple_GetItem(names, 0);
    if (name == NULL || args[0] != Py_False || PyTuple_Size(names) != 1
        || PyUnicode_CompareWithASCIIString(name, "follow_symlinks") != 0) {
        PyErr_SetString(PyExc_TypeError, "is_dir() takes follow_symlinks=False");
        return NULL;
    }
    return PyBool_FromLong(((Entry *)self)->type == DT_DIR);
}

static PyMemberDef entry_members[] = {
    {"name", T_OBJECT, offsetof(Entry, name), READONLY, NULL},
    {"path", T_OBJECT, offsetof(Entry, path), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef entry_methods[] = {
    {"is_dir", (PyCFunction)(void (*)(void))is_dir, METH_FASTCALL | METH_KEYWORDS, is_dir_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot entry_slots[] = {
    {Py_tp_doc, "An entry of a directory."},
    {Py_tp_dealloc, free_entry},
    {Py_tp_members, entry_members},
    {Py_tp_methods, entry_methods},
    {0, NULL},
};

static PyType_Spec entry_spec = {
    .name = "sandbox_api.core.searches._native.Entry",
    .basicsize = sizeof(Entry),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = entry_slots,
};

static int
append_entry(PyObject *entries, PyTypeObject *type, PyObject *start, const Record *record)
{
    Entry *entry = PyObject_New(Entry, type);
    if (entry == NULL)
        return -1;
    entry->type = record->type;
    entry->name = PyUnicode_DecodeFSDefault(record->name);
    entry->path = entry->name == NULL ? NULL : PyUnicode_Concat(start, entry->name);
    int failed = entry->path == NULL || PyList_Append(entries, (PyObject *)entry) < 0;
    Py_DECREF(entry);
    return failed ? -1 : 0;
}

/* The record at a place; NULL, with an exception, where there is none. */
static const Record *
record_at(const char *records, Py_ssize_t size, Py_ssize_t place)
{
    const Record *record = (const Record *)(const void *)(records + place);
    if (place >= 0 && place % (Py_ssize_t)sizeof(uint64_t) == 0 && place < size - NAME
        && record->size > NAME && record->size <= size - place
        && memchr(record->name, 0, (size_t)record->size - NAME))
        return record;
    PyErr_SetString(PyExc_ValueError, "no record of a directory");
    return NULL;
}

static int
is_itself_or_above(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

PyDoc_STRVAR(entries_doc,
"entries(records, place, start, /)\n--\n\n"
"Some entries, and the place in the records of those that follow.\n\n"
"records: of one directory. place: 0 at first. start: what paths begin with, before the name.");

static PyObject *
entries_of(PyObject *module, PyObject *args)
{
    PyObject *all, *start;
    char *records;
    Py_ssize_t size, place;
    if (!PyArg_ParseTuple(args, "SnU", &all, &place, &start)
        || PyBytes_AsStringAndSize(all, &records, &size) < 0)
        return NULL;
    State *state = PyModule_GetState(module);
    PyObject *entries = PyList_New(0);
    for (int i = 0; entries != NULL && i < MOST_ENTRIES && place != size; i++) {
        const Record *record = record_at(records, size, place);
        if (record == NULL
            || (!is_itself_or_above(record->name)
                && append_entry(entries, state->entry_type, start, record) < 0))
            Py_CLEAR(entries);
        else
            place += record->size;
    }
    return entries == NULL ? NULL : Py_BuildValue("Nn", entries, place);
}

static PyMethodDef functions[] = {
    {"read_directories", read_directories, METH_O, directories_doc},
    {"entries", entries_of, METH_VARARGS, entries_doc},
    {NULL, NULL, 0, NULL},
};

int
add_directories(PyObject *module)
{
    State *state = PyModule_GetState(module);
    PyObject *type = PyType_FromModuleAndSpec(module, &entry_spec, NULL);
    state->entry_type = (PyTypeObject *)type; /* as long as the module, which is never unloaded */
    if (type == NULL || PyModule_AddType(module, state->entry_type) < 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
