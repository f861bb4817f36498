"""`icegrt reward`: ICE-Reward, a scalar model of which answers people rank higher.

1. Where the embedded domain is used: sample answers of ICE-Instruct and have them ranked by the
   simulated annotators.
2. Train on all rankings.
3. Measure accuracy and calibration on held-out rankings.
4. Fit mean and spread of the scores on ICE-Instruct's own answers; they are stored with the model.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from icegrt_jax import files
from icegrt_jax.config import check_given_reward, short_reward
from icegrt_jax.data.adreview import annotators
from icegrt_jax.data.fitting import encode_prompt
from icegrt_jax.data.pipeline import Batches, ranking_batches
from icegrt_jax.data.records import Prompt, Ranking, read_jsonl, write_jsonl
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import with_scalar_head
from icegrt_jax.models.quantize import stored_as
from icegrt_jax.models.vocabulary import check_tokenizer
from icegrt_jax.parallel import hosts
from icegrt_jax.parallel.sharding import shard_tree
from icegrt_jax.rl import ScoreStats, calibration, ranking_accuracy, same_responses
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.sampling.generate import Generation
from icegrt_jax.stages import common, inputs, layouts, loop, scoring, tokenizers
from icegrt_jax.stages.roles import INSTRUCT, whole_or_adapter
from icegrt_jax.training.checkpoints import Checkpoints
from icegrt_jax.training.preemption import stop_if_asked
from icegrt_jax.training.state import TrainState, create_state
from icegrt_jax.training.stored import PartRecord
from icegrt_jax.training.updates import reward_update


def main(config: ConfigDict, workdir: pathlib.Path) -> None:
    """`train`, its inputs checked first."""
    common.warn("reward", inputs.check(config, workdir, "reward"))
    train(config, workdir)


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains ICE-Reward; with `reward.steps` 0 takes a finished one as it is."""
    check_given_reward(config)
    if not config.reward.steps and config.reward.init in ("sft", "scratch"):
        return
    common.check_batches(config, workdir, "reward")
    common.require(workdir, "reward", "sft")
    run = common.start(config, workdir)
    if common.finished(run, "reward"):
        return
    section = config.reward
    tokenizer = tokenizers.reward_tokenizer(config, workdir) or run.tokenizer
    reader = scoring.make_reader(run, tokenizer)
    if section.steps and reader is None and section.init not in ("sft", "scratch"):
        for doubt in short_reward(config):
            print(f"reward  warning: {doubt}", flush=True)
    if not section.steps:
        return take_as_it_is(run, tokenizer, reader)
    if config.domain and section.on_policy_k:
        rank_own_answers(run)
    sources = run.load(section.sources, Ranking)
    batches = ranking_batches(
        sources,
        section.weights,
        tokenizer,
        batch_size=section.batch_size,
        length=section.length,
        seed=run.data_seed("reward"),
        overlong=section.overlong,
        share=run.share,
    )
    heldout = heldout_batches(run, tokenizer)
    model, params = initial_reward_model(run, tokenizer)
    layouts.show_mesh(run, "reward", {"reward": model})
    common.audit(run, "reward", batches, tokenizer, cut=section.overlong == "cut")
    report = dict(batches.report)
    report |= {f"heldout {name}": held.report[name] for name, held in heldout.items()}
    if reader is not None:
        report["reward tokenizer"] = reader.count([prompt.prompt for prompt in normalization_prompts(run)])
    common.write_report(run, "reward", report)
    kept = run.folder("reward") / "tokenizer"
    hosts.main_first(kept, lambda: tokenizers.keep_reward_tokenizer(tokenizer, run.workdir))
    source = INSTRUCT if section.init == "sft" else common.kept_path(section.init)
    keys = run.key("reward_updates"), run.adapter_key("reward")
    state, records = first_state(config, keys[0], model, params, source, keys[1])
    del params  # under an adapter only the stored base is held
    state = loop.train(run, "reward", state, reward_update, batches, shown=("loss", "accuracy"))

    complete = state.full("reward")
    measured = measure(run, complete, model, heldout) if heldout else {}
    # As PPO will hold it.
    scoring_params = complete if section.lora.rank else stored_as(complete, config.model.param_dtype)
    stats = fit_normalization(run, scoring_params, model, reader)
    common.finish(
        run, "reward", step=section.steps, models={"reward": model}, parts=records, heldout=measured,
        ref_mean=float(stats.ref_mean), ref_std=float(stats.ref_std), same_tokenizer=reader is None,
    )  # fmt: skip


def take_as_it_is(run: common.Run, tokenizer: ChatTokenizer, reader: scoring.Reader | None) -> None:
    """Keeps the finished reward model that `reward.init` names: measured and normalised, nothing of it changed."""
    heldout = heldout_batches(run, tokenizer)
    model, params = initial_reward_model(run, tokenizer)
    layouts.show_mesh(run, "reward", {"reward": model})
    report = {f"heldout {name}": held.report[name] for name, held in heldout.items()}
    if reader is not None:
        report["reward tokenizer"] = reader.count([prompt.prompt for prompt in normalization_prompts(run)])
    common.write_report(run, "reward", report)
    kept = run.folder("reward") / "tokenizer"
    hosts.main_first(kept, lambda: tokenizers.keep_reward_tokenizer(tokenizer, run.workdir))
    measured = measure(run, params, model, heldout) if heldout else {}
    stats = fit_normalization(run, stored_as(params, run.config.model.param_dtype), model, reader)
    with Checkpoints(run.folder("reward") / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(0, {"params": {"reward": params}})
    common.finish(
        run, "reward", step=0, models={"reward": model}, heldout=measured,
        ref_mean=float(stats.ref_mean), ref_std=float(stats.ref_std), same_tokenizer=reader is None,
    )  # fmt: skip


def first_state(
    config: ConfigDict, key: jax.Array, model: ModelConfig, params: dict, kept: dict, adapter_key: jax.Array
) -> tuple[TrainState, dict[str, PartRecord]]:
    """The state before the first update, and what `done.json` says of an adapter; arguments as `supervised`'s."""
    section = config.reward
    optimizer = common.optimizer_config(section.optimizer, section.steps)
    lora = common.lora_config(section.lora)
    trees, parts, records = whole_or_adapter(config, "reward", params, lora, adapter_key, kept)
    state = create_state(
        key, trees, {"reward": model}, {"reward": optimizer}, parts=parts, microbatch=section.microbatch
    )
    return state, records


def rank_own_answers(run: common.Run) -> None:
    """Writes data/own_rankings.jsonl: ICE-Instruct's answers, ranked by the simulated annotators."""
    path = run.workdir / "data" / "own_rankings.jsonl"
    if hosts.from_main("own rankings are looked for", path.is_file):
        return
    prompts = fitting_prompts(run, read_jsonl(run.workdir / "data" / "ranking_prompts.jsonl", Prompt))
    k = run.config.reward.on_policy_k
    answers = sample_instruct(run, prompts, run.key("rankings"), num_samples=k).text
    rankings = []
    for i, prompt in enumerate(prompts):
        # Annotators see each different answer once; an empty one is no answer.
        own = tuple(dict.fromkeys(text for text in answers[i * k : (i + 1) * k] if text.strip()))
        if len(own) > 1:
            ranks = annotators.rank(f"{run.config.seed}/own/{i}", prompt.meta, own)
            rankings.append(Ranking(prompt.prompt, own, ranks, prompt.meta))
    hosts.main_first(path, lambda: write_jsonl(path, rankings))


def fitting_prompts(run: common.Run, prompts: list[Prompt]) -> list[Prompt]:
    """Those that PPO would sample from: of at most `max_prompt_length` tokens, or all where longer ones are kept."""
    if run.config.overlong_prompts == "keep":
        return prompts
    return [p for p in prompts if len(encode_prompt(p, run.tokenizer)) <= run.config.max_prompt_length]


def sample_instruct(run: common.Run, prompts: list[Prompt], key: jax.Array, *, num_samples: int) -> Generation:
    """Answers of ICE-Instruct at PPO's sampling settings."""
    model, params = common.stage_params(run, "sft", "policy")
    ppo = run.config.ppo
    sampler = SamplerConfig(
        max_new_tokens=run.config.max_response_length,
        temperature=ppo.temperature,
        top_k=ppo.top_k,
        top_p=ppo.top_p,
        min_p=ppo.min_p,
        eos_ids=run.tokenizer.eos_ids,
        pad_id=run.tokenizer.pad_id,
    )
    return layouts.generate(run, model, params, [p.prompt for p in prompts], key, sampler, num_samples=num_samples)


def initial_reward_model(run: common.Run, tokenizer: ChatTokenizer) -> tuple[ModelConfig, dict]:
    """What `reward.init` names, with a new scalar head where it has none; size and family need not be the policy's."""
    section, key = run.config.reward, run.key("reward")
    if section.init == "scratch":
        config = common.scratch_config(section.model, run.tokenizer.vocab_size, section.length)
        return config, common.placed_init(run, config, key, scalar_head=True)
    if section.init == "sft":
        config, params = common.stage_params(run, "sft", "policy")
    else:
        config, params = common.load_folder(run, section.init, section.model)
        check_tokenizer(tokenizer, config.vocab_size, f"reward.init={section.init!r}")
    params = params if "head" in params else with_scalar_head(key, params, config)
    return config, shard_tree(params, run.mesh)


def heldout_batches(run: common.Run, tokenizer: ChatTokenizer) -> dict[str, Batches]:
    """Of each held-out source its rankings one by one, an epoch of them being all that are kept."""
    section = run.config.reward
    return {
        name: ranking_batches(
            {name: rankings[: section.heldout_limit or None]}, {name: 1.0}, tokenizer, batch_size=1,
            length=section.length, seed=0, overlong=section.overlong,
        )
        for name, rankings in run.load(section.heldout, Ranking).items()
    }  # fmt: skip


def measure(run: common.Run, params: dict, model: ModelConfig, batches: dict[str, Batches]) -> dict[str, float]:
    """Accuracy and expected calibration error on held-out rankings; the bins go to calibration.json."""
    heldout, report = {}, {}
    for name, source in batches.items():
        stop_if_asked()
        rows = [source[i] for i in range(source.report[name]["kept"])]
        batch = {x: np.concatenate([row[x] for row in rows]) for x in rows[0]}
        with jax.set_mesh(run.mesh):
            scores = [
                scoring.compiled_scores(params, config=model, tokens=tokens, mask=mask)
                for tokens, mask in zip(batch["tokens"], batch["mask"], strict=True)
            ]
        scores = scoring.finite_scores(np.stack(hosts.fetch(scores)))
        arrays = [jnp.asarray(x) for x in (scores, batch["ranks"], batch["valid"])]
        same = jax.jit(same_responses)(batch["tokens"], batch["mask"])
        bins = calibration(*arrays, same=same)
        heldout[f"{name}/accuracy"] = float(ranking_accuracy(*arrays, same=same))
        heldout[f"{name}/calibration_error"] = float(bins.ece)
        report[name] = {x: np.asarray(getattr(bins, x)).tolist() for x in ("confidence", "accuracy", "count")}
    if hosts.is_main():
        first = next(iter(report.values()))
        files.write_json_atomic(run.folder("reward") / "calibration.json", first | {"all": report})
    print("reward  held out: " + ", ".join(f"{k} {v:.3f}" for k, v in heldout.items()), flush=True)
    return heldout


def normalization_prompts(run: common.Run) -> list[Prompt]:
    """The prompts of PPO whose answers the scores are normalised on."""
    loaded = run.load(run.config.ppo.sources, Prompt)
    prompts = [prompt for records in loaded.values() for prompt in fitting_prompts(run, records)]
    return prompts[: run.config.reward.normalize_on]


def fit_normalization(run: common.Run, params: dict, model: ModelConfig, reader: scoring.Reader | None) -> ScoreStats:
    """Mean and standard deviation of the scores of ICE-Instruct's answers to PPO's prompts."""
    prompts = normalization_prompts(run)
    answers = sample_instruct(run, prompts, run.key("normalize"), num_samples=1)
    with jax.set_mesh(run.mesh):
        scores = scoring.score_generation(reader, params, model, prompts, answers, run.config.evaluate.batch_size)
    return ScoreStats.create(float(scores.mean()), float(scores.std()))
