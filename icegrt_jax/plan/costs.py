"""What one run of a compiled module costs a chip: FLOPs, bytes of memory traffic, bytes sent by collectives.

XLA's own analysis counts the body of a loop once. Here every computation counts as often as it runs: loops by their
trip count, branches by the costlier one. A loop that may end early (decoding) counts its full length.
"""

import dataclasses
import functools
import re

from icegrt_jax.plan.collectives import Collective, collective_of
from icegrt_jax.plan.flops import instruction_flops
from icegrt_jax.plan.hlo import Instruction, Module
from icegrt_jax.plan.traffic import hbm_bytes

_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop of the module: its runs per run of the whole, trips of each, and whether it may end before."""

    name: str
    runs: int
    trips: int
    may_end_early: bool


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of a chip. `sent` has (collective, times) pairs; loops are those inside, outermost first."""

    flops: float = 0.0
    hbm_bytes: float = 0.0
    sent: tuple[tuple[Collective, int], ...] = ()
    loops: tuple[Loop, ...] = ()

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(
            self.flops + other.flops, self.hbm_bytes + other.hbm_bytes, self.sent + other.sent, self.loops + other.loops
        )

    def times(self, count: int) -> "Costs":
        return Costs(
            self.flops * count,
            self.hbm_bytes * count,
            tuple((collective, n * count) for collective, n in self.sent),
            tuple(dataclasses.replace(loop, runs=loop.runs * count) for loop in self.loops),
        )

    def by_kind(self) -> dict[str, float]:
        """Bytes that a chip sends, by kind of collective."""
        sums: dict[str, float] = {}
        for collective, count in self.sent:
            sums[collective.kind] = sums.get(collective.kind, 0.0) + collective.sent * count
        return sums


def module_costs(module: Module) -> Costs:
    """Costs of the module, and of nothing but it."""
    return _computation_costs(module)(module.entry)


def decoding(module: Module) -> tuple[Costs, Costs]:
    """Costs outside and inside of the loops that may end early: of a sampler, prefill and decode."""
    costs_of = _computation_costs(module)
    inside = Costs()
    for loop, body in _early_loops(module, module.entry, costs_of):
        inside += body.times(loop.trips)
    whole = costs_of(module.entry)
    sent = dict.fromkeys(inside.sent)
    outside = Costs(
        whole.flops - inside.flops,
        whole.hbm_bytes - inside.hbm_bytes,
        tuple(pair for pair in whole.sent if pair not in sent),
    )
    return outside, inside


def _early_loops(module: Module, name: str, costs_of) -> list[tuple[Loop, Costs]]:
    found = []
    for instruction in module.computations[name].values():
        if instruction.opcode == "while":
            loop = loop_of(module, instruction, module.computations[name])
            if loop.may_end_early:
                found.append((loop, costs_of(instruction.called["body"])))
            else:
                for inner, body in _early_loops(module, instruction.called["body"], costs_of):
                    found.append((dataclasses.replace(inner, trips=inner.trips * loop.trips), body))
        elif instruction.opcode in ("call", "conditional"):
            for called in instruction.called.values():
                found += _early_loops(module, called, costs_of)
    return found


def _computation_costs(module: Module):
    @functools.cache
    def costs_of(name: str) -> Costs:
        computation, total = module.computations[name], Costs()
        for instruction in computation.values():
            total += instruction_costs(instruction, computation)
        return total

    def instruction_costs(instruction: Instruction, computation: dict[str, Instruction]) -> Costs:
        called = instruction.called
        if instruction.opcode == "while":
            loop = loop_of(module, instruction, computation)
            return costs_of(called["body"]).times(loop.trips) + Costs(loops=(loop,))
        if instruction.opcode == "conditional":
            branches = [costs_of(name) for name in called.values()]
            return max(branches, key=lambda costs: (costs.flops, costs.hbm_bytes))
        if instruction.opcode in ("call", "async-start") and ("calls" in called or "to_apply" in called):
            return costs_of(called.get("calls", called.get("to_apply")))
        collective = collective_of(module, instruction, computation)
        return Costs(
            instruction_flops(module, instruction, computation),
            hbm_bytes(module, instruction, computation),
            () if collective is None else ((collective, 1),),
        )

    return costs_of


def loop_of(module: Module, loop: Instruction, computation: dict[str, Instruction]) -> Loop:
    """How often the body of a `while` runs.

    The limit is the constant that the condition compares with. Where the condition is more than that comparison, the
    loop may end early.
    """
    known = _TRIPS.search(loop.attributes)
    condition = module.computations[loop.called["condition"]]
    root = next(instruction for instruction in condition.values() if instruction.is_root)
    counted = root.opcode == "compare" and root.attribute("direction") in ("LT", "GT", "LE", "GE", "NE")
    early = not counted and not known
    trips = int(known[1]) if known else max([1, *_constants(module, condition)])
    return Loop(loop.name, 1, trips, early)


def _constants(module: Module, computation: dict[str, Instruction]) -> list[int]:
    """The integer constants of a computation and of what it calls."""
    found = []
    for instruction in computation.values():
        if instruction.opcode == "constant" and instruction.shapes[0].dtype in ("s32", "u32", "s64"):
            found += [int(x) for x in re.findall(r"-?\d+", instruction.inside)[:1]]
        for name in instruction.called.values():
            found += _constants(module, module.computations[name])
    return found


