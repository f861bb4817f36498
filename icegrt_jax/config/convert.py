"""Options as the config that files and the command line change, and back: typed and frozen, for the programs."""

import dataclasses
import functools
import math
import operator
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ml_collections import ConfigDict

from icegrt_jax.config import own
from icegrt_jax.config.choices import check_choice
from icegrt_jax.config.file import flatten, nearest
from icegrt_jax.config.options import OptimizerOptions, Options
from icegrt_jax.config.ranges import split
from icegrt_jax.errors import UserError

Section = TypeVar("Section")
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def default_config() -> ConfigDict:
    """The complete config, locked but for the groups named freely (sources, weights, domain_sizes)."""
    config = to_config(own.defaults()).lock()
    for key in _named_groups(own.defaults(), ""):
        functools.reduce(operator.getitem, key.split("."), config).unlock()
    return config


def optimizer(lr: float, **changes) -> ConfigDict:
    """One role's optimizer as a group of the config."""
    return to_config(OptimizerOptions(lr=lr, **changes))


def named(**values) -> ConfigDict:
    """A group whose names are the user's, such as {source: "FORMAT:PATH"}: config files add to it."""
    return ConfigDict(values)


def read(config: ConfigDict) -> Options:
    """The typed options of a config. A key that it does not have has its default.

    Raises UserError for an unknown key, a value of another type, and one that is none of the choices or out of range.
    """
    return _read(own.defaults(), config.to_dict(), "")


def with_values(section: Section, values: Mapping[str, Any], group: str = "") -> Section:
    """The section, or all options, with other values under dotted keys; for errors it is the `group` of the config."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *groups, name = key.split(".")
        inner = nested
        for part in groups:
            inner = inner.setdefault(part, {})
        inner[name] = value
    return _read(section, nested, f"{group}." if group else "")


def checked(section: Section, group: str = "") -> Section:
    """The section that a program has made: the same, its types and choices checked as those of a config."""
    return _read(section, _plain(section), f"{group}." if group else "")


def _plain(section: Any) -> dict[str, Any]:
    """A section as groups of values."""
    values = {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}
    return {name: _plain(value) if dataclasses.is_dataclass(value) else value for name, value in values.items()}


def to_config(section: Any) -> ConfigDict:
    """A section, or all options, as a group of the config."""
    config = ConfigDict()
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            value = to_config(value)
        config[field.name] = ConfigDict(dict(value)) if isinstance(value, Mapping) else value
    return config


def _named_groups(section: Any, prefix: str) -> list[str]:
    """The dotted names of the groups named freely."""
    found = []
    for field in dataclasses.fields(section):
        value, key = getattr(section, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            found += _named_groups(value, f"{key}.")
        elif isinstance(value, Mapping):
            found.append(key)
    return found


def _read(default: Section, values: Mapping[str, Any], prefix: str) -> Section:
    """The section with the values of a group in place of its own; `prefix` is the group's dotted name."""
    if not isinstance(values, Mapping):
        raise UserError(f"{prefix[:-1]}={values!r}; expected a group of keys.")
    hints = get_type_hints(type(default), include_extras=True)
    changes = {}
    for name, value in values.items():
        if name not in hints:
            close = nearest(f"{prefix}{name}", flatten(default_config()))
            raise UserError(f"unknown key {prefix}{name}{f'; did you mean {close}?' if close else ''}")
        own = getattr(default, name)
        if dataclasses.is_dataclass(own):
            changes[name] = _read(own, _plain(value) if type(value) is type(own) else value, f"{prefix}{name}.")
        else:
            changes[name] = _value(f"{prefix}{name}", value, hints[name])
    return _weighed(type(default)(**{**_fields(default), **changes}))


def _weighed(section: Section) -> Section:
    """A section with one source and no weight: it is the whole of the mixture."""
    sources, weights = getattr(section, "sources", {}), getattr(section, "weights", None)
    if weights is None or weights or len(sources) != 1:
        return section
    return dataclasses.replace(section, weights=dict.fromkeys(sources, 1.0))  # type: ignore[type-var]


def _fields(section: Any) -> dict[str, Any]:
    return {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}


def _value(key: str, value: Any, kind: Any) -> Any:
    """The value as its type wants it."""
    kind, numbers = split(kind)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        check_choice(key, value, inner)
        return value
    if origin is tuple:
        return _tuple(key, value, inner)
    if origin is not None:  # a group named freely
        if not isinstance(value, Mapping):
            raise UserError(f"{key}={value!r}; expected a group of names.")
        return {name: _value(f"{key}.{name}", one, inner[1]) for name, one in value.items()}
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise UserError(f"{key}={value!r}; expected {_EXPECTED[kind]}.")
    if kind is float and not math.isfinite(value):
        raise UserError(f"{key}={value}; expected a finite number.")
    if numbers is not None:
        numbers.check(key, value)
    return value


def _tuple(key: str, value: Any, inner: tuple) -> tuple:
    """A tuple of some choices, or of as many values as its type has."""
    values = tuple(value) if isinstance(value, list | tuple) else ()
    if inner[-1] is Ellipsis:
        known = get_args(inner[0]) if get_origin(inner[0]) is Literal else ()
        if not known:
            return tuple(_value(key, one, inner[0]) for one in values)
        if not values or any(one not in known for one in values):
            raise UserError(f"{key}={value}; expected some of {', '.join(known)}.")
        return values
    if len(values) != len(inner):
        raise UserError(f"{key}={value!r}; expected {len(inner)} values.")
    return tuple(_value(key, one, kind) for one, kind in zip(values, inner))
