"""RLHF as in ICE-GRT (arXiv 2401.02072), in JAX: SFT, reward model, PPO, evaluation.

import icegrt_jax as ice
model = ice.load_model("runs/quickstart/ppo")
print(ice.generate(model, ["review this ad. ..."], key=jax.random.key(0)).text)

`dir(ice)` lists what there is; docs/python.md tells it.
"""

import importlib
import os
import warnings
from typing import TYPE_CHECKING

from icegrt_jax.version import __version__

# Without torch, importing transformers prints "PyTorch was not found"; this package needs none.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
# Without ipywidgets it has a notebook begin with a red warning about a bar that is never shown.
warnings.filterwarnings("ignore", "IProgress not found")

if TYPE_CHECKING:
    from icegrt_jax import rl, training
    from icegrt_jax.api.models import load_model, score
    from icegrt_jax.api.policy import ppo
    from icegrt_jax.api.rollout import ScoredRollout
    from icegrt_jax.api.scratch import new_model, pretrain
    from icegrt_jax.api.supervised import sft, train_reward
    from icegrt_jax.api.training import Training
    from icegrt_jax.config import options
    from icegrt_jax.errors import UserError
    from icegrt_jax.models.api import Model, save_model
    from icegrt_jax.sampling.generate import Generation, generate
    from icegrt_jax.sampling.rollout import Rollout

_HOME = {
    "Generation": "icegrt_jax.sampling.generate",
    "Model": "icegrt_jax.models.api",
    "Rollout": "icegrt_jax.sampling.rollout",
    "ScoredRollout": "icegrt_jax.api.rollout",
    "Training": "icegrt_jax.api.training",
    "UserError": "icegrt_jax.errors",
    "generate": "icegrt_jax.sampling.generate",
    "load_model": "icegrt_jax.api.models",
    "new_model": "icegrt_jax.api.scratch",
    "ppo": "icegrt_jax.api.policy",
    "pretrain": "icegrt_jax.api.scratch",
    "save_model": "icegrt_jax.models.api",
    "score": "icegrt_jax.api.models",
    "sft": "icegrt_jax.api.supervised",
    "train_reward": "icegrt_jax.api.supervised",
}
_MODULES = {"options": "icegrt_jax.config.options", "rl": "icegrt_jax.rl", "training": "icegrt_jax.training"}

__all__ = [
    "Generation", "Model", "Rollout", "ScoredRollout", "Training", "UserError", "__version__", "generate", "load_model",
    "new_model", "options", "ppo", "pretrain", "rl", "save_model", "score", "sft", "train_reward", "training",
]  # fmt: skip


def __getattr__(name: str):
    # Loaded on first use: the command line checks a config before it imports jax.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'icegrt_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
