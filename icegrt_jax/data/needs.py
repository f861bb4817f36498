"""What a reader of prompt records needs of their fields, and records that lack it."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from icegrt_jax.data.fields import shown
from icegrt_jax.data.records import Prompt
from icegrt_jax.errors import UserError


@dataclass(frozen=True)
class Need:
    """A field that is read: its name, what it must hold in words, and whether a value does."""

    field: str  # "reference" or "meta.NAME"
    expected: str = "a value"
    holds: Callable[[Any], bool] = lambda value: value not in (None, "")


def has_words(value: Any) -> bool:
    """Whether a value is a text with a word or a number in it."""
    return isinstance(value, str) and re.search(r"\w", value) is not None


def as_needs(fields: Iterable[Need | str], reader: str) -> tuple[Need, ...]:
    """Needs, where a name alone stands for a field that is there and not empty."""
    if isinstance(fields, str):
        raise UserError(f"{reader} needs {fields!r}; expected a list of fields, such as [{fields!r}].")
    needs = tuple(Need(field) if isinstance(field, str) else field for field in fields)
    for need in needs:
        name = need.field if isinstance(need, Need) else shown(need)
        if not isinstance(need, Need) or not (name == "reference" or name.startswith("meta.")):
            raise UserError(f"{reader} needs {name!r}; expected 'reference' or 'meta.NAME', the fields of a prompt.")
    return needs


def check_needs(needs: Sequence[Need], record: Prompt, reader: str) -> None:
    """Refuses a record that lacks what `reader` needs."""
    for need in needs:
        top, _, name = need.field.partition(".")
        value = record.meta.get(name) if top == "meta" else record.reference
        if not need.holds(value):
            where = record.where or "a prompt"
            got = "missing" if value in (None, "") else shown(value)
            raise UserError(f"{where}: field {need.field!r} is {got}; {reader} needs {need.expected}.")
