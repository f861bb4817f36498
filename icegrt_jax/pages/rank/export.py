"""What people have said as files: ranking records that the reward stage reads, every judgement, and the agreement."""

import dataclasses
import itertools
import json
import pathlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from icegrt_jax import files
from icegrt_jax.data.records import Ranking, write_jsonl
from icegrt_jax.pages.rank import agree
from icegrt_jax.pages.rank.items import Item
from icegrt_jax.pages.rank.store import Decision, Judgement, Store

RANKINGS, JUDGEMENTS, AGREEMENT = "rankings.jsonl", "judgements.jsonl", "agreement.json"


def write(store: Store, folder: pathlib.Path, *, apart: bool) -> dict[str, Any]:
    """Writes the three files; returns what `agreement.json` says.

    Args:
      apart: a record for each annotator in place of one for each prompt.
    """
    judgements = store.judgements()
    found = rankings(store.all_items(), judgements, store.decisions(), apart=apart)
    said = summary(store, judgements, len(found))
    write_jsonl(folder / RANKINGS, found)
    lines = [json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n" for one in judgements]
    files.write_text_atomic(folder / JUDGEMENTS, "".join(lines))
    files.write_json_atomic(folder / AGREEMENT, said)
    return said


def lines(records: Sequence[Ranking]) -> str:
    """As `write` puts them into a file."""
    return "".join(json.dumps(record.to_json(), ensure_ascii=False) + "\n" for record in records)


def summary(store: Store, judgements: Sequence[Judgement], records: int) -> dict[str, Any]:
    """Counts, statistics by annotator, agreement."""
    return {
        "prompts": len(store.keys_of_items()),
        "ranked": len(store.counts()),
        "records": records,
        "conflicts": len(agree.conflicts(judgements)),
        "decided": len(store.decisions()),
        "annotators": agree.statistics_of(judgements),
        "alpha": agree.alphas(judgements) if judgements else {},
    }


def rankings(
    items: dict[int, Item], judgements: Sequence[Judgement], decisions: dict[int, Decision], *, apart: bool
) -> list[Ranking]:
    """Records of what has been ranked, in the order of the items.

    A decision stands in place of what the annotators say. An answer that nobody has ranked is left out, and so is a
    prompt of which fewer than two are left; what was said of it is in `meta`.
    """
    of_item: dict[int, list[Judgement]] = defaultdict(list)
    for said in judgements:
        if said.ranks is not None and not said.again:
            of_item[said.item].append(said)
    found: list[Ranking | None] = []
    for number, item in items.items():
        own = of_item[number]
        if decided := decisions.get(number):
            found.append(_record(item, decided.ranks, own, decided))
        elif apart:
            found += [_record(item, one.ranks or (), [one], None) for one in own]
        elif own:
            found.append(_record(item, merged([one.ranks or () for one in own]), own, None))
    return [record for record in found if record is not None]


def merged(rankings: Sequence[agree.Ranks]) -> tuple[int | None, ...]:
    """One ranking of several: by the share of comparisons that an answer wins, a tie being half of one (Borda).

    Answers that different people have left out are compared where they can be; who has ranked one alone says nothing.
    """
    won, asked = [0.0] * len(rankings[0]), [0] * len(rankings[0])
    for ranks in rankings:
        for a, b in itertools.permutations([i for i, rank in enumerate(ranks) if rank is not None], 2):
            mine, other = ranks[a] or 0, ranks[b] or 0
            won[a] += float(mine < other) + 0.5 * (mine == other)
            asked[a] += 1
    shares = [round(own / of, 9) if of else None for own, of in zip(won, asked)]
    better = lambda share: sum(other is not None and other > share for other in shares)
    return tuple(None if share is None else 1 + better(share) for share in shares)


def _record(item: Item, ranks: agree.Ranks, said: Sequence[Judgement], decided: Decision | None) -> Ranking | None:
    kept = [place for place, rank in enumerate(ranks) if rank is not None]
    if len(kept) < 2:
        return None
    people: dict[str, Any] = {
        "annotators": [one.annotator for one in said],
        "ranks": [[one.ranks[place] for place in kept] for one in said if one.ranks is not None],
    }
    if any(one.ratings for one in said):
        people["ratings"] = [
            {name: [given[place] for place in kept] for name, given in one.ratings.items()} for one in said
        ]
    if any(one.note for one in said):
        people["notes"] = [one.note for one in said]
    if left_out := [text for place, text in enumerate(item.responses) if place not in kept]:
        people["not_ranked"] = left_out
    if decided:
        people["adjudicator"], people["decision"] = decided.adjudicator, decided.note
    best = min(ranks[place] or 0 for place in kept)
    return Ranking(
        item.prompt,
        tuple(item.responses[place] for place in kept),
        tuple(float((ranks[place] or 0) - best + 1) for place in kept),
        {**item.meta, "people": people},
    )
