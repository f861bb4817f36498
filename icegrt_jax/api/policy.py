"""PPO from Python: the roles, the iteration and the loop of `icegrt ppo`, with models and data that a program holds."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icegrt_jax.api import records, settings
from icegrt_jax.api.change import Changing
from icegrt_jax.api.rollout import ScoredRollout
from icegrt_jax.api.training import Training, complete
from icegrt_jax.api.wanted import Wanted, want
from icegrt_jax.config.choices import OverlongPrompts, ParamDtype
from icegrt_jax.config.options import (
    EvaluateOptions,
    LengthOptions,
    MeshOptions,
    ModelOptions,
    Options,
    PPOOptions,
    RewardOptions,
    ValueOptions,
)
from icegrt_jax.data.records import Instruction, Prompt
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model
from icegrt_jax.models.members import Members
from icegrt_jax.runs import (
    alarm_watch,
    batch_check,
    generation,
    iteration,
    judging,
    loop,
    notes,
    ppo_data,
    reward_check,
    reward_model,
    score_scale,
    scoring,
)
from icegrt_jax.runs.reward_reference import scaled_by_reference, with_moments, with_source_moments
from icegrt_jax.runs.rewards import STOP, Rewards
from icegrt_jax.runs.roles import Source, first_state
from icegrt_jax.runs.session import Session
from icegrt_jax.runs.warmup import Warmup
from icegrt_jax.sampling.generate import Generation
from icegrt_jax.sharding.put import shard_tree
from icegrt_jax.training.state import TrainState, averaged

TRIED = 4  # records on whose references the reward functions are tried before anything is sampled


def ppo(
    model: Model,
    prompts: Any,
    *,
    reward: Any,
    options: PPOOptions | None = None,
    value: ValueOptions | Mapping | None = None,
    replay: Any = None,
    max_prompt_length: int = LengthOptions.max_prompt_length,
    max_response_length: int = LengthOptions.max_response_length,
    overlong_prompts: OverlongPrompts = LengthOptions.overlong_prompts,
    reward_length: int = RewardOptions.length,
    normalize_on: int = RewardOptions.normalize_on,
    seed: int = Options.seed,
    mesh: MeshOptions | Mapping = Options.mesh,
    param_dtype: ParamDtype = ModelOptions.param_dtype,
    data_dir: str = "",
    donate: bool = False,
    progress: bool = False,
    **keys: Any,
) -> Training:
    """PPO: going over it gives `(step, metrics, rollout)`, `finish()` the model.

    The same steps, sampler and checks as `icegrt ppo`, the one before the first update included. With the same models,
    data, options, seed and devices the numbers are the same bit for bit.

    Args:
      model: the policy before training, and the reference. It stays as it is.
      prompts: strings, chats, dicts such as {"prompt", "reference", "meta"}, records, a .jsonl file or FORMAT:PATH as
        in a config; or several of them by name, mixed by `weights`.
      reward: a function of (prompts, responses, records) that returns a number, or None for no opinion, for each
        response, or its FILE.py:NAME; a reward model; or several by name, the model being called "model", weighted by
        `reward_weights` and scaled by `reward_scales`.
      options: `ice.options.PPOOptions`. Its fields can be given singly as well: iterations (needed), batch_size,
        kl={"coef": 0.1}, policy_optimizer={"lr": 1e-5} and so on. All defaults are those of the command line.
      value: the critic, `ice.options.ValueOptions`; by default it starts from the reward model, and where that has
        another tokenizer or there is none, from `model`.
      replay: examples as for `sft`, replayed with `ptx`.
      max_prompt_length, max_response_length, overlong_prompts: in tokens, as the keys of a config.
      reward_length: tokens of prompt and response that a reward model with another tokenizer reads.
      normalize_on: answers of `model` on which a reward model that has not been measured yet is.
      seed, mesh, param_dtype, data_dir, donate, progress: as for `sft`.

    >>> model = ice.load_model("models/policy")
    >>> def short(prompts, responses, records):
    ...     return [-float(len(text)) for text in responses]
    >>> few = dict(iterations=2, batch_size=8, max_response_length=4)
    >>> training = ice.ppo(model, ["the cat", "the end"], reward=short, **few)
    >>> for step, metrics, rollout in training:
    ...     print(step, len(rollout.text), metrics["reward/short"] <= 0)
    1 8 True
    2 8 True
    >>> policy = training.model
    """
    model.need_logits("ppo")
    given = records.sources(prompts, Prompt, "prompts", data_dir)
    replayed = {} if replay is None else records.sources(replay, Instruction, "replay", data_dir)
    lengths = settings.lengths(max_prompt_length, max_response_length, overlong_prompts)
    wanted = want(
        model,
        reward,
        settings.section(PPOOptions(), options, keys, "ppo"),
        value,
        lengths,
        param_dtype,
        given,
        replayed,
    )
    session = settings.session(model, seed, mesh, lengths)
    batch_check.check_rows({"ppo": wanted.section}, session.mesh)
    data = _data(session, wanted.section, given, replayed)
    reader = _reader(session, wanted.reward, reward_length, data.asked.prompts)
    answers = _Answers(session, model, wanted.section, data.asked.prompts, normalize_on)
    return _training(session, wanted, data, reader, answers, given, donate=donate, progress=progress)


def _training(
    session: Session, wanted: Wanted, data: ppo_data.Data, reader: scoring.Reader | None, answers: "_Answers",
    given: Mapping[str, Sequence[Prompt]], *, donate: bool, progress: bool,
) -> Training:  # fmt: skip
    """The training of checked inputs; its end closes the reward functions."""
    model, section = wanted.model, wanted.section
    with contextlib.ExitStack() as until_begun:
        rewards = until_begun.enter_context(_rewards(section, wanted.functions))
        _try_out(rewards, section, data.asked.prompts)
        state = _first_state(session, wanted, reader, answers, donate=donate)
        if names := scaled_by_reference(state.ppo):
            state = with_moments(session, state, rewards, names, answers.asked.prompts, answers.made.text)
        if section.score.by_source and section.score.scale == "reference":
            state = with_source_moments(session, state, reader, answers.by_source(given), answers.draw)
        generation.show_mesh(session, "ppo", dict(state.models))
        once = iteration.make_iteration(session, section, state, data.asked, reader, rewards, prompts=data.prompts)
        open_ = until_begun.pop_all()
    shown = ("score_raw", *(f"reward/{name}" for name in wanted.functions), "gold", "kl", "length")
    looks = reward_check.of_rollouts(section) if section.alarms.reward_every else None
    alarms = alarm_watch.Alarms(alarm_watch.given(section, weight=wanted.weight), None, (looks,) if looks else ())
    made = lambda functions: open_.enter_context(_rewards(section, functions))
    changing = Changing(wanted, once, made)
    steps = loop.Loop(
        "ppo", section.iterations, data.batch, changing.advance, save_every=section.iterations, shown=shown,
        waits="learn", watchers=(Warmup(section), alarms),
    )  # fmt: skip
    result = lambda state: Model(model.config, complete(averaged(state), "policy"), model.tokenizer)
    seen = lambda outcome: ScoredRollout(outcome.more, outcome.metrics, outcome.state.ppo, model.tokenizer)
    return Training(
        session, steps, state, result, seen=seen, change=changing.change, progress=progress, open_=open_
    )  # fmt: skip


def _rewards(section: PPOOptions, functions: Mapping[str, Any]) -> Rewards:
    return Rewards(
        functions, limit=section.reward_timeout, workers=section.reward_workers, failed=section.reward_failed
    )


def _data(session: Session, section: PPOOptions, given: Mapping, replayed: Mapping) -> ppo_data.Data:
    """What the iterations read, looked at."""
    judge_of = judging.of_ppo(section, "")
    for name, prompts in given.items():
        if judge := judge_of(name):
            judge.check(prompts)
    if section.score.baseline == "reference":
        for prompts in given.values():
            scoring.check_references(prompts)
    data = ppo_data.prepare(session, section, given, replayed, judge_of)
    notes.checked_example("ppo", data.prompts, session.tokenizer)
    if data.replay is not None:
        notes.checked_example("ppo", data.replay, session.tokenizer)
    notes.warn_of_losses("ppo", data.report)
    return data


def _reader(session: Session, model: Model | None, length: int, prompts: Sequence[Prompt]) -> scoring.Reader | None:
    """How a reward model with another tokenizer reads."""
    if model is None:
        return None
    reader = scoring.make_reader(session, model.tokenizer, RewardOptions(length=length))
    if reader is not None:
        reader.count([prompt.prompt for prompt in prompts])  # refuses a prompt that its template does
    return reader


def _try_out(rewards: Rewards, section: PPOOptions, prompts: Sequence[Prompt]) -> None:
    """Calls the functions on some references, or on empty responses, before anything is sampled."""
    if rewards and section.reward_failed == STOP:
        tried = prompts[:TRIED]
        rewards.ask("tried on references", tried, [record.reference or "" for record in tried])()


class _Answers:
    """The policy's answers before training, on which scores are measured; sampled when they are first asked for."""

    def __init__(self, session: Session, model: Model, section: PPOOptions, prompts: Sequence[Prompt], count: int):
        self._session, self._model, self._count = session, model, count
        fitting = reward_model.fitting_prompts(session, prompts)[:count]
        self.asked = reward_model.Asked(fitting, section, EvaluateOptions.batch_size)

    @functools.cached_property
    def made(self) -> Generation:
        if not self.asked.prompts:
            longest = self._session.lengths.max_prompt_length
            raise UserError(f"normalize_on: no prompt of at most {longest} tokens to answer.")
        return self.draw(self.asked)

    def draw(self, asked: reward_model.Asked) -> Generation:
        session, model = self._session, self._model
        return reward_model.answers_of(
            session, model.config, model.params, asked, session.key("normalize"), num_samples=1
        )

    def by_source(self, given: Mapping[str, Sequence[Prompt]]) -> dict[str, reward_model.Asked]:
        """As many prompts of each source."""
        found = {
            name: reward_model.fitting_prompts(self._session, prompts)[: self._count] for name, prompts in given.items()
        }
        return {name: dataclasses.replace(self.asked, prompts=own) for name, own in found.items() if own}


def _first_state(
    session: Session, wanted: Wanted, reader: scoring.Reader | None, answers: _Answers, *, donate: bool
) -> TrainState:
    """The roles before the first iteration, put together as a run does from its finished stages."""
    measured, reward, section, scale = None, wanted.reward, wanted.section, None
    if wanted.weight and reward is not None and isinstance(reward.params, Members):
        scale = score_scale.scale_of(_scores(session, wanted, reward, reader, answers))
    elif wanted.weight and reward is not None:
        measured = reward.measured
        if measured is None and section.score.scale == "reference":
            stats = score_scale.moments(_scores(session, wanted, reward, reader, answers))
            measured = float(stats.ref_mean), float(stats.ref_std)
    held = {"sft": (wanted.model, settings.Parameters(wanted.model, donate))}
    if reward is not None:
        held["reward"] = (reward, settings.Parameters(reward, donate))

    def whole(stage: str, role: str):
        of, params = held[stage]
        return of.config, params.take()

    def own(stage: str, role: str):
        raise AssertionError("no role is an adapter on a shared base")

    source = Source(
        section, wanted.critic, wanted.weight, False, wanted.frozen, whole, own,
        key=session.key, adapter_key=session.adapter_key,
    )  # fmt: skip
    mean, std = measured or (0.0, 1.0)
    return shard_tree(first_state(source, {"ref_mean": mean, "ref_std": std}, scale)[0], session.mesh)


def _scores(
    session: Session, wanted: Wanted, reward: Model, reader: scoring.Reader | None, answers: "_Answers"
) -> np.ndarray:
    """What the reward model says of the policy's answers before training."""
    params = shard_tree(score_scale.stored(reward.params, wanted.frozen), session.mesh)
    return reward_model.scores_of_answers(session, params, reward.config, reader, answers.asked, answers.made)
