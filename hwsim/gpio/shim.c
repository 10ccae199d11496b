/* LD_PRELOAD: lets the real libgpiod talk to a simulated chip.
 *
 * The path in HWSIM_GPIO_CHIP is a Unix socket of hwsim.gpio.chip. To libgpiod it looks like a GPIO
 * character device (Linux uapi, linux/gpio.h, version 2): stat says so, open connects, every ioctl
 * travels with its struct as one message and comes back filled in. A line request comes back with
 * two descriptors: one that is the request's (events are read from it, a stream of struct
 * gpio_v2_line_event), one to send its ioctls on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#define FDS 4096
#define MAJOR 254
#define SUBSYSTEM "/sys/dev/char/254:0/subsystem"

static int control_of[FDS]; /* the descriptor to send ioctls on, plus 1; 0: not ours */

static int is_chip(const char *path) {
    const char *chip = getenv("HWSIM_GPIO_CHIP");
    return chip && path && strcmp(path, chip) == 0;
}

static int chip_stat(struct stat *into, int real) {
    if (real == 0) { /* the socket is there */
        memset(into, 0, sizeof *into);
        into->st_mode = S_IFCHR | 0600;
        into->st_rdev = makedev(MAJOR, 0);
    }
    return real;
}

#define STAT(name)                                                                                 \
    int name(const char *path, struct stat *into) {                                                \
        static int (*real)(const char *, struct stat *);                                           \
        if (!real)                                                                                 \
            real = dlsym(RTLD_NEXT, #name);                                                        \
        return is_chip(path) ? chip_stat(into, real(path, into)) : real(path, into);               \
    }
#define XSTAT(name)                                                                                \
    int name(int version, const char *path, struct stat *into) {                                   \
        static int (*real)(int, const char *, struct stat *);                                      \
        if (!real)                                                                                 \
            real = dlsym(RTLD_NEXT, #name);                                                        \
        return is_chip(path) ? chip_stat(into, real(version, path, into))                          \
                             : real(version, path, into);                                          \
    }
STAT(stat)
STAT(lstat)
XSTAT(__xstat)
XSTAT(__lxstat)

char *realpath(const char *path, char *into) {
    static char *(*real)(const char *, char *);
    if (!real)
        real = dlsym(RTLD_NEXT, "realpath");
    if (path && strcmp(path, SUBSYSTEM) == 0)
        return into ? strcpy(into, "/sys/bus/gpio") : strdup("/sys/bus/gpio");
    return real(path, into);
}

static int chip_open(const char *path) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    strncpy(at.sun_path, path, sizeof at.sun_path - 1);
    if (fd >= FDS || connect(fd, (struct sockaddr *)&at, sizeof at) < 0) {
        close(fd);
        errno = ENODEV;
        return -1;
    }
    control_of[fd] = fd + 1;
    return fd;
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...) {                                                   \
        static int (*real)(const char *, int, ...);                                                \
        va_list rest;                                                                              \
        mode_t mode;                                                                               \
        va_start(rest, flags);                                                                     \
        mode = va_arg(rest, mode_t);                                                               \
        va_end(rest);                                                                              \
        if (!real)                                                                                 \
            real = dlsym(RTLD_NEXT, #name);                                                        \
        return is_chip(path) ? chip_open(path) : real(path, flags, mode);                          \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    static int (*real)(int);
    int control;
    if (!real)
        real = dlsym(RTLD_NEXT, "close");
    if (fd >= 0 && fd < FDS && (control = control_of[fd])) {
        control_of[fd] = 0;
        if (control - 1 != fd)
            real(control - 1);
    }
    return real(fd);
}

int ioctl(int fd, unsigned long request, ...) {
    static int (*real)(int, unsigned long, ...);
    struct {
        int32_t error;
        char data[2048];
    } reply;
    struct {
        uint64_t request;
        char data[2048];
    } asked;
    char space[CMSG_SPACE(2 * sizeof(int))];
    struct iovec part = {&reply, sizeof reply};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    struct cmsghdr *passed;
    size_t size = _IOC_SIZE(request);
    ssize_t got;
    va_list rest;
    void *data;
    int control;

    va_start(rest, request);
    data = va_arg(rest, void *);
    va_end(rest);
    if (!real)
        real = dlsym(RTLD_NEXT, "ioctl");
    if (fd < 0 || fd >= FDS || !control_of[fd])
        return real(fd, request, data);
    control = control_of[fd] - 1;
    asked.request = request;
    memcpy(asked.data, data, size);
    message.msg_control = space;
    message.msg_controllen = sizeof space;
    if (send(control, &asked, sizeof asked.request + size, MSG_NOSIGNAL) < 0 ||
        (got = recvmsg(control, &message, MSG_CMSG_CLOEXEC)) < (ssize_t)sizeof reply.error) {
        errno = ENODEV;
        return -1;
    }
    if (reply.error) {
        errno = reply.error;
        return -1;
    }
    memcpy(data, reply.data, size);
    passed = CMSG_FIRSTHDR(&message);
    if (passed && passed->cmsg_type == SCM_RIGHTS) {
        int fds[2];
        memcpy(fds, CMSG_DATA(passed), sizeof fds);
        control_of[fds[0]] = fds[1] + 1;
        ((struct gpio_v2_line_request *)data)->fd = fds[0];
    }
    return 0;
}
