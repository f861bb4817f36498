"""Learning rate and speed, for TensorBoard and trackers alone: a repeated run would not be as fast again."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax.runs import loop
from icegrt_jax.training.optimizers import OptimizerConfig, learning_rate
from icegrt_jax.training.state import TrainState


class Rates:
    """Writes them every so many steps.

    Args:
      optimizers: {role: its optimizer}.
      updates: (role, step) -> updates of the role made by then.
      tokens: of a step, by its outcome.
      steps: the last one.
    """

    def __init__(
        self, optimizers: dict[str, OptimizerConfig], updates: Callable[[str, int], int],
        tokens: Callable[[loop.Outcome], float], *, steps: int, every: int,
    ):  # fmt: skip
        # All of them at once, here: a schedule called in the loop would be compiled there.
        self._rates = {
            role: np.asarray(jax.vmap(learning_rate(config))(jnp.arange(max(updates(role, steps), 1))))
            for role, config in optimizers.items()
        }
        self._updates, self._tokens_of, self._every = updates, tokens, every
        self._tokens, self._steps, self._since = 0.0, 0, 0.0

    def begin(self, step: int | None) -> bool:
        self._tokens, self._steps, self._since = 0.0, 0, time.perf_counter()
        return False

    def after(self, step: int, outcome: loop.Outcome, write: loop.Write) -> bool:
        self._tokens, self._steps = self._tokens + self._tokens_of(outcome), self._steps + 1
        if step % self._every:
            return False
        now = time.perf_counter()
        seconds, name = now - self._since, "lr" if len(self._rates) == 1 else "{}_lr"
        rates = {}
        for role, of_role in self._rates.items():
            made = self._updates(role, step)
            rates[f"optimizer/{name.format(role)}"] = float(of_role[made - 1]) if made else 0.0
        write({
            **rates,
            "time/tokens_per_s": self._tokens / seconds,
            "time/steps_per_s": self._steps / seconds,
        })  # fmt: skip
        self._tokens, self._steps, self._since = 0.0, 0, now
        return False


def of_updates(state: TrainState, steps: int, every: int) -> Rates:
    """Of a stage whose every step is one update on a batch; the loop counts its tokens."""
    return Rates(
        dict(state.optimizers), lambda role, step: step, lambda outcome: outcome.tokens, steps=steps, every=every
    )
