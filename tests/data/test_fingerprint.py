import gzip
import os
import pathlib
import shutil

import pytest

from icegrt_jax.data import fingerprint as module
from icegrt_jax.data.fingerprint import fingerprint
from icegrt_jax.data.records import Text, write_jsonl
from icegrt_jax.data.tfds_builder import build_dataset
from icegrt_jax.errors import UserError


@pytest.fixture
def rows(tmp_path):
    """A file that was last changed an hour ago."""
    write_jsonl(tmp_path / "rows.jsonl", [Text("a"), Text("b")])
    old(tmp_path / "rows.jsonl")
    return tmp_path / "rows.jsonl"


def old(path):
    changed = path.stat().st_mtime - 3600
    os.utime(path, (changed, changed))


def test_the_same_content_is_the_same_wherever_it_lies_and_another_is_another(rows, tmp_path):
    cache = tmp_path / "cache.json"
    first = fingerprint(f"jsonl:{rows}", cache=cache)
    shutil.copy(rows, tmp_path / "copy.jsonl")
    assert fingerprint("jsonl:copy.jsonl?text=text", data_dir=str(tmp_path), cache=cache) == first
    assert fingerprint("jsonl:{workdir}/copy.jsonl", workdir=str(tmp_path), cache=cache) == first
    write_jsonl(rows, [Text("a"), Text("c")])
    assert fingerprint(f"jsonl:{rows}", cache=cache) != first
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    assert len(fingerprint("jsonl:rows.jsonl*", data_dir=str(tmp_path), cache=cache)) == 64


def test_a_file_is_read_once_while_its_size_and_time_stay(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SMALL", 10)
    read = []
    hashed = module.files.sha256
    monkeypatch.setattr(module.files, "sha256", lambda path: read.append(path) or hashed(path))
    cache = tmp_path / "cache" / "fingerprints.json"
    first = fingerprint(f"jsonl:{rows}", cache=cache)
    assert fingerprint(f"jsonl:{rows}", cache=cache) == first and len(read) == 1
    write_jsonl(rows, [Text("a"), Text("c")])  # of the same size
    changed = fingerprint(f"jsonl:{rows}", cache=cache)
    assert changed != first and len(read) == 2
    assert fingerprint(f"jsonl:{rows}", cache=cache) == changed and len(read) == 3, "a fresh file is not trusted yet"


def test_of_a_small_file_nothing_is_kept(rows, tmp_path, monkeypatch):
    first = fingerprint(f"jsonl:{rows}", cache=tmp_path / "cache.json")
    assert not (tmp_path / "cache.json").exists()
    monkeypatch.setattr(module, "SMALL", rows.stat().st_size)
    assert fingerprint(f"jsonl:{rows}", cache=tmp_path / "cache.json") == first
    assert (tmp_path / "cache.json").exists()


def test_a_cache_that_is_broken_or_cannot_be_written_is_done_without(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SMALL", 10)
    first = fingerprint(f"jsonl:{rows}", cache=tmp_path / "cache.json")
    for content in ("{", "[]"):
        (tmp_path / "broken.json").write_text(content)
        assert fingerprint(f"jsonl:{rows}", cache=tmp_path / "broken.json") == first
    assert fingerprint(f"jsonl:{rows}", cache=rows / "no_folder" / "cache.json") == first


def test_a_data_set_s_folder_counts_whole(tmp_path):
    build_dataset({"train": [Text("a")]}, "small", str(tmp_path))
    first = fingerprint("tfds:small", data_dir=str(tmp_path), cache=tmp_path / "cache.json")
    files = [path for path in pathlib.Path(tmp_path / "small").rglob("*.array_record*")]
    files[0].write_bytes(files[0].read_bytes() + b"more")
    assert fingerprint("tfds:small", data_dir=str(tmp_path), cache=tmp_path / "cache.json") != first


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        fingerprint("jsonl:none.jsonl", data_dir=str(tmp_path))
