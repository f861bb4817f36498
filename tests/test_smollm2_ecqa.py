"""The study of the claim on a real model and real data: its halves, its commands, its numbers."""

import gzip
import json
import pathlib
import re
import runpy

import numpy as np
import pytest

from icegrt_jax.config import checks, read
from icegrt_jax.config.file import load_config
from icegrt_jax.data.records import Prompt

FOLDER = pathlib.Path(__file__).parent.parent / "experiments" / "smollm2_ecqa"
QUESTIONS = [f"Where is thing number {i}?" for i in range(40)]


@pytest.fixture
def halves(tmp_path, monkeypatch):
    """halves.py, over public sets of a few rows each: ECQA, CoS-E and the ratings ask much the same questions."""
    choices = ["box", "bag", "sea"]
    row = lambda i, words: {"id": str(i), "question": QUESTIONS[i], "choices": choices, "answer": "bag",
                            "explanation": " ".join(["because"] * words)}  # fmt: skip
    rated = lambda i: {
        "id": str(i), "task": "commonsenseqa", "input_1": QUESTIONS[i].upper(), "input_2": "box, bag, or sea",
        "gold_label": "bag", "responses": ["it fits", "it does not"], "scores": [3, 0],
    }  # fmt: skip
    sets = {
        "domain/ecqa/official_test.jsonl.gz": [row(i, 10 * (i % 8)) for i in range(0, 30)],
        "domain/ecqa/official_val.jsonl.gz": [row(i, 5) for i in range(28, 40)],
        "domain/cos_e/train.jsonl.gz": [row(i, 5) for i in range(10, 34)],
        "preference/explanations_kway/train.jsonl.gz": [rated(i) for i in range(0, 32)],
        "preference/explanations_kway/test.jsonl": [rated(i) for i in range(5, 25)],
    }
    for name, rows in sets.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        opened = gzip.open if name.endswith(".gz") else open
        with opened(tmp_path / name, "wt") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in rows)
    monkeypatch.setenv("ICEGRT_DATA", str(tmp_path))
    return runpy.run_path(str(FOLDER / "halves.py"))


def test_no_question_is_in_both_halves_or_in_the_evaluation(halves):
    asked = {
        name: {halves["question_of"](x) for set_ in halves["SETS"] for x in halves[name]().records(set_, 99, 0)}
        for name in ("Chain", "Other")
    }
    assert not asked["Chain"] & asked["Other"] and min(map(len, asked.values())) >= 8
    assert not (asked["Chain"] | asked["Other"]) & halves["evaluated"]()
    assert asked["Chain"] | asked["Other"] == {f"question {q[:-1].lower()}" for q in QUESTIONS[:28]}


def test_what_is_shown_is_short_and_what_is_asked_is_all_of_the_half(halves):
    chain = halves["Chain"]()
    shown, asked = (list(chain.records(name, 99, 0)) for name in ("ecqa", "ecqa_prompts"))
    long = [x for x in asked if len(x.reference.split()) - 3 > halves["WORDS"]]
    assert long and len(shown) == len(asked) - len(long)
    assert [x.messages[-1]["content"] for x in chain.records("ecqa", 3, 0)] == [
        x.messages[-1]["content"] for x in shown[:3]
    ]
    assert len(list(chain.records("ecqa", 3, 0))) == 3


def test_both_halves_learn_that_a_choice_without_a_reason_is_among_the_last(halves):
    for name in ("Chain", "Other"):
        made = list(halves[name]().records("choices", 99, 0))
        assert made and all(ranking.ranks == (1.0, 2.0, 2.0) for ranking in made)
        assert {ranking.responses[2] for ranking in made} == {"Answer: bag"}
        assert all(r.responses[0].startswith("Answer: bag\nExplanation:") for r in made)
    assert all("Explanation:" in text for r in halves["Chain"]().records("rated", 99, 0) for text in r.responses)


def test_an_answer_is_worth_its_choice_and_how_like_the_published_its_explanation_is(halves):
    record = Prompt(
        ({"role": "user", "content": "?"},), "Answer: bag\nExplanation: it can hold a lot", {"answer": "bag"}
    )
    grade, right = halves["Chain"]().grade, halves["right_choice"]
    assert grade(record, record.reference) == {"verdict": 1.0, "rouge_l": 1.0, "gold": 1.0}
    # Two of its four words in the reference's order, of five: precision 1/2, recall 2/5.
    found = grade(record, "Answer: box\nExplanation: it may hold nothing")
    assert found["verdict"] == 0 and found["rouge_l"] == pytest.approx(4 / 9) and found["gold"] == pytest.approx(2 / 9)
    assert grade(record, "bag")["gold"] == 0
    assert right([[]] * 2, ["Answer: bag\nExplanation: x", "Answer: sea\nExplanation: bag"], [record] * 2) == [1.0, 0.0]


@pytest.mark.parametrize("size", ["laptop", "short", "gpu", "smoke"])
def test_every_size_is_a_sound_config_of_adapters_on_one_base_and_the_halves_are_kept_apart(size):
    chain, other = (read(load_config(f"{FOLDER / name}.py:{size}")) for name in ("config", "evaluator"))
    checks.check(chain)
    checks.check(other)
    assert chain.roles.shared_base and chain.domain.endswith("halves.py:Chain") and other.domain.endswith(":Other")
    assert chain.seed != other.seed and chain.reward.steps == other.reward.steps
    # Nothing of the ratings or questions is read past the halves.
    read_ = [*chain.sft.sources.values(), *chain.reward.sources.values(), *chain.ppo.sources.values()]
    assert {spec for spec in read_ if "{workdir}" not in spec} == {"alpaca:instruct/dolly_hhrlhf/train.jsonl"}
    assert "official_val" in chain.evaluate.domain["ecqa"]


def test_the_unseen_reward_model_is_trained_before_the_chain_and_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    study = runpy.run_path(str(FOLDER / "run.py"))
    steps = list(study["steps"]("short", [0, 3], tmp_path, "/a/model"))
    names = [step.name for step in steps]
    assert names[:4] == ["evaluator_sft", "evaluator_reward", "seed_0", "seed_3"] and len(set(names)) == len(names)
    assert f"--config.evaluate.reward_model={tmp_path / 'evaluator' / 'reward'}" in steps[2].words
    ranked = {step.name: step.words[3] for step in steps if step.name.endswith("_ranks")}
    assert "evaluator/data/rated.jsonl" in ranked["seed_3_ranks"] and "seed_0/data" in ranked["evaluator_ranks"]
    asked = [step for step in steps if step.words[0] == "lm-eval"]
    assert len(asked) == 5 * len(study["TASKS"]) and sum(map(len, study["TASKS"])) == 12
    ran = []

    def icegrt(command, **_):
        ran.append(command[3:])
        return study["subprocess"].CompletedProcess(command, 0)

    monkeypatch.setattr(study["subprocess"], "run", icegrt)
    steps[1].leaves.parent.mkdir(parents=True)
    steps[1].leaves.write_text("{}")
    study["do"](steps[1], tmp_path)
    assert ran == []
    # One that says it is well and has left nothing was stopped in a stage: nothing may be built on that.
    with pytest.raises(SystemExit, match=r"evaluator_sft ended with 0; .*evaluator_sft.log says why"):
        study["do"](steps[0], tmp_path)
    assert ran == [steps[0].words]


def run_of(folder, right, scores):
    """A finished evaluation: of each row and decoding two answers to each of three questions."""
    lines = [
        {"row": row, "group": "domain", "decoding": way, "prompt": i, "sample": k, "tokens": 9, "answer": "x",
         "grades": {"verdict": right[row][i], "rouge_l": 0.5, "gold": 0}, "heldout_reward": scores[row][i]}
        for row in right for way in ("sampled", "greedy") if not (row == "best-of-4" and way == "greedy")
        for k in range(2) for i in range(3)
    ]  # fmt: skip
    (folder / "evaluate").mkdir(parents=True)
    (folder / "evaluate" / "by_prompt.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    answers = {"ICE-Instruct": "Answer: bag", "ICE-GRT": "```\n# no heading"}
    (folder / "evaluate" / "results.json").write_text(json.dumps({"examples": [{"prompt": "a?", "answers": answers}]}))
    (folder / "sft").mkdir()
    (folder / "sft" / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n')


def test_the_tables_are_over_questions_and_seeds_and_say_how_far_a_study_is(tmp_path):
    tables = runpy.run_path(str(FOLDER / "tables.py"))
    empty = tables["collect"](tmp_path, "short", [0, 1])
    assert "not begun" in tables["page"](empty) and "No seed has been evaluated yet." in tables["page"](empty)
    for seed, more in ((0, 0.0), (1, 1.0)):
        right = {"ICE-Instruct": [0, 0, 1], "best-of-4": [0, 1, 1], "ICE-GRT": [1, more, 1]}
        run_of(
            tmp_path / f"seed_{seed}", right, {"ICE-Instruct": [0, 0, 0], "best-of-4": [1, 1, 1], "ICE-GRT": [2, -1, 2]}
        )
    for policy, got in (
        ("base", 0.0),
        ("seed_0_sft", 0.0),
        ("seed_1_sft", 1.0),
        ("seed_0_ppo", 1.0),
        ("seed_1_ppo", 1.0),
    ):
        rows = [{"filter": f, "exact_match": x} for f, x in (("strict-match", 0.0), ("flexible-extract", got))]
        for task, said in (("gsm8k", rows), ("mmlu_law", [{"filter": "none", "acc": got}] * 3)):
            path = tmp_path / "general" / f"{policy}.others.icegrt_{task}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(f"{json.dumps(line)}\n" for line in said))
    found = tables["collect"](tmp_path, "short", [0, 1])
    assert found["steps"]["seed 0"] == {"sft": 2} and found["curves"]["seed 1"] == {"sft": {"loss": [3.0, 2.0]}}
    apart = {(x["minus"], x["decoding"], x["metric"]): x["difference"] for x in found["differences"]}
    # Over the seeds ICE-GRT has 1, 1/2 and 1 of the choices right, ICE-Instruct 0, 0 and 1.
    assert apart["ICE-Instruct", "sampled", "verdict"][0] == pytest.approx(0.5)
    assert apart["best-of-4", "sampled", "verdict"][0] == pytest.approx(1 / 6)
    assert ("best-of-4", "greedy", "verdict") not in apart
    grt = next(x for x in found["rows"] if (x["row"], x["decoding"]) == ("ICE-GRT", "greedy"))["numbers"]
    assert grt["wins"][0] == pytest.approx(2 / 3) and grt["wins"][1] <= grt["wins"][0] <= grt["wins"][2]
    assert found["general"]["gsm8k"]["difference"][0] == 0.5 and found["general"]["mean"]["questions"] == 4
    text = tables["page"](found)
    assert "| mmlu | 3 | 0.0 [0.0, 0.0] | 50.0 [50.0, 50.0] | 100.0 [100.0, 100.0] | 50.0 [50.0, 50.0] |" in text
    assert "- right choices, sampled, less ICE-Instruct: " in text and "seed 0: sft 2" in text
    tables["plot"](found["curves"], tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    page = tables["samples"](tmp_path, [0, 1])
    assert "````text\n```\n# no heading\n````" in page and np.isfinite(grt["tokens"]).all()


def test_the_page_has_the_numbers_of_the_results():
    page, found = ((FOLDER / name).read_text(encoding="utf-8") for name in ("README.md", "results/short.md"))
    _, *lines = page.partition("| | ICE-GRT less ICE-Instruct")[2].partition("\n\n")[0].splitlines()
    numbers = [x for line in lines for x in re.findall(r"[+-]?\d+\.\d+ \[[-\d., ]+\]", line)]
    assert len(numbers) == 8 and all(number in found for number in numbers)
