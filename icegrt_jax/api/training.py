"""A training that the caller drives, one step at a time: the loop of the command line without its folder."""

import contextlib
import io
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import jax

from icegrt_jax.data.prefetch import Ahead
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model
from icegrt_jax.models.lora import merged
from icegrt_jax.runs.loop import Loop, Outcome, walked
from icegrt_jax.runs.rows import Single
from icegrt_jax.runs.session import Session
from icegrt_jax.runs.skips import Skips
from icegrt_jax.sharding.put import shard_tree
from icegrt_jax.training.metrics import Writers, plain_row
from icegrt_jax.training.progress import Progress
from icegrt_jax.training.state import TrainState


class Training:
    """What `ppo`, `sft` and `train_reward` return: a training in which nothing is done before it is asked for.

    Going over it does the steps and gives what is known of each; `finish` does all that are left and returns the model.
    One shape for the three, because the same questions are asked of each: how it goes, and what came out.

    Attributes:
      metrics: a row for each step done, {"step": 1, "loss": 0.3, ...}; of arrays, such as histograms, nothing.
      changes: (the step that it was made after, what was given) of each `change`.
      state: the `ice.training.TrainState` after the last step done. The next step takes its arrays.

    >>> model = ice.load_model("models/policy")
    >>> training = ice.sft(model, [{"prompt": "the cat", "response": "sat"}] * 8, steps=3, batch_size=8, length=32)
    >>> for step, metrics in training:
    ...     if step == 2:
    ...         break
    >>> tuned = training.finish()
    >>> [row["step"] for row in training.metrics]
    [1, 2, 3]
    """

    def __init__(
        self,
        session: Session,
        loop: Loop,
        state: TrainState,
        result: Callable[[TrainState], Model],
        *,
        seen: Callable[[Outcome], Any] = lambda outcome: outcome.more,
        change: Callable[[TrainState, Mapping[str, Any]], TrainState] | None = None,
        progress: bool = False,
        open_: contextlib.ExitStack | None = None,
    ):
        self.metrics: list[dict[str, Any]] = []
        self.changes: list[tuple[int, dict[str, Any]]] = []
        self.state = shard_tree(state, session.mesh)
        self._result, self._steps = result, loop.steps
        self._seen, self._change = seen, change
        self._made: Model | None = None
        self._open = open_ or contextlib.ExitStack()
        self._walk = self._steps_of(loop, progress)

    def __iter__(self) -> Iterator[tuple]:
        return self

    def __next__(self) -> tuple:
        with interrupts_wait():  # half a step would leave no state
            return next(self._walk)

    def __len__(self) -> int:
        """Steps in all."""
        return self._steps

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Ends it where it is; `model` can still be asked for."""
        self._walk.close()
        self._open.close()

    @property
    def model(self) -> Model:
        """The model as trained so far, with parameters of its own: training goes on without changing them."""
        if self._made is None:
            self._made = self._result(self.state)
        return self._made

    def change(self, **keys: Any) -> None:
        """Other options of PPO from the next iteration on; the state goes on from where it is.

        Args:
          keys: as of `ice.ppo`, such as kl={"coef": 0.2}, score={"scale": "none"}, whiten_rewards=True,
            policy_optimizer={"lr": 1e-5}; reward, a function in the place of the one there is, or several by name. One
            that decides how the training was built, such as batch_size or the estimator, is refused.

        >>> model = ice.load_model("models/policy")
        >>> short = lambda prompts, responses, records: [-len(text) for text in responses]
        >>> few = dict(iterations=2, batch_size=8, max_response_length=4, kl={"coef": 0.1, "adaptive": False})
        >>> training = ice.ppo(model, ["the cat", "the end"], reward=short, **few)
        >>> step, metrics, rollout = next(training)
        >>> training.change(kl={"coef": 0.5})
        >>> step, metrics, rollout = next(training)
        >>> float(metrics["kl_coef"]), training.changes
        (0.5, [(1, {'kl': {'coef': 0.5}})])
        """
        if self._change is None:
            raise UserError("only a training of ice.ppo can change; begin this one anew with the other options.")
        self.state = self._change(self.state, keys)
        self.changes.append((self.metrics[-1]["step"] if self.metrics else 0, keys))

    def finish(self) -> Model:
        """Does the steps that are left; returns the model."""
        for _ in self:
            pass
        return self.model

    def _steps_of(self, loop: Loop, shown: bool) -> Generator[tuple, None, None]:
        with self._open as open_:
            writer = open_.enter_context(Writers([_Rows(self.metrics)]))
            stream = None if shown else io.StringIO()
            progress = open_.enter_context(Progress(loop.steps, loop.stage, stream=stream))
            made = open_.enter_context(Ahead(loop.make, stop=loop.steps + 1))
            rows = Single(writer, progress, loop.shown, left=str, skips=Skips(loop.stage, loop.skipped))
            for step, outcome, _ in walked(loop, self.state, 0, made, rows, writer, progress):
                self.state, self._made = outcome.state, None
                row = dict(self.metrics[-1])
                yield (step, row) if outcome.more is None else (step, row, self._seen(outcome))


class _Rows:
    """Keeps one row for each step, as a `training.metrics.Writer`."""

    def __init__(self, rows: list[dict[str, Any]]):
        self._rows = rows

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        if not self._rows or self._rows[-1]["step"] != step:
            self._rows.append({"step": step})
        self._rows[-1].update(plain_row(metrics))

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C takes effect at the end of the block, and a second one at once; only the main thread can hold it back."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    asked: list[int] = []

    def hold(number: int, frame) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        before(asked[0], None)


def complete(state: TrainState, role: str) -> dict:
    """The parameters of a role as new arrays on the first device, an adapter merged in as a finished stage does."""
    part, own = dict(state.parts).get(role), state.params[role]
    whole = own if part is None else merged(state.full(part.base), own, part.lora)
    return jax.device_put(jax.device_get(whole), jax.devices()[0])
