"""Whether two models go back to the same one, by their weights: what is said of a model may be missing or wrong.

Fine-tuning moves weights by little: those of two models from one base point the same way, cosine near 1. Weights of two
trainings that began apart have a cosine near 0, whatever they were trained on.
"""

import dataclasses
from typing import Any, Protocol

import numpy as np

from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.members import Members
from icegrt_jax.models.tree import flatten, unstacked

SAME = 0.5  # cosine from which two models go back to the same one
SHAPE = ("family", "d_model", "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_ff")


@dataclasses.dataclass(frozen=True)
class Kinship:
    """same: whether they go back to one model. why: what tells. cosine: of their weights, None where shapes differ."""

    same: bool
    why: str
    cosine: float | None = None


class Weights(Protocol):
    """A model, as far as it is compared."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def params(self) -> Any: ...


def compare(model: Weights, other: Weights) -> Kinship:
    """Of two models; vectors (norms, biases) and heads count for nothing, nor what has another shape."""
    shapes = [tuple(getattr(one.config, name) for name in SHAPE) for one in (model, other)]
    if shapes[0] != shapes[1]:
        differ = [f"{name} {a} and {b}" for name, a, b in zip(SHAPE, *shapes, strict=True) if a != b]
        return Kinship(False, f"other shapes: {', '.join(differ)}")
    trees = [one.params.whole(0) if isinstance(one.params, Members) else one.params for one in (model, other)]
    ours, theirs = (flatten(unstacked(tree, one.config)[0]) for tree, one in zip(trees, (model, other), strict=True))
    sums = np.zeros(3)
    for path, leaf in ours.items():
        if path in theirs and not path.startswith("head/") and leaf.ndim > 1 and leaf.shape == theirs[path].shape:
            a, b = (np.asarray(x, np.float32).ravel() for x in (leaf, theirs[path]))
            sums += [np.dot(a, b), np.dot(a, a), np.dot(b, b)]
    cosine = float(sums[0] / np.sqrt(max(sums[1] * sums[2], 1e-30)))
    return Kinship(cosine >= SAME, f"the cosine of their weights is {cosine:.2f}", cosine)
