"""Records from a source named in a config: "FORMAT:PATH".

    jsonl:PATH                  our JSON lines, .gz too
    tfds:NAME[@DIR][#split]     a TFDS data set in ArrayRecord form, split "train" if none is named
    ecqa:PATH, alpaca:PATH, ... public data sets, see `converters.py`

A relative PATH or DIR lies under `data_dir` (a config value; the environment's
ICEGRT_DATA where it is empty). `{workdir}` stands for the run's folder.
"""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from icegrt_jax.data import tfds_builder
from icegrt_jax.data.converters import CONVERTERS, Row
from icegrt_jax.data.records import Kind, read_json_lines, read_jsonl
from icegrt_jax.errors import UserError


def load_source(spec: str, *, kind: type[Kind], data_dir: str = "", workdir: str = "") -> list[Kind]:
    """All records of a source, as `kind`, in the order they are stored.

    Args:
      spec: "FORMAT:PATH", see above.
      kind: `Instruction`, `Ranking`, `Prompt` or `Text`.
      data_dir: the folder of relative paths; empty means the environment's ICEGRT_DATA.
      workdir: replaces `{workdir}` in the spec.
    """
    format_, colon, path = spec.partition(":")
    formats = ("jsonl", "tfds", *sorted(CONVERTERS))
    if not colon or not path or format_ not in formats:
        raise UserError(f"source {spec!r}: expected FORMAT:PATH with a FORMAT of {', '.join(formats)}.")
    if "{workdir}" in path:
        if not workdir:
            raise UserError(f"source {spec!r}: {{workdir}} is used but no workdir is known; pass --workdir.")
        path = path.replace("{workdir}", os.path.abspath(workdir))
    if format_ == "tfds":
        records = _load_tfds(path, spec, kind, data_dir)
    elif format_ == "jsonl":
        records = read_jsonl(_resolve(path, spec, data_dir), kind)
    else:
        records = _convert(format_, _resolve(path, spec, data_dir), spec, kind)
    if not records:
        raise UserError(f"source {spec!r}: no records in it.")
    return records


def _resolve(path: str, spec: str, data_dir: str) -> pathlib.Path:
    full = pathlib.Path(path).expanduser()
    if full.is_absolute():
        return full
    root = data_dir or os.environ.get("ICEGRT_DATA", "")
    if not root:
        raise UserError(
            f"source {spec!r}: a relative path and no data folder;"
            " set config.data_dir or the environment's ICEGRT_DATA."
        )
    return pathlib.Path(root).expanduser() / full


def _convert(format_: str, path: pathlib.Path, spec: str, kind: type[Kind]) -> list[Kind]:
    converters: Mapping[Any, Callable] = CONVERTERS[format_]
    if kind not in converters:
        raise UserError(
            f"source {spec!r}: format {format_!r} gives {' or '.join(k.__name__ for k in converters)} records,"
            f" not {kind.__name__}; {_suggest(kind)}."
        )
    convert = converters[kind]
    return [kind.from_json(convert(Row(obj, where)), where) for where, obj in read_json_lines(path)]


def _suggest(kind: type) -> str:
    fitting = [name for name, kinds in sorted(CONVERTERS.items()) if kind in kinds]
    return f"for {kind.__name__} use {', '.join(['jsonl', 'tfds', *fitting])}"


def _load_tfds(path: str, spec: str, kind: type[Kind], data_dir: str) -> list[Kind]:
    rest, _, split = path.partition("#")
    name, _, folder = rest.partition("@")
    root = str(_resolve(folder, spec, data_dir)) if folder else data_dir or os.environ.get("ICEGRT_DATA")
    examples = tfds_builder.read_dataset(name, root, split or "train")
    # Data sets made elsewhere carry other columns; only those that a record has are read.
    known = {*kind.FIELDS, "meta"}
    return [
        kind.from_json({field: value for field, value in example.items() if field in known}, f"{spec}, example {i}")
        for i, example in enumerate(examples)
    ]
