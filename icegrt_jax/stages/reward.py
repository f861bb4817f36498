"""`icegrt reward`: ICE-Reward, a scalar model of which answers people rank higher.

1. Where the embedded domain is used: sample answers of ICE-Instruct and have them ranked by the
   simulated annotators.
2. Train on all rankings.
3. Measure accuracy and calibration on held-out rankings.
4. Fit mean and spread of the scores on ICE-Instruct's own answers; they are stored with the model.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from icegrt_jax import files
from icegrt_jax.data.adreview import annotators
from icegrt_jax.data.fitting import encode_prompt
from icegrt_jax.data.pipeline import ranking_batches
from icegrt_jax.data.records import Prompt, Ranking, read_jsonl, write_jsonl
from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import with_scalar_head
from icegrt_jax.models.hf import load_hf
from icegrt_jax.parallel.sharding import shard_tree
from icegrt_jax.rl import ScoreStats, calibration, ranking_accuracy
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.sampling.generate import Generation, generate_batches
from icegrt_jax.stages import common, loop
from icegrt_jax.training.forward import answer_scores
from icegrt_jax.training.state import create_state
from icegrt_jax.training.updates import reward_update

compiled_scores = functools.partial(jax.jit, static_argnames="config")(answer_scores)


def main(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains ICE-Reward."""
    if not config.reward.steps:
        return
    common.check_batches(config, workdir, "reward")
    run = common.start(config, workdir)
    if common.finished(run, "reward"):
        return
    section = config.reward
    if config.domain and section.on_policy_k:
        rank_own_answers(run)
    sources = run.load(section.sources, Ranking)
    batches = ranking_batches(
        sources,
        section.weights,
        run.tokenizer,
        batch_size=section.batch_size,
        length=section.length,
        seed=config.seed,
        overlong=section.overlong,
    )
    model, params = initial_reward_model(run)
    common.audit(run, "reward", batches, run.tokenizer, cut=section.overlong == "cut")
    common.write_report(run, "reward", batches.report)
    optimizer = common.optimizer_config(section.optimizer, section.steps)
    state = create_state(run.key("reward"), {"reward": params}, {"reward": model}, {"reward": optimizer})
    state = loop.train(run, "reward", state, reward_update, batches, shown=("loss", "accuracy"))

    heldout = measure(run, state.params["reward"], model) if section.heldout else {}
    stats = fit_normalization(run, state.params["reward"], model)
    state = state.replace(score_stats=stats)
    loop.save_last(run, "reward", section.steps, state)
    common.finish(
        run, "reward", step=section.steps, models={"reward": model}, heldout=heldout,
        ref_mean=float(stats.ref_mean), ref_std=float(stats.ref_std),
    )  # fmt: skip


def rank_own_answers(run: common.Run) -> None:
    """Writes data/own_rankings.jsonl: ICE-Instruct's answers, ranked by the simulated annotators."""
    path = run.workdir / "data" / "own_rankings.jsonl"
    if path.is_file():
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
    write_jsonl(path, rankings)


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
    return generate_batches(
        key, params, model, run.tokenizer, [p.prompt for p in prompts], sampler,
        num_samples=num_samples, batch_size=run.config.evaluate.batch_size,
    )  # fmt: skip


def initial_reward_model(run: common.Run) -> tuple[ModelConfig, dict]:
    """The trunk named by `reward.init` with a new scalar head; its size need not be the policy's."""
    section, key = run.config.reward, run.key("reward")
    if section.init == "scratch":
        config = common.scratch_config(section.model, run.tokenizer.vocab_size, section.length)
        return config, common.placed_init(run, config, key, scalar_head=True)
    if section.init == "sft":
        config, params = common.stage_params(run, "sft", "policy")
    else:
        config, params = load_hf(section.init)
        if config.vocab_size < run.tokenizer.vocab_size:
            raise UserError(
                f"reward.init={section.init}: its embedding has {config.vocab_size} rows, the policy's tokenizer "
                f"{run.tokenizer.vocab_size} ids; use a reward model with the policy's tokenizer."
            )
    params = params if "head" in params else with_scalar_head(key, params, config)
    return config, shard_tree(params, run.mesh)


def measure(run: common.Run, params: dict, model: ModelConfig) -> dict[str, float]:
    """Accuracy and expected calibration error on held-out rankings; the bins go to calibration.json."""
    section = run.config.reward
    records = run.load(section.heldout, Ranking)
    heldout, report = {}, {}
    for name, rankings in records.items():
        rankings = rankings[: section.heldout_limit or None]
        batches = ranking_batches(
            {name: rankings}, {name: 1.0}, run.tokenizer, batch_size=1, length=section.length, seed=0,
            overlong=section.overlong,
        )  # fmt: skip
        rows = [batches[i] for i in range(batches.report[name]["kept"])]
        batch = {x: np.concatenate([row[x] for row in rows]) for x in rows[0]}
        scores = [
            compiled_scores(params, config=model, tokens=tokens, mask=mask)
            for tokens, mask in zip(batch["tokens"], batch["mask"], strict=True)
        ]
        arrays = [jnp.asarray(x) for x in (np.stack(scores), batch["ranks"], batch["valid"])]
        bins = calibration(*arrays)
        heldout[f"{name}/accuracy"] = float(ranking_accuracy(*arrays))
        heldout[f"{name}/calibration_error"] = float(bins.ece)
        report[name] = {x: np.asarray(getattr(bins, x)).tolist() for x in ("confidence", "accuracy", "count")}
    files.write_json_atomic(run.folder("reward") / "calibration.json", next(iter(report.values())) | {"all": report})
    print("reward  held out: " + ", ".join(f"{k} {v:.3f}" for k, v in heldout.items()), flush=True)
    return heldout


def fit_normalization(run: common.Run, params: dict, model: ModelConfig) -> ScoreStats:
    """Mean and standard deviation of the scores of ICE-Instruct's answers to PPO's prompts."""
    loaded = run.load(run.config.ppo.sources, Prompt)
    prompts = [prompt for records in loaded.values() for prompt in fitting_prompts(run, records)]
    prompts = prompts[: run.config.reward.normalize_on]
    answers = sample_instruct(run, prompts, run.key("normalize"), num_samples=1)
    tokens = np.concatenate([answers.prompts, answers.tokens], axis=1)
    mask = np.concatenate([answers.prompt_mask, answers.mask], axis=1)
    size = run.config.evaluate.batch_size
    scores = np.concatenate(
        [
            np.asarray(compiled_scores(params, config=model, tokens=tokens[i : i + size], mask=mask[i : i + size]))
            for i in range(0, len(tokens), size)
        ]
    )
    return ScoreStats.create(float(scores.mean()), float(scores.std()))
