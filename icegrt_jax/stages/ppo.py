"""`icegrt ppo`: ICE-GRT. Every iteration samples, scores in one program, and learns in another."""

import pathlib

import jax
from ml_collections import ConfigDict

from icegrt_jax import files
from icegrt_jax.data.pipeline import prompt_batches, sft_batches
from icegrt_jax.data.records import Instruction, Prompt
from icegrt_jax.evaluation.judges import mean_grades
from icegrt_jax.parallel.sharding import shard_batch
from icegrt_jax.parallel.steps import jit_step
from icegrt_jax.rl import AdaptiveKL, ScoreStats
from icegrt_jax.sampling import Rollout, SamplerConfig, compiled_sampler, sequence_keys
from icegrt_jax.sampling.generate import decode_responses
from icegrt_jax.stages import common
from icegrt_jax.training.checkpoints import Checkpoints, abstract_like
from icegrt_jax.training.metrics import MetricsWriter, check_finite, read_metrics
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.preemption import Preempted, Preemption
from icegrt_jax.training.progress import Progress
from icegrt_jax.training.startup import check_first_rollout
from icegrt_jax.training.state import PPOConfig, TrainState, create_state

TRAINED = ("policy", "value")  # the other two roles are frozen: earlier stages hold them
SAMPLES_KEPT = 4  # rollouts written to samples.jsonl at a time
# Keys of config.ppo that the update steps read under the same name.
SAME_NAME = (
    "num_ppo_epochs", "num_minibatches", "temperature", "gamma", "lam", "cliprange", "cliprange_high",
    "cliprange_value", "dual_clip", "bootstrap_truncated", "value_warmup", "whiten_rewards", "advantages",
    "advantage_clip",
)  # fmt: skip


def main(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains ICE-GRT from ICE-Instruct (actor, reference) and ICE-Reward (critic, reward)."""
    if not config.ppo.iterations:
        return
    common.check_batches(config, workdir, "ppo")
    run = common.start(config, workdir)
    if common.finished(run, "ppo"):
        return
    ppo, folder = config.ppo, run.folder("ppo")
    state = _initial_state(run)
    prompts, batches, replay = _data(run)
    sampler = _sampler_config(run)
    score_step = jit_step(score, run.mesh, state)
    update_step = jit_step(ppo_update, run.mesh, state)

    with Checkpoints(folder / "checkpoints") as checkpoints, Preemption() as preemption:
        start = checkpoints.latest()
        if start is not None:
            state = _with_trained(state, checkpoints.restore(abstract_like(_trained(state)), start))
        files.cut_jsonl(folder / "samples.jsonl", start)
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
                with progress.phase("learn"):
                    state, experience, scored = score_step(state, rollout)
                    if replay is not None:
                        experience = experience.replace(ptx=shard_batch(replay[step - 1], run.mesh))
                    state, learned = update_step(state, experience)
                    # The host reads and judges the answers while the device learns from them.
                    texts = decode_responses(*jax.device_get((rollout.responses, rollout.mask)), run.tokenizer)
                    records = [prompts[i] for i in batch["index"] for _ in range(ppo.samples_per_prompt)]
                    judged = _judge(ppo.judge, records, texts)
                    metrics = {**jax.device_get({**scored, **learned}), **judged, **_kl_target(ppo.kl)}
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
                if step % config.log.samples_every == 0 or step in (1, ppo.iterations):
                    files.append_jsonl(folder / "samples.jsonl", _sample_rows(step, records, texts, metrics))
                last, stopping = step == ppo.iterations, preemption.reached(step)
                if last or stopping or step % config.log.ppo_checkpoint_every == 0:
                    writer.flush()
                    checkpoints.save(step, _trained(state))
                if stopping and not last:
                    checkpoints.wait()
                    raise Preempted(step, preemption.signum)
    models = {role: state.model(role) for role in TRAINED}
    common.finish(run, "ppo", step=ppo.iterations, models=models, late_kl=_report_kl(run))


def _kl_target(kl: ConfigDict) -> dict[str, float]:
    """The controller's target and its band, in nats; nothing for a fixed coefficient."""
    if not kl.adaptive:
        return {}
    low, high = (share * kl.target for share in kl.band)
    return {"kl_target": kl.target, "kl_low": low, "kl_high": high}


def _report_kl(run: common.Run) -> float:
    """Mean KL of the second half of the run, in nats; says whether it is within the target's band."""
    rows, kl = read_metrics(run.folder("ppo") / "metrics.jsonl"), run.config.ppo.kl
    late = [row["kl"] for row in rows[len(rows) // 2 :]]
    mean, band, text = sum(late) / len(late), _kl_target(kl), ""
    if band:
        where = "within" if band["kl_low"] <= mean <= band["kl_high"] else "outside"
        text = f", {where} the band {band['kl_low']:g} to {band['kl_high']:g}"
    print(f"ppo  KL over the second half: {mean:.2f} nats{text}", flush=True)
    return mean


def _data(run: common.Run):
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
        )
        common.audit(run, "ppo", replay, run.tokenizer, name="replay_example")
        report |= {f"ptx {name}": counts for name, counts in replay.report.items()}
    common.write_report(run, "ppo", report)
    return [prompt for records in sources.values() for prompt in records], batches, replay


def ppo_config(ppo: ConfigDict) -> PPOConfig:
    """The part of `config.ppo` that the update steps are compiled with."""
    return PPOConfig(
        **{name: ppo[name] for name in SAME_NAME},
        ptx_coef=ppo.ptx.coef,
        kl_kind=ppo.kl.kind,
        kl_in=ppo.kl.into,
        kl_early_stop=ppo.kl.early_stop,
        score_scale=ppo.score.scale,
        score_clip=ppo.score.clip,
        eos_penalty=ppo.score.eos_penalty,
        length_penalty=ppo.score.length_penalty,
        length_target=ppo.score.length_target,
    )


def _initial_state(run: common.Run) -> TrainState:
    """Actor = ICE-Instruct, reference = a frozen copy; critic = ICE-Reward, reward = a frozen copy."""
    ppo, frozen = run.config.ppo, run.config.model.param_dtype
    policy_config, policy = common.stage_params(run, "sft", "policy")
    _, reference = common.stage_params(run, "sft", "policy", dtype=frozen)
    reward_config, reward = common.stage_params(run, "reward", "reward", dtype=frozen)
    _, value = common.stage_params(run, "reward", "reward")
    done = files.read_json(run.folder("reward") / "done.json")
    updates = ppo.iterations * ppo.num_ppo_epochs * ppo.num_minibatches
    return create_state(
        run.key("ppo"),
        {"policy": policy, "value": _centred(value, done), "reward": reward, "reference": reference},
        {"policy": policy_config, "value": reward_config, "reward": reward_config},
        {
            "policy": common.optimizer_config(ppo.policy_optimizer, updates),
            "value": common.optimizer_config(ppo.value_optimizer, updates),
        },
        ppo=ppo_config(ppo),
        kl=AdaptiveKL.create(ppo.kl.coef, target=ppo.kl.target, horizon=ppo.kl.horizon, adaptive=ppo.kl.adaptive),
        score_stats=ScoreStats.create(done["ref_mean"], done["ref_std"]),
    )


def _centred(value: dict, done: dict) -> dict:
    """The critic's head in the units of the normalised score, so that it starts near the returns."""
    std = done["ref_std"] or 1.0
    head = {"kernel": value["head"]["kernel"] / std, "bias": (value["head"]["bias"] - done["ref_mean"]) / std}
    return {**value, "head": head}


def _trained(state: TrainState) -> TrainState:
    """What a checkpoint holds: everything but the frozen roles."""
    return state.replace(params={role: state.params[role] for role in TRAINED})


def _with_trained(state: TrainState, restored: TrainState) -> TrainState:
    return restored.replace(params={**state.params, **restored.params})


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
    prompts = shard_batch({"tokens": batch["tokens"], "mask": batch["mask"]}, run.mesh)
    with jax.set_mesh(run.mesh):
        rollout = compiled_sampler(
            keys, state.params["policy"], prompts["tokens"], prompts["mask"],
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
