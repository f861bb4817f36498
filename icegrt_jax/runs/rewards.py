"""The user's reward functions in a run: loaded, called on the host while the device works, and what a failure does.

`ppo.rewards` names them. The main process of a run calls them, in a thread or in worker processes, and tells the
others. What a function may give stands in `reward_call.py`, what becomes of its numbers in
`training.rewards.scaled_sum`.
"""

import dataclasses
import math
import pathlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from icegrt_jax import plugins
from icegrt_jax.config.options import PPOOptions
from icegrt_jax.data.fields import shown
from icegrt_jax.data.records import Prompt
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.runs.loop import Left, Unlearned
from icegrt_jax.runs.reward_call import ARGUMENTS, Failed, Function, Value
from icegrt_jax.runs.reward_callers import Caller, Here, Worker
from icegrt_jax.training.state import Opinions

FAILURES = "reward_failures.txt"  # in the stage's folder: tracebacks
TRACES = 3  # written of one function in one iteration
LOOK_EVERY = 0.2  # seconds, whether to wait no longer
STOP, NONE = "stop", "none"  # what `ppo.reward_failed` may be, beside a number


class RewardError(Unlearned):
    """A reward function has failed, before anything of the iteration was learned."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What all functions say of a batch.

    Attributes:
      values: {name: a number for each response, None without an opinion}.
      failed: {name: responses that were given `ppo.reward_failed`}; empty where that is to stop.
    """

    values: dict[str, list[float | None]]
    failed: dict[str, int] = dataclasses.field(default_factory=dict)

    def opinions(self) -> dict[str, Opinions]:
        """For `training.ppo.score`, on the host."""
        return {
            name: Opinions(
                values=np.array([0.0 if value is None else value for value in values], np.float32),
                known=np.array([value is not None for value in values]),
            )
            for name, values in self.values.items()
        }

    def metrics(self) -> dict[str, float]:
        """Of each function its raw mean and the share with an opinion; how many failed, where that may be."""
        found: dict[str, float] = {}
        for name, values in self.values.items():
            known = [value for value in values if value is not None]
            if known:
                found[f"reward/{name}"] = math.fsum(known) / len(known)
            found[f"reward/{name}/known"] = len(known) / len(values)
            if name in self.failed:
                found[f"reward/{name}/failed"] = self.failed[name]
        return found

    def of(self, i: int) -> dict[str, float | None]:
        """What each function says of one response."""
        return {name: values[i] for name, values in self.values.items()}


class Rewards:
    """The functions of a run, ready to be called; `close` ends their workers.

    Args:
      specs: {name: "FILE.py:NAME", or a function}.
      limit: seconds that a call of a function may take; 0: no limit.
      workers: processes, each with a part of a batch, the responses to a prompt together; 0: a thread of this process.
      failed: what becomes of a response where a function fails: STOP, NONE (no opinion) or a number as text.
      folder: where tracebacks are written; None: nowhere.
      leave: whether to wait for them no longer, asked of the main process; what they would have said is asked again.
    """

    def __init__(
        self,
        specs: Mapping[str, str | Function],
        *,
        limit: float = 0.0,
        workers: int = 0,
        failed: str = STOP,
        folder: pathlib.Path | None = None,
        leave: Callable[[], bool] = lambda: False,
    ):
        self.failed, self._folder, self._leave = failed, folder, leave
        self.specs = dict(specs)
        self.named = {name: _shown_spec(name, spec) for name, spec in specs.items()}
        # Only the main process calls them: the others need not have their files.
        functions = {name: load(name, spec) for name, spec in specs.items() if sync.is_main()}
        self._callers: list[Caller] = [Here(functions, limit)]
        if workers and specs:
            if any(not isinstance(spec, str) for spec in specs.values()):
                raise UserError("ppo.reward_workers is for functions named FILE.py:NAME; a process imports them.")
            keyed = {name: (_key(name), str(spec)) for name, spec in specs.items()}
            self._callers = [Worker(keyed, limit) for _ in range(workers)]

    def __bool__(self) -> bool:
        return bool(self.named)

    def __enter__(self) -> "Rewards":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        for caller in self._callers:
            caller.close()

    def ask(
        self,
        what: str,
        records: Sequence[Prompt],
        responses: Sequence[str],
        *,
        group: int = 1,
        names: Sequence[str] | None = None,
    ) -> Callable[[], Answer]:
        """Begins to call the functions; what is given back waits for the answer.

        Args:
          what: the batch is, for errors: "ppo, iteration 3".
          records: of each response; `group` that follow each other are the same.
          names: of the functions; None: all.

        Raises:
          RewardError: in every process, from what is given back, where a function fails and that is to stop the run.
          Left: likewise, where nobody is to wait any longer.
        """
        if not self:
            return lambda: Answer({})
        if not sync.is_main():
            return lambda: self._told(what, None)
        names = list(self.named) if names is None else names
        parts = _parts(len(records), group, len(self._callers))
        found: list[dict[str, list[Value]]] = [{} for _ in parts]

        def work(caller: Caller, part: slice, own: dict[str, list[Value]]) -> None:
            for name in names:
                own[name] = caller.call(name, responses[part], records[part])

        threads = [
            threading.Thread(target=work, args=(caller, part, own), daemon=True)
            for caller, part, own in zip(self._callers, parts, found)
        ]
        for thread in threads:
            thread.start()

        def wait() -> Answer:
            for thread in threads:
                while thread.is_alive():
                    thread.join(LOOK_EVERY)
                    if thread.is_alive() and self._leave():
                        return self._told(what, lambda: {"left": True})
            joined = {name: [value for own in found for value in own[name]] for name in names}
            return self._told(what, lambda: self._settled(what, joined, records, responses))

        return wait

    def _told(self, what: str, settle: Callable[[], dict[str, Any]] | None) -> Answer:
        """What the main process makes of the values, in all of them."""
        # As long as it takes: of a main process that is gone its silence is noticed.
        told = sync.from_main(f"reward functions, {what}", settle or dict, timeout=math.inf)
        if "left" in told:
            raise Left
        if "stop" in told:
            error = RewardError(told["stop"])
            if told.get("trace") and self._folder is None:  # else it is in a file there
                error.add_note(told["trace"])
            raise error
        return Answer(told["values"], told["failed"])

    def _settled(
        self, what: str, found: Mapping[str, list[Value]], records: Sequence[Prompt], responses: Sequence[str]
    ) -> dict[str, Any]:
        """The values with those that failed replaced, as JSON; or the sentence with which the run stops."""
        values: dict[str, list[float | None]] = {}
        failed: dict[str, int] = {}
        instead = None if self.failed in (STOP, NONE) else float(self.failed)
        for name, given in found.items():
            bad = {i: value for i, value in enumerate(given) if isinstance(value, Failed)}
            if bad:
                self._write(what, name, bad, records, responses)
            if bad and self.failed == STOP:
                return {"stop": self._sentence(what, name, bad, records), "trace": bad[min(bad)].trace}
            if self.failed != STOP:
                failed[name] = len(bad)
            values[name] = [instead if isinstance(value, Failed) else value for value in given]
        return {"values": values, "failed": failed}

    def _sentence(self, what: str, name: str, bad: Mapping[int, Failed], records: Sequence[Prompt]) -> str:
        first, count = min(bad), len(records)
        where = f"response {first + 1} of {count}" if len(bad) < count else f"all {count} responses, the first"
        traces = f" Its traceback is in {self._folder / FAILURES}." if self._folder and bad[first].trace else ""
        more = f" ({len(bad)} in all)" if 1 < len(bad) < count else ""
        return (
            f"{what}: the reward function {self.named[name]} {bad[first].reason}; for {where}{more}, to "
            f"{_place(records[first])}.{traces} Correct it and give the same command again, or set ppo.reward_failed "
            "to what such a response is given."
        )

    def _write(
        self,
        what: str,
        name: str,
        bad: Mapping[int, Failed],
        records: Sequence[Prompt],
        responses: Sequence[str],
    ) -> None:
        """Adds the tracebacks to the file, of different failures `TRACES` at most."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        different: dict[str, int] = {}
        for i, failure in bad.items():
            different.setdefault(failure.reason, i)
        with open(self._folder / FAILURES, "a", encoding="utf-8") as file:
            for i in list(different.values())[:TRACES]:
                file.write(
                    f"{what}: {self.named[name]} {bad[i].reason}\n  response {i + 1} of {len(records)}, to "
                    f"{_place(records[i])}: {shown(responses[i])}\n{bad[i].trace}\n"
                )


def own_rewards(ppo: PPOOptions, folder: pathlib.Path | None, workers: int | None = None, **more: Any) -> Rewards:
    """Those that the options name; `workers` in the place of theirs, `more` of `Rewards`."""
    count = ppo.reward_workers if workers is None else workers
    return Rewards(
        ppo.rewards, limit=ppo.reward_timeout, workers=count, failed=ppo.reward_failed, folder=folder, **more
    )


def try_out(ppo: PPOOptions, records: Sequence[Prompt]) -> list[str]:
    """Calls all functions on some records with their reference as the response, and without one with an empty one.

    Returns:
      A warning where one fails on them and `ppo.reward_failed` lets it.

    Raises:
      UserError: one cannot be loaded or called, or fails and that is to stop the run.
    """
    with own_rewards(dataclasses.replace(ppo, reward_failed=STOP), None, min(ppo.reward_workers, 1)) as rewards:
        try:
            rewards.ask("tried on references", records, [record.reference or "" for record in records])()
        except RewardError as error:
            if ppo.reward_failed == STOP:
                raise
            return [str(error)]
    return []


def load(name: str, spec: str | Function) -> tuple[Function, pathlib.Path | None]:
    """The function, which can be called with a batch, and its file."""
    function = plugins.load(_key(name), spec) if isinstance(spec, str) else spec
    plugins.check_function(_key(name), spec if isinstance(spec, str) else _shown_spec(name, spec), function, *ARGUMENTS)
    return function, plugins.file_of(spec) if isinstance(spec, str) else _file(function)


def _file(function: Function) -> pathlib.Path | None:
    code = getattr(function, "__code__", None)
    return pathlib.Path(code.co_filename) if code is not None else None


def _key(name: str) -> str:
    return f"ppo.rewards.{name}"


def _shown_spec(name: str, spec: str | Function) -> str:
    title = spec if isinstance(spec, str) else getattr(spec, "__qualname__", type(spec).__name__)
    return f"{name} ({title})"


def _place(record: Prompt) -> str:
    """Where a record stands, and its first words."""
    words = shown(" ".join(str(record.prompt[-1]["content"]).split()))
    return f"{record.where}, {words}" if record.where else words


def _parts(count: int, group: int, parts: int) -> list[slice]:
    """The rows of a batch in at most so many parts, groups whole."""
    edges = [round(i * (count // group) / parts) * group for i in range(parts + 1)]
    return [slice(a, b) for a, b in zip(edges, edges[1:]) if b > a]
