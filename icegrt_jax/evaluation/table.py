"""The table of a run as text: one row per stage, and the prompts with every stage's answer."""

from collections.abc import Mapping

Columns = tuple[tuple[str, str], ...]  # (metric, title)
NAMES = {"domain": "prompts of the domain", "general": "general ones"}
# Of a judge that gives a verdict and an analysis.
COLUMNS: Columns = (
    ("verdict", "verdict"),
    ("analysis", "analysis"),
    ("gold", "gold"),
    ("gold_greedy", "gold (greedy)"),
    ("general", "general tasks"),
    ("length", "tokens"),
)


def columns_with(shown: Mapping[str, str]) -> Columns:
    """The columns where the judges have these numbers, {name: title}, beside gold."""
    return (*shown.items(), *COLUMNS[2:])


def columns_of(results: dict) -> Columns:
    """The columns of a `results.json`, which has its own where they are not the usual ones."""
    return tuple((key, title) for key, title in results.get("columns", COLUMNS))


def format_table(rows: list[dict], columns: Columns = COLUMNS) -> str:
    """`rows` as [{"name", "metrics": {…}, "intervals": {…}}]; shares are shown in per cent, with their intervals."""
    columns = tuple((key, title) for key, title in columns if any(key in row["metrics"] for row in rows))
    lines = [["", *(title for _, title in columns)]]
    lines += [[row["name"], *(cell(key, row) for key, _ in columns)] for row in rows]
    first, *others = (max(map(len, column)) for column in zip(*lines))
    widths = [max(width, 13) for width in others]
    return "\n".join(
        f"{name:<{first}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, widths)) for name, *cells in lines
    )


def cell(key: str, row: dict, digits: int = 0) -> str:
    """A number of a row as it is shown, with its interval where there is one; `digits` are those of the bounds."""
    value = row["metrics"].get(key)
    if value is None:
        return "-"
    if key == "length":
        return f"{value:.1f}"
    bounds = row.get("intervals", {}).get(key)
    return f"{100 * value:.1f} %" + (f" [{100 * bounds[0]:.{digits}f}, {100 * bounds[1]:.{digits}f}]" if bounds else "")


def format_note(rows: list[dict], prompts: Mapping[str, int]) -> str:
    """What stands below the table: how many prompts there were of each group, and what is in brackets."""
    asked = " and ".join(f"{count} {NAMES.get(group, group)}" for group, count in prompts.items() if count)
    bounds = "; in brackets 95 % intervals over them" if any(row.get("intervals") for row in rows) else ""
    return f"{asked}{bounds}."


def format_examples(examples: list[dict]) -> str:
    """Each prompt, then each stage's answer under its name."""
    blocks = []
    for example in examples:
        answers = "\n".join(f"  {name:>14}: {text}" for name, text in example["answers"].items())
        blocks.append(f"> {example['prompt']}\n{answers}")
    return "\n\n".join(blocks)
