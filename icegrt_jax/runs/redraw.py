"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): other prompts in the place of those without a signal.

A rollout is scored; prompts whose answers all have one score give their places to prompts of further rollouts, until
all have a signal or `ppo.redraw` further ones have been made. What stays is masked by `ppo.filter_groups`. The batch
keeps its size, so programs are those of any iteration. How many batches of prompts have been drawn is in the state.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax.data.pipeline import Batches
from icegrt_jax.hosts import sync
from icegrt_jax.models.vocabulary import check_ids
from icegrt_jax.runs import reward_kept, scoring
from icegrt_jax.runs.rewards import Answer
from icegrt_jax.runs.rollouts import Rollouts
from icegrt_jax.sampling import Packings, Rollout
from icegrt_jax.sharding import host_rows
from icegrt_jax.sharding.put import shard_batch, shard_tree
from icegrt_jax.training.ppo import read_scores
from icegrt_jax.training.rewards import have_signal
from icegrt_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Responses and what is said of them, `group` of them to a prompt one after another.

    Attributes:
      rollout: the tokens.
      index: of each prompt's record.
      texts: of the responses; empty where nobody has looked at them.
      scores: the reward model's, f32[B], of several f32[B, M]; None without one.
      answer: what the reward functions say.
      baseline: scores of the prompts' reference answers, f32[B / group] or likewise; None without `ppo.score.baseline`.
      cut: what lost its end on the way to a reward model with a tokenizer of its own, for the metrics.
    """

    rollout: Rollout
    index: np.ndarray
    texts: list[str]
    scores: jax.Array | None
    answer: Answer
    baseline: jax.Array | None
    cut: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Tally:
    """What a batch has cost: rollouts made, prompts that were replaced, and those without a signal among all drawn."""

    rollouts: int
    redrawn: int
    flat: float


def fill(
    draw: Callable[[int], Drawn],
    signal: Callable[[Drawn], np.ndarray],
    join: Callable[[Drawn, Drawn, np.ndarray], Drawn],
    most: int,
) -> tuple[Drawn, Tally]:
    """A batch of prompts with a signal, as far as `most` further rollouts give them.

    Args:
      draw: the rollout of that number, from 0.
      signal: of each prompt of a rollout whether it has one, bool[N].
      join: the prompts of two rollouts, one behind another, that are at these places i[N].
    """
    kept = draw(0)
    has = np.array(signal(kept))
    prompts, rollouts, redrawn, flat = has.size, 1, 0, int((~has).sum())
    while not has.all() and rollouts <= most:
        more = draw(rollouts)
        good = np.asarray(signal(more))
        rollouts, flat = rollouts + 1, flat + int((~good).sum())
        found = np.flatnonzero(good)[: int((~has).sum())]
        empty = np.flatnonzero(~has)[: found.size]
        if found.size:
            places = np.arange(prompts)
            places[empty] = prompts + found
            kept = join(kept, more, places)
        has[empty], redrawn = True, redrawn + found.size
    return kept, Tally(rollouts, redrawn, flat / (prompts * rollouts))


@dataclasses.dataclass(frozen=True)
class Redraw(Rollouts):
    """Makes the batches of a run whose prompts are drawn anew.

    Attributes: as of `Rollouts`, and
      prompts: batches of them, as many as are asked for.
    """

    prompts: Batches

    def batch(self, state: TrainState, step: int) -> tuple[Drawn, dict[str, float]]:
        """The responses of an iteration, ready for `score`, and what they have cost, for the metrics."""
        first = int(sync.fetch(state.drawn["batches"]))
        draw = lambda number: self._draw(state, first + number, step)
        drawn, tally = fill(draw, lambda drawn: self._signal(state, drawn), self._joined, self.ppo.redraw)
        drawn = dataclasses.replace(drawn, rollout=self.packed(state, drawn.rollout))
        responses = self.ppo.batch_size * self.ppo.samples_per_prompt
        return drawn, {
            "rollouts": tally.rollouts,
            "samples": (first + tally.rollouts) * responses,
            "redrawn": tally.redrawn,
            "drawn_flat": tally.flat,
        }

    def moved(self, state: TrainState, samples: float) -> TrainState:
        """The state that knows how many responses have been sampled by now."""
        batches = int(samples) // (self.ppo.batch_size * self.ppo.samples_per_prompt)
        return state.replace(drawn=shard_tree({"batches": jnp.asarray(batches, jnp.int32)}, self.run.mesh))

    def _draw(self, state: TrainState, number: int, step: int) -> Drawn:
        """The `number`-th batch of prompts of the run, answered and scored."""
        run, ppo, group = self.run, self.ppo, self.ppo.samples_per_prompt
        batch = self.prompts[number]
        check_ids(batch["tokens"], state.model("policy").vocab_size, f"ppo, batch {number + 1}")
        rollout = self.packed(state, self.sample(state, batch, number, step))
        index = host_rows.all_rows(batch["index"], run.mesh)
        records = self.asked.chosen(np.repeat(index, group).tolist()).prompts
        texts: list[str] = []
        cut: dict[str, int] = {}
        scores, baseline = None, None
        if self.reader is not None or self.rewards:
            texts = scoring.texts_of(run, rollout)
        wait = reward_kept.ask(self.rewards, self.keep, step, records, texts, group=group)
        if self.reader is not None:
            scores, cut = scoring.score_as_text(run, self.reader, state, rollout, records, texts)
        elif state.ppo.reward_model:
            with jax.set_mesh(run.mesh):
                scores = _read_scores(shard_tree(state, run.mesh), rollout)
        if ppo.score.baseline != "none":
            baseline, found = scoring.reference_scores(run, self.reader, state, records[::group])
            cut |= {"reference_cut": int(found["reference_cut"])}
        return Drawn(rollout, index, texts, scores, wait(), baseline, cut)

    def _signal(self, state: TrainState, drawn: Drawn) -> np.ndarray:
        rollout, opinions = drawn.rollout, shard_batch(drawn.answer.opinions(), self.run.mesh)
        names = [self.asked.sources[i] for i in drawn.index for _ in range(self.ppo.samples_per_prompt)]
        with jax.set_mesh(self.run.mesh):
            state = shard_tree(state, self.run.mesh)
            given = (rollout.mask, rollout.finished, drawn.scores, opinions, drawn.baseline)
            found = _have_signal(state, *given, self.sources(state, names))
        return sync.fetch(found)

    def _joined(self, one: Drawn, other: Drawn, places: np.ndarray) -> Drawn:
        group = self.ppo.samples_per_prompt
        rows = (places[:, None] * group + np.arange(group)).reshape(-1)
        of_both = lambda a, b, taken: [(list(a) + list(b))[i] for i in taken] if len(a) else []
        arrays = lambda drawn: (drawn.rollout.replace(packing=Packings()), drawn.scores)
        with jax.set_mesh(self.run.mesh):
            rollout, scores = _taken(arrays(one), arrays(other), rows)
            baseline = _taken(one.baseline, other.baseline, places)
        rollout, scores, baseline = shard_batch((rollout, scores, baseline), self.run.mesh)
        values = {name: of_both(one.answer.values[name], other.answer.values[name], rows) for name in one.answer.values}
        failed = {name: count + other.answer.failed[name] for name, count in one.answer.failed.items()}
        return Drawn(
            rollout, np.concatenate([one.index, other.index])[places], of_both(one.texts, other.texts, rows), scores,
            Answer(values, failed), baseline, {name: count + other.cut[name] for name, count in one.cut.items()},
        )  # fmt: skip


@jax.jit
def _taken(one: Any, other: Any, places: jax.Array) -> Any:
    """Of two trees of arrays with as many rows each, one behind another, these rows."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b])[places], one, other)


_read_scores, _have_signal = jax.jit(read_scores), jax.jit(have_signal)
