"""Published recipes as config files: how a config takes one, and docs/recipes.md, made from what they say.

A recipe is a file in configs/recipes/ with two functions that set keys of a config, each with its source in a comment:
`recipe`, the method, and `scale`, sizes and learning rates as published.

python -m icegrt_jax.config.recipes configs/recipes > docs/recipes.md
"""

import ast
import dataclasses
import json
import os
import pathlib
import runpy
import sys
from collections.abc import Iterator

from ml_collections import ConfigDict

from icegrt_jax.config.file import Group
from icegrt_jax.config.page import said_of

NAMES = ("icegrt", "n_plus", "ppo_max", "dapo", "vapo")
PARTS = ("recipe", "scale")
HEAD = """\
# Recipes

Made from the files in `configs/recipes/` by `python -m icegrt_jax.config.recipes configs/recipes`; not written by
hand. Each is a config for your own model and data at the size that was published, and says at its top what of the paper
and its program was read, and what of it is not built. On the embedded domain, at the sizes and learning rates of
`configs/quickstart.py`: `icegrt run --config=configs/recipes/dapo.py:quickstart --workdir=runs/dapo`, and `:smoke` for
a look. A config of your own takes a method and keeps its sizes:

```python
from icegrt_jax.config.recipes import apply

apply("configs/recipes/dapo.py", c)
```

Every file names the same keys, so that nothing of another recipe is left where one is applied; all other keys keep
their values. `scale` marks what `apply` and `:quickstart` leave out. A source that could not be read is said to be so.
"""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One key that a recipe sets.

    Attributes:
      part: the function that sets it.
      value: as the file has it, or as JSON where it is a constant.
      source: its comment.
    """

    key: str
    part: str
    value: str
    source: str


def apply(path: str | os.PathLike, c: Group) -> None:
    """Sets the method of a recipe in a config, whose sizes and learning rates stay as they are."""
    runpy.run_path(os.fspath(path))["recipe"](c)


def on_quickstart(path: str | os.PathLike, switch: str) -> ConfigDict:
    """configs/quickstart.py, the embedded domain, with the method of the recipe `path`, a file in a folder beside it.

    An iteration has as many responses as there, and a critic is trained first for as long.

    Args:
      switch: quickstart, or another one of that file.
    """
    quickstart = pathlib.Path(path).resolve().parents[1] / "quickstart.py"
    c = runpy.run_path(str(quickstart))["get_config"]("" if switch == "quickstart" else switch)
    apply(path, c)
    c.ppo.batch_size //= c.ppo.samples_per_prompt
    return c


def settings(path: str | os.PathLike) -> list[Setting]:
    """What a recipe sets, in its order."""
    source = pathlib.Path(path).read_text(encoding="utf-8")
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    return [
        setting
        for part in PARTS
        for node in functions[part].body
        if isinstance(node, ast.Assign)
        for setting in _of_line(part, node, said_of(source.splitlines(), node))
    ]


def page(folder: str | os.PathLike) -> str:
    """The page as Markdown."""
    found = {name: settings(pathlib.Path(folder) / f"{name}.py") for name in NAMES}
    values = {name: {setting.key: setting.value for setting in of_one} for name, of_one in found.items()}
    keys = dict.fromkeys(key for name in reversed(NAMES) for key in values[name])
    rows = [_row(f"`{key}`", *(_code(values[name].get(key, "")) for name in NAMES)) for key in keys]
    table = _table(["Key", *(f"[{name}](#{name})" for name in NAMES)], rows)
    return f"{HEAD}\n## Side by side\n\n{table}" + "".join(_of_recipe(name, found[name]) for name in NAMES)


def _of_recipe(name: str, found: list[Setting]) -> str:
    sizes = lambda setting: "scale" if setting.part == "scale" else ""
    rows = [_row(f"`{s.key}`", _code(s.value), sizes(s), s.source.replace("|", "\\|")) for s in found]
    table = _table(["Key", "Value", "", "Source"], rows)
    return f"\n## {name}\n\n`configs/recipes/{name}.py`\n\n{table}"


def _of_line(part: str, node: ast.Assign, source: str) -> Iterator[Setting]:
    """The keys that one assignment sets: several with a tuple, or the same value twice."""
    for target in node.targets:
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts, strict=True))
        for one, value in pairs:
            shown = json.dumps(_literal(value)) if _is_literal(value) else ast.unparse(value)
            yield Setting(ast.unparse(one).removeprefix("c."), part, shown, source)


def _literal(node: ast.expr):
    return ast.literal_eval(node)


def _is_literal(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant | ast.UnaryOp)


def _code(value: str) -> str:
    return f"`{value}`" if value else ""


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def _table(titles: list[str], rows: list[str]) -> str:
    return "".join([_row(*titles), _row(*("---" for _ in titles)), *rows])


if __name__ == "__main__":
    print(page(sys.argv[1]), end="")
