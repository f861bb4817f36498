"""Judges against answers graded by hand."""

import pytest

from icegrt_jax.config.choices import JUDGES
from icegrt_jax.data.records import Prompt, user
from icegrt_jax.domains.adreview import build
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import judges
from icegrt_jax.evaluation.judges import mean_grades, unigram_f1


def prompt(reference="", **meta):
    return Prompt(user("q"), reference, meta)


def test_every_judge_a_config_may_name_exists_and_gives_a_verdict_of_gold():
    assert set(judges.BY_NAME) == set(JUDGES) - {""}
    [ad] = build.build(0, {"eval_prompts": 1})["eval_prompts"]
    examples = {"adreview": ad, "choice": prompt("Answer: a\nExplanation: b", answer="a")}
    for name, judge in judges.BY_NAME.items():
        assert 0 <= judge(examples.get(name, prompt("x")), "some answer")["gold"] <= 1


@pytest.mark.parametrize("answer, gold", [("12 + 7", 1), ("  12 +\n7 ", 1), ("12 + 8", 0), ("so 12 + 7", 0), ("", 0)])
def test_exact_ignores_case_and_spaces_only(answer, gold):
    assert judges.exact(prompt("12 + 7"), answer) == {"gold": gold}
    assert judges.exact(prompt("Yes"), "yES")["gold"] == 1


def test_overlap_is_the_f1_of_two_bags_of_words():
    # "the cat" is shared: precision 2/4, recall 2/3.
    assert unigram_f1("the cat sat", "the cat the end") == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))
    assert unigram_f1("the cat", "The Cat!") == 1
    assert unigram_f1("the cat", "a dog") == unigram_f1("the cat", "") == 0
    assert judges.overlap(prompt("the cat"), "cat")["gold"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "answer, verdict, analysis",
    [
        ("Answer: bank\nExplanation: money is kept there", 1, 1),
        ("answer: The  Bank. explanation: nothing", 0, 0),
        ("Answer: bank\nExplanation: money", 1, 0.4),
        ("bank", 0, 0),
        ("Answer: river\nExplanation: money is kept there", 0, 1),
    ],
)
def test_a_choice_is_right_or_wrong_and_its_explanation_is_compared(answer, verdict, analysis):
    record = prompt("Answer: bank\nExplanation: money is kept there", answer="bank")
    expected = {"verdict": verdict, "analysis": analysis, "gold": (verdict + analysis) / 2}
    assert judges.choice(record, answer) == pytest.approx(expected)


def test_the_embedded_domain_is_graded_by_its_gold_judge():
    [record] = build.build(0, {"eval_prompts": 1})["eval_prompts"]
    assert judges.adreview(record, "no idea")["gold"] == 0
    assert {"verdict", "analysis", "gold"} <= set(judges.adreview(record, "no idea"))


def without(field):
    """A record of the embedded domain that lacks a field of its annotation."""
    [record] = build.build(0, {"eval_prompts": 1})["eval_prompts"]
    return Prompt(record.prompt, record.reference, {k: v for k, v in record.meta.items() if k != field})


@pytest.mark.parametrize("judge, record, problem", [
    ("exact", prompt(), "field 'reference' is missing; the judge 'exact' needs the answer that is right"),
    ("exact", prompt(" \n"), "field 'reference' is ' \\n'; the judge 'exact' needs"),
    ("overlap", prompt(), "field 'reference' is missing; the judge 'overlap' needs an answer of one word or more"),
    ("overlap", prompt("?!"), "field 'reference' is '?!'; the judge 'overlap' needs an answer of one word or more"),
    ("choice", prompt("Answer: a\nExplanation: b"), "field 'meta.answer' is missing; the judge 'choice' needs"),
    ("choice", prompt("Explanation: b", answer=7), "field 'meta.answer' is 7; the judge 'choice' needs"),
    ("choice", prompt("Explanation: b", answer="+"), "field 'meta.answer' is '+'; the judge 'choice' needs"),
    ("choice", prompt("a, because b", answer="a"), "field 'reference' is 'a, because b'; the judge 'choice' needs"),
    ("adreview", prompt("x"), "field 'meta.ad' is missing; the judge 'adreview' needs the ad's text"),
    ("adreview", without("violations"), "field 'meta.violations' is missing; the judge 'adreview' needs a list"),
    ("adreview", without("decoys"), "field 'meta.decoys' is missing; the judge 'adreview' needs a list"),
    ("adreview", prompt(ad="buy it", violations=[{"rule": 99, "quote": "buy"}], decoys=[]), "field 'meta.v"),
    ("exact", prompt("a", split=3), "field 'meta.split' is 3; results are grouped by it, expected a string"),
    ("exact", prompt("a", task=["sums"]), "field 'meta.task' is ['sums']; results are grouped by it"),
])  # fmt: skip
def test_a_record_without_what_the_judge_reads_is_refused(judge, record, problem):
    good = {"adreview": without(""), "choice": prompt("Answer: a\nExplanation: b", answer="a")}.get(judge, prompt("a"))
    judges.check_records(judge, [good])
    with pytest.raises(UserError) as error:
        judges.check_records(judge, [good, record])
    assert str(error.value).startswith(f"a prompt: {problem}")


def test_every_judge_says_what_it_needs():
    assert judges.NEEDS.keys() == judges.BY_NAME.keys()
    for name, needs in judges.NEEDS.items():
        assert needs, name


def test_grades_are_averaged_over_records():
    records = [prompt("a"), prompt("b"), prompt("c"), prompt("d")]
    assert mean_grades("exact", records, ["a", "b", "c", "x"]) == {"gold": 0.75}
    with pytest.raises(ValueError):
        mean_grades("exact", records, ["a"])
