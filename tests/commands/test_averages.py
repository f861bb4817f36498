"""PPO that leaves an average of policies: what later commands read, and that it resumes to the bit."""

import chex
import jax
import pytest

from icegrt_jax import files
from icegrt_jax.models.tree import abstract_params
from icegrt_jax.runs.averages import on_the_way
from icegrt_jax.training.checkpoints import Checkpoints
from icegrt_jax.training.restore import load_own, load_role
from tests.commands.runs import call, copy_parts

PARTS = ("config.json", "data", "tokenizer", "pretrain", "sft", "reward")
KEYS = {
    "ppo.batch_size": 16, "ppo.ptx.batch_size": 16, "ppo.ema": 0.5, "ppo.average": "(0.5, 1.0)",
    "ppo.heldout.ads": "jsonl:{workdir}/data/eval_prompts.jsonl", "ppo.heldout_limit": 5,
    "ppo.average_by": "heldout/length:max", "log.ppo_checkpoint_every": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def averaged(finished, tmp_path_factory):
    """A workdir whose PPO has averaged over two iterations and tried two points."""
    workdir = copy_parts(finished, tmp_path_factory.mktemp("averaged") / "run", *PARTS)
    assert call("ppo", workdir, **KEYS, **{"ppo.iterations": 2}) == 0
    return workdir


def stored(workdir, step, field):
    """Of a checkpoint the tree of the policy."""
    model, _, _ = load_own(workdir / "sft", "policy")
    with Checkpoints(workdir / "ppo" / "checkpoints") as checkpoints:
        return checkpoints.restore({field: {"policy": abstract_params(model)}}, step, partial=True)[field]["policy"]


def test_later_commands_read_the_point_of_the_average_that_was_chosen(averaged):
    done = files.read_json(averaged / "ppo" / "done.json")
    assert done["use"] == "average" and done["average"]["ema"] == 0.5
    rows = done["average"]["tried"]
    assert done["average"]["by"] == KEYS["ppo.average_by"] and [row["point"] for row in rows] == [0.5, 1.0]
    assert done["average"]["point"] == max(rows, key=lambda row: row["heldout/length"])["point"]
    ema, actor, instruct = (
        stored(averaged, 2, "ema"),
        stored(averaged, 2, "params"),
        load_role(averaged / "sft", "policy"),
    )
    expected = on_the_way(instruct[1], ema, done["average"]["point"])
    _, policy = load_role(averaged / "ppo", "policy")
    chex.assert_trees_all_close(policy, expected, atol=1e-6)
    chex.assert_trees_all_equal(load_role(averaged / "ppo", "policy", use="last")[1], actor)
    before = stored(averaged, 1, "ema")
    moved = jax.tree.map(lambda old, now: 0.5 * old + 0.5 * now, before, actor)
    chex.assert_trees_all_close(ema, moved, atol=1e-6)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(ema), jax.tree.leaves(actor), strict=True))
    assert load_role(averaged / "ppo", "value")[0] == load_role(averaged / "ppo", "value", use="last")[0]


def test_an_average_that_goes_on_is_the_same_to_the_bit(averaged, finished, tmp_path):
    grown = copy_parts(finished, tmp_path / "grown", *PARTS)
    for iterations in (1, 2):
        assert call("ppo", grown, **KEYS, **{"ppo.iterations": iterations}) == 0
    for name in ("metrics.jsonl", "average.json", "done.json"):
        assert (grown / "ppo" / name).read_bytes() == (averaged / "ppo" / name).read_bytes(), name
    chex.assert_trees_all_equal(stored(grown, 2, "ema"), stored(averaged, 2, "ema"))
    chex.assert_trees_all_equal(load_role(grown / "ppo", "policy")[1], load_role(averaged / "ppo", "policy")[1])


def test_what_decides_the_point_may_not_change_afterwards(averaged, capsys):
    assert call("ppo", averaged, **{**KEYS, "ppo.iterations": 2, "ppo.heldout_limit": 1}) == 2
    assert "ppo.heldout_limit 5 → 1" in capsys.readouterr().err
