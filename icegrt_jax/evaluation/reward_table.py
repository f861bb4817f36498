"""What is said of a reward model, as text."""

from collections.abc import Mapping, Sequence

from icegrt_jax.evaluation.best_of import BestOf
from icegrt_jax.evaluation.rankings import Estimate, Numbers
from icegrt_jax.evaluation.table import aligned

COLUMNS = {
    "score": "score",
    "accuracy": "accuracy",
    "best": "best of all",
    "hard": "hard",
    "normal": "normal",
    "easy": "easy",
    "better_is_longer": "better is longer",
    "better_is_shorter": "better is shorter",
    "prefers_longer": "prefers longer",
    "longer_is_better": "longer is better",
    "length_correlation": "score ~ length",
    "calibration_error": "calibration error",
}
ABOUT_LENGTH = tuple(name for name in COLUMNS if "longer" in name or "shorter" in name or "length" in name)
NOTE = """\
In brackets 95 % intervals over prompts. Chance is 50 % for pairs. Without length bias the accuracy is alike where the
better answer is the longer one and where it is the shorter one, and `prefers longer` is `longer is better`."""


def format_sources(rows: Mapping[str, tuple[int, Numbers]]) -> str:
    """Two tables, {row: (prompts, its numbers)}: how right it is, and how it goes by length."""
    right = [name for name in COLUMNS if name not in ABOUT_LENGTH]
    return f"{_table(rows, right)}\n\n{_table(rows, ABOUT_LENGTH)}"


def _table(rows: Mapping[str, tuple[int, Numbers]], names: Sequence[str]) -> str:
    shown = [name for name in names if any(name in numbers for _, numbers in rows.values())]
    lines = [["", "prompts", *(COLUMNS[name] for name in shown)]]
    for row, (prompts, numbers) in rows.items():
        lines.append([row, str(prompts), *(_cell(name, numbers.get(name)) for name in shown)])
    return aligned(lines)


def _cell(name: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    if name == "length_correlation":
        return f"{estimate.value:+.2f} [{estimate.low:+.2f}, {estimate.high:+.2f}]"
    return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def format_best_of(found: Mapping[str, Sequence[BestOf]], quality: str) -> str:
    """How good the answer is that the reward model takes out of n, beside a random and the best one."""
    lines = [["best of n", "prompts", "n", "taken", "random", "best", "share of the gain"]]
    for source, each in found.items():
        for one in each:
            taken = f"{one.taken.value:.3f} [{one.taken.low:.3f}, {one.taken.high:.3f}]"
            gain = "-" if one.gain is None else _cell("gain", one.gain)
            numbers = str(one.taken.count), str(one.n), taken, f"{one.random:.3f}", f"{one.best:.3f}", gain
            lines.append([source, *numbers])
    of = "share of the other answers that it is better than" if quality == "ranks" else "the records' scores"
    return f"{aligned(lines)}\nQuality of an answer: {of}."
