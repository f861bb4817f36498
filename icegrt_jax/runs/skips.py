"""Updates that were skipped because loss or gradient was not finite: counted, and too many in a row end the stage."""

from collections.abc import Callable
from typing import Any

import numpy as np

from icegrt_jax.hosts import sync
from icegrt_jax.training.finite import TrainingError


class Skips:
    """Counts them in a stage.

    One is a batch that went wrong. Several in a row, whatever their batches, are a model that has: the last update made
    has ruined it, so that nothing is saved meanwhile.

    Attributes:
      in_a_row: skipped one after another up to the last update.

    Args:
      stage: its name. most: in a row, which end it. left: says what there is to go on from, see `Checkpoints.left`.
    """

    def __init__(self, stage: str, most: int, left: Callable[[], str] = str):
        self._stage, self._most, self._left = stage, most, left
        self.in_a_row = 0
        self._first = 0  # step of the first of these

    def add(self, step: int, skipped: Any) -> int:
        """Takes in a step, and gives how many of its updates were skipped.

        Args:
          skipped: f32[] or f32[N], in their order, 1 where one was.

        Raises:
          TrainingError: so many in a row that the stage ends.
        """
        flags = np.atleast_1d(np.asarray(skipped)) > 0
        for flag in flags:
            self.in_a_row = self.in_a_row + 1 if flag else 0
            if self.in_a_row == 1:
                self._first = step
            if self.in_a_row >= self._most:
                raise TrainingError(f"{self._sentence(step)} {self._left()}".rstrip(), step=self._first)
        count = int(flags.sum())
        if count and sync.is_main():
            of = f"{count} of its {len(flags)} updates skipped" if len(flags) > 1 else "the update is skipped"
            print(f"{self._stage}  warning: step {step}: loss or gradient is not finite; {of}", flush=True)
        return count

    def _sentence(self, step: int) -> str:
        where = f"Step {step}" if self._first == step else f"Steps {self._first} to {step}"
        count = "an update" if self._most == 1 else f"{self._most} updates in a row"
        return f"{where}: not finite: loss or gradient of {count} (log.skipped={self._most}), which taught nothing."
