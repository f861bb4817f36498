"""How far annotators agree, with each other and with themselves, and where they do not."""

import dataclasses
import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from icegrt_jax.evaluation import rated
from icegrt_jax.evaluation.raters import Rating
from icegrt_jax.pages.rank.store import Judgement

Ranks = Sequence[int | None]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of answers that two rankings both have: all, those in the same order, and those in the opposite one."""

    all: int = 0
    alike: int = 0
    opposite: int = 0

    def __add__(self, other: "Pairs") -> "Pairs":
        return Pairs(self.all + other.all, self.alike + other.alike, self.opposite + other.opposite)

    @property
    def share(self) -> float | None:
        """Of those alike; a tie is like a tie alone."""
        return self.alike / self.all if self.all else None


def pairs(one: Ranks, other: Ranks) -> Pairs:
    """Of two rankings of the same answers."""
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    signs = [(_sign(a[0] - b[0]), _sign(a[1] - b[1])) for a, b in itertools.combinations(both, 2)]
    return Pairs(len(signs), sum(a == b for a, b in signs), sum(a * b < 0 for a, b in signs))


def conflicts(judgements: Iterable[Judgement]) -> dict[int, int]:
    """{item: pairs that two annotators order in opposite ways}, the worst first; a tie is no conflict."""
    found = {
        item: sum((pairs(a.ranks or (), b.ranks or ()) for a, b in itertools.combinations(said, 2)), Pairs()).opposite
        for item, said in _by_item(judgements).items()
    }
    return {item: count for item, count in sorted(found.items(), key=lambda one: (-one[1], one[0])) if count}


def statistics_of(judgements: Sequence[Judgement]) -> dict[str, dict[str, Any]]:
    """Of each annotator: what they have done, how long one takes them, and how often they agree."""
    others: dict[str, Pairs] = defaultdict(Pairs)
    for said in _by_item(judgements).values():
        for a, b in itertools.combinations(said, 2):
            same = pairs(a.ranks or (), b.ranks or ())
            others[a.annotator] += same
            others[b.annotator] += same
    found = {}
    for name in sorted({said.annotator for said in judgements}):
        own = [said for said in judgements if said.annotator == name]
        ranked = [said for said in own if said.ranks is not None]
        with_self = sum((pairs(*both) for both in _twice(own)), Pairs())
        found[name] = {
            "ranked": sum(not said.again for said in ranked),
            "again": sum(said.again for said in ranked),
            "skipped": len(own) - len(ranked),
            "median_seconds": round(statistics.median(said.seconds for said in ranked), 1) if ranked else None,
            "like_others": others[name].share,
            "pairs_with_others": others[name].all,
            "like_self": with_self.share,
            "pairs_with_self": with_self.all,
        }
    return found


def alphas(judgements: Sequence[Judgement]) -> dict[str, dict[str, dict[str, Any]]]:
    """Krippendorff's alpha of rankings and criteria, of the annotators and of each with themselves, see `rated`."""
    first = [said for said in judgements if not said.again and said.ranks is not None]
    twice = {(said.annotator, said.item) for said in judgements if said.again and said.ranks is not None}
    own = [said for said in judgements if said.ranks is not None and (said.annotator, said.item) in twice]
    others = [_ratings(said, str(said.item), said.annotator) for said in first]
    selves = [_ratings(said, f"{said.annotator}/{said.item}", "again" if said.again else "first") for said in own]
    both = {"annotators": others, "with_themselves": selves}
    return {name: rated.agreement([*itertools.chain.from_iterable(said)]) for name, said in both.items()}


def _ratings(said: Judgement, prompt: str, rater: str) -> Iterable[Rating]:
    for answer, rank in enumerate(said.ranks or ()):
        scores = {name: score for name, given in said.ratings.items() if (score := given[answer]) is not None}
        yield Rating(f"{prompt}-{answer}", rater, scores, rank)


def _by_item(judgements: Iterable[Judgement]) -> dict[int, list[Judgement]]:
    """The first judgement of each annotator who has ranked it."""
    found: dict[int, list[Judgement]] = defaultdict(list)
    for said in judgements:
        if said.ranks is not None and not said.again:
            found[said.item].append(said)
    return found


def _twice(own: Sequence[Judgement]) -> list[tuple[Ranks, Ranks]]:
    """The two rankings of each prompt that one annotator has ranked twice."""
    by = {(said.item, said.again): said.ranks for said in own if said.ranks is not None}
    return [(by[item, False], ranks) for (item, again), ranks in by.items() if again and (item, False) in by]


def _sign(x: int) -> int:
    return (x > 0) - (x < 0)
