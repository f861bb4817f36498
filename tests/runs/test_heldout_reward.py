"""A reward model that training never saw, as a judge of every row."""

import types

import numpy as np
import pytest

import icegrt_jax as ice
from icegrt_jax.config import checks, default_config, read
from icegrt_jax.config.options import EvaluateOptions
from icegrt_jax.data.records import Prompt, user
from icegrt_jax.data.tokenizers import wrap
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import paired, table
from icegrt_jax.evaluation.judges import load
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.runs import heldout_reward
from icegrt_jax.runs.answers import Row, graded
from icegrt_jax.runs.judging import Questions
from icegrt_jax.sharding.mesh import make_mesh
from tests.commands.reward_folders import SHAPE, tiny_folder
from tests.data.templates import make

PROMPTS = [Prompt(user(f"q{i}"), "yes") for i in range(4)]
TEXTS = {
    "base": [["a", "b", "c", "d"]],
    "ICE-Instruct": [["yes", "no, it is not", "maybe so", "e"], ["f", "g", "h", "i"]],
    "best-of-2": [["yes", "b", "c", "d"], ["f", "x", "y", "z"]],
    "ICE-GRT": [["yes", "p", "q", "r"], ["s", "t", "u", "v"]],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, tokenizer = tmp_path_factory.mktemp("models"), wrap(make("chatml"))
    tiny_folder(root / "reward", tokenizer)
    tiny_folder(root / "policy", tokenizer, scalar_head=False)
    return root


def run_in(folder):
    return types.SimpleNamespace(mesh=make_mesh(), workdir=folder, folder=lambda stage: folder / stage)


def rows():
    """Two draws of each but the base, and of ICE-GRT and ICE-Instruct greedy answers."""
    asked, found = Questions(PROMPTS, [load("k", "exact")] * 4), {}
    ended = np.array([True, True, True, False])
    for name, texts in TEXTS.items():
        found[name] = Row()
        draws = [(one, [np.zeros(1, int)] * 4, ended) for one in texts]
        found[name].add("sampled", graded(asked, 1.0, draws))
        if name.startswith("ICE"):
            found[name].add("greedy", graded(asked, 0.0, draws[:1]))
    return found


@pytest.fixture(scope="module")
def measured(folders, tmp_path_factory):
    """(rows, what results.json says, the reward model)."""
    own, section = rows(), EvaluateOptions(reward_model=str(folders / "reward"), batch_size=8)
    run = run_in(tmp_path_factory.mktemp("run"))
    policy = ice.load_model(folders / "policy")
    said = heldout_reward.measure(run, section, own, PROMPTS, [("ICE-GRT", policy.config, policy.params)])
    return own, said, ice.load_model(folders / "reward")


def test_the_scores_are_those_of_the_model_and_their_means_differ_prompt_by_prompt(measured):
    own, _, model = measured
    for name, texts in TEXTS.items():
        scores = own[name].answers[0][2].scores
        for said, score in zip(texts, scores, strict=True):
            expected = ice.score(model, [p.prompt for p in PROMPTS], said, finished=[True, True, True, False])
            np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-5)
        assert own[name].metrics["heldout_reward"] == pytest.approx(np.mean(scores))
    lines = list(own["ICE-GRT"].lines("ICE-GRT", {"domain": PROMPTS}))
    assert lines[5]["heldout_reward"] == pytest.approx(own["ICE-GRT"].answers[0][2].scores[1][1])
    numbers = {name: row.numbers for name, row in own.items()}
    [one] = [x for x in paired.differences(numbers, [("ICE-GRT", "ICE-Instruct")]) if x["metric"] == "heldout_reward"]
    apart = np.mean(own["ICE-GRT"].answers[0][2].scores, axis=0) - np.mean(
        own["ICE-Instruct"].answers[0][2].scores, axis=0
    )
    assert one["difference"] == pytest.approx(apart.mean()) and one["interval"] == pytest.approx(
        paired.bootstrap([apart])
    )
    text = table.format_differences({"differences": [one]})
    assert f"held-out reward (its score)  {apart.mean():+5.2f} [" in text


def test_a_row_is_preferred_where_its_kth_answer_scores_higher_than_the_kth_of_ice_instruct(measured):
    own, said, _ = measured
    assert "heldout_wins" not in own["ICE-Instruct"].metrics
    for name, way, at in (("ICE-GRT", "", 0), ("best-of-2", "", 0), ("base", "", 0), ("ICE-GRT", "_greedy", 1)):
        ours = np.stack(own[name].answers[at][2].scores)
        theirs = np.stack(own["ICE-Instruct"].answers[at][2].scores)[: len(ours)]
        share = ((ours > theirs) + 0.5 * (ours == theirs)).mean(axis=0)
        assert own[name].metrics[f"heldout_wins{way}"] == pytest.approx(share.mean())
        assert own[name].intervals[f"heldout_wins{way}"] == pytest.approx(paired.bootstrap([share]))
    assert (
        0.5 in heldout_reward.wins(*(np.stack(own[n].answers[0][2].scores) for n in ("best-of-2", "ICE-Instruct")))[:1]
    )
    results = {
        "rows": [{"name": n, "metrics": r.metrics, "intervals": r.intervals} for n, r in own.items()],
        "prompts": {"domain": 4, "general": 0}, "heldout_reward": said,
    }  # fmt: skip
    assert "preferred to ICE-Instruct" in table.format_table(results["rows"])
    assert f"preferred by {said['path']}, which training never saw, ties half" in table.format_note(results)


def test_a_model_of_the_runs_own_lineage_is_a_warning_and_another_is_none(folders, measured, tmp_path, monkeypatch):
    """The folders have the same weights but for the head."""
    _, said, _ = measured
    [warning] = said["warnings"]
    assert "goes back to the same model as the policy ICE-GRT (the cosine of their weights is 0." in warning
    run = run_in(tmp_path)
    other = ModelConfig(vocab_size=300, **{**SHAPE, "num_layers": 2})
    section = EvaluateOptions(reward_model=str(folders / "reward"), batch_size=8)
    found = heldout_reward.measure(run, section, {}, PROMPTS, [("ICE-GRT", other, {})])
    assert found["warnings"] == []
    own = ice.load_model(folders / "reward")
    monkeypatch.setattr(heldout_reward.rundir, "finished", lambda run, stage: stage == "reward")
    monkeypatch.setattr(heldout_reward.stage_models, "stage_params", lambda *_: (own.config, own.params))
    [warning] = heldout_reward.measure(run, section, {}, PROMPTS, [("ICE-GRT", other, {})])["warnings"]
    assert "goes back to the same model as ICE-Reward, which trained it, (the cosine" in warning


def test_without_the_key_nothing_is_measured_and_what_is_no_reward_model_is_refused_before_the_run(folders):
    own = rows()
    assert heldout_reward.measure(None, EvaluateOptions(), own, PROMPTS, []) == {}
    assert "heldout_reward" not in own["ICE-GRT"].metrics
    assert "heldout_reward" not in next(own["ICE-GRT"].lines("x", {"domain": PROMPTS}))
    heldout_reward.check(EvaluateOptions(reward_model=str(folders / "reward")))
    config = default_config()
    config.evaluate.reward_model = "models/reward"
    with pytest.raises(UserError, match="^evaluate.reward_model scores answers to evaluate.domain, which is empty;"):
        checks.check(read(config))
    with pytest.raises(UserError, match="policy: holds a language model, no reward"):
        heldout_reward.check(EvaluateOptions(reward_model=str(folders / "policy")))
