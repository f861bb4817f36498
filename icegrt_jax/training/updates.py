"""The four update steps: pure functions `(state, batch) -> (state, metrics)`, jitted or pmapped by the caller.

Means are over the valid tokens of the global batch. Under pmap each device computes its share
(`total` is summed over devices first) and gradients and metrics are added up.
"""

import jax
import jax.numpy as jnp
import optax

from icegrt_jax.rl import (
    count_ranked,
    kl_estimate,
    masked_mean,
    nll_loss,
    ppo_policy_loss,
    ppo_value_loss,
    ranking_loss,
)
from icegrt_jax.training.forward import answer_scores, packed_logprobs, response_logprobs, response_values
from icegrt_jax.training.state import Experience, TrainState


def _over_devices(state: TrainState, tree):
    """Sum over the pmap axis; under jit the arrays are global already."""
    return jax.lax.psum(tree, state.axis_name) if state.axis_name else tree


def _count(state: TrainState, mask: jax.Array) -> jax.Array:
    """Valid elements of the global batch, f32[], at least 1."""
    return jnp.maximum(_over_devices(state, jnp.sum(mask, dtype=jnp.float32)), 1.0)


def _apply(state: TrainState, role: str, loss_fn) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step on `role` with the gradient of `loss_fn(params) -> (loss, metrics)`."""
    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params[role])
    grads, metrics = _over_devices(state, (grads, {"loss": loss, **metrics}))
    updates, opt_state = state.optimizer(role).update(grads, state.opt_state[role], state.params[role])
    params = optax.apply_updates(state.params[role], updates)
    metrics["grad_norm"] = optax.tree.norm(grads)
    new_state = state.replace(
        params={**state.params, role: params}, opt_state={**state.opt_state, role: opt_state}
    )
    return new_state, metrics


def sft_update(state: TrainState, batch: dict) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of supervised training of the policy on packed rows.

    Args:
      batch: tokens, segment_ids, positions i32[B, L] and loss_mask bool[B, L].

    Returns:
      The state one step on, and `loss` (mean negative log-likelihood of the targets), `entropy`,
      `accuracy` in the sense of probability mass on the target, `targets` and `grad_norm`.
    """
    total = _count(state, batch["loss_mask"][:, 1:])

    def loss_fn(params):
        logprobs, entropy, mask = packed_logprobs(params, state.model("policy"), batch)
        metrics = {
            "entropy": masked_mean(entropy, mask, total),
            "target_prob": masked_mean(jnp.exp(jax.lax.stop_gradient(logprobs)), mask, total),
        }
        return nll_loss(logprobs, mask, total), metrics

    state, metrics = _apply(state, "policy", loss_fn)
    return state.replace(step=state.step + 1), {**metrics, "targets": total}


def reward_update(state: TrainState, batch: dict) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of the reward model on ranked answers; all pairs of a prompt come from one forward.

    Args:
      batch: tokens i32[B, K, L], mask bool[B, K, L], ranks f32[B, K], valid bool[B, K].

    Returns:
      The state one step on, and `loss`, `accuracy` and `margin` over ordered pairs, `score`, `grad_norm`.
    """
    prompts, answers, length = batch["tokens"].shape
    total = _over_devices(state, count_ranked(batch["ranks"], batch["valid"]))
    answer_total = _count(state, batch["valid"])

    def loss_fn(params):
        tokens = batch["tokens"].reshape(prompts * answers, length)
        mask = batch["mask"].reshape(prompts * answers, length)
        scores = answer_scores(params, state.model("reward"), tokens, mask).reshape(prompts, answers)
        loss, metrics = ranking_loss(scores, batch["ranks"], batch["valid"], total=total)
        metrics["score"] = masked_mean(jax.lax.stop_gradient(scores), batch["valid"], answer_total)
        return loss, metrics

    state, metrics = _apply(state, "reward", loss_fn)
    return state.replace(step=state.step + 1), metrics


def policy_update(state: TrainState, batch: Experience) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of the actor on one minibatch: clipped surrogate, KL in the loss and replay where configured.

    Returns:
      The state with new policy parameters (`step` counts iterations and stays), and metrics of
      `ppo_policy_loss` with `entropy`, `loss`, `grad_norm`, `logprob_diff` (mean |logprobs - old_logprobs|).
    """
    config = state.ppo
    total = _count(state, batch.mask)
    ptx_total = _count(state, batch.ptx["loss_mask"][:, 1:]) if config.ptx_coef else None

    def loss_fn(params):
        logprobs, entropy = response_logprobs(
            params, state.model("policy"), batch.prompts, batch.prompt_mask, batch.responses, batch.mask,
            temperature=config.temperature,
        )  # fmt: skip
        loss, metrics = ppo_policy_loss(
            logprobs, batch.old_logprobs, batch.advantages, batch.mask, total=total,
            cliprange=config.cliprange, cliprange_high=config.cliprange_high or None, dual_clip=config.dual_clip,
        )  # fmt: skip
        difference = jnp.abs(jax.lax.stop_gradient(logprobs) - batch.old_logprobs)
        metrics["entropy"] = masked_mean(entropy, batch.mask, total)
        metrics["logprob_diff"] = masked_mean(difference, batch.mask, total)
        if config.kl_in == "loss":
            kl = masked_mean(kl_estimate(logprobs, batch.ref_logprobs, config.kl_kind, batch.mask), batch.mask, total)
            loss = loss + state.kl.kl_coef * kl
            metrics["kl_loss"] = jax.lax.stop_gradient(kl)
        if config.ptx_coef:
            ptx_logprobs, _, ptx_mask = packed_logprobs(params, state.model("policy"), batch.ptx)
            ptx = nll_loss(ptx_logprobs, ptx_mask, ptx_total)
            loss = loss + config.ptx_coef * ptx
            metrics["ptx_loss"] = jax.lax.stop_gradient(ptx)
        return loss, metrics

    return _apply(state, "policy", loss_fn)


def value_update(state: TrainState, batch: Experience) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of the critic on one minibatch; metrics of `ppo_value_loss` with `loss` and `grad_norm`."""
    total = _count(state, batch.mask)

    def loss_fn(params):
        values = response_values(
            params, state.model("value"), batch.prompts, batch.prompt_mask, batch.responses, batch.mask
        )
        return ppo_value_loss(
            values, batch.values, batch.returns, batch.mask, cliprange_value=state.ppo.cliprange_value, total=total
        )

    return _apply(state, "value", loss_fn)
