/* malloc for the whole program: dlmalloc, with pages from where a snapshot can take them.

   While a snapshot is made all memory lies in one piece from HEAP_ADDRESS on, of which the end
   alone can be given back. The file that comes of it has this piece as a segment. There, and in a
   file without a snapshot, new pages come from mmap and go back by munmap; those of the segment may
   go back too. */
#define _GNU_SOURCE
#include <Python.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "layout.h"

/* A buffer of a transfer must not cost a system call and fresh pages each time. */
#define MAP_FROM_BYTES (4 << 20)
#define KEEP_FREE_BYTES (8 << 20)
#define POOL_BYTES 16384 /* CPython's obmalloc wastes a pool of an arena that is not aligned to it */

static char *next_page = (char *)HEAP_ADDRESS;

static void *take_pages(size_t size)
{
    if (BUNDLE->purpose != DUMP)
        return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *pages =
        mmap(next_page, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages != next_page) {
        fputs("a snapshot needs the addresses behind its heap\n", stderr);
        _exit(1);
    }
    next_page += size;
    return pages;
}

static int give_pages_back(void *pages, size_t size)
{
    if (BUNDLE->purpose != DUMP)
        return munmap(pages, size);
    if ((char *)pages + size != next_page || munmap(pages, size) < 0)
        return -1;
    next_page = pages;
    return 0;
}

static void *resize_pages(void *pages, size_t size, size_t new_size, int flags)
{
    return BUNDLE->purpose == DUMP ? MAP_FAILED : mremap(pages, size, new_size, flags);
}

/* Names of our own, so that no compiler believes to know what these functions do. */
#define USE_DL_PREFIX 1
#define DLMALLOC_EXPORT static
#define HAVE_MORECORE 0
#define HAVE_MMAP 1
#define HAVE_MREMAP 1
#define MMAP(size) take_pages(size)
#define DIRECT_MMAP(size) take_pages(size)
#define MUNMAP(pages, size) give_pages_back(pages, size)
#define MREMAP(pages, size, new_size, flags) resize_pages(pages, size, new_size, flags)
#define MALLOC_ALIGNMENT 16
#define DEFAULT_GRANULARITY (256 << 10)
#define DEFAULT_MMAP_THRESHOLD MAP_FROM_BYTES
#define DEFAULT_TRIM_THRESHOLD KEEP_FREE_BYTES
#define USE_LOCKS 1
#define USE_SPIN_LOCKS 0
#define NO_MALLINFO 1
#define NO_MALLOC_STATS 1
#define LACKS_TIME_H 1 /* its magic number is an address, not the time */
#define __wasilibc_unmodified_upstream 1 /* wasi-libc has it for WebAssembly otherwise */
static size_t dlmalloc_usable_size(void *);
#include "dlmalloc/src/malloc.c"

void *malloc(size_t size) { return dlmalloc(size); }
void free(void *memory) { dlfree(memory); }
void *calloc(size_t count, size_t size) { return dlcalloc(count, size); }
void *realloc(void *memory, size_t size) { return dlrealloc(memory, size); }
void *memalign(size_t alignment, size_t size) { return dlmemalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { return dlmemalign(alignment, size); }
void *valloc(size_t size) { return dlvalloc(size); }
size_t malloc_usable_size(void *memory) { return dlmalloc_usable_size(memory); }

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    return dlposix_memalign(memory, alignment, size);
}

void *reallocarray(void *memory, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return dlrealloc(memory, bytes);
}

/* What the C library itself uses. */
void *__libc_malloc(size_t size) __attribute__((alias("malloc")));
void *__libc_malloc_impl(size_t size) __attribute__((alias("malloc")));
void *__libc_calloc(size_t count, size_t size) __attribute__((alias("calloc")));
void *__libc_realloc(void *memory, size_t size) __attribute__((alias("realloc")));
void __libc_free(void *memory) __attribute__((alias("free")));

/* CPython's arenas are mappings of their own, which go back to the kernel when they are empty; those
   of a snapshot are in the heap. */
static void *take_arena(void *context, size_t size)
{
    if (BUNDLE->purpose == DUMP)
        return dlmemalign(POOL_BYTES, size);
    void *arena = take_pages(size);
    return arena == MAP_FAILED ? NULL : arena;
}

static void give_arena_back(void *context, void *arena, size_t size)
{
    if ((char *)arena >= (char *)HEAP_ADDRESS && (char *)arena < next_page)
        dlfree(arena);
    else
        munmap(arena, size);
}

/* A fork in one thread while another allocates must not leave the lock to nobody. */
static void lock(void) { pthread_mutex_lock(&gm->mutex); }
static void unlock(void) { pthread_mutex_unlock(&gm->mutex); }

void use_allocator(void)
{
    static PyObjectArenaAllocator arenas = {NULL, take_arena, give_arena_back};
    free(malloc(1)); /* dlmalloc makes itself ready */
    pthread_atfork(lock, unlock, unlock);
    PyObject_SetArenaAllocator(&arenas);
    if (BUNDLE->purpose == DUMP) /* one piece: no mapping for a large one alone */
        mparams.mmap_threshold = MAX_SIZE_T;
}

/* What a process allocates later would land in holes all over the snapshot, and each page that has
   one would be copied for it. So nothing is left free between what lives: it comes from one end. */
void fill_holes(void)
{
    for (size_t size = 16; size <= 512; size += 16) { /* CPython's classes of small objects */
        char *block;
        do
            block = PyObject_Malloc(size);
        while (*(unsigned *)((uintptr_t)block & -(uintptr_t)POOL_BYTES) > 1); /* a pool's count */
        PyObject_Free(block);
    }
    for (size_t size = 1 << 17; size >= 16; size -= 16) {
        char *chunk, *top;
        do {
            top = (char *)gm->top;
            chunk = dlmalloc(size);
        } while (chunk < top);
        dlfree(chunk);
    }
    dlmalloc_trim(0); /* what is free at the end need not be in the file */
}

void resume_allocator(void)
{
    mparams.mmap_threshold = MAP_FROM_BYTES;
    mparams.page_size = sysconf(_SC_PAGESIZE);
    gm->trim_check = KEEP_FREE_BYTES;
}

size_t heap_size(void)
{
    return next_page - (char *)HEAP_ADDRESS;
}
