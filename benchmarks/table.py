"""Results as Markdown tables, for the terminal and for README.md."""

from benchmarks import results as r
from benchmarks.results import OURS

GIB = 2.0**30


def table(header: list[str], rows: list[list[str]]) -> str:
    """Aligned Markdown; the first column to the left, numbers to the right."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        first, *others = (str(cell) for cell in cells)
        return f"| {' | '.join([first.ljust(widths[0]), *(x.rjust(w) for x, w in zip(others, widths[1:]))])} |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def number(x: float | None, digits: int = 2) -> str:
    return "-" if x is None else f"{x:.{digits}f}"


def rate(amount: float, seconds: float) -> str:
    found = amount / seconds
    return f"{found:.0f}" if found >= 100 else f"{found:.1f}" if found >= 10 else f"{found:.3f}"


def contender_row(name: str, contender: dict, case: dict, ours: dict | None) -> list[str]:
    """One row of a case's table."""
    if not r.measured(contender):
        return [name, contender.get("failed") or contender.get("missing") or "not run"] + [""] * 7
    median, times = r.median_seconds(contender), r.seconds(contender)
    ratio = "" if name == OURS or ours is None or not r.measured(ours) else "{:.2f} ({:.2f}-{:.2f})".format(
        *r.speed_ratio(ours, contender)
    )  # fmt: skip
    limit = case.get("limit_s")
    fraction = "-" if limit is None else f"{100 * limit / median:.0f} %"
    phases = r.phase_medians(contender)
    peak = r.peak_bytes(contender)
    return [
        name, rate(case["amount"], median), f"{median:.2f} ({min(times):.2f}-{max(times):.2f})",
        ", ".join(f"{phase} {number(s)}" for phase, s in phases.items()) if len(phases) > 1 else "",
        ratio, fraction, number(peak and peak / GIB), number(r.noise(contender)), number(r.mean_length(contender), 1),
    ]  # fmt: skip


def case_table(case: dict) -> str:
    header = [
        "", f"{case['unit']}/s", "seconds (range)", "by phase", "ours is x faster (by round)", "of the limit",
        "peak GiB", "noise", "mean length",
    ]  # fmt: skip
    rows = []
    for group in case["groups"]:
        ours = group.get(OURS)
        rows += [contender_row(name, contender, case, ours) for name, contender in group.items()]
    shown = [i for i in range(len(header)) if i < 3 or any(row[i] not in ("", "-") for row in rows)]
    text = table([header[i] for i in shown], [[row[i] for i in shown] for row in rows])
    limit = "" if case.get("limit_s") is None else f" The limit is {case['limit_s']:.2f} s."
    return f"{case['title']}{limit}{utilisation(case)}\n\n{text}"


def utilisation(case: dict) -> str:
    """A sentence on the model FLOPs that ours reaches in the phase that counts; nothing where none is named."""
    phase = case.get("flops_phase")
    if phase is None or not r.measured(case["groups"][0].get(OURS, {})):
        return ""
    found = case["flops"] / r.phase_medians(case["groups"][0][OURS])[phase]
    share = f"{100 * found / case['flops_rate']:.0f} % {case['flops_rate_is']}"
    return f" Model FLOPs of {phase}: {found / 1e12:.1f} TFLOP/s, {share}."


def section_text(result: dict) -> str:
    """All tables of a section."""
    parts = []
    for case in result["cases"].values():
        parts.append(
            f"{case['title']}\n\n{table(case['header'], case['rows'])}" if "rows" in case else case_table(case)
        )
    return "\n\n".join(parts)


def check_table(rows: list[dict]) -> str:
    """The targets with what was measured."""

    def line(row: dict) -> list[str]:
        target = f">= {row['at_least']}" if "at_least" in row else f"<= {row['at_most']}"
        return [row["says"], target, number(row["value"]), row["verdict"], row["remark"]]

    return table(["target", "wanted", "measured", "", "remark"], [line(row) for row in rows])
