"""`icegrt evaluate`: rows of the stages there are, and the answer the reward model likes best."""

import contextlib
import io
import json
import pathlib
import types

import jax
import numpy as np
import pytest

from icegrt_jax import files
from icegrt_jax.commands import evaluate
from icegrt_jax.config.options import EvaluateOptions, RewardOptions, ScoreOptions
from icegrt_jax.data.records import Prompt, user
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import paired, sampled
from icegrt_jax.evaluation.judges import load
from icegrt_jax.runs import judging
from icegrt_jax.runs.answers import check_others, gold_by_temperature
from icegrt_jax.sampling.generate import Generation
from icegrt_jax.sharding.mesh import make_mesh
from tests.commands.runs import call, copy_parts

PARTS = ("config.json", "data", "tokenizer", "pretrain", "sft", "reward", "ppo")
SEVERAL = {
    "evaluate.samples": 2, "evaluate.temperatures": "(0.5,1.0)",
    "evaluate.temperature_prompts.others": "jsonl:{workdir}/data/prompts.jsonl", "evaluate.temperature_limit": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def several(finished, tmp_path_factory):
    """(results, lines of by_prompt.jsonl, what was printed) of a finished run, measured again with these keys."""
    workdir = copy_parts(finished, tmp_path_factory.mktemp("several") / "run", *PARTS)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert call("evaluate", workdir, **SEVERAL, **{"evaluate.reward_model": str(finished[0])}) == 0
    folder = workdir / "evaluate"
    return files.read_json(folder / "results.json"), files.read_jsonl(folder / "by_prompt.jsonl"), printed.getvalue()


def gold_of(lines, row, decoding, group="domain"):
    """Mean gold of the answers to each prompt."""
    found = {}
    for line in lines:
        if (line["row"], line["decoding"], line["group"]) == (row, decoding, group):
            found.setdefault(line["prompt"], []).append(line["grades"]["gold"])
    return np.array([np.mean(found[i]) for i in range(len(found))])


def test_the_first_of_several_answers_is_the_one_that_there_is_by_default(several, finished):
    before = files.read_jsonl(finished[0] / "evaluate" / "by_prompt.jsonl")
    first = [line for line in several[1] if line["sample"] == 0 and line["decoding"] != "best"]
    scored = [line.pop("heldout_reward", None) is not None for line in map(dict, first)]
    assert scored == [line["group"] == "domain" for line in first]
    assert [{k: v for k, v in line.items() if k != "heldout_reward"} for line in first] == before
    later = [line for line in several[1] if line["sample"] == 1 and line["decoding"] == "sampled"]
    sampled = [line for line in before if line["decoding"] == "sampled"]
    assert len(later) == len(sampled) > 0
    assert sum(a["answer"] == b["answer"] for a, b in zip(later, sampled)) < len(sampled) / 2, "another answer"


def test_a_number_is_the_mean_over_all_answers_of_every_prompt(several):
    results, lines, _ = several
    assert [row["name"] for row in results["rows"]] == ["base", "ICE-Instruct", "best-of-2", "ICE-GRT"]
    for row in results["rows"]:
        graded = [line for line in lines if line["row"] == row["name"] and line["decoding"] == "sampled"]
        assert len(graded) == 2 * results["prompts"]["domain"] and results["samples"] == 2
        assert row["metrics"]["gold"] == pytest.approx(gold_of(lines, row["name"], "sampled").mean())
        assert row["metrics"]["length"] == pytest.approx(np.mean([line["tokens"] for line in graded]))


def test_a_stage_is_measured_at_the_temperature_that_was_best_on_the_other_prompts(several):
    results, lines, printed = several
    for row in results["rows"]:
        metrics, tried = row["metrics"], row.get("gold_by_temperature")
        if row["name"] in ("base", "best-of-2"):
            assert "gold_best" not in metrics and tried is None
            continue
        assert list(tried) == ["0.5", "1"] and metrics["temperature"] == float(max(tried, key=tried.get))
        best = [line for line in lines if line["row"] == row["name"] and line["decoding"] == "best"]
        assert {line["temperature"] for line in best} == {metrics["temperature"]}
        assert len(best) == 2 * results["prompts"]["domain"]
        assert metrics["gold_best"] == pytest.approx(gold_of(lines, row["name"], "best").mean())
    assert "gold (at its best)" in printed and "2 answers to each of the domain's" in printed


def test_differences_are_those_of_the_numbers_by_prompt(several):
    results, lines, printed = several
    found = {(one["row"], one["minus"], one["metric"]): one for one in results["differences"]}
    for minus, metric, decoding in (
        ("best-of-2", "gold", "sampled"),
        ("ICE-Instruct", "gold", "sampled"),
        ("ICE-Instruct", "gold_greedy", "greedy"),
        ("ICE-Instruct", "gold_best", "best"),
    ):
        one = found["ICE-GRT", minus, metric]
        apart = gold_of(lines, "ICE-GRT", decoding) - gold_of(lines, minus, decoding)
        assert one["difference"] == pytest.approx(apart.mean()) and one["prompts"] == results["prompts"]["domain"]
        assert one["interval"] == pytest.approx(paired.bootstrap([apart]))
    general = [gold_of(lines, row, "greedy", "general").mean() for row in ("ICE-GRT", "ICE-Instruct")]
    assert found["ICE-GRT", "ICE-Instruct", "general"]["difference"] == pytest.approx(general[0] - general[1])
    assert ("ICE-GRT", "ICE-Instruct", "greedy/false_clear") in found and "false all-clears (greedy)" in printed
    assert ("ICE-GRT", "best-of-2", "gold_greedy") not in found, "which it has none of"


def test_a_held_out_reward_model_says_whose_answers_it_prefers_and_that_it_is_of_the_run(several):
    results, lines, printed = several
    by = lambda row: np.array([x["heldout_reward"] for x in lines if (x["row"], x["decoding"]) == (row, "sampled")
                               and x["group"] == "domain"]).reshape(2, -1)  # fmt: skip
    ours, theirs = by("ICE-GRT"), by("ICE-Instruct")
    metrics = {row["name"]: row["metrics"] for row in results["rows"]}
    share = ((ours > theirs) + 0.5 * (ours == theirs)).mean()
    assert metrics["ICE-GRT"]["heldout_wins"] == pytest.approx(share) and "heldout_wins" not in metrics["ICE-Instruct"]
    assert (
        metrics["ICE-GRT"]["heldout_reward_greedy"]
        != metrics["ICE-GRT"]["heldout_reward"]
        == pytest.approx(ours.mean())
    )
    found = {(one["row"], one["minus"], one["metric"]): one["difference"] for one in results["differences"]}
    assert found["ICE-GRT", "ICE-Instruct", "heldout_reward"] == pytest.approx((ours - theirs).mean())
    assert "preferred to ICE-Instruct" in printed and "held-out reward (its score)" in printed
    warned = results["heldout_reward"]["warnings"]
    assert ["the policy ICE-GRT" in warned[0], "ICE-Reward" in warned[1]] == [True, True]
    assert all(f"warning: {line}" in printed for line in warned)


def test_the_answers_of_a_row_are_read_with_what_they_answer(finished):
    folder = finished[0] / "evaluate"
    lines, asked = files.read_jsonl(folder / "by_prompt.jsonl"), files.read_jsonl(folder / "prompts.jsonl")
    found = sampled.read("--ours", f"{finished[0]}:ICE-GRT:greedy")
    expected = [x["answer"] for x in lines if (x["row"], x["decoding"], x["group"]) == ("ICE-GRT", "greedy", "domain")]
    assert [answer for own in found.answers.values() for answer in own] == expected and expected
    assert [(line["group"], line["place"]) for line in asked] == [
        (group, i)
        for group in ("domain", "general")
        for i in range(1 + max(line["prompt"] for line in lines if line["group"] == group))
    ]
    records = map(json.loads, (finished[0] / "data" / "eval_prompts.jsonl").read_text().splitlines())
    assert asked[0]["prompt"] in [record["prompt"] for record in records] and asked[0]["reference"]


def test_greedy_answers_have_all_the_judges_numbers(several):
    results, lines, _ = several
    for row in results["rows"]:
        greedy = [
            x["grades"] for x in lines if (x["row"], x["group"], x["decoding"]) == (row["name"], "domain", "greedy")
        ]
        for name in greedy[0] if greedy else ():
            metric = "gold_greedy" if name == "gold" else f"greedy/{name}"
            assert row["metrics"][metric] == pytest.approx(np.mean([grades[name] for grades in greedy]))
            low, high = row["intervals"][metric]
            assert low <= row["metrics"][metric] <= high
    assert {"verdict", "analysis", "false_clear"} <= greedy[0].keys()


def test_a_temperature_is_not_chosen_on_the_prompts_that_it_is_measured_on(finished, tmp_path, capsys):
    workdir = copy_parts(finished, tmp_path / "run", *PARTS)
    lines = (workdir / "data" / "prompts.jsonl").read_text().splitlines()[:3]
    lines += (workdir / "data" / "eval_prompts.jsonl").read_text().splitlines()[4:6]
    (tmp_path / "mixed.jsonl").write_text("\n".join(lines) + "\n")
    keys = {**SEVERAL, "evaluate.temperature_prompts.others": f"jsonl:{tmp_path}/mixed.jsonl"}
    assert call("evaluate", workdir, **{**keys, "evaluate.temperature_limit": 0}) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: evaluate.temperature_prompts: 2 of its 5 prompts are prompts of evaluate.domain")
    assert f"{tmp_path}/mixed.jsonl, line 4 is {workdir}/data/eval_prompts.jsonl, line 5" in error
    assert error.count("\n") == 0 and not (workdir / "evaluate").exists()
    records = [Prompt(user("a"), "a1"), Prompt(user("b"), "b0")]
    with pytest.raises(
        UserError, match="^k: 1 of its 1 prompts are prompts of evaluate.domain as well; what is chosen"
    ):
        check_others("k", records[:1], records)
    check_others("k", [], records)


def test_the_best_temperature_is_the_first_of_those_with_the_highest_gold(monkeypatch):
    asked = judging.Questions([Prompt(user("a"), "yes"), Prompt(user("b"), "yes")], [load("k", "exact")] * 2)
    said = {0.0: ["no", "yes"], 0.5: ["yes", "yes"], 1.0: ["yes", "yes"]}
    drawn = []

    def generate(run, model, params, prompts, key, *, temperature, batch_size, keep):
        drawn.append((temperature, jax.random.key_data(key).tolist()))
        ids, mask = np.zeros((2, 3), int), np.ones((2, 3), bool)
        return Generation(None, None, ids, mask, np.ones(2, bool), None, said[temperature])

    monkeypatch.setattr(evaluate.answers, "generate", generate)
    run = types.SimpleNamespace(key=lambda stream: jax.random.key(len(stream)))
    gold = gold_by_temperature(run, None, None, asked, (0.0, 0.5, 1.0), samples=2, batch_size=2, keep=None)
    assert gold == {0.0: 0.5, 0.5: 1.0, 1.0: 1.0} and max(gold, key=gold.__getitem__) == 0.5
    assert [temperature for temperature, _ in drawn] == [0.0, 0.5, 0.5, 1.0, 1.0], "greedy answers are all the same"
    assert drawn[1][1] != drawn[2][1] and drawn[1][1] == drawn[3][1], "each temperature with the same keys"


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


@pytest.mark.parametrize("stage", ["reward", "ppo"])
def test_a_stage_that_was_finished_and_has_lost_its_mark_is_not_left_out(finished, tmp_path, capsys, stage):
    workdir = copy_parts(finished, tmp_path / "run", *PARTS)
    (workdir / stage / "done.json").unlink()
    assert call("evaluate", workdir) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {workdir / stage / 'done.json'} is gone") and said.count("\n") == 1
    assert not (workdir / "evaluate" / "results.json").exists()


def test_the_best_of_n_is_the_one_with_the_highest_score(monkeypatch):
    texts = [f"{prompt}{answer}" for prompt in "ab" for answer in "012"]
    mask = np.arange(4)[None, :] < np.array([1, 2, 3, 4, 1, 2])[:, None]
    out = Generation(None, None, np.zeros(mask.shape, int), mask, mask[:, 3], None, texts)
    scores = np.array([0.1, 0.9, 0.3, -5.0, -4.0, -6.0])
    stage = types.SimpleNamespace(mesh=make_mesh(), folder=pathlib.Path)
    monkeypatch.setattr(evaluate.stage_models, "stage_params", lambda *args: (None, None))
    monkeypatch.setattr(evaluate.answers, "generate", lambda *args, **kwargs: out)
    monkeypatch.setattr(evaluate.answers, "keys_of", lambda run, stream, samples: [None] * samples)
    monkeypatch.setattr(evaluate.scoring, "load_reader", lambda *args: None)
    monkeypatch.setattr(evaluate.scoring, "score_generation", lambda *args: scores)
    asked = judging.Questions([Prompt(user("a"), "a1"), Prompt(user("b"), "b0")], [load("k", "exact")] * 2)
    progress = types.SimpleNamespace(phase=lambda name: contextlib.nullcontext())
    options = EvaluateOptions(best_of=3, batch_size=2)
    row = evaluate._best_of(stage, options, RewardOptions(), ScoreOptions(), None, None, asked, progress, None)
    assert [row.shown(i) for i in range(2)] == ["a1", "b1"]
    assert row.metrics["gold"] == 0.5 and row.metrics["length"] == (2 + 1) / 2


def test_general_tasks_weigh_the_same_whatever_their_number_of_prompts():
    scores = evaluate.answers.by_task(["copy", "copy", "copy", "sort"], [1.0, 0.0, 0.0, 1.0])
    assert scores == pytest.approx({"general": (1 / 3 + 1) / 2, "general/copy": 1 / 3, "general/sort": 1.0})


def test_examples_are_spread_over_the_prompts():
    assert evaluate._spread(9, 3) == [0, 4, 8]
    assert evaluate._spread(2, 3) == [0, 1]
    assert evaluate._spread(5, 0) == evaluate._spread(0, 3) == []
