"""Meshes and rematerialisation: which of them fit, and the fastest that does."""

import dataclasses
import itertools

from icegrt_jax.config.choices import REMATS
from icegrt_jax.errors import UserError
from icegrt_jax.plan.plan import Row, Target, Values, Variants, plan_row, totals
from icegrt_jax.plan.shapes import bytes_per_chip

AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One way to lay a run out: the keys that are set, whether all programs fit, and seconds of each stage."""

    values: Values
    fits: bool | None
    peak: int
    seconds: dict[str, float]
    reason: str = ""

    @property
    def mesh(self) -> str:
        """Sizes of data, fsdp and tensor axis."""
        return "x".join(str(self.values[f"mesh.{axis}"]) for axis in AXES)


def ways(chips: int) -> list[dict]:
    """The values that a sweep sets: every mesh shape with every rematerialisation."""
    return [
        {**{f"mesh.{axis}": size for axis, size in zip(AXES, shape)}, "model.remat": remat}
        for shape, remat in itertools.product(_mesh_shapes(chips), REMATS)
    ]


def trial(run: Variants, values: Values, target: Target) -> Trial:
    """What becomes of the run with these values; programs are compiled until one does not fit."""
    try:
        mesh, programs = run.programs(values)
    except UserError as error:
        return Trial(values, False, 0, {}, str(error))
    for program in programs:  # what stays on a chip says enough of most that do not fit, and costs nothing
        resident = bytes_per_chip(program.resident)
        if target.fits(resident) is False:
            return Trial(values, False, resident, {}, f"{program.name} does not fit")
    rows: list[Row] = []
    for program in programs:
        rows.append(plan_row(program, mesh, target))
        if rows[-1].fits is False:  # the others need not be compiled
            return Trial(values, False, rows[-1].peak, {}, f"{program.name} does not fit")
    fits = None if target.memory is None else True
    return Trial(values, fits, max(row.peak for row in rows), totals(run.steps, rows))


def best(trials: list[Trial]) -> Trial | None:
    """The fastest of those that fit; without figures of the chip, the one that needs least memory."""
    possible = [one for one in trials if one.fits is not False]
    return min(possible, key=lambda one: (one.seconds["run"], one.peak), default=None)


def _mesh_shapes(chips: int) -> list[tuple[int, int, int]]:
    divisors = [n for n in range(1, chips + 1) if chips % n == 0]
    return [(d, f, chips // d // f) for d in divisors for f in divisors if chips % (d * f) == 0]
