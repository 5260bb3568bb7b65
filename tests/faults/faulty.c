/* Makes calls of the C library that touch files fail or wait, as a file says that can be changed
 * while a program runs. Preloaded (LD_PRELOAD) into the ranks of a run.
 *
 * MEGADGA_TEST_FAULTY names that file. A line of it is "CALL ERRNO RANK PART": calls CALL (write,
 * fsync, open, rename, mkdir) of the rank RANK on a path with PART in it fail with ERRNO, or wait
 * for as long as the line is there if ERRNO is 0. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

/* The errno of the line that fits, 0 for one that waits, -1 without one. */
static int find(const char *call, const char *path) {
    const char *control = getenv("MEGADGA_TEST_FAULTY"), *rank = getenv("RANK");
    char text[4096], wanted[16], part[1024];
    int code, of_rank, used;
    if (control == NULL || rank == NULL)
        return -1;
    int file = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY);
    if (file < 0)
        return -1;
    ssize_t size = syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    text[size > 0 ? size : 0] = 0;
    for (char *line = text;
         sscanf(line, " %15s %d %d %1023s%n", wanted, &code, &of_rank, part, &used) == 4;
         line += used)
        if (!strcmp(call, wanted) && of_rank == atoi(rank) && strstr(path, part))
            return code;
    return -1;
}

/* Whether a call is to fail, with errno set; it may wait first. */
static int fails(const char *call, const char *path) {
    int code;
    while ((code = find(call, path)) == 0)
        usleep(20000);
    if (code > 0)
        errno = code;
    return code > 0;
}

static int fails_on(const char *call, int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return fails(call, path);
}

ssize_t write(int file, const void *data, size_t size) {
    return fails_on("write", file) ? -1 : REAL(write)(file, data, size);
}

int fsync(int file) {
    return fails_on("fsync", file) ? -1 : REAL(fsync)(file);
}

int rename(const char *from, const char *to) {
    return fails("rename", to) ? -1 : REAL(rename)(from, to);
}

int mkdir(const char *path, mode_t mode) {
    return fails("mkdir", path) ? -1 : REAL(mkdir)(path, mode);
}

static int opened(const char *name, const char *path, int flags, mode_t mode) {
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    if (writes && fails("open", path))
        return -1;
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, name))(path, flags, mode);
}

#define OPEN(name)                                \
    int name(const char *path, int flags, ...) {  \
        va_list rest;                             \
        va_start(rest, flags);                    \
        mode_t mode = va_arg(rest, mode_t);       \
        va_end(rest);                             \
        return opened(#name, path, flags, mode);  \
    }

OPEN(open)
OPEN(open64)
