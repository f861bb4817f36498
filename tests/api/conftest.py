"""Two tiny models as folders, made once, and a working folder that has them."""

import pytest

from tests.api.tiny import write_models


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with models/policy and models/reward."""
    folder = tmp_path_factory.mktemp("api")
    write_models(folder / "models")
    return folder


@pytest.fixture(scope="module", autouse=True)
def kept(compiled_once):
    """Each training compiles programs of its own."""


@pytest.fixture
def here(models, monkeypatch):
    """The same as the working folder."""
    monkeypatch.chdir(models)
    return models
