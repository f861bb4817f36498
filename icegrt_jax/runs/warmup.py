"""How long the critic of a run learns alone, and when a run whose warm-up was shorter than the longest ends."""

import pathlib

from icegrt_jax.config.options import PPOOptions
from icegrt_jax.hosts import sync
from icegrt_jax.runs import loop
from icegrt_jax.training.metrics import read_metrics


class Warmup:
    """Says when the critic's error is flat, and ends the stage once the actor has had its iterations.

    They are `ppo.iterations` less `ppo.value_warmup` however long the critic took, so that a schedule ends with them.

    Args:
      folder: of the stage, where the metrics say what has been decided; None where they are not kept.

    Attributes:
      length: iterations of the warm-up, the longest as long as it is not over.
    """

    def __init__(self, ppo: PPOOptions, folder: pathlib.Path | None = None):
        self.length = ppo.value_warmup
        self._ppo, self._folder, self._over = ppo, folder, not ppo.value_flat

    def last(self) -> int:
        """The last iteration."""
        return self.length + self._ppo.iterations - self._ppo.value_warmup

    def actors(self, step: int) -> int:
        """The iterations up to this one in which the actor has learned."""
        return max(step - self.length, 0)

    def info(self) -> dict[str, int]:
        """What `done.json` says."""
        return {"value_warmup": self.length} if self._ppo.value_flat else {}

    def begin(self, step: int | None) -> bool:
        if not self._ppo.value_flat:
            return False
        self.length, self._over = self._ppo.value_warmup, False
        if step is not None:
            self._look_at(*sync.from_main("ppo: the critic's warm-up is looked for", lambda: self._kept(step)))
        return step is not None and step >= self.last()

    def after(self, step: int, outcome: loop.Outcome, write: loop.Write) -> bool:
        if not self._ppo.value_flat:
            return False
        was = self._over
        self._look_at(outcome.metrics["value_warmup"], outcome.metrics["value_warmup_over"])
        if self._over and not was and sync.is_main():
            why = (
                "its error is flat" if self.length < self._ppo.value_warmup else "the longest that ppo.value_warmup has"
            )
            print(f"ppo: the critic has learned alone for {self.length} iterations: {why}", flush=True)
        return step >= self.last()

    def _look_at(self, length: float, over: float) -> None:
        if over:
            self.length, self._over = int(length), True

    def _kept(self, step: int) -> tuple[float, float]:
        rows = [] if self._folder is None else read_metrics(self._folder / "metrics.jsonl")
        found = [row for row in rows if row["step"] == step and "value_warmup" in row]
        return (found[-1]["value_warmup"], found[-1]["value_warmup_over"]) if found else (0.0, 0.0)
