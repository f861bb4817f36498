"""Results against `targets.json`: one line per row, and which fall short.

A row is {"says", "section", "case", "measure", "at_least" or "at_most"} and, for comparisons, "against": names of
peers, of which the fastest counts. Measures:

    speed           repetitions per second, ours over the peer's; medians of turns taken in one run
    memory          peak memory of the process, ours over the peer's
    limit           least possible time on this machine over ours
    flops           model FLOPs of a phase per second, over the accelerator's nominal rate or, unknown, the measured one
    growth          of temporary memory with vocabulary x batch, over what whole logits would take
    identical       1 if the ways gave the same responses
"""

import json
import pathlib

from benchmarks.results import OURS, fastest, measured, median_seconds, peak_bytes, phase_medians, speed_ratio

TARGETS = pathlib.Path(__file__).with_name("targets.json")
MET, SHORT, FAILED, UNMEASURED = "met", "falls short", "failed", "not measured"


def load_targets() -> list[dict]:
    return json.loads(TARGETS.read_text(encoding="utf-8"))


def value(row: dict, case: dict) -> tuple[float | None, str, bool]:
    """The measured value of a row or None, a remark (against whom, or why not measured), whether anything failed."""
    if row["measure"] == "growth":
        return case.get("growth"), "", case.get("growth") is None
    reasons, failed = [], False
    for group in case["groups"]:
        ours = group.get(row.get("of", OURS), {"missing": "not run"})
        if not measured(ours):
            return None, ours.get("failed") or ours.get("missing"), "failed" in ours
        if row["measure"] == "limit":
            return case["limit_s"] / median_seconds(ours), "", False
        if row["measure"] == "flops":
            rate = case["flops"] / phase_medians(ours)[case["flops_phase"]]
            return rate / case["flops_rate"], case["flops_rate_is"], False
        peers = [name for name in row["against"] if name in group]
        bad = [name for name in peers if "failed" in group[name]]
        unmeasured = [name for name in peers if not measured(group[name])]
        reasons += [f"{name}: {group[name].get('failed') or group[name].get('missing')}" for name in unmeasured]
        failed = failed or bool(bad)
        peer = fastest(group, peers)
        if peer is not None:
            remark = f"{peer}; failed: {', '.join(bad)}" if bad else peer
            return *compare(row["measure"], ours, group[peer], remark), failed
    return None, "; ".join(reasons) or "not run", failed


def compare(measure: str, ours: dict, peer: dict, remark: str) -> tuple[float | None, str]:
    """One of the measures that need a peer."""
    if measure == "speed":
        ratio, low, high = speed_ratio(ours, peer)
        return ratio, f"{remark}; {low:.2f} to {high:.2f} by round"
    if measure == "memory":
        peaks = peak_bytes(ours), peak_bytes(peer)
        return (None, "peak memory is not known on this system") if None in peaks else (peaks[0] / peaks[1], remark)
    assert measure == "identical", measure
    sums = [[repetition["info"]["checksum"] for repetition in contender["rounds"]] for contender in (ours, peer)]
    return float(sums[0] == sums[1]), remark


def check(results: dict[str, dict], targets: list[dict] | None = None) -> list[dict]:
    """Every row of the targets with "value", "remark" and "verdict"."""
    rows = []
    for row in load_targets() if targets is None else targets:
        case = results.get(row["section"], {}).get("cases", {}).get(row["case"])
        found, remark, failed = (None, "not run", False) if case is None else value(row, case)
        if failed:
            verdict = FAILED
        elif found is None:
            verdict = UNMEASURED
        else:
            verdict = MET if row.get("at_least", found) <= found <= row.get("at_most", found) else SHORT
        rows.append({**row, "value": found, "remark": remark, "verdict": verdict})
    return rows
