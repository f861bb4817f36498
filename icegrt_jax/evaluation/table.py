"""The table of a run as text: one row per stage, and the prompts with every stage's answer."""

from collections.abc import Mapping

Columns = tuple[tuple[str, str], ...]  # (metric, title)
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
    """`rows` as [{"name", "metrics": {…}}]; shares are shown in per cent."""
    columns = tuple((key, title) for key, title in columns if any(key in row["metrics"] for row in rows))
    name_width = max(len(row["name"]) for row in rows)
    lines = [" " * name_width + "".join(f"  {title:>13}" for _, title in columns)]
    for row in rows:
        cells = []
        for key, _ in columns:
            value = row["metrics"].get(key)
            text = "-" if value is None else f"{value:.1f}" if key == "length" else f"{100 * value:.1f} %"
            cells.append(f"  {text:>13}")
        lines.append(f"{row['name']:<{name_width}}" + "".join(cells))
    return "\n".join(lines)


def format_examples(examples: list[dict]) -> str:
    """Each prompt, then each stage's answer under its name."""
    blocks = []
    for example in examples:
        answers = "\n".join(f"  {name:>14}: {text}" for name, text in example["answers"].items())
        blocks.append(f"> {example['prompt']}\n{answers}")
    return "\n\n".join(blocks)
