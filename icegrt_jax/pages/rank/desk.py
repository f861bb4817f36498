"""What a person is shown next, and what their form says: everything of the page but the page itself."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException

from icegrt_jax.evaluation.asked.wording import CRITERIA, HIGHEST, LOWEST
from icegrt_jax.pages import web
from icegrt_jax.pages.rank import order
from icegrt_jax.pages.rank.items import Item
from icegrt_jax.pages.rank.store import Decision, Judgement, Store

LONGEST_NOTE = 10_000  # characters
LONGEST_PAUSE = 1800.0  # seconds; who takes longer has been away
ADJUDICATOR = "\0adjudicator"  # no person's name: they see one order, whoever they are


@dataclasses.dataclass(frozen=True)
class Shown:
    """A prompt as somebody sees it.

    Attributes:
      number: of the item. again: for the second time.
      places: of the answers in the record, in the order they are shown.
      said: what they have said of it before, or None.
    """

    number: int
    item: Item
    again: bool
    places: list[int]
    said: Judgement | None = None

    def answers(self) -> list[dict[str, Any]]:
        """For the template: each with its number and what has been said of it."""
        ranks, ratings = (self.said.ranks, self.said.ratings) if self.said else (None, {})
        return [
            {
                "number": number,
                "text": self.item.responses[place],
                "rank": ranks[place] if ranks else None,
                "ratings": {name: given[place] for name, given in ratings.items()},
            }
            for number, place in enumerate(self.places, 1)
        ]


@dataclasses.dataclass(frozen=True)
class Desk:
    """How prompts are given out.

    Attributes:
      seed: of every order.
      every: after so many prompts one is shown again; 0: none is.
      votes: people who rank a prompt; 0: everybody ranks all.
    """

    store: Store
    keys: list[str]  # of the items, by number - 1
    seed: int
    every: int
    votes: int

    def next(self, annotator: str) -> Shown | None:
        """What they are to rank now; None: nothing is left."""
        own = self.store.judgements(annotator)
        first = [said for said in own if not said.again]
        ranked = [self.keys[said.item - 1] for said in first if said.ranks is not None]
        again = {self.keys[said.item - 1] for said in own if said.again}
        if self.every and len(ranked) // self.every > len(again):
            if key := order.to_show_again(self.seed, annotator, ranked, again):
                return self.show(annotator, self.keys.index(key) + 1, True)
        seen, counts = {said.item for said in first}, self.store.counts() if self.votes else {}
        for place in order.prompts(self.seed, annotator, self.keys):
            number = place + 1
            if number not in seen and not (self.votes and counts.get(number, 0) >= self.votes):
                return self.show(annotator, number, False)
        return None

    def show(self, annotator: str, number: int, again: bool, said: Judgement | None = None) -> Shown:
        """A prompt as that person sees it, whenever they do."""
        item = self.store.item(number)
        if item is None:
            raise HTTPException(404, "There is no such prompt.")
        places = order.answers(self.seed, annotator, item.key, again, len(item.responses))
        return Shown(number, item, again, places, said)

    def before(self, annotator: str, number: int, again: bool) -> Shown | None:
        """What they have said last, or before a judgement of theirs; None: nothing."""
        own = self.store.judgements(annotator)
        here = next((said.place for said in own if (said.item, said.again) == (number, again)), None)
        earlier = [said for said in own if here is None or said.place < here]
        return self.show(annotator, earlier[-1].item, earlier[-1].again, earlier[-1]) if earlier else None

    def save(self, annotator: str, fields: Mapping[str, str]) -> None:
        """Keeps what a form says."""
        number = web.whole(fields, "item", 1, len(self.keys)) or 0
        again = fields.get("again") == "1"
        shown = self.show(annotator, number, again)
        own = {said.again: said for said in self.store.judgements(annotator, number)}
        if again and (False not in own or own[False].ranks is None):
            raise HTTPException(400, "This prompt has not been ranked yet, so it cannot be ranked again.")
        ranks = None if fields.get("do") == "skip" else _ranks(fields, shown)
        self.store.save(
            Judgement(
                annotator, number, again, ranks, _ratings(fields, shown), _note(fields), _seconds(fields)
            )
        )  # fmt: skip

    def decide(self, adjudicator: str, fields: Mapping[str, str]) -> None:
        """Keeps what an adjudicator's form says."""
        number = web.whole(fields, "item", 1, len(self.keys)) or 0
        shown = self.show(ADJUDICATOR, number, False)
        self.store.decide(Decision(adjudicator, number, _ranks(fields, shown), _note(fields)))


def _ranks(fields: Mapping[str, str], shown: Shown) -> tuple[int | None, ...]:
    """By answer: one more than there are better ones, so that gaps in a form do not matter."""
    count = len(shown.places)
    given: list[int | None] = [None] * count
    for number, place in enumerate(shown.places, 1):
        given[place] = web.whole(fields, f"rank-{number}", 1, count)
    ranked = [rank for rank in given if rank is not None]
    if len(ranked) < 2:
        raise HTTPException(400, "Rank two answers or more, or skip the prompt; then save again.")
    return tuple(None if rank is None else 1 + sum(other < rank for other in ranked) for rank in given)


def _ratings(fields: Mapping[str, str], shown: Shown) -> dict[str, list[int | None]]:
    """By criterion and answer; a criterion that nothing was rated by is left out."""
    found = {}
    for name in CRITERIA:
        given: list[int | None] = [None] * len(shown.places)
        for number, place in enumerate(shown.places, 1):
            given[place] = web.whole(fields, f"{name}-{number}", LOWEST, HIGHEST)
        if any(score is not None for score in given):
            found[name] = given
    return found


def _note(fields: Mapping[str, str]) -> str:
    note = fields.get("note", "").strip()
    if len(note) > LONGEST_NOTE:
        raise HTTPException(400, f"The note has {len(note):,} characters; write {LONGEST_NOTE:,} at most.")
    return note


def _seconds(fields: Mapping[str, str]) -> float:
    """Since the page was sent; 0 where the form does not say when that was."""
    opened = web.whole(fields, "opened", 0, 10**9) if fields.get("opened") else None
    return 0.0 if opened is None else min(max(0.0, tick() - opened), LONGEST_PAUSE)


def tick() -> int:
    """A clock that goes on after a restart, in seconds; small enough for a form."""
    return round(time.time()) - 1_700_000_000
