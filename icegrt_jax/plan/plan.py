"""A plan: the programs of a run on a topology, compiled, with bytes, costs and seconds."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

from jax.sharding import Mesh

from icegrt_jax.config.options import MeshOptions
from icegrt_jax.plan import checks, estimate, shapes
from icegrt_jax.plan.chips import CHIPS, Chip
from icegrt_jax.plan.compiled import Compiled, compile_program
from icegrt_jax.plan.program import Program
from icegrt_jax.plan.topology import Topology, devices
from icegrt_jax.sharding.mesh import make_mesh


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a run is planned for: the topology, its devices, and bytes of a chip's memory (None: not known)."""

    topology: Topology
    devices: Any
    memory: float | None
    cache: pathlib.Path | None

    @property
    def chip(self) -> Chip | None:
        return CHIPS.get(self.topology.kind)

    def fits(self, peak: int) -> bool | None:
        """Whether so many bytes are there; None where that is not known."""
        return None if self.memory is None else peak <= self.memory

    def mesh(self, options: MeshOptions) -> Mesh:
        return make_mesh(**dataclasses.asdict(options), devices=self.devices)

    def compile(self, program: Program) -> Compiled:
        return compile_program(program, str(self.topology), self.topology.chips // self.topology.slices, self.cache)


Values = Mapping[str, Any]  # by dotted key


class Variants(Protocol):
    """A run on a target, and the same run with other values under some of its keys."""

    @property
    def mesh(self) -> Mesh:
        """Of the run as it is."""
        ...

    @property
    def steps(self) -> Mapping[str, int]:
        """Of each stage."""
        ...

    def value(self, key: str) -> Any:
        """What the run as it is has under a key."""

    def check(self, values: Values) -> None:
        """Raises UserError for values with which the run could not begin on the target."""

    def programs(self, values: Values) -> tuple[Mesh, list[Program]]:
        """The mesh and the programs of the run with such values; raises UserError as `check`."""
        ...


@dataclasses.dataclass(frozen=True)
class Row:
    """One program of a plan in numbers per chip: its memory, its work, the time a roofline allows, and its parts."""

    name: str
    stage: str
    batch_key: str
    rows: int
    repeats: int
    resident: int
    memory: dict[str, int]
    peak: int
    fits: bool | None
    parts: dict[str, dict]
    seconds: float
    decode_steps: int
    offenders: list[str]
    compile_seconds: float


def make_target(topology: Topology, memory: float = 0.0, cache: pathlib.Path | None = None) -> Target:
    """The target of a topology; the environment has been prepared. `memory`: bytes of a chip, 0 for its own."""
    chip = CHIPS.get(topology.kind)
    return Target(topology, devices(topology), memory or (chip.hbm if chip else None), cache)


def plan_row(program: Program, mesh: Mesh, target: Target) -> Row:
    """Compiles one program and says what it costs."""
    compiled = target.compile(program)
    peak = estimate.peak_bytes(program, compiled)
    parts, seconds = {}, 0.0
    for name, part in compiled.parts.items():
        times = estimate.roofline(part, target.chip)
        parts[name] = {**dataclasses.asdict(part), "seconds": dataclasses.asdict(times), "bound": times.bound}
        seconds += times.seconds
    return Row(
        name=program.name,
        stage=program.stage,
        batch_key=program.batch_key,
        rows=program.rows,
        repeats=program.repeats,
        resident=shapes.bytes_per_chip(program.resident),
        memory=compiled.memory,
        peak=peak,
        fits=target.fits(peak),
        parts=parts,
        seconds=seconds,
        decode_steps=program.decoding.steps if program.decoding else 0,
        offenders=checks.offenders(program, compiled, mesh),
        compile_seconds=compiled.seconds,
    )


def role_bytes(programs: list[Program]) -> dict[str, dict[str, dict[str, int]]]:
    """{stage: {role: {"params", "optimizer"}}}, bytes per chip of what a stage holds throughout."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for program in programs:
        held = program.params
        found[program.stage] = {
            role: {
                "params": shapes.bytes_per_chip(held["params"][role]),
                "optimizer": shapes.bytes_per_chip(held["opt_state"].get(role, ())),
            }
            for role in held["params"]
        }
    return found


def totals(steps: Mapping[str, int], rows: list[Row]) -> dict[str, float]:
    """Seconds per step of each stage, and of the whole run without data, checkpoints, evaluation and compilation.

    Args:
      steps: of each stage.
    """
    found: dict[str, float] = {}
    whole = 0.0
    for row in rows:
        found[row.stage] = found.get(row.stage, 0.0) + row.seconds * row.repeats
    for stage, seconds in found.items():
        whole += seconds * steps[stage]
    return {**found, "run": whole}
