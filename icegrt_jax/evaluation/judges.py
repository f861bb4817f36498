"""Judges: a prompt record and an answer in, numbers in [0, 1] out.

Every judge gives `gold`, its overall verdict; those of answers with an analysis also give
`verdict` (the answer is right) and `analysis` (the reasons are good). What a judge reads of a record
stands in `NEEDS`: without it every answer would be right, every answer wrong, or none could be judged.
"""

import collections
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from icegrt_jax.data.records import Prompt, shown
from icegrt_jax.domains.adreview.judge import grade
from icegrt_jax.domains.adreview.rules import RULES
from icegrt_jax.errors import UserError


def words(text: str) -> list[str]:
    """Lower-case words and numbers of a text."""
    return re.findall(r"\w+", text.lower())


def unigram_f1(reference: str, answer: str) -> float:
    """ROUGE-1 F1: overlap of the two bags of words."""
    ours, theirs = collections.Counter(words(answer)), collections.Counter(words(reference))
    shared = sum((ours & theirs).values())
    return 2 * shared / (sum(ours.values()) + sum(theirs.values())) if shared else 0.0


def adreview(record: Prompt, answer: str) -> dict[str, float]:
    """The embedded domain's exact judge."""
    return grade(record.meta, answer)


def exact(record: Prompt, answer: str) -> dict[str, float]:
    """1 where the answer equals the reference but for case and spaces."""
    return {"gold": float(" ".join(answer.lower().split()) == " ".join(record.reference.lower().split()))}


def overlap(record: Prompt, answer: str) -> dict[str, float]:
    """Unigram F1 with the reference."""
    return {"gold": unigram_f1(record.reference, answer)}


def choice(record: Prompt, answer: str) -> dict[str, float]:
    """`Answer: …` must name the right choice; the explanation is compared with the published one.

    The overlap with one reference is a rough measure of an explanation; it is reported as what it is.
    """
    match = re.search(r"answer:\s*(.*?)\s*(?:\n|explanation:|$)", answer, re.IGNORECASE)
    given = " ".join(words(match.group(1))) if match else ""
    verdict = float(given == " ".join(words(record.meta["answer"])))
    _, _, explanation = answer.partition("Explanation:")
    _, _, reference = record.reference.partition("Explanation:")
    analysis = unigram_f1(reference, explanation)
    return {"verdict": verdict, "analysis": analysis, "gold": (verdict + analysis) / 2}


BY_NAME = {"adreview": adreview, "exact": exact, "overlap": overlap, "choice": choice}


@dataclass(frozen=True)
class Need:
    """A field that a judge reads: its name, what it must hold in words, and whether a value does."""

    field: str
    expected: str
    holds: Callable[[Any], bool]


def _has_words(value: Any) -> bool:
    return isinstance(value, str) and bool(words(value))


def _explains(reference: str) -> bool:
    return _has_words(reference.partition("Explanation:")[2])


def _parts(*fields: str) -> Callable[[Any], bool]:
    """Whether a value is a list of objects in which these fields are strings."""
    whole = lambda item: isinstance(item, dict) and all(isinstance(item.get(field), str) for field in fields)
    return lambda value: isinstance(value, list) and all(map(whole, value))


def _violations(value: Any) -> bool:
    objects = isinstance(value, list) and all(isinstance(item, dict) for item in value)
    return objects and all(
        item.get("rule") in [*RULES] and isinstance(item.get("quote"), str) for item in value
    )  # fmt: skip


NEEDS = {
    "adreview": (
        Need("meta.ad", "the ad's text", _has_words),
        Need("meta.violations", "a list of {rule, quote}, each of a rule of the book", _violations),
        Need("meta.decoys", "a list of {quote, reason}", _parts("quote", "reason")),
    ),
    "exact": (Need("reference", "the answer that is right", lambda value: bool(value.strip())),),
    "overlap": (Need("reference", "an answer of one word or more", _has_words),),
    "choice": (
        Need("meta.answer", "the right choice, a string with a word in it", _has_words),
        Need("reference", "'Explanation:' and the published explanation", _explains),
    ),
}
# What evaluation groups by, where a record has it.
GROUPS = ("split", "task")


def check_records(judge: str, records: Iterable[Prompt]) -> None:
    """Refuses the first record that lacks what the judge reads."""
    for record in records:
        where = record.where or "a prompt"
        for need in NEEDS[judge]:
            top, _, name = need.field.partition(".")
            value = record.meta.get(name) if top == "meta" else record.reference
            if not need.holds(value):
                got = "missing" if value in (None, "") else shown(value)
                raise UserError(f"{where}: field {need.field!r} is {got}; the judge {judge!r} needs {need.expected}.")
        for name in GROUPS:
            if not isinstance(record.meta.get(name, ""), str):
                got = shown(record.meta[name])
                raise UserError(f"{where}: field 'meta.{name}' is {got}; results are grouped by it, expected a string.")


def mean_grades(judge: str, records: list[Prompt], answers: list[str]) -> dict[str, float]:
    """Mean of every number the judge gives."""
    grades = [BY_NAME[judge](record, answer) for record, answer in zip(records, answers, strict=True)]
    return {name: sum(grade[name] for grade in grades) / len(grades) for name in grades[0]}
