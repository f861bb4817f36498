"""A finished run, made once for the tests that look at one."""

import jax
import pytest

from tests.stages.runs import run


@pytest.fixture(autouse=True)
def no_compile_cache_is_left_on():
    """A stage called in this process points JAX at its workdir."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(workdir, what was printed) of a whole run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("chain") / "run"
    process = run("run", workdir)
    assert process.returncode == 0, process.stderr
    return workdir, process.stdout
