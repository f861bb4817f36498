"""Two tiny models as folders, made once, and a working folder that has them."""

import jax
import pytest

from tests.api.tiny import write_models


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with models/policy and models/reward."""
    folder = tmp_path_factory.mktemp("api")
    write_models(folder / "models")
    return folder


@pytest.fixture(scope="module", autouse=True)
def compiled_once(models):
    """What one test has compiled the next one reads: each training compiles programs of its own."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (str(models / "compiled"), 0.0)):
        jax.config.update(name, value)
    yield
    for name, value in zip(names, before):
        jax.config.update(name, value)


@pytest.fixture
def here(models, monkeypatch):
    """The same as the working folder."""
    monkeypatch.chdir(models)
    return models
