"""A program compiled ahead of time, and what is kept of that: numbers, as JSON, also on disk.

The cache is addressed by the traced program, its shardings, the devices and the versions of the compiler: a plan made
again compiles what has changed.
"""

import dataclasses
import hashlib
import importlib.metadata
import pathlib
import re
import time

import jax

from icegrt_jax import files
from icegrt_jax.errors import UserError
from icegrt_jax.plan import costs, hlo
from icegrt_jax.plan.program import Program

FORMAT = 5  # of what is cached; raised when it changes
LARGE = 2**24  # bytes of an array that the checks want to know of
_NEEDED = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available|Used ([\d.]+)([KMGT]?) of")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Part:
    """What one run of a program, or of a part of it, costs a chip.

    collectives: {kind: bytes sent}. between_slices: bytes of them that leave the slice. moves: the collectives, those
    that send most first, as [kind, times, bytes sent each, dims of the operands].
    """

    flops: float
    hbm_bytes: float
    collectives: dict[str, float]
    between_slices: float
    moves: list


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program.

    seconds: that it took to compile. memory: bytes per chip: arguments, outputs, aliased, temporaries, code; where it
    does not fit only `needed`, which the compiler gave up at. parts: {"": all} or {"prefill": …, "decode": …}.
    large: [dtype, dims] of every array of LARGE bytes or more that an instruction makes.
    """

    seconds: float
    memory: dict[str, int]
    parts: dict[str, Part]
    large: list


def compile_program(program: Program, topology: str, per_slice: int, cache: pathlib.Path | None) -> Compiled:
    """Compiles a program, or finds it in the cache. A failure names the program and the reason."""
    try:
        lowered = program.lower()
    except (TypeError, ValueError) as error:
        raise UserError(f"{program.name} cannot be traced: {_first_line(error)}") from error
    file = None if cache is None else cache / f"{_key(lowered, topology, program.decoding)}.json"
    if file is not None and file.is_file():
        return _from_json(files.read_json(file))
    compiled = _compile(program, lowered, per_slice)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_json_atomic(file, dataclasses.asdict(compiled))
    return compiled


def _compile(program: Program, lowered: jax.stages.Lowered, per_slice: int) -> Compiled:
    start = time.monotonic()
    try:
        executable = lowered.compile()
    except RuntimeError as error:
        needed = _NEEDED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not needed:
            raise UserError(f"{program.name} does not compile: {_first_line(error)}") from error
        number, unit = (needed[1], needed[2]) if needed[1] else (needed[3], needed[4])
        return Compiled(time.monotonic() - start, {"needed": int(float(number) * _UNITS[unit])}, {}, [])
    seconds = time.monotonic() - start
    stats = executable.memory_analysis()
    memory = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    module = hlo.parse(executable.as_text())
    found = costs.module_costs(module, program.decoding)
    return Compiled(
        seconds, memory, {name: _part(part, per_slice) for name, part in found.items()}, large_arrays(module)
    )


def _part(found: costs.Costs, per_slice: int) -> Part:
    crossing = sum(
        collective.sent * times
        for collective, times in found.sent
        if any(len({chip // per_slice for chip in group}) > 1 for group in collective.groups)
    )
    alike: dict[tuple, int] = {}
    for one, times in found.sent:
        key = (one.kind, one.sent, one.operands)
        alike[key] = alike.get(key, 0) + times
    moves = [[kind, times, sent, operands] for (kind, sent, operands), times in alike.items()]
    moves.sort(key=lambda move: -move[1] * move[2])
    return Part(found.flops, found.hbm_bytes, found.by_kind(), crossing, moves)


def large_arrays(module: hlo.Module) -> list:
    """[dtype, dims] of every large array that is written to memory, each kind once."""
    fused = {one.called["calls"] for one in module.instructions() if one.opcode == "fusion"}
    found = {
        (shape.dtype, shape.dims)
        for name, computation in module.computations.items()
        if name not in fused
        for instruction in computation.values()
        if instruction.opcode not in ("parameter", "get-tuple-element", "tuple", "while", "conditional", "bitcast")
        for shape in instruction.shapes
        if shape.bytes >= LARGE and shape.space == hlo.HBM
    }
    return sorted([dtype, list(dims)] for dtype, dims in found)


def _key(lowered: jax.stages.Lowered, topology: str, decoding: costs.Decoding | None) -> str:
    versions = [jax.__version__, _compiler_version(), topology, str(decoding), str(FORMAT)]
    return hashlib.sha256("\n".join([*versions, lowered.as_text()]).encode()).hexdigest()[:32]


def _compiler_version() -> str:
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.version("jaxlib")


def _from_json(record: dict) -> Compiled:
    parts = {name: Part(**part) for name, part in record["parts"].items()}
    return Compiled(record["seconds"], record["memory"], parts, record["large"])


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()[:300]}" if lines else type(error).__name__
