"""Quality while a run trains: held-out numbers in every stage, the best checkpoint used, and what the trackers get."""

import json
import types

import jax
import pytest

from icegrt_jax import files
from icegrt_jax.config.options import SFTOptions
from icegrt_jax.data.records import Instruction, read_jsonl
from icegrt_jax.data.tokenizers import load_tokenizer
from icegrt_jax.runs.heldout_loss import measure_loss
from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.sharding.put import shard_tree
from icegrt_jax.training.metrics import read_metrics
from icegrt_jax.training.restore import load_role
from icegrt_jax.training.state import create_state
from tests.commands.runs import QUICKSTART, call, copy_parts, run

TRACKER = """
import json

class Tracker:
    def __init__(self, folder, *, resume_step):
        self.path = folder / "tracked.jsonl"

    def write(self, step, metrics):
        names = {name: value if isinstance(value, str) else float(value) for name, value in metrics.items()
                 if getattr(value, "ndim", 0) == 0}
        with open(self.path, "a") as file:
            file.write(json.dumps([step, names]) + "\\n")

    def flush(self):
        pass

    close = flush
"""
CONFIG = """
import runpy

def get_config():
    config = runpy.run_path({quickstart!r})["get_config"]("smoke")
    config.sft.heldout.some = "jsonl:{{workdir}}/data/general.jsonl"
    config.ppo.heldout.ads = "jsonl:{{workdir}}/data/eval_prompts.jsonl"
    config.log.writers = ({tracker!r},)
    return config
"""
MEASURED = {
    "sft.heldout_every": 2, "sft.heldout_limit": 7, "sft.best": "heldout/target_prob:min", "sft.patience": 1,
    "sft.use": "best",
    "reward.heldout_every": 4, "reward.best": "heldout/accuracy", "reward.use": "best",
    "ppo.heldout_every": 2, "ppo.heldout_limit": 5, "ppo.best": "heldout/gold", "ppo.iterations": 2,
    "evaluate.best_of": 0, "evaluate.limit": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory):
    """(workdir, what was printed) of a run that measures in every stage after the first, and has its programs given."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "tracker.py").write_text(TRACKER)
    quickstart = QUICKSTART.removeprefix("--config=").partition(":")[0]
    (folder / "config.py").write_text(CONFIG.format(quickstart=quickstart, tracker=f"{folder / 'tracker.py'}:Tracker"))
    workdir = copy_parts(finished, folder / "run", "data", "tokenizer", "pretrain")
    (workdir / "data" / "own_rankings.jsonl").unlink()
    process = run("run", workdir, f"--config={folder / 'config.py'}", **MEASURED)  # the later of two --config
    assert process.returncode == 0, process.stderr
    return workdir, process.stdout


def heldout_rows(workdir, stage):
    rows = read_metrics(workdir / stage / "metrics.jsonl")
    return {row["step"]: row for row in rows if any(name.startswith("heldout/") for name in row)}


def test_every_stage_measures_at_its_steps_under_its_names(measured):
    workdir, _ = measured
    rows = heldout_rows(workdir, "sft")
    assert list(rows) == [2, 4] and set(rows[2]) == {"step", "heldout/loss", "heldout/target_prob"}
    rows = heldout_rows(workdir, "reward")
    assert list(rows) == [4, 6] and set(rows[4]) == {"step", "heldout/accuracy", "heldout/calibration_error"}
    rows = heldout_rows(workdir, "ppo")
    assert list(rows) == [2]
    assert 0 <= rows[2]["heldout/gold_low"] <= rows[2]["heldout/gold"] <= rows[2]["heldout/gold_high"] <= 1
    assert {"heldout/gold_greedy", "heldout/gold_greedy_low", "heldout/gold_greedy_high"} < set(rows[2])


@pytest.mark.parametrize("changes", [{"batch_size": 3}, {"packing": False, "microbatch": 2}])
def test_the_heldout_loss_is_the_mean_over_all_targets_whatever_shares_a_batch(measured, changes):
    workdir, _ = measured
    model, params = load_role(workdir / "sft", "policy")
    mesh = make_mesh(data=-1)
    state = shard_tree(create_state(jax.random.key(0), {"policy": params}, {"policy": model}, {}), mesh)
    records = {"some": read_jsonl(workdir / "data" / "general.jsonl", Instruction)}
    session = types.SimpleNamespace(
        load=lambda specs, kind: records, tokenizer=load_tokenizer(workdir / "tokenizer"), mesh=mesh
    )
    section = SFTOptions(heldout={"some": "jsonl:x"}, heldout_limit=7, length=128, **changes)
    found = measure_loss(session, section, Instruction)(state)
    step = files.read_json(workdir / "sft" / "done.json")["best"]["step"]
    row = heldout_rows(workdir, "sft")[step]
    assert found["loss"] == pytest.approx(row["heldout/loss"], rel=1e-5)
    assert found["target_prob"] == pytest.approx(row["heldout/target_prob"], rel=1e-5)


def test_a_stage_ends_early_and_the_best_checkpoint_is_what_later_stages_take(measured):
    workdir, printed = measured
    assert "sft: ends at step 4: heldout/target_prob has not been better in 1 measurements than at step 2" in printed
    done = files.read_json(workdir / "sft" / "done.json")
    assert (done["step"], done["best"]["step"], done["use"]) == (4, 2, "best")
    _, best = load_role(workdir / "sft", "policy")
    files.write_json_atomic(workdir / "sft" / "done.json", {**done, "use": "last"})
    _, last = load_role(workdir / "sft", "policy")
    files.write_json_atomic(workdir / "sft" / "done.json", done)
    assert (best["final_norm"]["scale"] != last["final_norm"]["scale"]).any()
    done = files.read_json(workdir / "reward" / "done.json")
    measured_then = heldout_rows(workdir, "reward")[done["best"]["step"]]["heldout/accuracy"]
    assert done["heldout"]["made/accuracy"] == pytest.approx(measured_then), (
        "what is measured at the end is what is used"
    )


def test_measuring_changes_nothing_of_the_training(measured, finished):
    rows, plain = (read_metrics(folder / "sft" / "metrics.jsonl") for folder in (measured[0], finished[0]))
    assert [row for row in rows if "loss" in row] == plain[:3], "of steps 1, 2, 4"


def test_trackers_get_rates_samples_and_the_evaluation(measured):
    workdir, _ = measured
    rows = {}
    for stage in ("sft", "reward", "ppo", "evaluate"):
        lines = (workdir / stage / "tracked.jsonl").read_text().splitlines()
        rows[stage] = {name: value for _, metrics in map(json.loads, lines) for name, value in metrics.items()}
        if stage != "evaluate":
            assert rows[stage]["time/tokens_per_s"] > 0
    assert rows["sft"]["optimizer/lr"] > 0 and {"optimizer/policy_lr", "optimizer/value_lr"} < set(rows["ppo"])
    assert "**" in rows["ppo"]["samples/rollout"] and rows["ppo"]["heldout/gold_greedy_sample"]
    assert "evaluate/ICE-GRT/gold" in rows["evaluate"] and rows["evaluate"]["evaluate/examples"]
    assert "time/tokens_per_s" not in (workdir / "sft" / "metrics.jsonl").read_text()


def test_what_follows_from_measurements_that_are_not_made_is_refused(tmp_path, capsys):
    wrong = {
        "reward.best=heldout/accuracy": "reward.heldout_every=0: nothing is measured",
        "sft.heldout_every=2": "sft.heldout is empty",
        "sft.use=best": "sft.use='best' goes by sft.best",
        "ppo.patience=1": "ppo.patience=1 goes by ppo.best",
        "log.writers=('tracker.py',)": "log.writers='tracker.py'; expected one of",
    }
    for override, said in wrong.items():
        key, _, value = override.partition("=")
        assert call("run", tmp_path / "run", **{key: value}) == 2
        assert said in capsys.readouterr().err, override
        assert not (tmp_path / "run").exists()
