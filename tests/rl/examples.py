"""Random inputs of the shape a rollout gives, shared by the property tests."""

import numpy as np

GARBAGE = (1e4, np.nan, np.inf, -np.inf)

# Rows: cut short by EOS in the middle, without EOS, one token, nothing at all.
MASK = np.arange(5)[None, :] < np.array([3, 5, 1, 0])[:, None]


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rollout(seed: int, count: int) -> np.ndarray:
    """f32[count, 4, 5], `count` arrays to go with `MASK`."""
    return normal(seed, count, *MASK.shape)


def soiled(x: np.ndarray, mask: np.ndarray, garbage: float) -> np.ndarray:
    """`x` with `garbage` wherever `mask` is False."""
    return np.where(mask, x, np.float32(garbage))
