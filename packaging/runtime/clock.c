/* clock_gettime in place of musl's, which looks for the kernel's function once and keeps its address:
   in a process that begins with a snapshot it is another one. Until it is looked for, and where there
   is none, the clock is asked by system call. (musl's sched_getcpu does the same; nobody calls it.) */
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "layout.h"

#if defined(__x86_64__)
#define VERSION "LINUX_2.6"
#define NAME "__vdso_clock_gettime"
#elif defined(__aarch64__)
#define VERSION "LINUX_2.6.39"
#define NAME "__kernel_clock_gettime"
#endif

void *__vdsosym(const char *version, const char *name); /* musl's, for its own clock_gettime */

static int (*kernels_clock)(clockid_t, struct timespec *);

void find_clock(void)
{
    kernels_clock = __vdsosym(VERSION, NAME);
}

int __clock_gettime(clockid_t clock, struct timespec *time)
{
    int error = kernels_clock == NULL ? -ENOSYS : kernels_clock(clock, time);
    if (error == 0)
        return 0;
    return (int)syscall(SYS_clock_gettime, clock, time);
}

int clock_gettime(clockid_t, struct timespec *) __attribute__((alias("__clock_gettime")));
