"""How this process's memory is allocated, where programs run on the CPU.

XLA asks malloc for the temporaries of a program at each call and frees them after it. By default glibc gives such large
pieces back to the system, which hands them out again page by page: a seventh of the time of an update of SmolLM2-135M
(benchmarks/README.md). Kept, the memory is there for the next call, and a process stays as large as it has once been.

What the first step of a loop leaves in the heap may be a hole that the second one's temporaries just do not fit into,
because something small has settled at its end. It is given back once, after that step: otherwise one process in three
stays at 11 GiB in the place of 7 in a reward model's updates.
"""

import ctypes
import glob
import os
import sys

# mallopt(3): parameter, value.
KEPT = (
    (-8, 1),  # M_ARENA_MAX: one heap for all threads; one of a thread's own never grows past 64 MB
    (-4, 0),  # M_MMAP_MAX: nothing from outside the heap
    (-1, -1),  # M_TRIM_THRESHOLD: never give the heap's end back
    (-2, 2**26),  # M_TOP_PAD: bytes by which the heap grows beyond what is asked
)
_kept = []  # the C library, once it keeps what is freed
ACCELERATORS = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia[0-9]*", "/dev/kfd")


def keep_freed_memory() -> bool:
    """Has malloc keep what is freed; in effect only before JAX starts its threads.

    Does nothing where programs run on an accelerator, where the C library is not glibc, or where the environment's
    MALLOC_ variables say otherwise.

    Returns:
      Whether it has.
    """
    told = any(name.startswith("MALLOC_") for name in os.environ)
    if told or not sys.platform.startswith("linux") or not runs_on_cpu():
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - glibc's own
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    kept = all(mallopt(parameter, value) for parameter, value in KEPT)
    _kept[:] = [libc] * kept
    return kept


def give_back() -> None:
    """Gives what is free in the heap back to the system; where nothing is kept there is nothing to give.

    To be called once in a loop, after its first step has ended.
    """
    for libc in _kept:
        libc.malloc_trim(0)


def runs_on_cpu() -> bool:
    """Whether JAX will run programs on the CPU, as far as can be known before it is imported."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not any(glob.glob(pattern) for pattern in ACCELERATORS)
