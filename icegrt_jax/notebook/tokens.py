"""A text with a number for each of its tokens, in colours."""

import html
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from icegrt_jax.models.api import Model
from icegrt_jax.notebook.answers import messages_of, words_of

GREEN, RED = "46, 125, 50", "198, 40, 40"


class Tokens:
    """A text whose tokens are coloured by a number each, green above the middle and red below it."""

    def __init__(self, title: str, tokens: Sequence[str], values: np.ndarray):
        self.title, self.tokens, self.values = title, list(tokens), np.asarray(values, np.float32)

    def __str__(self) -> str:
        lines = [f"{value:8.3f}  {token!r}" for token, value in zip(self.tokens, self.values)]
        return "\n".join([self.title, *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        off = self.values - np.median(self.values)
        limit = float(np.abs(off).max(initial=0.0)) or 1.0
        spans = "".join(
            f'<span title="{value:.3f}" style="background: rgba({GREEN if x > 0 else RED}, '
            f"{0.5 * abs(x) / limit:.2f}); "
            f'white-space: pre-wrap">{html.escape(token)}</span>'
            for token, value, x in zip(self.tokens, self.values, off)
        )
        return f"<p>{html.escape(self.title)}</p><p><code>{spans}</code></p>"


def score_by_token(model: Model, prompt: Any, response: str) -> Tokens:
    """What a reward model would say if the answer ended after each of its tokens; the last one is its score."""
    model.need_scores("score_by_token")
    ids, start = model.tokenizer.encode_answer(messages_of(prompt), response)
    tokens = jnp.asarray([ids], jnp.int32)
    values = np.asarray(model.values(model.params, tokens, jnp.ones(tokens.shape, bool)))[0]
    pieces = model.tokenizer.pieces(ids[start:])
    return Tokens(f"score {values[-1]:.3f} of the answer to: {words_of(prompt)}", pieces, values[start:])
