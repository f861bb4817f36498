"""README's "Your data, your reward" as it stands, in a folder of its own; a tiny model stands for SmolLM2."""

import csv
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from icegrt_jax import files
from icegrt_jax.data.tokenizers import train_bpe
from tests.commands.reward_folders import tiny_folder

ROOT = pathlib.Path(__file__).parent.parent
SECTION = (
    (ROOT / "README.md").read_text(encoding="utf-8").partition("## Your data, your reward\n")[2].partition("\n## ")[0]
)
SHOWN = dict(zip(re.findall(r"\*\*(\w+\.py)\*\*", SECTION), re.findall(r"^```python\n(.*?)^```", SECTION, re.M | re.S)))
(COMMAND,) = re.findall(r"^icegrt run .*$", SECTION, re.M)


def test_the_config_that_is_shown_is_the_one_that_ships():
    assert SHOWN["mine.py"] == (ROOT / "configs" / "own.py").read_text(encoding="utf-8")
    assert len(SHOWN["mine.py"].splitlines()) <= 45, "it fits on a screen"


@pytest.fixture(scope="module")
def look(tmp_path_factory):
    """(folder, process) of the command."""
    folder = tmp_path_factory.mktemp("mine")
    rows = [(f"why is {i} odd", f"because {i} is {i // 2} and {i // 2} and one") for i in range(1, 41, 2)]
    tokenizer = train_bpe([" ".join(row) for row in rows] * 9, 320, folder / "tokenizer")
    tiny_folder(folder / "models" / "smollm2-135m-instruct", tokenizer, scalar_head=False)
    for name, part in (("train.csv", rows[:12]), ("test.csv", rows[12:])):
        with open(folder / name, "w", newline="") as file:
            csv.writer(file).writerows([("question", "answer"), *part])
    for name, text in SHOWN.items():
        (folder / name).write_text(text)
    flags = re.sub(r"--xla_force_host_platform_device_count=\S+", "", os.environ["XLA_FLAGS"])
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    environment.pop("ICEGRT_DATA", None)
    command = COMMAND.replace("mine.py", "mine.py:smoke")  # as the text below it says
    arguments = [sys.executable, "-m", "icegrt_jax", *shlex.split(command)[1:]]
    process = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return folder, process


@pytest.mark.slow
def test_the_command_of_the_readme_gives_a_table_of_ones_own(look):
    folder, process = look
    run = folder / "runs" / "mine"
    results = files.read_json(run / "evaluate" / "results.json")
    assert results["order"] == ["base", "ICE-Instruct", "ICE-GRT"] and results["prompts"]["domain"] == 8
    for row in results["rows"]:
        low, high = row["intervals"]["gold"]
        assert 0 <= low <= row["metrics"]["gold"] <= high <= 1
    assert "8 prompts of the domain; in brackets 95 % intervals over them." in process.stdout
    assert [line for line in process.stderr.splitlines() if line.startswith("warning")] == []
    sample = files.read_jsonl(run / "ppo" / "samples.jsonl")[0]
    assert 0 <= sample["rewards"]["mine"] <= 1
    assert (run / "report" / "index.html").is_file()
