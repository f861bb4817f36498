"""ICE-Reward: what it starts from, how right it is on held-out rankings, and the scale of its scores."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax import files
from icegrt_jax.config.choices import ParamDtype
from icegrt_jax.config.options import DrawOptions, RewardOptions, Specs
from icegrt_jax.data.encode import encode_prompt
from icegrt_jax.data.pipeline import Batches, ranking_batches
from icegrt_jax.data.records import Prompt, Ranking
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.models import attention
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import with_scalar_head
from icegrt_jax.models.members import Members
from icegrt_jax.models.quantize import stored_as
from icegrt_jax.models.vocabulary import check_tokenizer
from icegrt_jax.rl import calibration, ranking_accuracy, same_responses
from icegrt_jax.runs import generation, rundir, scoring, sections, stage_models
from icegrt_jax.runs.heldout import Measure
from icegrt_jax.runs.kept import Place
from icegrt_jax.runs.roles import whole_or_adapter
from icegrt_jax.runs.session import Session
from icegrt_jax.sampling.generate import Generation
from icegrt_jax.sharding.put import shard_tree
from icegrt_jax.training.members import each_member
from icegrt_jax.training.preemption import stop_if_asked
from icegrt_jax.training.restore import PartRecord
from icegrt_jax.training.state import TrainState, create_state
from icegrt_jax.training.updates import reward_update


def first_state(
    section: RewardOptions,
    frozen: ParamDtype,
    key: jax.Array,
    model: ModelConfig,
    params: dict,
    kept: dict,
    adapter_key: jax.Array,
    unembedding: dict,
) -> tuple[TrainState, dict[str, PartRecord]]:
    """The state before the first update, and what `done.json` says of an adapter.

    Args:
      section: of the stage. frozen: dtype of a base under an adapter.
      key: of the updates.
      model, params: the reward model to start from.
      kept: where these parameters are kept, for `done.json`.
      adapter_key: of a new adapter.
      unembedding: see `with_head`.
    """
    optimizer = sections.optimizer_config(section.optimizer, section.steps)
    lora = sections.lora_config(section.lora)
    trees, parts, records = whole_or_adapter(frozen, "reward", params, lora, adapter_key, kept)
    if unembedding:
        trees["unembedding"] = stored_as(unembedding, frozen)
    state = create_state(
        key, trees, {"reward": model}, {"reward": optimizer}, parts=parts, microbatch=section.microbatch
    )
    return state, records


def fitting_prompts(run: Session, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Those that PPO would sample from: of at most `max_prompt_length` tokens, or all where longer ones are kept."""
    if run.lengths.overlong_prompts == "keep":
        return list(prompts)
    return [p for p in prompts if len(encode_prompt(p, run.tokenizer)) <= run.lengths.max_prompt_length]


@dataclasses.dataclass(frozen=True)
class Asked:
    """Prompts that ICE-Instruct is to answer.

    draw: how, as PPO does. batch_size: prompts answered, and answers scored, at a time.
    """

    prompts: list[Prompt]
    draw: DrawOptions
    batch_size: int


def sample_instruct(run: rundir.Run, stage: str, asked: Asked, key: jax.Array, *, num_samples: int) -> Generation:
    """Answers of ICE-Instruct, kept until the stage that asks for them is finished."""
    model, params = stage_models.stage_params(run, "sft", "policy")
    return answers_of(run, model, params, asked, key, num_samples=num_samples, keep=run.keep(stage))


def answers_of(
    run: Session, model: ModelConfig, params: dict, asked: Asked, key: jax.Array, *, num_samples: int,
    keep: Place | None = None,
) -> Generation:  # fmt: skip
    """Answers of a policy."""
    sampler = sections.sampler_for(run.tokenizer, asked.draw, run.lengths.max_response_length)
    return generation.generate(
        run, model, params, [p.prompt for p in asked.prompts], key, sampler, num_samples=num_samples,
        batch_size=asked.batch_size, keep=keep,
    )  # fmt: skip


def with_head(
    section: RewardOptions, config: ModelConfig, params: dict, key: jax.Array, name: str
) -> tuple[dict, dict]:
    """A reward model of these parameters, with a new scalar head where they have none, and its "unembedding".

    That is what `reward.lm_coef` reads language off beside the head, which stays as it is; nothing without it, or where
    it is the embedding.

    Args:
      name: what the parameters are, for messages.
    """
    unembedding = {}
    if section.steps and section.lm_coef and not config.tie_embeddings:
        if "lm_head" not in params:
            raise UserError(
                f"reward.lm_coef={section.lm_coef:g}: {name} has no output matrix of a language model, so it has no "
                "likelihood of an answer; start from a language model, or set reward.lm_coef=0."
            )
        unembedding = {"lm_head": params["lm_head"]}
    return params if "head" in params else with_scalar_head(key, params, config), unembedding


def reads_trees(section: RewardOptions, model: ModelConfig, mesh: jax.sharding.Mesh) -> bool:
    """Whether the stage reads trees: no fused attention does."""
    if not section.share_prefixes or section.lm_coef:
        return False
    with jax.set_mesh(mesh):
        return attention.choose(model, section.length) == "plain"


def ranking_update(section: RewardOptions) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The update of the stage."""
    update = functools.partial(reward_update, lm_coef=section.lm_coef) if section.lm_coef else reward_update
    return each_member(update) if section.members > 1 else update


def initial_reward_model(
    run: rundir.Run, tokenizer: ChatTokenizer, section: RewardOptions, key: jax.Array | None = None
) -> tuple[ModelConfig, dict, dict]:
    """What `reward.init` names, and its "unembedding" as of `with_head`; size and family need not be the policy's.

    Args:
      key: of what is new in it; by default that of a reward model which is alone.
    """
    key = run.key("reward") if key is None else key
    if section.init == "scratch":
        config = stage_models.scratch_config(section.model, run.tokenizer.vocab_size, section.length)
        return config, stage_models.placed_init(run, config, key, scalar_head=True), {}
    if section.init == "sft":
        config, params = stage_models.stage_params(run, "sft", "policy")
    else:
        config, params = stage_models.load_folder(run, section.init, section.model)
        check_tokenizer(tokenizer, config.vocab_size, f"reward.init={section.init!r}")
    params, unembedding = with_head(section, config, params, key, f"reward.init={section.init!r}")
    return config, shard_tree(params, run.mesh), shard_tree(unembedding, run.mesh)


def heldout_batches(run: rundir.Run, tokenizer: ChatTokenizer, section: RewardOptions) -> dict[str, Batches]:
    """Of each held-out source its rankings one by one, an epoch of them being all that are kept."""
    return single_rankings(run.load(section.heldout, Ranking), tokenizer, section)


def single_rankings(
    sources: Mapping[str, Sequence[Ranking]], tokenizer: ChatTokenizer, section: RewardOptions
) -> dict[str, Batches]:
    """The same of rankings that have been read."""
    return {
        name: ranking_batches(
            {name: rankings[: section.heldout_limit or None]}, {name: 1.0}, tokenizer, batch_size=1,
            length=section.length, seed=0, overlong=section.overlong,
        )
        for name, rankings in sources.items()
    }  # fmt: skip


def measure(
    run: rundir.Run, params: dict | Members, model: ModelConfig, batches: dict[str, Batches]
) -> dict[str, float]:
    """Accuracy and expected calibration error on held-out rankings; the bins go to calibration.json."""
    heldout, report = measured(run, params, model, batches)
    if sync.is_main():
        first = next(iter(report.values()))
        files.write_json_atomic(run.folder("reward") / "calibration.json", first | {"all": report})
    print("reward  held out: " + ", ".join(f"{k} {v:.3f}" for k, v in heldout.items()), flush=True)
    return heldout


def measure_accuracy(run: rundir.Run, model: ModelConfig, batches: dict[str, Batches]) -> Measure:
    """What a stage that trains measures: the means over the held-out sources, and each where there are several."""

    def measure(state: TrainState) -> dict[str, float]:
        each, _ = measured(run, state.full("reward"), model, batches)
        names = ("accuracy", "calibration_error")
        means = {name: sum(each[f"{source}/{name}"] for source in batches) / len(batches) for name in names}
        return means | (each if len(batches) > 1 else {})

    return measure


def measured(
    run: Session, params: dict | Members, model: ModelConfig, batches: dict[str, Batches]
) -> tuple[dict[str, float], dict[str, dict]]:
    """The numbers of `measure`, and of each source the bins of its calibration.

    Of several reward models they are those of their mean score, and `accuracy_of_each` is the mean of their own.
    """
    heldout, report = {}, {}
    for name, source in batches.items():
        stop_if_asked()
        rows = [source[i] for i in range(source.report[name]["kept"])]
        batch = {x: np.concatenate([row[x] for row in rows]) for x in rows[0]}
        with jax.set_mesh(run.mesh):
            parts = [
                scoring.compiled_scores(params, config=model, tokens=tokens, mask=mask)
                for tokens, mask in zip(batch["tokens"], batch["mask"], strict=True)
            ]
        scores = scoring.finite_scores(np.stack(sync.fetch(parts)))
        of_each, scores = (scores, scores.mean(axis=-1)) if scores.ndim == 3 else (None, scores)
        arrays = [jnp.asarray(x) for x in (scores, batch["ranks"], batch["valid"])]
        same = jax.jit(same_responses)(batch["tokens"], batch["mask"])
        bins = calibration(*arrays, same=same)
        heldout[f"{name}/accuracy"] = float(ranking_accuracy(*arrays, same=same))
        heldout[f"{name}/calibration_error"] = float(bins.ece)
        if of_each is not None:  # f32[N, K, M]
            right = [ranking_accuracy(jnp.asarray(x), *arrays[1:], same=same) for x in np.moveaxis(of_each, -1, 0)]
            heldout[f"{name}/accuracy_of_each"] = float(np.mean(right))
        report[name] = {x: np.asarray(getattr(bins, x)).tolist() for x in ("confidence", "accuracy", "count")}
    return heldout, report


def normalization_prompts(run: rundir.Run, sources: Specs, count: int) -> list[Prompt]:
    """The first `count` prompts of PPO's sources, whose answers the scores are normalised on."""
    loaded = run.load(sources, Prompt)
    fitting = (fit for records in loaded.values() for prompt in records for fit in fitting_prompts(run, [prompt]))
    return list(itertools.islice(fitting, count))


def fit_normalization(
    run: rundir.Run, params: dict | Members, model: ModelConfig, reader: scoring.Reader | None, asked: Asked
) -> np.ndarray:
    """The scores f32[N] of ICE-Instruct's answers to prompts of PPO; of several reward models f32[N, M]."""
    return scores_of_answers(
        run, params, model, reader, asked, sample_instruct(run, "reward", asked, run.key("normalize"), num_samples=1)
    )


def scores_of_answers(
    run: Session,
    params: dict | Members,
    model: ModelConfig,
    reader: scoring.Reader | None,
    asked: Asked,
    answers: Generation,
) -> np.ndarray:
    """As `fit_normalization`, of answers that there are."""
    with jax.set_mesh(run.mesh):
        return scoring.score_generation(reader, params, model, asked.prompts, answers, asked.batch_size)
