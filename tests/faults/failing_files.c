/* Makes calls for files in one folder fail, as a network file system does.

   Loaded with LD_PRELOAD, so it also reaches TensorStore, which is C++. The call
   number `first` of the kind `call`, and the `count - 1` after it, fail with
   `error`. All other calls go through. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096], call[32];
static int error, first, count;
static atomic_int seen;

/* Sets what fails from now on; call "" for nothing. */
void failing_files_set(const char *f, const char *c, int e, int at, int n) {
  call[0] = 0;
  atomic_store(&seen, 0);
  snprintf(folder, sizeof folder, "%s", f);
  error = e, first = at, count = n;
  snprintf(call, sizeof call, "%s", c);
}

/* How many calls of this kind there were. */
int failing_files_seen(void) { return atomic_load(&seen); }

/* FAILING_FILES="FOLDER CALL ERROR FIRST COUNT", for a whole process. */
__attribute__((constructor)) static void from_environment(void) {
  char f[4096], c[32];
  int e, at, n;
  const char *text = getenv("FAILING_FILES");
  if (text && sscanf(text, "%4095s %31s %d %d %d", f, c, &e, &at, &n) == 5)
    failing_files_set(f, c, e, at, n);
}

static int fails(const char *kind, int dir, const char *path) {
  if (!call[0] || strcmp(call, kind)) return 0;
  char full[8192] = "", link[64];
  if (!path || path[0] != '/') {
    if (dir < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    long n = syscall(SYS_readlink, link, full, 4096);
    if (n < 0) return 0;
    full[n] = 0;
    if (path) strcat(strcat(full, "/"), path);
  } else {
    snprintf(full, sizeof full, "%s", path);
  }
  if (strncmp(full, folder, strlen(folder))) return 0;
  int number = atomic_fetch_add(&seen, 1) + 1;
  if (number < first || number - first >= count) return 0;
  errno = error;
  return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define PATH1(name, kind, type)                     \
  int name(const char *path, type b) {              \
    if (fails(kind, -1, path)) return -1;           \
    return REAL(name)(path, b);                     \
  }
#define PATH0(name, kind)                           \
  int name(const char *path) {                      \
    if (fails(kind, -1, path)) return -1;           \
    return REAL(name)(path);                        \
  }
#define FD0(name, kind)                             \
  int name(int fd) {                                \
    if (fails(kind, fd, NULL)) return -1;           \
    return REAL(name)(fd);                          \
  }
#define OPEN(name)                                  \
  int name(const char *path, int flags, ...) {      \
    va_list more;                                   \
    va_start(more, flags);                          \
    int mode = va_arg(more, int);                   \
    va_end(more);                                   \
    if (fails("open", -1, path)) return -1;         \
    return REAL(name)(path, flags, mode);           \
  }
#define OPENAT(name)                                \
  int name(int dir, const char *path, int flags, ...) { \
    va_list more;                                   \
    va_start(more, flags);                          \
    int mode = va_arg(more, int);                   \
    va_end(more);                                   \
    if (fails("open", dir, path)) return -1;        \
    return REAL(name)(dir, path, flags, mode);      \
  }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
PATH1(mkdir, "mkdir", mode_t)
PATH1(stat, "stat", struct stat *)
PATH1(stat64, "stat", struct stat64 *)
PATH1(lstat, "stat", struct stat *)
PATH1(lstat64, "stat", struct stat64 *)
PATH0(rmdir, "rmdir")
PATH0(unlink, "unlink")
FD0(fsync, "fsync")
FD0(fdatasync, "fsync")

int fstat(int fd, struct stat *status) {
  if (fails("stat", fd, NULL)) return -1;
  return REAL(fstat)(fd, status);
}
int fstat64(int fd, struct stat64 *status) {
  if (fails("stat", fd, NULL)) return -1;
  return REAL(fstat64)(fd, status);
}
int fstatat64(int dir, const char *path, struct stat64 *status, int flags) {
  if (fails("stat", dir, path)) return -1;
  return REAL(fstatat64)(dir, path, status, flags);
}
/* The names in programs that were built with an older C library. */
int __xstat(int version, const char *path, struct stat *status) {
  (void)version;
  return stat(path, status);
}
int __lxstat(int version, const char *path, struct stat *status) {
  (void)version;
  return lstat(path, status);
}
int __fxstat(int version, int fd, struct stat *status) {
  (void)version;
  return fstat(fd, status);
}
int unlinkat(int dir, const char *path, int flags) {
  if (fails(flags & AT_REMOVEDIR ? "rmdir" : "unlink", dir, path)) return -1;
  return REAL(unlinkat)(dir, path, flags);
}
int rename(const char *from, const char *to) {
  if (fails("rename", -1, to)) return -1;
  return REAL(rename)(from, to);
}
int close(int fd) {
  int failed = fails("close", fd, NULL);
  int result = REAL(close)(fd);
  if (!failed) return result;
  errno = error;
  return -1;
}
ssize_t read(int fd, void *to, size_t n) {
  if (fails("read", fd, NULL)) return -1;
  return REAL(read)(fd, to, n);
}
ssize_t pread(int fd, void *to, size_t n, off_t at) {
  if (fails("read", fd, NULL)) return -1;
  return REAL(pread)(fd, to, n, at);
}
ssize_t pread64(int fd, void *to, size_t n, off64_t at) {
  if (fails("read", fd, NULL)) return -1;
  return REAL(pread64)(fd, to, n, at);
}
ssize_t write(int fd, const void *from, size_t n) {
  if (fails("write", fd, NULL)) return -1;
  return REAL(write)(fd, from, n);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
  if (fails("write", fd, NULL)) return -1;
  return REAL(writev)(fd, parts, n);
}
DIR *opendir(const char *path) {
  if (fails("opendir", -1, path)) return NULL;
  return REAL(opendir)(path);
}
DIR *fdopendir(int fd) {
  if (fails("opendir", fd, NULL)) return NULL;
  return REAL(fdopendir)(fd);
}
struct dirent *readdir(DIR *dir) {
  if (fails("readdir", dirfd(dir), NULL)) return NULL;
  return REAL(readdir)(dir);
}
struct dirent64 *readdir64(DIR *dir) {
  if (fails("readdir", dirfd(dir), NULL)) return NULL;
  return REAL(readdir64)(dir);
}
