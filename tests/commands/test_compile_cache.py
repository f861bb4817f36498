"""Where a stage keeps what it compiles."""

import shutil

import pytest

from icegrt_jax import files
from tests.commands.runs import copy_parts, run


def kept(finished, workdir, cache):
    """What a run in a new workdir has compiled and read, where its programs are in `cache`."""
    copy_parts(finished, workdir, "data", "tokenizer")
    process = run("pretrain", workdir, **{"pretrain.steps": 2})
    assert process.returncode == 0, process.stderr
    assert list(cache.iterdir())
    return files.read_json(workdir / "pretrain" / "compiles.json")


@pytest.mark.slow
def test_programs_are_kept_where_the_user_says_for_all_runs_or_else_in_the_workdir(finished, tmp_path, monkeypatch):
    workdirs = [tmp_path / name for name in ("first", "second", "third")]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "of_the_user"))
    first, second = (kept(finished, workdir, tmp_path / "of_the_user") for workdir in workdirs[:2])
    assert first["from_cache"] == 0 < first["programs"] == second["from_cache"] == second["programs"]
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    third = kept(finished, workdirs[2], workdirs[2] / "compile_cache")
    assert third["from_cache"] == 0
    assert not any((workdir / "compile_cache").exists() for workdir in workdirs[:2])
    # A run that was moved, or copied to another machine, finds its programs there.
    shutil.copytree(workdirs[2] / "compile_cache", tmp_path / "elsewhere" / "compile_cache")
    moved = kept(finished, tmp_path / "elsewhere", tmp_path / "elsewhere" / "compile_cache")
    assert moved["from_cache"] == moved["programs"] == third["programs"]
