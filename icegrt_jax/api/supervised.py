"""Supervised fine-tuning and the reward model from Python: the update steps and the loop of the programs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from icegrt_jax.api import records, settings
from icegrt_jax.api.training import Training, complete
from icegrt_jax.config.checks import check
from icegrt_jax.config.choices import OverlongPrompts, ParamDtype
from icegrt_jax.config.options import (
    DrawOptions,
    EvaluateOptions,
    LengthOptions,
    MeshOptions,
    ModelOptions,
    Options,
    RewardOptions,
    SFTOptions,
    SupervisedOptions,
)
from icegrt_jax.data.pipeline import Batches, ranking_batches, sft_batches
from icegrt_jax.data.records import Instruction, Prompt, Ranking
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model
from icegrt_jax.models.lora import LoRAConfig
from icegrt_jax.models.quantize import stored_as
from icegrt_jax.runs import batch_check, generation, loop, notes, reward_model, score_scale, supervised
from icegrt_jax.runs.roles import INSTRUCT
from icegrt_jax.runs.sections import lora_config
from icegrt_jax.runs.session import Session
from icegrt_jax.training.updates import sft_update

DRAW = DrawOptions()
GIVEN = ModelOptions(path="given")  # for the checks: there is a base model, as if a folder had been named
# Of a reward stage, where the model is an argument, and is one.
OF_RUNS = ("init", "model", "on_policy_k", "score_length", "ensemble", "ensemble_with", "ensemble_as")


def sft(
    model: Model,
    examples: Any,
    *,
    options: SFTOptions | None = None,
    seed: int = Options.seed,
    mesh: MeshOptions | Mapping = Options.mesh,
    param_dtype: ParamDtype = ModelOptions.param_dtype,
    data_dir: str = "",
    donate: bool = False,
    progress: bool = False,
    **keys: Any,
) -> Training:
    """Supervised fine-tuning: going over it gives `(step, metrics)`, `finish()` the model.

    Args:
      model: a language model; it stays as it is.
      examples: dicts such as {"prompt", "response"} or {"messages"}, chats, records, a .jsonl file or FORMAT:PATH as
        in a config; or several of them by name, mixed by `weights`.
      options: `ice.options.SFTOptions`. Its fields can be given singly as well: steps (needed), batch_size, length,
        packing, optimizer={"lr": 1e-4}, lora={"rank": 8} and so on. All defaults are those of the command line.
      seed: of every random choice.
      mesh: how the devices are shared out, `ice.options.MeshOptions` or a dict.
      param_dtype: of a frozen base under an adapter.
      data_dir: where relative paths of FORMAT:PATH begin; empty: $ICEGRT_DATA, else here.
      donate: the model's arrays may be taken, which saves a copy; the model cannot be used afterwards.
      progress: show it on stderr.

    >>> model = ice.load_model("models/policy")
    >>> rows = [{"prompt": "the cat", "response": "sat"}, {"prompt": "the end", "response": "is near"}] * 4
    >>> training = ice.sft(model, rows, steps=2, batch_size=8, length=32, optimizer={"lr": 1e-3})
    >>> for step, metrics in training:
    ...     print(step, sorted(metrics))
    1 ['entropy', 'grad_norm', 'loss', 'step', 'target_prob', 'targets']
    2 ['entropy', 'grad_norm', 'loss', 'step', 'target_prob', 'targets']
    >>> tuned = training.model
    """
    model.need_logits("sft")
    given = records.sources(examples, Instruction, "examples", data_dir)
    section = section_of(SFTOptions(), options, keys, "sft", given)
    check(Options(sft=section, model=dataclasses.replace(GIVEN, param_dtype=param_dtype)))
    session = settings.session(model, seed, mesh)
    return policy_training(
        "sft", model, given, section, session, param_dtype=param_dtype, lora=lora_config(section.lora),
        cut=section.overlong == "cut", donate=donate, progress=progress,
    )  # fmt: skip


def policy_training(
    stage: str, model: Model, given: Mapping[str, Sequence], section: SupervisedOptions, session: Session, *,
    param_dtype: ParamDtype = ModelOptions.param_dtype, lora: LoRAConfig | None = None,
    cut: bool, donate: bool, progress: bool,
) -> Training:  # fmt: skip
    """Next-token training of a language model on checked sources, as a stage of a run does it.

    Args:
      lora: of an adapter; None: all parameters are trained.
      cut: rows may lack the end of what is in them.
    """
    batch_check.check_rows({stage: section}, session.mesh)
    generation.show_mesh(session, stage, {"policy": model.config})
    batches = sft_batches(
        given, section.weights, model.tokenizer, batch_size=section.batch_size, length=section.length,
        seed=session.data_seed(stage), packing=section.packing, overlong=section.overlong, share=session.share,
    )  # fmt: skip
    look_at(stage, batches, session, cut=cut)
    state, _ = supervised.first_state(
        section, param_dtype, session.key(stage), model.config, settings.Parameters(model, donate).take(), lora,
        INSTRUCT, session.adapter_key("sft"),
    )  # fmt: skip
    steps = loop.over_batches(
        session, stage, section.steps, state, sft_update, batches, save_every=section.steps,
        shown=("loss", "target_prob"),
    )  # fmt: skip
    result = lambda state: Model(model.config, complete(state, "policy"), model.tokenizer)
    return Training(session, steps, state, result, progress=progress)


def train_reward(
    model: Model,
    rankings: Any,
    *,
    options: RewardOptions | None = None,
    heldout: Any = None,
    prompts: Any = None,
    reference: Model | None = None,
    draw: DrawOptions | Mapping = DRAW,
    max_prompt_length: int = LengthOptions.max_prompt_length,
    max_response_length: int = LengthOptions.max_response_length,
    overlong_prompts: OverlongPrompts = LengthOptions.overlong_prompts,
    seed: int = Options.seed,
    mesh: MeshOptions | Mapping = Options.mesh,
    param_dtype: ParamDtype = ModelOptions.param_dtype,
    data_dir: str = "",
    donate: bool = False,
    progress: bool = False,
    **keys: Any,
) -> Training:
    """Trains a reward model from ranked answers: going over it gives `(step, metrics)`, `finish()` the model.

    Args:
      model: a language model, which gets a new scalar head, or a reward model, which is trained on; it stays as it is.
      rankings: dicts such as {"prompt", "chosen", "rejected"} or {"prompt", "responses", "ranks"}; else as the
        examples of `sft`.
      options: `ice.options.RewardOptions`; its fields singly as well: steps (needed), batch_size, length and so on.
      heldout: rankings that are not trained on: the last row of metrics has accuracy and calibration error on them.
      prompts: whose answers by `reference` (the first `normalize_on` of them) mean and spread of the scores are
        measured on, at the end; without them `ppo` does so before its first iteration.
      reference: by default the model before training.
      draw, max_prompt_length, max_response_length, overlong_prompts: how it answers them, as in PPO.
      seed, mesh, param_dtype, data_dir, donate, progress: as for `sft`.

    >>> model = ice.load_model("models/policy")
    >>> rows = [{"prompt": "the cat", "chosen": "sat on the mat", "rejected": "end"}] * 8
    >>> training = ice.train_reward(model, rows, heldout=rows[:2], steps=2, batch_size=8, length=32)
    >>> reward_model = training.finish()
    >>> reward_model.scalar, "heldout/accuracy" in training.metrics[-1]
    (True, True)
    """
    given = records.sources(rankings, Ranking, "rankings", data_dir)
    refused = [name for name in OF_RUNS if name in keys]
    if refused:
        raise UserError(f"{refused[0]} is for runs of the command line; here the model that is given is trained.")
    section = section_of(RewardOptions(), options, keys, "reward", given)
    if section.members > 1:
        raise UserError(f"reward.ensemble={section.ensemble} is for runs of the command line; here one is trained.")
    lengths = settings.lengths(max_prompt_length, max_response_length, overlong_prompts)
    base = dataclasses.replace(GIVEN, param_dtype=param_dtype)
    check(Options(**vars(lengths), reward=section, model=base))
    session = settings.session(model, seed, mesh, lengths)
    batch_check.check_rows({"reward": section}, session.mesh)
    generation.show_mesh(session, "reward", {"reward": model.config})
    batches = ranking_batches(
        given,
        section.weights,
        model.tokenizer,
        batch_size=section.batch_size,
        length=section.length,
        seed=session.data_seed("reward"),
        overlong=section.overlong,
        starts=bool(section.lm_coef),
        trees=reward_model.reads_trees(section, model.config, session.mesh),
        share=session.share,
    )
    look_at("reward", batches, session, cut=section.overlong == "cut")
    ending = _Ending(
        session, section, param_dtype, model,
        heldout=None if heldout is None else records.sources(heldout, Ranking, "heldout", data_dir),
        prompts=None if prompts is None else records.read(prompts, Prompt, "prompts", data_dir),
        reference=_answerer(model, reference, prompts), draw=settings.given(DrawOptions(), draw, "ppo"),
    )  # fmt: skip
    params = settings.Parameters(model, donate).take()
    params, unembedding = reward_model.with_head(section, model.config, params, session.key("reward"), "the model")
    state, _ = reward_model.first_state(
        section, param_dtype, session.key("reward_updates"), model.config, params, INSTRUCT,
        session.adapter_key("reward"), unembedding,
    )  # fmt: skip
    steps = loop.over_batches(
        session, "reward", section.steps, state, reward_model.ranking_update(section), batches,
        save_every=section.steps, shown=("loss", "accuracy"), watchers=(ending,),
    )  # fmt: skip
    result = lambda state: Model(model.config, complete(state, "reward"), model.tokenizer, ending.measured)
    return Training(session, steps, state, result, progress=progress)


class _Ending:
    """Measures the reward model after its last step, as the reward stage does; a watcher of the loop.

    Attributes:
      measured: mean and spread of its scores, once they are known.
    """

    def __init__(self, session, section, frozen, model, *, heldout, prompts, reference, draw):
        self._session, self._section, self._frozen, self._model = session, section, frozen, model.config
        self._heldout = reward_model.single_rankings(heldout, model.tokenizer, section) if heldout else {}
        self._asked, self._reference = None, reference
        if prompts is not None:
            fitting = reward_model.fitting_prompts(session, prompts)[: section.normalize_on]
            if not fitting:
                raise UserError(
                    f"prompts: none of {len(prompts)} has at most {session.lengths.max_prompt_length} tokens."
                )
            self._asked = reward_model.Asked(fitting, draw, EvaluateOptions.batch_size)
        self.measured: tuple[float, float] | None = None

    def begin(self, step: int | None) -> bool:
        return False

    def after(self, step: int, outcome: loop.Outcome, write: loop.Write) -> bool:
        if step < self._section.steps:
            return False
        session, complete = self._session, outcome.state.full("reward")
        if self._heldout:
            numbers, _ = reward_model.measured(session, complete, self._model, self._heldout)
            write(numbers)
        if self._asked is not None:
            params = complete if self._section.lora.rank else stored_as(complete, self._frozen)
            key, reference = session.key("normalize"), self._reference
            answers = reward_model.answers_of(
                session, reference.config, reference.params, self._asked, key, num_samples=1
            )
            scores = reward_model.scores_of_answers(session, params, self._model, None, self._asked, answers)
            stats = score_scale.moments(scores)
            self.measured = float(stats.ref_mean), float(stats.ref_std)
        return False


def _answerer(model: Model, reference: Model | None, prompts: Any) -> Model | None:
    if prompts is None:
        return None
    if reference is None and model.scalar:
        raise UserError("prompts need a language model that answers them; give one in reference.")
    answerer = reference or model
    answerer.need_logits("reference")
    return answerer


def section_of(default, options, keys: Mapping[str, Any], stage: str, given: Mapping[str, Sequence]):
    """The section with the given sources, ready to be checked as a config's."""
    found = settings.section(default, options, keys, stage)
    if not found.steps:
        raise UserError(f"{stage}.steps=0; say how many updates: steps=100.")
    weights = settings.named_weights(given, found.weights)
    changes = {"sources": dict.fromkeys(given, "python:given"), "weights": weights}
    return dataclasses.replace(found, **changes, **({"heldout": {}} if stage == "reward" else {}))


def look_at(stage: str, batches: Batches, session: Session, *, cut: bool) -> None:
    """Refuses batches that must not be trained on, and says what of the sources was lost."""
    notes.checked_example(stage, batches, session.tokenizer, cut=cut)
    notes.warn_of_losses(stage, batches.report)
