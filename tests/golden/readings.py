"""What a model that was stored says of a few tokens: numbers to keep beside it and to compare with."""

import jax.numpy as jnp
import numpy as np

from icegrt_jax.models.heads import scalars
from icegrt_jax.models.transformer import hidden_states

TOKENS = np.array([[5, 17, 101, 250, 33, 7, 64], [1, 2, 3, 90, 91, 92, 0]], np.int32)
MASK = np.array([[True] * 7, [True] * 6 + [False]])
SHOWN = 16  # logits of the last token of the first row


def logits(model) -> list[float]:
    """Of an `icegrt_jax.Model`."""
    return np.asarray(model.logits(model.params, jnp.asarray(TOKENS), jnp.asarray(MASK)))[0, -1, :SHOWN].tolist()


def scores(config, params) -> list[float]:
    """Of a scalar model's shape and parameters, one for each token of the first row."""
    hidden = hidden_states(params, config, jnp.asarray(TOKENS), jnp.asarray(MASK))
    return np.asarray(scalars(params, hidden))[0].tolist()
