"""The numbers of a PPO run so far, means of windows of them with their errors, and what an alarm reads off them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icegrt_jax.config.options import AlarmOptions, PPOOptions


@dataclasses.dataclass(frozen=True)
class Given:
    """What the rows do not say.

    Attributes:
      options: `ppo.alarms`.
      drift: `ppo.logprob_alarm`. warmup: `ppo.value_warmup`.
      reward: the number that is optimised: the reward model's, or the sum where there are functions.
      ranked: the reward model's accuracy on its held-out rankings, where it is known.
      sharper: the reference's temperature in that of the sampler, 1 at most: so much less entropy is what it asks for.
    """

    options: AlarmOptions = AlarmOptions()
    drift: float = PPOOptions.logprob_alarm
    warmup: int = 0
    reward: str = "score_raw"
    ranked: float | None = None
    sharper: float = 1.0


@dataclasses.dataclass(frozen=True)
class Reading:
    """What an alarm has measured: `beyond` the bound by the errors, or `within` it, or between the two.

    Attributes:
      metric: whose curve shows it. said: the measurement in words.
    """

    metric: str
    value: float
    bound: float
    beyond: bool
    within: bool
    said: str


class History:
    """The numbers of a run so far, by name, with the steps they are of."""

    def __init__(self):
        self._columns: dict[str, tuple[list[int], list[float]]] = {}

    def add(self, step: int, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if value is not None and np.isfinite(value):
                steps, values = self._columns.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def steps(self, name: str) -> list[int]:
        return self._columns.get(name, ([], []))[0]

    def values(self, name: str) -> list[float]:
        return self._columns.get(name, ([], []))[1]

    def until(self, name: str, step: int, count: int) -> float:
        """Mean of the last `count` values up to a step."""
        end = int(np.searchsorted(self.steps(name), step, side="right"))
        return float(np.mean(self.values(name)[max(end - count, 0) : end]))


def noise(values: Sequence[float]) -> float:
    """Standard deviation of single values around their trend, by the differences of neighbours (von Neumann 1941)."""
    return float(np.sqrt(np.mean(np.square(np.diff(values))) / 2)) if len(values) > 1 else 0.0


def window(values: Sequence[float], count: int) -> tuple[float, float]:
    """Mean of the last `count` values and its standard error."""
    return float(np.mean(values[-count:])), noise(values[-4 * count :]) / count**0.5
