"""The table of a run on a terminal: all of it within the width, no word broken."""

import io

import pytest
from rich.console import Console

from icegrt_jax.evaluation import drawn

NAMES = ("base", "ICE-Instruct", "best-of-8", "ICE-GRT")
METRICS = {
    "verdict": 0.925, "analysis": 0.261, "gold": 0.519, "gold_greedy": 0.402, "gold_best": 0.548, "general": 0.948,
    "heldout_wins": 0.5, "length": 15.4, "temperature": 0.3,
}  # fmt: skip
RESULTS = {
    "rows": [
        {"name": name, "metrics": METRICS, "intervals": {key: (0.1, 0.99) for key in METRICS if key != "length"}}
        for name in NAMES
    ],
    "prompts": {"domain": 240, "general": 348},
    "samples": 4,
    "examples": [{"prompt": "review this ad. " * 8, "answers": dict.fromkeys(NAMES, "it breaks rule three. " * 6)}],
}


@pytest.mark.parametrize("width", [80, 140])
def test_everything_fits_and_no_word_is_broken(width):
    console = Console(file=io.StringIO(), width=width)
    drawn.show(RESULTS, console)
    text = console.file.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    assert set(text.split()) <= {
        *(word for title in drawn.table.COLUMNS for word in title[1].split()), *NAMES, *"review this ad.".split(), ">",
        *"it breaks rule three.".split(), *drawn.table.format_note(RESULTS).split(),
        *"92.5 26.1 51.9 40.2 54.8 94.8 50.0 15.4 % [10, 99] at 0.3".split(),
    }  # fmt: skip
    assert ("92.5 %  [10, 99]" in text) == (width == 140)  # else the interval has a line of its own
    assert set("preferred to ICE-Instruct gold (at its best)".split()) <= set(text.split())


def test_every_number_stands_in_the_column_of_its_stage():
    console = Console(file=io.StringIO(), width=120)
    rows = [
        {"name": name, "metrics": {"gold": i / 10, "length": float(i)}, "intervals": {}} for i, name in enumerate(NAMES)
    ]
    drawn.show({"rows": rows, "examples": []}, console)
    lines = console.file.getvalue().splitlines()
    head, gold = lines[1], next(line for line in lines if line.startswith("gold"))
    for i, name in enumerate(NAMES):
        assert gold[: head.index(name) + len(name)].endswith(f"{10 * i}.0 %")
