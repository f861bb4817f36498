"""What one run of a compiled module costs a chip: FLOPs, bytes of memory traffic, bytes sent by collectives.

XLA's own analysis counts the body of a loop once. Here every computation counts as often as it runs: loops by their
trip count, branches by the costlier one. How often a loop runs that ends with the data is for the caller to say.
"""

import dataclasses
import functools
import re

from icegrt_jax.plan.collectives import Collective, collective_of
from icegrt_jax.plan.flops import instruction_flops
from icegrt_jax.plan.hlo import Instruction, Module
from icegrt_jax.plan.traffic import hbm_bytes

_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
BEGINS = "async-collective-start"  # the fusion with which a woven collective begins
COMPARISONS = ("LT", "GT", "LE", "GE", "NE")


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How often a sampler's loops run. steps: of the loops that end with the data, in all. refills: of those around."""

    steps: int
    refills: int = 1


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of a chip. `sent` has (collective, times) pairs."""

    flops: float = 0.0
    hbm_bytes: float = 0.0
    sent: tuple[tuple[Collective, int], ...] = ()

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(self.flops + other.flops, self.hbm_bytes + other.hbm_bytes, self.sent + other.sent)

    def times(self, count: int) -> "Costs":
        sent = tuple((collective, n * count) for collective, n in self.sent if count)
        return Costs(self.flops * count, self.hbm_bytes * count, sent)

    def by_kind(self) -> dict[str, float]:
        """Bytes that a chip sends, by kind of collective."""
        sums: dict[str, float] = {}
        for collective, count in self.sent:
            sums[collective.kind] = sums.get(collective.kind, 0.0) + collective.sent * count
        return sums


def module_costs(module: Module, decoding: Decoding | None = None) -> dict[str, Costs]:
    """{"": costs}, or with `decoding` {"prefill", "decode"}: what is outside and inside of the loops that end early."""
    costs_of = _computation_costs(module, decoding)
    outside = costs_of(module.entry)
    if decoding is None:
        return {"": outside}
    bodies = {loop.called["body"] for loop in _loops(module) if ends_with_the_data(module, loop)}
    inside = Costs()
    for body in sorted(bodies):
        inside += costs_of(body).times(decoding.steps)
    return {"prefill": outside, "decode": inside}


def _computation_costs(module: Module, decoding: Decoding | None):
    begun = {
        collective.channel
        for computation in module.computations.values()
        for one in computation.values()
        if one.name.startswith(BEGINS) and (collective := collective_of(module, one, computation))
    }

    @functools.cache
    def costs_of(name: str) -> Costs:
        computation, total, woven = module.computations[name], Costs(), set()
        for instruction in computation.values():
            costs = instruction_costs(instruction, computation)
            if instruction.opcode == "fusion" and costs.sent:
                # A collective that is woven into several fusions, also within loops, has its channel in each of them.
                channel = costs.sent[0][0].channel
                again = channel in woven or (channel in begun and not instruction.name.startswith(BEGINS))
                costs = dataclasses.replace(costs, sent=() if again else costs.sent)
                woven |= {channel} - {""}
            total += costs
        return total

    @functools.cache
    def decodes(name: str) -> bool:
        """Whether a computation has a loop that ends with the data in it."""
        return any(
            (one.opcode == "while" and ends_with_the_data(module, one)) or any(map(decodes, one.called.values()))
            for one in module.computations[name].values()
        )

    def trips(loop: Instruction) -> int:
        if decoding is not None and ends_with_the_data(module, loop):
            return 0  # counted by itself
        if decoding is not None and decodes(loop.called["body"]):
            return decoding.refills
        return trip_count(module, loop)

    def instruction_costs(instruction: Instruction, computation: dict[str, Instruction]) -> Costs:
        called = instruction.called
        if instruction.opcode == "while":
            return costs_of(called["body"]).times(trips(instruction))
        if instruction.opcode == "conditional":
            branches = [costs_of(name) for name in called.values()]
            return max(branches, key=lambda costs: (costs.flops, costs.hbm_bytes))
        if instruction.opcode in ("call", "async-start") and called:
            return costs_of(called.get("calls", called.get("to_apply")))
        collective = collective_of(module, instruction, computation)
        return Costs(
            instruction_flops(module, instruction, computation),
            hbm_bytes(module, instruction, computation),
            () if collective is None else ((collective, 1),),
        )

    return costs_of


def _loops(module: Module) -> list[Instruction]:
    return [one for one in module.instructions() if one.opcode == "while"]


def ends_with_the_data(module: Module, loop: Instruction) -> bool:
    """Whether the condition is more than the comparison of a counter."""
    condition = module.computations[loop.called["condition"]]
    root = next(instruction for instruction in condition.values() if instruction.is_root)
    while root.opcode in ("fusion", "bitcast", "copy", "call") and (root.called or root.operands):
        if root.called:
            inner = module.computations[next(iter(root.called.values()))]
            root = next(instruction for instruction in inner.values() if instruction.is_root)
        else:
            root = condition[root.operands[0]]
    counted = root.opcode == "compare" and root.attribute("direction") in COMPARISONS
    return not counted and not _TRIPS.search(loop.attributes)


def trip_count(module: Module, loop: Instruction) -> int:
    """How often the body of a counted loop runs: what XLA says, or the constant that its condition compares with."""
    known = _TRIPS.search(loop.attributes)
    if known:
        return int(known[1])
    limit = max([1, *_constants(module, module.computations[loop.called["condition"]])])
    return -(-limit // _stride(module, loop))


def _stride(module: Module, loop: Instruction) -> int:
    """What a round adds to the counter: 1, or more where XLA has unrolled the loop."""
    condition, body = module.computations[loop.called["condition"]], module.computations[loop.called["body"]]
    compared = next(instruction for instruction in condition.values() if instruction.is_root)
    indices = [condition[name].attribute("index") for name in compared.operands if name in condition]
    index = next((int(index) for index in indices if index), None)
    result = next(instruction for instruction in body.values() if instruction.is_root)
    if compared.opcode != "compare" or index is None or result.opcode != "tuple":
        return 1
    stride, counter = 0, body[result.operands[index]]
    while counter.opcode == "add":
        added = [one for one in map(body.__getitem__, counter.operands) if one.opcode == "constant"]
        if not added:
            break
        stride += int(added[0].inside)
        counter = next(one for one in map(body.__getitem__, counter.operands) if one is not added[0])
    return max(stride, 1)


def _constants(module: Module, computation: dict[str, Instruction]) -> list[int]:
    """The integer constants of a computation and of what it calls."""
    found = []
    for instruction in computation.values():
        if instruction.opcode == "constant" and instruction.shapes[0].dtype in ("s32", "u32", "s64"):
            found += [int(x) for x in re.findall(r"-?\d+", instruction.inside)[:1]]
        for name in instruction.called.values():
            found += _constants(module, module.computations[name])
    return found
