"""The loss on held-out texts and conversations."""

from collections import Counter
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from icegrt_jax.config.options import SupervisedOptions
from icegrt_jax.data.pipeline import Batch, sft_batches
from icegrt_jax.data.records import Record
from icegrt_jax.hosts import sync
from icegrt_jax.runs.heldout import Measure
from icegrt_jax.runs.rundir import Run
from icegrt_jax.sharding.put import shard_batch
from icegrt_jax.training.state import TrainState
from icegrt_jax.training.updates import sft_sums

compiled_sums = jax.jit(sft_sums)


def measure_loss(run: Run, section: SupervisedOptions, kind: type[Record]) -> Measure:
    """Mean negative log-likelihood of the targets of all held-out sources, and of each where there are several."""
    sources = run.load(section.heldout, kind)
    rows = {name: _rows(run, section, name, records) for name, records in sources.items()}
    size = section.microbatch or section.batch_size

    def measure(state: TrainState) -> Mapping[str, float]:
        sums = {name: _sums(run, state, of_source, size) for name, of_source in rows.items()}
        total = sum(sums.values(), Counter[str]())
        means = _means(total, "")
        for name, of_source in sums.items() if len(sums) > 1 else ():
            means |= _means(of_source, f"{name}/")
        return means

    return measure


def _rows(run: Run, section: SupervisedOptions, name: str, records: Sequence) -> list[Batch]:
    """The rows of a source, each once."""
    batches = sft_batches(
        {name: records[: section.heldout_limit or None]}, {name: 1.0}, run.tokenizer, batch_size=1,
        length=section.length, seed=0, packing=section.packing, overlong=section.overlong,
    )  # fmt: skip
    return [batches[i] for i in range(batches.report[name]["rows"])]


def _sums(run: Run, state: TrainState, rows: list[Batch], size: int) -> Counter:
    """Sums over the targets, `size` rows at a time; the last block is filled with rows without a target."""
    nothing = {name: np.zeros_like(x) for name, x in rows[0].items()}
    found = []
    with jax.set_mesh(run.mesh):
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            block = block + [nothing] * (size - len(block))
            batch = {name: np.concatenate([row[name] for row in block]) for name in nothing}
            found.append(compiled_sums(state, shard_batch(batch, run.mesh)))
    total: Counter[str] = Counter()
    for sums in sync.fetch(found):
        total.update({name: float(value) for name, value in sums.items()})
    return total


def _means(sums: Counter, prefix: str) -> dict[str, float]:
    return {f"{prefix}{name}": sums[name] / sums["targets"] for name in ("loss", "target_prob")}
