/* What the parts of the module have in common. */
#ifndef SANDBOX_API_NATIVE_H
#define SANDBOX_API_NATIVE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

/* The module's own. */
typedef struct {
    PyTypeObject *entry_type;
} State;

/* _native.c */
double now_s(void); /* of the clock of time.monotonic() */
Py_ssize_t count_of(const char *paths, Py_ssize_t size); /* with a NUL between two, and one behind */

/* _directories.c: 0, or -1 and an exception */
int add_directories(PyObject *module);

#endif
