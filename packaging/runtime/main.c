/* The one file: an interpreter whose modules and files are in the executable itself. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <limits.h>
#include <marshal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "builtins.h" /* BUILTINS(X): X("package.module", PyInit_of_it) for each compiled module */
#include "frozen.h"   /* frozen_modules: what is needed before the importer works */

/* The bundle, as packaging/bundle.py writes it: a header of four numbers (count, offset of names,
   offset of data, 0), then one entry per item, sorted by name, the names, and the data. */
__asm__(".section .rodata,\"a\",@progbits\n"
        ".balign 4096\n"
        "bundle:\n"
        ".incbin \"bundle.bin\"\n"
        ".balign 4096\n"
        "bundle_end:\n"
        ".text\n");
extern const unsigned char bundle[], bundle_end[] __attribute__((visibility("hidden")));

enum { MODULE, PACKAGE, ASSET };

typedef struct {
    uint32_t name, offset, size, kind;
} Entry;

static const Entry *look_up(const char *name)
{
    const uint32_t *header = (const uint32_t *)bundle;
    const Entry *entries = (const Entry *)(header + 4);
    const char *names = (const char *)bundle + header[1];
    uint32_t low = 0, high = header[0];
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
    return (const char *)bundle + ((const uint32_t *)bundle)[2] + entry->offset;
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

/* release(): give the memory of the bundle back; what is read later comes from the file again. */
static PyObject *bundle_release(PyObject *self, PyObject *ignored)
{
    madvise((void *)bundle, bundle_end - bundle, MADV_DONTNEED);
    Py_RETURN_NONE;
}

static PyMethodDef bundle_methods[] = {
    {"find", bundle_find, METH_O, NULL},
    {"code", bundle_code, METH_O, NULL},
    {"data", bundle_data, METH_O, NULL},
    {"release", bundle_release, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef bundle_module = {
    PyModuleDef_HEAD_INIT, .m_name = "_bundle", .m_size = -1, .m_methods = bundle_methods};

static PyObject *init_bundle(void)
{
    return PyModule_Create(&bundle_module);
}

#define DECLARE(name, init) extern PyObject *init(void);
BUILTINS(DECLARE)

static void register_modules(void)
{
    PyImport_AppendInittab("_bundle", init_bundle);
#define REGISTER(name, init) PyImport_AppendInittab(name, init);
    BUILTINS(REGISTER)
    PyImport_FrozenModules = frozen_modules;
}

static void check(PyStatus status)
{
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

/* Where this file lies; without /proc as it was called. */
static wchar_t *executable(const char *called)
{
    char path[PATH_MAX];
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
    path[size > 0 ? size : 0] = 0;
    wchar_t *decoded = Py_DecodeLocale(size > 0 ? path : called, NULL);
    if (decoded == NULL)
        check(PyStatus_NoMemory());
    return decoded;
}

/* UTF-8 whatever the locale; no PYTHON* variable counts, and none is set or removed, so children
   get what we were given. */
static void start_interpreter(int argc, char **argv)
{
    PyPreConfig early;
    PyPreConfig_InitIsolatedConfig(&early);
    early.utf8_mode = 1;
    check(Py_PreInitialize(&early));
    register_modules();

    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    config.parse_argv = 0;
    config.write_bytecode = 0;
    config.optimization_level = 2;
    config.install_signal_handlers = 1;
    config.pathconfig_warnings = 0;
    config.module_search_paths_set = 1;
    wchar_t *program = executable(argc > 0 ? argv[0] : "sandbox-api");
    check(PyConfig_SetString(&config, &config.program_name, program));
    check(PyConfig_SetString(&config, &config.executable, program));
    check(PyConfig_SetString(&config, &config.base_executable, program));
    wchar_t **places[] = {&config.prefix,      &config.base_prefix, &config.exec_prefix,
                          &config.base_exec_prefix, &config.home,   &config.stdlib_dir};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        check(PyConfig_SetString(&config, places[i], L"/"));
    check(PyConfig_SetBytesArgv(&config, argc, argv));
    check(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);
    PyMem_RawFree(program);
}

/* The checker is the same program but for this: it runs the script that it is given, with what
   follows as its arguments. The tests look with it at what a request cannot show. */
static int run(const char *called)
{
#ifdef CHECKER
    FILE *script = fopen(called, "r");
    if (script == NULL) {
        perror(called);
        return 2;
    }
    return PyRun_SimpleFileExFlags(script, called, 1, NULL) != 0;
#else
    if (PyImport_ImportModule("_start") == NULL)
        PyErr_Print(); /* ends the process on SystemExit, which is how the daemon ends */
    return 1;
#endif
}

int main(int argc, char **argv)
{
#ifdef CHECKER
    if (argc > 1) {
        argc--;
        argv++;
    }
#endif
    start_interpreter(argc, argv);
    PyObject *importer = PyImport_ImportModule("_importer");
    if (importer == NULL) {
        PyErr_Print();
        return 1;
    }
    Py_DECREF(importer);
    int status = run(argv[0]);
    return Py_FinalizeEx() < 0 ? 120 : status;
}
