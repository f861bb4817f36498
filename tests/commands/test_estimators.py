"""PPO without a critic as a command: what is kept, how it goes on, what is exported and shown."""

import pytest

from icegrt_jax import files
from icegrt_jax.training.metrics import read_metrics
from tests.commands.runs import call, copy_parts

PARTS = ("config.json", "data", "tokenizer", "pretrain", "sft", "reward")
GRPO = {
    "ppo.estimator": "grpo", "ppo.samples_per_prompt": 4, "ppo.kl.into": "loss", "ppo.kl.kind": "k3",
    "ppo.ptx.coef": 0.0, "ppo.judge": "", "ppo.filter_groups": True, "ppo.filter_overlong": True,
    "ppo.entropy_coef": 0.01,
    # Scores at one of two ends: of four answers all are often at the same one, and their prompt is drawn anew.
    "ppo.redraw": 2, "ppo.score.clip": 0.001, "ppo.score.eos_penalty": 0.0,
}  # fmt: skip


@pytest.mark.slow
def test_a_run_without_a_critic_keeps_none_and_goes_on_bit_for_bit(finished, tmp_path, capfd):
    whole = copy_parts(finished, tmp_path / "whole", *PARTS)
    assert call("ppo", whole, **GRPO, **{"ppo.iterations": 2}) == 0
    grown = copy_parts((whole,), tmp_path / "grown", *PARTS)
    assert call("ppo", grown, **GRPO, **{"ppo.iterations": 1}) == 0
    assert call("ppo", grown, **GRPO, **{"ppo.iterations": 2}) == 0
    assert "ppo: going on from iteration 1" in capfd.readouterr().out
    for name in ("metrics.jsonl", "done.json"):
        assert (grown / "ppo" / name).read_bytes() == (whole / "ppo" / name).read_bytes()
    done = files.read_json(whole / "ppo" / "done.json")
    assert set(done["models"]) == {"policy"}
    rows = read_metrics(whole / "ppo" / "metrics.jsonl")
    assert {"group_std", "group_flat", "kept", "kl_loss", "entropy"} <= set(rows[0])
    assert not {name for name in rows[0] if "value" in name or name == "explained_variance"}
    assert all(row["first_ratio_error"] < 1e-3 for row in rows)
    # 8 prompts of 4 answers in a rollout; the second iteration begins behind all that the first has drawn.
    assert done["samples"] == rows[-1]["samples"] == 32 * sum(row["rollouts"] for row in rows)
    for row in rows:
        filled = row["rollouts"] <= GRPO["ppo.redraw"]
        assert (row["group_flat"] == 0.0) or not filled and row["rollouts"] == 1 + GRPO["ppo.redraw"]
        assert row["rollouts"] > 1 or row["redrawn"] == 0
    assert max(row["rollouts"] for row in rows) > 1

    small = {**GRPO, "ppo.iterations": 2}
    assert call("export", whole, "--stage=ppo", f"--out={tmp_path / 'policy'}", **small) == 0
    assert (tmp_path / "policy" / "config.json").is_file()
    assert call("export", whole, "--stage=ppo", "--role=value", f"--out={tmp_path / 'value'}", **small) == 2
    assert "--role=value: the ppo stage has no such model; it has policy." in capfd.readouterr().err
    assert call("report", whole, **small) == 0
    assert "ICE-GRT: PPO" in (whole / "report" / "index.html").read_text(encoding="utf-8")
