"""docs/config.md: every key with its type, default and comment, made from `options.py`.

python -m icegrt_jax.config.page > docs/config.md
"""

import ast
import dataclasses
import functools
import inspect
import json
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from icegrt_jax.config import options
from icegrt_jax.config.ranges import split

HEAD = """\
# Keys of a config

Made from `icegrt_jax/config/options.py` by `python -m icegrt_jax.config.page`; not written by hand. A config file
starts from `default_config()` and sets what differs; every key can be set on the command line as well,
`--config.KEY=VALUE`. A program reads it into the typed sections named here, which Python users construct themselves.
"""


def page() -> str:
    """The page as Markdown."""
    groups = "".join(_group(name, section) for name, section in _sections("", options.Options()))
    return f"{HEAD}{groups}"


def comments(section: type) -> dict[str, str]:
    """What the source says of each field: the comment lines above it, or the one behind it."""
    (lines, classes), found = _parsed(section.__module__), {}
    for node in classes[section.__name__].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = said_of(lines, node)
    inherited = [comments(base) for base in section.__bases__ if dataclasses.is_dataclass(base)]
    return {name: text for base in inherited for name, text in base.items()} | found


@functools.cache
def _parsed(module: str) -> tuple[list[str], dict[str, ast.ClassDef]]:
    """The lines of a module's source, and its classes by name."""
    source = inspect.getsource(sys.modules[module])
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    return source.splitlines(), {node.name: node for node in classes}


def said_of(lines: list[str], node: ast.stmt) -> str:
    """The comment lines above a statement, and the comment behind it."""
    behind = lines[(node.end_lineno or 0) - 1].encode()[node.end_col_offset :].decode().partition("#")[2]
    first = node.lineno - 1
    while lines[first - 1].lstrip().startswith("#"):
        first -= 1
    above = [line.strip().lstrip("# ") for line in lines[first : node.lineno - 1]]
    return " ".join([*above, behind.strip()]).strip()


def _sections(prefix: str, section: Any):
    """Each section with its dotted name, the groups in it after it."""
    yield prefix, section
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _sections(f"{prefix}.{field.name}".lstrip("."), value)


def _group(name: str, section: Any) -> str:
    kind = type(section)
    title = f"\n## `{name}`\n" if name else "\n## The whole run\n"
    said, hints = comments(kind), get_type_hints(kind, include_extras=True)
    rows = []
    for field in dataclasses.fields(section):
        value, key = getattr(section, field.name), f"{name}.{field.name}".lstrip(".")
        if not dataclasses.is_dataclass(value):
            meaning = said[field.name].replace("|", "\\|")
            rows.append(f"| `{key}` | {_type(hints[field.name])} | {_shown(value)} | {meaning} |\n")
    if not rows:
        return ""
    table = "".join(("| Key | Type | Default | Meaning |\n| --- | --- | --- | --- |\n", *rows))
    return f"{title}\n{inspect.getdoc(kind)} `{kind.__name__}`\n\n{table}"


def _type(kind: Any) -> str:
    kind, numbers = split(kind)
    if numbers is not None:
        return f"{kind.__name__}, {numbers}"
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin is tuple:
        return "some of " + _type(inner[0]) if inner[-1] is Ellipsis else f"{len(inner)} of {_type(inner[0])}"
    return f"{{name: {_type(inner[1])}}}" if origin else kind.__name__


def _shown(value: Any) -> str:
    if isinstance(value, Mapping | tuple | str):
        return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`".replace("`{}`", "none")
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print(page(), end="")
