/* Asks the kernel whether anybody has files open, as shmlease.auditor.observe.lease_probe does one by one: six system calls
   each, and nothing between them.

   Only two answers are given here: the kernel granted a lease, or refused it because somebody has the file. Every other file
   (one that is gone, another one under its name, one that this user may not open) is left for Python to ask about.

   Only syscall() of libc is called, and its errno read, which every libc has. Compiled by hatch_build.py. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SOURCE_CRC32
#define SOURCE_CRC32 0
#endif

const uint32_t shmlease_source_crc32 = SOURCE_CRC32;

enum answer { FREE, HELD, UNDECIDED }; /* as shmlease.auditor.observe.lease_probe lists them */

struct file {
    uint64_t device, inode;
};

static enum answer ask(int descriptor, const struct file *wanted)
{
    struct stat status;
    if (syscall(SYS_fstat, descriptor, &status) != 0 || status.st_dev != wanted->device || status.st_ino != wanted->inode)
        return UNDECIDED;
    if (syscall(SYS_fcntl, descriptor, F_SETSIG, SIGURG) != 0)
        return UNDECIDED;
    if (syscall(SYS_fcntl, descriptor, F_SETLEASE, F_WRLCK) != 0)
        return errno == EAGAIN ? HELD : UNDECIDED;
    syscall(SYS_fcntl, descriptor, F_SETLEASE, F_UNLCK); /* closing alone would not do where another thread has forked */
    return FREE;
}

/* Asks about `count` files of an open directory, whose names follow each other, each with a zero byte behind it. */
void shmlease_probe(int directory, const char *names, const struct file *files, int64_t count, uint8_t *answers)
{
    for (int64_t place = 0; place < count; place++) {
        int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
        int descriptor = (int)syscall(SYS_openat, directory, names, flags);
        if (descriptor >= 0) {
            answers[place] = ask(descriptor, files + place);
            syscall(SYS_close, descriptor);
        } else { /* EAGAIN: another probe holds a lease of its own on it right now */
            answers[place] = errno == EAGAIN ? HELD : UNDECIDED;
        }
        while (*names++)
            ;
    }
}
