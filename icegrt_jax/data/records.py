"""The four kinds of training record and their JSON lines form.

| kind          | one JSON line                                                                  | used by           |
| ------------- | ------------------------------------------------------------------------------ | ----------------- |
| `Instruction` | `{"messages": [...]}` or `{"prompt", "response"}`                              | SFT               |
| `Ranking`     | `{"prompt", "responses", "ranks"}` (1 is best) or `{"prompt", "chosen", "rejected"}` | reward model |
| `Prompt`      | `{"prompt"}`, optionally `"reference"`                                         | PPO, evaluation   |
| `Text`        | `{"text"}`                                                                     | plain pretraining |

A prompt is a string (one user message) or a list of `{"role", "content"}`
messages, whose content is a string or a list of parts `{"type": "text", "text"}`.
Every kind takes an optional `"meta"` object; any other field is an
error, so that a misspelt one is noticed.
"""

import contextlib
import gzip
import json
import math
import os
import pathlib
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar

from icegrt_jax.data.content import joined, read_at, refuse_half_characters
from icegrt_jax.errors import UserError
from icegrt_jax.files import write_text_atomic

ROLES = ("system", "user", "assistant")
MAX_DEPTH = 500  # lists and objects in each other; what Python's own reader allows differs from version to version
Messages = tuple[dict, ...]


class _OfWholeCharacters:
    """Refuses half a character, also in a record that a program has made."""

    FIELDS: ClassVar[tuple[str, ...]]
    where: str

    @classmethod
    def from_json(cls, obj: Any, where: str = "record") -> Self:
        raise NotImplementedError(f"{cls.__name__} says how it is read")

    def __post_init__(self):
        with read_at(self.where or "record"):
            refuse_half_characters({name: value for name, value in vars(self).items() if name != "where"})


@dataclass(frozen=True)
class Instruction(_OfWholeCharacters):
    """A conversation whose assistant turns are imitated; it ends with one."""

    FIELDS: ClassVar[tuple[str, ...]] = ("messages", "prompt", "response")

    messages: Messages
    meta: dict = field(default_factory=dict)
    where: str = field(default="", compare=False, repr=False)  # "FILE, line N", for errors

    @classmethod
    def from_json(cls, obj: Any, where: str = "record") -> Self:
        _check_fields(obj, where, cls.FIELDS)
        if "messages" in obj:
            _refuse_beside(obj, where, "messages", ("prompt", "response"))
            messages = _messages(obj["messages"], where, "messages")
        else:
            answer = {"role": "assistant", "content": _text(obj, where, "response")}
            messages = (*_prompt(obj, where), answer)
        if messages[-1]["role"] != "assistant":
            raise UserError(
                f"{where}: field 'messages': the last message has role {messages[-1]['role']!r};"
                " an instruction ends with the assistant's answer."
            )
        return cls(messages, _meta(obj, where), where)

    def to_json(self) -> dict:
        return _with_meta({"messages": list(self.messages)}, self.meta)


@dataclass(frozen=True)
class Ranking(_OfWholeCharacters):
    """K answers to one prompt; `ranks[k]` belongs to `responses[k]`, 1 is best, ties are equal."""

    FIELDS: ClassVar[tuple[str, ...]] = ("prompt", "responses", "ranks", "chosen", "rejected")

    prompt: Messages
    responses: tuple[str, ...]
    ranks: tuple[float, ...]
    meta: dict = field(default_factory=dict)
    where: str = field(default="", compare=False, repr=False)  # "FILE, line N", for errors

    @classmethod
    def from_json(cls, obj: Any, where: str = "record") -> Self:
        _check_fields(obj, where, cls.FIELDS)
        prompt = _prompt(obj, where)
        if "chosen" in obj or "rejected" in obj:
            _refuse_beside(obj, where, "chosen", ("responses", "ranks"))
            pair = (_text(obj, where, "chosen"), _text(obj, where, "rejected"))
            return cls(prompt, pair, (1.0, 2.0), _meta(obj, where), where)
        responses = _texts(obj, where, "responses")
        ranks = _numbers(obj, where, "ranks")
        if len(ranks) != len(responses):
            raise UserError(
                f"{where}: field 'ranks' has {len(ranks)} entries for {len(responses)} responses;"
                " give one rank for each response."
            )
        if len(responses) < 2:
            raise UserError(f"{where}: field 'responses' has {len(responses)} answer; a ranking needs two or more.")
        return cls(prompt, responses, ranks, _meta(obj, where), where)

    def to_json(self) -> dict:
        obj = {"prompt": list(self.prompt), "responses": list(self.responses), "ranks": list(self.ranks)}
        return _with_meta(obj, self.meta)


@dataclass(frozen=True)
class Prompt(_OfWholeCharacters):
    """A prompt for sampling, with the reference answer where one is known (else "")."""

    FIELDS: ClassVar[tuple[str, ...]] = ("prompt", "reference")

    prompt: Messages
    reference: str = ""
    meta: dict = field(default_factory=dict)
    where: str = field(default="", compare=False, repr=False)  # "FILE, line N", for errors

    @classmethod
    def from_json(cls, obj: Any, where: str = "record") -> Self:
        _check_fields(obj, where, cls.FIELDS)
        reference = obj.get("reference", "")
        if not isinstance(reference, str):
            raise UserError(f"{where}: field 'reference' is {_kind(reference)}; expected a string.")
        return cls(_prompt(obj, where), reference, _meta(obj, where), where)

    def to_json(self) -> dict:
        obj: dict[str, Any] = {"prompt": list(self.prompt)}
        if self.reference:
            obj["reference"] = self.reference
        return _with_meta(obj, self.meta)


@dataclass(frozen=True)
class Text(_OfWholeCharacters):
    """Plain text, every token of which is a target."""

    FIELDS: ClassVar[tuple[str, ...]] = ("text",)

    text: str
    meta: dict = field(default_factory=dict)
    where: str = field(default="", compare=False, repr=False)  # "FILE, line N", for errors

    @classmethod
    def from_json(cls, obj: Any, where: str = "record") -> Self:
        _check_fields(obj, where, cls.FIELDS)
        return cls(_text(obj, where, "text"), _meta(obj, where), where)

    def to_json(self) -> dict:
        return _with_meta({"text": self.text}, self.meta)


Record = Instruction | Ranking | Prompt | Text
Kind = TypeVar("Kind", bound=_OfWholeCharacters)  # one of them


@contextlib.contextmanager
def naming(record: Record) -> Iterator[None]:
    """Puts where the record was read in front of a mistake that is found later, such as by a chat template."""
    with read_at(record.where):
        yield


def user(content: str) -> Messages:
    """The prompt made of one user message."""
    return ({"role": "user", "content": content},)


def read_json_lines(path: str | os.PathLike) -> list[tuple[str, Any]]:
    """Pairs ("FILE, line N", object) of a JSON lines file, .gz too; blank lines are skipped."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the source's path and data_dir.")
    opener = gzip.open if path.suffix == ".gz" else open
    rows = []
    try:
        with opener(path, "rb") as f:
            # Split on \n only: str.splitlines would also cut at U+2028, which JSON allows in strings.
            lines = f.read().split(b"\n")
    except (gzip.BadGzipFile, EOFError) as e:
        raise UserError(f"{path}: not a whole gzip file ({e}).") from e
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as e:
            raise UserError(f"{where}: not UTF-8 ({e.reason} at byte {e.start}).") from e
        rows.append((where, parse_json(text, where)))
    return rows


def parse_json(text: str, where: str) -> Any:
    """The JSON value of one record; what cannot be read is an error that says where it stands."""
    try:
        value = json.loads(text)
        if text.count("{") + text.count("[") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
            raise RecursionError
        return value
    except json.JSONDecodeError as e:
        raise UserError(f"{where}: not JSON ({e.msg} at column {e.colno}).") from e
    except RecursionError as e:
        raise UserError(f"{where}: lists and objects lie too deep in each other; expected a flat record.") from e
    except ValueError as e:  # Python's limit on the digits of an integer
        raise UserError(f"{where}: holds an integer of too many digits; write it as a string.") from e


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects lie in each other more than `depth` times."""
    level = [value]
    for _ in range(depth):
        level = [x for x in level if isinstance(x, (dict, list)) and x]
        level = [inner for x in level for inner in (x.values() if isinstance(x, dict) else x)]
    return any(isinstance(x, (dict, list)) for x in level)


def read_jsonl(path: str | os.PathLike, kind: type[Kind]) -> list[Kind]:
    """Records of one kind from a JSON lines file; errors name the file, line and field."""
    return [kind.from_json(obj, where) for where, obj in read_json_lines(path)]


def write_jsonl(path: str | os.PathLike, records: Iterable[Record]) -> None:
    """Writes records as JSON lines; a reader sees the old file or the whole new one."""
    if pathlib.Path(path).suffix == ".gz":
        raise UserError(f"{path}: records are written uncompressed; choose a name that ends in .jsonl.")
    write_text_atomic(path, "".join(json.dumps(r.to_json(), ensure_ascii=False) + "\n" for r in records))


def is_finite(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


def shown(value: Any) -> str:
    """A value as an error quotes it: neither longer nor deeper than reads well."""
    quote = reprlib.Repr()
    quote.maxstring = quote.maxother = 80
    return quote.repr(value)


def _kind(value: Any) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"


def _check_fields(obj: Any, where: str, fields: tuple[str, ...]) -> None:
    if not isinstance(obj, dict):
        raise UserError(f"{where}: got a JSON value {_kind(obj)}; expected an object with {', '.join(fields)}.")
    with read_at(where):
        refuse_half_characters(obj)
    unknown = [name for name in obj if name not in (*fields, "meta")]
    if unknown:
        raise UserError(
            f"{where}: unknown field {shown(unknown[0])}; expected {', '.join(fields)} (put anything else under"
            " 'meta')."
        )


def _refuse_beside(obj: dict, where: str, name: str, others: tuple[str, ...]) -> None:
    for other in others:
        if other in obj:
            raise UserError(f"{where}: field {other!r} beside {name!r}; give one form or the other.")


def _nonempty(value: Any, where: str, name: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: field {name!r} is {_kind(value)}; expected a string.")
    if not value.strip():
        raise UserError(f"{where}: field {name!r} is empty; write some text or remove the line.")
    return value


def _text(obj: dict, where: str, name: str) -> str:
    return _nonempty(obj.get(name), where, name)


def _list(value: Any, where: str, name: str) -> list:
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{where}: field {name!r} is {_kind(value)}; expected a list.")
    if not value:
        raise UserError(f"{where}: field {name!r} is an empty list.")
    return list(value)


def _texts(obj: dict, where: str, name: str) -> tuple[str, ...]:
    items = _list(obj.get(name), where, name)
    return tuple(_nonempty(item, where, f"{name}[{i}]") for i, item in enumerate(items))


def _numbers(obj: dict, where: str, name: str) -> tuple[float, ...]:
    items = _list(obj.get(name), where, name)
    for i, item in enumerate(items):
        if not is_finite(item):
            raise UserError(f"{where}: field '{name}[{i}]' is {shown(item)}; expected a finite number.")
    return tuple(float(item) for item in items)


def _messages(value: Any, where: str, name: str) -> Messages:
    messages = []
    for i, message in enumerate(_list(value, where, name)):
        here = f"{name}[{i}]"
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            got = shown(message)
            raise UserError(f"{where}: field {here!r} is {got}; expected an object with 'role' and 'content'.")
        role = message["role"]
        if role not in ROLES:
            raise UserError(f"{where}: field '{here}.role' is {shown(role)}; expected one of {', '.join(ROLES)}.")
        if role == "system" and i:
            raise UserError(f"{where}: field '{here}.role' is 'system'; only the first message may be.")
        with read_at(where):
            content = joined(message["content"], f"{here}.content")
        messages.append({"role": role, "content": _nonempty(content, where, f"{here}.content")})
    return tuple(messages)


def _prompt(obj: dict, where: str) -> Messages:
    value = obj.get("prompt")
    if value is None or isinstance(value, str):
        return user(_nonempty(value, where, "prompt"))
    messages = _messages(value, where, "prompt")
    if messages[-1]["role"] != "user":
        raise UserError(
            f"{where}: field 'prompt': the last message has role {messages[-1]['role']!r};"
            " a prompt ends with the user's turn."
        )
    return messages


def _meta(obj: dict, where: str) -> dict:
    meta = obj.get("meta", {})
    if not isinstance(meta, dict):
        raise UserError(f"{where}: field 'meta' is {_kind(meta)}; expected an object.")
    return meta


def _with_meta(obj: dict, meta: dict) -> dict:
    return {**obj, "meta": meta} if meta else obj
