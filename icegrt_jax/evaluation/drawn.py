"""The table of a run on a terminal: a column for each stage, which leaves room to say in words what is measured."""

from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from icegrt_jax.evaluation import table

NAME = "bold cyan"  # style of a stage's name
ENDLESS = 10_000  # characters, to see how wide a table would like to be


def show(results: dict, console: Console) -> None:
    """Draws what a `results.json` has: the table, the note below it, the differences, the examples."""
    whole = _table(results, "  ")
    if Measurement.get(console, console.options.update(max_width=ENDLESS), whole).maximum > console.width:
        whole = _table(results, "\n")
    parts = [whole, table.format_note(results), table.format_differences(results)]
    for part in filter(None, parts):
        console.print()
        console.print(part)
    for example in results["examples"]:
        console.print()
        console.print(Text(f"> {example['prompt']}", style="bold"))
        console.print(Padding(_answers(example["answers"]), (0, 0, 0, 2)))
    console.print()


def _table(results: dict, gap: str) -> Table:
    """A row for each thing that is measured, the stages above; `gap` is between a number and its interval."""
    rows, found = results["rows"], Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    found.add_column("")
    for row in rows:
        found.add_column(Text(row["name"], style=NAME), justify="right", no_wrap=True)
    for key, title in table.columns_of(results):
        if any(key in row["metrics"] for row in rows):
            found.add_row(title, *(_cell(table.cell(key, row), gap) for row in rows))
    return found


def _cell(text: str, gap: str) -> Text:
    """A number, with what follows it less bright."""
    number, per_cent, rest = text.partition(" %")
    rest = rest.strip()
    return Text.assemble(number + per_cent, (gap + rest, "dim") if rest else "")


def _answers(answers: dict[str, str]) -> Table:
    found = Table.grid(padding=(0, 2, 0, 0))
    found.add_column(justify="right", no_wrap=True, style="cyan")
    found.add_column()
    for name, text in answers.items():
        found.add_row(name, Text(text))
    return found
