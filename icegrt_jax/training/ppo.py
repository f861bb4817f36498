"""PPO's two programs after the rollout: score it, then learn from it."""

import jax
import jax.numpy as jnp

from icegrt_jax.parallel.mesh import platform
from icegrt_jax.parallel.pmap import all_rows, own_rows
from icegrt_jax.parallel.sharding import constrain_batch
from icegrt_jax.rl import (
    eos_penalty,
    explained_variance,
    gae,
    kl_estimate,
    length_penalty,
    masked_mean,
    normalize_advantages,
    scale_scores,
    token_rewards,
    whiten,
)
from icegrt_jax.sampling import Rollout
from icegrt_jax.training.blocks import block_count, joined
from icegrt_jax.training.forward import answer_scores, response_exact_kl, response_logprobs, response_values
from icegrt_jax.training.state import Experience, TrainState
from icegrt_jax.training.updates import policy_update, policy_value_update, value_update


def raw_scores(state: TrainState, rollout: Rollout) -> jax.Array:
    """The reward model's verdict f32[B] on prompt + response, as it was trained: no scaling, no penalty."""
    tokens = jnp.concatenate([rollout.prompts, rollout.responses], axis=1)
    mask = jnp.concatenate([rollout.prompt_mask, rollout.mask], axis=1)
    return answer_scores(state.full("reward"), state.model("reward"), tokens, mask)


def _token_kl(state: TrainState, rollout: Rollout, ref_logprobs: jax.Array) -> jax.Array:
    """KL penalty per token, f32[B, T], by the configured estimator."""
    if state.ppo.kl_kind != "exact":
        return kl_estimate(rollout.logprobs, ref_logprobs, state.ppo.kl_kind, rollout.mask)
    return response_exact_kl(
        state.full("policy"), state.model("policy"), state.full("reference"), state.model("policy"),
        rollout.prompts, rollout.prompt_mask, rollout.responses, rollout.mask, temperature=state.ppo.temperature,
    )  # fmt: skip


def _bootstrap(state: TrainState, rollout: Rollout) -> jax.Array | None:
    """Value f32[B] after the last token of responses that were cut off, 0 for finished ones; None when off."""
    if not state.ppo.bootstrap_truncated:
        return None
    tokens = jnp.concatenate([rollout.prompts, rollout.responses], axis=1)
    mask = jnp.concatenate([rollout.prompt_mask, rollout.mask], axis=1)
    after = answer_scores(state.full("value"), state.model("value"), tokens, mask)
    return jnp.where(rollout.finished, 0.0, after)


def read_roles(state: TrainState, rollout: Rollout) -> dict[str, jax.Array | None]:
    """What the models but the reward model say of a rollout, `score_batch` rows at a time.

    Returns:
      `ref_logprobs` and `values` f32[B, T]; `bootstrap` f32[B] or None; `token_kl` f32[B, T]; `old_logprobs` f32[B, T]:
      the sampler's, or with `recompute_logprobs` those of the policy's own forward pass.
    """
    return joined(lambda block: _read_block(state, block), rollout, _blocks(state, rollout))


def _blocks(state: TrainState, rollout: Rollout) -> int:
    return block_count(rollout.mask.shape[0], state.ppo.score_batch)


def _read_block(state: TrainState, rollout: Rollout) -> dict[str, jax.Array | None]:
    args, temperature = _response(rollout), state.ppo.temperature
    ref_logprobs, _ = response_logprobs(state.full("reference"), state.model("policy"), *args, temperature=temperature)
    if state.ppo.recompute_logprobs:
        logprobs, _ = response_logprobs(state.full("policy"), state.model("policy"), *args, temperature=temperature)
        rollout = rollout.replace(logprobs=logprobs)
    return {
        "ref_logprobs": ref_logprobs,
        "values": response_values(state.full("value"), state.model("value"), *args),
        "bootstrap": _bootstrap(state, rollout),
        "token_kl": _token_kl(state, rollout, ref_logprobs),
        "old_logprobs": rollout.logprobs,
    }


def _response(rollout: Rollout) -> tuple[jax.Array, ...]:
    return rollout.prompts, rollout.prompt_mask, rollout.responses, rollout.mask


def score(
    state: TrainState, rollout: Rollout, scores: jax.Array | None = None, read: dict | None = None
) -> tuple[TrainState, Experience, dict[str, jax.Array]]:
    """Scores, reference log-probs, values, KL penalty, rewards, advantages and returns, in one program.

    Args:
      scores: f32[B], the reward model's verdicts where it has read the responses as text, with a tokenizer
        of its own. By default it reads the rollout's ids, here.
      read: what `read_roles` has returned, where the roles have read the rollout already. By default they do, here.

    Returns:
      The state with the score moments and the KL coefficient moved on (the rewards use the
      coefficient from before), the experience, and metrics, each f32[] but `score_histogram` and
      `scaled_histogram` f32[B].
    """
    if scores is None:
        scores = joined(lambda block: raw_scores(state, block), rollout, _blocks(state, rollout))
    read = read_roles(state, rollout) if read is None else read
    # Statistics are of the whole batch: under pmap every device computes them from all rows, which are small.
    rollout, scores, read = all_rows((rollout, scores, read), state.axis_name)
    config, mask = state.ppo, rollout.mask
    ref_logprobs, old_logprobs, values = read["ref_logprobs"], read["old_logprobs"], read["values"]

    scaled, stats = scale_scores(scores, state.score_stats, method=config.score_scale, clip=config.score_clip)
    lengths = jnp.sum(mask, axis=1, dtype=jnp.int32)
    penalized = eos_penalty(scaled, rollout.finished, config.eos_penalty)
    penalized = length_penalty(penalized, lengths, config.length_penalty, config.length_target)
    in_reward = config.kl_in == "reward"
    rewards = token_rewards(penalized, read["token_kl"], mask, kl_coef=state.kl.kl_coef if in_reward else 0.0)
    if config.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    advantages, returns = gae(rewards, values, mask, gamma=config.gamma, lam=config.lam, bootstrap=read["bootstrap"])
    normalized = normalize_advantages(advantages, mask, config.advantages, config.advantage_clip)

    kl = jnp.mean(jnp.sum(jnp.where(mask, old_logprobs - ref_logprobs, 0.0), axis=1))
    metrics = {
        "score_raw": jnp.mean(scores),
        "score_scaled": jnp.mean(scaled),
        "rewards": jnp.mean(jnp.sum(rewards, axis=1)),
        "kl": kl,
        "kl_coef": state.kl.kl_coef,
        "length": jnp.mean(lengths.astype(jnp.float32)),
        "eos_rate": jnp.mean(rollout.finished.astype(jnp.float32)),
        "advantage_mean": masked_mean(advantages, mask),
        "advantage_std": jnp.sqrt(masked_mean(jnp.square(advantages - masked_mean(advantages, mask)), mask)),
        "explained_variance": explained_variance(values, returns, mask),
        "score_histogram": scores,
        "scaled_histogram": scaled,
    }
    if config.recompute_logprobs:
        metrics["sampler_logprob_diff"] = masked_mean(jnp.abs(old_logprobs - rollout.logprobs), mask)
    experience = Experience(
        *_response(rollout), old_logprobs=old_logprobs, ref_logprobs=ref_logprobs,
        values=values, advantages=normalized, returns=returns,
    )  # fmt: skip
    state = state.replace(score_stats=stats, kl=state.kl.update(kl, mask.shape[0]))
    return state, own_rows(experience, state.axis_name), metrics


def _minibatch(experience: Experience, rows: jax.Array, index: jax.Array, count: int) -> Experience:
    """The given rows, and the `index`-th of `count` parts of the replay batch."""
    ptx = experience.ptx
    picked = jax.tree.map(lambda x: x[rows], experience.replace(ptx=None))
    if ptx is not None:
        size = ptx["tokens"].shape[0] // count
        ptx = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, index * size, size), ptx)
    # All of it before any is read: XLA's CPU back end lets devices begin with different parts of what is independent,
    # and each then waits for the others' messages of another part.
    return jax.lax.optimization_barrier(constrain_batch(picked.replace(ptx=ptx)))


def _alone(update, state: TrainState, minibatch: Experience) -> tuple[TrainState, dict[str, jax.Array]]:
    """`update(state, minibatch)` whose memory is used again for what follows.

    XLA's CPU back end runs what does not depend on each other at the same time, and so keeps the activations and
    gradients of two updates apart: 5.7 GiB instead of 2.9 for SmolLM2-135M and 1024 tokens. The body of a loop has
    memory of its own, and the loops come one after the other. This one has one round, which XLA is not told.
    """
    if platform() != "cpu":
        return update(state, minibatch)
    shapes = jax.eval_shape(update, state, minibatch)[1]
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    rounds = 1 + (state.step < 0)
    return jax.lax.fori_loop(0, rounds, lambda _, carry: update(carry[0], minibatch), (state, nothing))


def _separate_updates(state: TrainState, minibatch: Experience) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of the actor and one of the critic, which has a trunk of its own."""
    state, metrics = _alone(policy_update, state, minibatch)
    minibatch, metrics = jax.lax.optimization_barrier((minibatch, metrics))  # for the reason in `_minibatch`
    state, value_metrics = _alone(value_update, state, minibatch)
    renamed = {"loss": "value_loss", "grad_norm": "value_grad_norm"}
    metrics = {"policy_loss": metrics.pop("loss"), **metrics}
    return state, {**metrics, **{renamed.get(name, name): x for name, x in value_metrics.items()}}


def _only_critic_before(warmup: int, new: TrainState, old: TrainState) -> TrainState:
    """The new state, with the old actor in the first `warmup` iterations."""
    actor = lambda state: (state.params["policy"], state.opt_state["policy"])
    learning = old.step >= warmup
    params, opt_state = jax.tree.map(lambda x, y: jnp.where(learning, x, y), actor(new), actor(old))
    return new.replace(params={**new.params, "policy": params}, opt_state={**new.opt_state, "policy": opt_state})


def ppo_update(state: TrainState, experience: Experience) -> tuple[TrainState, dict[str, jax.Array]]:
    """All epochs and minibatches of one iteration in one program.

    Every epoch visits the rows in a new order. Once `approx_kl` of a minibatch passes
    `kl_early_stop`, the rest of the iteration's updates are skipped.

    Returns:
      The state one iteration on, and the means of the minibatch metrics over the updates made, with
      `updates` (their number), `first_ratio_error` (mean |ratio - 1| and `first_logprob_diff` of the
      iteration's first minibatch: nothing but numerics when the policy has not moved yet).
    """
    experience = all_rows(experience, state.axis_name)  # under pmap, so that minibatches are those of one device
    config, rows = state.ppo, experience.mask.shape[0]
    size = rows // config.num_minibatches
    key = jax.random.fold_in(state.key, state.step)
    epochs = jax.vmap(lambda key: jax.random.permutation(key, rows))(jax.random.split(key, config.num_ppo_epochs))
    order = epochs.reshape(-1, size)  # [epochs * minibatches, size]
    part = jnp.tile(jnp.arange(config.num_minibatches), config.num_ppo_epochs)

    def update(state, minibatch):
        step = policy_value_update if config.vf_coef else _separate_updates
        new_state, metrics = step(state, minibatch)
        if config.value_warmup:
            new_state = _only_critic_before(config.value_warmup, new_state, state)
        return new_state, metrics

    def one(carry, xs):
        state, stopped = carry
        minibatch = own_rows(_minibatch(experience, *xs, config.num_minibatches), state.axis_name)
        if config.kl_early_stop:
            shapes = jax.eval_shape(update, state, minibatch)[1]
            skipped = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            state, metrics = jax.lax.cond(stopped, lambda: (state, skipped), lambda: update(state, minibatch))
        else:
            state, metrics = update(state, minibatch)
        made = 1.0 - stopped.astype(jnp.float32)
        if config.kl_early_stop:
            stopped = stopped | (metrics["approx_kl"] > config.kl_early_stop)
        return (state, stopped), (metrics, made)

    start = (state, jnp.array(False))
    if order.shape[0] == 1:
        (state, _), out = one(start, (order[0], part[0]))
        metrics, made = jax.tree.map(lambda x: x[None], out)
    else:
        (state, _), (metrics, made) = jax.lax.scan(one, start, (order, part))
    means = {name: jnp.sum(x) / jnp.sum(made) for name, x in metrics.items()}
    means["updates"] = jnp.sum(made)
    means["ratio_max_dev"] = jnp.max(jnp.abs(metrics["ratio"] - 1.0) * made)
    means["first_ratio_error"] = jnp.abs(metrics["ratio"][0] - 1.0)
    means["first_logprob_diff"] = metrics["logprob_diff"][0]
    return state.replace(step=state.step + 1), means
