/* What searches do with every file, path and directory, without the interpreter's lock.
 *
 * Each function only says what is worth a look (prefilter.py), or reads directories that are not
 * out of the ordinary (listings.py; _directories.c). Whoever calls it does the rest, and all of it
 * where the module was not built, so an answer never depends on it.
 */

#include "_native.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
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
};

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
double
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

Py_ssize_t
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

static PyMethodDef functions[] = {
    {"may_hold", files_may_hold, METH_VARARGS, files_doc},
    {"may_hold_in_order", paths_may_hold_in_order, METH_VARARGS, paths_doc},
    {NULL, NULL, 0, NULL},
};

static int
add_contents(PyObject *module)
{
    if (add_directories(module) < 0)
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
