"""Reviews that go wrong in one named way each, for demonstrations and rankings.

`FLAWS` maps each name to a function of (rng, meta) that returns a flawed review,
or None where the flaw is impossible for that ad (no violation to miss, no decoy
to take fright at).
"""

import random
from collections.abc import Callable, Mapping, Sequence

from icegrt_jax.domains.adreview import phrases
from icegrt_jax.domains.adreview.answer import ALL_CLEAR, cite, explain, ideal, verdict_line
from icegrt_jax.domains.adreview.rules import RULES


def verdict_only(rng: random.Random, meta: Mapping) -> str:
    """The right verdict and not a word of analysis."""
    del rng
    return verdict_line(bool(meta["violations"]))


def wrong_verdict(rng: random.Random, meta: Mapping) -> str:
    """The ideal analysis, then the opposite verdict."""
    del rng
    body, _, _ = ideal(meta).rpartition(" verdict:")
    return f"{body} {verdict_line(not meta['violations'])}"


def missed_violation(rng: random.Random, meta: Mapping) -> str | None:
    """One violation goes unseen; if it was the only one, the ad is approved."""
    if not meta["violations"]:
        return None
    missed = rng.randrange(len(meta["violations"]))
    seen = [v for i, v in enumerate(meta["violations"]) if i != missed]
    return _review([cite(v["quote"], v["rule"]) for v in seen])


def wrong_rule(rng: random.Random, meta: Mapping) -> str | None:
    """The right quotes, one of them under another rule."""
    if not meta["violations"]:
        return None
    return _with_one_changed(rng, meta, lambda v: cite(v["quote"], _rule_not_broken(rng, meta)))


def no_quote(rng: random.Random, meta: Mapping) -> str | None:
    """Rules are named but nothing is quoted; for a fine ad, its decoy is passed over."""
    del rng
    if meta["violations"]:
        return _review([cite("", v["rule"]) for v in meta["violations"]])
    return _review([]) if meta["decoys"] else None


def wrong_quote(rng: random.Random, meta: Mapping) -> str | None:
    """The right rules, one of them pinned on another sentence of the ad."""
    if not meta["violations"]:
        return None
    return _with_one_changed(rng, meta, lambda v: cite(_innocent_sentence(rng, meta), v["rule"]))


def invented_quote(rng: random.Random, meta: Mapping) -> str:
    """A quote of what the ad does not say; a fine ad is rejected for it."""
    if not meta["violations"]:
        rule = rng.choice(tuple(RULES))
        return _review([cite(_invented(rng, meta, rule), rule)])
    return _with_one_changed(rng, meta, lambda v: cite(_invented(rng, meta, v["rule"]), v["rule"]))


def false_alarm(rng: random.Random, meta: Mapping) -> str:
    """A decoy, or else a plain sentence, is taken for a violation."""
    decoy = meta["decoys"][0] if meta["decoys"] else None
    quote = decoy["quote"] if decoy else _innocent_sentence(rng, meta)
    taken = {v["rule"] for v in meta["violations"]}
    rule = decoy["rule"] if decoy and decoy["rule"] not in taken else _rule_not_broken(rng, meta)
    citations = [cite(v["quote"], v["rule"]) for v in meta["violations"]]
    return _review([*citations, cite(quote, rule)])


def extra_rule(rng: random.Random, meta: Mapping) -> str | None:
    """A true violation is charged with a second rule too."""
    if not meta["violations"]:
        return None
    citations = [cite(v["quote"], v["rule"]) for v in meta["violations"]]
    return _review([*citations, cite(rng.choice(meta["violations"])["quote"], _rule_not_broken(rng, meta))])


def wrong_reason(rng: random.Random, meta: Mapping) -> str | None:
    """A fine ad is approved with a wrong reason for its decoy."""
    if meta["violations"] or not meta["decoys"]:
        return None
    reasons = {reason for decoys in phrases.DECOYS.values() for _, reason in decoys}
    decoy = meta["decoys"][0]
    reason = rng.choice(sorted(reasons - {decoy["reason"]}))
    return f"{explain(decoy['quote'], reason)} {_review([])}"


def explained_away(rng: random.Random, meta: Mapping) -> str | None:
    """One violation is excused with what would allow it, else with the reason of a decoy of its rule.

    If it was the only one, the ad is approved.
    """
    if not meta["violations"]:
        return None
    excused = rng.choice(meta["violations"])
    citations = [cite(v["quote"], v["rule"]) for v in meta["violations"] if v is not excused]
    return f"{_excuse(rng, excused)} {_review(citations)}"


def let_through(rng: random.Random, meta: Mapping) -> str | None:
    """The ad is approved: each of its violations goes unseen or is excused."""
    if not meta["violations"]:
        return None
    excuses = [_excuse(rng, v) for v in meta["violations"] if rng.random() < 0.5]
    return " ".join((*excuses, _review([])))


def rambling(rng: random.Random, meta: Mapping) -> str:
    """The ideal review, and then it goes on: sentences said again."""
    review = ideal(meta)
    sentences = [sentence.strip(". ") for sentence in review.split(". ")]
    return " ".join((review + ".", *(f"{rng.choice(sentences)}." for _ in range(rng.randint(1, 3)))))


FLAWS: Mapping[str, Callable[[random.Random, Mapping], str | None]] = {
    flaw.__name__: flaw
    for flaw in (
        verdict_only, wrong_verdict, missed_violation, wrong_rule, no_quote, wrong_quote,
        invented_quote, false_alarm, extra_rule, wrong_reason, rambling, explained_away, let_through,
    )
}  # fmt: skip


def sample_flaw(rng: random.Random, meta: Mapping, names: Sequence[str] = tuple(FLAWS)) -> tuple[str, str]:
    """(name, review) of a random flaw of these that is possible for the ad; "rambling" always is."""
    for name in rng.sample(names, len(names)):
        review = FLAWS[name](rng, meta)
        if review is not None:
            return name, review
    raise AssertionError(f"none of the flaws {names} is possible for {meta['ad']!r}")


def _excuse(rng: random.Random, violation: Mapping) -> str:
    """What would allow it, if that were so."""
    rule = violation["rule"]
    reasons = sorted({reason for _, reason in phrases.DECOYS[rule]})
    return explain(violation["quote"], phrases.ALLOWED_BECAUSE.get(rule) or rng.choice(reasons))


def _review(citations: Sequence[str]) -> str:
    return " ".join((*(citations or [ALL_CLEAR]), verdict_line(reject=bool(citations))))


def _with_one_changed(rng: random.Random, meta: Mapping, change: Callable[[Mapping], str]) -> str:
    changed = rng.randrange(len(meta["violations"]))
    return _review(
        [change(v) if i == changed else cite(v["quote"], v["rule"]) for i, v in enumerate(meta["violations"])]
    )


def _rule_not_broken(rng: random.Random, meta: Mapping) -> int:
    broken = {v["rule"] for v in meta["violations"]}
    return rng.choice([rule for rule in RULES if rule not in broken])


def _innocent_sentence(rng: random.Random, meta: Mapping) -> str:
    """A sentence of the ad that breaks no rule; its first one, on the product, never does."""
    quotes = [v["quote"] for v in meta["violations"]]
    sentences = meta["ad"].rstrip(".").split(". ")
    return rng.choice([s for s in sentences if not any(quote in s for quote in quotes)])


def _invented(rng: random.Random, meta: Mapping, rule: int) -> str:
    noun = meta["product"].split()[-1]
    while True:
        quote = phrases.fill(rng, rng.choice(phrases.OFFENDING[rule]), noun=noun)
        if quote not in meta["ad"]:
            return quote
