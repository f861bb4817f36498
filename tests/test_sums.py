"""Checksums of small files: damage is noticed, a kill at any moment is not taken for it, and old folders are read."""

import json
import os
import pathlib

import pytest

from icegrt_jax import files, sums
from icegrt_jax.errors import UserError
from tests.stand_in import instead


@pytest.fixture
def folder(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setattr(sums, "PAUSE", 0.0)
    folder = tmp_path / "sft"
    sums.begin(folder)
    files.write_json_atomic(folder / "done.json", {"step": 3})
    files.append_jsonl(folder / "metrics.jsonl", [{"step": i, "loss": 0.5} for i in (1, 2, 3)])
    sums.settle(folder)
    return folder


def flipped(content: bytes) -> bytes:
    return content.replace(b"3", b"7")


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2], "emptied": lambda content: b"",
    "garbage": lambda content: b"\xff" * 40,
    "one bit": flipped, "a line less": lambda content: content[content.index(b"\n") + 1 :],
}  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["done.json", "metrics.jsonl"])
def test_every_damage_is_a_sentence_with_the_file(folder, name, how):
    path = folder / name
    path.write_bytes(DAMAGES[how](path.read_bytes()))
    read = files.read_json if name == "done.json" else files.read_jsonl
    for call in (lambda: read(path), lambda: sums.check(folder), lambda: sums.check_run(folder.parent)):
        with pytest.raises(UserError, match=f"{name} is not what was written there.* bring it back"):
            call()
    if name == "metrics.jsonl":
        with pytest.raises(UserError, match="is not what was written"):
            files.cut_jsonl(path, 2)


def test_a_file_that_is_gone_is_missed_where_it_cannot_be_made_again(folder):
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="metrics.jsonl is gone; bring it back"):
        files.cut_jsonl(folder / "metrics.jsonl", 2)
    with pytest.raises(UserError, match="metrics.jsonl is gone"):
        sums.check_run(folder.parent)
    files.cut_jsonl(folder / "metrics.jsonl", None)  # a stage that begins anew
    sums.check_run(folder.parent)


def test_what_is_added_behind_a_checkpoint_s_rows_may_be_there_or_not(folder):
    path = folder / "metrics.jsonl"
    files.append_jsonl(path, [{"step": 4}])
    with open(path, "a") as file:
        file.write('{"step": 5, "lo')  # killed
    assert [row["step"] for row in files.read_jsonl(path)] == [1, 2, 3, 4]
    files.cut_jsonl(path, 2)
    sums.check(folder)
    assert [row["step"] for row in files.read_jsonl(path)] == [1, 2]
    files.append_jsonl(path, [{"step": 3}])
    sums.settle(folder)
    assert [row["step"] for row in files.read_jsonl(path)] == [1, 2, 3]


@pytest.mark.parametrize("name", ["done.json", "new.json", "metrics.jsonl"])
def test_a_kill_at_any_rename_leaves_what_can_be_read(folder, monkeypatch, name):
    """Of the renames that a file's replacement takes, each is the last one in turn."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def change():
        if name == "metrics.jsonl":
            files.cut_jsonl(folder / name, 1)
        else:
            files.write_json_atomic(folder / name, {"step": 4})

    for last in range(4):
        for path in folder.iterdir():
            path.unlink()
        for of, content in before.items():
            (folder / of).write_bytes(content)
        count = iter(range(9))

        def counting(source, target, last=last, count=count):
            if next(count) > last:
                raise KeyboardInterrupt
            os.replace(source, target)

        for module in (files, sums):
            monkeypatch.setattr(module, "os", instead(os, replace=counting))
        try:
            change()
        except KeyboardInterrupt:
            assert last < 3
        for module in (files, sums):
            monkeypatch.setattr(module, "os", os)
        sums.check(folder, whole=False)
        change()
        sums.check(folder)
    assert all(isinstance(entry, str) for entry in json.loads((folder / sums.FILE_NAME).read_text()).values())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_checksums_that_are_damaged_themselves_are_a_sentence(folder, content):
    (folder / sums.FILE_NAME).write_bytes(content)
    with pytest.raises(UserError, match="bring it back, or delete it to go on without it"):
        files.read_json(folder / "done.json")


def test_folders_of_older_runs_are_read_as_they_are(tmp_path):
    files.write_json_atomic(tmp_path / "done.json", {"step": 3})
    (tmp_path / "done.json").write_text('{"step": 4}')
    assert files.read_json(tmp_path / "done.json") == {"step": 4}
    assert [path.name for path in tmp_path.iterdir()] == ["done.json"]
    (tmp_path / "done.json").write_text("{")
    with pytest.raises(UserError, match="done.json: not valid JSON"):
        files.read_json(tmp_path / "done.json")


def test_all_files_of_a_folder_get_their_checksums(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    sums.take(tmp_path)
    sums.check(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer.json is gone"):
        sums.check(tmp_path)


def test_of_a_file_that_grows_only_what_is_new_is_read_and_damage_before_it_is_still_told(folder):
    path = folder / "metrics.jsonl"
    entry = lambda: json.loads((folder / "checksums.json").read_text())["metrics.jsonl"]
    size = path.stat().st_size
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.7"))  # behind the back of the process that appends
    files.append_jsonl(path, [{"step": 4, "loss": 0.5}])
    sums.settle(folder)
    assert int(entry().split()[0]) == path.stat().st_size > size, "the old bytes were not compared again"
    with pytest.raises(UserError, match="metrics.jsonl is not what was written there"):
        files.read_jsonl(path)
    path.write_bytes(path.read_bytes().replace(b"0.7", b"0.5"))
    assert [row["step"] for row in files.read_jsonl(path)] == [1, 2, 3, 4]
    files.cut_jsonl(path, 2)  # another file: read whole
    files.append_jsonl(path, [{"step": 3, "loss": 0.25}])
    sums.settle(folder)
    assert [row["loss"] for row in files.read_jsonl(path)] == [0.5, 0.5, 0.25]
    sums.check_run(folder.parent)
