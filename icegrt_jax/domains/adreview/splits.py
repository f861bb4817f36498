"""What is kept out of training, decided by checksum so that no list has to be stored.

Four things are held out of every training set:

* whole ads and whole general questions, by `bucket`;
* products (`HELD_OUT_NOUNS`, `HELD_OUT_BRANDS`);
* one in eight fillings of every phrase template, by `fillings`;
* pairs of rules that one ad breaks (`HELD_OUT_PAIRS`).
"""

import functools
import itertools
import zlib
from collections.abc import Iterable

from icegrt_jax.domains.adreview import phrases, rules

BUCKETS = ("train", "dev", "rank", "eval")

NOUNS = (
    "lamp", "chair", "mug", "tent", "bike", "watch", "pillow", "blanket", "soap", "cream", "tea", "snack",
    "game", "toy", "phone", "camera", "speaker", "jacket", "scarf", "bag", "pen", "clock", "fan", "mirror",
)  # fmt: skip
HELD_OUT_NOUNS = ("kettle", "brush", "table", "boot", "radio", "cake")

_STEMS = ("ze", "mi", "ka", "lo", "tu", "ri", "vo", "na")
_ENDINGS = ("no", "ra", "lux", "pex", "vi", "do")
_BRANDS = tuple(a + b for a, b in itertools.product(_STEMS, _ENDINGS))
HELD_OUT_BRANDS = _BRANDS[3::7]  # seven of 48; their stems and endings all occur in training brands too
BRANDS = tuple(brand for brand in _BRANDS if brand not in HELD_OUT_BRANDS)

HELD_OUT_PAIRS = frozenset(
    frozenset(pair)
    for pair in (
        (rules.PROMISED, rules.HIDDEN_COST),
        (rules.CURE, rules.RICHES),
        (rules.UNPROVEN, rules.AUTHORITY),
        (rules.PRESSURE, rules.ADULT_OFFER),
        (rules.CURE, rules.PRESSURE),
        (rules.UNPROVEN, rules.RICHES),
    )
)


def bucket(text: str) -> str:
    """The only set kind an ad or question may be used in: 13 of 16 are for training.

    "dev" is for watching a run, "rank" for measuring reward models, "eval" for the
    reported numbers.
    """
    return {0: "dev", 1: "rank", 2: "eval"}.get(_checksum(text) % 16, "train")


@functools.cache
def fillings(template: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All fillings of a phrase template: those for training, and those held out.

    `{noun}` stays unfilled: a phrase is not new because the product is.
    """
    names = phrases.slots(template)
    words = (("{noun}",) if name == "noun" else phrases.SLOTS[name] for name in names)
    filled = [template.format(**dict(zip(names, chosen, strict=True))) for chosen in itertools.product(*words)]
    filled.sort(key=_checksum)
    held_out = max(1, len(filled) // 8)
    return tuple(filled[held_out:]), tuple(filled[:held_out])


def has_held_out_pair(broken: Iterable[int]) -> bool:
    """Whether two of these rules never occur together in training."""
    return any(frozenset(pair) in HELD_OUT_PAIRS for pair in itertools.combinations(broken, 2))


def _checksum(text: str) -> int:
    # Not hash(): that is salted per process.
    return zlib.crc32(text.encode())
