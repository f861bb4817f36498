"""Result files, and what is computed from them: medians, ratios with their range, fractions of limits.

A file holds one section: {"section", "machine", "versions", "limits", "cases": {case: ...}}. A case has "title", "unit"
and "amount" (of what a repetition does), "limit_s" (the least time of one repetition on this machine, or null) and
"groups" of contenders that took turns: [{name: {"warm_up", "rounds"} or {"failed"} or {"missing"}}]. Ours is called
OURS in each group, unless several of ours are compared. A case of another kind has a "header" and "rows".
"""

import json
import pathlib
import statistics

OURS = "icegrt_jax"


def write(folder: pathlib.Path, result: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['section']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def read(folder: pathlib.Path) -> dict[str, dict]:
    """{section: result} of the files in a folder."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found[result["section"]] = result
    return found


def measured(contender: dict) -> bool:
    return bool(contender.get("rounds"))


def seconds(contender: dict) -> list[float]:
    return [repetition["seconds"] for repetition in contender["rounds"]]


def median_seconds(contender: dict) -> float:
    return statistics.median(seconds(contender))


def phase_medians(contender: dict) -> dict[str, float]:
    rounds = contender["rounds"]
    return {phase: statistics.median(r["phases"].get(phase, 0.0) for r in rounds) for phase in rounds[0]["phases"]}


def peak_bytes(contender: dict) -> int | None:
    peaks = [r["peak_bytes"] for r in contender["rounds"] if r["peak_bytes"] is not None]
    return max(peaks, default=None)


def noise(contender: dict) -> float | None:
    """Cores that others used during the repetitions, median."""
    found = [r["noise"] for r in contender["rounds"] if r["noise"] is not None]
    return statistics.median(found) if found else None


def mean_length(contender: dict) -> float | None:
    """Tokens in a response, mean over all rounds, where responses may end."""
    lengths = [n for r in contender["rounds"] for n in r["info"].get("lengths", [])]
    return statistics.fmean(lengths) if lengths else None


def speed_ratio(ours: dict, peer: dict) -> tuple[float, float, float]:
    """How many times faster ours is: ratio of medians, and the smallest and largest ratio within a round."""
    within = [b / a for a, b in zip(seconds(ours), seconds(peer))]
    return median_seconds(peer) / median_seconds(ours), min(within), max(within)


def fastest(group: dict, names: list[str]) -> str | None:
    """The measured one of `names` with the least median."""
    found = [name for name in names if name in group and measured(group[name])]
    return min(found, key=lambda name: median_seconds(group[name]), default=None)
