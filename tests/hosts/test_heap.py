"""What a program frees stays with the process."""

import ctypes
import glob
import subprocess
import sys

import pytest

from icegrt_jax.hosts import heap
from tests.stand_in import instead

FAULTS = """
import resource
from icegrt_jax.hosts.heap import keep_freed_memory
assert keep_freed_memory()
import jax, jax.numpy as jnp
program = jax.jit(lambda x: x + 1.0)
x = jnp.ones(2**24)  # 64 MB
taken = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
for _ in range(24):
    program(x).block_until_ready()
    taken.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(min(after - before for before, after in zip(taken, taken[1:])))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_a_program_called_again_is_given_the_memory_that_it_freed(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    process = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) < 1000  # pages; the result has 16384 of them


HOLE = """
import resource
from icegrt_jax.hosts import heap
assert heap.keep_freed_memory()
import jax, jax.numpy as jnp
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
x = jnp.ones(2**26).block_until_ready()  # 256 MB
x.delete()
before = resident()
heap.give_back()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_what_is_free_can_be_given_back(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    process = subprocess.run([sys.executable, "-c", HOLE], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert float(process.stdout) > 200
    monkeypatch.setattr(heap, "_watches", [])
    heap.give_back()  # nothing is kept: nothing happens


# Aligned memory, something small that settles behind it and stays; then it is freed, and its successor does not fit.
PINNED = """
import ctypes, sys, time
from icegrt_jax.hosts import heap
heap.LOOK_S = 1e9 if sys.argv[1] == "by hand" else heap.LOOK_S
assert heap.keep_freed_memory()
watch, libc, size, pieces, held = heap._watches[0], ctypes.CDLL(None), 2**27, 16, []
libc.malloc.restype = ctypes.c_void_p
look = watch.look if sys.argv[1] == "by hand" else bool
before = watch.resident()
most = 0
for _ in range(8):
    p = ctypes.c_void_p()
    assert not libc.posix_memalign(ctypes.byref(p), 64, size)
    for piece in range(pieces):
        ctypes.memset(p.value + piece * size // pieces, 1, size // pieces)
        look()
        most = max(most, watch.resident())
    held.append(libc.malloc(88))
    libc.free(p)
began = time.monotonic()
while sys.argv[1] == "by itself" and watch.resident() - before > 1.5 * size and time.monotonic() - began < 20:
    time.sleep(0.05)
print((most - before) / size, (watch.resident() - before) / size)
"""


def pinned(monkeypatch, way: str) -> list[float]:
    """The most that was resident at a time and what stays, over what was in use."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    process = subprocess.run([sys.executable, "-c", PINNED, way], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return [float(x) for x in process.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_holes_that_nothing_fits_into_do_not_pile_up(monkeypatch):
    most, stays = pinned(monkeypatch, "by hand")
    assert most < 1.4 and stays < 1.4  # eight without a watch


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_the_process_itself_watches_its_heap(monkeypatch):
    assert pinned(monkeypatch, "by itself")[1] < 1.5


def test_nothing_is_changed_beside_an_accelerator_or_against_the_environment(monkeypatch):
    called = []
    monkeypatch.setattr(heap, "ctypes", instead(ctypes, CDLL=called.append))
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    assert not heap.keep_freed_memory()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not heap.keep_freed_memory()
    assert not called


def test_an_accelerator_is_found_by_its_device_file(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(heap, "glob", instead(glob, glob=lambda pattern: []))
    assert heap.runs_on_cpu()
    monkeypatch.setattr(
        heap, "glob", instead(glob, glob=lambda pattern: ["/dev/nvidia0"] if "nvidia" in pattern else [])
    )
    assert not heap.runs_on_cpu()
