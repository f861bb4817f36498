"""A folder that is written takes the place of an older one whole, wherever it is killed."""

import pathlib

import pytest

from icegrt_jax.errors import UserError
from icegrt_jax.models.hf.folder import new_folder

FILES = ("config.json", "model.safetensors", "tokenizer.json")


def write(folder: pathlib.Path, text: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in FILES:
        (folder / name).write_text(text)


def read(folder: pathlib.Path) -> set[str]:
    return {(folder / name).read_text() for name in FILES}


def test_an_older_export_is_replaced_and_nothing_is_left_of_it(tmp_path):
    for text in ("old", "new"):
        with new_folder(tmp_path / "model") as folder:
            write(folder, text)
    assert read(tmp_path / "model") == {"new"} and [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("kill", range(2))
def test_a_rename_that_fails_leaves_the_older_export(tmp_path, monkeypatch, kill):
    write(tmp_path / "model", "old")
    renames, rename = iter(range(9)), pathlib.Path.rename

    def failing(path, target):
        if next(renames) == kill:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "rename", failing)
    with pytest.raises(OSError, match="No space"), new_folder(tmp_path / "model") as folder:
        write(folder, "new")
    assert read(tmp_path / "model") == {"old"}


def test_what_was_killed_between_two_renames_is_found_again(tmp_path):
    write(tmp_path / ".model.old", "old")
    write(tmp_path / ".model.tmp", "new")
    with pytest.raises(UserError), new_folder(tmp_path / "model") as folder:
        write(folder, "newer")
        raise UserError("later")
    assert read(tmp_path / "model") == {"old"}
    with new_folder(tmp_path / "model") as folder:
        write(folder, "newer")
    assert read(tmp_path / "model") == {"newer"} and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_link_to_an_export_stays_one(tmp_path):
    write(tmp_path / "model", "old")
    (tmp_path / "link").symlink_to("model")
    with new_folder(tmp_path / "link") as folder:
        write(folder, "new")
    assert (tmp_path / "link").is_symlink() and read(tmp_path / "model") == {"new"}
