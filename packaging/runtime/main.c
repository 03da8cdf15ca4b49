/* The one file: an interpreter whose modules and files are in the executable itself. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "builtins.h" /* BUILTINS(X): X("package.module", PyInit_of_it) for each compiled module */
#include "frozen.h"   /* frozen_modules: what is needed before the importer works */
#include "layout.h"

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

/* Where this file lies; without /proc, and where it must not be known, as it was called. */
static wchar_t *executable(const char *called)
{
    char path[PATH_MAX];
    ssize_t size =
        BUNDLE->purpose == DUMP ? 0 : readlink("/proc/self/exe", path, sizeof path - 1);
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

/* Headers of the program that packaging/elf.py makes segments of. Two, as they differ in alignment. */
__asm__(".section .note.bundle,\"a\",@note\n.balign 4\n.long 8,0,1\n.asciz \"sandbox\"\n"
        ".section .note.heap,\"a\",@note\n.balign 8\n.long 8,0,2\n.asciz \"sandbox\"\n"
        ".text\n");

static PyObject *call_start(const char *function)
{
    PyObject *start = PyImport_ImportModule("_start");
    PyObject *result = start == NULL ? NULL : PyObject_CallMethod(start, function, NULL);
    Py_XDECREF(start);
    return result;
}

/* With SCRIPT the program runs a script with what follows as its arguments: the tests look with it
   at what a request cannot show. */
static int run_script(const char *path)
{
    FILE *script = fopen(path, "r");
    if (script == NULL) {
        perror(path);
        return 2;
    }
    return PyRun_SimpleFileExFlags(script, path, 1, NULL) != 0;
}

static int run(int argc, char **argv)
{
    if (BUNDLE->purpose == SCRIPT && argc > 0)
        return run_script(argv[0]);
    PyObject *result = call_start(BUNDLE->purpose == DUMP ? "preload" : "run");
    if (result == NULL) {
        PyErr_Print(); /* ends the process on SystemExit */
        return 1;
    }
    int status = (int)PyLong_AsLong(result);
    Py_DECREF(result);
    return status;
}

/* Not exit(3): in a process that begins with a snapshot, what C++ registers there is there twice. And
   the daemon's objects are not taken apart one by one, for which each page would be copied: the
   kernel frees them at once. */
static void end(int status)
{
    if (BUNDLE->purpose == RUN)
        Py_XDECREF(call_start("finish"));
    else if (Py_FinalizeEx() < 0)
        status = 120; /* as CPython: what was written could not be flushed */
    fflush(NULL);
    _exit(status);
}

static void start(int argc, char **argv)
{
    use_allocator();
    start_interpreter(argc, argv);
    PyObject *importer = PyImport_ImportModule("_importer");
    if (importer == NULL) {
        PyErr_Print();
        end(1);
    }
    Py_DECREF(importer);
}

int main(int argc, char **argv)
{
    if (BUNDLE->purpose == SCRIPT && argc > 1) {
        argc--;
        argv++;
    }
    if (BUNDLE->purpose == DUMP)
        prepare_dump();
    else
        find_clock();
    if (!is_snapshot())
        start(argc, argv);
    else if (!resume(argv))
        end(1);
    int status = run(argc, argv);
    if (BUNDLE->purpose == DUMP && status == 0)
        _exit(dump());
    end(status);
}
