"""The table of a run as it is printed."""

from icegrt_jax.evaluation.table import (
    COLUMNS,
    columns_of,
    columns_with,
    format_differences,
    format_examples,
    format_note,
    format_table,
)

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


BOUNDED = [
    {"name": "base", "metrics": {"gold": 0.125, "length": 3.0}, "intervals": {"gold": [0.081, 0.199]}},
    {"name": "ICE-GRT", "metrics": {"gold": 1.0, "general": 0.5}, "intervals": {"gold": [0.9, 1.0]}},
]


def test_a_number_has_its_interval_and_what_that_is_stands_below():
    _, base, grt = format_table(BOUNDED).split("\n")
    assert base.split() == ["base", "12.5", "%", "[8,", "20]", "-", "3.0"]
    assert grt.split() == ["ICE-GRT", "100.0", "%", "[90,", "100]", "50.0", "%", "-"]
    note = "64 prompts of the domain and 8 general ones; in brackets 95 % intervals over them."
    assert format_note({"rows": BOUNDED, "prompts": {"domain": 64, "general": 8}}) == note
    assert format_note({"rows": ROWS, "prompts": {"domain": 64, "general": 0}}) == "64 prompts of the domain."
    assert format_note({"rows": ROWS}) == "", "results of an earlier version"


def test_the_best_temperature_stands_beside_its_gold_and_the_note_says_what_it_is():
    rows = [
        {"name": "a", "metrics": {"gold_best": 0.5, "temperature": 0.3}, "intervals": {"gold_best": [0.4, 0.6]}},
        {"name": "b", "metrics": {"gold_best": 0.25, "temperature": 0.0}},
        {"name": "c", "metrics": {"gold": 0.25}},
    ]
    _, *cells = (line.split(maxsplit=1)[1].split("  ")[-1].strip() for line in format_table(rows).split("\n"))
    assert cells == ["50.0 % [40, 60] at 0.3", "25.0 % greedy", "-"]
    assert format_note({"rows": rows, "prompts": {"domain": 9, "general": 2}, "samples": 4}) == (
        "9 prompts of the domain and 2 general ones; 4 answers to each of the domain's; in brackets 95 % intervals "
        "over them; at its best: at the temperature that was best on other prompts."
    )


def test_differences_are_in_points_under_what_is_compared():
    one = {"row": "ICE-GRT", "minus": "best-of-8", "prompts": 9}
    found = [
        {**one, "metric": "gold", "difference": -0.0125, "interval": [-0.031, 0.004]},
        {**one, "metric": "wordy", "difference": 0.5, "interval": [0.4, 0.6]},
        {**one, "metric": "greedy/lies", "difference": 0.02, "interval": [0.0, 0.03]},
        {**one, "minus": "ICE-Instruct", "metric": "general", "difference": 0.0, "interval": [-0.1, 0.1]},
    ]
    text = format_differences({"harms": {"lies": "lies told"}, "differences": found})
    assert text.split("\n") == [
        "ICE-GRT minus best-of-8, prompt by prompt, in points [95 % by bootstrap over the prompts]:",
        "  gold                 -1.2 [-3.1, +0.4]",
        "  lies told (greedy)   +2.0 [+0.0, +3.0]",
        "",
        "ICE-GRT minus ICE-Instruct, prompt by prompt, in points [95 % by bootstrap over the prompts]:",
        "  general tasks   +0.0 [-10.0, +10.0]",
    ]
    assert format_differences({}) == "", "results of an earlier version"


def test_columns_line_up():
    for rows in (ROWS, BOUNDED):
        assert len({len(line) for line in format_table(rows).split("\n")}) == 1


def test_each_prompt_is_followed_by_every_stage_s_answer():
    examples = [{"prompt": "Why?", "answers": {"base": "no", "ICE-GRT": "because"}}, {"prompt": "How?", "answers": {}}]
    text = format_examples(examples)
    assert text.split("\n") == ["> Why?", "            base: no", "         ICE-GRT: because", "", "> How?", ""]
    assert format_examples(examples[:1], markdown=True) == "> Why?\n\n- **base** no\n- **ICE-GRT** because"
