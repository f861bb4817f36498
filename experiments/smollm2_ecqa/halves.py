"""The records of the study, halved by their questions, and what an answer is worth.

Questions with explanations and people's ratings of explanations alike are split by the hash of the question: one half
trains the chain (`Chain`), the other one the reward model that only the evaluation has (`Other`). Questions of ECQA's
validation part, on which all is evaluated, are in neither.
"""

import dataclasses
import functools
import random
import re
import zlib
from collections.abc import Iterator
from typing import ClassVar

from icegrt_jax.data.records import Instruction, Prompt, Ranking, Record
from icegrt_jax.data.sources import load_source
from icegrt_jax.domains import Domain
from icegrt_jax.evaluation.built_in import NEEDS, choice, rouge_l

ECQA, COS_E = "domain/ecqa/official_test.jsonl.gz", "domain/cos_e/train.jsonl.gz"
EVALUATED = "ecqa:domain/ecqa/official_val.jsonl.gz"
RATED = tuple(f"kway:preference/explanations_kway/{part}" for part in ("train.jsonl.gz", "test.jsonl"))
# Of each set its sources and the kind of its records.
SETS: dict[str, tuple[tuple[str, ...], type[Record]]] = {
    "ecqa": ((f"ecqa:{ECQA}",), Instruction),
    "cos_e": ((f"cos_e:{COS_E}",), Instruction),
    "ecqa_prompts": ((f"ecqa:{ECQA}",), Prompt),
    "cos_e_prompts": ((f"cos_e:{COS_E}",), Prompt),
    "rated": (RATED, Ranking),
    "choices": ((f"ecqa_choices:{ECQA}", f"cos_e_choices:{COS_E}"), Ranking),
}
WORDS = 45  # of a shown explanation at most: so have half of ECQA's, nearly all of CoS-E's; a rated one has about 20


def question_of(record: Record) -> str:
    """The words of a record's question, without its choices: two sets may offer others."""
    messages = record.messages if isinstance(record, Instruction) else record.prompt
    asked, _, _ = next(m["content"] for m in messages if m["role"] == "user").partition("\nChoices: ")
    return " ".join(re.findall(r"\w+", asked.lower()))


def half_of(question: str) -> int:
    """0 or 1, by the words of a question."""
    return zlib.crc32(question.encode()) % 2


def is_short(record: Record) -> bool:
    """Whether a conversation's explanation has no more than `WORDS`; records of other kinds always are."""
    if not isinstance(record, Instruction):
        return True
    return len(record.messages[-1]["content"].partition("Explanation:")[2].split()) <= WORDS


def with_bare(ranking: Ranking) -> Ranking:
    """The ranking with one more answer, the best one's choice alone: without a reason it is among the last.

    No answer of people lacks its reason. A reward model that has seen only such likes one without a reason best, and
    PPO comes to give none.
    """
    best = ranking.responses[ranking.ranks.index(min(ranking.ranks))]
    bare, last = best.partition("\nExplanation:")[0], max(ranking.ranks)
    return dataclasses.replace(ranking, responses=(*ranking.responses, bare), ranks=(*ranking.ranks, last))


@functools.cache
def evaluated() -> frozenset[str]:
    """The questions of the evaluation."""
    return frozenset(question_of(record) for record in load_source(EVALUATED, kind=Prompt))


class Chain(Domain):
    """Commonsense questions with reasons: the half that SFT, ICE-Reward and PPO learn from."""

    half: ClassVar[int] = 0
    sets = {name: kind for name, (_, kind) in SETS.items()}
    licence = "CDLA-Sharing-1.0 (ECQA), BSD-3-Clause (CoS-E), Apache-2.0 (ratings), MIT (questions)"
    metrics = {"verdict": "right choices", "rouge_l": "ROUGE-L"}
    needs = NEEDS["choice"]

    def records(self, name: str, size: int, seed: int) -> Iterator[Record]:
        sources, kind = SETS[name]
        found = [record for source in sources for record in load_source(source, kind=kind)]
        random.Random(f"{seed}/{name}").shuffle(found)
        mine = (x for x in found if half_of(question_of(x)) == self.half and question_of(x) not in evaluated())
        found = [record for record in mine if is_short(record)][:size]
        yield from map(with_bare, found) if name == "choices" else found

    def grade(self, record: Prompt, answer: str) -> dict[str, float]:
        """Whether the choice is the published one, ROUGE-L of the explanation with its own, and the mean of both."""
        given, reference = (text.partition("Explanation:")[2] for text in (answer, record.reference))
        right = choice(record, answer)["verdict"]
        similar = rouge_l(Prompt(record.prompt, reference), given)["gold"]
        return {"verdict": right, "rouge_l": similar, "gold": (right + similar) / 2}


class Other(Chain):
    """Commonsense questions with reasons: the half that only the evaluation's reward model learns from."""

    half = 1


def right_choice(prompts, responses, records):
    """PPO's reward beside ICE-Reward's score: 1 where the choice is the one published with the training question."""
    return [choice(record, response)["verdict"] for response, record in zip(responses, records, strict=True)]
