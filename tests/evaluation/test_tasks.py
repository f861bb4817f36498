"""The task files: twelve sets, their questions and their verdicts. Without the harness itself."""

import json
import pathlib
import re

import pytest

from icegrt_jax.evaluation import tasks
from icegrt_jax.evaluation.tasks import sets

FOLDER = pathlib.Path(tasks.__file__).parent
TWELVE = "mmlu agieval bbh arc_easy arc_challenge hellaswag piqa winogrande boolq openbookqa triviaqa gsm8k".split()


def test_there_is_a_file_for_each_of_the_twelve_and_it_calls_what_exists():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*TWELVE, "twelve", "humaneval"}
    assert re.findall(r"- icegrt_(\w+)", (FOLDER / "twelve.yaml").read_text()) == TWELVE
    for name in (*TWELVE, "humaneval"):
        text = (FOLDER / f"{name}.yaml").read_text()
        assert re.search(rf"^(task|group): icegrt_{name}$", text, re.MULTILINE)
        called = re.findall(r"!function sets\.(\w+)", text)
        assert "read" in called and all(callable(getattr(sets, function)) for function in called)


def test_winogrande_compares_beginnings_of_one_end():
    doc = {"sentence": "The fox saw the dog as _ was lazy.", "option1": "the fox", "option2": "the dog", "answer": "2"}
    assert sets.winogrande_choices(doc) == ["The fox saw the dog as the fox", "The fox saw the dog as the dog"]
    assert sets.winogrande_choices(doc)[sets.winogrande_text(doc)].endswith("the dog")
    assert sets.winogrande_target(doc) == "was lazy."


def test_hellaswag_is_rid_of_what_its_pages_had():
    doc = {"activity_label": "Baking", "ctx_a": "A man bakes [step] it.", "ctx_b": "then he", "endings": ["[x]eats."]}
    doc["ctx_a"] = "How to bake [title] Heat it."
    assert sets.hellaswag_text(doc) == "Baking: How to bake. Heat it. Then he"
    assert sets.hellaswag_choices(doc) == ["eats."]


def test_agieval_takes_each_of_several_right_choices():
    doc = {"choices": ["a", "bb", "cccccccc"], "gold": [1, 2]}
    scored = lambda *logprobs: sets.agieval_results(doc, [(x, False) for x in logprobs])
    assert scored(-1.0, -3.0, -4.0) == {"acc": 0.0, "acc_norm": 1.0}
    assert scored(-9.0, -3.0, -4.0) == {"acc": 1.0, "acc_norm": 1.0}


@pytest.mark.parametrize(
    ("target", "answer", "expected"),
    [
        ("(B)", " (B)", (1, 1)),
        ("(B)", " It is (B), not (C).", (0, 1)),
        ("False", " not true, so false.", (0, 0)),  # the first that is named
        ("No", " no.", (1, 1)),
        ("valid", " invalid", (0, 0)),
        ("12", " 5 + 7 = 12", (0, 1)),
        ("-12", " 12", (0, 0)),
        ("] ) >", " ] ) >\nQ", (0, 1)),
    ],
)
def test_big_bench_hard_is_answered_exactly_or_by_name(target, answer, expected):
    found = sets.bbh_results({"target": target}, [answer])
    assert (found["exact_match"], found["extracted"]) == expected


def test_rows_are_chosen_by_a_field_and_a_missing_set_is_named(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason='needs lm-evaluation-harness: pip install "icegrt_jax[eval]"')
    rows = [{"subject": s, "n": n} for n, s in enumerate("aab")]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("ICEGRT_DATA", str(tmp_path))
    found = sets.read(splits={"test": "x.jsonl"}, only={"subject": "a"}, version=1.0)
    assert [row["n"] for row in found["test"]] == [0, 1]
    with pytest.raises(ValueError, match="no rows with"):
        sets.read(splits={"test": "x.jsonl"}, only={"subject": "c"})
