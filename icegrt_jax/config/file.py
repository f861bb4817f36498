"""Config files: loaded, overridden from the command line, saved with the run and compared with a rerun.

A config file is Python with `get_config()`, which returns an ml_collections `ConfigDict`. One with variants lists them,
`SWITCHES = ("", "smoke")`, and has `get_config(switch="")`. What the keys mean is in `options.py`; here they are
only names and values. Every mistake is a `UserError`, and nothing here imports jax.
"""

import contextlib
import difflib
import functools
import importlib.util
import json
import operator
import os
import pathlib
import re
import traceback
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from absl import flags
from ml_collections import ConfigDict, FieldReference, config_flags

from icegrt_jax import sums
from icegrt_jax.errors import UserError
from icegrt_jax.files import write_text_atomic

FILE_NAME = "config.json"
ABSENT = object()  # stands for the value of a key that is not there
_EXPECTED = {
    bool: "true or false",
    float: "a number",
    int: "an integer",
    str: "text",
    tuple: 'a tuple such as "(1, 2)"',
}


class Group(Protocol):
    """A config or a group of one, as names and values: an ml_collections ConfigDict, or a dict."""

    def items(self) -> Iterable[tuple[str, Any]]: ...


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The locked config of a file, with overrides applied in order.

    Args:
      spec: "FILE.py" or "FILE.py:SWITCH".
      overrides: "--config.key=value" strings; a boolean may also be given as "--config.key" or "--noconfig.key". A
        group that is not locked takes new names: "--config.sft.sources.mine=jsonl:rows.jsonl".
    """
    path, _, switch = spec.partition(":")
    module = _load_module(path)
    known = getattr(module, "SWITCHES", ("",))
    if switch not in known:
        names = ", ".join(name for name in known if name)
        raise UserError(f"{path} has no switch {switch!r}; {f'it has: {names}' if names else 'it has none'}.")
    config = _explained(path, lambda: module.get_config(switch) if switch else module.get_config())
    if not isinstance(config, ConfigDict):
        got = type(config).__name__
        raise UserError(f"{path}: get_config() returned {got}, expected an ml_collections ConfigDict.")
    groups = _group_names(config) if config.is_locked else ()  # else nobody has said which take new names
    named = [name for name in groups if not _holder(config, name).is_locked]
    config.lock()
    for override in overrides:
        _override(config, override, named)
    return config


def save_resolved(config: Group, workdir: str | os.PathLike) -> bool:
    """Writes `workdir/config.json` whole or not at all; True if there was none before."""
    path = pathlib.Path(workdir) / FILE_NAME
    is_new = not path.exists()
    try:
        if is_new:
            sums.begin(path.parent)
            sums.check_same(path, to_json(config))
        write_text_atomic(path, to_json(config))
    except OSError as error:
        with contextlib.suppress(OSError):
            sums.end(path.parent)
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --workdir.") from error
    return is_new


def check_same(
    config: Group,
    workdir: str | os.PathLike,
    free: tuple[str, ...] = (),
    used_by: Callable[[str], list[pathlib.Path] | None] = lambda key: None,
    gone: Mapping[str, Any] = types.MappingProxyType({}),
    added: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Refuses a workdir whose run was made with another config.

    Args:
      config: the resolved config of this command.
      workdir: the run's folder; without a config.json any config will do.
      free: keys that may differ, "log" standing for "log.every" and all others under it.
      used_by: what is in the workdir that a key has shaped; None: all of it. A key that has shaped nothing may differ.
      gone: keys that there once were, with the value at which the run is as it is without them.
      added: keys that there once were not, with the value at which the run is as it was without them.
    """
    changed = changes(config, workdir, free, gone, added)
    differing = {key: used_by(key) for key in changed if used_by(key) != []}
    if not differing:
        return
    shaped = list(dict.fromkeys(path for paths in differing.values() for path in paths or ()))
    way = "delete this one, or repeat its values"
    if None not in differing.values():
        way = f"repeat its values, or delete what they have shaped and begin there anew: {', '.join(map(str, shaped))}"
    if any(path.is_symlink() for path in shaped):
        taken = ", ".join(f"{path.name} of {path.readlink().parent}" for path in shaped if path.is_symlink())
        way = f"or repeat its values: they have shaped what this run has taken from another, {taken}"
    shown = shown_changes(changed, differing)
    raise UserError(f"{workdir} holds a run with another config ({shown}); choose another --workdir, {way}.")


def changes(
    config: Group,
    workdir: str | os.PathLike,
    free: tuple[str, ...] = (),
    gone: Mapping[str, Any] = types.MappingProxyType({}),
    added: Mapping[str, Any] = types.MappingProxyType({}),
) -> dict[str, tuple[Any, Any]]:
    """{key: (value in the workdir's config.json, value now)} of all that differ, `ABSENT` for none.

    Args: as of `check_same`.
    """
    path = pathlib.Path(workdir) / FILE_NAME
    if not path.exists():
        return {}
    try:
        old = flatten(from_json(sums.content(path).decode("utf-8")))
    except sums.Damaged:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not the config of a run ({error}); choose another --workdir.") from error
    # Through JSON, as the old one went: a list in the file and a tuple from get_config() are the same value.
    new = flatten(from_json(to_json(config)))
    old = {key: value for key, value in old.items() if key in new or key not in gone or gone[key] != value}
    old = {**{key: value for key, value in added.items() if not _has(old, key)}, **old}
    return {
        key: (old.get(key, ABSENT), new.get(key, ABSENT))
        for key in sorted(old.keys() | new.keys())
        if _shown(old.get(key, ABSENT)) != _shown(new.get(key, ABSENT)) and not is_under(key, free)
    }


def shown_changes(changed: Mapping[str, tuple[Any, Any]], keys: Iterable[str]) -> str:
    """Some changes in words."""
    return "; ".join(f"{key} {_shown(changed[key][0])} → {_shown(changed[key][1])}" for key in keys)


def forget_if_unused(workdir: str | os.PathLike) -> None:
    """Takes back `save_resolved` where the run has left nothing else, so that a corrected command may follow."""
    workdir = pathlib.Path(workdir)
    if workdir.is_dir() and {path.name for path in workdir.iterdir()} in ({FILE_NAME}, {FILE_NAME, sums.FILE_NAME}):
        (workdir / FILE_NAME).unlink()
        (workdir / sums.FILE_NAME).unlink(missing_ok=True)
        workdir.rmdir()


def to_json(config: Group) -> str:
    """The config as indented JSON; tuples become lists."""
    return json.dumps(_plain(config), indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> ConfigDict:
    """The locked config that `to_json` wrote; lists become the tuples they were."""
    loaded = json.loads(text)
    if not isinstance(loaded, dict):
        raise ValueError(f"a JSON {type(loaded).__name__}, expected an object")
    return ConfigDict(_tuples(loaded)).lock()


def flatten(config: Group) -> dict[str, Any]:
    """Values by dotted key, {"ppo.kl.target": 6.0, ...}; an empty group is a value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict) and value:
            flat |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like this one, or None where none is alike."""
    known = [other for other in known if other]
    leaf = name.rpartition(".")[2]
    # The right word in the wrong group, or in none, is the likelier mistake: ppo.lr is not a misspelt ppo.lam.
    same_leaf = [other for other in known if other.rpartition(".")[2] == leaf]
    close = difflib.get_close_matches(name, same_leaf, n=1, cutoff=0.0) or difflib.get_close_matches(name, known, n=1)
    if not close:  # A misspelt word without its group.
        leaves = {other.rpartition(".")[2]: other for other in known}
        close = [leaves[word] for word in difflib.get_close_matches(leaf, leaves, n=1)]
    return close[0] if close else None


def _load_module(path: str) -> types.ModuleType:
    if not path.endswith(".py"):
        raise UserError(f"--config={path} is not a Python file; give FILE.py or FILE.py:SWITCH.")
    if not os.path.isfile(path):
        raise UserError(f"config file {path} does not exist (looked in {os.getcwd()}).")
    spec = importlib.util.spec_from_file_location("config_file", path)
    assert spec is not None and spec.loader is not None, path  # a name that ends in .py has both
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    _explained(path, lambda: loader.exec_module(module))
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} defines no get_config().")
    return module


def _explained(path: str, call):
    """What `call` returns; its exception becomes one sentence that names the file and line."""
    try:
        return call()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}.") from error
    except Exception as error:
        frames = list(traceback.walk_tb(error.__traceback__))
        of_file = [(f, n) for f, n in frames if os.path.abspath(f.f_code.co_filename) == os.path.abspath(path)]
        where = f"{path}, line {of_file[-1][1]}" if of_file else path
        said = _misspelt(error, frames[-1][0].f_locals, [f.f_locals for f, _ in of_file])
        said = said or f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{where}: {said}") from error


def _misspelt(error: Exception, innermost: dict[str, Any], of_file: list[dict[str, Any]]) -> str | None:
    """What to say of a key that the config does not have, read or set in the file; None of another mistake.

    Args:
      innermost: the variables where it was raised: of the group that was asked.
      of_file: those of the file's own functions, the config among them.
    """
    group = innermost.get("self")
    cause = error
    while cause.args and isinstance(cause.args[0], Exception):  # an AttributeError made of a KeyError
        cause = cause.args[0]
    found = re.match(r"""Key "(.+?)" does not exist|'(.+?)'""", str(cause.args[0]) if cause.args else "")
    if not isinstance(error, AttributeError | KeyError) or not isinstance(group, ConfigDict) or not found:
        return None
    key = found[1] or found[2]
    configs = [value for variables in of_file for value in variables.values() if isinstance(value, ConfigDict)]
    whole, prefix = next(((c, name) for c in configs if (name := _place(c, group)) is not None), (group, ""))
    close = nearest(f"{prefix}{key}", [*flatten(whole), *_group_names(whole)])
    return f"unknown key {prefix}{key}{f'; did you mean {close}?' if close else ''}"


def _place(config: Group, group: Group) -> str | None:
    """The dotted name of a group in a config, a dot at its end, "" of the config itself; None where it isn't in it."""
    if config is group:
        return ""
    inner = ((key, _place(value, group)) for key, value in config.items() if isinstance(value, ConfigDict))
    return next((f"{key}.{place}" for key, place in inner if place is not None), None)


def _group_names(config: Group) -> list[str]:
    groups = [(key, value) for key, value in config.items() if isinstance(value, ConfigDict)]
    return [key for key, _ in groups] + [f"{key}.{name}" for key, value in groups for name in _group_names(value)]


def _holder(group: Any, name: str) -> Any:
    """The group of that dotted name within another; "" is that one."""
    return functools.reduce(operator.getitem, filter(None, name.split(".")), group)


def _leaf(config: Group, key: str) -> Any:
    """The value of a dotted key, `ABSENT` of one that is none or a group of keys."""
    found: Any = config
    for part in key.split("."):
        if not isinstance(found, ConfigDict) or part not in found:
            return ABSENT
        found = found[part]
    return ABSENT if isinstance(found, ConfigDict) and found else found


def _override(config: ConfigDict, override: str, named: Sequence[str]) -> None:
    """Sets one key of `config` in place, a new one in a group of `named`, through `ml_collections.config_flags`."""
    flag, has_value, value = override.partition("=")
    key = flag.lstrip("-").removeprefix("no").removeprefix("config.")
    before, (group, _, name) = _leaf(config, key), key.rpartition(".")
    if before is ABSENT and group in named and name and has_value:
        with _holder(config, group).unlocked() as holder:
            holder[name] = _literal(value)
        return
    if before is ABSENT:
        leaves = flatten(config)
        if any(leaf.startswith(f"{key}.") for leaf in leaves):
            inner = ", ".join(f"--config.{leaf}" for leaf in leaves if leaf.startswith(f"{key}."))
            raise UserError(f"--config.{key} is a group of keys; set one of {inner}.")
        close = nearest(key, leaves)
        raise UserError(f"unknown key --config.{key}{f'; did you mean --config.{close}?' if close else ''}")
    # Of the config, not of the value: a placeholder that is None still has a type.
    holder = _holder(config, group)
    expected = holder.get_type(name)
    if expected not in _EXPECTED:
        raise UserError(f"--config.{key} is a {expected.__name__}, which only the config file can set.")
    if not has_value and expected is not bool:
        raise UserError(f"--config.{key} has no value; write --config.{key}=VALUE, with {_EXPECTED[expected]}.")
    # Flags of its own for each override: absl's global ones would remember it in the next call. And a config of this
    # key alone: a flag writes its whole default as YAML, which of all keys is a thirtieth of a second.
    values = flags.FlagValues()
    arguments = ["", override]
    alone = ConfigDict({name: FieldReference(before, field_type=expected)})
    whole = functools.reduce(lambda inner, part: ConfigDict({part: inner}), reversed(key.split(".")[:-1]), alone)
    config_flags.DEFINE_config_dict("config", whole, flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
        holder[name] = _holder(whole, group)[name]
        if expected is tuple:
            _check_elements(before, holder[name])
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(f"--config.{key} expects {_EXPECTED[expected]}, got {value!r}.") from error


def _literal(text: str) -> int | float | str:
    """A number where the text is one."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _check_elements(before: tuple, after: tuple) -> None:
    """Refuses text among numbers and the like; the parser takes "(0.8" for a tuple of one string."""
    kinds = {type(element) for element in before}
    if float in kinds:
        kinds.add(int)
    if kinds and any(type(element) not in kinds for element in after):
        raise TypeError("elements of another type")


def _has(flat: dict[str, Any], key: str) -> bool:
    """Whether there is such a key, or group of keys."""
    return any(is_under(name, (key,)) for name in flat)


def is_under(key: str, prefixes: Iterable[str]) -> bool:
    """Whether a key is one of these or lies in one of these groups."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _shown(value: Any) -> str:
    return "(absent)" if value is ABSENT else json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, ConfigDict | dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value
