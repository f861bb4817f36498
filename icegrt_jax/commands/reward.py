"""`icegrt reward`: ICE-Reward, a scalar model of which answers people rank higher.

1. Where the domain ranks answers: sample some of ICE-Instruct and have them ranked.
2. Train on all rankings.
3. Measure accuracy and calibration on held-out rankings.
4. Fit mean and spread of the scores on ICE-Instruct's own answers; they are stored with the model.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from icegrt_jax import files
from icegrt_jax.commands.report import while_training
from icegrt_jax.config.checks import check_given_reward, short_reward
from icegrt_jax.config.choices import ParamDtype
from icegrt_jax.config.options import LengthOptions, Options, RecordOptions, RewardOptions, Specs
from icegrt_jax.config.rounds import is_made, with_rankings
from icegrt_jax.data.encode import fit_prompts, fit_rankings
from icegrt_jax.data.pipeline import Batches, ranking_batches
from icegrt_jax.data.records import Prompt, Ranking, read_jsonl, write_jsonl
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.domains import CheckedDomain
from icegrt_jax.domains import load as load_domain
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.models.members import Members
from icegrt_jax.report import panels
from icegrt_jax.runs import (
    annotation,
    begin,
    ensembles,
    generation,
    inputs,
    loop,
    notes,
    rates,
    rounds,
    rundir,
    score_scale,
    scoring,
    stage_models,
    tokenizers,
    trackers,
)
from icegrt_jax.runs.heldout import watch as watch_heldout
from icegrt_jax.runs.reading import Fit, Reading
from icegrt_jax.runs.reward_model import (
    Asked,
    fit_normalization,
    fitting_prompts,
    heldout_batches,
    measure,
    measure_accuracy,
    normalization_prompts,
    ranking_update,
    reads_trees,
    sample_instruct,
)
from icegrt_jax.runs.roles import INSTRUCT
from icegrt_jax.runs.stage import Stage
from icegrt_jax.training.checkpoints import Checkpoints


def train(run: rundir.Run, config: Options) -> None:
    """Trains ICE-Reward; with `reward.steps` 0 takes a finished one as it is."""
    rounds.require(run.workdir, config.rounds)
    section = with_rankings(config.reward, config.rounds, config.annotation.weight)
    tokenizer = tokenizers.reward_tokenizer(section, run.workdir) or run.tokenizer
    reader = scoring.make_reader(run, tokenizer, section)
    if reader is None and config.ppo.iterations and config.reward_model:
        warn_of_cut_answers(section, config.total)
    prompts = normalization_prompts(run, config.ppo.sources, section.normalize_on)
    asked, frozen = Asked(prompts, config.ppo, config.evaluate.batch_size), config.model.param_dtype
    if not section.steps:
        return take_as_it_is(run, section, tokenizer, reader, asked, frozen)
    if config.domain and section.on_policy_k and (domain := load_domain(config.domain)).ranks:
        rank_own_answers(run, domain, asked, section.on_policy_k)
    sources = run.load(section.sources, Ranking)
    heldout = heldout_batches(run, tokenizer, section)
    source = INSTRUCT if section.init == "sft" else stage_models.kept_path(section.init)
    model, state, records = ensembles.first_states(run, tokenizer, section, frozen, source)
    batches = ranking_batches(
        sources,
        section.weights,
        tokenizer,
        batch_size=section.batch_size,
        length=section.length,
        seed=run.data_seed("reward"),
        overlong=section.overlong,
        starts=bool(section.lm_coef),
        trees=reads_trees(section, model, run.mesh),
        more_seeds=ensembles.data_seeds(run, section),
        share=run.share,
    )
    generation.show_mesh(run, "reward", {"reward": model})
    notes.audit(run, "reward", batches, tokenizer, cut=section.overlong == "cut")
    write_inputs(run, tokenizer, reader, asked, {**batches.report, **_counts(heldout)})
    keeper, watchers = watch_heldout(
        run, "reward", section, section.steps, lambda: measure_accuracy(run, model, heldout)
    )
    log = config.log
    state, step = loop.train_on_batches(
        run, "reward", section.steps, log, state, ranking_update(section), batches, shown=("loss", "accuracy"),
        watchers=(*watchers, rates.of_updates(state, section.steps, log.every), *while_training(run.workdir, log)),
        writers=trackers.writers(log),
    )  # fmt: skip
    info = keeper.info() if keeper else {}
    if keeper and info.get("use") == "best":
        state = keeper.best(state)
    complete = state.full("reward")
    if section.members > 1:
        info["ensemble"] = section.members
        if section.ensemble_as == "weights":
            complete, average = ensembles.leave_average(run, state, step)
            info |= average
    measured = measure(run, complete, model, heldout) if heldout else {}
    # As PPO will hold it.
    scoring_params = complete if section.lora.rank else score_scale.stored(complete, frozen)
    stats = ensembles.normalization(run, fit_normalization(run, scoring_params, model, reader, asked))
    rundir.finish(
        run, "reward", step=step, models={"reward": model}, parts=records, heldout=measured,
        ref_mean=float(stats.ref_mean), ref_std=float(stats.ref_std), same_tokenizer=reader is None, **info,
    )  # fmt: skip


def warn_of_cut_answers(section: RewardOptions, total: int) -> None:
    """Says, of a finished model with the policy's tokenizer that is trained further, that PPO's longest do not fit."""
    if section.steps and section.init not in ("sft", "scratch"):
        for doubt in short_reward(section, total):
            print(f"reward  warning: {doubt}", flush=True)


def measure_again(run: rundir.Run, section: RewardOptions) -> None:
    """Measures a finished stage on held-out rankings that have changed: its done.json tells nothing of them then."""
    path = run.folder("reward") / "done.json"
    told = lambda: "heldout" in files.read_json(path)
    if sync.from_main("the reward stage's measurement is looked for", told):
        return
    tokenizer = tokenizers.reward_tokenizer(section, run.workdir) or run.tokenizer
    heldout = heldout_batches(run, tokenizer, section)
    model, params = stage_models.stage_params(run, "reward", "reward")
    measured = measure(run, params, model, heldout) if heldout else {}
    sync.main_first(path, lambda: files.write_json_atomic(path, {**files.read_json(path), "heldout": measured}))


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
    model, params = ensembles.given(run, tokenizer, section)
    generation.show_mesh(run, "reward", {"reward": model})
    write_inputs(run, tokenizer, reader, asked, _counts(heldout))
    info: dict[str, Any] = {"ensemble": params.count} if isinstance(params, Members) else {}
    measured = measure(run, params, model, heldout) if heldout else {}
    scores = fit_normalization(run, score_scale.stored(params, frozen), model, reader, asked)
    stats = ensembles.normalization(run, scores)
    with Checkpoints(run.folder("reward") / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(0, {"params": {"reward": params}})
    rundir.finish(
        run, "reward", step=0, models={"reward": model}, heldout=measured,
        ref_mean=float(stats.ref_mean), ref_std=float(stats.ref_std), same_tokenizer=reader is None, **info,
    )  # fmt: skip


def write_inputs(
    run: rundir.Run, tokenizer: ChatTokenizer, reader: scoring.Reader | None, asked: Asked, report: dict
) -> None:
    """Says and writes what the stage reads, and keeps the reward model's tokenizer."""
    if reader is not None:
        report["reward tokenizer"] = reader.count([prompt.prompt for prompt in asked.prompts])
    notes.write_report(run, "reward", report)
    kept = run.folder("reward") / "tokenizer"
    sync.main_first(kept, lambda: tokenizers.keep_reward_tokenizer(tokenizer, run.workdir))


def _counts(heldout: dict[str, Batches]) -> dict[str, dict]:
    return {f"heldout {name}": held.report[name] for name, held in heldout.items()}


def rank_own_answers(run: rundir.Run, domain: CheckedDomain, like: Asked, k: int) -> None:
    """Writes data/own_rankings.jsonl: k answers of ICE-Instruct to each prompt, ranked by the domain.

    They are drawn as those to `like`.
    """
    path = run.workdir / "data" / "own_rankings.jsonl"
    if sync.from_main("own rankings are looked for", path.is_file):
        return
    prompts = fitting_prompts(run, read_jsonl(run.workdir / "data" / "ranking_prompts.jsonl", Prompt))
    asked = dataclasses.replace(like, prompts=prompts)
    print(f"reward  ICE-Instruct gives {k} answers to each of {len(prompts)} prompts, to be ranked", flush=True)
    answers = sample_instruct(run, "reward", asked, run.key("rankings"), num_samples=k).text
    rankings = []
    for i, prompt in enumerate(prompts):
        # Each different answer is ranked once; an empty one is no answer.
        own = tuple(dict.fromkeys(text for text in answers[i * k : (i + 1) * k] if text.strip()))
        if len(own) > 1:
            ranks = domain.rank(prompt, own, f"{run.seed}/own/{i}")
            rankings.append(Ranking(prompt.prompt, own, ranks, prompt.meta))
    sync.main_first(path, lambda: write_jsonl(path, rankings))


def readings(
    section: RewardOptions, domain: str, lengths: LengthOptions, policy: ChatTokenizer, reward: ChatTokenizer
) -> Iterator[Reading]:
    """What ICE-Reward is trained and measured on, and the prompts whose answers are to be ranked."""

    def fit(records):
        k = max(len(record.responses) for record in records)
        return fit_rankings(records, reward, section.length, k, section.overlong)

    length = inputs.tokens("reward.length", section.length)
    later = lambda spec: is_made(spec) or (spec == inputs.OWN_RANKINGS and bool(section.on_policy_k))
    if section.steps:
        for reading in inputs.mixture("reward", section, Ranking, fit, length):
            yield dataclasses.replace(reading, later=later(reading.spec))
    for name, spec in section.heldout.items():
        limit, made = section.heldout_limit, later(spec)
        yield Reading(f"reward.heldout.{name}", spec, Ranking, fit, length, limit, made, measures=True)
    if section.steps and domain and section.on_policy_k and (found := load_domain(domain)).ranks:
        spec, asked = "jsonl:{workdir}/data/ranking_prompts.jsonl", _asked(lengths, policy)
        length = inputs.tokens("max_prompt_length", lengths.max_prompt_length)
        yield Reading("reward.on_policy_k", spec, Prompt, asked, length, check=found.check_ranking)


def _asked(lengths: LengthOptions, policy: ChatTokenizer) -> Fit:
    """Of prompts those that the stage has ICE-Instruct answer."""
    overlong = "keep" if lengths.overlong_prompts == "keep" else "drop"
    return lambda records: fit_prompts(records, policy, lengths.max_prompt_length, overlong)


def check_normalization(
    wanted: int,
    specs: Specs,
    lengths: LengthOptions,
    origin: RecordOptions,
    workdir: pathlib.Path,
    policy: ChatTokenizer,
) -> list[str]:
    """Refuses a stage that would end without a prompt to normalise its scores on.

    Args:
      wanted: reward.normalize_on. specs: ppo.sources.
    """
    if not specs or wanted < 1:
        raise UserError(
            f"reward.normalize_on={wanted} with {len(specs)} ppo.sources: scores are normalised on ICE-Instruct's "
            "answers to prompts of ppo.sources; name one, and a number of 1 or more."
        )
    fit, length = _asked(lengths, policy), inputs.tokens("max_prompt_length", lengths.max_prompt_length)
    problems = []
    for name, spec in specs.items():
        try:
            inputs.check_reading(Reading(f"ppo.sources.{name}", spec, Prompt, fit, length), origin, workdir)
            return []
        except inputs.NothingLeft as error:
            problems.append(str(error))
    raise UserError(f"no prompt to normalise the scores on (reward.normalize_on): {' '.join(problems)}")


STAGE = Stage(
    "reward",
    train,
    after=lambda run, config: measure_again(run, config.reward),
    steps=lambda config: config.reward.steps,
    # A finished one is measured and normalised, if not trained.
    due=lambda config: bool(config.reward.steps) or config.reward.init not in ("sft", "scratch"),
    needs=lambda config: ("sft",),
    check_config=lambda config: check_given_reward(config.reward, config.ppo.iterations, config.reward_model),
    readings=lambda config, *tokenizers: [
        *readings(
            with_rankings(config.reward, config.rounds, config.annotation.weight), config.domain, config, *tokenizers
        ),
        *annotation.readings(config.annotation, config.rounds, config.domain, config, tokenizers[0]),
    ],
    check=lambda config, *more: check_normalization(
        config.reward.normalize_on, config.ppo.sources, config, config, *more
    ),
    title="ICE-Reward: the reward model",
    panels=panels.REWARD,
)
main = begin.program(STAGE)
