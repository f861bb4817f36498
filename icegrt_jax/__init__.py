"""RLHF as in ICE-GRT (arXiv 2401.02072), in JAX: SFT, reward model, PPO, evaluation.

import icegrt_jax as ice
model = ice.load_model("runs/quickstart/ppo")
print(ice.generate(model, ["review this ad. ..."], key=jax.random.key(0)).text)
"""

import importlib
import os
from typing import TYPE_CHECKING

from icegrt_jax.version import __version__

# Without torch, importing transformers prints "PyTorch was not found"; this package needs none.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

if TYPE_CHECKING:
    from icegrt_jax import rl, training
    from icegrt_jax.api import load_model
    from icegrt_jax.models.api import Model, save_model
    from icegrt_jax.sampling.generate import generate

_HOME = {
    "Model": "icegrt_jax.models.api",
    "load_model": "icegrt_jax.api",
    "save_model": "icegrt_jax.models.api",
    "generate": "icegrt_jax.sampling.generate",
}
_MODULES = ("rl", "training")

__all__ = ["Model", "__version__", "generate", "load_model", "rl", "save_model", "training"]


def __getattr__(name: str):
    # Loaded on first use: the command line checks a config before it imports jax.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"icegrt_jax.{name}")
    raise AttributeError(f"module 'icegrt_jax' has no attribute {name!r}")
