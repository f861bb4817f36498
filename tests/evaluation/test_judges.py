"""Judges against answers graded by hand."""

import pytest

from icegrt_jax.config import JUDGES
from icegrt_jax.data.adreview import build
from icegrt_jax.data.records import Prompt, user
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


def test_grades_are_averaged_over_records():
    records = [prompt("a"), prompt("b"), prompt("c"), prompt("d")]
    assert mean_grades("exact", records, ["a", "b", "c", "x"]) == {"gold": 0.75}
    with pytest.raises(ValueError):
        mean_grades("exact", records, ["a"])
