"""What a run has to know of a stage before it begins: every stage says it in its own file, as `STAGE`."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from icegrt_jax.config.options import Options
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.runs.reading import Reading
from icegrt_jax.runs.rundir import Run


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run, with a folder of its own in the workdir.

    Attributes:
      name: of the folder, and of its section of the config.
      train: (run, config): does all that is not done yet; its inputs have been checked.
      after: (run, config): what is done by every command that comes to it, when it has finished.
      steps: of its training; 0 where it does not train.
      due: whether the config has it do anything; by default, whether it trains.
      needs: the stages that have to have finished.
      check_config: refuses what it cannot be with, of the config alone.
      readings: (config, the policy's tokenizer, the reward model's) -> its sources; None: it reads none.
      check: (config, workdir, the policy's tokenizer): refuses what else its inputs may lack; gives warnings.
      only_measures: it leaves no model, and reads others' only.
      title, panels: of its curves in the report.
    """

    name: str
    train: Callable[[Run, Options], None]
    after: Callable[[Run, Options], None] = lambda run, config: None
    steps: Callable[[Options], int] = lambda config: 0
    due: Callable[[Options], Any] | None = None
    needs: Callable[[Options], Sequence[str]] = lambda config: ()
    check_config: Callable[[Options], None] = lambda config: None
    readings: Callable[[Options, ChatTokenizer, ChatTokenizer], Iterable[Reading]] | None = None
    check: Callable[[Options, pathlib.Path, ChatTokenizer], Sequence[str]] = lambda *_: ()
    only_measures: bool = False
    title: str = ""
    panels: Sequence[Any] = ()

    @property
    def is_due(self) -> Callable[[Options], Any]:
        """Whether a config has it do anything."""
        return self.due or self.steps
