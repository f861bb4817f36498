"""One field of a record at a time: read, checked, and named in the error where it is not what it should be."""

import difflib
import itertools
import json
import math
import reprlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

from icegrt_jax.data.content import joined, read_at, refuse_half_characters
from icegrt_jax.errors import UserError

ROLES = ("system", "user", "assistant")
# OpenAI's later name for the system's turn.
OTHER_ROLES = {"developer": "system"}
# Of a message beside role and content: what would be left out of what was said. Any other key is ignored.
SPOKEN = ("tool_calls", "function_call", "audio", "refusal")
MAX_DEPTH = 500  # lists and objects in each other; what Python's own reader allows differs from version to version
CLOSE = 0.8  # likeness from which a column is a misspelt field
LOOKED_AT = 200  # columns of a row that are compared with the fields
Messages = tuple[dict, ...]


def parse_json(text: str, where: str) -> Any:
    """The JSON value of one record; what cannot be read is an error that says where it stands."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
        if text.count("{") + text.count("[") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
            raise RecursionError
        return value
    except json.JSONDecodeError as e:
        place = f"line {e.lineno}, column {e.colno}" if e.lineno > 1 else f"column {e.colno}"
        raise UserError(f"{where}: not JSON ({e.msg} at {place}).") from e
    except RecursionError as e:
        raise UserError(f"{where}: lists and objects lie too deep in each other; expected a flat record.") from e
    except _Twice as e:
        raise UserError(f"{where}: field {shown(e.args[0])} stands twice in one object; leave one of them.") from e
    except ValueError as e:  # Python's limit on the digits of an integer
        raise UserError(f"{where}: holds an integer of too many digits; write it as a string.") from e


class _Twice(ValueError):
    """A key that an object has twice: JSON's readers keep the last value and lose the others."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _Twice(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return made


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects lie in each other more than `depth` times."""
    level = [value]
    for _ in range(depth):
        level = [x for x in level if isinstance(x, (dict, list)) and x]
        level = [inner for x in level for inner in (x.values() if isinstance(x, dict) else x)]
    return any(isinstance(x, (dict, list)) for x in level)


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


def kind_of(value: Any) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"


def whole(obj: Any, where: str, fields: Iterable[str] = ()) -> dict:
    """The object itself, if it is one and made of whole characters."""
    if not isinstance(obj, dict):
        expected = f" with {', '.join(fields)}" if fields else ""
        raise UserError(f"{where}: got a JSON value {kind_of(obj)}; expected an object{expected}.")
    with read_at(where):
        refuse_half_characters(obj)
    return obj


def refuse_misspelt(obj: dict, where: str, fields: tuple[str, ...], forms: tuple[tuple[str, ...], ...]) -> None:
    """Refuses a column that reads like a field which the record lacks; other columns are ignored.

    Args:
      fields: all that a record of the kind may have.
      forms: the fields that it needs, of each form that it may have.
    """
    complete = any(all(name in obj for name in form) for form in forms)
    needed = {name for form in forms for name in form}
    lacking = [name for name in fields if name not in obj and not (complete and name in needed)]
    for name in itertools.islice(obj, LOOKED_AT):
        known = name in fields
        if not known and (close := difflib.get_close_matches(name[:80], lacking, n=1, cutoff=CLOSE)):
            raise UserError(
                f"{where}: unknown field {shown(name)}; expected {', '.join(fields)}. Did you mean {close[0]!r}?"
            )


def refuse_unknown(obj: dict, where: str, fields: tuple[str, ...]) -> None:
    """Refuses any other field, in what a program makes: no column of somebody else's data set comes that way."""
    unknown = next((name for name in obj if name not in (*fields, "meta")), None)
    if unknown is not None:
        raise UserError(
            f"{where}: unknown field {shown(unknown)}; expected {', '.join(fields)} (put anything else under 'meta')."
        )


def refuse_beside(obj: dict, where: str, name: str, others: tuple[str, ...]) -> None:
    for other in others:
        if other in obj:
            raise UserError(
                f"{where}: field {other!r} beside {name!r}; give one form or the other, or name the one that is meant"
                f" in the source: FORMAT:PATH?{name}={name}"
            )


def nonempty(value: Any, where: str, name: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: field {name!r} is {kind_of(value)}; expected a string.")
    if not value.strip():
        raise UserError(f"{where}: field {name!r} is empty; write some text or remove the line.")
    return value


def text(obj: dict, where: str, name: str) -> str:
    return nonempty(obj.get(name), where, name)


def items(value: Any, where: str, name: str) -> list:
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{where}: field {name!r} is {kind_of(value)}; expected a list.")
    if not value:
        raise UserError(f"{where}: field {name!r} is an empty list.")
    return list(value)


def texts(obj: dict, where: str, name: str) -> tuple[str, ...]:
    found = items(obj.get(name), where, name)
    return tuple(nonempty(item, where, f"{name}[{i}]") for i, item in enumerate(found))


def numbers(obj: dict, where: str, name: str) -> tuple[float, ...]:
    found = items(obj.get(name), where, name)
    for i, item in enumerate(found):
        if not is_finite(item):
            raise UserError(f"{where}: field '{name}[{i}]' is {shown(item)}; expected a finite number.")
    return tuple(float(item) for item in found)


def messages(value: Any, where: str, name: str) -> Messages:
    """Messages with a role and a content; of OpenAI's further keys see `SPOKEN`."""
    read = []
    for i, message in enumerate(items(value, where, name)):
        here = f"{name}[{i}]"
        if not isinstance(message, dict) or "role" not in message or not ("content" in message or _speaks(message)):
            got = shown(message)
            raise UserError(f"{where}: field {here!r} is {got}; expected an object with 'role' and 'content'.")
        _refuse_unread(message, where, here)
        role = message["role"]
        role = OTHER_ROLES.get(role, role) if isinstance(role, str) else role
        if role not in ROLES:
            raise UserError(f"{where}: field '{here}.role' is {shown(role)}; expected one of {', '.join(ROLES)}.")
        if role == "system" and i:
            raise UserError(f"{where}: field '{here}.role' is 'system'; only the first message may be.")
        with read_at(where):
            content = joined(message["content"], f"{here}.content")
        read.append({"role": role, "content": nonempty(content, where, f"{here}.content")})
    return tuple(read)


def _speaks(message: dict) -> bool:
    return any(message.get(key) for key in SPOKEN)


def _refuse_unread(message: dict, where: str, here: str) -> None:
    """Refuses a message of which something said, or a wish not to learn from it, would be left out in silence."""
    for key in SPOKEN:
        if message.get(key):
            raise UserError(
                f"{where}: field '{here}.{key}' is {shown(message[key])}; only text is learned here: write it into the"
                " content or remove the line."
            )
    if message.get("weight") == 0 and message["role"] == "assistant":
        raise UserError(
            f"{where}: field '{here}.weight' is 0, and every turn of the assistant is learned here; cut the"
            " conversation before that turn or remove the line."
        )


def prompt(obj: dict, where: str) -> Messages:
    value = obj.get("prompt")
    if value is None or isinstance(value, str):
        return ({"role": "user", "content": nonempty(value, where, "prompt")},)
    read = messages(value, where, "prompt")
    if read[-1]["role"] != "user":
        raise UserError(
            f"{where}: field 'prompt': the last message has role {read[-1]['role']!r};"
            " a prompt ends with the user's turn."
        )
    return read


def meta(obj: dict, where: str) -> dict:
    value = obj.get("meta", {})
    if not isinstance(value, dict):
        raise UserError(f"{where}: field 'meta' is {kind_of(value)}; expected an object.")
    return value


def with_meta(obj: dict, value: dict) -> dict:
    return {**obj, "meta": value} if value else obj
