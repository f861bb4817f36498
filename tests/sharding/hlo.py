"""What a compiled program sends between devices, read off its HLO text."""

import dataclasses
import math
import re

COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
INSTRUCTION = re.compile(rf" = (.*?) ({COLLECTIVES})(?:-start)?\(")
CALLED = re.compile(r"(?:body|condition|calls|to_apply|branch_computations)=\{?((?:%[\w.\-]+(?:, )?)+)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One instruction: its kind, the elements of its largest result, and whether it runs within a loop."""

    kind: str
    elements: int
    in_loop: bool


def collectives(text: str) -> list[Collective]:
    """All of a compiled program's (`compiled.as_text()`), those of the computations it calls included."""
    bodies = _computations(text)
    looped = _reachable(bodies, {name for body in bodies.values() for name in re.findall(r"body=(%[\w.\-]+)", body)})
    found = []
    for name, body in bodies.items():
        for result, kind in INSTRUCTION.findall(body):
            shapes = [map(int, filter(None, dims.split(","))) for dims in re.findall(r"\w\[([\d,]*)\]", result)]
            found.append(Collective(kind, max(map(math.prod, shapes)), name in looped))
    return found


def _computations(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(?:ENTRY )?(%[\w.\-]+) \(.*?\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))


def _reachable(bodies: dict[str, str], start: set[str]) -> set[str]:
    seen, waiting = set(), list(start)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [called for group in CALLED.findall(bodies.get(name, "")) for called in group.split(", ")]
    return seen
