"""`icegrt evaluate`: rows of the stages there are, and the answer the reward model likes best."""

import contextlib
import types

import numpy as np
import pytest

from icegrt_jax import files
from icegrt_jax.commands import evaluate
from icegrt_jax.config.options import EvaluateOptions, RewardOptions
from icegrt_jax.data.records import Prompt, user
from icegrt_jax.evaluation.judges import load
from icegrt_jax.runs import judging
from icegrt_jax.sampling.generate import Generation
from icegrt_jax.sharding.mesh import make_mesh
from tests.commands.runs import call, copy_parts


def metrics_by_row(workdir):
    return {row["name"]: row["metrics"] for row in files.read_json(workdir / "evaluate" / "results.json")["rows"]}


def test_stages_that_have_not_finished_have_no_row(finished, tmp_path, capsys):
    workdir = copy_parts(finished, tmp_path, "data", "tokenizer", "pretrain", "sft")
    assert call("evaluate", workdir) == 0
    rows = metrics_by_row(workdir)
    assert list(rows) == ["base", "ICE-Instruct"]
    # Sampled on eight devices here and on one there: the same keys, the same answers.
    expected = metrics_by_row(finished[0])
    for name, metrics in rows.items():
        assert metrics == pytest.approx(expected[name], abs=1e-6)
    printed = capsys.readouterr().out
    assert "ICE-Instruct" in printed and "ICE-GRT" not in printed


def test_the_best_of_n_is_the_one_with_the_highest_score(monkeypatch):
    texts = [f"{prompt}{answer}" for prompt in "ab" for answer in "012"]
    mask = np.arange(4)[None, :] < np.array([1, 2, 3, 4, 1, 2])[:, None]
    out = Generation(None, None, None, mask, None, None, texts)
    scores = np.array([0.1, 0.9, 0.3, -5.0, -4.0, -6.0])
    stage = types.SimpleNamespace(mesh=make_mesh())
    monkeypatch.setattr(evaluate.stage_models, "stage_params", lambda *args: (None, None))
    monkeypatch.setattr(evaluate, "_answers", lambda *args, **kwargs: out)
    monkeypatch.setattr(evaluate.scoring, "load_reader", lambda *args: None)
    monkeypatch.setattr(evaluate.scoring, "score_generation", lambda *args: scores)
    asked = judging.Questions([Prompt(user("a"), "a1"), Prompt(user("b"), "b0")], [load("k", "exact")] * 2)
    progress = types.SimpleNamespace(phase=lambda name: contextlib.nullcontext())
    options = EvaluateOptions(best_of=3, batch_size=2)
    row = evaluate._best_of(stage, options, RewardOptions(), None, None, asked, progress)
    assert row["answers"] == ["a1", "b1"]
    assert row["metrics"]["gold"] == 0.5 and row["metrics"]["length"] == (2 + 1) / 2


def test_general_tasks_weigh_the_same_whatever_their_number_of_prompts():
    scores = evaluate._by_task(["copy", "copy", "copy", "sort"], [1.0, 0.0, 0.0, 1.0])
    assert scores == pytest.approx({"general": (1 / 3 + 1) / 2, "general/copy": 1 / 3, "general/sort": 1.0})


def test_examples_are_spread_over_the_prompts():
    assert evaluate._spread(9, 3) == [0, 4, 8]
    assert evaluate._spread(2, 3) == [0, 1]
    assert evaluate._spread(5, 0) == evaluate._spread(0, 3) == []
