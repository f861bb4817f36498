"""A plan: the programs of a run on a topology, compiled, with bytes, costs and seconds."""

import dataclasses
import pathlib
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from icegrt_jax.plan import checks, estimate, shapes
from icegrt_jax.plan.chips import CHIPS, Chip
from icegrt_jax.plan.compiled import Compiled, compile_program
from icegrt_jax.plan.program import Program
from icegrt_jax.plan.programs import run_programs
from icegrt_jax.plan.topology import Topology, devices
from icegrt_jax.runs.batch_check import check_minibatches
from icegrt_jax.sharding.mesh import check_batch, make_mesh


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

    def mesh(self, config: ConfigDict) -> Mesh:
        return make_mesh(**config.mesh, devices=self.devices)

    def compile(self, program: Program) -> Compiled:
        return compile_program(program, str(self.topology), self.topology.chips // self.topology.slices, self.cache)


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


def check_rows(config: ConfigDict, mesh: Mesh) -> None:
    """Refuses batches that do not divide over the mesh, as the stages do."""
    for stage in ("pretrain", "sft", "reward"):
        if config[stage].steps:
            check_batch(f"{stage}.batch_size", config[stage].batch_size, mesh)
            check_batch(f"{stage}.microbatch", config[stage].microbatch, mesh)
    if config.ppo.iterations:
        for key in ("batch_size", "microbatch", "score_batch", "rollout_slots"):
            check_batch(f"ppo.{key}", config.ppo[key], mesh)
        check_minibatches(config.ppo, mesh)


def programs_for(config: ConfigDict, target: Target, answers: int) -> tuple[Mesh, list[Program]]:
    """The mesh of the config on the target, and the programs of the run."""
    mesh = target.mesh(config)
    check_rows(config, mesh)
    return mesh, run_programs(config, mesh, shapes.models_of(config), answers)


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


def totals(config: ConfigDict, rows: list[Row]) -> dict[str, float]:
    """Seconds per step of each stage, and of the whole run without data, checkpoints, evaluation and compilation."""
    found, whole = {}, 0.0
    for row in rows:
        found[row.stage] = found.get(row.stage, 0.0) + row.seconds * row.repeats
    for stage, seconds in found.items():
        whole += seconds * (config.ppo.iterations if stage == "ppo" else config[stage].steps)
    return {**found, "run": whole}
