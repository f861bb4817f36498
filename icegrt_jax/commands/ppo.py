"""`icegrt ppo`: ICE-GRT. Every iteration samples, scores in one program, and learns in another."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from icegrt_jax.commands.report import while_training
from icegrt_jax.config.checks import check_given_reward
from icegrt_jax.config.options import KLOptions, LengthOptions, Options, PPOOptions, RecordOptions
from icegrt_jax.data.encode import fit_examples, fit_prompts
from icegrt_jax.data.records import Instruction, Prompt
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.hosts import sync
from icegrt_jax.report import panels
from icegrt_jax.runs import (
    alarm_watch,
    averages,
    begin,
    generation,
    heldout,
    heldout_judge,
    inputs,
    iteration,
    judging,
    kept,
    loop,
    notes,
    ppo_data,
    rates,
    reward_check,
    rounds,
    rundir,
    samples,
    scoring,
    trackers,
    warmup,
)
from icegrt_jax.runs.reading import Reading
from icegrt_jax.runs.reward_model import Asked, normalization_prompts, sample_instruct
from icegrt_jax.runs.reward_reference import scaled_by_reference, with_reference, with_source_moments
from icegrt_jax.runs.rewards import own_rewards, try_out
from icegrt_jax.runs.roles import finished_stages, initial_state
from icegrt_jax.runs.stage import Stage
from icegrt_jax.training.metrics import read_metrics
from icegrt_jax.training.preemption import asked_here
from icegrt_jax.training.state import TrainState, averaged

TRIED = 2  # records of a source that reward functions are tried on


def train(run: rundir.Run, config: Options) -> None:
    """Trains ICE-GRT from ICE-Instruct (actor, reference) and ICE-Reward (reward, and critic by default)."""
    ppo, log = config.ppo, config.log
    frozen, shared_base = config.model.param_dtype, config.roles.shared_base
    goes_on = config.rounds > 1 and config.annotation.start == "last"
    source = finished_stages(
        run, ppo, config.value, reward_model=config.reward_model, shared_base=shared_base, frozen=frozen,
        before=rounds.before(run.workdir, config.rounds) if goes_on else None,
    )  # fmt: skip
    state, parts = initial_state(run, source)
    _show(run, ppo, state)
    reader = scoring.load_reader(run, config.reward) if config.reward_model else None
    data = _data(run, ppo, config.domain, reader)
    with own_rewards(ppo, run.folder("ppo"), leave=asked_here) as rewards:
        warm = warmup.Warmup(ppo, run.folder("ppo"))
        keeper, watchers = heldout.watch(
            run, "ppo", ppo, warm.last, lambda: heldout_judge.measure_answers(run, ppo, config.domain), averaged
        )
        alarms = alarm_watch.Alarms(
            alarm_watch.given(ppo, weight=config.reward_model, ranked=reward_check.ranked(run)),
            run.folder("ppo"),
            (*watchers, *reward_check.make(run, ppo, config.domain, reader)),
        )
        once = iteration.make_iteration(
            run, ppo, state, data.asked, reader, rewards, moved=goes_on, prompts=data.prompts,
            keep=kept.place(run.folder("ppo"), log.ppo_checkpoint_every),
        )  # fmt: skip
        shown = ("score_raw", *(f"reward/{name}" for name in ppo.rewards), "gold", "kl", "length")
        iterations = loop.Loop(
            "ppo", ppo.iterations, data.batch, once.advance,
            save_every=log.ppo_checkpoint_every, shown=shown, waits="learn", unit="iteration",
            skipped=log.skipped, keep=iteration.kept,
            watchers=(
                warm,
                samples.Samples(run.folder("ppo"), log.samples_every, warm.last, run.tokenizer),
                *samples.followed(run, data.asked.prompts, log.followed, warm.last),
                alarms,
                _rates(ppo, state, warm),
                *while_training(run.workdir, log),
            ),
            writers=trackers.writers(log),
        )  # fmt: skip
        state, start = loop.resumed(run, "ppo", state)
        if start is None and (names := scaled_by_reference(state.ppo)):
            instruct = normalization_prompts(run, ppo.sources, config.reward.normalize_on)
            answered = Asked(instruct, ppo, config.evaluate.batch_size)
            state = with_reference(run, state, rewards, names, answered)
        if start is None and ppo.score.by_source and ppo.score.scale == "reference":
            state = _by_source(run, state, reader, ppo, config.reward.normalize_on, config.evaluate.batch_size)
        state, step = loop.train(run, iterations, state, start)
    models = {role: state.model(role) for role, _ in state.optimizers}
    late_kl, info = _report_kl(run, ppo.kl), {**warm.info(), **(keeper.info() if keeper else {}), **alarms.summary()}
    info |= _samples(ppo, state, step)
    if ppo.average or ppo.ema:
        end = keeper.best(state) if keeper and info.get("use") == "best" else averaged(state)
        info |= averages.leave(run, ppo, end, step, lambda: heldout_judge.measure_answers(run, ppo, config.domain))
    rundir.finish(run, "ppo", step=step, models=models, parts=parts, late_kl=late_kl, **info)


def _by_source(
    run: rundir.Run, state: TrainState, reader: scoring.Reader | None, ppo: PPOOptions, count: int, batch_size: int
) -> TrainState:
    """The state with mean and spread of what ICE-Reward says of ICE-Instruct's answers to so many prompts a source."""
    prompts = {name: normalization_prompts(run, {name: spec}, count) for name, spec in ppo.sources.items()}
    asked = {name: Asked(found, ppo, batch_size) for name, found in prompts.items() if found}
    answer = lambda own: sample_instruct(run, "ppo", own, run.key("normalize"), num_samples=1)
    return with_source_moments(run, state, reader, asked, answer)


def _rates(ppo: PPOOptions, state: TrainState, warm: warmup.Warmup) -> rates.Rates:
    """Learning rates, and response tokens sampled and learned from in a second."""
    updates, rows = ppo.num_ppo_epochs * ppo.num_minibatches, ppo.batch_size * ppo.samples_per_prompt
    return rates.Rates(
        dict(state.optimizers),
        lambda role, step: updates * (warm.actors(step) if role == "policy" else step),
        lambda outcome: rows * float(outcome.metrics["length"]),
        steps=ppo.iterations,
        every=1,
    )


def _show(run: rundir.Run, ppo: PPOOptions, state: TrainState) -> None:
    """Says how the roles lie on the mesh, and the policy while it samples."""
    generation.show_mesh(run, "ppo", dict(state.models))
    generation.show_layout(
        run, "ppo", state.model("policy"), state.full("policy"), cache_dtype=ppo.cache_dtype,
        rows=ppo.rollout_slots or ppo.batch_size * ppo.samples_per_prompt,
        length=run.lengths.total,
    )  # fmt: skip


def _report_kl(run: rundir.Run, kl: KLOptions) -> float:
    """Mean KL of the second half of the run, in nats; says whether it is within the target's band."""
    if not sync.is_main():
        return 0.0  # for done.json, which the main process writes
    rows = [row for row in read_metrics(run.folder("ppo") / "metrics.jsonl") if "kl" in row]
    late = [row["kl"] for row in rows[len(rows) // 2 :]]
    mean, band, text = sum(late) / len(late), iteration.kl_target(kl), ""
    if band:
        where = "within" if band["kl_low"] <= mean <= band["kl_high"] else "outside"
        text = f", {where} the band {band['kl_low']:g} to {band['kl_high']:g}"
    print(f"ppo  KL over the second half: {mean:.2f} nats{text}", flush=True)
    return mean


def _samples(ppo: PPOOptions, state: TrainState, step: int) -> dict[str, int]:
    """For `done.json`, with `ppo.redraw`: responses sampled in all; says how many rollouts were further ones."""
    if not ppo.redraw:
        return {}
    batches = int(sync.fetch(state.drawn["batches"]))
    samples = batches * ppo.batch_size * ppo.samples_per_prompt
    if sync.is_main():
        more = f"{batches - step} of {batches} rollouts for other prompts in the place of those without a signal"
        print(f"ppo  {samples} responses sampled, {more}", flush=True)
    return {"samples": samples}


def _data(run: rundir.Run, ppo: PPOOptions, domain: str, reader: scoring.Reader | None) -> ppo_data.Data:
    """What the iterations read, looked at and counted."""
    replay = run.load(ppo.ptx.sources, Instruction) if ppo.ptx.coef else {}
    data = ppo_data.prepare(run, ppo, run.load(ppo.sources, Prompt), replay, judging.of_ppo(ppo, domain))
    if ppo.score.baseline == "reference":
        scoring.check_references(data.asked.prompts)
    notes.audit(run, "ppo", data.prompts, run.tokenizer)
    if data.replay is not None:
        notes.audit(run, "ppo", data.replay, run.tokenizer, name="replay_example")
    report = data.report
    if reader is not None:
        report["reward tokenizer"] = reader.count([prompt.prompt for prompt in data.asked.prompts])
    notes.write_report(run, "ppo", report)
    return data


def readings(ppo: PPOOptions, domain: str, lengths: LengthOptions, policy: ChatTokenizer) -> Iterator[Reading]:
    """The prompts and, where some is replayed, the supervised data."""
    longest = lengths.max_prompt_length
    yield from asked(ppo, domain, lengths, policy)
    fitting, judge_of = lambda records: fit_prompts(records, policy, longest, "drop"), judging.of_ppo(ppo, domain)
    length = inputs.tokens("max_prompt_length", longest)
    for name, spec in ppo.heldout.items():
        reading = Reading(f"ppo.heldout.{name}", spec, Prompt, fitting, length, ppo.heldout_limit, measures=True)
        yield inputs.judged(reading, judge_of(name))
    if ppo.ptx.coef:
        fit = lambda records: fit_examples(records, policy, ppo.ptx.length, "drop")
        length = inputs.tokens("ppo.ptx.length", ppo.ptx.length)
        yield from inputs.weighted("ppo.ptx.sources", ppo.ptx, Instruction, fit, length)


def asked(ppo: PPOOptions, domain: str, lengths: LengthOptions, policy: ChatTokenizer) -> Iterator[Reading]:
    """The prompts."""
    fit = lambda records: fit_prompts(records, policy, lengths.max_prompt_length, lengths.overlong_prompts)
    length, judge_of = inputs.tokens("max_prompt_length", lengths.max_prompt_length), judging.of_ppo(ppo, domain)
    for reading in inputs.mixture("ppo", ppo, Prompt, fit, length):
        yield inputs.judged(reading, judge_of(reading.key.removeprefix("ppo.sources.")))


def check_rewards(
    ppo: PPOOptions, lengths: LengthOptions, origin: RecordOptions, workdir: pathlib.Path, policy: ChatTokenizer
) -> list[str]:
    """Tries the functions of the user's on some records of each source, looks for references; returns warnings."""
    referred = ppo.score.baseline == "reference"
    if not (ppo.rewards or referred):
        return []
    prompts = asked(ppo, origin.domain, lengths, policy)
    loaded: list[Sequence[Any]] = [inputs.records_of(reading, origin, workdir) or [] for reading in prompts]
    for records in loaded if referred else ():
        scoring.check_references(records)
    if not ppo.rewards:
        return []
    return try_out(ppo, [record for records in loaded for record in records[:TRIED]])


STAGE = Stage(
    "ppo",
    train,
    steps=lambda config: config.ppo.iterations,
    needs=lambda config: ("sft", "reward") if config.reward_model else ("sft",),
    check_config=lambda config: check_given_reward(config.reward, config.ppo.iterations, config.reward_model),
    readings=lambda config, policy, _: readings(config.ppo, config.domain, config, policy),
    check=lambda config, *more: check_rewards(config.ppo, config, config, *more),
    title="ICE-GRT: PPO",
    panels=panels.PPO,
)
main = begin.program(STAGE)
