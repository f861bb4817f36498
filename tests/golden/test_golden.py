"""What earlier code has written loads, and a run that it began goes on. How the files are made: `make.py`."""

import json
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

import icegrt_jax as ice
from icegrt_jax import files
from icegrt_jax.training.metrics import read_metrics
from icegrt_jax.training.restore import load_own, load_role
from tests.commands.runs import begin, ended
from tests.golden import readings

HERE = pathlib.Path(__file__).parent
FILES = HERE / "files"
EXPECTED = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
each_run = pytest.mark.parametrize("run", ["whole", "shared_base"])


def icegrt(stage: str, run: str, workdir: pathlib.Path) -> subprocess.CompletedProcess:
    """The command in a process of its own, on one device as it was begun."""
    switch = "" if run == "whole" else f":{run}"
    return ended(begin([stage, f"--config={HERE / 'config.py'}{switch}", f"--workdir={workdir}"]))


@each_run
def test_a_policy_has_the_logits_that_it_had(run):
    np.testing.assert_allclose(readings.logits(ice.load_model(FILES / run / "sft")), EXPECTED[run]["sft"], atol=1e-5)


@each_run
def test_a_reward_model_has_the_scores_and_the_normalisation_that_it_had(run):
    folder = FILES / run / "reward"
    np.testing.assert_allclose(readings.scores(*load_role(folder, "reward")), EXPECTED[run]["reward"], atol=1e-5)
    done = files.read_json(folder / "done.json")
    assert done["ref_std"] > 0 and np.isfinite(done["ref_mean"]) and done["same_tokenizer"] is True


def test_an_adapter_stage_says_what_it_is_put_onto():
    _, own, record = load_own(FILES / "shared_base" / "reward", "reward")
    assert record.base == {"stage": "sft", "role": "policy"} and record.base_dtype == "int8" and record.lora.rank == 2
    assert set(own) == {"layers", "head"}


@each_run
def test_a_ppo_stage_that_was_stopped_half_way_goes_on_to_the_numbers_it_would_have_had(run, tmp_path):
    workdir = shutil.copytree(FILES / run, tmp_path / run)
    assert not (workdir / "ppo" / "done.json").exists()
    process = icegrt("ppo", run, workdir)
    assert process.returncode == 0, process.stderr
    rows = read_metrics(workdir / "ppo" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row, expected in zip(rows, EXPECTED[run]["ppo"], strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(row[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    moved = [abs(row["kl"]) for row in rows]
    assert moved[0] < 1e-4 < moved[2], "the numbers say something: the policy has left the reference"


def test_an_exported_folder_has_the_logits_of_its_stage():
    np.testing.assert_allclose(readings.logits(ice.load_model(FILES / "whole_hf")), EXPECTED["whole"]["sft"], atol=1e-5)


def test_a_peft_adapter_on_its_base_has_the_logits_of_its_stage():
    folder = FILES / "shared_base_peft"
    model = ice.load_model(folder / "base", adapter=folder)
    np.testing.assert_allclose(readings.logits(model), EXPECTED["shared_base"]["sft"], atol=1e-5)


def test_the_files_stay_small():
    assert sum(path.stat().st_size for path in FILES.rglob("*") if path.is_file()) < 1.6e6
