"""One iteration of PPO on a run's mesh: it samples, scores in one program, and learns in another."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from icegrt_jax.config.options import KLOptions, PPOOptions
from icegrt_jax.data.pipeline import Batches
from icegrt_jax.data.records import Prompt
from icegrt_jax.hosts import sync
from icegrt_jax.models.vocabulary import check_ids
from icegrt_jax.runs import reward_kept, scoring
from icegrt_jax.runs.judging import Questions
from icegrt_jax.runs.kept import Place
from icegrt_jax.runs.loop import Left, Outcome
from icegrt_jax.runs.redraw import Drawn, Redraw
from icegrt_jax.runs.rewards import Answer, Rewards
from icegrt_jax.runs.rollouts import Rollouts
from icegrt_jax.runs.sections import sampler_for
from icegrt_jax.runs.session import Session
from icegrt_jax.sampling import Rollout
from icegrt_jax.sampling.layout import rollout_layout
from icegrt_jax.sharding import host_rows
from icegrt_jax.sharding.put import shard_batch, shard_tree
from icegrt_jax.sharding.rules import row_parts
from icegrt_jax.sharding.steps import jit_step
from icegrt_jax.training.first_check import check_first_rollout
from icegrt_jax.training.ppo import ppo_update, read_roles, score
from icegrt_jax.training.ppo_metrics import said
from icegrt_jax.training.preemption import asked as asked_to_stop
from icegrt_jax.training.progress import Progress
from icegrt_jax.training.rewards import verdicts
from icegrt_jax.training.state import Experience, TrainState

_read_roles = jax.jit(read_roles, static_argnames="reward")


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What was asked and answered in an iteration.

    Attributes:
      records, responses: record and text of each response.
      answer: what the reward functions say.
      rollout, experience: the tokens, and what the roles made of them.
      asked: the records with their judges.
    """

    records: Sequence[Prompt]
    responses: list[str]
    answer: Answer
    rollout: Rollout
    experience: Experience
    asked: Questions


@dataclasses.dataclass(frozen=True)
class Iteration(Rollouts):
    """What the iterations of a run share.

    Attributes: as of `Rollouts`, and
      score, update: compiled steps. read: the roles' part of `score`, for the time in which the host makes texts.
      moved: the policy does not start as the reference.
      redraw: draws the prompts, some anew; None: an iteration has those that were made for it.
    """

    score: Callable
    read: Callable
    update: Callable
    moved: bool = False
    redraw: Redraw | None = None

    def advance(self, state: TrainState, step: int, made: Callable, progress: Progress) -> Outcome:
        """Samples, scores and learns once."""
        run, ppo = self.run, self.ppo
        with progress.phase("rollout"):
            batch, replayed = made(step)
            for rows in filter(None, (batch, replayed)):
                check_ids(rows["tokens"], state.model("policy").vocab_size, f"ppo, batch {step}")
            drawn, cost = self.redraw.batch(state, step) if self.redraw else (None, {})
            if drawn is None:
                rollout = self.packed(state, self.sample(state, batch, step - 1, step))
                index = host_rows.all_rows(batch["index"], run.mesh)
            else:
                rollout, index = drawn.rollout, drawn.index
        if self.keep is not None and asked_to_stop():
            raise Left  # the responses are kept
        if step == 1:
            with jax.set_mesh(run.mesh):
                check_first_rollout(state, rollout, cache_dtype=ppo.cache_dtype, moved=self.moved)
        asked = self.asked.chosen([i for i in index for _ in range(ppo.samples_per_prompt)])
        with progress.phase("learn"):
            if drawn is None:
                texts, given, answer, counts = self._read_as_text(state, step, rollout, asked.prompts)
                baseline, of_references = self._baseline(state, asked.prompts)
            else:
                texts, given, answer, counts, baseline, of_references = self._read_before(state, drawn, cost)
            sources = self.sources(state, asked.sources)
            if sources is not None:
                baseline = (*(baseline or (None,)), sources)
            state, experience, scored = self.score(state, rollout, *given, *baseline)
            if replayed is not None:
                experience = experience.replace(ptx=host_rows.place_rows(replayed, run.mesh))
            state, learned = self.update(state, experience)
            # The host reads and judges the answers while the device learns from them.
            texts = texts or scoring.texts_of(run, rollout)
            judged = asked.judged(texts)
            counts |= answer.metrics()
            fetched = sync.fetch({**scored, **learned, **of_references})
            metrics = {**said(fetched, learned), **counts, **judged, **kl_target(ppo.kl)}
            if self.redraw:
                state = self.redraw.moved(state, cost["samples"])
        return Outcome(state, metrics, Sampled(asked.prompts, texts, answer, rollout, experience, asked))

    def _baseline(self, state: TrainState, records: Sequence[Prompt]) -> tuple[tuple, dict]:
        """Of the prompts' reference answers the scores, last argument of `score`, and metrics; nothing by default."""
        if self.ppo.score.baseline == "none":
            return (), {}
        scores, found = scoring.reference_scores(self.run, self.reader, state, records[:: self.ppo.samples_per_prompt])
        return (scores,), found

    def _read_before(
        self, state: TrainState, drawn: Drawn, cost: dict[str, float]
    ) -> tuple[list[str], tuple, Answer, dict, tuple, dict]:
        """As `_read_as_text` and `_baseline` together, of responses that have been scored to be chosen."""
        opinions = shard_batch(drawn.answer.opinions(), self.run.mesh) if self.rewards else None
        given, counts = (drawn.scores, None, opinions), {**drawn.cut, **cost}
        if drawn.baseline is None:
            return drawn.texts, given, drawn.answer, counts, (), {}
        of_references = {"score_reference": verdicts(state, drawn.baseline).mean()}
        return drawn.texts, given, drawn.answer, counts, (drawn.baseline,), of_references

    def _read_as_text(
        self, state: TrainState, step: int, rollout: Rollout, records: Sequence[Prompt]
    ) -> tuple[list[str], tuple, Answer, dict]:
        """The texts, what `score` is given, what the functions say and counts for the metrics.

        Nothing where no text is looked at: `score` reads the ids.
        """
        if self.reader is None and not self.rewards:
            return [], (None, None, None), Answer({}), {}
        run, by_ids = self.run, self.reader is None and bool(state.ppo.reward_model)
        # The roles read ids while the host decodes, calls the functions and tokenises.
        with jax.set_mesh(run.mesh):
            roles_read = self.read(shard_tree(state, run.mesh), rollout, reward=by_ids)
        texts = scoring.texts_of(run, rollout)
        wait = reward_kept.ask(self.rewards, self.keep, step, records, texts, group=self.ppo.samples_per_prompt)
        scores: jax.Array | None = None
        counts: dict = {}
        if self.reader is not None:
            scores, counts = scoring.score_as_text(run, self.reader, state, rollout, records, texts)
        answer = wait()
        return texts, (scores, roles_read, shard_batch(answer.opinions(), run.mesh)), answer, counts


def make_iteration(
    run: Session,
    ppo: PPOOptions,
    state: TrainState,
    asked: Questions,
    reader: scoring.Reader | None,
    rewards: Rewards | None = None,
    *,
    moved: bool = False,
    prompts: Batches | None = None,
    keep: Place | None = None,
) -> Iteration:
    """The iteration of a run that begins with `state`, its policy `moved` from the reference by an earlier round.

    With `ppo.redraw` it draws its `prompts` itself. `keep`: where rollouts are kept, see `Rollouts`.
    """
    rewards = rewards or Rewards({})
    sampler = sampler_for(run.tokenizer, ppo, run.lengths.max_response_length)
    layout = rollout_layout(run.mesh, state.model("policy"), state.full("policy"), run.rollout_tensor)
    sizes = {"pack": ppo.pack, "parts": row_parts(run.mesh)}
    shared = (run, ppo, asked, reader, rewards, sampler, layout, sizes, keep)
    redraw = None
    if ppo.redraw:
        assert prompts is not None, "what is drawn anew is drawn here"
        redraw = Redraw(*shared, prompts)
    return Iteration(
        *shared,
        score=jit_step(score, run.mesh, state),
        read=_read_roles,
        update=jit_step(ppo_update, run.mesh, state),
        moved=moved, redraw=redraw,
    )  # fmt: skip


def changed(once: Iteration, state: TrainState, ppo: PPOOptions, *, rewards: Rewards, anew: bool) -> Iteration:
    """The iteration with other options, of the same run.

    Args:
      state: the one that it goes on from.
      anew: another kind of tree than before, for which its steps are compiled again.
    """
    run = once.run
    sampler = sampler_for(run.tokenizer, ppo, run.lengths.max_response_length)
    steps = {"score": jit_step(score, run.mesh, state), "update": jit_step(ppo_update, run.mesh, state)} if anew else {}
    return dataclasses.replace(once, ppo=ppo, rewards=rewards, sampler=sampler, **steps)


def kept(sampled: Sampled) -> tuple[Any, list[dict]]:
    """Of an iteration that was not finite the arrays, and a row for each response."""
    rows = [
        {"prompt": list(record.prompt), "response": text, "rewards": sampled.answer.of(i)}
        for i, (record, text) in enumerate(zip(sampled.records, sampled.responses, strict=True))
    ]
    return {"rollout": sampled.rollout, "experience": sampled.experience}, rows


def kl_target(kl: KLOptions) -> dict[str, float]:
    """The controller's target and its band, in nats; nothing for a fixed coefficient."""
    if not kl.adaptive:
        return {}
    low, high = (share * kl.target for share in kl.band)
    return {"kl_target": kl.target, "kl_low": low, "kl_high": high}
