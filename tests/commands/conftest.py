"""Stages called in the process of the tests."""

import jax
import pytest


@pytest.fixture(autouse=True)
def no_compile_cache_is_left_on():
    """A stage called in this process points JAX at its workdir."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)
