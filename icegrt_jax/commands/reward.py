"""`icegrt reward`: ICE-Reward, a scalar model of which answers people rank higher.

1. Where the domain ranks answers: sample some of ICE-Instruct and have them ranked.
2. Train on all rankings.
3. Measure accuracy and calibration on held-out rankings.
4. Fit mean and spread of the scores on ICE-Instruct's own answers; they are stored with the model.
"""

import dataclasses
import pathlib

from icegrt_jax.config.checks import check_given_reward, short_reward
from icegrt_jax.config.choices import ParamDtype
from icegrt_jax.config.options import Options, RewardOptions
from icegrt_jax.data.pipeline import ranking_batches
from icegrt_jax.data.records import Prompt, Ranking, read_jsonl, write_jsonl
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.domains import CheckedDomain
from icegrt_jax.domains import load as load_domain
from icegrt_jax.hosts import sync
from icegrt_jax.models.quantize import stored_as
from icegrt_jax.runs import batch_check, generation, inputs, loop, notes, rundir, scoring, stage_models, tokenizers
from icegrt_jax.runs.reward_model import (
    Asked,
    first_state,
    fit_normalization,
    fitting_prompts,
    heldout_batches,
    initial_reward_model,
    measure,
    normalization_prompts,
    sample_instruct,
)
from icegrt_jax.runs.roles import INSTRUCT
from icegrt_jax.training.checkpoints import Checkpoints
from icegrt_jax.training.updates import reward_update


def main(config: Options, workdir: pathlib.Path) -> None:
    """Trains ICE-Reward, after a check of all that will be read."""
    notes.warn("reward", inputs.check(config, workdir, "reward"))
    train(config, workdir)


def train(config: Options, workdir: pathlib.Path) -> None:
    """Trains ICE-Reward; with `reward.steps` 0 takes a finished one as it is."""
    section = config.reward
    check_given_reward(section, config.ppo.iterations, config.reward_model)
    if not section.steps and section.init in ("sft", "scratch"):
        return
    batch_check.check_batches(config.mesh, {"reward": config.reward}, workdir)
    rundir.require(workdir, "reward", "sft")
    run = rundir.start(config, workdir)
    if rundir.finished(run, "reward"):
        return
    tokenizer = tokenizers.reward_tokenizer(section, workdir) or run.tokenizer
    reader = scoring.make_reader(run, tokenizer, section)
    scores = config.ppo.iterations and config.reward_model
    if section.steps and reader is None and section.init not in ("sft", "scratch") and scores:
        for doubt in short_reward(section, config.total):
            print(f"reward  warning: {doubt}", flush=True)
    prompts = normalization_prompts(run, config.ppo.sources, section.normalize_on)
    asked, frozen = Asked(prompts, config.ppo, config.evaluate.batch_size), config.model.param_dtype
    if not section.steps:
        return take_as_it_is(run, section, tokenizer, reader, asked, frozen)
    if config.domain and section.on_policy_k and (domain := load_domain(config.domain)).ranks:
        rank_own_answers(run, domain, asked, section.on_policy_k)
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
    heldout = heldout_batches(run, tokenizer, section)
    model, params = initial_reward_model(run, tokenizer, section)
    generation.show_mesh(run, "reward", {"reward": model})
    notes.audit(run, "reward", batches, tokenizer, cut=section.overlong == "cut")
    report = dict(batches.report)
    report |= {f"heldout {name}": held.report[name] for name, held in heldout.items()}
    if reader is not None:
        report["reward tokenizer"] = reader.count([prompt.prompt for prompt in asked.prompts])
    notes.write_report(run, "reward", report)
    kept = run.folder("reward") / "tokenizer"
    sync.main_first(kept, lambda: tokenizers.keep_reward_tokenizer(tokenizer, run.workdir))
    source = INSTRUCT if section.init == "sft" else stage_models.kept_path(section.init)
    keys = run.key("reward_updates"), run.adapter_key("reward")
    state, records = first_state(section, frozen, keys[0], model, params, source, keys[1])
    del params  # under an adapter only the stored base is held
    state, step = loop.train_on_batches(
        run, "reward", section.steps, config.log, state, reward_update, batches, shown=("loss", "accuracy")
    )

    complete = state.full("reward")
    measured = measure(run, complete, model, heldout) if heldout else {}
    # As PPO will hold it.
    scoring_params = complete if section.lora.rank else stored_as(complete, frozen)
    stats = fit_normalization(run, scoring_params, model, reader, asked)
    rundir.finish(
        run, "reward", step=step, models={"reward": model}, parts=records, heldout=measured,
        ref_mean=float(stats.ref_mean), ref_std=float(stats.ref_std), same_tokenizer=reader is None,
    )  # fmt: skip


def take_as_it_is(
    run: rundir.Run,
    section: RewardOptions,
    tokenizer: ChatTokenizer,
    reader: scoring.Reader | None,
    asked: Asked,
    frozen: ParamDtype,
) -> None:
    """Keeps the finished reward model that `reward.init` names: measured and normalised, nothing of it changed."""
    heldout = heldout_batches(run, tokenizer, section)
    model, params = initial_reward_model(run, tokenizer, section)
    generation.show_mesh(run, "reward", {"reward": model})
    report = {f"heldout {name}": held.report[name] for name, held in heldout.items()}
    if reader is not None:
        report["reward tokenizer"] = reader.count([prompt.prompt for prompt in asked.prompts])
    notes.write_report(run, "reward", report)
    kept = run.folder("reward") / "tokenizer"
    sync.main_first(kept, lambda: tokenizers.keep_reward_tokenizer(tokenizer, run.workdir))
    measured = measure(run, params, model, heldout) if heldout else {}
    stats = fit_normalization(run, stored_as(params, frozen), model, reader, asked)
    with Checkpoints(run.folder("reward") / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(0, {"params": {"reward": params}})
    rundir.finish(
        run, "reward", step=0, models={"reward": model}, heldout=measured,
        ref_mean=float(stats.ref_mean), ref_std=float(stats.ref_std), same_tokenizer=reader is None,
    )  # fmt: skip


def rank_own_answers(run: rundir.Run, domain: CheckedDomain, like: Asked, k: int) -> None:
    """Writes data/own_rankings.jsonl: k answers of ICE-Instruct to each prompt, ranked by the domain.

    They are drawn as those to `like`.
    """
    path = run.workdir / "data" / "own_rankings.jsonl"
    if sync.from_main("own rankings are looked for", path.is_file):
        return
    prompts = fitting_prompts(run, read_jsonl(run.workdir / "data" / "ranking_prompts.jsonl", Prompt))
    asked = dataclasses.replace(like, prompts=prompts)
    answers = sample_instruct(run, asked, run.key("rankings"), num_samples=k).text
    rankings = []
    for i, prompt in enumerate(prompts):
        # Each different answer is ranked once; an empty one is no answer.
        own = tuple(dict.fromkeys(text for text in answers[i * k : (i + 1) * k] if text.strip()))
        if len(own) > 1:
            ranks = domain.rank(prompt, own, f"{run.seed}/own/{i}")
            rankings.append(Ranking(prompt.prompt, own, ranks, prompt.meta))
    sync.main_first(path, lambda: write_jsonl(path, rankings))
