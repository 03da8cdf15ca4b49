/* Objects of a snapshot are never freed and so need no count: to count would copy the page that each
   of them is in, for its every use. packaging/patches/python3.11/immortal.patch is the other half. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "layout.h"

typedef struct {
    PyObject **objects; /* immortal; what they refer to may not be */
    size_t count, room;
} Waiting;

static int add(PyObject *object, void *context)
{
    Waiting *waiting = context;
    if (object == NULL || _Py_IsImmortal(object))
        return 0;
    if (waiting->count == waiting->room) {
        size_t room = waiting->room * 2 + 1024;
        PyObject **larger = PyMem_RawRealloc(waiting->objects, room * sizeof *larger);
        if (larger == NULL)
            return -1;
        waiting->objects = larger;
        waiting->room = room;
    }
    Py_SET_REFCNT(object, _Py_IMMORTAL_REFCNT);
    waiting->objects[waiting->count++] = object;
    return 0;
}

static int add_all(PyObject *const *objects, size_t count, Waiting *waiting)
{
    for (size_t i = 0; i < count; i++)
        if (add(objects[i], waiting) < 0)
            return -1;
    return 0;
}

/* A dict shows the collector no keys that are text. */
static int add_keys(PyObject *dict, Waiting *waiting)
{
    PyObject *key;
    for (Py_ssize_t place = 0; PyDict_Next(dict, &place, &key, NULL);)
        if (add(key, waiting) < 0)
            return -1;
    return 0;
}

/* What the collector need not know of a type, and of a built-in one it is shown nothing at all. */
static int add_parts_of_type(PyTypeObject *type, Waiting *waiting)
{
    PyObject *parts[] = {type->tp_dict, type->tp_bases, type->tp_mro, type->tp_cache,
                         type->tp_subclasses, (PyObject *)type->tp_base};
    if (add_all(parts, sizeof parts / sizeof *parts, waiting) < 0)
        return -1;
    if ((type->tp_flags & Py_TPFLAGS_HEAPTYPE) == 0)
        return 0;
    PyHeapTypeObject *heap_type = (PyHeapTypeObject *)type;
    PyObject *names[] = {heap_type->ht_name, heap_type->ht_qualname, heap_type->ht_slots};
    return add_all(names, sizeof names / sizeof *names, waiting);
}

static int add_parts_of_code(PyCodeObject *code, Waiting *waiting)
{
    PyObject *parts[] = {code->co_consts, code->co_names, code->co_exceptiontable,
                         code->co_localsplusnames, code->co_localspluskinds, code->co_filename,
                         code->co_name, code->co_qualname, code->co_linetable, code->_co_code};
    return add_all(parts, sizeof parts / sizeof *parts, waiting);
}

static int add_parts(PyObject *object, Waiting *waiting)
{
    if (add((PyObject *)Py_TYPE(object), waiting) < 0)
        return -1;
    if (PyObject_IS_GC(object) && Py_TYPE(object)->tp_traverse != NULL &&
        Py_TYPE(object)->tp_traverse(object, add, waiting) < 0)
        return -1;
    if (PyDict_Check(object))
        return add_keys(object, waiting);
    if (PyType_Check(object))
        return add_parts_of_type((PyTypeObject *)object, waiting);
    return PyCode_Check(object) ? add_parts_of_code((PyCodeObject *)object, waiting) : 0;
}

int make_immortal(PyObject *const *objects, size_t count)
{
    Waiting waiting = {NULL, 0, 0};
    int failed = add_all(objects, count, &waiting);
    while (!failed && waiting.count > 0)
        failed = add_parts(waiting.objects[--waiting.count], &waiting);
    PyMem_RawFree(waiting.objects);
    return !failed;
}
