"""The actor's loss on packed rows: surrogate, KL and entropy in the loss, replay."""

import functools

import jax
import jax.numpy as jnp

from icegrt_jax.config.estimators import ESTIMATORS, aggregation_of
from icegrt_jax.models.heads import token_logprobs, token_loss
from icegrt_jax.rl import (
    aggregate,
    kl_estimate,
    loss_count,
    loss_weights,
    masked_mean,
    nll_loss,
    ppo_policy_loss,
    sequence_means,
)
from icegrt_jax.training.forward import packed_hidden, rows_hidden
from icegrt_jax.training.packing import Minibatch
from icegrt_jax.training.state import Experience, TrainState


def over_devices(state: TrainState, tree):
    """Sum over the pmap axis; under jit the arrays are global already."""
    return jax.lax.psum(tree, state.axis_name) if state.axis_name else tree


def valid_in_all(state: TrainState, mask: jax.Array) -> jax.Array:
    """Valid elements of the global batch, f32[], at least 1."""
    return jnp.maximum(over_devices(state, jnp.sum(mask, dtype=jnp.float32)), 1.0)


def targets_of(batch: dict) -> int:
    """Targets in a row of an SFT batch at most."""
    return batch["tokens"].shape[1] - 1


def token_weights(state: TrainState, batch: Experience) -> jax.Array | None:
    """f32[B, T], of the losses of a minibatch's tokens; None where it is their mean."""
    method = aggregation_of(state.ppo)
    if method == "token" and batch.keep is None:
        return None
    total = over_devices(state, loss_count(batch.mask, method, keep=batch.keep))
    return loss_weights(batch.mask, method, keep=batch.keep, total=total)


def policy_loss_fn(state: TrainState, batch: Experience):
    """`loss_fn(rows, params, hidden=None) -> (loss, metrics)` of the actor, shares of the means over `batch`.

    Of some of the packed rows; `hidden` saves their forward pass.
    """
    config, model = state.ppo, state.model("policy")
    total = valid_in_all(state, batch.mask)
    ptx_total = None
    if config.ptx_coef:
        assert batch.ptx is not None, "the replay has a coefficient, but no batch"
        ptx_total = valid_in_all(state, batch.ptx["loss_mask"][:, 1:])
    # Of the rollout: the controller has moved on since. In every row the same, which `max` says to a mesh.
    kl_coef = state.kl.kl_coef if batch.kl_coef is None else jnp.max(batch.kl_coef)
    of_tokens = functools.partial(_of_tokens, config, total, kl_coef)

    def of_replay(logprobs, _, mask):
        return nll_loss(logprobs, mask, ptx_total), {}

    def loss_fn(rows, params, hidden=None):
        if hidden is None:
            hidden = rows_hidden(params, model, rows.packed)
        reference = None
        if config.kl_in == "loss" and config.kl_kind == "exact":
            whole = state.full("reference")
            hidden_of_reference = rows_hidden(whole, model, rows.packed)[:, :-1]
            reference = whole, hidden_of_reference, config.penalty_temperature or 1.0
        arrays = [rows.packed.tokens, rows.packed.mask, rows.old_logprobs, rows.ref_logprobs, rows.advantages]
        more = {"weights": rows.weights}
        if ESTIMATORS[config.estimator].sequence_ratio:
            more["sequence_log_ratio"] = _sequence_log_ratio(state, params, rows, hidden, batch.mask.shape[0])
        given = {name: x for name, x in more.items() if x is not None}
        loss, metrics = token_loss(
            functools.partial(of_tokens, tuple(given)), params, model, hidden[:, :-1],
            *(x[:, 1:] for x in [*arrays, *given.values()]),
            most=rows.packed.most, temperature=config.temperature or 1.0, reference=reference,
            differentiate_entropy=bool(config.entropy_coef),
        )  # fmt: skip
        if config.ptx_coef:
            replay = packed_hidden(params, model, rows.ptx)
            ptx, _ = token_loss(of_replay, params, model, *replay, most=targets_of(rows.ptx))
            loss = loss + config.ptx_coef * ptx
            metrics = {**metrics, "ptx_loss": jax.lax.stop_gradient(ptx)}
        return loss, metrics

    return loss_fn


def _of_tokens(
    config, total, kl_coef, names, logprobs, entropy, mask, old_logprobs, ref_logprobs, advantages, *arrays, kl=None
):
    """The loss of some tokens and its metrics; `names` of what else there is of each: see `ppo_policy_loss`."""
    more = dict(zip(names, arrays, strict=True))
    weights = more.get("weights")
    loss, metrics = ppo_policy_loss(
        logprobs, old_logprobs, advantages, mask, total=total,
        cliprange=config.cliprange, cliprange_high=config.cliprange_high or None, dual_clip=config.dual_clip, **more,
    )  # fmt: skip
    difference = jax.lax.stop_gradient(logprobs) - old_logprobs
    metrics["entropy"] = masked_mean(jax.lax.stop_gradient(entropy), mask, total)
    metrics["logprob_diff"] = masked_mean(jnp.abs(difference), mask, total)
    metrics["ratio_error"] = masked_mean(jnp.abs(jnp.expm1(difference)), mask, total)
    if config.kl_in == "loss":
        kl = kl_estimate(logprobs, ref_logprobs, config.kl_kind, mask) if kl is None else kl
        kl = aggregate(kl, mask, total, weights)
        loss = loss + kl_coef * kl
        metrics["kl_loss"] = jax.lax.stop_gradient(kl)
    if config.entropy_coef:
        loss = loss - config.entropy_coef * aggregate(entropy, mask, total, weights)
    return loss, metrics


def _sequence_log_ratio(
    state: TrainState, params: dict, rows: Minibatch, hidden: jax.Array, sequences: int
) -> jax.Array:
    """f32[R, W], at each token the mean log-ratio of its whole response, held constant.

    A response may lie in several chunks of the loss, so its log-probs are read before: one more product with the
    vocabulary, without a gradient.
    """
    packed, fixed = rows.packed, jax.lax.stop_gradient((params, hidden[:, :-1]))
    mask, ids = packed.mask[:, 1:], packed.segment_ids[:, 1:]
    logprobs, _ = token_logprobs(
        fixed[0], state.model("policy"), fixed[1], packed.tokens[:, 1:], mask,
        most=packed.most, temperature=state.ppo.temperature or 1.0,
    )  # fmt: skip
    means = sequence_means(logprobs - rows.old_logprobs[:, 1:], mask, ids, sequences)
    return jnp.pad(means, ((0, 0), (1, 0)))
