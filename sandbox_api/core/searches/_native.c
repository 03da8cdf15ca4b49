/* What searches do with every file, path and directory, without the interpreter's lock.
 *
 * Each function only says what is worth a look (prefilter.py), or reads directories that are not
 * out of the ordinary (listings.py). Whoever calls it does the rest, and all of it where the module
 * was not built, so an answer never depends on it.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <structmember.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_TEXT = 256,          /* bytes of a text that is looked for */
    BUFFER = 128 * 1024,     /* bytes that are read at once */
    PAGE = 4096,
    MOST_BLOCKS = 32,        /* of one file */
    MOST_BYTES = 16 << 20,   /* of all files of a call, and the rest of one: it must not take long */
    LANE = 16,               /* bytes that are compared at once */
    LANES = 4,               /* and how many times that in one step */
    STEP = LANE * LANES,
    MOST_DIRECTORIES = 256,  /* that are read in one call */
    MOST_RECORDS = 1 << 20,  /* bytes that the kernel tells of one directory, and enough for a call */
    MOST_ENTRIES = 1024,     /* that are made in one call: it holds the interpreter's lock */
};

static const double ENOUGH_S = 0.02; /* for one call that reads directories */

/* As in core/regular.py: a fifo or a device must not make the open wait. */
static const int READ_FLAGS = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | O_NOFOLLOW;

/* A byte `c` stands for `bytes[i]` where `(c | masks[i]) == bytes[i]`: the mask is the bit that
 * tells the cases of an ASCII letter apart, where case does not count, else 0. */
typedef struct {
    size_t size;
    uint8_t bytes[MAX_TEXT];
    uint8_t masks[MAX_TEXT];
} Text;

typedef uint8_t Lane __attribute__((vector_size(LANE)));
typedef uint64_t Words __attribute__((vector_size(LANE)));

/* False, with an exception, where the text is empty or too long. */
static int
take_text(Text *text, const char *bytes, Py_ssize_t size, int any_case)
{
    if (size < 1 || size > MAX_TEXT) {
        PyErr_Format(PyExc_ValueError, "a text has 1 to %d bytes", MAX_TEXT);
        return 0;
    }
    text->size = (size_t)size;
    for (size_t i = 0; i < text->size; i++) {
        uint8_t lower = (uint8_t)bytes[i] | 0x20;
        int has_cases = any_case && lower >= 'a' && lower <= 'z';
        text->masks[i] = has_cases ? 0x20 : 0;
        text->bytes[i] = has_cases ? lower : (uint8_t)bytes[i];
    }
    return 1;
}

static inline int
stands_for(const Text *text, size_t i, uint8_t c)
{
    return (uint8_t)(c | text->masks[i]) == text->bytes[i];
}

/* How many of the first bytes are the text's. */
static size_t
same(const Text *text, const uint8_t *data)
{
    size_t i = 0;
    while (i < text->size && stands_for(text, i, data[i]))
        i++;
    return i;
}

static inline Lane
places_of(const Text *text, size_t i, const uint8_t *data)
{
    Lane lane;
    memcpy(&lane, data, LANE);
    return (Lane)((lane | text->masks[i]) == text->bytes[i]);
}

static inline int
is_zero(Lane lane)
{
    Words words = (Words)lane;
    return (words[0] | words[1]) == 0;
}

/* Whether data may hold the text. It is compared at places only where its first and its last byte
 * fit, which is seen of many places at once. Where that does not help, as in "aaaa", the answer is
 * yes: this takes linear time. */
static int
may_hold(const Text *text, const uint8_t *data, size_t size)
{
    if (size < text->size)
        return 0;
    size_t last = text->size - 1, end = size - last, place = 0, compared = 0;
    while (place < end && compared <= 2 * size) {
        size_t count = end - place < STEP ? end - place : STEP;
        if (count == STEP) {
            Lane found[LANES], all = {0};
            for (size_t i = 0; i < LANES; i++) {
                const uint8_t *at = data + place + i * LANE;
                found[i] = places_of(text, 0, at) & places_of(text, last, at + last);
                all |= found[i];
            }
            if (is_zero(all)) {
                place += STEP;
                continue;
            }
        }
        for (size_t i = place; i < place + count; i++) {
            if (stands_for(text, last, data[i + last])) {
                size_t equal = same(text, data + i);
                if (equal == text->size)
                    return 1;
                compared += equal;
            }
        }
        place += count;
    }
    return place < end;
}

/* Whether an open file may hold the text; yes as well where it cannot be read, or is large. What was
 * read is added to `read_bytes`. */
static int
file_may_hold(const Text *text, int fd, size_t binary_bytes, uint8_t *buffer, size_t *read_bytes)
{
    size_t kept = 0;
    for (int block = 0; block < MOST_BLOCKS; block++) {
        ssize_t size = read(fd, buffer + kept, BUFFER - kept);
        if (size <= 0)
            return size < 0;
        *read_bytes += (size_t)size;
        size_t filled = kept + (size_t)size;
        int is_small = block == 0 && filled < BUFFER; /* then grep.py reads no further either */
        int found = may_hold(text, buffer, filled);
        if (block == 0 && (found || !is_small)
            && memchr(buffer, 0, filled < binary_bytes ? filled : binary_bytes))
            return 0;
        if (found || is_small)
            return found;
        kept = filled < text->size ? filled : text->size - 1;
        memmove(buffer, buffer + filled - kept, kept);
    }
    return 1;
}

/* Monotonic, as Python's time.monotonic(). */
static double
now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* One flag for each path, and how many were looked at before it was enough for one call. When the
 * time is over, whoever asked is to see it, so the rest is "yes". */
static Py_ssize_t
look_at_files(const Text *text, const char *path, Py_ssize_t count, size_t binary_bytes,
              double end_s, uint8_t *buffer, char *flags)
{
    size_t read_bytes = 0;
    memset(flags, 1, (size_t)count);
    for (Py_ssize_t i = 0; i < count && now_s() < end_s; i++, path += strlen(path) + 1) {
        if (read_bytes >= MOST_BYTES)
            return i;
        int fd = openat(AT_FDCWD, path, READ_FLAGS); /* musl's open() makes another call */
        if (fd < 0)
            continue;
        flags[i] = (char)file_may_hold(text, fd, binary_bytes, buffer, &read_bytes);
        close(fd);
    }
    return count;
}

static Py_ssize_t
count_of(const char *paths, Py_ssize_t size)
{
    Py_ssize_t count = 0;
    for (const char *path = paths; path <= paths + size; path += strlen(path) + 1)
        count++;
    return count;
}

PyDoc_STRVAR(files_doc,
"may_hold(paths, text, any_case, binary_bytes, end_s, /)\n--\n\n"
"Which files may hold a text: one byte for each, 0 where it is no use to look. Less than for all,\n"
"and at least one, where they are large: ask again for the rest.\n\n"
"paths: with a NUL between two. text: of bytes; with any_case ASCII letters count in either case.\n"
"binary_bytes: how far from its beginning a NUL makes a file one that is not looked at.\n"
"end_s: when to end early, in seconds of time.monotonic().");

static PyObject *
files_may_hold(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *joined; /* bytes, as only these end with a NUL in memory */
    char *paths;
    const char *bytes;
    Py_ssize_t paths_size, bytes_size, binary_bytes;
    int any_case;
    double end_s;
    Text text;
    if (!PyArg_ParseTuple(args, "Sy#pnd", &joined, &bytes, &bytes_size, &any_case, &binary_bytes,
                          &end_s)
        || PyBytes_AsStringAndSize(joined, &paths, &paths_size) < 0
        || !take_text(&text, bytes, bytes_size, any_case))
        return NULL;
    uint8_t *buffer = aligned_alloc(PAGE, BUFFER); /* where the kernel copies fastest to */
    if (buffer == NULL)
        return PyErr_NoMemory();
    Py_ssize_t count = count_of(paths, paths_size);
    PyObject *worth = PyBytes_FromStringAndSize(NULL, count);
    if (worth != NULL) {
        char *flags = PyBytes_AsString(worth);
        Py_ssize_t looked_at;
        Py_BEGIN_ALLOW_THREADS
        looked_at = look_at_files(&text, paths, count,
                                  binary_bytes > 0 ? (size_t)binary_bytes : 0, end_s,
                                  buffer, flags);
        Py_END_ALLOW_THREADS
        if (looked_at < count) {
            PyObject *all = worth;
            worth = PyBytes_FromStringAndSize(flags, looked_at);
            Py_DECREF(all);
        }
    }
    free(buffer);
    return worth;
}

PyDoc_STRVAR(paths_doc,
"may_hold_in_order(paths, text, any_case, cut, /)\n--\n\n"
"Which paths may hold the bytes of a text in order: one byte for each, 0 where it does not.\n\n"
"paths: a list. text, any_case: as above. cut: how many bytes of each path do not count.");

static int
may_hold_in_order(const Text *text, const char *path, const char *end)
{
    size_t found = 0;
    for (; path < end && found < text->size; path++)
        found += (size_t)stands_for(text, found, (uint8_t)*path);
    return found == text->size;
}

static PyObject *
paths_may_hold_in_order(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *paths;
    const char *bytes;
    Py_ssize_t bytes_size, cut;
    int any_case;
    Text text;
    if (!PyArg_ParseTuple(args, "O!y#pn", &PyList_Type, &paths, &bytes, &bytes_size, &any_case, &cut)
        || !take_text(&text, bytes, bytes_size, any_case))
        return NULL;
    Py_ssize_t count = PyList_Size(paths);
    PyObject *worth = PyBytes_FromStringAndSize(NULL, count);
    if (worth == NULL)
        return NULL;
    char *flags = PyBytes_AsString(worth);
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t size;
        PyObject *path = PyList_GetItem(paths, i);
        const char *start = path == NULL ? NULL : PyUnicode_AsUTF8AndSize(path, &size);
        if (start == NULL) /* a name that is not UTF-8 */
            PyErr_Clear();
        flags[i] = start == NULL || cut < 0 || cut > size
                   || may_hold_in_order(&text, start + cut, start + size);
    }
    return worth;
}

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

typedef struct {
    PyTypeObject *entry_type;
} State;

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
    {"may_hold", files_may_hold, METH_VARARGS, files_doc},
    {"may_hold_in_order", paths_may_hold_in_order, METH_VARARGS, paths_doc},
    {"read_directories", read_directories, METH_O, directories_doc},
    {"entries", entries_of, METH_VARARGS, entries_doc},
    {NULL, NULL, 0, NULL},
};

static int
add_contents(PyObject *module)
{
    State *state = PyModule_GetState(module);
    PyObject *type = PyType_FromModuleAndSpec(module, &entry_spec, NULL);
    state->entry_type = (PyTypeObject *)type; /* as long as the module, which is never unloaded */
    if (type == NULL || PyModule_AddType(module, state->entry_type) < 0)
        return -1;
    return PyModule_AddIntConstant(module, "MAX_TEXT", MAX_TEXT);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, add_contents},
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "What searches do with every file, path and directory, without the interpreter's lock.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
