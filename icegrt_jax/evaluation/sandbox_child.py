"""The process in which a model's program runs: reads a job, gives up all it can, runs the program, says how it ended.

Run by `sandbox.py` as a script, without the package: it imports nothing of ours. Linux on x86-64 and arm64: Landlock
for files, a seccomp filter for everything that is not computing or reading those, limits for time and memory.
"""

import ctypes
import errno
import json
import os
import resource
import struct
import sys

UNAVAILABLE = 3  # exit code
FIRST_ABI = 1
# Landlock, <linux/landlock.h>.
CREATE, ADD, RESTRICT = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
RIGHTS = {
    1: (1 << 13) - 1,
    2: (1 << 14) - 1,
    3: (1 << 15) - 1,
    5: (1 << 16) - 1,
}  # of files, by the ABI that brings them
NET = {4: 3}
SCOPES = {6: 3}  # abstract sockets, signals
NO_NEW_PRIVS, SET_SECCOMP, SET_DUMPABLE = 38, 22, 4
# seccomp, <linux/seccomp.h>, <linux/filter.h>.
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
# What a program that computes needs of the system, by number. There is no socket, process, thread, signal to others,
# permission, mount, device, shared memory or trace among it.
NEEDED = {
    "x86_64": (
        0xC000003E,
        {
            "read": 0, "write": 1, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "lseek": 8, "mmap": 9, "mprotect": 10,
            "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "ioctl": 16,
            "pread64": 17, "readv": 19, "writev": 20, "access": 21, "sched_yield": 24, "mremap": 25, "madvise": 28,
            "dup": 32, "nanosleep": 35, "getpid": 39, "exit": 60, "uname": 63, "fcntl": 72, "fsync": 74,
            "ftruncate": 77, "getdents": 78, "getcwd": 79, "chdir": 80, "rename": 82, "mkdir": 83, "rmdir": 84,
            "unlink": 87, "readlink": 89, "gettimeofday": 96, "getrusage": 98, "getuid": 102, "getgid": 104,
            "geteuid": 107, "getegid": 108, "sigaltstack": 131, "gettid": 186, "futex": 202, "sched_getaffinity": 204,
            "getdents64": 217, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231,
            "openat": 257, "mkdirat": 258, "newfstatat": 262, "unlinkat": 263, "renameat": 264, "readlinkat": 267,
            "faccessat": 269, "set_robust_list": 273, "getrandom": 318, "statx": 332, "rseq": 334, "faccessat2": 439,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "getcwd": 17, "dup": 23, "fcntl": 25, "ioctl": 29, "mkdirat": 34, "unlinkat": 35, "renameat": 38,
            "ftruncate": 46, "faccessat": 48, "chdir": 49, "openat": 56, "close": 57, "getdents64": 61, "lseek": 62,
            "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "readlinkat": 78, "newfstatat": 79,
            "fstat": 80, "fsync": 82, "exit": 93, "exit_group": 94, "futex": 98, "set_robust_list": 99,
            "nanosleep": 101, "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115,
            "sched_getaffinity": 123, "sched_yield": 124,
            "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139,
            "uname": 160, "getrusage": 165, "gettimeofday": 169, "getpid": 172, "getuid": 174, "geteuid": 175,
            "getgid": 176, "getegid": 177, "gettid": 178, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222,
            "mprotect": 226, "madvise": 233, "getrandom": 278, "statx": 291, "rseq": 293, "faccessat2": 439,
        },
    ),
}  # fmt: skip


class Unavailable(Exception):
    """The system does not hold what it has to."""


def limit(job: dict) -> None:
    """Time of the processor, memory, files, and no memory image of a crash."""
    resource.setrlimit(resource.RLIMIT_CPU, (job["seconds"], job["seconds"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (job["memory"], job["memory"]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], job["file_size"]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, 64 << 20))


def hold_files(libc: ctypes.CDLL, readable: list, writable: str) -> None:
    """Landlock: nothing is opened but what is under `readable`, and `writable`, which may be written."""
    abi = libc.syscall(CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    if abi < FIRST_ABI:
        raise Unavailable("the kernel has no Landlock (Linux 5.13 and newer have, where it is not switched off)")
    handled = RIGHTS[max(version for version in RIGHTS if version <= abi)]
    words = [handled, NET[4] if abi >= 4 else 0, SCOPES[6] if abi >= 6 else 0]
    size = 8 * (3 if abi >= 6 else 2 if abi >= 4 else 1)
    attributes = ctypes.create_string_buffer(struct.pack("<3Q", *words), 24)
    rules = libc.syscall(CREATE, attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    if rules < 0:
        raise Unavailable("Landlock takes no rules")
    rights = {path: READ_FILE | READ_DIR for path in readable}
    rights[writable] = handled & ~EXECUTE
    for path, allowed in rights.items():
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not os.path.isdir(path):
            allowed &= READ_FILE | WRITE_FILE
        rule = ctypes.create_string_buffer(struct.pack("<Qi", allowed, place), 12)
        if libc.syscall(ADD, rules, 1, rule, ctypes.c_uint(0)):
            raise Unavailable(f"Landlock takes no rule for {path}")
        os.close(place)
    if libc.syscall(RESTRICT, rules, ctypes.c_uint(0)):
        raise Unavailable("Landlock is not put into force")
    os.close(rules)


def hold_calls(libc: ctypes.CDLL) -> None:
    """seccomp: a call of the system that is not among those needed is refused; another architecture's ends it."""
    machine, calls = NEEDED[os.uname().machine]
    numbers = sorted(calls.values())
    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, machine), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for left, number in zip(range(len(numbers), 0, -1), numbers):
        code.append((EQUAL, left, 0, number))  # over the rest and the refusal
    code += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    filled = b"".join(struct.pack("<HBBI", *one) for one in code)
    program = ctypes.create_string_buffer(filled, len(filled))
    pointer = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(program)), 16)
    if libc.prctl(SET_SECCOMP, 2, pointer):
        raise Unavailable("the kernel takes no seccomp filter")


def hold(job: dict) -> None:
    """All of it, or `Unavailable`."""
    if sys.platform != "linux" or os.uname().machine not in NEEDED:
        raise Unavailable(f"there is no sandbox for {sys.platform} on {os.uname().machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    zero, one = ctypes.c_ulong(0), ctypes.c_ulong(1)
    if libc.prctl(NO_NEW_PRIVS, one, zero, zero, zero) or libc.prctl(SET_DUMPABLE, zero, zero, zero, zero):
        raise Unavailable("the kernel does not let a process give up privileges")
    hold_files(libc, job["readable"], job["folder"])
    hold_calls(libc)


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    verdict = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.chdir(job["folder"])
    os.umask(0o077)
    try:
        limit(job)
        hold(job)
    except Unavailable as error:
        os.write(verdict, f"unavailable {error}".encode())
        os._exit(UNAVAILABLE)
    said, token = b"failed", job.pop("token").encode()
    try:
        exec(compile(job["program"], "program.py", "exec"), {"__name__": "program"})
        said = b"passed " + token
    except MemoryError:
        said = b"failed MemoryError"
    except BaseException as error:  # sys.exit() as well, which is no success
        said = b"failed " + type(error).__name__.encode()
    os.write(verdict, said)
    os._exit(0)


if __name__ == "__main__":
    main()
