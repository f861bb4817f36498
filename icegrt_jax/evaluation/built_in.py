"""The judges that ship: answers against the reference of their prompt.

All give `gold`. What each reads of a record stands beside it: without that every answer would be right, every answer
wrong, or none could be judged.
"""

import collections
import importlib
import re
from collections.abc import Callable
from typing import Any

from icegrt_jax.data.needs import Need, has_words
from icegrt_jax.data.records import Prompt
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import numbers
from icegrt_jax.evaluation.letters import letter_of

Function = Callable[[Prompt, str], dict[str, float]]


def words(text: str) -> list[str]:
    """Lower-case words and numbers of a text."""
    return re.findall(r"\w+", text.lower())


def unigram_f1(reference: str, answer: str) -> float:
    """ROUGE-1 F1: overlap of the two bags of words."""
    ours, theirs = collections.Counter(words(answer)), collections.Counter(words(reference))
    shared = sum((ours & theirs).values())
    return 2 * shared / (sum(ours.values()) + sum(theirs.values())) if shared else 0.0


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


def letter(record: Prompt, answer: str) -> dict[str, float]:
    """1 where the answer chooses the reference's letter."""
    return {"gold": float(letter_of(answer) == letter_of(record.reference))}


def number(record: Prompt, answer: str) -> dict[str, float]:
    """1 where the marked number has the reference's value; `last_number` takes one without a mark as well."""
    right = numbers.marked(record.reference)
    if right is None:
        right = numbers.last(record.reference)
    marked = numbers.marked(answer)
    found = numbers.last(answer) if marked is None else marked
    return {"gold": float(marked == right), "last_number": float(found == right)}


def regex(record: Prompt, answer: str) -> dict[str, float]:
    """1 where the record's pattern is found in the answer."""
    return {"gold": float(re.search(record.meta["pattern"], answer) is not None)}


def rouge_l(record: Prompt, answer: str) -> dict[str, float]:
    """ROUGE-L F1 with the reference: Lin 2004, https://aclanthology.org/W04-1013, as google-research computes it."""
    try:
        rouge_scorer = importlib.import_module("rouge_score.rouge_scorer")
    except ModuleNotFoundError as error:
        raise UserError(
            f'the judge "rouge_l" needs {error.name}, which is not installed; pip install "icegrt_jax[rouge]".'
        ) from error
    return {"gold": rouge_scorer.RougeScorer(["rougeL"]).score(record.reference, answer)["rougeL"].fmeasure}


def _explains(reference: str) -> bool:
    return has_words(reference.partition("Explanation:")[2])


def _is_number(reference: str) -> bool:
    return numbers.marked(reference) is not None or numbers.last(reference) is not None


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(value) and re.compile(value) is not None
    except (re.error, OverflowError, RecursionError):
        return False


BY_NAME: dict[str, Function] = {
    "choice": choice,
    "exact": exact,
    "letter": letter,
    "number": number,
    "overlap": overlap,
    "regex": regex,
    "rouge_l": rouge_l,
}
NEEDS = {
    "choice": (
        Need("meta.answer", "the right choice, a string with a word in it", has_words),
        Need("reference", "'Explanation:' and the published explanation", _explains),
    ),
    "exact": (Need("reference", "the answer that is right", lambda value: bool(value.strip())),),
    "letter": (Need("reference", "the letter that is right, such as B", lambda value: letter_of(value) is not None),),
    "number": (Need("reference", "the number that is right, marked by #### or \\boxed{} or the last", _is_number),),
    "overlap": (Need("reference", "an answer of one word or more", has_words),),
    "regex": (Need("meta.pattern", "a regular expression of Python", _is_pattern),),
    "rouge_l": (Need("reference", "an answer of one word or more", has_words),),
}
# Titles of what tables show of them beside gold.
METRICS = {"choice": {"verdict": "verdict", "analysis": "analysis"}, "number": {"last_number": "last number"}}
