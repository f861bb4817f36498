"""What of a source is left out or cut, in words, from the counts of `encode`."""

from collections.abc import Mapping

MUCH = 0.25  # share of a source whose loss is a warning
LEFT_OUT = ("dropped", "tied", "identical")


def reasons(counts: Mapping[str, int], length: str) -> str:
    """How many records were left out, and why; `length` is what they had to fit, such as "sft.length=64 tokens"."""
    if "pairs_identical" in counts:
        dropped = f"have fewer than two answers that fit {length}"
    elif "over" in counts:
        dropped = f"do not fit {length}"
    else:
        dropped = f"do not fit {length} or have nothing to learn within"
    words = {
        "dropped": dropped,
        "tied": "have only answers of one rank",
        "identical": "have only answers that are the same tokens",
    }
    return ", ".join(f"{counts[name]} {words[name]}" for name in LEFT_OUT if counts.get(name))


def warnings(source: str, counts: Mapping[str, int], length: str) -> list[str]:
    """A line for each loss of more than a quarter of the source: records left out, and what lost its end.

    Args:
      source: as the lines call it.
      counts: of `encode`, with `records`, of how many they are.
      length: what they had to fit, such as "sft.length=64 tokens".
    """
    records, lines = counts["records"], []
    left_out = sum(counts.get(name, 0) for name in LEFT_OUT)
    if left_out > MUCH * records:
        lines.append(f"{source}: {_share(left_out, records, 'records')} are left out: {reasons(counts, length)}.")
    cut = counts.get("cut", 0)
    if cut > MUCH * records:
        lines.append(f"{source}: {_share(cut, records, 'records')} are cut to {length}.")
    answers = counts.get("answers", 0)
    for name, what in (("answers_dropped", "left out: they do not fit"), ("answers_cut", "cut to")):
        if counts.get(name, 0) > MUCH * answers:
            lines.append(f"{source}: {_share(counts[name], answers, 'answers')} are {what} {length}.")
    return lines


def _share(part: int, whole: int, what: str) -> str:
    return f"{part} of {whole} {what} ({part / whole:.0%})"
