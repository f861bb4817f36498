"""Every test sees eight simulated CPU devices, whatever the machine."""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from importlib.metadata import version

# Read when JAX first starts, hence before its import; subprocesses of tests inherit both.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
XLA_FLAGS = {
    "xla_force_host_platform_device_count": "8",
    # Tests compile much and compute little: code that isn't optimised is ready seven times sooner.
    "xla_backend_optimization_level": "0",
    "xla_cpu_parallel_codegen_split_count": "1",  # the workers have the cores, and each part has a price
}
if version("jaxlib") < "0.11":  # gone in later ones, which end the process over a flag they do not know
    XLA_FLAGS["xla_cpu_use_fusion_emitters"] = "false"
# XLA has a thread for each core or device, whichever are more, and one waits in a collective until the others come:
# eight devices that are given programs faster than they run them may wait for each other for ever on eight threads.
os.environ["PJRT_NPROC"] = "16"
given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join([given, *(f"--{k}={v}" for k, v in XLA_FLAGS.items() if k not in given)]).strip()

# Stages keep what they compile in one folder for all runs and subprocesses of a session. Each worker of xdist has its
# own: JAX does not write a file at once, and another worker might read half of it.
if "PYTEST_XDIST_WORKER" in os.environ:
    compiled = os.path.join(os.environ["JAX_COMPILATION_CACHE_DIR"], os.environ["PYTEST_XDIST_WORKER"])
else:
    compiled = tempfile.mkdtemp(prefix="icegrt-tests-compiled-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax  # noqa: E402 - reads XLA_FLAGS
import pytest  # noqa: E402
from jax.experimental.compilation_cache.compilation_cache import reset_cache  # noqa: E402

from tests.browser import browser  # noqa: E402, F401 - a fixture

# Not in this process, where tests read what the compiler says of a program, but for the modules that ask for it.
jax.config.update("jax_compilation_cache_dir", None)

jax.devices()  # has its threads from here on; subprocesses have one device or say so themselves
del os.environ["PJRT_NPROC"]

# Tracing makes many objects that live long, and a look through all of them frees next to nothing.
gc.set_threshold(50_000, 20, 20)

# [B] meeting [B, T] without a new axis is nearly always a mistake.
jax.config.update("jax_numpy_rank_promotion", "raise")


def _mappings() -> int:
    """Mappings of memory that this process has; 0 where the system does not say."""
    try:
        with open("/proc/self/maps", "rb") as maps:
            return sum(1 for _ in maps)
    except OSError:
        return 0


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_do_not_pile_up():
    """A program has about ten mappings, of which Linux gives a process 65,530: one too many is a crash in XLA."""
    yield
    if _mappings() > 25_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True, scope="module")
def figures_end_with_their_file():
    """Documented scripts leave theirs open, and files that count figures may follow in the same worker."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="module")
def compiled_once():
    """What one run in this process has compiled the next one reads; JAX looks for its cache once unless it is reset."""
    reset_cache()
    jax.config.update("jax_compilation_cache_dir", compiled)
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    reset_cache()


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(workdir, what was printed) of a whole run that nothing interrupted, made once for the tests that look at one."""
    from tests.commands.runs import run

    workdir = tmp_path_factory.mktemp("chain") / "run"
    process = run("run", workdir)
    assert process.returncode == 0, process.stderr
    return workdir, process.stdout
