"""Stages called in the process of the tests."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def kept(compiled_once):
    """Many tests call a stage with the same shapes."""


@pytest.fixture(autouse=True)
def the_compile_cache_is_left_as_it_was():
    """A stage called in this process says where JAX keeps its programs."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)
