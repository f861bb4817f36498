"""The whole chain as a user runs it: what it leaves behind, and that stopping it changes nothing."""

import math
import shutil
import signal

import numpy as np
import pytest

from icegrt_jax import files
from icegrt_jax.data.records import Ranking, read_jsonl
from icegrt_jax.runs import kept
from icegrt_jax.training import times
from icegrt_jax.training.metrics import read_metrics
from tests.commands.runs import KEYS, SIZES, call, copy_parts, run

STAGES = ("pretrain", "sft", "reward", "ppo", "evaluate")
CURVES = {
    "score_raw", "score_scaled", "gold", "kl", "kl_coef", "kl_target", "length", "entropy", "clip_frac",
    "explained_variance", "ratio", "approx_kl", "ptx_loss", "first_ratio_error",
}  # fmt: skip


def test_every_stage_finishes_and_leaves_its_files(finished):
    workdir, _ = finished
    for stage in STAGES:
        assert (workdir / stage / "done.json").is_file(), stage
    for stage in STAGES[:-1]:
        assert list((workdir / stage).glob("events.out.tfevents.*")), stage
        assert list((workdir / stage / "checkpoints").iterdir()), stage
        assert files.read_json(workdir / stage / "data.json"), stage
        assert files.read_json(workdir / stage / "compiles.json")["programs"] > 0, stage
    for stage in STAGES:
        assert "⟦" in (workdir / stage / "example.txt").read_text(encoding="utf-8"), stage
    assert (workdir / "ppo" / "replay_example.txt").is_file()
    assert (workdir / "config.json").is_file() and (workdir / "tokenizer" / "tokenizer.json").is_file()
    assert "What each stage bought" in (workdir / "report" / "index.html").read_text(encoding="utf-8")
    assert not [path for path in workdir.rglob("*") if path.name.endswith(".tmp") or "checkpoint-tmp" in path.name]


def test_every_stage_prints_one_example_of_what_its_model_reads(finished):
    _, printed = finished
    trained, answered = "is trained on", "is where the model answers"
    marked = dict(pretrain=trained, sft=trained, reward="is where the score is read", ppo=answered, evaluate=answered)
    for stage, what in marked.items():
        heads = [line for line in printed.splitlines() if line.startswith(f"{stage}  example: ")]
        assert len(heads) == 1 and heads[0].endswith(f"⟦ ⟧ {what}")


def test_the_metrics_hold_every_curve_of_every_iteration(finished):
    workdir, _ = finished
    rows = read_metrics(workdir / "ppo" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    for row in rows:
        assert CURVES <= set(row)
        assert all(math.isfinite(row[name]) for name in CURVES)
    assert rows[0]["first_ratio_error"] < 1e-4 and abs(rows[0]["kl"]) < 1e-3, "the policy starts as the reference"
    assert abs(rows[-1]["kl"]) > 1e-3, "and does not stay there"
    assert rows[0]["kl_coef"] != rows[-1]["kl_coef"]
    for stage, steps in [("pretrain", [1, 2, 4, 6]), ("sft", [1, 2, 4, 6]), ("reward", [1, 2, 4, 6])]:
        rows = read_metrics(workdir / stage / "metrics.jsonl")
        assert [row["step"] for row in rows] == steps and all(math.isfinite(row["loss"]) for row in rows)


def test_samples_of_the_rollouts_are_kept_with_their_scores(finished):
    workdir, _ = finished
    rows = files.read_jsonl(workdir / "ppo" / "samples.jsonl")
    assert sorted({row["step"] for row in rows}) == [1, 2, 4, 5]
    assert all(row["prompt"][-1]["content"] and math.isfinite(row["score"]) for row in rows)
    for row in rows:
        assert len(row["tokens"]) == len(row["kl"]) == len(row["advantages"]) == len(row["values"]) > 0
    again = files.read_jsonl(workdir / "ppo" / "followed.jsonl")
    assert [row["step"] for row in again] == [1, 1, 2, 2, 4, 4, 5, 5]
    assert len({row["prompt"][-1]["content"] for row in again}) == 2
    histograms = files.read_jsonl(workdir / "ppo" / "histograms.jsonl")
    assert [row["step"] for row in histograms] == [1, 2, 3, 4, 5]
    assert sum(histograms[0]["score_histogram"]["counts"]) == KEYS["ppo.batch_size"]


def test_times_are_kept_apart_from_what_a_repeated_run_writes_again(finished):
    workdir, _ = finished
    for stage in STAGES:
        rows = times.read(workdir / stage)
        assert rows[0]["devices"]["platform"] == "cpu" and rows[-1]["how"] == "finished" and rows[-1]["seconds"] > 0
    speed = times.by_step(times.read(workdir / "ppo"))
    assert [row["step"] for row in speed] == [1, 2, 3, 4, 5]
    assert all(
        row["time/rollout_s"] > 0 and row["time/learn_s"] > 0 and row["optimizer/policy_lr"] > 0 for row in speed
    )


def test_answers_that_the_report_shows_have_score_and_kl_by_token(finished):
    workdir, _ = finished
    lines = files.read_jsonl(workdir / "evaluate" / "shown.jsonl")
    by_prompt = files.read_jsonl(workdir / "evaluate" / "by_prompt.jsonl")
    said = {(row["row"], row["decoding"], row["prompt"]): row for row in by_prompt if row["group"] == "domain"}
    assert len(lines) == SIZES["eval_prompts"]
    for line in lines:
        for answer in line["answers"]:
            known = said[answer["row"], answer["decoding"], line["place"]]
            assert (answer["answer"], answer["length"]) == (known["answer"], known["tokens"])
            assert math.isfinite(answer["score"])
            assert ("kl" in answer) == (answer["row"] == "ICE-GRT")
            assert len(answer.get("kl", answer.get("tokens", []))) in (0, answer["length"])


def test_the_reward_stage_ranks_its_own_answers_and_measures_itself(finished):
    workdir, _ = finished
    own = read_jsonl(workdir / "data" / "own_rankings.jsonl", Ranking)
    assert own and all(2 <= len(ranking.responses) <= KEYS["reward.on_policy_k"] for ranking in own)
    prompts = {record["prompt"][-1]["content"]: record["meta"]["ad"] for record in
               files.read_jsonl(workdir / "data" / "ranking_prompts.jsonl")}  # fmt: skip
    assert all(ranking.meta["ad"] == prompts[ranking.prompt[-1]["content"]] for ranking in own)
    done = files.read_json(workdir / "reward" / "done.json")
    assert done["ref_std"] > 0 and 0 <= done["heldout"]["made/accuracy"] <= 1
    calibration = files.read_json(workdir / "reward" / "calibration.json")
    pairs = sum(calibration["count"])
    assert pairs > 0 and len(calibration["count"]) == len(calibration["accuracy"]) == len(calibration["confidence"])


def test_the_table_names_every_stage_and_shows_three_prompts(finished):
    workdir, printed = finished
    results = files.read_json(workdir / "evaluate" / "results.json")
    names = ["base", "ICE-Instruct", "best-of-2", "ICE-GRT"]
    assert [row["name"] for row in results["rows"]] == results["order"] == names
    assert all(name in printed for name in (*names, "verdict", "analysis", "gold", "general tasks"))
    for row in results["rows"]:
        metrics = row["metrics"]
        assert all(0 <= metrics[name] <= 1 for name in ("verdict", "analysis", "gold"))
    tasks = [name for name in results["rows"][-1]["metrics"] if name.startswith("general/")]
    assert len(tasks) == 12
    assert len(results["examples"]) == 3 and printed.count("\n> ") == 3
    assert all(set(example["answers"]) == set(names) for example in results["examples"])


def test_a_finished_run_is_not_run_again(finished, capsys):
    workdir, _ = finished
    written = lambda: {p: p.stat().st_mtime_ns for stage in STAGES for p in (workdir / stage).rglob("*")}
    before = written()
    assert call("run", workdir) == 0
    assert written() == before
    assert "ICE-GRT" in capsys.readouterr().out, "the table is shown again"


def test_a_rerun_with_another_config_is_refused_with_the_difference(finished, capsys):
    workdir, _ = finished
    assert call("ppo", workdir, **{"ppo.gamma": 0.5, "log.every": 5}) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "ppo.gamma 1.0 → 0.5" in error and "log.every" not in error


def same(one, other, name):
    return (one / name).read_bytes() == (other / name).read_bytes()


def test_a_run_killed_in_every_stage_ends_as_if_it_had_not_been(finished, tmp_path):
    whole, _ = finished
    workdir = tmp_path / "run"
    stops = [
        ("pretrain", 2, signal.SIGKILL, -9),  # before the first checkpoint
        ("sft", 4, signal.SIGTERM, 143),  # saves and goes, as when a machine is reclaimed
        ("reward", 4, signal.SIGKILL, -9),  # one step after a checkpoint
        ("ppo", 3, signal.SIGKILL, -9),
        ("evaluate", 2, signal.SIGKILL, -9),
    ]
    printed = {}
    for stage, step, number, code in stops:
        process = run("run", workdir, stop=(stage, step, int(number)))
        assert process.returncode == code, process.stderr
        assert not (workdir / stage / "done.json").exists()
        printed[stage] = process.stdout
    there = [line for line in printed["evaluate"].splitlines() if line.startswith("ppo  the responses of iteration")]
    kept_of = [f"ppo  the responses of iteration {i} are there: sampled before the run was stopped" for i in (1, 2, 3)]
    assert there in (kept_of, kept_of[2:]), "all since the last whole checkpoint, 2 or none"
    there = len(kept.place(workdir / "evaluate").there)
    again = run("run", workdir)
    assert again.returncode == 0 and there >= 4, "of two rows a sampled and a greedy draw each"
    assert f"evaluate  going on: {there} draws of answers are there" in again.stdout
    assert not list(workdir.rglob(kept.FOLDER)), "no stage leaves them behind"
    assert same(workdir, whole, "evaluate/results.json") and same(workdir, whole, "evaluate/by_prompt.jsonl")
    for stage in ("pretrain", "sft", "reward", "ppo"):
        assert same(workdir, whole, f"{stage}/metrics.jsonl"), stage
        assert same(workdir, whole, f"{stage}/done.json"), stage
    for name in ("ppo/samples.jsonl", "ppo/followed.jsonl", "ppo/histograms.jsonl", "evaluate/shown.jsonl"):
        assert same(workdir, whole, name), name
    assert same(workdir, whole, "reward/calibration.json")


@pytest.mark.slow
def test_a_signal_in_a_last_step_or_after_it_stops_the_run_there_and_costs_no_step(finished, tmp_path):
    whole, package = finished[0], "icegrt_jax"
    workdir = tmp_path / "run"
    for part in ("data", "tokenizer", "pretrain"):
        shutil.copytree(whole / part, workdir / part)
    (workdir / "data" / "own_rankings.jsonl").unlink()
    saved = lambda stage: [path.name for path in (workdir / stage / "checkpoints").glob("[0-9]*")]
    stops = [
        # Where, at which step or call, the signal; the stage that it comes in, and what is saved of that.
        ("sft", 6, signal.SIGTERM, "sft", ["6"]),
        (f"{package}.runs.rundir:finish", 1, signal.SIGINT, "sft", ["6"]),
        (f"{package}.commands.reward:sample_instruct", 1, signal.SIGTERM, "reward", []),  # answers to be ranked
        ("reward", 6, signal.SIGINT, "reward", ["6"]),
        (f"{package}.commands.reward:measure", 1, signal.SIGTERM, "reward", ["6"]),
        (f"{package}.commands.reward:fit_normalization", 1, signal.SIGINT, "reward", ["6"]),
        (f"{package}.runs.rollouts:compiled_sampler", 4, signal.SIGTERM, "ppo", ["2", "3"]),  # learns no more
        ("ppo", 5, signal.SIGTERM, "ppo", ["4", "5"]),
        (f"{package}.commands.ppo:_report_kl", 1, signal.SIGTERM, "ppo", ["4", "5"]),
        (f"{package}.commands.evaluate:_best_of", 1, signal.SIGTERM, "evaluate", []),
        (f"{package}.report.build:rendered", 1, signal.SIGINT, "report", []),
    ]
    printed = {}
    for where, step, number, stage, steps in stops:
        process = run("run", workdir, stop=(where, step, int(number)))
        assert process.returncode == 128 + number, (where, process.stderr)
        last = process.stderr.splitlines()[-1]
        assert last.startswith(f"{number.name}: ") and last.endswith("; run the same command to continue."), last
        assert "Traceback" not in process.stderr
        assert not (workdir / stage / "done.json").exists(), "no later stage begins"
        assert sorted(saved(stage)) == steps, where
        printed[where] = process.stdout
    assert "ppo  the responses of iteration 4 are there" in printed["ppo"]
    assert run("run", workdir).returncode == 0
    for stage in ("sft", "reward", "ppo"):
        assert same(workdir, whole, f"{stage}/metrics.jsonl"), stage
        assert same(workdir, whole, f"{stage}/done.json"), stage
        assert files.read_json(workdir / stage / "compiles.json")["programs"] > 0, stage
    for name in ("data/own_rankings.jsonl", "reward/calibration.json", "ppo/samples.jsonl", "evaluate/results.json"):
        assert same(workdir, whole, name), name


def test_a_stage_that_was_stopped_on_one_device_goes_on_over_a_mesh_of_eight_with_its_numbers(finished, tmp_path):
    workdir = copy_parts(finished, tmp_path / "run", "data", "tokenizer", "pretrain")
    assert run("sft", workdir, stop=("sft", 3, signal.SIGTERM)).returncode == 143
    assert call("sft", workdir, **{"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}) == 0
    one, eight = (read_metrics(folder / "sft" / "metrics.jsonl") for folder in (finished[0], workdir))
    assert [row["step"] for row in eight] == [row["step"] for row in one]
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose([row[name] for row in eight], [row[name] for row in one], rtol=1e-3, err_msg=name)
    assert files.read_json(workdir / "config.json")["mesh"]["tensor"] == 2


@pytest.mark.parametrize("mesh", [{"data": 2, "fsdp": 2, "tensor": 2}])
def test_ppo_on_eight_devices_has_the_numbers_of_one(finished, tmp_path, mesh):
    workdir = copy_parts(finished, tmp_path, "data", "tokenizer", "sft", "reward")
    assert call("ppo", workdir, **{f"mesh.{axis}": size for axis, size in mesh.items()}, **{"ppo.iterations": 3}) == 0
    one, eight = (read_metrics(folder / "ppo" / "metrics.jsonl") for folder in (finished[0], workdir))
    for name in ("score_raw", "gold", "kl", "kl_coef", "length", "policy_loss", "value_loss", "grad_norm"):
        np.testing.assert_allclose(
            [row[name] for row in eight], [row[name] for row in one[:3]], rtol=1e-3, atol=1e-3, err_msg=name
        )
