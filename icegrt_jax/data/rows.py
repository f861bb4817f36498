"""Rows of files as they lie there: (where, object) one after the other, never a whole file in memory.

| suffix or format | a row is                                 | where it is      |
| ---------------- | ---------------------------------------- | ---------------- |
| JSON lines       | the object of a line                     | "FILE, line N"   |
| JSON             | an object of the list that the file is   | "FILE, item N"   |
| CSV, TSV         | the cells under their columns, all text  | "FILE, line N"   |
| Parquet          | the values under their columns           | "FILE, row N"    |

Numbers count from 1. Text files are UTF-8, with or without a byte order mark, .gz too. A cell or value that is null
is a field that isn't there.

A line is held whole, so a longer one than `LONGEST_LINE` is refused before it is in memory, and so is a .gz file that
unpacks to far more than text does.
"""

import csv
import gzip
import math
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from icegrt_jax import sums
from icegrt_jax.data.fields import kind_of, parse_json, shown
from icegrt_jax.errors import UserError

Rows = Iterator[tuple[str, Any]]
BOM = b"\xef\xbb\xbf"
BATCH = 256  # rows of Parquet at a time
LONGEST_LINE = 64 * 2**20  # bytes; of a cell, too: the csv module's own limit is 128 KiB
MOST_PACKED = 200  # bytes of a .gz file that one of its bytes may become, from UNPACKED on; text has 3 to 20
UNPACKED = 32 * 2**20
_ENDED = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")  # a line with its end, which old files have as \r alone


def json_lines(path: pathlib.Path) -> Rows:
    """The objects of a JSON lines file; blank lines are skipped."""
    with _opened(path) as file:
        # Split on \n only: str.splitlines would also cut at U+2028, which JSON allows in strings.
        for number, line in enumerate(_whole_lines(file, path), start=1):
            if number == 1 and line.startswith(BOM):
                line = line[len(BOM) :]
            if line.strip():
                where = f"{path}, line {number}"
                yield where, parse_json(_decoded(line, where), where)


def json_list(path: pathlib.Path) -> Rows:
    """The objects of a file that is one JSON list; such a file has to be read whole."""
    with _opened(path) as file:
        content = b"".join(_pieces(path, lambda: file.read(2**20))).removeprefix(BOM)
    rows = parse_json(_decoded(content, str(path)), str(path))
    if not isinstance(rows, list):
        raise UserError(f"{path}: holds a JSON value {kind_of(rows)}; expected a list of objects (JSON lines: jsonl).")
    yield from ((f"{path}, item {number}", row) for number, row in enumerate(rows, start=1))


def csv_rows(path: pathlib.Path) -> Rows:
    """The rows of a CSV file, or of one separated by tabs (.tsv), under the names in its first line."""
    csv.field_size_limit(LONGEST_LINE)
    with _opened(path) as file:
        tabs = path.name.removesuffix(".gz").endswith(".tsv")
        reader = csv.reader(_text_lines(file, path), delimiter="\t" if tabs else ",", strict=True)
        columns, last = None, 0
        while True:
            where, last = f"{path}, line {reader.line_num + 1}", reader.line_num
            try:
                cells = next(reader, None)
            except csv.Error as e:
                raise UserError(f"{where}: not CSV ({e}).") from e
            except UnicodeDecodeError as e:
                raise UserError(f"{path}, after line {last}: not UTF-8 ({e.reason}).") from e
            if cells is None:
                return
            if not cells:
                continue
            if columns is None:
                columns = _columns(cells, where)
            elif len(cells) != len(columns):
                raise UserError(f"{where}: {len(cells)} cells under {len(columns)} columns; quote cells with commas.")
            else:
                yield where, dict(zip(columns, cells, strict=True))


def parquet_rows(path: pathlib.Path) -> Rows:
    """The rows of a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    _require(path)
    try:
        # Buffers: pages are decoded as they are reached, not a column chunk at once.
        with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20) as file:
            _columns(file.schema_arrow.names, str(path))
            number = 0
            for batch in file.iter_batches(batch_size=BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", {name: value for name, value in row.items() if value is not None}
    except (pyarrow.ArrowException, OSError) as e:
        raise UserError(f"{path}: not a whole Parquet file ({str(e).splitlines()[0]}).") from e


FORMATS = {"jsonl": json_lines, "json": json_list, "csv": csv_rows, "parquet": parquet_rows}


def by_suffix(path: pathlib.Path) -> Callable[[pathlib.Path], Rows]:
    """How a file is read whose name tells its format; JSON lines where it does not."""
    return FORMATS.get(path.name.removesuffix(".gz").rpartition(".")[2], json_lines)


def files(path: pathlib.Path) -> list[pathlib.Path]:
    """The file, or those whose names fit a pattern with `*`, in the order of their names."""
    if "*" not in str(path):
        return [path]
    root = pathlib.Path(path.anchor or ".")
    found = sorted(file for file in root.glob(str(path.relative_to(root) if path.anchor else path)) if file.is_file())
    if not found:
        raise UserError(f"{path}: no such files; check the source's path and data_dir.")
    return found


def _columns(names: list[str], where: str) -> list[str]:
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise UserError(f"{where}: two columns are called {shown(twice)}; give each a name of its own.")
    return list(names)


def _require(path: pathlib.Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the source's path and data_dir.")


def _opened(path: pathlib.Path) -> IO[bytes]:
    _require(path)
    sums.verify(path)
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        return opener(path, "rb")
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); see who may.") from e


def _pieces(path: pathlib.Path, read: Callable[[], bytes]) -> Iterator[bytes]:
    """What `read` gives of an opened file until there is no more."""
    unpacked, most = 0, math.inf
    if path.suffix == ".gz":
        most = max(UNPACKED, MOST_PACKED * path.stat().st_size)
    try:
        while piece := read():
            unpacked += len(piece)
            if unpacked > most:
                raise UserError(
                    f"{path}: unpacks to more than {MOST_PACKED} times its size, which no text does; unpack it yourself"
                    " if it is what you think."
                )
            yield piece
    except (gzip.BadGzipFile, EOFError, zlib.error) as e:
        raise UserError(f"{path}: not a whole gzip file ({e}).") from e
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror or e}).") from e


def _whole_lines(file: IO[bytes], path: pathlib.Path) -> Iterator[bytes]:
    """The lines of an opened file, their ends included."""
    for number, line in enumerate(_pieces(path, lambda: file.readline(LONGEST_LINE + 1)), start=1):
        if len(line) > LONGEST_LINE:
            raise UserError(
                f"{path}, line {number}: longer than {LONGEST_LINE:,} bytes; write one record a line, and a long text"
                " as several. (A file that is one JSON list is read as json:.)"
            )
        yield line


def _text_lines(file: IO[bytes], path: pathlib.Path) -> Iterator[str]:
    """The same as text, as the csv module takes them."""
    for number, line in enumerate(_whole_lines(file, path)):
        yield from _ENDED.findall((line if number else line.removeprefix(BOM)).decode("utf-8"))


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as e:
        raise UserError(f"{where}: not UTF-8 ({e.reason} at byte {e.start}).") from e
