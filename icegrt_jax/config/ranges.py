"""The ranges of the numbers of a config, each stated in the type of its option, beside the default.

    lam: Share = 0.95

NaN and the infinities are in none, nor what is outside as the programs have it: they compute in 32 bits.
"""

import dataclasses
import math
import struct
from typing import Annotated, Any, get_args, get_origin

from icegrt_jax.errors import UserError

MOST = 2**31 - 1  # of whole numbers: what an i32 holds
LARGEST, SMALLEST = 3.4e38, 1.2e-38  # of other numbers: what a float32 holds; what is smaller counts as 0


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that an option may be.

    Attributes:
      low, high: the smallest and the largest.
      above, below: whether these themselves are outside.
      also: numbers apart from the others, each with a meaning of its own.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    also: tuple[float, ...] = ()

    def holds(self, value: float) -> bool:
        """Whether the number is in the range."""
        value = _computed_with(value) if isinstance(value, float) else value
        over = self.low < value if self.above else self.low <= value
        under = value < self.high if self.below else value <= self.high
        return value in self.also or (over and under and abs(value) <= LARGEST)

    def check(self, key: str, value: float) -> None:
        """Raises UserError naming key, value and range where the number is not in it."""
        if self.holds(value):
            return
        most = MOST if self.high == MOST else LARGEST
        words = f"{most} at most" if self.high >= MOST and most < value < math.inf else str(self)
        raise UserError(f"{key}={value}; expected {words}.")

    def __str__(self) -> str:
        """In words that go on from "expected"."""
        return ", or ".join([*(f"{value:g}" for value in self.also), self._interval()])

    def _interval(self) -> str:
        low, high = f"{self.low:.10g}", f"{self.high:.10g}"
        if self.high in (math.inf, MOST):
            words = f"a number above {low}" if self.above else f"{low} or more"
            return "a finite number" if self.low == -math.inf else words
        if self.low == -math.inf:
            return f"{high} or less"
        if self.above:
            return f"a number above {low}, {high} at most"
        return f"{low} or more and below {high}" if self.below else f"{low} to {high}"


def _computed_with(value: float) -> float:
    """The number as a float32."""
    if not abs(value) <= LARGEST:
        return value
    value = struct.unpack("f", struct.pack("f", value))[0]
    return 0.0 if abs(value) < SMALLEST else value


def split(kind: Any) -> tuple[Any, Range | None]:
    """The type of an option without its range, and the range."""
    if get_origin(kind) is not Annotated:
        return kind, None
    plain, *notes = get_args(kind)
    return plain, next((note for note in notes if isinstance(note, Range)), None)


Number = Annotated[float, Range()]  # any
Amount = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1)]
Probability = Annotated[float, Range(0, 1, above=True)]
Decay = Annotated[float, Range(0, 1, below=True)]  # of a running mean, which at 1 would never move
Count = Annotated[int, Range(0, MOST)]
Size = Annotated[int, Range(1, MOST)]
