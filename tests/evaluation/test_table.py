"""The table of a run as it is printed."""

from icegrt_jax.evaluation.table import COLUMNS, columns_of, columns_with, format_examples, format_table

ROWS = [
    {"name": "base", "metrics": {"verdict": 0.0, "gold": 0.125, "general": 0.5, "length": 12.34, "gold/novel": 1.0}},
    {"name": "best-of-8", "metrics": {"verdict": 1.0, "gold": 0.9996, "length": 7.0}},
]


def test_shares_are_per_cent_lengths_are_not_and_what_is_missing_is_a_dash():
    header, base, best = format_table(ROWS).split("\n")
    assert header.split() == ["verdict", "gold", "general", "tasks", "tokens"]
    assert base.split() == ["base", "0.0", "%", "12.5", "%", "50.0", "%", "12.3"]
    assert best.split() == ["best-of-8", "100.0", "%", "100.0", "%", "-", "7.0"]


def test_the_numbers_of_other_judges_have_columns_of_their_own():
    rows = [{"name": "base", "metrics": {"gold": 0.5, "tone": 0.25, "verdict": 1.0}}]
    results = {"rows": rows, "columns": columns_with({"tone": "how it sounds"})}
    header, base = format_table(rows, columns_of(results)).split("\n")
    assert header.split() == ["how", "it", "sounds", "gold"] and base.split() == ["base", "25.0", "%", "50.0", "%"]
    assert columns_of({"rows": rows}) == COLUMNS


def test_columns_line_up():
    assert len({len(line) for line in format_table(ROWS).split("\n")}) == 1


def test_each_prompt_is_followed_by_every_stage_s_answer():
    examples = [{"prompt": "Why?", "answers": {"base": "no", "ICE-GRT": "because"}}, {"prompt": "How?", "answers": {}}]
    text = format_examples(examples)
    assert text.split("\n") == ["> Why?", "            base: no", "         ICE-GRT: because", "", "> How?", ""]
