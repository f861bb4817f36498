"""Small files written so that a killed run never leaves a broken one behind.

JSON files are replaced in one step. JSONL files only grow, a line at a time; the
one thing a kill can leave in them is half a last line, which readers skip and the
next run cuts off. In the folders of a run they have checksums, see `sums.py`.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import IO, Any

from icegrt_jax import sums
from icegrt_jax.errors import UserError

WITH_MODELS = ("pretrain", "sft", "reward", "ppo")  # the stages of a run that train any
PathLike = str | os.PathLike
LFS_POINTER = "version https://git-lfs"


def sha256(path: PathLike) -> str:
    """Of a file's content, in hexadecimal digits; it is read in parts."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text_atomic(path: PathLike, text: str, *, grows: bool = False) -> None:
    """Writes `text` to `path`: readers see the old file or the new one, never a part. `grows`: lines are appended."""
    with replacing(path, grows=grows) as file:
        file.write(text)


@contextlib.contextmanager
def replacing(path: PathLike, *, grows: bool = False) -> Iterator[IO[str]]:
    """A file to write text to, which becomes `path` when all has gone well; else nothing is left of it."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with sums.changing(path, temporary, grows=grows):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json_atomic(path: PathLike, obj: Any) -> None:
    """Writes `obj` as indented JSON, the whole file or nothing; nor is anything written if a number is not finite."""
    if bad := next(_not_finite(obj), None):
        raise UserError(f"{path}: {bad[0]} is {bad[1]}, which is no result; not written. Look at what it is made of.")
    write_text_atomic(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _not_finite(obj: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """(dotted name, value) of each number in an object that is NaN or infinite."""
    if isinstance(obj, dict):
        for key, value in obj.items():
            yield from _not_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(obj, list | tuple):
        for i, value in enumerate(obj):
            yield from _not_finite(value, f"{name}[{i}]")
    elif isinstance(obj, float) and not math.isfinite(obj):
        yield name or "the number", obj


def read_json(path: PathLike) -> Any:
    """Returns the content of a JSON file that a run has written."""
    content = sums.content(pathlib.Path(path))
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise sums.Damaged(f"{path}: not valid JSON ({error}); bring it back from a copy.") from error


def part_of_run(folder: pathlib.Path) -> str:
    """What of a run a folder is: "stage", "run" as a whole, or "" for no part of one."""
    if (folder / "checkpoints").is_dir() or (folder / "done.json").is_file():
        return "stage"
    return "run" if (folder / "tokenizer").is_dir() and any((folder / s).is_dir() for s in WITH_MODELS) else ""


def refuse_run(folder: pathlib.Path, expected: str) -> None:
    """Raises UserError for a part of a run where `expected` should be; it says how its models are exported."""
    if part := part_of_run(folder):
        run, stage = (folder.parent, folder.name) if part == "stage" else (folder, "|".join(WITH_MODELS))
        raise UserError(
            f"{folder}: the folder of a {part}, whose models are checkpoints; expected {expected}. For others to load "
            f"they are written by `icegrt export --config=FILE --workdir={run} --stage={stage} --out=DIR`."
        )


def read_described(folder: pathlib.Path, name: str, expected: str) -> dict:
    """The JSON file of that name which says what is in a folder that somebody else wrote; `expected` names its kind."""
    file = folder / name
    if not file.is_file():
        refuse_run(folder, expected)
        raise UserError(f"{folder}: no {name} here; expected {expected}.")
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: not valid JSON ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds a JSON {type(content).__name__}; expected an object with keys.")
    return content


def read_text(file: pathlib.Path) -> str:
    """The text of a file that somebody else wrote."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as a text in UTF-8 ({error}); fetch it again.") from error
    if text.startswith(LFS_POINTER):
        raise UserError(f"{file}: a git-lfs pointer, not the file that it stands for; run `git lfs pull` there.")
    return text


def append_jsonl(path: PathLike, rows: Iterable[dict]) -> None:
    """Appends one line per row; when it returns, a kill of the process loses none of them."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def read_jsonl(path: PathLike) -> list[dict]:
    """Returns the rows of a JSONL file, without a half-written last line."""
    return [row for _, row in _rows(pathlib.Path(path))]


def _rows(path: pathlib.Path) -> list[tuple[str, dict]]:
    """(line, row) of the whole lines of a JSONL file."""
    content = sums.content(path)
    found = []
    for number, line in enumerate(io.BytesIO(content), start=1):
        try:
            text = line.decode("utf-8")
            if _is_whole(text):
                found.append((text, json.loads(text)))
        except (ValueError, RecursionError) as error:
            raise sums.Damaged(
                f"{path}, line {number}: not valid JSON ({error}); bring it back from a copy."
            ) from error
    return found


def cut_jsonl(path: PathLike, last_step: int | None) -> None:
    """Removes rows with `step > last_step` and a half-written last line, in one step.

    A resumed run calls this before it appends: the rows between the checkpoint and
    the kill will be written again. With `last_step=None` nothing is kept, which is
    what a run without a checkpoint needs.
    """
    path = pathlib.Path(path)
    if last_step is None:
        path.unlink(missing_ok=True)
        sums.forget(path)
        return
    sums.check_there(path)
    if path.exists():
        kept = [line for line, row in _rows(path) if _step(path, row) <= last_step]
        write_text_atomic(path, "".join(kept), grows=True)


def _step(path: pathlib.Path, row: Any) -> int:
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise sums.Damaged(f"{path}: holds a row without a step; bring it back from a copy.")
    return row["step"]


def _is_whole(line: str) -> bool:
    # json.dumps never breaks a line, so a line was written to its end if it ends in a newline.
    return line.endswith("\n") and not line.isspace()
