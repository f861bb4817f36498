"""The resolved config of a run: every key with its meaning, and which differ from the default or from a recipe."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from icegrt_jax.config.convert import default_config
from icegrt_jax.config.file import flatten, from_json
from icegrt_jax.config.options import Options
from icegrt_jax.config.page import comments


def table(config: str, recipe: Mapping[str, Any] | None = None, typed: Collection[str] = ()) -> list[dict[str, Any]]:
    """A row for every key.

    Args:
      config: as JSON.
      recipe: the keys of the config that it is compared with, None for none.
      typed: keys that were set on a command line.
    """
    values, defaults, meanings = flatten(from_json(config)), flatten(default_config()), _meanings("", Options())
    absent = object()
    rows = []
    for key, value in values.items():
        default = defaults.get(key, absent)
        named = default is absent  # one of the user's own names, such as a source
        rows.append(
            {
                "key": key, "value": shown(value), "default": "" if named else shown(default),
                "meaning": meanings.get(key) or meanings.get(key.rpartition(".")[0], ""),
                "set": named or not same(value, default),
                "typed": key in typed,
                "recipe": "" if recipe is None or same(recipe.get(key, absent), value) else shown(recipe.get(key)),
                "differs": recipe is not None and not same(recipe.get(key, absent), value),
            }
        )  # fmt: skip
    return rows


def between(configs: Mapping[str, str]) -> list[dict[str, Any]]:
    """The keys in which some runs differ, with each one's value.

    Args:
      configs: {run: its config as JSON}.
    """
    flat = {run: flatten(from_json(text)) for run, text in configs.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    rows = [{"key": key, "values": [shown(values[key]) if key in values else "–" for values in flat.values()]}
            for key in keys]  # fmt: skip
    return [row for row in rows if len(set(row["values"])) > 1]


def shown(value: Any) -> str:
    """A value as it would be typed."""
    if isinstance(value, str) and value:
        return value
    return json.dumps(value.to_dict() if isinstance(value, ConfigDict) else value, ensure_ascii=False)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same, whatever JSON has made of a tuple."""
    as_list = lambda value: list(value) if isinstance(value, tuple) else value
    return as_list(one) == as_list(other)


def _meanings(prefix: str, section: Any) -> dict[str, str]:
    """{dotted key: what the source says of it}."""
    found, said = {}, comments(type(section))
    for field in dataclasses.fields(section):
        value, key = getattr(section, field.name), f"{prefix}{field.name}"
        found[key] = said[field.name]
        if dataclasses.is_dataclass(value):
            found |= _meanings(f"{key}.", value)
    return found
