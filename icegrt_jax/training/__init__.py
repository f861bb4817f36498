"""The state of a run, the update steps, and what keeps them: checkpoints, metrics, progress.

>>> model = ice.load_model("models/policy")
>>> state = ice.training.create_state(
...     jax.random.key(0), {"policy": model.params}, {"policy": model.config},
...     {"policy": ice.training.OptimizerConfig(lr=1e-3, total_steps=1)},
... )
>>> tokens = jnp.array([[5, 6, 7, 8]])
>>> ones = jnp.ones_like(tokens)
>>> batch = {"tokens": tokens, "segment_ids": ones, "positions": jnp.arange(4)[None], "loss_mask": ones > 0}
>>> state, metrics = jax.jit(ice.training.sft_update)(state, batch)
>>> int(state.step), int(metrics["targets"])
(1, 3)
"""

from icegrt_jax.training.optimizers import OptimizerConfig
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.state import Experience, Opinions, PPOConfig, TrainState, create_state
from icegrt_jax.training.updates import policy_update, reward_update, sft_update, value_update

__all__ = [
    "Experience",
    "Opinions",
    "OptimizerConfig",
    "PPOConfig",
    "TrainState",
    "create_state",
    "policy_update",
    "ppo_update",
    "reward_update",
    "score",
    "sft_update",
    "value_update",
]
