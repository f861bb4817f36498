"""Imports point down: the rooms of the package in their order, and no circle among the modules of a room."""

import ast
import graphlib
import pathlib
import re

PACKAGE = pathlib.Path(__file__).parents[1] / "icegrt_jax"
# From the top down; a room imports only from those below it. The files beside the rooms stand in the order as well.
ROOMS = (
    "__main__", "cli", "notebook", "__init__", "api", "commands", "pages", "report", "plan", "runs", "evaluation",
    "training", "sampling", "models", "domains", "sharding", "data", "hosts", "config", "rl", "plugins", "terminal",
    "files", "sums", "refused", "errors", "version",
)  # fmt: skip
MOST = 15  # functions that take all options
ALONE = {"rl"}  # imports nothing of ours
READ_BY_ALL = {"hosts", "config"}  # import no room


def module_of(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imported(path: pathlib.Path, modules: set[str]) -> set[str]:
    """Modules of ours that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "icegrt_jax":
            holder = node.module.partition(".")[2]
            for name in node.names:
                inner = f"{holder}.{name.name}" if holder else name.name
                found.add(inner if inner in modules else holder or "__init__")
    return found


def graph() -> dict[str, set[str]]:
    paths = {module_of(path): path for path in PACKAGE.rglob("*.py")}
    return {name: imported(path, set(paths)) - {name} for name, path in paths.items()}


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_import_points_down():
    upward = [
        f"{importer} -> {target}"
        for importer, targets in graph().items()
        for target in targets
        if room(importer) != room(target) and ROOMS.index(room(importer)) > ROOMS.index(room(target))
    ]
    assert not upward


def test_no_module_imports_itself_by_way_of_others():
    list(graphlib.TopologicalSorter(graph()).static_order())  # raises CycleError, which names the circle


def test_the_maths_imports_nothing_of_ours_and_what_all_read_imports_no_room():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    for importer, targets in graph().items():
        others = {room(target) for target in targets} - {room(importer)}
        if room(importer) in ALONE:
            assert not others, importer
        if room(importer) in READ_BY_ALL:
            assert not others & rooms, importer


def takes_all_options(function: ast.FunctionDef) -> bool:
    """Whether a parameter is a whole config, typed or not; `config/file.py` knows one as names and values only."""
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    words = {word for one in arguments if one.annotation for word in re.findall(r"\w+", ast.unparse(one.annotation))}
    return bool(words & {"ConfigDict", "Options"})


def test_only_a_program_and_what_a_run_begins_with_take_all_options():
    """Whoever reads a setting takes its section; the number of those that take all of them is to fall."""
    found = [
        f"{module_of(path)}:{node.name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and takes_all_options(node)
    ]
    assert {room(name.replace(":", ".")) for name in found} <= {"commands", "config", "runs"}
    assert len(found) <= MOST, found
