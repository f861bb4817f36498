"""Several reward models of a run: trained side by side, put together by PPO by source, averaged, exported and given."""

import chex
import jax
import numpy as np
import pytest

from icegrt_jax import files
from icegrt_jax.models.members import Members
from icegrt_jax.training.metrics import read_metrics
from icegrt_jax.training.restore import load_role
from tests.commands.runs import call, copy_parts

PARTS = ("config.json", "data", "tokenizer", "pretrain", "sft")
KEYS = {
    "reward.ensemble": 2, "reward.steps": 2, "ppo.score.ensemble": "worst", "ppo.iterations": 2, "ppo.batch_size": 16,
    "ppo.ptx.coef": 0.0, "ppo.score.by_source": True, "ppo.weights.more": 1.0,
    "ppo.sources.more": "jsonl:{workdir}/data/ranking_prompts.jsonl", "log.ppo_checkpoint_every": 1, "log.every": 1,
}  # fmt: skip
REWARD = (*PARTS, "reward")


@pytest.fixture(scope="module")
def ensemble(finished, tmp_path_factory):
    """A workdir with two reward models and two iterations of PPO."""
    workdir = copy_parts(finished, tmp_path_factory.mktemp("ensemble") / "run", *PARTS)
    assert call("reward", workdir, **KEYS) == 0
    assert call("ppo", workdir, **KEYS) == 0
    return workdir


def differ(one: dict, other: dict) -> bool:
    return any((a != b).any() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_the_members_are_models_of_their_own_with_a_scale_of_their_own(ensemble):
    done = files.read_json(ensemble / "reward" / "done.json")
    assert done["ensemble"] == 2 and "made/accuracy_of_each" in done["heldout"]
    _, members = load_role(ensemble / "reward", "reward")
    assert isinstance(members, Members) and members.count == 2
    first, second = members.member(0), members.member(1)
    assert differ(first["head"], second["head"]) and differ(first["layers"], second["layers"])
    scores = np.array(files.read_json(ensemble / "reward" / "member_scores.json")["scores"])
    assert scores.shape == (8, 2)
    np.testing.assert_allclose(
        [done["ref_mean"], done["ref_std"]], [scores.mean(1).mean(), scores.mean(1).std()], rtol=1e-5
    )
    rows = read_metrics(ensemble / "reward" / "metrics.jsonl")
    assert all("accuracy_spread" in row for row in rows)


def test_ppo_logs_how_far_they_disagree_and_goes_on_to_the_bit(ensemble, finished, tmp_path):
    rows = read_metrics(ensemble / "ppo" / "metrics.jsonl")
    assert len(rows) == 2 and all(row["ensemble_std"] > 0 for row in rows)
    assert all(row[f"source/{name}/std"] > 0 for name in ("ads", "more") for row in rows), "of each source its own"
    grown = copy_parts((ensemble,), tmp_path / "grown", *REWARD)
    for iterations in (1, 2):
        assert call("ppo", grown, **{**KEYS, "ppo.iterations": iterations}) == 0
    for name in ("metrics.jsonl", "done.json"):
        assert (grown / "ppo" / name).read_bytes() == (ensemble / "ppo" / name).read_bytes(), name


def test_mean_weights_of_models_that_began_alike_are_one_reward_model(finished, tmp_path):
    workdir = copy_parts(finished, tmp_path / "run", *PARTS)
    keys = {**KEYS, "reward.ensemble_as": "weights", "ppo.score.ensemble": "mean", "reward.lora.rank": 2}
    assert call("reward", workdir, **keys) == 0
    done = files.read_json(workdir / "reward" / "done.json")
    assert done["use"] == "average" and done["average"]["lora"]["rank"] == 4
    assert not (workdir / "reward" / "member_scores.json").exists(), "one model scores"
    _, members = load_role(workdir / "reward", "reward", use="last")
    assert differ(members.member(0), members.member(1)), "by the order of their data"
    _, mean = load_role(workdir / "reward", "reward")
    both = [members.whole(number) for number in range(2)]
    chex.assert_trees_all_close(mean, jax.tree.map(lambda a, b: (a + b) / 2, *both), atol=1e-6)


def test_exported_members_are_given_to_another_run_as_they_are(ensemble, finished, tmp_path, capsys):
    export = lambda *more: call("export", ensemble, "--stage=reward", f"--out={tmp_path / 'out'}", *more, **KEYS)
    assert export() == 2 and "--member=1 to 2" in capsys.readouterr().err
    assert export("--member=3") == 2 and "--member=3: there are 2 models" in capsys.readouterr().err
    folders = []
    for number in (1, 2):
        assert export(f"--member={number}") == 0
        folders.append(str((tmp_path / "out").rename(tmp_path / f"reward{number}")))
    workdir = copy_parts(finished, tmp_path / "run", *PARTS)
    given = {"reward.steps": 0, "reward.ensemble": 1, "reward.init": folders[0]}
    given["reward.ensemble_with"] = f"('{folders[1]}',)"
    assert call("reward", workdir, **{**KEYS, **given}) == 0
    scores = [files.read_json(run / "reward" / "member_scores.json")["scores"] for run in (ensemble, workdir)]
    np.testing.assert_allclose(*scores, atol=1e-5)
