"""`icegrt ppo`: ICE-GRT. Every iteration samples, scores in one program, and learns in another."""

import functools
import pathlib

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from icegrt_jax import files
from icegrt_jax.config.checks import check_given_reward
from icegrt_jax.data.pipeline import Batches, prompt_batches, sft_batches
from icegrt_jax.data.prefetch import Ahead
from icegrt_jax.data.records import Instruction, Prompt
from icegrt_jax.evaluation.judges import mean_grades
from icegrt_jax.hosts import heap, sync
from icegrt_jax.models.vocabulary import check_ids
from icegrt_jax.runs import batch_check, generation, inputs, notes, rundir, scoring
from icegrt_jax.runs.roles import initial_state
from icegrt_jax.runs.sections import sampler_config
from icegrt_jax.sampling import Rollout, SamplerConfig, compiled_sampler, sequence_keys
from icegrt_jax.sampling.layout import rollout_layout, to_rollout
from icegrt_jax.sharding import host_rows
from icegrt_jax.sharding.put import shard_batch, shard_tree
from icegrt_jax.sharding.rules import row_parts
from icegrt_jax.sharding.steps import jit_step
from icegrt_jax.training.buckets import fitted
from icegrt_jax.training.checkpoints import Checkpoints, abstract_like
from icegrt_jax.training.finite import check_finite
from icegrt_jax.training.first_check import check_first_rollout
from icegrt_jax.training.metrics import MetricsWriter, read_metrics
from icegrt_jax.training.ppo import ppo_update, read_roles, score
from icegrt_jax.training.preemption import Preempted, Preemption
from icegrt_jax.training.progress import Progress
from icegrt_jax.training.state import TrainState, trained, with_trained

SAMPLES_KEPT = 4  # rollouts written to samples.jsonl at a time


def main(config: ConfigDict, workdir: pathlib.Path) -> None:
    """`train`, its inputs checked first."""
    notes.warn("ppo", inputs.check(config, workdir, "ppo"))
    train(config, workdir)


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains ICE-GRT from ICE-Instruct (actor, reference) and ICE-Reward (reward, and critic by default)."""
    if not config.ppo.iterations:
        return
    check_given_reward(config)
    batch_check.check_batches(config, workdir, "ppo")
    rundir.require(workdir, "ppo", "sft", "reward")
    run = rundir.start(config, workdir)
    if rundir.finished(run, "ppo"):
        return
    ppo, folder = config.ppo, run.folder("ppo")
    state, parts = initial_state(run)
    generation.show_mesh(run, "ppo", dict(state.models))
    generation.show_layout(
        run, "ppo", state.model("policy"), state.full("policy"), cache_dtype=ppo.cache_dtype,
        rows=ppo.rollout_slots or ppo.batch_size * ppo.samples_per_prompt,
        length=config.max_prompt_length + config.max_response_length,
    )  # fmt: skip
    layout = rollout_layout(run.mesh, state.model("policy"), state.full("policy"), config.mesh.rollout_tensor)
    reader = scoring.load_reader(run)
    prompts, batches, replay = _data(run, reader)
    sizes = {"pack": ppo.pack, "parts": row_parts(run.mesh)}
    sampler = sampler_config(config, eos_ids=run.tokenizer.eos_ids, pad_id=run.tokenizer.pad_id)
    score_step = jit_step(score, run.mesh, state)
    read = jax.jit(read_roles)
    update_step = jit_step(ppo_update, run.mesh, state)

    with Preemption() as preemption, Checkpoints(folder / "checkpoints") as checkpoints:
        start = checkpoints.latest()
        if start is not None:
            state = with_trained(state, checkpoints.restore(abstract_like(trained(state)), start))
        if sync.is_main():
            files.cut_jsonl(folder / "samples.jsonl", start)
        sync.barrier("ppo begins")
        with (
            MetricsWriter(folder, resume_step=start) as writer,
            Progress(ppo.iterations, "ppo", start=start or 0) as progress,
            Ahead(functools.partial(_host_batch, batches, replay), stop=ppo.iterations + 1) as host_batch,
        ):
            for step in range((start or 0) + 1, ppo.iterations + 1):
                with progress.phase("rollout"):
                    batch, replayed = host_batch(step)
                    for rows in filter(None, (batch, replayed)):
                        check_ids(rows["tokens"], state.model("policy").vocab_size, f"ppo, batch {step}")
                    rollout = fitted(state, _rollout(run, state, batch, step, sampler, layout), **sizes)
                if step == 1:
                    with jax.set_mesh(run.mesh):
                        check_first_rollout(state, rollout, cache_dtype=ppo.cache_dtype)
                index = host_rows.all_rows(batch["index"], run.mesh)
                records = [prompts[i] for i in index for _ in range(ppo.samples_per_prompt)]
                with progress.phase("learn"):
                    texts, scores, counts = [], (), {}
                    if reader is not None:
                        # The other roles read ids while the host decodes and tokenises.
                        with jax.set_mesh(run.mesh):
                            roles_read = read(shard_tree(state, run.mesh), rollout)
                        texts, answer_scores, counts = scoring.score_as_text(run, reader, state, rollout, records)
                        scores = (answer_scores, roles_read)
                    state, experience, scored = score_step(state, rollout, *scores)
                    if replayed is not None:
                        experience = experience.replace(ptx=host_rows.place_rows(replayed, run.mesh))
                    state, learned = update_step(state, experience)
                    # The host reads and judges the answers while the device learns from them.
                    texts = texts or scoring.texts_of(run, rollout)
                    judged = _judge(ppo.judge, records, texts)
                    metrics = {**sync.fetch({**scored, **learned}), **counts, **judged, **_kl_target(ppo.kl)}
                check_finite(step, metrics, checkpoints.left)
                difference = metrics.get("sampler_logprob_diff", metrics["first_logprob_diff"])
                if difference > ppo.logprob_alarm:
                    print(
                        f"ppo  warning: step {step}: sampler and trainer log-probs differ by "
                        f"{difference:.3g} per token (alarm {ppo.logprob_alarm:g})",
                        flush=True,
                    )
                writer.write(step, metrics)
                shown = ("score_raw", "gold", "kl", "length")
                progress.update(step, {name: metrics[name] for name in shown if name in metrics})
                if sync.is_main() and (step % config.log.samples_every == 0 or step in (1, ppo.iterations)):
                    files.append_jsonl(folder / "samples.jsonl", _sample_rows(step, records, texts, metrics))
                last, stopping = step == ppo.iterations, preemption.reached(step)
                if last:
                    notes.write_compiles(run, "ppo", progress.compiles)
                if last or stopping or step % config.log.ppo_checkpoint_every == 0:
                    writer.flush()
                    checkpoints.save(step, trained(state))
                if stopping:
                    checkpoints.wait()
                    raise Preempted(step, preemption.signum)
    heap.give_back()
    models = {role: state.model(role) for role, _ in state.optimizers}
    rundir.finish(run, "ppo", step=ppo.iterations, models=models, parts=parts, late_kl=_report_kl(run))


def _kl_target(kl: ConfigDict) -> dict[str, float]:
    """The controller's target and its band, in nats; nothing for a fixed coefficient."""
    if not kl.adaptive:
        return {}
    low, high = (share * kl.target for share in kl.band)
    return {"kl_target": kl.target, "kl_low": low, "kl_high": high}


def _report_kl(run: rundir.Run) -> float:
    """Mean KL of the second half of the run, in nats; says whether it is within the target's band."""
    if not sync.is_main():
        return 0.0  # for done.json, which the main process writes
    rows, kl = read_metrics(run.folder("ppo") / "metrics.jsonl"), run.config.ppo.kl
    late = [row["kl"] for row in rows[len(rows) // 2 :]]
    mean, band, text = sum(late) / len(late), _kl_target(kl), ""
    if band:
        where = "within" if band["kl_low"] <= mean <= band["kl_high"] else "outside"
        text = f", {where} the band {band['kl_low']:g} to {band['kl_high']:g}"
    print(f"ppo  KL over the second half: {mean:.2f} nats{text}", flush=True)
    return mean


def _data(run: rundir.Run, reader: scoring.Reader | None):
    """PPO's prompts, their batches, and the replay batches or None."""
    config, ppo = run.config, run.config.ppo
    sources = run.load(ppo.sources, Prompt)
    batches = prompt_batches(
        sources,
        ppo.weights,
        run.tokenizer,
        batch_size=ppo.batch_size,
        max_prompt_length=config.max_prompt_length,
        seed=run.data_seed("ppo"),
        overlong=config.overlong_prompts,
        share=run.share,
    )
    notes.audit(run, "ppo", batches, run.tokenizer)
    report, replay = dict(batches.report), None
    if ppo.ptx.coef:
        replay = sft_batches(
            run.load(ppo.ptx.sources, Instruction),
            ppo.ptx.weights,
            run.tokenizer,
            batch_size=ppo.ptx.batch_size,
            length=ppo.ptx.length,
            seed=run.data_seed("replay"),
            overlong="drop",
            share=run.share,
        )
        notes.audit(run, "ppo", replay, run.tokenizer, name="replay_example")
        report |= {f"ptx {name}": counts for name, counts in replay.report.items()}
    prompts = [prompt for records in sources.values() for prompt in records]
    if reader is not None:
        report["reward tokenizer"] = reader.count([prompt.prompt for prompt in prompts])
    notes.write_report(run, "ppo", report)
    return prompts, batches, replay


def _host_batch(batches: Batches, replay: Batches | None, step: int) -> tuple[dict, dict | None]:
    """The prompts of an iteration, and its replay rows or None."""
    return batches[step - 1], None if replay is None else replay[step - 1]


def _rollout(
    run: rundir.Run, state: TrainState, batch: dict, step: int, sampler: SamplerConfig, layout: Mesh
) -> Rollout:
    """Responses to one batch of prompts; sequence i of the run has its own key, whatever the batch."""
    count = run.config.ppo.batch_size * run.config.ppo.samples_per_prompt
    keys = sequence_keys(run.key("ppo"), (step - 1) * count, count)
    model, params = state.model("policy"), state.full("policy")
    params = to_rollout(params, model, run.mesh, layout)  # a copy that lives until the end of this function
    tokens, mask = host_rows.place_rows((batch["tokens"], batch["mask"]), run.mesh)
    keys, tokens, mask = shard_batch((keys, tokens, mask), layout)
    with jax.set_mesh(layout):
        rollout = compiled_sampler(
            keys, params, tokens, mask, model=model, config=sampler,
            num_samples=run.config.ppo.samples_per_prompt, slots=run.config.ppo.rollout_slots,
        )  # fmt: skip
    return shard_batch(rollout, run.mesh)


def _judge(judge: str, records: list[Prompt], texts: list[str]) -> dict[str, float]:
    """The judge's means, for the curves only."""
    if not judge:
        return {}
    grades = mean_grades(judge, records, texts)
    return {"gold": grades["gold"], **{f"gold_{k}": v for k, v in grades.items() if k in ("verdict", "analysis")}}


def _sample_rows(step: int, records: list[Prompt], texts: list[str], metrics: dict) -> list[dict]:
    scores = metrics["score_histogram"]
    return [
        {"step": step, "prompt": list(records[i].prompt), "response": texts[i], "score": float(scores[i])}
        for i in range(min(SAMPLES_KEPT, len(texts)))
    ]
