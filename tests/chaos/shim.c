/* Loaded into the service before the C library (LD_PRELOAD): a disk that is full, a disk that does not sync, and a clock
 * that is wrong, as a file says that both processes map.
 *
 *   TALLYGUARD_SHIM_CONTROL  that file: int32 disk (0 well, 1 full, 2 syncs fail), int32 unused, int64 seconds the clock is off
 *   TALLYGUARD_SHIM_FOLDER   the disk: everything below it
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

struct control {
  volatile int32_t disk;
  int32_t unused;
  volatile int64_t clock_off;
};

enum { WELL, FULL, NO_SYNC };

static struct control nothing;
static struct control *control = &nothing;
static const char *folder;

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("TALLYGUARD_SHIM_CONTROL");
  folder = getenv("TALLYGUARD_SHIM_FOLDER");
  if (!path || !folder) return;
  int fd = open(path, O_RDONLY);
  if (fd < 0) return;
  void *mapped = mmap(NULL, sizeof(struct control), PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  if (mapped != MAP_FAILED) control = mapped;
}

static int is_on_disk(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return strncmp(path, folder, strlen(folder)) == 0;
}

static int is_full(int fd) {
  if (control->disk != FULL || !is_on_disk(fd)) return 0;
  errno = ENOSPC;
  return 1;
}

static int does_not_sync(int fd) {
  if (control->disk != NO_SYNC || !is_on_disk(fd)) return 0;
  errno = EIO;
  return 1;
}

ssize_t write(int fd, const void *data, size_t size) {
  REAL(write);
  return is_full(fd) ? -1 : real(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL(writev);
  return is_full(fd) ? -1 : real(fd, parts, count);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
  REAL(pwrite);
  return is_full(fd) ? -1 : real(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  REAL(pwrite64);
  return is_full(fd) ? -1 : real(fd, data, size, at);
}

int fallocate(int fd, int mode, off_t at, off_t size) {
  REAL(fallocate);
  return is_full(fd) ? -1 : real(fd, mode, at, size);
}

int fsync(int fd) {
  REAL(fsync);
  return does_not_sync(fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
  REAL(fdatasync);
  return does_not_sync(fd) ? -1 : real(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  REAL(clock_gettime);
  int result = real(clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += control->clock_off;
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  REAL(gettimeofday);
  int result = real(now, zone);
  if (result == 0) now->tv_sec += control->clock_off;
  return result;
}

time_t time(time_t *where) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (where) *where = now.tv_sec;
  return now.tv_sec;
}

/* Who waits until a time of day has computed it with the wrong clock, and the kernel compares it with the right one. A
 * monotonic clock is far from the year 2001. */
static struct timespec right(const struct timespec *until) {
  struct timespec time = *until;
  if (time.tv_sec > 1000000000) time.tv_sec -= control->clock_off;
  return time;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
  static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  /* The name alone would find the version of 1998. */
  if (!real) *(void **)&real = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  struct timespec time = right(until);
  return real(cond, mutex, &time);
}

int cnd_timedwait(cnd_t *restrict cond, mtx_t *restrict mutex, const struct timespec *restrict until) {
  static int (*real)(cnd_t *, mtx_t *, const struct timespec *);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "cnd_timedwait");
  struct timespec time = right(until);
  return real(cond, mutex, &time);
}
