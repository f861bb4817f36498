"""Judges: a prompt record and an answer in, numbers in [0, 1] out.

Every judge gives `gold`, its overall verdict; those of answers with an analysis also give
`verdict` (the answer is right) and `analysis` (the reasons are good).
"""

import collections
import re

from icegrt_jax.data.adreview.judge import grade
from icegrt_jax.data.records import Prompt


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


def mean_grades(judge: str, records: list[Prompt], answers: list[str]) -> dict[str, float]:
    """Mean of every number the judge gives."""
    grades = [BY_NAME[judge](record, answer) for record, answer in zip(records, answers, strict=True)]
    return {name: sum(grade[name] for grade in grades) / len(grades) for name in grades[0]}
