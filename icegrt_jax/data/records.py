"""The four kinds of training record and their JSON lines form.

| kind          | one JSON line                                                                  | used by           |
| ------------- | ------------------------------------------------------------------------------ | ----------------- |
| `Instruction` | `{"messages": [...]}` or `{"prompt", "response"}`                              | SFT               |
| `Ranking`     | `{"prompt", "responses", "ranks"}` (1 is best) or `{"prompt", "chosen", "rejected"}` | reward model |
| `Prompt`      | `{"prompt"}`, optionally `"reference"`                                         | PPO, evaluation   |
| `Text`        | `{"text"}`                                                                     | plain pretraining |

A prompt is a string (one user message) or a list of `{"role", "content"}`
messages, whose content is a string or a list of parts `{"type": "text", "text"}`.
Every kind takes an optional `"meta"` object. Other fields are ignored, unless
one reads like a field that the record lacks: a misspelling is an error. Rows of
other forms become these in `shapes.py`.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar

from icegrt_jax.data import fields
from icegrt_jax.data.content import read_at, refuse_half_characters
from icegrt_jax.data.fields import Messages
from icegrt_jax.data.rows import json_lines
from icegrt_jax.errors import UserError
from icegrt_jax.files import write_text_atomic


class _OfWholeCharacters:
    """Refuses half a character, also in a record that a program has made."""

    FIELDS: ClassVar[tuple[str, ...]]
    FORMS: ClassVar[tuple[tuple[str, ...], ...]]  # the fields it needs, of each form that it may have
    where: str

    @classmethod
    def from_json(cls, obj: Any, where: str = "record") -> Self:
        raise NotImplementedError(f"{cls.__name__} says how it is read")

    def __post_init__(self):
        with read_at(self.where or "record"):
            own = {name: value for name, value in vars(self).items() if name not in ("where", "encoded")}
            refuse_half_characters(own)

    @classmethod
    def _check(cls, obj: Any, where: str) -> None:
        """Refuses what is no object, and a misspelt field."""
        fields.whole(obj, where, cls.FIELDS)
        fields.refuse_misspelt(obj, where, (*cls.FIELDS, "meta"), cls.FORMS)


@dataclass(frozen=True)
class Instruction(_OfWholeCharacters):
    """A conversation whose assistant turns are imitated; it ends with one."""

    FIELDS: ClassVar[tuple[str, ...]] = ("messages", "prompt", "response")
    FORMS: ClassVar[tuple[tuple[str, ...], ...]] = (("messages",), ("prompt", "response"))

    messages: Messages
    meta: dict = field(default_factory=dict)
    where: str = field(default="", compare=False, repr=False)  # "FILE, line N", for errors
    encoded: list = field(default_factory=list, compare=False, repr=False)  # its ids, where `token_store` has them

    @classmethod
    def from_json(cls, obj: Any, where: str = "record") -> Self:
        cls._check(obj, where)
        if "messages" in obj:
            fields.refuse_beside(obj, where, "messages", ("prompt", "response"))
            messages = fields.messages(obj["messages"], where, "messages")
        else:
            answer = {"role": "assistant", "content": fields.text(obj, where, "response")}
            messages = (*fields.prompt(obj, where), answer)
        if messages[-1]["role"] != "assistant":
            raise UserError(
                f"{where}: field 'messages': the last message has role {messages[-1]['role']!r};"
                " an instruction ends with the assistant's answer."
            )
        return cls(messages, fields.meta(obj, where), where)

    def to_json(self) -> dict:
        return fields.with_meta({"messages": list(self.messages)}, self.meta)


@dataclass(frozen=True)
class Ranking(_OfWholeCharacters):
    """K answers to one prompt; `ranks[k]` belongs to `responses[k]`, 1 is best, ties are equal."""

    FIELDS: ClassVar[tuple[str, ...]] = ("prompt", "responses", "ranks", "chosen", "rejected")
    FORMS: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("prompt", "responses", "ranks"),
        ("prompt", "chosen", "rejected"),
    )

    prompt: Messages
    responses: tuple[str, ...]
    ranks: tuple[float, ...]
    meta: dict = field(default_factory=dict)
    where: str = field(default="", compare=False, repr=False)  # "FILE, line N", for errors
    encoded: list = field(default_factory=list, compare=False, repr=False)  # its ids, where `token_store` has them

    @classmethod
    def from_json(cls, obj: Any, where: str = "record") -> Self:
        cls._check(obj, where)
        prompt = fields.prompt(obj, where)
        if "chosen" in obj or "rejected" in obj:
            fields.refuse_beside(obj, where, "chosen", ("responses", "ranks"))
            pair = (fields.text(obj, where, "chosen"), fields.text(obj, where, "rejected"))
            return cls(prompt, pair, (1.0, 2.0), fields.meta(obj, where), where)
        responses = fields.texts(obj, where, "responses")
        ranks = fields.numbers(obj, where, "ranks")
        if len(ranks) != len(responses):
            raise UserError(
                f"{where}: field 'ranks' has {len(ranks)} entries for {len(responses)} responses;"
                " give one rank for each response."
            )
        if len(responses) < 2:
            raise UserError(f"{where}: field 'responses' has {len(responses)} answer; a ranking needs two or more.")
        return cls(prompt, responses, ranks, fields.meta(obj, where), where)

    def to_json(self) -> dict:
        obj = {"prompt": list(self.prompt), "responses": list(self.responses), "ranks": list(self.ranks)}
        return fields.with_meta(obj, self.meta)


@dataclass(frozen=True)
class Prompt(_OfWholeCharacters):
    """A prompt for sampling, with the reference answer where one is known (else "")."""

    FIELDS: ClassVar[tuple[str, ...]] = ("prompt", "reference")
    FORMS: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt",),)

    prompt: Messages
    reference: str = ""
    meta: dict = field(default_factory=dict)
    where: str = field(default="", compare=False, repr=False)  # "FILE, line N", for errors
    encoded: list = field(default_factory=list, compare=False, repr=False)  # its ids, where `token_store` has them

    @classmethod
    def from_json(cls, obj: Any, where: str = "record") -> Self:
        cls._check(obj, where)
        reference = obj.get("reference", "")
        if not isinstance(reference, str):
            raise UserError(f"{where}: field 'reference' is {fields.kind_of(reference)}; expected a string.")
        return cls(fields.prompt(obj, where), reference, fields.meta(obj, where), where)

    def to_json(self) -> dict:
        obj: dict[str, Any] = {"prompt": list(self.prompt)}
        if self.reference:
            obj["reference"] = self.reference
        return fields.with_meta(obj, self.meta)


@dataclass(frozen=True)
class Text(_OfWholeCharacters):
    """Plain text, every token of which is a target."""

    FIELDS: ClassVar[tuple[str, ...]] = ("text",)
    FORMS: ClassVar[tuple[tuple[str, ...], ...]] = (("text",),)

    text: str
    meta: dict = field(default_factory=dict)
    where: str = field(default="", compare=False, repr=False)  # "FILE, line N", for errors
    encoded: list = field(default_factory=list, compare=False, repr=False)  # its ids, where `token_store` has them

    @classmethod
    def from_json(cls, obj: Any, where: str = "record") -> Self:
        cls._check(obj, where)
        return cls(fields.text(obj, where, "text"), fields.meta(obj, where), where)

    def to_json(self) -> dict:
        return fields.with_meta({"text": self.text}, self.meta)


Record = Instruction | Ranking | Prompt | Text
Kind = TypeVar("Kind", bound=_OfWholeCharacters)  # one of them
KINDS: dict[str, Any] = {"instruction": Instruction, "ranking": Ranking, "prompt": Prompt, "text": Text}


@contextlib.contextmanager
def naming(record: Record) -> Iterator[None]:
    """Puts where the record was read in front of a mistake that is found later, such as by a chat template."""
    with read_at(record.where):
        yield


def user(content: str) -> Messages:
    """The prompt made of one user message."""
    return ({"role": "user", "content": content},)


def read_jsonl(path: str | os.PathLike, kind: type[Kind]) -> list[Kind]:
    """Records of one kind from a JSON lines file; errors name the file, line and field."""
    return [kind.from_json(obj, where) for where, obj in json_lines(pathlib.Path(path))]


def write_jsonl(path: str | os.PathLike, records: Iterable[Record]) -> None:
    """Writes records as JSON lines; a reader sees the old file or the whole new one."""
    if pathlib.Path(path).suffix == ".gz":
        raise UserError(f"{path}: records are written uncompressed; choose a name that ends in .jsonl.")
    write_text_atomic(path, "".join(json.dumps(r.to_json(), ensure_ascii=False) + "\n" for r in records))
