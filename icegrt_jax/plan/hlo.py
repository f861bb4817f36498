"""The text of a compiled XLA module as computations and instructions.

Shapes in a partitioned module are those of one chip. Read are names, opcodes, shapes with their memory space, operands
and attributes: what `costs.py` adds up. The grammar is XLA's, https://openxla.org/xla/hlo_dumps.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

BITS = {"pred": 8, "token": 0, "opaque": 0, "u2": 2, "s2": 2, "u4": 4, "s4": 4, "bf16": 16}
HBM = 0  # memory space; on a TPU 1 is the vector memory on the chip

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{")
_STARTS = re.compile(r"^  (ROOT )?%?[\w.\-]+ = ")
_ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array: dims, the bytes of all its elements without padding, and the memory space it lies in."""

    dtype: str
    dims: tuple[int, ...]
    space: int = HBM

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        bits = BITS[self.dtype] if self.dtype in BITS else int(re.findall(r"\d+", self.dtype)[0])
        return -(-self.elements * bits // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation. `shapes` are of the result, of a tuple all its arrays in order."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    inside: str  # what stands between the parentheses
    attributes: str
    is_root: bool

    @functools.cached_property
    def called(self) -> dict[str, str]:
        """Computations by the attribute that names them: calls, to_apply, body, condition, branch_0, …"""
        named = dict(_CALLED.findall(self.attributes))
        branches = _BRANCHES.search(self.attributes)
        if branches:
            named |= {f"branch_{i}": name for i, name in enumerate(re.findall(r"%?([\w.\-]+)", branches[1]))}
        return named

    def attribute(self, name: str) -> str | None:
        """The text of one attribute, a braced list without its braces."""
        match = re.search(rf"\b{name}=(?:\{{([^}}]*)\}}|([^,\s]+))", self.attributes)
        return None if match is None else (match[1] if match[1] is not None else match[2])


@dataclasses.dataclass(frozen=True)
class Module:
    """Computations by name, each its instructions by name in order; `entry` is the name of the first to run."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    def instructions(self) -> Iterator[Instruction]:
        """Every instruction of every computation, each once."""
        for computation in self.computations.values():
            yield from computation.values()


def parse(text: str) -> Module:
    """The module that `compiled.as_text()` shows."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        opening = _COMPUTATION.match(line)
        if opening:
            current = computations.setdefault(opening[2], {})
            entry = opening[2] if opening[1] else entry
        elif line == "}":
            current = None
        elif current is not None and _STARTS.match(line):  # what a kernel says of itself may go on in further lines
            instruction = _instruction(line.strip())
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("no ENTRY computation in the text of the module")
    return Module(computations, entry)


def arrays_in(text: str) -> tuple[Shape, ...]:
    """The arrays of a type as HLO writes it, such as (s32[], bf16[8,128]{1,0:T(8,128)(2,1)S(1)})."""
    shapes = []
    for dtype, dims, layout in _ARRAY.findall(text):
        space = _SPACE.search(layout)
        sizes = tuple(int(size.removeprefix("<=")) for size in dims.split(",") if size)
        shapes.append(Shape(dtype, sizes, int(space[1]) if space else HBM))
    return tuple(shapes)


def _instruction(line: str) -> Instruction:
    is_root = line.startswith("ROOT ")
    name, _, rest = line.removeprefix("ROOT ").partition(" = ")
    # A type ends at the first blank outside of parentheses, which a tuple and a tiled layout have.
    end = _end(rest, " ")
    opcode, _, _ = rest[end + 1 :].partition("(")
    start = end + 1 + len(opcode)
    close = _closing(rest, start)
    inside, attributes = rest[start + 1 : close], rest[close + 1 :]
    operands = tuple(_NAME.findall(inside))
    return Instruction(name.lstrip("%"), opcode, arrays_in(rest[:end]), operands, inside, attributes, is_root)


def _end(text: str, stop: str) -> int:
    depth = 0
    for i, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == stop and depth == 0:
            return i
    return len(text)


def _closing(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i
    return len(text)
