"""A conversation with several models at once, each with its own history, and what can be kept of it as a ranking."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax

from icegrt_jax import files
from icegrt_jax.config.options import DrawOptions
from icegrt_jax.data.fields import Messages
from icegrt_jax.data.records import Ranking
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model
from icegrt_jax.runs.ranked import width_of
from icegrt_jax.runs.sections import sampler_for
from icegrt_jax.sampling.generate import generate_batches

LEAST_ROOM = 8  # tokens for an answer, with fewer of which a conversation is over


@dataclasses.dataclass(frozen=True)
class Voice:
    """A model that takes part, and what it is called."""

    name: str
    model: Model


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model has said: its text, "" where it has failed.

    Attributes:
      finished: came to its end, was not cut off.
      problem: why there is none.
    """

    text: str
    finished: bool = True
    problem: str = ""


@dataclasses.dataclass
class Settings:
    """temperature: 0 is greedy. max_new_tokens: longest answer, where a model's length leaves that room."""

    temperature: float
    max_new_tokens: int


class Talk:
    """The conversations so far.

    Attributes:
      histories: of each voice its messages.
      answers: of each voice to the last message.
      asked: of each voice the messages that its last answer is to.
    """

    def __init__(self, voices: Sequence[Voice], settings: Settings, seed: int = 0):
        self.voices, self.settings = list(voices), dataclasses.replace(settings)
        self._key = jax.random.key(seed)
        self.new()

    def new(self) -> None:
        """Begins anew."""
        self.histories: list[Messages] = [()] * len(self.voices)
        self.answers: list[Answer] = []
        self.asked: list[Messages] = []
        self.kept = False  # whether the last answers have been

    def say(self, text: str) -> list[Answer]:
        """Asks every model."""
        if not text.strip():
            raise UserError("nothing was said; write something.")
        self._key, key = jax.random.split(self._key)
        asked = [(*history, {"role": "user", "content": text}) for history in self.histories]
        # One key for all: what differs between two answers is the model.
        self.answers = [self._answer(voice, said, key) for voice, said in zip(self.voices, asked, strict=True)]
        self.asked, self.kept = asked, False
        # Who has not answered goes on from where they were.
        self.histories = [
            (*said, {"role": "assistant", "content": answer.text}) if answer.text else said[:-1]
            for said, answer in zip(asked, self.answers, strict=True)
        ]
        return self.answers

    def share(self, place: int) -> None:
        """Lets all go on from the conversation of one of them."""
        self.histories = [self.histories[place]] * len(self.voices)

    def ranking(self, ranks: Sequence[int | None]) -> Ranking:
        """The last exchange as a record, in which equal answers stand once.

        Args:
          ranks: of each voice, 1 is best, equal ones are ties, None: left out.
        """
        best: dict[str, int] = {}
        names: dict[str, list[str]] = {}
        kept = [place for place, rank in enumerate(ranks) if rank is not None and self.answers[place].text]
        for place in kept:
            text, rank = self.answers[place].text, ranks[place] or 0
            names.setdefault(text, []).append(self.voices[place].name)
            if best.setdefault(text, rank) != rank:
                raise UserError(f"{' and '.join(names[text])} have said the same, so they have one rank.")
        if len(best) < 2:
            raise UserError("rank two different answers or more.")
        if len({str(self.asked[place]) for place in kept}) > 1:
            raise UserError(
                "these answers are to different conversations, which no ranking compares; let all go on from one of "
                "them (share), and rank the answers from then on."
            )
        meta = {
            "chat": {
                "models": [names[text] for text in best],
                "temperature": self.settings.temperature,
                "max_new_tokens": self.settings.max_new_tokens,
            }
        }
        competition = lambda rank: 1.0 + sum(other < rank for other in best.values())
        return Ranking(self.asked[kept[0]], tuple(best), tuple(competition(rank) for rank in best.values()), meta)

    def keep(self, ranks: Sequence[int | None], path: pathlib.Path) -> None:
        """Appends the last exchange to a file of rankings; then all go on from the best answer."""
        if not self.answers:
            raise UserError("nothing has been answered yet, so there is nothing to rank.")
        if self.kept:
            raise UserError(f"this exchange is in {path} already; say something new.")
        record = self.ranking(ranks)
        files.append_jsonl(path, [record.to_json()])
        self.kept = True
        self.share(min((place for place, rank in enumerate(ranks) if rank), key=lambda place: ranks[place] or 0))

    def _answer(self, voice: Voice, said: Messages, key: jax.Array) -> Answer:
        model, longest = voice.model, self.settings.max_new_tokens
        try:
            ids = model.tokenizer.encode_prompt(model.tokenizer.disarmed(said))
            room = model.config.max_length - len(ids)
            if room < min(longest, LEAST_ROOM):
                raise UserError(
                    f"the conversation has {len(ids)} tokens, which leaves no room for an answer in the "
                    f"{model.config.max_length} that this model was made for; begin a new one."
                )
            while longest > room:  # by halves: each length is a program
                longest = max(longest // 2, LEAST_ROOM)
            sampler = sampler_for(model.tokenizer, DrawOptions(temperature=self.settings.temperature), longest)
            # Few widths, so that a conversation that grows is not compiled for anew at every turn.
            out = generate_batches(key, model.params, model.config, model.tokenizer, [ids], sampler, width_of=width_of)
        except UserError as error:
            return Answer("", problem=str(error))
        if not out.text[0].strip():
            return Answer("", problem="an empty answer")
        return Answer(out.text[0], bool(out.finished[0]))
