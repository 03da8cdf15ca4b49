/* The snapshot: a process that has imported everything writes its memory down, and the file that
   is made of it (packaging/snapshot.py) begins where it left off. See docs/packaging.md. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/conf.h>
#include <openssl/err.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "layout.h"

extern char **environ;

static volatile int dumped = 0; /* 1 in the snapshot, and so in each process that begins with it */

int is_snapshot(void)
{
    return dumped;
}

static int count_descriptors(void)
{
    int count = 0;
    for (int number = 3; number < 1024; number++)
        count += fcntl(number, F_GETFD) != -1;
    return count;
}

static int given; /* how many descriptors the process began with: an emulator has some */

void prepare_dump(void)
{
    given = count_descriptors();
}

/* Whether a mapping (proc_pid_maps(5)) will be there again: the program, its bundle, its heap, and
   what the kernel, the C library and an emulator make anew in each process. */
static int is_known(uint64_t start, uint64_t end, const char *rest, int *small)
{
    extern const char __ehdr_start[], _end[]; /* of the linker */
    uint64_t ranges[][2] = {
        {(uint64_t)__ehdr_start, (uint64_t)_end},
        {BUNDLE_ADDRESS, BUNDLE_ADDRESS + BUNDLE->size},
        {HEAP_ADDRESS, HEAP_ADDRESS + heap_size()},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (start >= ranges[i][0] && start < ranges[i][1] && end < ranges[i][1] + (1 << 16))
            return 1;
    if (strstr(rest, "[stack]") || strstr(rest, "[vdso]") || strstr(rest, "[vvar") ||
        strstr(rest, "[vsyscall]"))
        return 1;
    if (strncmp(rest, " ---", 4) == 0 || (rest[2] != 'w' && strstr(rest, " 00:00 0") != NULL))
        return 1; /* holds nothing */
    return end - start <= 1 << 14 && (*small)++ == 0; /* thread-local data */
}

/* The text that is read stays on the stack, which is in no snapshot: it names paths. */
static int has_foreign_mappings(void)
{
    char text[1 << 16];
    int file = open("/proc/self/maps", O_RDONLY), small = 0, foreign = 0;
    ssize_t size = 0, got;
    while ((got = read(file, text + size, sizeof text - 1 - size)) > 0)
        size += got;
    close(file);
    text[size] = 0;
    if (size == 0 || size == sizeof text - 1) {
        fputs("not fit for a snapshot: /proc/self/maps cannot be read, or is too long\n", stderr);
        return 1;
    }
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        uint64_t start = strtoul(line, &line, 16), end = strtoul(line + 1, &line, 16);
        if (is_known(start, end, line, &small))
            continue;
        fprintf(stderr, "not fit for a snapshot: memory at %lx-%lx%s\n", start, end, line);
        foreign = 1;
    }
    return foreign;
}

static int is_fit(void)
{
    int opened = count_descriptors() - given;
    if (opened != 0)
        fprintf(stderr, "not fit for a snapshot: %d descriptors are open\n", opened);
    return !has_foreign_mappings() && opened == 0;
}

static int write_all(const void *data, size_t size)
{
    while (size > 0) {
        ssize_t written = write(STDOUT_FILENO, data, size);
        if (written <= 0)
            return 0;
        data = (const char *)data + written;
        size -= written;
    }
    return 1;
}

/* One piece of memory: its address, its size, its bytes. */
static int write_piece(const void *address, uint64_t size)
{
    uint64_t place[] = {(uint64_t)address, size};
    return write_all(place, sizeof place) && write_all(address, size);
}

static int write_memory(void)
{
    const Elf64_Phdr *header = (const Elf64_Phdr *)getauxval(AT_PHDR);
    const Elf64_Phdr *end = header + getauxval(AT_PHNUM);
    for (; header < end; header++)
        if (header->p_type == PT_LOAD && (header->p_flags & PF_W) != 0 &&
            header->p_vaddr < BUNDLE_ADDRESS)
            if (!write_piece((const void *)header->p_vaddr, header->p_memsz))
                return 0;
    return write_piece((const void *)HEAP_ADDRESS, heap_size());
}

int dump(void)
{
    if (!is_fit())
        return 1;
    fill_holes();
    dumped = 1;
    if (!write_memory()) {
        perror("the memory could not be written");
        return 1;
    }
    return 0;
}

/* What OpenSSL found out about the processor when the snapshot was made is not true of this one. */
#if defined(__x86_64__)
extern unsigned int OPENSSL_ia32cap_P[4];
extern uint64_t OPENSSL_ia32_cpuid(unsigned int *);

static void ask_processor(void)
{
    uint64_t found = OPENSSL_ia32_cpuid(OPENSSL_ia32cap_P); /* as its own OPENSSL_cpuid_setup */
    OPENSSL_ia32cap_P[0] = (unsigned int)found | (1 << 10);
    OPENSSL_ia32cap_P[1] = (unsigned int)(found >> 32);
}
#elif defined(__aarch64__)
extern unsigned int OPENSSL_armcap_P;

static void ask_processor(void)
{
    /* Bits of AT_HWCAP, and what OpenSSL makes of them (its crypto/armcap.c). */
    static const unsigned char bits[][2] = {{1, 0}, {3, 2}, {4, 5}, {5, 3}, {6, 4}, {21, 6}};
    unsigned long found = getauxval(AT_HWCAP);
    OPENSSL_armcap_P = 0;
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++)
        if ((found >> bits[i][0] & 1) != 0)
            OPENSSL_armcap_P |= 1U << bits[i][1];
}
#endif

/* OpenSSL reads its configuration once, and there was none when the snapshot was made. */
static void read_tls_configuration(void)
{
    CONF_modules_load_file(NULL, NULL,
                           CONF_MFLAGS_DEFAULT_SECTION | CONF_MFLAGS_IGNORE_MISSING_FILE |
                               CONF_MFLAGS_IGNORE_RETURN_CODES);
    ERR_clear_error();
}

static PyObject *list_of(char **strings)
{
    PyObject *list = PyList_New(0);
    for (; list != NULL && *strings != NULL; strings++) {
        PyObject *one = PyBytes_FromString(*strings);
        if (one == NULL || PyList_Append(list, one) < 0)
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

/* Signals that we were started to ignore. */
static PyObject *ignored_signals(void)
{
    PyObject *list = PyList_New(0);
    for (int number = 1; list != NULL && number < NSIG; number++) {
        struct sigaction action;
        if (sigaction(number, NULL, &action) < 0 || action.sa_handler != SIG_IGN)
            continue;
        PyObject *one = PyLong_FromLong(number);
        if (one == NULL || PyList_Append(list, one) < 0)
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

/* The interpreter has no frame: it is at rest, as after an import. What a fork changes for a child
   has changed for us: the process, its thread, its locks; the rest does start.py. */
int resume(char **argv)
{
    pthread_key_t key;
    pthread_key_create(&key, NULL); /* with it musl finds the values of all keys again */
    resume_allocator();
    ask_processor();
    read_tls_configuration();
    PyObject *ignored = ignored_signals();
    PyOS_AfterFork_Child();
    PyThreadState_Get()->thread_id = PyThread_get_thread_ident();
    PyObject *start = PyImport_ImportModule("_start");
    PyObject *done = start == NULL ? NULL
                                   : PyObject_CallMethod(start, "resume", "NNN", list_of(argv),
                                                         list_of(environ), ignored);
    if (done == NULL) {
        PyErr_Print();
        return 0;
    }
    Py_DECREF(done);
    Py_DECREF(start);
    return 1;
}
