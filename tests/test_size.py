"""Files and functions are short; those that are not are named in CONTRIBUTING.md, each with its reason."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "icegrt_jax"
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 300, 60


def longer() -> list[str]:
    """FILE of files, FILE:NAME of functions, as the table names them."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix()
        if len(text.splitlines()) > LINES_OF_A_FILE:
            found.append(name)
        found += [
            f"{name}:{node.name}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (node.end_lineno or 0) - node.lineno + 1 > LINES_OF_A_FUNCTION
        ]
    return found


def test_what_is_long_is_explained_and_nothing_else():
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Size")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| `([^`]+)` \| \S", section, re.MULTILINE)
    assert longer() and sorted(longer()) == sorted(explained)
