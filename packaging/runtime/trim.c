/* Memory that only the start needed goes back to the kernel. */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "layout.h"

#define MIN_PAGES 2

/* Code, constants, the bundle: whoever needs a page again gets it from the page cache. */
static void drop_read_only_pages(void)
{
    const Elf64_Phdr *header = (const Elf64_Phdr *)getauxval(AT_PHDR);
    const Elf64_Phdr *end = header + getauxval(AT_PHNUM);
    uint64_t page_bytes = sysconf(_SC_PAGESIZE);
    for (; header < end; header++)
        if (header->p_type == PT_LOAD && (header->p_flags & PF_W) == 0) {
            uint64_t start = header->p_vaddr & -page_bytes;
            madvise((void *)start, header->p_vaddr + header->p_memsz - start, MADV_DONTNEED);
        }
}

/* A thread for each link of the directory, beside its own two. */
static int is_single_threaded(void)
{
    struct stat tasks;
    return stat("/proc/self/task", &tasks) == 0 && tasks.st_nlink == 3;
}

/* A few pages are not worth a call. */
static void drop(uint64_t first, uint64_t end, uint64_t page_bytes)
{
    if (end - first >= MIN_PAGES)
        madvise((void *)(first * page_bytes), (end - first) * page_bytes, MADV_DONTNEED);
}

/* Pages of the snapshot that nothing has been written to are the file's: proc_pid_pagemap(5), bit 61.
   One that is written while we look would be lost, so nobody else may run. */
static void drop_clean_pages(uint64_t start, uint64_t size)
{
    uint64_t entries[512], page_bytes = sysconf(_SC_PAGESIZE);
    uint64_t page = start / page_bytes, end = page + size / page_bytes, first = page;
    int file = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    while (file >= 0 && page < end) {
        ssize_t got = pread(file, entries, sizeof entries, page * sizeof *entries);
        if (got <= 0)
            break;
        for (size_t i = 0; i < got / sizeof *entries && page < end; i++, page++)
            if ((entries[i] >> 61 & 1) == 0) {
                drop(first, page, page_bytes);
                first = page + 1;
            }
    }
    if (file >= 0) {
        drop(first, page, page_bytes);
        close(file);
    }
}

void trim_memory(void)
{
    drop_read_only_pages();
    if (is_snapshot() && is_single_threaded())
        drop_clean_pages(HEAP_ADDRESS, heap_size());
}
