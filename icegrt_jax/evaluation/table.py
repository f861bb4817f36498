"""The table of a run as text: one row per stage, and the prompts with every stage's answer."""

from collections.abc import Mapping, Sequence

Columns = tuple[tuple[str, str], ...]  # (metric, title)
AT_BEST = "at its best: at the temperature that was best on other prompts"
NAMES = {"domain": "prompts of the domain", "general": "general ones"}
# Of a judge that gives a verdict and an analysis.
COLUMNS: Columns = (
    ("verdict", "verdict"),
    ("analysis", "analysis"),
    ("gold", "gold"),
    ("gold_greedy", "gold (greedy)"),
    ("gold_best", "gold (at its best)"),
    ("heldout_wins", "preferred to ICE-Instruct"),
    ("heldout_wins_greedy", "preferred (greedy)"),
    ("general", "general tasks"),
    ("length", "tokens"),
)

# Of rows that are compared, beside the numbers of which less is better.
SHOWN: Columns = (
    ("gold", "gold"),
    ("gold_greedy", "gold (greedy)"),
    ("gold_best", "gold (at its best)"),
    ("heldout_reward", "held-out reward (its score)"),
    ("heldout_reward_greedy", "held-out reward (its score, greedy)"),
    ("heldout_reward_best", "held-out reward (its score, at its best)"),
    ("general", "general tasks"),
)
SCORE = "heldout_reward"  # what begins like this is no share


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
    return aligned(lines, narrowest=13)


def aligned(lines: list[list[str]], narrowest: int = 0) -> str:
    """Rows of cells under each other, the first of a row to the left, the others to the right."""
    first, *others = (max(map(len, column)) for column in zip(*lines))
    widths = [max(width, narrowest) for width in others]
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
    best = row["metrics"].get("temperature")
    at = (f" at {best:g}" if best else " greedy") if key == "gold_best" else ""
    return f"{100 * value:.1f} %" + (f" {_bounds(bounds, digits)}" if bounds else "") + at


def _bounds(bounds: Sequence[float], digits: int) -> str:
    return f"[{100 * bounds[0]:.{digits}f}, {100 * bounds[1]:.{digits}f}]"


def format_note(results: dict) -> str:
    """What stands below the table: prompts of each group, answers to each, what is in brackets, what "at" means."""
    if "prompts" not in results:  # older results do not have it
        return ""
    rows, counts = results["rows"], results["prompts"]
    asked = " and ".join(f"{count} {NAMES.get(group, group)}" for group, count in counts.items() if count)
    if results.get("samples", 1) > 1:
        asked += f"; {results['samples']} answers to each of the domain's"
    if any(row.get("intervals") for row in rows):
        asked += "; in brackets 95 % intervals over them"
    if any("gold_best" in row["metrics"] for row in rows):
        asked += f"; {AT_BEST}"
    if heldout := results.get("heldout_reward"):
        asked += f"; preferred by {heldout['path']}, which training never saw, ties half"
    return f"{asked}."


def differences_of(results: dict) -> list[tuple[str, list[dict]]]:
    """(what is compared, its differences) of a `results.json`, of the numbers that are shown."""
    names = dict(SHOWN)
    for name, title in results.get("harms", {}).items():
        names |= {name: title, f"greedy/{name}": f"{title} (greedy)", f"best/{name}": f"{title} (at its best)"}
    found: dict[str, list[dict]] = {}
    for one in results.get("differences", ()):
        if one["metric"] in names:
            found.setdefault(f"{one['row']} minus {one['minus']}", []).append({**one, "title": names[one["metric"]]})
    return list(found.items())


def format_differences(results: dict) -> str:
    """The differences of rows, in points, each with its interval."""
    blocks = []
    for compared, found in differences_of(results):
        width = max(len(one["title"]) for one in found)
        lines = [f"  {one['title']:<{width}}  {difference_cell(one)}" for one in found]
        blocks.append(
            "\n".join([f"{compared}, prompt by prompt, in points [95 % by bootstrap over the prompts]:", *lines])
        )
    return "\n\n".join(blocks)


def difference_cell(one: dict) -> str:
    """A difference in points, or of a score in its own unit, with its interval."""
    low, high = one["interval"]
    if one["metric"].startswith(SCORE):
        return f"{one['difference']:+5.2f} [{low:+.2f}, {high:+.2f}]"
    return f"{100 * one['difference']:+5.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def format_examples(examples: list[dict], *, markdown: bool = False) -> str:
    """Each prompt, then each stage's answer under its name; as Markdown a quotation and a list."""
    line, behind = ("- **{}** {}", "\n\n") if markdown else ("  {:>14}: {}", "\n")
    # Lines of its own in an answer would end the list, and leading spaces make it a block of code.
    shown = (lambda text: " ".join(text.split())) if markdown else str
    blocks = []
    for example in examples:
        answers = "\n".join(line.format(name, shown(text)) for name, text in example["answers"].items())
        blocks.append(f"> {shown(example['prompt'])}{behind}{answers}")
    return "\n\n".join(blocks)
