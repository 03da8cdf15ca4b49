/* The snapshot: a process that has imported everything writes its memory down, and the file that
   is made of it (packaging/snapshot.py) begins where it left off. See docs/packaging.md. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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

static unsigned long open_descriptors(void)
{
    unsigned long open = 0;
    for (int number = 3; number < 64; number++)
        if (fcntl(number, F_GETFD) != -1)
            open |= 1UL << number;
    return open;
}

static unsigned long given; /* descriptors that the process began with: an emulator has some */

void prepare_dump(void)
{
    given = open_descriptors();
}

/* Whether all memory is the program, its bundle and its heap, below 4 GiB, and what the kernel and
   the C library make anew in each process: the stack, the clock functions, thread-local data. The
   text that is read stays on the stack, which is in no snapshot: it names paths. */
static int has_foreign_mappings(void)
{
    char text[1 << 16];
    int file = open("/proc/self/maps", O_RDONLY);
    ssize_t size = 0, got;
    while ((got = read(file, text + size, sizeof text - 1 - size)) > 0)
        size += got;
    close(file);
    text[size] = 0;
    int small = 0, foreign = size == 0;
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        unsigned long start = strtoul(line, &line, 16), end = strtoul(line + 1, &line, 16);
        if (start < 1UL << 32 || strchr(line, '[') != NULL)
            continue;
        if (line[2] != 'w' && strstr(line, " 00:00 0") != NULL)
            continue; /* holds nothing: the emulator's own, for the return from signals */
        if (end - start <= 1 << 14 && small++ == 0)
            continue;
        fprintf(stderr, "not fit for a snapshot: memory at %lx-%lx%s\n", start, end, line);
        foreign = 1;
    }
    return foreign;
}

static int is_fit(void)
{
    unsigned long opened = open_descriptors() & ~given;
    if (opened != 0)
        fprintf(stderr, "not fit for a snapshot: descriptors %#lx are open\n", opened);
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
