"""The judges that ship against answers graded by hand."""

import sys
from fractions import Fraction

import pytest

from icegrt_jax.config.choices import JUDGES
from icegrt_jax.data.records import Prompt, user
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import built_in, numbers
from icegrt_jax.evaluation.built_in import unigram_f1
from icegrt_jax.evaluation.letters import letter_of


def prompt(reference="", **meta):
    return Prompt(user("q"), reference, meta)


def gold(judge, record, answer):
    return built_in.BY_NAME[judge](record, answer)["gold"]


def test_every_judge_a_config_may_name_exists_and_says_what_it_needs():
    assert {*built_in.BY_NAME, "domain", "model"} == set(JUDGES)
    assert built_in.NEEDS.keys() == built_in.BY_NAME.keys() and all(built_in.NEEDS.values())


@pytest.mark.parametrize("answer, gold", [("12 + 7", 1), ("  12 +\n7 ", 1), ("12 + 8", 0), ("so 12 + 7", 0), ("", 0)])
def test_exact_ignores_case_and_spaces_only(answer, gold):
    assert built_in.exact(prompt("12 + 7"), answer) == {"gold": gold}
    assert built_in.exact(prompt("Yes"), "yES")["gold"] == 1


def test_overlap_is_the_f1_of_two_bags_of_words():
    # "the cat" is shared: precision 2/4, recall 2/3.
    assert unigram_f1("the cat sat", "the cat the end") == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))
    assert unigram_f1("the cat", "The Cat!") == 1
    assert unigram_f1("the cat", "a dog") == unigram_f1("the cat", "") == 0
    assert built_in.overlap(prompt("the cat"), "cat")["gold"] == pytest.approx(2 / 3)


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
    assert built_in.choice(record, answer) == pytest.approx(expected)


@pytest.mark.parametrize("text, expected", [
    ("B", "B"), ("b", "B"), (" (c) ", "C"), ("**D**", "D"), ("B. because it floats", "B"), ("B) wood", "B"),
    ("b: wood", "B"), ("The answer is B.", "B"), ("the correct answer is (d), wood", "D"), ("Answer: C", "C"),
    ("Answer:C\nExplanation: A dog barks", "C"), ("The answer is A because it floats.", "A"),
    ("The answer is **A**", "A"), ("I choose option C", "C"), ("So the right choice is (e).", "E"),
    ("First I thought the answer is A. No: the answer is B", "B"), (r"so \boxed{B}", "B"), (r"\boxed{\text{(C)}}", "C"),
    ("It floats, hence (C)", "C"), ("(A) sinks, (B) floats, so it must be (B)", "B"),
    ("Option A is wrong. Answer: C", "C"), ("Among A through E, the answer is (E)", "E"),
    ("A dog barks", None), ("the answer is a dog", None), ("The answer is A dog", None), ("answer: Apples", None),
    ("I think so", None), ("I'm not sure", None), ("", None), ("Because", None), ("the answer is I don't know", None),
])  # fmt: skip
def test_a_letter_is_found_where_one_is_chosen_and_no_article_is_taken_for_one(text, expected):
    assert letter_of(text) == expected


def test_a_letter_is_right_or_wrong():
    assert gold("letter", prompt("B"), "The answer is (b).") == 1
    assert gold("letter", prompt("(B)"), "B") == 1
    assert gold("letter", prompt("B"), "C") == gold("letter", prompt("B"), "none of them") == 0


@pytest.mark.parametrize("text, expected", [
    ("#### 18", 18), ("it is 5\n#### $1,080.50", Fraction(2161, 2)), ("#### 3 of 4 eggs", 3), ("#### -7.", -7),
    ("#### 1 #### 2", 2), ("#### 18\nThat is 3 more.", 18), ("#### ", None), ("#### none", None),
    (r"so \boxed{42}", 42), (r"\boxed{1} no, \boxed{\frac{3}{4}}", Fraction(3, 4)), (r"\boxed{x = 1{,}5 or 7}", 7),
    (r"\boxed{-\frac{1}{2}}", Fraction(-1, 2)), (r"\boxed{5", None), ("#### 1/2", Fraction(1, 2)),
    ("#### 1 3/4", Fraction(7, 4)), ("#### 2e3", 2000), ("#### .5", Fraction(1, 2)), ("#### −3", -3),
    ("#### 50%", 50), ("#### 1/0", None), ("the answer is 5", None), ("", None),
])  # fmt: skip
def test_a_marked_number_is_read_by_its_value(text, expected):
    assert numbers.marked(text) == expected


@pytest.mark.parametrize("text, expected", [
    ("3 + 4 = 7", 7), ("5-3 makes 2", 2), ("it fell to -4", -4), ("room x2", 2), ("1,000,000", 10**6),
    ("in 1,2 or 3", 3), ("none", None), ("9" * 5000, None), ("1e999", 10**999),
])  # fmt: skip
def test_the_last_number_of_a_text(text, expected):
    assert numbers.last(text) == expected


@pytest.mark.parametrize("right, same, other", [
    ("1,000", ["1000", "1000.0", "1e3", "2000/2", "$1,000.00"], ["1,0000", "100", "1000.1"]),
    ("0.5", ["1/2", r"\frac{1}{2}", ".50", r"\dfrac{2}{4}"], ["5", "0.05"]),
    ("-3", ["-3.0", "−3", "-6/2"], ["3"]),
])  # fmt: skip
def test_numbers_of_one_value_are_equal_however_they_are_written(right, same, other):
    for text in same:
        assert gold("number", prompt(f"#### {right}"), f"#### {text}") == 1, text
        assert gold("number", prompt(right), rf"\boxed{{{text}}}") == 1, text
    for text in other:
        assert gold("number", prompt(f"#### {right}"), f"#### {text}") == 0, text


def test_a_number_without_a_mark_counts_as_the_last_number_only():
    assert built_in.number(prompt("#### 7"), "that makes 7") == {"gold": 0, "last_number": 1}
    assert built_in.number(prompt("#### 7"), "7 or 8\n#### 7") == {"gold": 1, "last_number": 1}
    assert built_in.number(prompt("#### 7"), "") == {"gold": 0, "last_number": 0}


def test_a_pattern_is_found_anywhere_in_the_answer():
    record = prompt(pattern=r"(?i)\b(new york|nyc)\b")
    assert gold("regex", record, "It is NYC, I think") == 1 and gold("regex", record, "Boston") == 0
    [need] = built_in.NEEDS["regex"]
    assert [need.holds(value) for value in (r"a+", "", "(", 3, None)] == [True, False, False, False, False]


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    pytest.importorskip("rouge_score", reason="needs the extra rouge")
    # "the cat on mat" of 6 and 5 words: precision 4/5, recall 4/6.
    found = gold("rouge_l", prompt("the cat sat on the mat"), "The cat on a mat")
    assert found == pytest.approx(2 * (4 / 5) * (4 / 6) / (4 / 5 + 4 / 6))
    assert gold("rouge_l", prompt("the cat"), "cat the") == pytest.approx(0.5), "in order"
    assert gold("rouge_l", prompt("the cat"), "") == 0


def test_rouge_l_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UserError, match=r'needs rouge.* not installed; pip install "icegrt_jax\[rouge\]"'):
        gold("rouge_l", prompt("a"), "a")
