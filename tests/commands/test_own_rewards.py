"""PPO with the user's reward functions, beside the reward model and alone: the smallest run, as commands."""

import pytest

from icegrt_jax import files
from icegrt_jax.training.metrics import read_metrics
from tests.commands.runs import call, copy_parts, inside

# Counts its calls in a file: with BROKEN the fifth, that of the third iteration, raises.
OWN = """
import pathlib

BROKEN = {broken}
CALLS = pathlib.Path(__file__).with_name("calls")


def longer(prompts, responses, records):
    calls = len(CALLS.read_text()) if CALLS.exists() else 0
    CALLS.write_text("." * (calls + 1))
    if BROKEN and calls >= 4:
        raise RuntimeError("the judge is not there")
    return [float(len(text.split())) for text in responses]


def known_ads(prompts, responses, records):
    return [None if i % 2 else float(record.meta.get("verdict") is not None) for i, record in enumerate(records)]
"""
ALONE = {
    "reward.steps": 0, "value.init": "sft", "ppo.iterations": 3, "ppo.reward_scales.longer": "reference",
    "ppo.reward_weights.known_ads": 0.5, "ppo.judge": "", "reward.normalize_on": 8,
}  # fmt: skip
EIGHT = {"ppo.num_minibatches": 1, "ppo.ptx.coef": 0.0}  # rows divide over the devices of the tests' process
PARTS = ("data", "tokenizer", "sft")


def rewards(folder, broken=False):
    (folder / "own.py").write_text(OWN.format(broken=broken))
    return {f"ppo.rewards.{name}": f"{folder / 'own.py'}:{name}" for name in ("longer", "known_ads")}


@pytest.mark.slow
def test_ppo_from_functions_alone_stops_where_one_fails_and_goes_on_when_it_is_mended(finished, tmp_path):
    whole = copy_parts(finished, tmp_path / "whole", *PARTS)
    process = inside("ppo", whole, **ALONE, **rewards(tmp_path), **{"ppo.reward_workers": 1})
    assert process.returncode == 0, process.stderr
    assert "reward longer: mean" in process.stdout and "over 8 of 8 answers of ICE-Instruct" in process.stdout
    rows = read_metrics(whole / "ppo" / "metrics.jsonl")
    assert len(rows) == 3 and all("score_raw" not in row for row in rows)
    assert all(row["reward/longer/known"] == 1.0 and row["reward/known_ads/known"] == 0.5 for row in rows)
    sample = files.read_jsonl(whole / "ppo" / "samples.jsonl")[0]
    assert sample["rewards"]["longer"] == len(sample["response"].split()) and "score" not in sample
    done = files.read_json(whole / "ppo" / "done.json")
    assert set(done["models"]) == {"policy", "value"} and len(done["code"]) == 2

    (tmp_path / "calls").unlink()
    stopped = copy_parts((whole,), tmp_path / "stopped", *PARTS)
    process = inside("ppo", stopped, **ALONE, **rewards(tmp_path, broken=True))
    assert process.returncode == 2, process.stdout
    said = process.stderr
    assert "ppo, iteration 3: the reward function longer (" in said and "RuntimeError: the judge is not there" in said
    assert "the judge is not there" in (stopped / "ppo" / "reward_failures.txt").read_text()
    assert [int(path.name) for path in (stopped / "ppo" / "checkpoints").iterdir()] == [2]
    process = inside("ppo", stopped, **ALONE, **rewards(tmp_path))  # in a thread now: that changes no number
    assert process.returncode == 0, process.stderr
    assert "which has changed since" in process.stdout
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (stopped / "ppo" / name).read_bytes() == (whole / "ppo" / name).read_bytes(), name


@pytest.mark.slow
def test_a_function_beside_the_reward_model_is_weighed_and_a_failure_is_counted(finished, tmp_path, capsys):
    workdir = copy_parts(finished, tmp_path / "run", *PARTS, "reward")
    (tmp_path / "own.py").write_text(
        "def short(prompts, responses, records):\n"
        "    return ['?' if i == 3 and len(responses) == 8 else -1.0 for i in range(len(responses))]\n"
    )
    keys = {
        **EIGHT, "ppo.iterations": 1, "ppo.rewards.short": f"{tmp_path / 'own.py'}:short",
        "ppo.reward_weights.short": 10, "ppo.reward_weights.model": 0, "ppo.reward_failed": "-3",
    }  # fmt: skip
    assert call("ppo", workdir, **keys) == 2
    assert "the critic cannot start from it; set value.init='sft'" in capsys.readouterr().err
    assert not (workdir / "ppo").exists()
    keys["ppo.reward_weights.model"] = 0.5
    assert call("ppo", workdir, **keys) == 0
    [row] = read_metrics(workdir / "ppo" / "metrics.jsonl")
    assert row["reward/short"] == pytest.approx((7 * -1 - 3) / 8) and row["reward/short/failed"] == 1
    stats = files.read_json(workdir / "reward" / "done.json")
    scaled = (row["score_raw"] - stats["ref_mean"]) / stats["ref_std"]  # no score is that far off that it is clipped
    assert row["score_scaled"] == pytest.approx(0.5 * scaled + 10 * row["reward/short"], abs=1e-4)
    assert "'?'" in (workdir / "ppo" / "reward_failures.txt").read_text()


def test_functions_are_refused_before_anything_is_written(tmp_path, capsys):
    (tmp_path / "own.py").write_text("def right(prompts, responses): ...\n")
    keys = {**ALONE, **EIGHT, "ppo.rewards.right": f"{tmp_path / 'own.py'}:right"}
    del keys["ppo.reward_scales.longer"], keys["ppo.reward_weights.known_ads"]
    assert call("run", tmp_path / "run", **keys) == 2
    assert "right(prompts, responses) cannot be called as right(prompts, responses, records)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
