/* Reads that fail, for LD_PRELOAD: of a chosen file, at its n-th read or at all of them. To map a
 * file counts as one.
 *
 * Armed by soup_reads(), or from the start by SOUP_READS="how at part-of-the-path" in the
 * environment, which what is started from there inherits.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NEVER, COUNT, BROKEN, SHORT, SHRINKS, VANISHES, CHANGES };

static int how = NEVER, at = 0, seen = 0;
static char part[PATH_MAX];

void soup_reads(int what, int which, const char *name)
{
    at = which;
    seen = 0;
    snprintf(part, sizeof part, "%s", name);
    how = what;
}

int soup_reads_seen(void) { return seen; }

__attribute__((constructor)) static void begin(void)
{
    const char *given = getenv("SOUP_READS");
    int what, which;
    char name[PATH_MAX];
    if (given && sscanf(given, "%d %d %4095s", &what, &which, name) == 3)
        soup_reads(what, which, name);
}

/* What happens to this read; what happens to the file has happened. */
static int struck(int fd)
{
    char link[64], path[PATH_MAX];
    ssize_t length;
    if (how == NEVER)
        return NEVER;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return NEVER;
    path[length] = 0;
    if (!strstr(path, part))
        return NEVER;
    int number = __sync_add_and_fetch(&seen, 1);
    if (at && number != at)
        return NEVER;
    struct stat state;
    if (how >= SHRINKS && stat(path, &state) == 0) {
        if (how == SHRINKS)
            (void)!truncate(path, state.st_size / 2);
        if (how == VANISHES)
            unlink(path);
        int file = how == CHANGES ? open(path, O_RDWR) : -1;
        unsigned char byte;
        off_t last = state.st_size - 3;
        if (file >= 0) {
            if (pread(file, &byte, 1, last) == 1) {
                byte ^= 1;
                (void)!pwrite(file, &byte, 1, last);
            }
            close(file);
        }
    }
    return how;
}

#define REAL(name, type) \
    static __typeof__(type) real; \
    if (!real) \
        real = (type)dlsym(RTLD_NEXT, name)

#define FEWER(size, what) ((what) == SHORT && (size) > 1 ? ((size) + 1) / 2 : (size))

#define FAIL_IF_BROKEN(what) \
    if ((what) == BROKEN) { \
        errno = EIO; \
        return -1; \
    }

ssize_t read(int fd, void *to, size_t size)
{
    REAL("read", ssize_t (*)(int, void *, size_t));
    int what = struck(fd);
    FAIL_IF_BROKEN(what)
    return real(fd, to, FEWER(size, what));
}

static ssize_t positioned(int fd, void *to, size_t size, off_t from)
{
    REAL("pread64", ssize_t (*)(int, void *, size_t, off_t));
    int what = struck(fd);
    FAIL_IF_BROKEN(what)
    return real(fd, to, FEWER(size, what), from);
}

ssize_t pread(int fd, void *to, size_t size, off_t from)
{
    return positioned(fd, to, size, from);
}
ssize_t pread64(int fd, void *to, size_t size, off_t from)
{
    return positioned(fd, to, size, from);
}

/* A short one reads half of its first buffer. */
static ssize_t scattered(int fd, const struct iovec *to, int count, off_t from, int flags)
{
    REAL("preadv64v2", ssize_t (*)(int, const struct iovec *, int, off_t, int));
    int what = struck(fd);
    FAIL_IF_BROKEN(what)
    if (what == SHORT && count > 0 && to[0].iov_len > 1) {
        struct iovec first = {to[0].iov_base, (to[0].iov_len + 1) / 2};
        return real(fd, &first, 1, from, flags);
    }
    return real(fd, to, count, from, flags);
}

ssize_t preadv(int fd, const struct iovec *to, int n, off_t from)
{
    return scattered(fd, to, n, from, 0);
}
ssize_t preadv64(int fd, const struct iovec *to, int n, off_t from)
{
    return scattered(fd, to, n, from, 0);
}
ssize_t preadv2(int fd, const struct iovec *to, int n, off_t from, int flags)
{
    return scattered(fd, to, n, from, flags);
}
ssize_t preadv64v2(int fd, const struct iovec *to, int n, off_t from, int flags)
{
    return scattered(fd, to, n, from, flags);
}

/* What happens to the file happens once it is mapped. */
static void *mapped(void *where, size_t size, int may, int flags, int fd, off_t from)
{
    REAL("mmap64", void *(*)(void *, size_t, int, int, int, off_t));
    void *found = real(where, size, may, flags, fd, from);
    if (fd >= 0 && found != MAP_FAILED && struck(fd) == BROKEN) {
        munmap(found, size);
        errno = EIO;
        return MAP_FAILED;
    }
    return found;
}

void *mmap(void *where, size_t size, int may, int flags, int fd, off_t from)
{
    return mapped(where, size, may, flags, fd, from);
}
void *mmap64(void *where, size_t size, int may, int flags, int fd, off_t from)
{
    return mapped(where, size, may, flags, fd, from);
}
