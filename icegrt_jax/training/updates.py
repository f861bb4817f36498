"""The update steps: pure functions `(state, batch) -> (state, metrics)`, jitted or pmapped by the caller.

Means are over the valid tokens of the global batch. Under pmap each device computes its share
(`total` is summed over devices first) and gradients and metrics are added up. `TrainState.microbatch` does the same
with the rows of a batch, one block after another.

An update whose loss or gradient is not finite is skipped: parameters and moments stay as they are, and its metrics are
0 but for `skipped`, which is 1 there and 0 otherwise. Its place in the learning rate's schedule counts.
"""

import jax
import jax.numpy as jnp
import optax

from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import scalars, token_logprobs, token_loss
from icegrt_jax.rl import count_ranked, masked_mean, nll_loss, ppo_value_loss, ranking_loss, same_responses
from icegrt_jax.sharding.constrain import constrain_params
from icegrt_jax.training.forward import is_trees, packed_hidden, ranked_hidden, rows_hidden, rows_scalars
from icegrt_jax.training.microbatch import block_count, summed
from icegrt_jax.training.optimizers import skip_update
from icegrt_jax.training.packing import Minibatch, pack_experience
from icegrt_jax.training.policy_loss import over_devices, policy_loss_fn, targets_of, token_weights, valid_in_all
from icegrt_jax.training.state import Experience, TrainState


def _apply(
    state: TrainState, roles: tuple[str, ...], loss_fn, batch, sequences: int = 0
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step on each of `roles` with the gradient of `loss_fn(batch, *complete_params) -> (loss, metrics)`.

    Gradients are of the roles' own trees only: of an adapter or a head where that is all a role has. They are added
    up over blocks of `state.microbatch` rows, so loss and metrics must be shares of means over the global batch.
    Where rows hold several of `sequences`, there are as many blocks as if each had a row of its own.
    `grad_norm` is the first role's.
    """

    def from_own(own, block):
        # A head on another role's trunk moves that trunk too: both are differentiated here.
        trees = state.replace(params={**state.params, **own})
        return loss_fn(block, *(trees.full(role) for role in roles))

    def gradient(block):
        out, grads = jax.value_and_grad(from_own, has_aux=True)(own, block)
        return out, constrain_params(grads)

    own = {role: state.params[role] for role in roles}
    count = block_count(sequences or jax.tree.leaves(batch)[0].shape[0], state.microbatch)
    (loss, metrics), grads = summed(gradient, batch, count)
    grads, metrics = over_devices(state, (grads, {"loss": loss, **metrics}))
    norms = {"grad_norm" if role == roles[0] else f"{role}_grad_norm": optax.tree.norm(grads[role]) for role in roles}
    finite = jnp.isfinite(jnp.stack([metrics["loss"], *norms.values()])).all()
    keep = lambda new, old: jax.tree.map(lambda x, y: jnp.where(finite, x, y), new, old)
    params, opt_state = dict(state.params), dict(state.opt_state)
    for role in roles:
        own, before = state.params[role], state.opt_state[role]
        updates, after = state.optimizer(role).update(grads[role], before, own)
        params[role] = keep(optax.apply_updates(own, updates), own)
        opt_state[role] = keep(after, skip_update(before))
    metrics = {name: jnp.where(finite, x, 0.0) for name, x in {**metrics, **norms}.items()}
    return state.replace(params=params, opt_state=opt_state), {**metrics, "skipped": 1.0 - finite.astype(jnp.float32)}


def sft_update(state: TrainState, batch: dict) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of supervised training of the policy on packed rows.

    Args:
      batch: tokens, segment_ids, positions i32[B, L] and loss_mask bool[B, L].

    Returns:
      The state one step on, and `loss` (mean negative log-likelihood of the targets), `entropy`,
      `target_prob` (mean probability of the targets), `targets` (their number), `grad_norm` and `skipped`.
    """
    total = valid_in_all(state, batch["loss_mask"][:, 1:])

    def of_tokens(logprobs, entropy, mask):
        metrics = {
            "entropy": masked_mean(entropy, mask, total),
            "target_prob": masked_mean(jnp.exp(jax.lax.stop_gradient(logprobs)), mask, total),
        }
        return nll_loss(logprobs, mask, total), metrics

    def loss_fn(batch, params):
        model = state.model("policy")
        return token_loss(of_tokens, params, model, *packed_hidden(params, model, batch), most=targets_of(batch))

    state, metrics = _apply(state, ("policy",), loss_fn, batch)
    return state.replace(step=state.step + 1), {**metrics, "targets": total}


def sft_sums(state: TrainState, batch: dict) -> dict[str, jax.Array]:
    """Of the targets of a batch of `sft_update`: sums of `loss` and `target_prob`, and `targets`, their number."""
    of_tokens = lambda logprobs, entropy, mask: (
        nll_loss(logprobs, mask, jnp.float32(1)),
        {"target_prob": jnp.sum(jnp.where(mask, jnp.exp(logprobs), 0.0))},
    )
    model, params = state.model("policy"), state.full("policy")
    loss, metrics = token_loss(of_tokens, params, model, *packed_hidden(params, model, batch), most=targets_of(batch))
    return {"loss": loss, **metrics, "targets": jnp.sum(batch["loss_mask"][:, 1:], dtype=jnp.float32)}


def reward_update(state: TrainState, batch: dict, *, lm_coef: float = 0.0) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of the reward model on ranked answers; all pairs of a prompt come from one forward.

    Answers that are the same tokens make no pair.

    With `lm_coef` that many times `lm_loss` is added: the negative log-likelihood of the best answer to each prompt, so
    that the trunk keeps what a language model knows (arXiv 2406.10216, section 3.2, "SFT regularization", there on a
    frozen output head).

    Args:
      batch: tokens i32[B, K, L], mask bool[B, K, L], ranks f32[B, K], valid bool[B, K], and with `lm_coef` start
        i32[B, K], see `data.pipeline`; or without `lm_coef` trees: tokens, positions, ends i32[B, W], last i32[B, K].
      lm_coef: where it is not 0, `state.params` has the "unembedding" if that is not the trunk's embedding.

    Returns:
      The state one step on, and `loss`, `accuracy` and `margin` over ordered pairs, `score`, `grad_norm`, `skipped`.
    """
    total = over_devices(state, count_ranked(batch["ranks"], batch["valid"], _same(batch)))
    answer_total = valid_in_all(state, batch["valid"])
    target_total = valid_in_all(state, _best_answers(batch)["targets"]) if lm_coef else None

    def loss_fn(batch, params):
        hidden, scores = ranked_hidden(params, state.model("reward"), batch)
        loss, metrics = ranking_loss(scores, batch["ranks"], batch["valid"], same=_same(batch), total=total)
        metrics["score"] = masked_mean(jax.lax.stop_gradient(scores), batch["valid"], answer_total)
        if lm_coef:
            language_model = {**params, **state.params.get("unembedding", {})}
            metrics["lm_loss"] = _lm_loss(language_model, state.model("reward"), hidden, batch, target_total)
            loss += lm_coef * metrics["lm_loss"]
        return loss, metrics

    state, metrics = _apply(state, ("reward",), loss_fn, batch)
    return state.replace(step=state.step + 1), metrics


def _same(batch: dict) -> jax.Array:
    """bool[B, K, K], which answers are the same tokens; in a tree they end at one place."""
    if is_trees(batch):
        return batch["last"][:, :, None] == batch["last"][:, None, :]
    return same_responses(batch["tokens"], batch["mask"])


def _lm_loss(params: dict, model: ModelConfig, hidden: jax.Array, batch: dict, total: jax.Array) -> jax.Array:
    """The negative log-likelihood f32[] of the best answers, a mean over their tokens; hidden f[B, K, L, D]."""
    best = _best_answers(batch)
    hidden = jnp.take_along_axis(hidden, best["place"][:, None, None, None], axis=1)[:, 0, :-1]
    most = batch["tokens"].shape[-1] - 1
    logprobs, _ = token_logprobs(params, model, hidden, best["tokens"], best["targets"], most=most)
    return nll_loss(logprobs, best["targets"], total)


def _best_answers(batch: dict) -> dict[str, jax.Array]:
    """Of each prompt the best answer, the first of several: its place i32[B], tokens i32[B, L-1] from the second on,
    and which of them are the answer's, `targets` bool[B, L-1]."""
    place = jnp.argmin(jnp.where(batch["valid"], batch["ranks"], jnp.inf), axis=1)
    of_best = lambda x: jnp.take_along_axis(x, place.reshape(-1, *(1,) * (x.ndim - 1)), axis=1)[:, 0]
    tokens, mask, start = (of_best(batch[name]) for name in ("tokens", "mask", "start"))
    answer = mask & (jnp.arange(tokens.shape[1])[None] >= start[:, None])
    return {"place": place, "tokens": tokens[:, 1:], "targets": answer[:, 1:]}


def policy_update(state: TrainState, batch: Experience) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of the actor on one minibatch: clipped surrogate, KL, entropy and replay where configured.

    Returns:
      The state with new policy parameters (`step` counts iterations and stays), and metrics of
      `ppo_policy_loss` with `entropy`, `loss`, `grad_norm`, `logprob_diff` (mean |logprobs - old_logprobs|),
      `ratio_error` (mean |ratio - 1|), and with the KL in the loss `kl_loss`, its mean before the coefficient.
    """
    rows = pack_experience(batch, token_weights(state, batch))
    return _apply(state, ("policy",), policy_loss_fn(state, batch), rows, batch.mask.shape[0])


def value_update(state: TrainState, batch: Experience) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of the critic on one minibatch; metrics of `ppo_value_loss` with `loss` and `grad_norm`."""
    total = valid_in_all(state, batch.mask)

    def loss_fn(batch, params):
        return _value_loss(state, rows_scalars(params, state.model("value"), batch.packed), batch, total)

    return _apply(state, ("value",), loss_fn, pack_experience(batch), batch.mask.shape[0])


def policy_value_update(state: TrainState, batch: Experience) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of actor and critic where the critic is a head on the actor's hidden states.

    One forward pass serves both; the loss is the actor's plus `vf_coef` times the critic's (Schulman et al.
    2017, https://arxiv.org/abs/1707.06347, eq. 9), and its gradient moves trunk and head.

    Returns:
      The state, and the metrics of `policy_update` with `value_loss`, `value_grad_norm` and those of `ppo_value_loss`.
    """
    total = valid_in_all(state, batch.mask)
    policy_loss = policy_loss_fn(state, batch)

    def loss_fn(batch, policy, value):
        hidden = rows_hidden(policy, state.model("policy"), batch.packed)
        loss, metrics = policy_loss(batch, policy, hidden)
        value_loss, value_metrics = _value_loss(state, scalars(value, hidden), batch, total)
        shown = {"policy_loss": jax.lax.stop_gradient(loss), "value_loss": jax.lax.stop_gradient(value_loss)}
        return loss + state.ppo.vf_coef * value_loss, {**metrics, **shown, **value_metrics}

    rows = pack_experience(batch, token_weights(state, batch))
    return _apply(state, ("policy", "value"), loss_fn, rows, batch.mask.shape[0])


def _value_loss(state: TrainState, values: jax.Array, batch: Minibatch, total: jax.Array):
    """Of values f32[R, W] after each token, the one before a response token being its own."""
    assert batch.values is not None and batch.returns is not None, "a critic learns from returns"
    old, returns, mask = (x[:, 1:] for x in (batch.values, batch.returns, batch.packed.mask))
    clip = state.ppo.cliprange_value
    return ppo_value_loss(values[:, :-1], old, returns, mask, cliprange_value=clip, total=total)
