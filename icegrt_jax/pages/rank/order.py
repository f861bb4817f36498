"""In which order a person sees prompts and answers: another one for each, the same after every restart.

An order is that of checksums, so it needs no memory, and prompts that come later change nothing among the others.
"""

import hashlib
from collections.abc import Iterable, Sequence


def prompts(seed: int, annotator: str, keys: Sequence[str]) -> list[int]:
    """Places of the prompts, by their keys."""
    return sorted(range(len(keys)), key=lambda place: _drawn(seed, annotator, keys[place]))


def answers(seed: int, annotator: str, key: str, again: bool, count: int) -> list[int]:
    """Places of the answers to a prompt as they are shown; another order when the prompt is shown again."""
    order = sorted(range(count), key=lambda place: _drawn(seed, annotator, key, "again" if again else "first", place))
    if again and order == answers(seed, annotator, key, False, count):
        order.append(order.pop(0))
    return order


def to_show_again(seed: int, annotator: str, ranked: Iterable[str], shown: set[str]) -> str:
    """The key of a prompt whose ranking is old enough to be asked for again; "" where there is none.

    Args:
      ranked: keys of those that the annotator has ranked, the newest last.
      shown: keys of those that have been asked for again.
    """
    old = [key for key in [*ranked][:-5] if key not in shown]  # the last five are still remembered
    return min(old, key=lambda key: _drawn(seed, annotator, key, "again"), default="")


def _drawn(*parts: object) -> bytes:
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).digest()
