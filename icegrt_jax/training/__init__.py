"""The state of a run, the update steps, and what keeps them: checkpoints, metrics, progress."""

from icegrt_jax.training.optimizers import OptimizerConfig
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.state import Experience, PPOConfig, TrainState, create_state
from icegrt_jax.training.updates import policy_update, reward_update, sft_update, value_update

__all__ = [
    "Experience",
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
