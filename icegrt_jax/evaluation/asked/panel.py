"""Many questions to a judge: those it has answered before are not asked, and no verdict is asked for again."""

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from icegrt_jax.data.fields import Messages, shown
from icegrt_jax.data.records import Prompt
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation.asked import wording
from icegrt_jax.evaluation.asked.replies import Replies
from icegrt_jax.evaluation.asked.wording import Question, Rubbish

T = TypeVar("T")
AGAIN = 2  # times that a question is asked again whose reply is no verdict


@dataclass(frozen=True)
class Unjudged:
    """Why there is no verdict, in words that follow "the judge"."""

    why: str


class Asker(Protocol):
    """A model that replies.

    identity: what, beside the messages, decides a reply; JSON.
    """

    identity: Mapping[str, Any]

    def ask_all(self, conversations: Sequence[Messages]) -> Generator[tuple[int, str | Unjudged], None, None]:
        """The place of each conversation with its reply, in any order; one that is no text is final."""
        ...


@dataclass
class Panel:
    """A judge with its memory.

    Attributes:
      name: for messages.
      asked, known: how many questions were put to the model, and how many it had answered before.
    """

    name: str
    asker: Asker
    replies: Replies
    asked: int = field(default=0, init=False)
    known: int = field(default=0, init=False)

    def verdicts(self, questions: Sequence[Question[T]]) -> list[T | Unjudged]:
        """A verdict of each question, or why there is none."""
        found: dict[int, T | Unjudged] = {}
        places: dict[tuple, list[int]] = {}  # of questions that are the same
        for i, question in enumerate(questions):
            places.setdefault(_content(question), []).append(i)
        firsts = [own[0] for own in places.values()]
        for i in firsts:
            if (reply := self.replies.get(self._key(questions[i]))) is not None:
                try:
                    found[i] = questions[i].read(reply)
                    self.known += 1
                except Rubbish:
                    continue
        self._ask({i: questions[i] for i in firsts if i not in found}, found)
        return [found[places[_content(question)][0]] for question in questions]

    def grades(self, records: Sequence[Prompt], answers: Sequence[str]) -> list[dict[str, float]]:
        """Numbers from 0 to 1 of each answer by the criteria, gold being their mean."""
        asked = [wording.to_score(record, answer) for record, answer in zip(records, answers, strict=True)]
        verdicts = self.verdicts(asked)
        grades = []
        for record, verdict in zip(records, verdicts, strict=True):
            if isinstance(verdict, Unjudged):
                raise UserError(f"{record.where or 'a prompt'}: the judge {self.name} {verdict.why}.")
            grades.append(wording.as_grades(verdict))
        return grades

    def _ask(self, left: dict[int, Question[T]], found: dict[int, T | Unjudged]) -> None:
        first = dict(left)
        for _ in range(1 + AGAIN):
            places, left = list(left.items()), {}
            if not places:
                return
            # Closed where a reply cannot be kept as well: nothing goes on asking then.
            with contextlib.closing(self.asker.ask_all([question.messages for _, question in places])) as replies:
                for at, reply in replies:
                    i, question = places[at]
                    self.asked += 1
                    if isinstance(reply, Unjudged):
                        found[i] = reply
                        continue
                    try:
                        found[i] = question.read(reply)
                        self.replies.put(self._key(first[i]), reply)
                    except Rubbish as error:
                        found[i] = Unjudged(f"replied {shown(reply)}, which is no verdict: {error}")
                        left[i] = wording.again(first[i], reply, str(error))

    def _key(self, question: Question) -> dict[str, Any]:
        return {**self.asker.identity, "messages": list(question.messages)}


def _content(question: Question) -> tuple:
    return tuple((message["role"], message["content"]) for message in question.messages)
