/* `_bundle`: what the executable carries beside compiled code, for importer.py. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <marshal.h>
#include <string.h>

#include "layout.h"

enum { MODULE, PACKAGE, ASSET };

typedef struct {
    uint32_t name, offset, size, kind;
} Entry;

static const Entry *look_up(const char *name)
{
    const Entry *entries = (const Entry *)(BUNDLE + 1);
    const char *names = (const char *)BUNDLE + BUNDLE->names;
    uint32_t low = 0, high = BUNDLE->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        int order = strcmp(name, names + entries[middle].name);
        if (order == 0)
            return entries + middle;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static const char *start_of(const Entry *entry)
{
    return (const char *)BUNDLE + BUNDLE->data + entry->offset;
}

/* find(name): None, False for a module, True for a package; of a file: True. */
static PyObject *bundle_find(PyObject *self, PyObject *argument)
{
    const char *name = PyUnicode_AsUTF8(argument);
    if (name == NULL)
        return NULL;
    const Entry *entry = look_up(name);
    if (entry == NULL)
        Py_RETURN_NONE;
    return PyBool_FromLong(entry->kind != MODULE);
}

/* code(name): the code object of a module. */
static PyObject *bundle_code(PyObject *self, PyObject *argument)
{
    const char *name = PyUnicode_AsUTF8(argument);
    if (name == NULL)
        return NULL;
    const Entry *entry = look_up(name);
    if (entry == NULL || entry->kind == ASSET)
        return PyErr_Format(PyExc_ImportError, "no module %R in the executable", argument);
    return PyMarshal_ReadObjectFromString(start_of(entry), entry->size);
}

/* data(path): the bytes of a file. */
static PyObject *bundle_data(PyObject *self, PyObject *argument)
{
    const char *path = PyUnicode_AsUTF8(argument);
    if (path == NULL)
        return NULL;
    const Entry *entry = look_up(path);
    if (entry == NULL || entry->kind != ASSET)
        return PyErr_Format(PyExc_FileNotFoundError, "no file %R in the executable", argument);
    return PyBytes_FromStringAndSize(start_of(entry), entry->size);
}

/* make_immortal(objects): these of a list, and all that they refer to, are never freed. */
static PyObject *bundle_make_immortal(PyObject *self, PyObject *objects)
{
    if (!PyList_Check(objects))
        return PyErr_Format(PyExc_TypeError, "a list is needed, not %R", objects);
    if (!make_immortal(&PyList_GET_ITEM(objects, 0), PyList_GET_SIZE(objects)))
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* trim_memory(): what only the start needed goes back. */
static PyObject *bundle_trim_memory(PyObject *self, PyObject *ignored)
{
    trim_memory();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"find", bundle_find, METH_O, NULL},
    {"code", bundle_code, METH_O, NULL},
    {"data", bundle_data, METH_O, NULL},
    {"make_immortal", bundle_make_immortal, METH_O, NULL},
    {"trim_memory", bundle_trim_memory, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "_bundle", .m_size = -1, .m_methods = methods};

PyObject *init_bundle(void)
{
    return PyModule_Create(&module);
}
