"""What the judges make of the benchmarks' own answers, where the public sets are at hand."""

import gzip
import json
import os
import pathlib
import re

import pytest

from icegrt_jax.data.records import Prompt, user
from icegrt_jax.evaluation.judges import grade_all, load

FEW = 40
LETTERS = "ABCDEFGHIJ"


def rows(name):
    """The first rows of a set."""
    root = os.environ.get("ICEGRT_DATA", "")
    path = next(iter(pathlib.Path(root).glob(f"{name}.jsonl*")), None) if root else None
    if path is None:
        pytest.skip(f"no {name}.jsonl under ICEGRT_DATA={root!r}")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(FEW))]


def boxed(letter):
    return rf"So it is \boxed{{{letter}}}."


# Set -> the judge, the record's reference and meta, a right answer and a wrong one, as a model may put them.
TASKS = {
    "bench/gsm8k/test": lambda row: (
        "number", row["answer"], {}, row["answer"].replace("####", "That is all. ####"), f"{row['answer']}0.5"),
    "bench/arc_easy/test": lambda row: (
        "letter", row["answerKey"], {}, f"The answer is ({row['answerKey']}).", "None of them."),
    "bench/commonsense_qa/validation": lambda row: (
        "letter", row["answerKey"], {}, f"A thought first.\nAnswer: {row['answerKey']}", "A thought."),
    "bench/mmlu/test": lambda row: (
        "letter", LETTERS[row["answer"]], {}, f"{LETTERS[row['answer']]}. {row['choices'][row['answer']]}",
        f"{LETTERS[row['answer'] - 1]}. {row['choices'][row['answer'] - 1]}"),
    "bench/agieval/aqua-rat": lambda row: (
        "letter", LETTERS[row["gold"][0]], {}, row["choices"][row["gold"][0]], row["choices"][row["gold"][0] - 1]),
    "domain/medmcqa/test": lambda row: (
        "letter", LETTERS[row["cop"]], {}, boxed(LETTERS[row["cop"]]), boxed(LETTERS[row["cop"] - 1])),
    "bench/bbh/test": lambda row: ("exact", row["target"], {}, f" {row['target'].lower()}\n", f"not {row['target']}"),
    "bench/nq_open/validation": lambda row: (
        "regex", row["answer"][0], {"pattern": "(?i)" + "|".join(map(re.escape, row["answer"]))},
        f"I think it is {row['answer'][-1].upper()}, yes", "nobody"),
    "bench/truthfulqa/validation": lambda row: (
        "rouge_l", row["best_answer"], {}, row["best_answer"], "qqq"),
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_the_right_answer_of_a_benchmark_is_right_and_a_wrong_one_is_wrong(name):
    if name.startswith("bench/truthfulqa"):
        pytest.importorskip("rouge_score", reason="needs the extra rouge")
    for number, row in enumerate(rows(name)):
        named, reference, meta, right, wrong = TASKS[name](row)
        judge, record = load("k", named), Prompt(user("q"), reference, meta, f"{name}, row {number}")
        judge.check([record])
        golds = [grade["gold"] for grade in grade_all([judge] * 2, [record] * 2, [right, wrong])]
        assert golds == [1, 0], (record.where, right, wrong)


def test_the_letter_that_a_published_rationale_comes_to_is_found():
    """People wrote these; a few end without naming a letter, or name another than the set."""
    told = [row for row in rows("domain/aqua_rat/test") if "answer" in row["rationale"].lower()]
    judge = load("k", "letter")
    found = [judge.grade(Prompt(user("q"), row["correct"]), row["rationale"])["gold"] for row in told]
    assert len(told) > 5 and sum(found) / len(found) > 0.8


def test_every_number_of_gsm8k_is_read():
    judge = load("k", "number")
    judge.check([Prompt(user("q"), row["answer"]) for row in rows("bench/gsm8k/test")])
