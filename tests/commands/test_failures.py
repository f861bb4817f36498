"""A run whose numbers are not finite any more: what it says, what it keeps, and how it is begun anew."""

import shutil

import numpy as np
import pytest

from icegrt_jax import files
from tests.commands.runs import call, copy_parts

BEFORE = {"sft": ("pretrain",), "reward": ("pretrain", "sft"), "ppo": ("pretrain", "sft", "reward")}
# A key, the value that ruins the model in the first update, and one that does not. Supervised parameters are so large
# that every loss after it is no number; the actor's are infinite.
RUIN = {
    "sft": ("sft.optimizer.lr", 1e38, 1e-5),
    "reward": ("reward.optimizer.lr", 1e38, 1e-5),
    "ppo": ("ppo.policy_optimizer.lr", 3.4e38, 1e-5),
}
SKIPPED = "Steps 2 to 4: not finite: loss or gradient of 3 updates in a row (log.skipped=3), which taught nothing. "
SAID = {"sft": SKIPPED, "reward": SKIPPED, "ppo": "Step 1: not finite: params/policy/"}
KEPT = {"sft": "step_2.npz", "reward": "step_2.npz", "ppo": "step_1.npz"}
# None of the ruined steps is logged but the first and the last; PPO's metrics are of before its update.
KEYS = {
    "log.every": 100, "log.checkpoint_every": 2, "log.ppo_checkpoint_every": 1, "ppo.iterations": 2,
    "ppo.num_minibatches": 1, "ppo.policy_optimizer.weight_decay": 1.0,
    "mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2,
}  # fmt: skip


@pytest.mark.parametrize("stage", RUIN)
def test_a_step_that_ruins_the_model_is_never_saved_and_the_stage_alone_begins_anew(finished, tmp_path, capsys, stage):
    workdir = copy_parts(finished, tmp_path / "run", "data", "tokenizer", *BEFORE[stage])
    if stage == "sft":
        (workdir / "data" / "own_rankings.jsonl").unlink()
    key, ruin, good = RUIN[stage]
    ruinous, mended = {**KEYS, key: ruin}, {**KEYS, key: good}
    assert call(stage, workdir, **ruinous) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    folder = workdir / stage
    assert error.startswith(f"error: {SAID[stage]}"), error
    assert "No step has been saved; the same command comes here again." in error
    assert error.endswith(f" is kept in {folder / 'not_finite' / KEPT[stage]}."), error
    assert f"with {folder} deleted, {stage} begins anew and may have other values." in error
    assert not list(folder.glob("checkpoints/[0-9]*")) and not (folder / "done.json").exists()
    with np.load(folder / "not_finite" / KEPT[stage]) as kept:
        names = {"sft": "tokens", "reward": "ranks", "ppo": "experience/advantages"}
        assert names[stage] in kept and all(np.all(np.isfinite(array)) for array in kept.values())

    assert call(stage, workdir, **ruinous) == 2, "the same command comes there again"
    capsys.readouterr()
    assert call(stage, workdir, **mended) == 2
    assert f"or delete what they have shaped and begin there anew: {folder}." in capsys.readouterr().err
    shutil.rmtree(folder)
    before = {path: path.stat().st_mtime_ns for part in BEFORE[stage] for path in (workdir / part).rglob("*")}
    assert call(stage, workdir, **mended) == 0, capsys.readouterr().err
    assert (folder / "done.json").is_file()
    assert before == {path: path.stat().st_mtime_ns for path in before}, "what was finished is as it was"
    resolved = files.read_json(workdir / "config.json")
    for name in key.split("."):
        resolved = resolved[name]
    assert resolved == good
