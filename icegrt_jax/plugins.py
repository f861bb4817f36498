"""The user's own code by name: `FILE.py:NAME` or `package.module:NAME`, for domains, judges and reward functions.

A relative path begins where the command runs. A file is executed once in a process, whoever names it, and anew when it
has changed; modules beside it can be imported by it, and nothing is written there. Every mistake in it is one sentence
that names the key of the config, the file and the line.
"""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from icegrt_jax import files
from icegrt_jax.errors import UserError

T = TypeVar("T")
FORMS = "FILE.py:NAME"
PACKAGE = pathlib.Path(__file__).parent


def is_own(spec: str) -> bool:
    """Whether it names the user's code, not something that ships."""
    return ":" in spec


def built_in(room: str) -> tuple[str, ...]:
    """Names of what ships in a room, a folder each; nothing is imported."""
    return tuple(sorted(path.parent.name for path in (PACKAGE / room).glob("*/__init__.py")))


def check_name(key: str, spec: str, known: Sequence[str]) -> None:
    """Refuses a value that is neither one of the known names nor of the form `FILE.py:NAME`; opens no file."""
    if is_own(spec):
        _parts(key, spec)
    elif spec not in known:
        raise UserError(f"{key}={spec!r}; expected one of {', '.join(map(repr, known))}, or {FORMS}.")


def load(key: str, spec: str) -> Any:
    """What the file or module defines under the name.

    Args:
      key: of the config, for errors.
      spec: "FILE.py:NAME" or "package.module:NAME".
    """
    place, name = _parts(key, spec)
    module = _module_of_file(key, spec) if place.endswith(".py") else _module_by_name(key, spec)
    if hasattr(module, name):
        return getattr(module, name)
    defined = [n for n, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    close = difflib.get_close_matches(name, defined, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(defined) or 'no function and no class'}."
    raise UserError(f"{key}={spec!r}: {place} defines no {name}; {hint}")


def fingerprint(spec: str) -> str | None:
    """SHA-256 of the file that the name is read from, None where it is not there; modules beside it do not count."""
    file = file_of(spec)
    return files.sha256(file) if file is not None and file.is_file() else None


def code_of(spec: str) -> str:
    """SHA-256 of all modules in the folder of the file that the name is read from; "" where it is not there."""
    file = file_of(spec)
    if file is None or not file.is_file():
        return ""
    digest = hashlib.sha256(str(file).encode())
    for beside in sorted({file, *file.parent.glob("*.py")}):
        digest.update(f"{beside.name} {files.sha256(beside)}".encode())
    return digest.hexdigest()


def file_of(spec: str) -> pathlib.Path | None:
    """The file that the name is read from; None of a module that cannot be found."""
    place = spec.rpartition(":")[0]
    if place.endswith(".py"):
        return _path(place)
    _add_working_folder()
    try:
        found = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        return None
    return pathlib.Path(found.origin) if found and found.origin else None


def check_function(key: str, spec: str, function: Any, *arguments: str) -> None:
    """Refuses what cannot be called with these arguments, by position."""
    name, call = spec.rpartition(":")[2], ", ".join(arguments)
    if isinstance(function, type) or not callable(function):
        got = "a class" if isinstance(function, type) else f"of type {type(function).__name__}"
        raise UserError(f"{key}={spec!r}: {name} is {got}; expected a function {name}({call}).")
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a function that is not written in Python: the first call will tell
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise UserError(f"{key}={spec!r}: {name}{signature} cannot be called as {name}({call}): {error}.") from error


def explained(what: str, call: Callable[[], T], file: pathlib.Path | None = None) -> T:
    """What `call` returns; an exception of the user's code becomes one sentence.

    Args:
      what: was being done, the first words of the sentence.
      file: the user's, whose innermost line is named; None: the line where the exception was raised.
    """
    try:
        return call()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{what}: {error.filename}, line {error.lineno}: {error.msg}.") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        frame = ([f for f in frames if file is not None and f.filename == str(file)] or frames)[-1]
        said = " ".join("".join(traceback.format_exception_only(error)).split())
        raise UserError(f"{what}: {frame.filename}, line {frame.lineno}: {said}") from error


def _parts(key: str, spec: str) -> tuple[str, str]:
    """File or module, and name."""
    place, _, name = spec.rpartition(":")
    is_module = all(part.isidentifier() for part in place.split("."))
    if not name.isidentifier() or not (place.endswith(".py") or is_module):
        raise UserError(f"{key}={spec!r}; expected {FORMS}, or package.module:NAME.")
    return place, name


def _path(place: str) -> pathlib.Path:
    return pathlib.Path(place).expanduser().absolute()


def _module_of_file(key: str, spec: str) -> types.ModuleType:
    path = _path(spec.rpartition(":")[0])
    if not path.is_file():
        raise UserError(f"{key}={spec!r}: there is no file {path.name} in {path.parent}.")
    source = path.read_bytes()
    # Named by its content: a changed file is another module, and one that two keys name is executed once.
    title = f"icegrt_own_{path.stem}_{hashlib.sha256(os.fsencode(path) + source).hexdigest()[:16]}"
    if title in sys.modules:
        return sys.modules[title]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: a file there that is called as a library hides none
    module = types.ModuleType(title)
    module.__file__ = str(path)
    sys.modules[title] = module  # before it runs: dataclasses look their module up

    # Compiled here, not by importlib, which keeps a copy beside the file and may take the last second's.
    def execute() -> types.ModuleType:
        exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
        return module

    try:
        return explained(f"{key}={spec!r}", execute, path)
    except BaseException:
        del sys.modules[title]
        raise


def _module_by_name(key: str, spec: str) -> types.ModuleType:
    place = spec.rpartition(":")[0]
    _add_working_folder()
    missing = UserError(f"{key}={spec!r}: there is no module {place}, neither installed nor in {os.getcwd()}.")
    try:
        found = explained(f"{key}={spec!r}", lambda: importlib.util.find_spec(place))
    except UserError as error:
        if isinstance(error.__cause__, ModuleNotFoundError) and place.startswith(f"{error.__cause__.name}."):
            raise missing from error
        raise
    if found is None:
        raise missing
    return explained(f"{key}={spec!r}", lambda: importlib.import_module(place), file_of(spec))


def _add_working_folder() -> None:
    """Modules are looked for there too, last, as they are by `python -m`."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
