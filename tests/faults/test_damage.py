"""Damaged checkpoints: what is read is what was saved, of this step or of the one before, or it is one sentence."""

import logging
import pathlib
import random
import shutil
import types

import pytest

from icegrt_jax.errors import UserError
from icegrt_jax.training import checkpoints as checkpoints_module
from icegrt_jax.training.checkpoints import Broken, Checkpoints, abstract_like
from tests.faults.checkpoints import files_of, read, save, state, tried
from tests.faults.damages import WAYS, damage

# Orbax's: where one of several reads fails, it leaves the others as they are.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("run") / "ppo" / "checkpoints"
    save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> pathlib.Path:
    shutil.copytree(saved, tmp_path / "ppo" / "checkpoints")
    return tmp_path / "ppo" / "checkpoints"


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_file_of_a_checkpoint_never_gives_other_numbers(saved, tmp_path, way, capsys):
    """Each file in turn: the newest checkpoint if the damage is harmless, else the one before, and a warning."""
    rng, steps = random.Random(0), []
    for name in files_of(saved / "4"):
        folder = tmp_path / "checkpoints"
        steps.append(tried(saved, folder, name, way, rng))
        warned = capsys.readouterr()
        assert (steps[-1] == 2) == ("going on from step 2, it is kept as 4.broken" in warned.out), name
        assert (folder / "4.broken").exists() == (steps[-1] == 2) and not warned.err
    assert steps.count(2) >= 2, steps


def test_of_reads_that_fail_where_orbax_says_nothing_nothing_is_logged_later(folder, monkeypatch):
    """One file in four tries, cut in its middle, left tasks whose errors were printed whenever they were collected."""
    monkeypatch.setattr(logging.getLogger("asyncio"), "filters", [])
    nothing = types.SimpleNamespace(metadata=None, custom_metadata=None)
    monkeypatch.setattr(checkpoints_module.ocp, "metadata", lambda path: nothing)
    with Checkpoints(folder) as checkpoints, pytest.raises(Broken, match="does not say what it holds"):
        checkpoints.restore(abstract_like(state(4)))
    late = logging.LogRecord("asyncio", logging.ERROR, "", 0, "Task exception was never retrieved", (), None)
    other = logging.LogRecord("asyncio", logging.ERROR, "", 0, "Executing a task took long", (), None)
    assert not logging.getLogger("asyncio").filter(late) and logging.getLogger("asyncio").filter(other)


@pytest.mark.parametrize("name", ["_METADATA", "d"])
def test_of_broken_checkpoints_alone_nothing_is_begun_anew(folder, name, capsys):
    for step in (2, 4):
        for path in (folder / str(step) / "state").rglob("*"):
            if path.is_file() and name in (path.name, path.parent.name):
                damage(path, "garbage", random.Random(step))
    with Checkpoints(folder) as checkpoints, pytest.raises(Broken) as error:
        checkpoints.newest(abstract_like(state(4)))
    said = str(error.value)
    assert said.startswith("no checkpoint can be gone on from: ") and f"delete {folder.parent}: ppo then" in said
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4"], "nothing is moved"


def test_a_copied_renamed_or_half_copied_folder_is_no_checkpoint(folder):
    shutil.copytree(folder / "4", folder / "6")  # whole, and of another step
    (folder / "8").mkdir()
    for path in sorted((folder / "4").rglob("*"))[:-3]:  # file by file, as a mounted bucket renames
        (folder / "8" / path.relative_to(folder / "4")).parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            shutil.copy(path, folder / "8" / path.relative_to(folder / "4"))
    assert read(folder) == 4
    assert {path.name for path in folder.iterdir()} == {"2", "4", "6.broken", "8.broken"}


def test_what_comes_after_a_broken_checkpoint_is_saved_in_its_place(folder):
    damage(next((folder / "4" / "state").rglob("d/*")), "one bit", random.Random(1))
    damage(folder / "4" / "_CHECKPOINT_METADATA", "deleted", random.Random(1))
    assert read(folder) == 2
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(4, state(4))
    assert read(folder) == 4


def test_a_finished_stage_s_damaged_model_is_a_sentence(folder):
    for path in (folder / "4" / "state").rglob("d/*"):
        damage(path, "one bit", random.Random(3))
    with Checkpoints(folder) as checkpoints, pytest.raises(UserError, match="Bring .*4 back from a copy, or delete"):
        checkpoints.restore({"params": abstract_like(state(4)["params"])}, 4, partial=True)


def test_checkpoints_of_older_versions_are_read(folder, monkeypatch):
    old = folder.parent / "old"
    with monkeypatch.context() as before:
        before.setattr("icegrt_jax.training.inventory.record", lambda step, tree: None)
        with Checkpoints(old) as checkpoints:
            checkpoints.save(2, state(2))
    assert read(old) == 2
