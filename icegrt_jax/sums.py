"""Checksums of the small files of a run: `checksums.json` in a folder has the SHA-256 of each file beside it.

Whoever writes a file there notes its checksum first, beside that of what it replaces, so that a kill at any moment
leaves a file with one of the two. Of a file that only grows a line at a time it is that of its first bytes. Whoever
reads compares: what is damaged is never taken for what was written. Only a workdir that `begin` has opened, and the
folders in it, have checksums; those of older runs are read as they are.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from icegrt_jax.errors import UserError

FILE_NAME = "checksums.json"
# Of a reader beside a writer, in seconds: a shared folder shows the two files one after the other.
TRIES, PAUSE = 3, 0.2


# By path: of a file that grows its last entry, so many bytes, and the state of SHA-256 behind them.
_added: dict[pathlib.Path, tuple[str, int, Any]] = {}
SUMMED = (".json", ".jsonl", ".txt")  # what is only shown may be changed by anybody


class Damaged(UserError):
    """A file is not what was written there."""


def begin(folder: pathlib.Path) -> None:
    """Has files that are written into a workdir from now on, and into its folders, carry checksums."""
    if not (folder / FILE_NAME).exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, {})


def end(folder: pathlib.Path) -> None:
    """Takes `begin` back where nothing has been written."""
    if _read(folder) == {}:
        (folder / FILE_NAME).unlink()


def take(folder: pathlib.Path) -> None:
    """Gives the files that are in a folder their checksums."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != FILE_NAME)
    _write(folder, {name: _digest((folder / name).read_bytes()) for name in names})


@contextlib.contextmanager
def changing(path: pathlib.Path, new: pathlib.Path, *, grows: bool = False) -> Iterator[None]:
    """While `path` gets the content of `new`; `grows`: lines will be appended to it."""
    entries = _opened(path.parent) if path.suffix in SUMMED else None
    if entries is None:
        yield
        return
    content = new.read_bytes()
    entry = f"{len(content)} {_digest(content)}" if grows else _digest(content)
    before = entries.get(path.name, [])
    before = [before] if isinstance(before, str) else before
    if path.exists() and not before:
        before = [_digest(path.read_bytes())]
    before = [known for known in before if known != entry] if path.exists() else []
    _write(path.parent, entries | {path.name: [*before, entry] if before else entry})
    yield
    if before:
        _write(path.parent, entries | {path.name: entry})


def settle(folder: pathlib.Path) -> None:
    """Gives the files that grow in a folder the checksums of what they hold now; those that are gone have none."""
    entries = _opened(folder)
    if entries is None:
        return
    found = {name: entry for name, entry in entries.items() if (folder / name).exists()}
    for path in sorted(folder.glob("*.jsonl")):
        entry = found.get(path.name)
        if entry is None or isinstance(entry, str) and " " in entry:
            found[path.name] = _grown(path, entry)
    if found != entries:
        _write(folder, found)


def _grown(path: pathlib.Path, entry: str | None) -> str:
    """The checksum of a file whose first bytes had that of `entry`, which stays where they have another.

    Of a file that this process has added up before only the new bytes are read, however long it has become.
    """
    before, size, digest = _added.get(path, ("", 0, hashlib.sha256()))
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        if entry is not None and entry == before:
            file.seek(size)
            new, digest = file.read(), digest.copy()
        else:
            new, size, digest = file.read(), 0, hashlib.sha256()
            if entry is not None and not _fits(new, entry):
                return entry  # whoever reads it is told
    digest.update(new)
    grown = f"{size + len(new)} {digest.hexdigest()}"
    _added[path] = grown, size + len(new), digest
    return grown


def forget(path: pathlib.Path) -> None:
    """Takes out what is known of a file that is deleted or renamed."""
    entries = _read(path.parent)
    if entries and path.name in entries:
        _write(path.parent, {name: entry for name, entry in entries.items() if name != path.name})


def content(path: pathlib.Path) -> bytes:
    """What is in a file, compared with its checksum where it has one."""
    for _ in _tries():
        found = path.read_bytes()
        entries = _read(path.parent) or {}
        known = entries.get(path.name)
        if known is None or any(_fits(found, entry) for entry in ([known] if isinstance(known, str) else known)):
            return found
    raise Damaged(_sentence(path, "is not what was written there: its checksum is another"))


def check_same(path: pathlib.Path, text: str) -> None:
    """Refuses to write something else where a file is gone."""
    known = (_read(path.parent) or {}).get(path.name, [])
    known = [known] if isinstance(known, str) else known
    if known and not path.exists() and not any(_fits(text.encode(), entry) for entry in known):
        raise Damaged(_sentence(path, "is gone, and what would take its place is another"))


def check_there(path: pathlib.Path) -> None:
    """Refuses a file that is gone though something was written there."""
    for _ in _tries():
        known = (_read(path.parent) or {}).get(path.name)
        if path.exists() or not known or str(known).startswith("0 "):
            return
    raise Damaged(_sentence(path, "is gone"))


def verify(path: pathlib.Path) -> None:
    """Refuses a file that is damaged."""
    entries = _read(path.parent)
    if entries and path.name in entries:
        content(path)


def check(folder: pathlib.Path, *, whole: bool = True) -> None:
    """Refuses a folder of which a file is damaged, or gone where it is to be `whole`."""
    for name in _read(folder) or ():
        if whole:
            check_there(folder / name)
        if (folder / name).exists():
            content(folder / name)


def check_run(workdir: pathlib.Path) -> None:
    """Refuses a run of which a small file is damaged, or one of a finished stage or a tokenizer is gone."""
    places = ("", "*/", "*/*/", "rounds/*/*/")
    for path in sorted({found for place in places for found in workdir.glob(f"{place}{FILE_NAME}")}):
        finished = (path.parent / "done.json").exists()
        check(path.parent, whole=finished or path.parent.name == "tokenizer")


def _tries() -> Iterator[None]:
    """As often as a reader looks, with a pause in between."""
    yield
    for _ in range(TRIES - 1):
        time.sleep(PAUSE)
        yield


def _sentence(path: pathlib.Path, what: str) -> str:
    return (
        f"{path} {what}; bring it back from a copy. If it is as you want it, take its line out of "
        f"{path.parent / FILE_NAME}."
    )


def _fits(found: bytes, entry: Any) -> bool:
    """Whether a file's content has the checksum of an entry."""
    size, _, digest = str(entry).rpartition(" ")
    return _digest(found[: int(size)] if size.isdecimal() else found) == digest


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _opened(folder: pathlib.Path) -> dict[str, Any] | None:
    """The checksums of a folder that is written into, which has some from now on if its workdir has."""
    entries = _read(folder)
    if entries is None and not folder.name.startswith(".") and (folder.parent / FILE_NAME).exists():
        return {}
    return entries


def _read(folder: pathlib.Path) -> dict[str, Any] | None:
    """The checksums of a folder; None where it has none."""
    path = folder / FILE_NAME
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{path} cannot be read ({error}); bring it back, or delete it to go on without it.") from error
    if not isinstance(entries, dict):
        raise Damaged(f"{path} holds no checksums; bring it back, or delete it to go on without it.")
    return entries


def _write(folder: pathlib.Path, entries: dict[str, Any]) -> None:
    temporary = folder / f".{FILE_NAME}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(json.dumps(dict(sorted(entries.items())), indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / FILE_NAME)
    finally:
        temporary.unlink(missing_ok=True)
