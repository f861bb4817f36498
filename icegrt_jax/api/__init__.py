"""The Python API: what `import icegrt_jax as ice` offers beside the maths and the update steps. docs/python.md."""

from icegrt_jax.api.models import load_model, score
from icegrt_jax.api.policy import ppo
from icegrt_jax.api.scratch import new_model, pretrain
from icegrt_jax.api.supervised import sft, train_reward
from icegrt_jax.api.training import Training

__all__ = ["Training", "load_model", "new_model", "ppo", "pretrain", "score", "sft", "train_reward"]
