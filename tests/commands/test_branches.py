"""Runs that begin with another run's stages, and what a workdir does again or goes on with."""

import json
import os
import shutil

import pytest

from icegrt_jax import files
from icegrt_jax.data.records import Ranking, read_jsonl, write_jsonl
from icegrt_jax.training.metrics import read_metrics
from tests.commands.runs import call, copy_parts

MESH = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}  # over which minibatches of four divide
LARGER = {"ppo.batch_size": 16, "ppo.ptx.batch_size": 16}  # so that they divide over all devices
PARTS = ("config.json", "data", "tokenizer", "pretrain", "sft", "reward")


@pytest.fixture
def source(finished, tmp_path):
    """A finished run of its own to branch from, without its PPO."""
    return copy_parts(finished, tmp_path / "source", *PARTS)


def refused(capsys, stage, workdir, *more, **keys) -> str:
    assert call(stage, workdir, *more, **keys) == 2
    return capsys.readouterr().err


def test_a_branch_trains_as_the_run_itself_from_stages_that_it_only_refers_to(finished, source, tmp_path, capfd):
    branch = tmp_path / "branch"
    assert call("ppo", branch, f"--from={source}:reward", **MESH) == 0
    assert (branch / "sft").is_symlink() and not (branch / "ppo").is_symlink()
    of_one_device, here = (read_metrics(folder / "ppo" / "metrics.jsonl") for folder in (finished[0], branch))
    assert [row["score_raw"] for row in here] == pytest.approx([row["score_raw"] for row in of_one_device], abs=1e-3)
    record = files.read_json(branch / "from.json")
    assert (record["run"], record["stage"], list(record["stages"])) == (
        str(source), "reward", ["pretrain", "sft", "reward"],
    )  # fmt: skip
    assert record["config"]["sft.steps"] == 6 and "ppo.gamma" not in record["config"]
    assert any(name.startswith("checkpoints/6/") for name in record["stages"]["sft"]["files"])
    assert record["stages"]["sft"]["data"]["sft.sources.domain"]["sha256"]
    capfd.readouterr()
    assert call("evaluate", branch, **MESH) == 0, "and goes on without the flag"
    out = capfd.readouterr().out
    assert f"pretrain, sft, reward: taken from {source}" in out
    rows = files.read_json(branch / "evaluate" / "results.json")["rows"]
    assert [row["name"] for row in rows] == ["base", "ICE-Instruct", "best-of-2", "ICE-GRT"]
    assert call("run", branch, **MESH) == 0
    out = capfd.readouterr().out
    assert all(f"{stage}: finished, skipped" in out for stage in ("pretrain", "sft", "reward", "ppo", "evaluate"))
    assert (branch / "report" / "index.html").is_file()


def test_a_branch_may_differ_only_in_what_has_not_shaped_its_stages(source, tmp_path, capsys):
    branch = tmp_path / "branch"
    error = refused(capsys, "ppo", branch, f"--from={source}:reward", **{"sft.batch_size": 16, "ppo.gamma": 0.5})
    assert "sft.batch_size 8 → 16" in error and "ppo.gamma" not in error and "repeat the values" in error
    assert "seed 0 → 1" in refused(capsys, "ppo", branch, f"--from={source}:sft", seed=1)
    assert not branch.exists()
    changed = {"ppo.gamma": 0.5, "ppo.iterations": 1, **MESH}
    assert call("ppo", branch, f"--from={source}:reward", **changed) == 0
    assert len(read_metrics(branch / "ppo" / "metrics.jsonl")) == 1
    error = refused(capsys, "ppo", branch, **{**changed, "sft.batch_size": 16})
    assert "sft.batch_size 8 → 16" in error and f"sft of {source}" in error and "delete" not in error


def test_a_source_that_has_changed_or_is_gone_is_refused_at_every_start(source, tmp_path, capsys):
    branch, small = tmp_path / "branch", {"ppo.iterations": 1, **MESH}
    assert call("ppo", branch, f"--from={source}:reward", **small) == 0
    shard = max((source / "sft" / "checkpoints").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + b"?")
    error = refused(capsys, "evaluate", branch, **small)
    assert str(shard) in error and "no longer what this run has begun with" in error
    shard.write_bytes(content)
    moved = tmp_path / "moved"
    source.rename(moved)
    error = refused(capsys, "evaluate", branch, **small)
    assert f"has its pretrain stage from {source}, which is no longer there" in error and "--from=PLACE:reward" in error
    assert "is not there" in refused(capsys, "ppo", branch, f"--from={tmp_path}:reward", **small)
    assert call("ppo", branch, f"--from={moved}:reward", **small) == 0
    assert (branch / "sft").resolve() == moved / "sft" and files.read_json(branch / "from.json")["run"] == str(moved)
    assert "has begun with" in refused(capsys, "ppo", branch, f"--from={moved}:sft", **small)


def test_from_names_a_finished_stage_of_another_run_in_one_sentence_or_nothing_is_written(source, tmp_path, capsys):
    branch = tmp_path / "branch"
    (source / "reward" / "done.json").unlink()
    wrong = {
        f"{source}": "expected RUN:STAGE",
        f"{source}:rewrad": "did you mean reward?",
        f"{source}:evaluate": "there is no stage 'evaluate' that leaves a model",
        f"{source}:ppo": "takes ppo and all before it",
        f"{source}:reward": "reward has not finished",
        f"{tmp_path}:sft": f"no config.json in {tmp_path}",
        f"{branch}:sft": "is this --workdir itself",
    }
    for text, sentence in wrong.items():
        error = refused(capsys, "ppo", branch, f"--from={text}")
        assert error.startswith("error: --from=") and sentence in error and error.count("\n") == 1, error
        assert not branch.exists()
    assert "holds a run already" in refused(capsys, "ppo", source, f"--from={tmp_path}:sft")
    assert call("report", branch, f"--from={source}:sft") == 2, "a reader begins no run"
    error = refused(capsys, "ppo", branch, f"--from={source}:sft", **MESH)
    assert "the reward stage has not finished" in error and not branch.exists(), "and what was begun is taken back"


def test_a_changed_evaluation_is_done_again_and_the_old_one_kept(finished, tmp_path, capfd):
    workdir = copy_parts(finished, tmp_path / "run", *PARTS, "ppo", "evaluate")
    old = (workdir / "evaluate" / "results.json").read_bytes()
    changed = {"evaluate.best_of": 0, "evaluate.limit": 2}
    assert call("report", workdir, **changed) == 0 and (workdir / "evaluate").is_dir(), "a reader sets nothing aside"
    assert call("evaluate", workdir, **changed) == 0
    out = capfd.readouterr().out
    assert "evaluate: evaluate.best_of, evaluate.limit have changed; done again, the old" in out
    assert (workdir / "evaluate.1" / "results.json").read_bytes() == old
    names = [row["name"] for row in files.read_json(workdir / "evaluate" / "results.json")["rows"]]
    assert names == ["base", "ICE-Instruct", "ICE-GRT"]
    wrong = {**changed, "evaluate.judge": "letter"}
    before = (workdir / "config.json").read_bytes()
    assert call("evaluate", workdir, **wrong) == 2
    assert not (workdir / "evaluate.2").exists() and (workdir / "evaluate" / "done.json").exists()
    assert (workdir / "config.json").read_bytes() == before, "a mistake leaves all as it was"


def test_changed_heldout_rankings_are_measured_again_and_nothing_is_trained(finished, tmp_path, capfd):
    workdir = copy_parts(finished, tmp_path / "run", *PARTS, "ppo")
    kept = {name: (workdir / "reward" / name).read_bytes() for name in ("metrics.jsonl", "done.json")}
    assert call("reward", workdir, **{"reward.heldout_limit": 3}) == 0
    assert "reward: reward.heldout_limit has changed; measured again" in capfd.readouterr().out
    assert (workdir / "reward" / "metrics.jsonl").read_bytes() == kept["metrics.jsonl"]
    assert (workdir / "reward" / "done.1.json").read_bytes() == kept["done.json"]
    now, before = files.read_json(workdir / "reward" / "done.json"), json.loads(kept["done.json"])
    assert {**now, "heldout": 0} == {**before, "heldout": 0} and now["heldout"].keys() == before["heldout"].keys()
    counts = [
        sum(files.read_json(workdir / "reward" / name)["count"]) for name in ("calibration.json", "calibration.1.json")
    ]
    assert 0 < counts[0] < counts[1]


def test_more_iterations_go_on_as_if_they_had_been_asked_for_at_first(finished, tmp_path, capfd):
    grown, whole = (copy_parts(finished, tmp_path / name, *PARTS) for name in ("grown", "whole"))
    assert call("ppo", whole, **LARGER, **{"ppo.iterations": 3}) == 0
    assert call("ppo", grown, **LARGER, **{"ppo.iterations": 2}) == 0
    capfd.readouterr()
    assert call("ppo", grown, **LARGER, **{"ppo.iterations": 3}) == 0
    out = capfd.readouterr().out
    assert "ppo: ppo.iterations 2 → 3: it goes on to 3" in out and "ppo: going on from iteration 2" in out
    assert "schedule" not in out, "a constant one has no length"
    assert files.read_json(grown / "ppo" / "done.1.json")["step"] == 2
    for name in ("metrics.jsonl", "done.json"):
        assert (grown / "ppo" / name).read_bytes() == (whole / "ppo" / name).read_bytes()
    assert call("ppo", grown, **LARGER, **{"ppo.iterations": 2}) == 2
    assert "ppo.iterations 3 → 2" in capfd.readouterr().err, "but not to fewer"


def test_a_longer_stage_is_refused_where_a_later_one_rests_on_it(finished, tmp_path, capfd):
    workdir = copy_parts(finished, tmp_path / "run", *PARTS)
    assert call("sft", workdir, **{"sft.steps": 8}) == 2
    error = capfd.readouterr().err
    assert "sft.steps 6 → 8" in error and str(workdir / "reward") in error
    for part in ("reward", "data/own_rankings.jsonl"):
        path = workdir / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert call("sft", workdir, **{"sft.steps": 8, "sft.optimizer.schedule": "linear"}) == 2, "nothing but its length"
    capfd.readouterr()
    assert call("sft", workdir, **{"sft.steps": 8}) == 0
    out = capfd.readouterr().out
    assert "sft: going on from update 6" in out
    assert "sft: sft.optimizer.schedule (cosine) is now as long as 8 of them, not 6" in out
    assert [row["step"] for row in read_metrics(workdir / "sft" / "metrics.jsonl")] == [1, 2, 4, 6, 8]


def test_changed_data_warn_after_a_stage_and_stop_one_in_the_middle(finished, tmp_path, capfd):
    workdir = copy_parts(finished, tmp_path / "run", *PARTS)
    done = files.read_json(workdir / "sft" / "done.json")
    assert done["data"]["sft.sources.domain"]["source"].startswith("jsonl:") and len(done["data"]) >= 2
    assert files.read_json(workdir / "sft" / "data.json")["fingerprints"] == done["data"]
    path = workdir / "data" / "own_rankings.jsonl"
    assert any(
        was["source"].endswith(path.name) for was in files.read_json(workdir / "reward" / "done.json")["data"].values()
    )
    rankings = read_jsonl(path, Ranking)
    content = path.read_bytes()
    write_jsonl(path, rankings[:-1])
    (workdir / "reward" / "done.json").rename(workdir / "done")  # killed between the last step and its end
    assert call("reward", workdir) == 2
    error = capfd.readouterr().err
    assert "holds other data than" in error and f"delete {workdir / 'reward'}" in error
    (workdir / "done").rename(workdir / "reward" / "done.json")
    assert call("evaluate", workdir, **{"evaluate.limit": 1, "evaluate.best_of": 0}) == 0
    out = capfd.readouterr().out
    assert "warning: reward has finished with other data than reward.sources." in out
    assert "sft has finished" not in out
    files.write_text_atomic(path, content.decode())
    os.utime(path)
    assert call("evaluate", workdir, **{"evaluate.limit": 1, "evaluate.best_of": 0}) == 0
    assert "has finished with other data" not in capfd.readouterr().out
