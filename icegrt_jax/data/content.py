"""What messages and fields may hold: text of whole characters, as a string or as parts of type text."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from icegrt_jax.errors import UserError


@contextlib.contextmanager
def read_at(where: str) -> Iterator[None]:
    """Puts where something was read in front of a mistake in it; "" adds nothing."""
    try:
        yield
    except UserError as error:
        if not where:
            raise
        raise UserError(f"{where}: {error}") from error


def refuse_half_characters(value: Any, name: str = "") -> None:
    """Raises UserError for a lone surrogate anywhere in a value of strings, lists and objects; `name` is its field.

    JSON can write one ("\\ud83d", half an emoji that was cut in two), but it is no text: neither tokenizers nor
    files of UTF-8 take it.
    """
    if _is_of_whole_characters(value):
        return
    for place, text in _strings(value, name):
        if not text.isascii() and (half := next((c for c in text if "\ud800" <= c <= "\udfff"), None)):
            raise UserError(
                f"field {place!r} holds {half!r}, half a character (a lone surrogate); write the whole character or"
                " take it out."
            )


def joined(content: Any, name: str) -> Any:
    """A message's content as a string where it is parts of type text; anything but a list comes back as it is."""
    if not isinstance(content, (list, tuple)):
        return content
    for i, part in enumerate(content):
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = repr(part["type"]) if isinstance(part, Mapping) and "type" in part else repr(part)
            raise UserError(
                f"field '{name}[{i}]' is a part of type {kind:.80}; expected {{'type': 'text', 'text': ...}}: only text"
                " is read here."
            )
    return "".join(part["text"] for part in content)


def plain(messages: Any) -> list[dict]:
    """Messages that a program hands over, their contents as strings of whole characters."""
    flat = []
    for i, message in enumerate(messages):
        name = f"messages[{i}].content"
        content = joined(message.get("content"), name)
        if not isinstance(content, str):
            raise UserError(f"field {name!r} is {content!r:.80}; expected a string or parts of type text.")
        refuse_half_characters(content, name)
        flat.append({**message, "content": content})
    return flat


def _is_of_whole_characters(value: Any) -> bool:
    """Whether a value is made of whole characters, told without a look at each; False where it cannot be."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError):  # a value of no JSON, half a character
        return False
    return True


def _strings(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """(field, string) of all strings in a value, names of fields too. Not recursive: JSON may nest deeper than that."""
    stack = [(name, value)]
    while stack:
        place, item = stack.pop()
        if isinstance(item, str):
            yield place, item
        elif isinstance(item, Mapping):
            for key, inner in reversed([*item.items()]):
                here = f"{place}.{key}" if place else str(key)
                stack += [(here, inner), (here, key)]
        elif isinstance(item, (list, tuple)):
            stack += [(f"{place}[{i}]", inner) for i, inner in reversed(list(enumerate(item)))]
