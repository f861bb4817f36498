"""What a caller hands over as data: records, dicts, strings and chats, a path or a source's spec."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from icegrt_jax.data.fields import shown
from icegrt_jax.data.records import Instruction, Kind, Prompt, Ranking, Text
from icegrt_jax.data.sources import load_source
from icegrt_jax.errors import UserError

EXPECTED = {
    Prompt: "a string, a chat or {'prompt', 'reference'}",
    Instruction: "{'prompt', 'response'} or a chat that ends with the assistant",
    Text: "a string or {'text'}",
    Ranking: "{'prompt', 'chosen', 'rejected'} or {'prompt', 'responses', 'ranks'}",
}


def sources(given: Any, kind: type[Kind], name: str, data_dir: str = "") -> dict[str, Sequence[Kind]]:
    """The records by source: a mapping has several sources, anything else is one that is called `name`."""
    if not isinstance(given, Mapping):
        return {name: read(given, kind, name, data_dir)}
    if not given:
        raise UserError(f"{name} is empty; name a source.")
    return {source: read(one, kind, f"{name}.{source}", data_dir) for source, one in given.items()}


def read(given: Any, kind: type[Kind], name: str, data_dir: str = "") -> Sequence[Kind]:
    """The records of one source; every mistake names `name` and the place."""
    if isinstance(given, str | os.PathLike):
        return load_source(_spec(given, name), kind=kind, data_dir=data_dir)
    if isinstance(given, Mapping | bytes) or not isinstance(given, Sequence):
        raise UserError(f"{name}={shown(given)}; expected a list, each item {EXPECTED[kind]}, or FORMAT:PATH.")
    if not given:
        raise UserError(f"{name} is empty; expected {EXPECTED[kind]} for each item.")
    return [_record(item, kind, f"{name}[{i}]") for i, item in enumerate(given)]


def _spec(given: str | os.PathLike, name: str) -> str:
    """FORMAT:PATH; a file of JSON lines may be given by its path alone, from the working folder."""
    text = os.fspath(given)
    path = pathlib.Path(text).expanduser()
    if path.suffix in (".jsonl", ".gz") and (isinstance(given, os.PathLike) or ":" not in text):
        return f"jsonl:{path.absolute()}"
    if ":" not in text:
        raise UserError(
            f"{name}={shown(text)}; expected a list, a file that ends in .jsonl, or FORMAT:PATH as in a config."
        )
    return text


def _record(item: Any, kind: type[Kind], where: str) -> Kind:
    if isinstance(item, kind):
        return item
    if isinstance(item, Mapping):
        return kind.from_json(dict(item), where)
    if kind in (Prompt, Text) and isinstance(item, str):
        return kind.from_json({kind.FIELDS[0]: item}, where)
    is_chat = isinstance(item, Sequence) and not isinstance(item, str | bytes)
    if is_chat and kind in (Prompt, Instruction) and all(isinstance(message, Mapping) for message in item):
        return kind.from_json({"prompt" if kind is Prompt else "messages": list(item)}, where)
    raise UserError(f"{where}: {shown(item)} is no {kind.__name__.lower()}; expected {EXPECTED[kind]}.")
