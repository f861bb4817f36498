"""The embedded domain as `domain = "adreview"` opens it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from icegrt_jax.data.needs import Need, has_words
from icegrt_jax.data.records import Instruction, Prompt, Ranking, Record, Text
from icegrt_jax.domains.adreview import annotators, build, corpus, judge
from icegrt_jax.domains.adreview.rules import GUIDELINE, RULES
from icegrt_jax.domains.base import Domain


def _objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _violations(value: Any) -> bool:
    return _objects(value) and all(
        item.get("rule") in [*RULES] and isinstance(item.get("quote"), str) for item in value
    )  # fmt: skip


def _decoys(value: Any) -> bool:
    return _objects(value) and all(isinstance(item.get(field), str) for item in value for field in ("quote", "reason"))


class AdReview(Domain):
    """Records from seeds, simulated annotators, the gold judge."""

    description = "embedded domain adreview"
    licence = "made by icegrt_jax, which is Apache-2.0"
    guideline = GUIDELINE
    sets = {
        "corpus": Text,
        "demonstrations": Instruction,
        "decisions": Instruction,
        "general": Instruction,
        "rankings": Ranking,
        "ranking_prompts": Prompt,
        "prompts": Prompt,
        "dev_prompts": Prompt,
        "heldout_rankings": Ranking,
        "eval_prompts": Prompt,
        "eval_general": Prompt,
    }
    needs = (
        Need("meta.ad", "the ad's text", has_words),
        Need("meta.violations", "a list of {rule, quote}, each of a rule of the book", _violations),
        Need("meta.decoys", "a list of {quote, reason}", _decoys),
    )
    metrics = {"verdict": "verdict", "analysis": "analysis"}
    harms = {"false_clear": "false all-clears"}

    def records(self, name: str, size: int, seed: int) -> Sequence[Record]:
        return build.build(seed, {name: size})[name]

    def tokenizer(self, sizes: Mapping[str, int], seed: int) -> Iterable[str]:
        return corpus.training_text()

    def rank(self, record: Prompt, answers: Sequence[str], seed: str) -> tuple[float, ...]:
        return annotators.rank(seed, record.meta, answers)

    def grade(self, record: Prompt, answer: str) -> dict[str, float]:
        return {**judge.grade(record.meta, answer), "false_clear": judge.false_clear(record.meta, answer)}


DOMAIN = AdReview
