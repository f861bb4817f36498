"""Problems small enough to know the answer: a model of eight tokens, one prompt of one token, scores from a function.

Sampler, `score` and `ppo_update` are the library's own; only the reward model is not a model.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from icegrt_jax.models.config import ModelConfig
from icegrt_jax.rl import AdaptiveKL, masked_mean
from icegrt_jax.sampling import SamplerConfig, sample_responses, sequence_keys
from icegrt_jax.training.optimizers import OptimizerConfig
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.state import PPOConfig, TrainState, create_state
from tests.models.examples import make_params

MODEL = ModelConfig(
    vocab_size=8, d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, d_ff=16, max_length=16
)
PROMPT = jnp.ones((1, 1), jnp.int32)
PLAIN_SCORES = {"score_scale": "none", "score_clip": 0.0, "eos_penalty": 0.0}  # a reward is what the function says


def toy_state(optimizer: OptimizerConfig, *, kl_coef: float, **ppo) -> TrainState:
    """Actor and reference are the same; the critic, where there is one, knows nothing."""
    policy, config = lambda: make_params(MODEL, seed=0), PPOConfig(**{**PLAIN_SCORES, **ppo})
    trees = {"policy": policy(), "reference": policy()}
    if config.critic:
        trees["value"] = make_params(MODEL, seed=7, scalar_head=True)
    trained = [role for role in ("policy", "value") if role in trees]
    return create_state(
        jax.random.key(1), trees, dict.fromkeys(trees, MODEL), dict.fromkeys(trained, optimizer),
        ppo=config, kl=AdaptiveKL.create(kl_coef, adaptive=False),
    )  # fmt: skip


def train(state: TrainState, sampler: SamplerConfig, scores_of: Callable, *, rows: int, iterations: int):
    """The state after PPO and its metrics f32[iterations], with `value` (mean of the critic's, as it learned; 0 without
    one).

    Args:
      scores_of: rollout -> f32[B].
    """
    prompts = jnp.broadcast_to(PROMPT, (rows, 1))

    def iterate(state, _):
        keys = sequence_keys(jax.random.key(2), state.step * rows, rows)
        mask = jnp.ones_like(prompts, jnp.bool_)
        rollout = sample_responses(keys, state.params["policy"], prompts, mask, model=MODEL, config=sampler)
        state, experience, scored = score(state, rollout, scores_of(rollout))
        value = 0.0 if experience.values is None else masked_mean(experience.values, experience.mask)
        return ppo_update(state, experience)[0], {**scored, "value": value}

    return jax.jit(lambda state: jax.lax.scan(iterate, state, length=iterations))(state)
