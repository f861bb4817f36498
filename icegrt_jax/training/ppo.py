"""PPO's two programs after the rollout: score it, then learn from it."""

import jax
import jax.numpy as jnp

from icegrt_jax.errors import UserError
from icegrt_jax.rl import kl_estimate, masked_mean, whiten, whitening_std
from icegrt_jax.sampling import Rollout
from icegrt_jax.sharding.constrain import constrain_batch
from icegrt_jax.sharding.mesh import platform
from icegrt_jax.sharding.pmap import all_rows, own_rows
from icegrt_jax.training import warmup
from icegrt_jax.training.advantages import learned_from
from icegrt_jax.training.forward import rows_logprobs, rows_scalars
from icegrt_jax.training.microbatch import block_count, joined
from icegrt_jax.training.optimizers import skip_update
from icegrt_jax.training.packing import Packed, Packing
from icegrt_jax.training.ppo_metrics import means_over_updates
from icegrt_jax.training.rewards import centred_verdicts, final_scores, rewards_of, scaled_sum, verdicts
from icegrt_jax.training.scaling import scaling_metrics
from icegrt_jax.training.state import Experience, Opinions, PPOConfig, TrainState, with_ema
from icegrt_jax.training.updates import policy_update, policy_value_update, value_update


def read_roles(state: TrainState, rollout: Rollout, *, reward: bool = False) -> dict[str, jax.Array]:
    """What the models say of a rollout, the packed rows of `score_batch` of them at a time.

    Args:
      reward: the reward model as well.

    Returns:
      `ref_logprobs`, `values` (where there is a critic) and `old_logprobs` f32[B, T], the last the sampler's, or with
      `recompute_logprobs` those of the policy's own forward pass; with `reward` also `scores` f32[B], the verdicts on
      prompt + response, of several reward models f32[B, M].
    """
    if rollout.temperature not in (None, state.ppo.temperature):
        raise UserError(
            f"the rollout was sampled at temperature {rollout.temperature:g} and PPO is at {state.ppo.temperature:g}: "
            "their log-probs are of different distributions; use one temperature for both."
        )
    packing = Packing(rollout.prompt_mask, rollout.mask, rollout.packing.score)
    rows = packing.tokens(rollout.prompts, rollout.responses)
    count = block_count(rollout.mask.shape[0], state.ppo.score_batch)
    read = joined(lambda block: _read_rows(state, block, reward=reward), rows, count)

    old_logprobs = rollout.logprobs
    if state.ppo.recompute_logprobs:
        old_logprobs = packing.responses(read["logprobs"])
    found = {"ref_logprobs": packing.responses(read["ref_logprobs"])}
    if state.ppo.critic:
        found["values"] = packing.before_responses(read["values"])
    found["old_logprobs"] = old_logprobs
    return found | ({"scores": packing.last(read["scores"])} if reward else {})


def _read_rows(state: TrainState, rows: Packed, *, reward: bool) -> dict[str, jax.Array]:
    """f32[R, W] of each token: log-probs of it, the values and scores after it."""
    config, model, temperature = state.ppo, state.model("policy"), state.ppo.temperature
    reference = rows_logprobs(state.full("reference"), model, rows, temperature=config.penalty_temperature)
    read = {"ref_logprobs": reference[0]}
    if config.critic:
        read["values"] = rows_scalars(state.full("value"), state.model("value"), rows)
    if config.recompute_logprobs:
        read["logprobs"] = rows_logprobs(state.full("policy"), model, rows, temperature=temperature)[0]
    if reward:
        read["scores"] = rows_scalars(state.full("reward"), state.model("reward"), rows)
    return read


def read_scores(state: TrainState, rollout: Rollout) -> jax.Array:
    """The reward model's verdicts f32[B] alone, for `score`; the packed rows of `score_batch` of them at a time.

    Of several reward models f32[B, M].
    """
    packing = Packing(rollout.prompt_mask, rollout.mask, rollout.packing.score)
    params, model = state.full("reward"), state.model("reward")
    rows = packing.tokens(rollout.prompts, rollout.responses)
    count = block_count(rollout.mask.shape[0], state.ppo.score_batch)
    return packing.last(joined(lambda block: rows_scalars(params, model, block), rows, count))


def score(
    state: TrainState,
    rollout: Rollout,
    scores: jax.Array | None = None,
    read: dict | None = None,
    opinions: dict[str, Opinions] | None = None,
    baseline: jax.Array | None = None,
    sources: jax.Array | None = None,
) -> tuple[TrainState, Experience, dict[str, jax.Array]]:
    """Scores, reference log-probs, values, KL penalty, rewards, advantages and returns, in one program.

    Args:
      scores: f32[B], the reward model's verdicts where it has read the responses as text, with a tokenizer
        of its own; of several reward models f32[B, M]. By default it reads the rollout's ids, here.
      read: what `read_roles` has returned, where the roles have read the rollout already: without `reward` where
        `scores` are given or there is no reward model.
      opinions: of each of `PPOConfig.rewards`.
      baseline: f32[B / group_size], likewise, the scores of the prompts' reference answers, with
        `PPOConfig.score_baseline`.
      sources: i32[B], of which of `TrainState.source_stats` each prompt is, counted by name.

    Returns:
      The state with the moments of the scores and the KL coefficient moved on (the rewards, or the loss, use
      the coefficient from before), the experience, and metrics, each f32[] but `score_histogram` and
      `scaled_histogram` f32[B]. `score_raw` and `score_histogram` are the reward model's alone, where there is one.
    """
    has_model = bool(state.ppo.reward_model)
    if read is None:
        read = read_roles(state, rollout, reward=has_model and scores is None)
    scores = read.pop("scores") if has_model and scores is None else scores
    # Statistics are of the whole batch: under pmap every device computes them from all rows, which are small.
    given = (rollout, scores, read, opinions or {}, baseline, sources)
    rollout, scores, read, opinions, baseline, sources = all_rows(given, state.axis_name)
    config, mask = state.ppo, rollout.mask
    ref_logprobs, old_logprobs, values = read["ref_logprobs"], read["old_logprobs"], read.get("values")

    raw = None if scores is None else verdicts(state, scores)
    scores, of_members = centred_verdicts(state, scores, baseline)
    state, scaled = scaled_sum(state, scores, opinions, sources)
    lengths = jnp.sum(mask, axis=1, dtype=jnp.int32)
    token_kl, kl_coef = kl_estimate(old_logprobs, ref_logprobs, "k1", mask), state.kl.kl_coef
    scored = final_scores(config, scaled, rollout.finished, mask)
    rewards = plain_rewards = rewards_of(config, scored, token_kl, mask, kl_coef)
    unit = jnp.ones(())  # of the reward that the advantages are in: a KL in the loss has to be in it as well
    if config.whiten_rewards:
        unit = unit * whitening_std(rewards, mask)
        rewards = whiten(rewards, mask, shift_mean=False)
    learned = learned_from(config, scored, rewards, values, mask, rollout.finished, unit)

    kl = jnp.mean(jnp.sum(token_kl, axis=1))
    of_model = {"score_raw": jnp.mean(raw), "score_histogram": raw, **of_members} if has_model else {}
    metrics = {
        **of_model,
        **{f"source/{name}/mean": stats.mean for name, stats in state.source_stats.items()},
        **{f"source/{name}/std": stats.std for name, stats in state.source_stats.items()},
        "score_scaled": jnp.mean(scaled),
        "rewards": jnp.mean(jnp.sum(rewards, axis=1)),
        "kl": kl,
        "kl_coef": kl_coef,
        "length": jnp.mean(lengths.astype(jnp.float32)),
        "eos_rate": jnp.mean(rollout.finished.astype(jnp.float32)),
        **learned.metrics,
        **scaling_metrics(
            config,
            mask,
            (raw if has_model else None, scaled),
            (plain_rewards, rewards),
            (learned.raw, learned.advantages),
        ),
        "scaled_histogram": scaled,
    }
    if config.recompute_logprobs:
        metrics["sampler_logprob_diff"] = masked_mean(jnp.abs(old_logprobs - rollout.logprobs), mask)
    experience = Experience(
        rollout.prompts, rollout.prompt_mask, rollout.responses, mask,
        old_logprobs=old_logprobs, ref_logprobs=ref_logprobs, values=values,
        advantages=learned.advantages, returns=learned.returns, keep=learned.keep, rows=rollout.packing.update,
        kl_coef=jnp.full(lengths.shape, kl_coef / learned.unit) if config.kl_in == "loss" else None,
    )  # fmt: skip
    state = state.replace(kl=state.kl.update(kl, mask.shape[0]))
    return state, own_rows(experience, state.axis_name), metrics


def epoch_keys(key: jax.Array, step: jax.Array, epochs: int) -> jax.Array:
    """The key of each epoch's order in an iteration, key[epochs]."""
    return jax.random.split(jax.random.fold_in(key, step), epochs)


def minibatch_order(key: jax.Array, step: jax.Array, config: PPOConfig, rows: int) -> jax.Array:
    """The rows of each minibatch of an iteration, i32[epochs * minibatches, size]: every epoch in a new order."""
    keys = epoch_keys(key, step, config.num_ppo_epochs)
    epochs = jax.vmap(lambda key: jax.random.permutation(key, rows))(keys)
    return epochs.reshape(-1, rows // config.num_minibatches)


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
    update = jax.jit(update, inline=True)  # traced once, for its shapes and for the body of the loop
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
    renamed = {"loss": "value_loss", "grad_norm": "value_grad_norm", "skipped": "value_skipped"}
    metrics = {"policy_loss": metrics.pop("loss"), **metrics}
    return state, {**metrics, **{renamed.get(name, name): x for name, x in value_metrics.items()}}


def _policy_alone(state: TrainState, minibatch: Experience) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of the actor where there is no critic."""
    state, metrics = policy_update(state, minibatch)
    return state, {"policy_loss": metrics.pop("loss"), **metrics}


def _only_critic_before(new: TrainState, old: TrainState) -> TrainState:
    """The new state, with the old actor as long as only the critic is to learn."""
    if not old.ppo.value_warmup:
        return new
    actor = lambda state: (state.params["policy"], state.opt_state["policy"])
    learning = old.warmup["over"] if old.warmup else old.step >= old.ppo.value_warmup
    params, opt_state = jax.tree.map(lambda x, y: jnp.where(learning, x, y), actor(new), actor(old))
    return new.replace(params={**new.params, "policy": params}, opt_state={**new.opt_state, "policy": opt_state})


def ppo_update(state: TrainState, experience: Experience) -> tuple[TrainState, dict[str, jax.Array]]:
    """All epochs and minibatches of one iteration in one program.

    Every epoch visits the rows in a new order. Once `approx_kl` of a minibatch passes
    `kl_early_stop`, the rest of the iteration's updates are skipped; the learning rates go on as if they were made,
    so that a schedule ends with the run. The actor's begins after `value_warmup`, or with `value_flat` once the
    critic's error is flat.

    Returns:
      The state one iteration on, and the means of the minibatch metrics over the updates made, with
      `updates` (their number), `first_ratio_error` (mean |ratio - 1| and `first_logprob_diff` of the
      iteration's first minibatch: nothing but numerics when the policy has not moved yet). `skipped`, and
      `value_skipped` of a critic with a trunk of its own, f32[updates]: 1 where one was not finite.
    """
    experience = all_rows(experience, state.axis_name)  # under pmap, so that minibatches are those of one device
    config, rows = state.ppo, experience.mask.shape[0]
    order = minibatch_order(state.key, state.step, config, rows)
    part = jnp.tile(jnp.arange(config.num_minibatches), config.num_ppo_epochs)

    def update(state, minibatch):
        step = policy_value_update if config.vf_coef else _separate_updates if config.critic else _policy_alone
        new_state, metrics = step(state, minibatch)
        return _only_critic_before(new_state, state), metrics

    def skip(state):
        skipped = state.replace(opt_state={role: skip_update(own) for role, own in state.opt_state.items()})
        return _only_critic_before(skipped, state)

    def one(carry, xs):
        state, stopped = carry
        picked, index = xs
        minibatch = own_rows(_minibatch(experience, picked, index, config.num_minibatches), state.axis_name)
        if config.kl_early_stop:
            shapes = jax.eval_shape(update, state, minibatch)[1]
            nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            state, metrics = jax.lax.cond(stopped, lambda: (skip(state), nothing), lambda: update(state, minibatch))
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
    means, learned = means_over_updates(metrics, made)
    if state.warmup:
        moved = warmup.moved(state.warmup, means["value_error"], config.value_warmup)
        state = state.replace(warmup=jax.tree.map(lambda x, y: jnp.where(learned, x, y), moved, state.warmup))
        means |= warmup.said(state.warmup)
    return with_ema(state.replace(step=state.step + 1)), means
