"""Records from a source named in a config: "FORMAT:PATH" or "FORMAT:PATH?FIELD=COLUMN&...".

    jsonl:PATH                  JSON lines, .gz too
    json:PATH                   one JSON list
    csv:PATH, parquet:PATH      tables; .tsv is separated by tabs
    hf:OWNER/NAME[/CONFIG][#SPLIT]  a data set of the Hugging Face hub
    tfds:NAME[@DIR][#split]     a TFDS data set in ArrayRecord form, split "train" if none is named
    tokens:DIR                  records tokenised before by `icegrt data build`, read one by one
    ecqa:PATH, alpaca:PATH, ... public data sets, see `converters.py` and `reward_benchmarks.py`

A relative PATH or DIR lies under `data_dir` (a config value; the environment's ICEGRT_DATA where it is empty, and
without that where the command runs), and may be a pattern with `*`. `{workdir}` stands for the run's folder.
Rows may have the shapes of `shapes.py`, with columns of any name where the source maps them to fields.
"""

import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from icegrt_jax.data import converters, hub_rows, recognise, reward_benchmarks, rows, tfds_builder, token_store
from icegrt_jax.data.converters import Row
from icegrt_jax.data.records import Kind
from icegrt_jax.data.spec import Spec, parse, resolve
from icegrt_jax.errors import UserError

CONVERTERS: dict[str, Mapping[Any, Callable]] = {**converters.CONVERTERS, **reward_benchmarks.CONVERTERS}
TABLES = (*rows.FORMATS, "hf", "tfds")  # whose rows may have any shape
FORMATS = (*TABLES, "tokens", *sorted(CONVERTERS))


def load_source(spec: str, *, kind: type[Kind], data_dir: str = "", workdir: str = "") -> Sequence[Kind]:
    """All records of a source, as `kind`, in the order they are stored.

    Args:
      spec: see above.
      kind: `Instruction`, `Ranking`, `Prompt` or `Text`.
      data_dir: the folder of relative paths; empty: $ICEGRT_DATA, and without it where the command runs.
      workdir: replaces `{workdir}` in the spec.

    Returns:
      A list; of `tokens:` a sequence that reads each record when it is asked for.
    """
    parsed = parse(spec, FORMATS, workdir)
    if parsed.format == "tokens":
        _refuse_mapping(parsed)
        return token_store.Stored.open(resolve(parsed.path, data_dir), kind)
    records = list(_records(parsed, kind, data_dir))
    if not records:
        raise UserError(f"source {spec!r}: no records in it.")
    return records


def iter_source(spec: str, *, kind: type[Kind], data_dir: str = "", workdir: str = "") -> Iterator[Kind]:
    """The same records one after the other, for sources that do not fit into memory."""
    parsed = parse(spec, FORMATS, workdir)
    if parsed.format == "tokens":
        return iter(load_source(spec, kind=kind, data_dir=data_dir, workdir=workdir))
    return _records(parsed, kind, data_dir)


def understood(spec: str, *, kind: type[Kind], data_dir: str = "", workdir: str = "") -> list[str]:
    """Lines that say how the first record of a source is read; what cannot be is an error with a proposal."""
    parsed = parse(spec, FORMATS, workdir)
    if parsed.format not in TABLES:
        return []
    first = next(_rows(parsed, data_dir), None)
    if first is None:
        raise UserError(f"source {spec!r}: no records in it.")
    where, row = first
    (record,) = recognise.records(iter([first]), parsed, kind)
    reading = recognise.recognise(row, where, parsed, kind)
    return [*recognise.describe(reading, row, where, parsed), *_beginning(record)]


def files_of(spec: str, *, data_dir: str = "", workdir: str = "") -> list[pathlib.Path]:
    """The files that hold a source, in the order they are read; a data set's folder has all of its files."""
    parsed = parse(spec, FORMATS, workdir)
    if parsed.format == "hf":
        return [path for path, _ in hub_rows.files(parsed.path)]
    if parsed.format == "tfds":
        folder = tfds_builder.folder_of(*_tfds(parsed, data_dir)[:2])
    elif parsed.format == "tokens":
        folder = resolve(parsed.path, data_dir)
    else:
        return rows.files(resolve(parsed.path, data_dir))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _records(spec: Spec, kind: type[Kind], data_dir: str) -> Iterator[Kind]:
    if spec.format in CONVERTERS:
        return _convert(spec, kind, data_dir)
    return recognise.records(_rows(spec, data_dir), spec, kind)


def _rows(spec: Spec, data_dir: str) -> rows.Rows:
    if spec.format == "hf":
        return hub_rows.hub_rows(spec.path)
    if spec.format == "tfds":
        name, root, split = _tfds(spec, data_dir)
        examples = enumerate(tfds_builder.read_dataset(name, root, split))
        return ((f"{spec.text}, example {i}", example) for i, example in examples)
    read = rows.FORMATS[spec.format]
    return itertools.chain.from_iterable(map(read, rows.files(resolve(spec.path, data_dir))))


def _convert(spec: Spec, kind: type[Kind], data_dir: str) -> Iterator[Kind]:
    known: Mapping[Any, Callable] = CONVERTERS[spec.format]
    _refuse_mapping(spec)
    if kind not in known:
        raise UserError(
            f"source {spec.text!r}: format {spec.format!r} gives {' or '.join(k.__name__ for k in known)} records,"
            f" not {kind.__name__}; {_suggest(kind)}."
        )
    convert = known[kind]
    for path in rows.files(resolve(spec.path, data_dir)):
        for where, obj in rows.by_suffix(path)(path):
            made = convert(Row(obj, where))
            yield made if isinstance(made, kind) else kind.from_json(made, where)


def _refuse_mapping(spec: Spec) -> None:
    if spec.columns or spec.shape:
        raise UserError(f"source {spec.text!r}: {spec.format} has fields of its own; leave out what follows the ?.")


def _suggest(kind: type) -> str:
    fitting = [name for name, kinds in sorted(CONVERTERS.items()) if kind in kinds]
    return f"for {kind.__name__} use {', '.join([*TABLES, *fitting])}"


def _tfds(spec: Spec, data_dir: str) -> tuple[str, str | None, str]:
    """Name, folder and split of a TFDS data set."""
    rest, _, split = spec.path.partition("#")
    name, _, folder = rest.partition("@")
    root = str(resolve(folder, data_dir)) if folder else data_dir or os.environ.get("ICEGRT_DATA")
    return name, root, split or "train"


def _beginning(record: Any) -> list[str]:
    """The record as lines, each field's beginning."""
    shown = lambda text: " ".join(text.split())[:100]
    obj = record.to_json()
    lines = [f"  {m['role']}: {shown(m['content'])}" for m in obj.get("messages", obj.get("prompt", []))]
    for rank, response in zip(obj.get("ranks", []), obj.get("responses", [])):
        lines.append(f"  rank {rank:g}: {shown(response)}")
    lines += [f"  {name}: {shown(obj[name])}" for name in ("reference", "text") if obj.get(name)]
    return lines
