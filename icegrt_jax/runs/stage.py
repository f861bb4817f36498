"""What a run has to know of a stage before it begins: every stage says it in its own file, as `STAGE`."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from icegrt_jax.config.options import Options
from icegrt_jax.data.records import Record
from icegrt_jax.data.tokenizers import ChatTokenizer

Fit = Callable[[Sequence[Any]], tuple[list, dict[str, int]]]


@dataclasses.dataclass(frozen=True)
class Reading:
    """A source that a stage reads.

    Attributes:
      key: of the config, such as sft.sources.domain.
      spec: FORMAT:PATH.
      fit: what the stage makes of the records, with its counts.
      length: what they have to fit, in words.
      limit: records that are read; 0: all.
      later: it is made by the run, which has to rank answers for it, before it is read.
      check: refuses records that cannot be judged, or ranked.
      measures: nothing is trained on it, so it may change at any time.
    """

    key: str
    spec: str
    kind: type[Record]
    fit: Fit
    length: str
    limit: int = 0
    later: bool = False
    check: Callable[[Sequence[Any]], None] = lambda records: None
    measures: bool = False


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run, with a folder of its own in the workdir.

    Attributes:
      name: of the folder, and of its section of the config.
      train: (config, workdir): does all that is not done yet; its inputs have been checked.
      steps: of its training; 0 where it does not train.
      due: whether the config has it do anything; by default, whether it trains.
      needs: the stages that have to have finished.
      readings: (config, the policy's tokenizer, the reward model's) -> its sources.
      check: (config, workdir, the policy's tokenizer): refuses what else its inputs may lack; gives warnings.
      only_measures: it leaves no model, and reads others' only.
      title, panels: of its curves in the report.
    """

    name: str
    train: Callable[[Options, pathlib.Path], None]
    steps: Callable[[Options], int] = lambda config: 0
    due: Callable[[Options], Any] | None = None
    needs: Callable[[Options], Sequence[str]] = lambda config: ()
    readings: Callable[[Options, ChatTokenizer, ChatTokenizer], Iterable[Reading]] = lambda *_: ()
    check: Callable[[Options, pathlib.Path, ChatTokenizer], Sequence[str]] = lambda *_: ()
    only_measures: bool = False
    title: str = ""
    panels: Sequence[Any] = ()
