"""`icegrt ppo`: ICE-GRT. Every iteration samples, scores in one program, and learns in another."""

import pathlib

import jax
from ml_collections import ConfigDict

from icegrt_jax import files
from icegrt_jax.data.pipeline import prompt_batches, sft_batches
from icegrt_jax.data.records import Instruction, Prompt
from icegrt_jax.evaluation.judges import mean_grades
from icegrt_jax.parallel import hosts
from icegrt_jax.parallel.sharding import shard_batch
from icegrt_jax.parallel.steps import jit_step
from icegrt_jax.sampling import Rollout, SamplerConfig, compiled_sampler, sequence_keys
from icegrt_jax.stages import common, scoring, tokenizers
from icegrt_jax.stages.roles import initial_state
from icegrt_jax.training.checkpoints import Checkpoints, abstract_like
from icegrt_jax.training.metrics import MetricsWriter, check_finite, read_metrics
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.preemption import Preempted, Preemption
from icegrt_jax.training.progress import Progress
from icegrt_jax.training.startup import check_first_rollout
from icegrt_jax.training.state import TrainState, trained, with_trained

SAMPLES_KEPT = 4  # rollouts written to samples.jsonl at a time


def main(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains ICE-GRT from ICE-Instruct (actor, reference) and ICE-Reward (reward, and critic by default)."""
    if not config.ppo.iterations:
        return
    common.check_batches(config, workdir, "ppo")
    tokenizers.check_tokenizers(config, workdir)
    run = common.start(config, workdir)
    if common.finished(run, "ppo"):
        return
    ppo, folder = config.ppo, run.folder("ppo")
    state, parts = initial_state(run)
    reader = scoring.load_reader(run)
    prompts, batches, replay = _data(run, reader)
    sampler = _sampler_config(run)
    score_step = jit_step(score, run.mesh, state)
    update_step = jit_step(ppo_update, run.mesh, state)

    with Checkpoints(folder / "checkpoints") as checkpoints, Preemption() as preemption:
        start = checkpoints.latest()
        if start is not None:
            state = with_trained(state, checkpoints.restore(abstract_like(trained(state)), start))
        if hosts.is_main():
            files.cut_jsonl(folder / "samples.jsonl", start)
        hosts.barrier("ppo begins")
        with (
            MetricsWriter(folder, resume_step=start) as writer,
            Progress(ppo.iterations, "ppo", start=start or 0) as progress,
        ):
            for step in range((start or 0) + 1, ppo.iterations + 1):
                with progress.phase("rollout"):
                    batch = batches[step - 1]
                    rollout = _rollout(run, state, batch, step, sampler)
                if step == 1:
                    check_first_rollout(state, rollout)
                index = hosts.all_rows(batch["index"], run.mesh)
                records = [prompts[i] for i in index for _ in range(ppo.samples_per_prompt)]
                with progress.phase("learn"):
                    texts, scores, counts = scoring.score_as_text(run, reader, state, rollout, records)
                    state, experience, scored = score_step(state, rollout, *scores)
                    if replay is not None:
                        experience = experience.replace(ptx=hosts.place_rows(replay[step - 1], run.mesh))
                    state, learned = update_step(state, experience)
                    # The host reads and judges the answers while the device learns from them.
                    texts = texts or scoring.texts_of(run, rollout)
                    judged = _judge(ppo.judge, records, texts)
                    metrics = {**hosts.fetch({**scored, **learned}), **counts, **judged, **_kl_target(ppo.kl)}
                check_finite(step, metrics)
                if metrics["first_logprob_diff"] > ppo.logprob_alarm:
                    print(
                        f"ppo  warning: step {step}: sampler and trainer log-probs differ by "
                        f"{metrics['first_logprob_diff']:.3g} per token (alarm {ppo.logprob_alarm:g})",
                        flush=True,
                    )
                writer.write(step, metrics)
                shown = ("score_raw", "gold", "kl", "length")
                progress.update(step, {name: metrics[name] for name in shown if name in metrics})
                if hosts.is_main() and (step % config.log.samples_every == 0 or step in (1, ppo.iterations)):
                    files.append_jsonl(folder / "samples.jsonl", _sample_rows(step, records, texts, metrics))
                last, stopping = step == ppo.iterations, preemption.reached(step)
                if last or stopping or step % config.log.ppo_checkpoint_every == 0:
                    writer.flush()
                    checkpoints.save(step, trained(state))
                if stopping and not last:
                    checkpoints.wait()
                    raise Preempted(step, preemption.signum)
    models = {role: state.model(role) for role, _ in state.optimizers}
    common.finish(run, "ppo", step=ppo.iterations, models=models, parts=parts, late_kl=_report_kl(run))


def _kl_target(kl: ConfigDict) -> dict[str, float]:
    """The controller's target and its band, in nats; nothing for a fixed coefficient."""
    if not kl.adaptive:
        return {}
    low, high = (share * kl.target for share in kl.band)
    return {"kl_target": kl.target, "kl_low": low, "kl_high": high}


def _report_kl(run: common.Run) -> float:
    """Mean KL of the second half of the run, in nats; says whether it is within the target's band."""
    if not hosts.is_main():
        return 0.0  # for done.json, which the main process writes
    rows, kl = read_metrics(run.folder("ppo") / "metrics.jsonl"), run.config.ppo.kl
    late = [row["kl"] for row in rows[len(rows) // 2 :]]
    mean, band, text = sum(late) / len(late), _kl_target(kl), ""
    if band:
        where = "within" if band["kl_low"] <= mean <= band["kl_high"] else "outside"
        text = f", {where} the band {band['kl_low']:g} to {band['kl_high']:g}"
    print(f"ppo  KL over the second half: {mean:.2f} nats{text}", flush=True)
    return mean


def _data(run: common.Run, reader: scoring.Reader | None):
    """PPO's prompts, their batches, and the replay batches or None."""
    config, ppo = run.config, run.config.ppo
    sources = run.load(ppo.sources, Prompt)
    batches = prompt_batches(
        sources,
        ppo.weights,
        run.tokenizer,
        batch_size=ppo.batch_size,
        max_prompt_length=config.max_prompt_length,
        seed=config.seed,
        overlong=config.overlong_prompts,
        share=run.share,
    )
    common.audit(run, "ppo", batches, run.tokenizer)
    report, replay = dict(batches.report), None
    if ppo.ptx.coef:
        replay = sft_batches(
            run.load(ppo.ptx.sources, Instruction),
            ppo.ptx.weights,
            run.tokenizer,
            batch_size=ppo.ptx.batch_size,
            length=ppo.ptx.length,
            seed=config.seed + 1,
            overlong="drop",
            share=run.share,
        )
        common.audit(run, "ppo", replay, run.tokenizer, name="replay_example")
        report |= {f"ptx {name}": counts for name, counts in replay.report.items()}
    prompts = [prompt for records in sources.values() for prompt in records]
    if reader is not None:
        report["reward tokenizer"] = reader.count([prompt.prompt for prompt in prompts])
    common.write_report(run, "ppo", report)
    return prompts, batches, replay


def _sampler_config(run: common.Run) -> SamplerConfig:
    ppo = run.config.ppo
    return SamplerConfig(
        max_new_tokens=run.config.max_response_length,
        temperature=ppo.temperature,
        top_k=ppo.top_k,
        top_p=ppo.top_p,
        min_p=ppo.min_p,
        eos_ids=run.tokenizer.eos_ids,
        pad_id=run.tokenizer.pad_id,
    )


def _rollout(run: common.Run, state: TrainState, batch: dict, step: int, sampler: SamplerConfig) -> Rollout:
    """Responses to one batch of prompts; sequence i of the run has its own key, whatever the batch."""
    count = run.config.ppo.batch_size * run.config.ppo.samples_per_prompt
    keys = sequence_keys(run.key("ppo"), (step - 1) * count, count)
    prompts = hosts.place_rows({"tokens": batch["tokens"], "mask": batch["mask"]}, run.mesh)
    with jax.set_mesh(run.mesh):
        rollout = compiled_sampler(
            keys, state.full("policy"), prompts["tokens"], prompts["mask"],
            model=state.model("policy"), config=sampler, num_samples=run.config.ppo.samples_per_prompt,
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
