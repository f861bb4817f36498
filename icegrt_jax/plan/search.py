"""The largest batch with which all programs of a run fit.

A program's memory is nearly a line in its rows. The plan has one point of it; a second batch gives the line, and the
batch at which the line meets the limit, less MARGIN, is compiled as well. Where that one does not fit after all, the
answer is the largest of the others that does, so it has always been compiled. It costs two compilations of one program,
and usually one of each other that depends on the same key.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence

from jax.sharding import Mesh

from icegrt_jax.errors import UserError
from icegrt_jax.plan.plan import Row, Target, Values, Variants, plan_row
from icegrt_jax.plan.program import Program
from icegrt_jax.plan.shapes import bytes_per_chip
from icegrt_jax.sharding.mesh import BATCH_AXES

# Of a chip's memory, left free. One more row a chip can take 4 % at once, so that much the line may be wrong; and close
# to the limit the compiler looks for what to save: an SFT update of 13B took 51 s at 77 % and 167 s at 99.7 %.
MARGIN = 0.1
MOST = 8  # times the batch of the config; small models and short rows would fit thousands


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest batch found.

    Attributes:
      key: of the config, such as "ppo.batch_size".
      value: with it, or with more, every program that depends on the key was compiled and fits; 0 where none does.
      program: the one that more would leave less than MARGIN; "" where more was not tried.
      refused: the batch that its line allows and that was seen not to fit; None where the line says what does not.
    """

    key: str
    value: int
    program: str = ""
    refused: int | None = None


@dataclasses.dataclass(frozen=True)
class Batches:
    """What a key of the config may be set to: a multiple of the mesh's parts that passes the checks of a run."""

    run: Variants
    mesh: Mesh
    key: str

    @property
    def now(self) -> int:
        return self.run.value(self.key)

    def nearest(self, wanted: float, *, above: int, upto: int) -> int | None:
        """The largest above `above` that is not above `wanted`, or else the smallest; None where there is none."""
        step = math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)
        low, high = above // step + 1, upto // step
        middle = math.floor(min(max(wanted / step, low - 1), high))
        order = itertools.chain(range(middle, low - 1, -1), range(middle + 1, high + 1))
        return next((part * step for part in order if self._allowed(part * step)), None)

    def _allowed(self, batch: int) -> bool:
        try:
            self.run.check(self.values(batch))
        except UserError:
            return False
        return True

    def values(self, batch: int) -> Values:
        """What another batch sets; the replay of PPO grows with it, so that it still divides."""
        values = {self.key: batch}
        if self.key == "ppo.batch_size" and self.run.value("ppo.ptx.coef"):
            values["ppo.ptx.batch_size"] = self.run.value("ppo.ptx.batch_size") * batch // self.now or 1
        return values


def largest_batch(run: Variants, target: Target, rows: Sequence[Row], say: Callable[[str], None]) -> Largest:
    """The largest value of a key with which all of `rows` fit: those of the plan that have this batch key.

    `say` is told what is compiled. Updates come last in a plan and first here: they are most often the largest, and
    what fits them is then one compilation of each of the others.
    """
    key, limit = rows[0].batch_key, target.memory
    assert limit is not None, "asked only where it is known"
    batches = Batches(run, run.mesh, key)

    def program(row: Row, batch: int) -> Program:
        programs = run.programs(batches.values(batch))[1]
        return next(one for one in programs if one.name == row.name)

    def compiled(row: Row, batch: int) -> Row:
        say(f"{row.name} with {key}={batch}")
        return plan_row(program(row, batch), batches.mesh, target)

    smallest = batches.nearest(0, above=0, upto=batches.now)
    most = batches.nearest(math.inf, above=0, upto=MOST * batches.now)
    assert smallest is not None and most is not None, f"{key}={batches.now} has passed the checks of a run"
    found = Largest(key, most)
    for row in reversed(rows):
        if row.resident > limit and bytes_per_chip(program(row, smallest).resident) > limit:
            return Largest(key, 0, row.name)
        settled = found.program and (row.peak <= limit or found.value < batches.now)
        start = found.value if settled else _guess(row, batches.now, (1 - MARGIN) * limit)
        fitting, failing = _search(row, start, found.value, batches, functools.partial(compiled, row), limit)
        if fitting < found.value:
            found = Largest(key, fitting, row.name, failing)
    return found


def _search(
    row: Row, start: float, top: int, batches: Batches, compiled: Callable[[int], Row], limit: float
) -> tuple[int, int | None]:
    """The largest batch up to `top` that was compiled and fits, 0 for none, and `Largest.refused`.

    Compiles the batch nearest to `start`, then the one where the line meets the limit, less MARGIN. Where neither fits
    there is the smallest left.
    """
    known = {batches.now: row}

    def nearest(wanted: float) -> int | None:
        fitting, failing = _bounds(known, limit)
        return batches.nearest(wanted, above=fitting, upto=min(top, failing - 1) if failing else top)

    probe, confirming = nearest(start), None
    if probe is not None:
        known[probe] = compiled(probe)
        crossing = _crossing(_peaks(known), (1 - MARGIN) * limit)
        confirming = nearest(crossing)
        if confirming is not None and (confirming <= crossing or not _bounds(known, limit)[0]):
            known[confirming] = compiled(confirming)
        smallest = nearest(0)
        if smallest is not None and not _bounds(known, limit)[0]:
            known[smallest] = compiled(smallest)
    fitting, failing = _bounds(known, limit)
    return fitting, failing if failing == confirming or not fitting else None


def _bounds(known: dict[int, Row], limit: float) -> tuple[int, int | None]:
    """The largest batch that fits, 0 for none, and the smallest that does not."""
    fitting = max((batch for batch, row in known.items() if row.peak <= limit), default=0)
    return fitting, min((batch for batch, row in known.items() if row.peak > limit), default=None)


def _guess(row: Row, now: int, limit: float) -> float:
    """A batch that should fit: where all would grow with the rows but what stays on the chip."""
    grows = row.memory.get("needed", row.peak - row.resident)
    return now * (limit - row.resident) / grows if grows > 0 else math.inf


def _peaks(known: dict[int, Row]) -> dict[int, int]:
    """Bytes by batch. What the compiler needed where it gave up leaves out what is resident and not read."""
    unread = [max(row.resident - row.memory["arguments"], 0) for row in known.values() if "arguments" in row.memory]
    return {
        batch: row.memory["needed"] + (unread[0] if unread else 0) if "needed" in row.memory else row.peak
        for batch, row in known.items()
    }


def _crossing(peaks: dict[int, int], limit: float) -> float:
    """Where the line through the two batches nearest to the limit meets it."""
    (low, at_low), (high, at_high) = sorted(peaks.items(), key=lambda pair: abs(pair[1] - limit))[:2]
    slope = (at_high - at_low) / (high - low)
    return low + (limit - at_low) / slope if slope > 0 else math.inf
