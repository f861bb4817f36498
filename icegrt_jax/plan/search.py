"""The largest batch of a program that fits, and the mesh and rematerialisation that are fastest."""

import copy
import dataclasses
import itertools
import math
from collections.abc import Iterator

from ml_collections import ConfigDict

from icegrt_jax.config import REMATS, check
from icegrt_jax.errors import UserError
from icegrt_jax.parallel.mesh import BATCH_AXES
from icegrt_jax.plan.plan import Row, Target, plan_row, programs_for, totals

TRIES = 4  # batches compiled after the first two
MOST = 64  # times the batch of the config


def with_values(config: ConfigDict, values: dict) -> ConfigDict:
    """A copy with other values under dotted keys."""
    changed = copy.deepcopy(config)
    with changed.unlocked():
        for key, value in values.items():
            *groups, name = key.split(".")
            section = changed
            for group in groups:
                section = section[group]
            section[name] = value
    return changed.lock()


def largest_batch(config: ConfigDict, target: Target, answers: int, row: Row) -> int | None:
    """The largest value of `row.batch_key` with which the program fits; 0 where none does, None where not known.

    A program's memory is a line in its rows, so two batches say where the limit is; the batch found is compiled too.
    """
    if target.memory is None:
        return None
    group, name = row.batch_key.split(".")
    now = config[group][name]

    def peak(batch: int) -> int:
        changed = _with_batch(config, row.batch_key, batch)
        mesh, programs = programs_for(changed, target, answers)
        return plan_row(next(one for one in programs if one.name == row.name), mesh, target).peak

    allowed = [batch for batch in _candidates(config, target, row.batch_key, now)]
    fitting, failing = (now, None) if row.peak <= target.memory else (None, now)
    known = {now: row.peak}
    probe = _nearest(allowed, 2 * now if fitting else now // 2, below=failing, above=fitting)
    for _ in range(1 + TRIES):
        if probe is None:
            break
        known[probe] = peak(probe)
        fitting, failing = (probe, failing) if known[probe] <= target.memory else (fitting, probe)
        probe = _nearest(allowed, _crossing(known, target.memory), below=failing, above=fitting)
    return fitting or 0


def _with_batch(config: ConfigDict, key: str, batch: int) -> ConfigDict:
    values = {key: batch}
    if key == "ppo.batch_size" and config.ppo.ptx.coef:  # the replay grows with the rollout, so that it still divides
        values["ppo.ptx.batch_size"] = config.ppo.ptx.batch_size * batch // config.ppo.batch_size or 1
    return with_values(config, values)


def _candidates(config: ConfigDict, target: Target, key: str, now: int) -> Iterator[int]:
    """Batches up to MOST times the config's that its checks allow."""
    parts = math.prod(target.mesh(config).shape[axis] for axis in BATCH_AXES)
    for batch in range(parts, MOST * now + 1, parts):
        try:
            check(_with_batch(config, key, batch))
        except UserError:
            continue
        yield batch


def _crossing(known: dict[int, int], limit: float) -> float:
    """Where the line through the two batches nearest to the limit meets it."""
    (low, at_low), (high, at_high) = sorted(known.items(), key=lambda pair: abs(pair[1] - limit))[:2]
    slope = (at_high - at_low) / (high - low)
    return low + (limit - at_low) / slope if slope > 0 else math.inf


def _nearest(allowed: list[int], wanted: float, *, below: int | None, above: int | None) -> int | None:
    """The largest allowed batch up to `wanted`, between the largest that fits and the smallest that does not."""
    between = [batch for batch in allowed if (below is None or batch < below) and (above is None or batch > above)]
    under = [batch for batch in between if batch <= wanted]
    return under[-1] if under else (between[0] if between else None)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One way to lay a run out: the keys that are set, whether all programs fit, and seconds of each stage."""

    values: dict
    fits: bool | None
    peak: int
    seconds: dict[str, float]
    reason: str = ""


def sweep(config: ConfigDict, target: Target, answers: int) -> Iterator[Trial]:
    """Every mesh shape and rematerialisation that the config allows, one after another."""
    for shape, remat in itertools.product(_mesh_shapes(target.topology.chips), REMATS):
        values = {**{f"mesh.{axis}": size for axis, size in zip(("data", "fsdp", "tensor"), shape)},
                  "model.remat": remat}  # fmt: skip
        yield _trial(with_values(config, values), values, target, answers)


def _trial(config: ConfigDict, values: dict, target: Target, answers: int) -> Trial:
    try:
        check(config)
        mesh, programs = programs_for(config, target, answers)
    except UserError as error:
        return Trial(values, False, 0, {}, str(error))
    rows: list[Row] = []
    for program in programs:
        rows.append(plan_row(program, mesh, target))
        if rows[-1].fits is False:  # the others need not be compiled
            return Trial(values, False, rows[-1].peak, {}, f"{program.name} does not fit")
    fits = None if target.memory is None else True
    return Trial(values, fits, max(row.peak for row in rows), totals(config, rows))


def best(trials: list[Trial]) -> Trial | None:
    """The fastest of those that fit; without figures of the chip, the one that needs least memory."""
    possible = [trial for trial in trials if trial.fits is not False]
    return min(possible, key=lambda trial: (trial.seconds["run"], trial.peak), default=None)


def _mesh_shapes(chips: int) -> list[tuple[int, int, int]]:
    divisors = [n for n in range(1, chips + 1) if chips % n == 0]
    return [(d, f, chips // d // f) for d in divisors for f in divisors if chips % (d * f) == 0]
