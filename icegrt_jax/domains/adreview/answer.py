"""The review an ad should get, and the parser that reads any response as a review.

A review is a few sentences and then the verdict. The sentences it may hold:

    "doctors love it" breaks rule 6, fake authority.      a citation
    this breaks rule 6, fake authority.                   a citation without a quote
    "money back guaranteed" is only a refund offer.       an explanation
    no rule is broken.                                    the all-clear
    verdict: reject                                       or: verdict: approve
"""

import functools
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from icegrt_jax.domains.adreview.rules import RULES

ALL_CLEAR = "no rule is broken."
ALL_CLEAR_VARIANT = "nothing here breaks a rule."

_VERDICT = re.compile(r"\bverdict\s*:?\s*(approve|reject)(?:d|ed)?\b\s*\.?")
_SENTENCE = re.compile(
    r'(?:"(?P<cited>[^"]*)"|\b(?:this|it|the ad)) breaks rule (?P<rule>\d+)(?:\s*,?\s*(?P<name>[a-z][a-z ]*))?'
    r'|"(?P<explained>[^"]*)" is (?P<reason>[a-z ]+)'
    r"|(?P<clear>no rule is broken|nothing here breaks a rule)"
)
_QUOTE_MARKS = str.maketrans({"\u201c": '"', "\u201d": '"', "\u201e": '"', "\u00ab": '"', "\u00bb": '"'})


@dataclass(frozen=True)
class Citation:
    """A claim that a rule is broken; `quote` or `name` is "" where none is given."""

    rule: int
    name: str
    quote: str


@dataclass(frozen=True)
class Explanation:
    """A claim that a phrase is allowed."""

    quote: str
    reason: str


@dataclass(frozen=True)
class Review:
    """A response as the judge reads it.

    Attributes:
      verdict: "approve", "reject", or None: missing, or both are given.
      citations: the different ones, in order.
      explanations: the different ones, in order.
      all_clear: whether it says that no rule is broken.
      wasted_words: words after the first verdict, in sentences said before, or in
        sentences of no known form.
      num_words: all words.
    """

    verdict: str | None
    citations: tuple[Citation, ...]
    explanations: tuple[Explanation, ...]
    all_clear: bool
    wasted_words: int
    num_words: int


def cite(quote: str, rule: int) -> str:
    """The citation of one violation; without a quote if that is ""."""
    subject = f'"{quote}"' if quote else "this"
    return f"{subject} breaks rule {rule}, {RULES[rule].name}."


def explain(quote: str, reason: str) -> str:
    """The sentence that says why a decoy is allowed."""
    return f'"{quote}" is {reason}.'


def verdict_line(reject: bool) -> str:
    return f"verdict: {'reject' if reject else 'approve'}"


def ideal(meta: Mapping) -> str:
    """The ideal review of an annotated ad: the one that is taught.

    >>> ideal({"violations": [{"rule": 6, "quote": "doctors love it"}], "decoys": []})
    '"doctors love it" breaks rule 6, fake authority. verdict: reject'
    """
    return ideal_variants(meta)[0]


def ideal_variants(meta: Mapping) -> tuple[str, ...]:
    """All the reviews the judge finds flawless that we can write; the first is `ideal`.

    In any order, with decoys explained in a rejected ad too, or with the all-clear in other words.
    """
    citations = [cite(v["quote"], v["rule"]) for v in meta["violations"]]
    explanations = [explain(d["quote"], d["reason"]) for d in meta["decoys"]]
    verdict = verdict_line(reject=bool(citations))
    if citations:
        bodies = [*itertools.permutations(citations)]
        if explanations:
            bodies += itertools.permutations(citations + explanations)
    else:
        bodies = [(*explanations, ALL_CLEAR), (*explanations, ALL_CLEAR_VARIANT)]
    return tuple(" ".join((*body, verdict)) for body in bodies)


def parse(response: str) -> Review:
    """Reads a response; never fails. Case, spacing and the kind of quote marks don't matter."""
    text = " ".join(response.lower().translate(_QUOTE_MARKS).split())
    found = _VERDICT.search(text)
    verdict, head, tail = None, text, ""
    if found:
        verdict, head, tail = found[1], text[: found.start()], text[found.end() :]
        if any(other[1] != verdict for other in _VERDICT.finditer(tail)):
            verdict = None

    # dict, not set: keeps the order.
    citations, explanations, said = {}, {}, {}
    wasted, end = len(words(tail)), 0
    for match in _SENTENCE.finditer(head):
        wasted += len(words(head[end : match.start()]))
        end = match.end()
        if match[0] in said:
            wasted += len(words(match[0]))
        said[match[0]] = True
        if match["rule"]:
            name = (match["name"] or "").strip()
            citations[Citation(int(match["rule"]), name, _quote(match["cited"]))] = True
        elif match["reason"]:
            explanations[Explanation(_quote(match["explained"]), match["reason"].strip())] = True
    wasted += len(words(head[end:]))
    return Review(
        verdict,
        tuple(citations),
        tuple(explanations),
        any(match in said for match in ("no rule is broken", "nothing here breaks a rule")),
        wasted,
        len(words(text)),
    )


@functools.lru_cache(maxsize=4096)  # the judge asks for those of one ad many times
def words(text: str) -> tuple[str, ...]:
    """The words and numbers of a text, lower-case, without punctuation."""
    return tuple(re.findall(r"[a-z0-9]+", text.lower()))


def _quote(text: str | None) -> str:
    return " ".join(words(text or ""))
