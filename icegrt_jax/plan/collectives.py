"""Collectives of a compiled module: their kind, group, and the bytes that a chip sends for one.

A chip of n in a ring sends (n - 1) / n of the gathered or scattered array, and twice that for an all-reduce
(Patarasuk and Yuan 2009, https://doi.org/10.1016/j.jpdc.2008.09.002).
"""

import dataclasses
import math
import re

from icegrt_jax.plan.hlo import Instruction, Module

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_LISTS = re.compile(r"replica_groups=\{(\{[\d,{}]*\})\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a computation.

    kind: one of KINDS. bytes: of the whole array on a chip after gathering or before scattering. group: chips that take
    part. groups: who they are, () where the text does not list them. operands: dims of what goes in. channel: its
    id, "" where it has none.
    """

    name: str
    kind: str
    bytes: int
    group: int
    groups: tuple[tuple[int, ...], ...]
    operands: tuple[tuple[int, ...], ...]
    channel: str = ""

    @property
    def sent(self) -> float:
        """Bytes that a chip sends."""
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}
        return self.bytes * factor.get(self.kind, share)


def collective_of(module: Module, instruction: Instruction, computation: dict) -> Collective | None:
    """The collective that an instruction is, or that has been fused into it; None for any other."""
    if instruction.opcode == "fusion":
        fused = module.computations[instruction.called["calls"]]
        inner = [found for one in fused.values() if (found := collective_of(module, one, fused)) is not None]
        if not inner:
            return None
        scattered = inner[0].kind == "all-reduce" and _keeps_a_slice(fused)
        return dataclasses.replace(inner[0], kind="reduce-scatter") if scattered else inner[0]
    opcode = instruction.opcode.removesuffix("-start")
    if opcode not in KINDS:
        return None
    operands = [shape for name in instruction.operands for shape in computation[name].shapes]
    before = sum(shape.bytes for shape in operands)
    groups = replica_groups(instruction.attributes)
    size = len(groups[0]) if groups else 1
    if opcode == "collective-permute":
        size = 2
    # Of an asynchronous start the result repeats the operands: the arrays are taken from what goes in.
    whole = before * size if opcode == "all-gather" else before
    dims, channel = tuple(shape.dims for shape in operands), instruction.attribute("channel_id") or ""
    return Collective(instruction.name, opcode, whole, size, groups, dims, channel)


def _keeps_a_slice(fused: dict[str, Instruction]) -> bool:
    return any(one.opcode == "dynamic-slice" for one in fused.values())


def replica_groups(attributes: str) -> tuple[tuple[int, ...], ...]:
    """Members of each group, from any of the three ways in which HLO writes them."""
    lists = _LISTS.search(attributes)
    if lists:
        return tuple(tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", lists[1]))
    iota = _IOTA.search(attributes)
    if iota:
        shape, over = _ints(iota[1]), _ints(iota[2])
        order = _ints(iota[3]) if iota[3] else tuple(range(len(over)))
        return _rows(over, order, shape[-1])
    mesh = _MESH.search(attributes)
    if mesh:
        names = re.findall(r"'([^']+)'=(\d+)", mesh[1])
        axes, sizes = [name for name, _ in names], tuple(int(size) for _, size in names)
        within = [axes.index(name) for name in re.findall(r"'([^']+)'", mesh[2])]
        order = (*(i for i in range(len(axes)) if i not in within), *within)
        return _rows(sizes, order, math.prod(sizes[i] for i in within))
    return ()


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(x) for x in text.split(","))


def _rows(sizes: tuple[int, ...], order: tuple[int, ...], width: int) -> tuple[tuple[int, ...], ...]:
    """0, 1, … laid out in `sizes`, the axes put in `order`, and cut into rows of `width`."""
    strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    flat = [0]
    for axis in order:
        flat = [start + i * strides[axis] for start in flat for i in range(sizes[axis])]
    return tuple(tuple(flat[i : i + width]) for i in range(0, len(flat), width))
