"""One call of a user's reward function, wherever it runs: numbers, or why a response has none.

A function takes a batch and gives a list, one item for each response: a number, or None where it has no opinion.

    def exact(prompts, responses, records):
        return [float(text == record.reference) for text, record in zip(responses, records)]

Knows nothing of JAX: it is what a worker process imports.
"""

import dataclasses
import math
import pathlib
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from icegrt_jax.data.fields import shown
from icegrt_jax.data.records import Messages, Prompt

ARGUMENTS = ("prompts", "responses", "records")
LARGEST = 3.4e38  # what float32 holds

Function = Callable[[list[Messages], list[str], list[Prompt]], Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Failed:
    """Why a response has no value.

    Attributes:
      reason: a clause whose subject is the function: "raised KeyError: 'price' (my_rewards.py, line 12)".
      trace: the function's own traceback, "" where there is none.
    """

    reason: str
    trace: str = ""


Value = float | None | Failed


def call(
    function: Function, file: pathlib.Path | None, responses: Sequence[str], records: Sequence[Prompt]
) -> list[Value]:
    """What the function says of each response; it never raises.

    Where it raises on the batch, each response is given to it alone, to find those it raises on. These have failed;
    the others are given to it once more together.

    Args:
      file: the function's own, whose line an error names.
    """
    try:
        return _checked(_called(function, responses, records), len(responses))
    except BaseException as error:  # also sys.exit(), which would end a thread without a word
        whole = _failure(error, file)
    if len(responses) == 1:
        return [whole]
    values: list[Value] = [None] * len(responses)
    for i in range(len(responses)):
        try:
            _called(function, responses[i : i + 1], records[i : i + 1])
        except BaseException as error:
            values[i] = _failure(error, file)
    left = [i for i, value in enumerate(values) if value is None]
    if len(left) == len(values):  # of none alone: it is the batch
        return [whole] * len(values)
    try:
        rest = [responses[i] for i in left], [records[i] for i in left]
        again = _checked(_called(function, *rest), len(left)) if left else []
    except BaseException:
        return [value or whole for value in values]
    for i, value in zip(left, again, strict=True):
        values[i] = value
    return values


def _called(function: Function, responses: Sequence[str], records: Sequence[Prompt]) -> Any:
    # Lists of its own: a function that sorts what it is given must not reorder ours.
    return function([record.prompt for record in records], list(responses), list(records))


def _checked(returned: Any, count: int) -> list[Value]:
    """The items of what a function has returned, each a number, None or a failure."""
    if isinstance(returned, str | bytes | dict) or not hasattr(returned, "__len__"):
        reason = f"returned {shown(returned)}, of type {type(returned).__name__}; expected a list of {count} items"
        return [Failed(reason)] * count
    if len(returned) != count:
        return [Failed(f"returned {len(returned)} items for {count} responses; expected one for each")] * count
    return [_number(item) for item in returned]


def _number(item: Any) -> Value:
    if item is None:
        return None
    kind = f"returned {shown(item)}"
    if isinstance(item, str | bytes) or not hasattr(item, "__float__"):
        return Failed(f"{kind}, of type {type(item).__name__}; expected a number, or None for no opinion")
    try:
        value = float(item)
    except (TypeError, ValueError, OverflowError) as error:
        return Failed(f"{kind}, which is no number ({error}); expected one, or None for no opinion")
    if not math.isfinite(value) or abs(value) > LARGEST:
        return Failed(f"{kind}; expected a finite number that float32 holds, or None for no opinion")
    return value


def _failure(error: BaseException, file: pathlib.Path | None) -> Failed:
    """What the function has raised, at the innermost line of its own file."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # without ours
    own = [frame for frame in frames if file is not None and frame.filename == str(file)] or frames
    where = f" ({pathlib.Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    said = " ".join("".join(traceback.format_exception_only(error)).split())
    return Failed(f"raised {said}{where}", "".join(traceback.format_exception(error)))
