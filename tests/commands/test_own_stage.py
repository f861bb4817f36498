"""The recipe "a stage" of docs/extending.md, done as it says: one file, one line, and `icegrt` knows the stage."""

import os
import re
import signal
import subprocess
import sys

import pytest

from icegrt_jax import cli, commands, files
from icegrt_jax.config import own
from icegrt_jax.data.records import Ranking, read_jsonl
from icegrt_jax.training.progress import Progress
from tests.commands.runs import KEYS, QUICKSTART, ROOT, copy_parts

STAGE = {"polish.steps": 4, "polish.batch_size": 8, "log.checkpoint_every": 3}
CONFIG = """
import runpy

quickstart = runpy.run_path({quickstart!r})

def get_config():
    config = quickstart["get_config"]("smoke")
    config.polish.sources.mine = "jsonl:{{workdir}}/data/demonstrations.jsonl"
    config.polish.weights.mine = 1.0
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a user has beside the package: the files of the recipe and a config."""
    folder = tmp_path_factory.mktemp("own")
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    for name, code in re.findall(r"^\*\*(\w+\.py)\*\*:\n\n```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        (folder / name).write_text(code, encoding="utf-8")
    quickstart = QUICKSTART.removeprefix("--config=").partition(":")[0]
    (folder / "config.py").write_text(CONFIG.format(quickstart=quickstart))
    return folder


@pytest.fixture
def icegrt(folder, monkeypatch):
    """`icegrt COMMAND` in that folder, in this process; what it has registered is forgotten afterwards."""
    monkeypatch.setattr(commands, "TABLE", dict(commands.TABLE))
    monkeypatch.setattr(own, "SECTIONS", dict(own.SECTIONS))
    monkeypatch.setenv(commands.OWN, "my_commands.py:POLISH")
    monkeypatch.chdir(folder)

    def run(command, workdir, *more, **keys):
        overrides = [f"--config.{key}={value}" for key, value in {**KEYS, **STAGE, **keys}.items()]
        return cli.main([command, "--config=config.py", f"--workdir={workdir}", *overrides, *more])

    return run


@pytest.fixture(scope="module")
def parts(finished, tmp_path_factory):
    return (copy_parts(finished, tmp_path_factory.mktemp("parts") / "run", "data", "tokenizer", "pretrain", "sft"),)


def fresh(parts, workdir):
    return copy_parts(parts, workdir, "data", "tokenizer", "pretrain", "sft")


def test_an_own_stage_is_run_stopped_resumed_and_read_by_the_other_commands(
    icegrt, parts, tmp_path, capsys, monkeypatch
):
    whole, stopped = fresh(parts, tmp_path / "whole"), fresh(parts, tmp_path / "stopped")
    assert icegrt("polish", whole) == 0, capsys.readouterr().err
    update = Progress.update

    def update_and_signal(self, step, *metrics):
        update(self, step, *metrics)
        if self._title == "polish" and step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(Progress, "update", update_and_signal)
        icegrt("polish", stopped)
    assert stop.value.code == 128 + signal.SIGTERM and not (stopped / "polish" / "done.json").exists()
    assert [path.name for path in (stopped / "polish" / "checkpoints").iterdir()] == ["2"]
    assert icegrt("polish", stopped) == 0
    for name in ("metrics.jsonl", "done.json"):
        assert (whole / "polish" / name).read_bytes() == (stopped / "polish" / name).read_bytes(), name
    rows = files.read_jsonl(whole / "polish" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 4]
    assert (
        files.read_json(whole / "polish" / "compiles.json")["programs"] and (whole / "polish" / "example.txt").is_file()
    )

    written = (whole / "polish" / "done.json").stat().st_mtime_ns
    assert icegrt("polish", whole) == 0 and (whole / "polish" / "done.json").stat().st_mtime_ns == written
    capsys.readouterr()
    assert icegrt("polish", whole, **{"polish.steps": 5}) == 2
    error = capsys.readouterr().err
    assert "polish.steps 4 → 5" in error and error.rstrip().endswith(f"begin there anew: {whole / 'polish'}.")

    assert icegrt("report", whole) == 0
    page = (whole / "report" / "index.html").read_text(encoding="utf-8")
    assert "ICE-Instruct, polished" in page and 'id="charts-polish"' in page
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "review this ad."}\n' * 2)
    sample = ("--checkpoint=polish", f"--prompts=jsonl:{tmp_path}/prompts.jsonl", f"--out={tmp_path}/ranked.jsonl")
    assert icegrt("sample", whole, *sample, "--max_new_tokens=4") == 0
    assert len(read_jsonl(tmp_path / "ranked.jsonl", Ranking)) == 2
    assert icegrt("export", whole, "--stage=polish", f"--out={tmp_path / 'out'}") == 0
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8").count("ICE-Instruct, polished") >= 1


def test_an_own_stage_is_part_of_the_run_where_its_line_puts_it(icegrt):
    commands.register_own()
    assert [command.name for command in commands.in_run()][3:6] == ["ppo", "polish", "evaluate"]
    assert list(commands.parts())[-2:] == ["polish", "evaluate"]


@pytest.mark.parametrize("keys, problem", [
    ({}, "sft: the sft stage has not finished; run `icegrt sft` first."),
    ({"polish.batch_size": 3}, "polish.batch_size"),
    ({"polish.steps": -1}, "polish.steps=-1; expected 0 or more."),
    ({"polish.stesp": 1}, "unknown key --config.polish.stesp; did you mean --config.polish.steps?"),
    ({"polish.overlong": "keep"}, "polish.overlong='keep'; expected one of 'drop', 'cut'."),
    ({"polish.weights.mine": 0.0}, "polish.weights: all weights are 0 or there is no source"),
    ({"polish.sources.mine": "jsonl:none.jsonl", "data_dir": "."}, "none.jsonl: no such file"),
])  # fmt: skip
def test_what_an_own_stage_lacks_is_said_before_anything_is_written(icegrt, tmp_path, capsys, keys, problem):
    assert icegrt("polish", tmp_path / "run", **keys) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_help_names_an_own_stage_without_importing_it(folder):
    code = """
import sys
from icegrt_jax.cli import main
try:
    main(sys.argv[1:])
finally:
    assert not {"jax", "numpy"} & set(sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), commands.OWN: "my_commands.py:POLISH"}
    run = lambda *argv: subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert re.search(r"\n    polish +ICE-Instruct, trained once more", run("--help").stdout)
    assert "--num-processes" in run("polish", "--help").stdout
    assert "did you mean polish?" in run("polsh").stderr


@pytest.mark.parametrize("text, problem", [
    (None, "ICEGRT_COMMANDS='broken.py:X': there is no file broken.py in "),
    ("Y = 1", "ICEGRT_COMMANDS='broken.py:X': broken.py defines no X; "),
    ("X = 1", "ICEGRT_COMMANDS='broken.py:X': expected a Command of icegrt_jax.commands, got int."),
    ("import nothing_of_the_kind", "ICEGRT_COMMANDS='broken.py:X': "),
    ("from icegrt_jax.commands import Command\nX = Command('sft', '')", "there is a command 'sft' already; give yours"),
    ("from icegrt_jax.commands import Command\nX = Command('x', '', after='y')", "command 'x': after='y' is none"),
])  # fmt: skip
def test_a_command_that_cannot_be_used_is_one_sentence(icegrt, monkeypatch, tmp_path, capsys, text, problem):
    monkeypatch.setenv(commands.OWN, "broken.py:X")
    monkeypatch.chdir(tmp_path)
    if text:
        (tmp_path / "broken.py").write_text(text)
    assert icegrt("sft", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {problem}") and error.count("\n") == 1
