"""Which shape the rows of a source have: from the first of them, or as the source says; never a guess.

What can be read in two ways, or in none, is an error with the mapping to be written instead.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from icegrt_jax.data import fields, transcripts
from icegrt_jax.data.records import Kind
from icegrt_jax.data.rows import Rows
from icegrt_jax.data.shapes import LISTS, SHAPES, Shape
from icegrt_jax.data.spec import Spec
from icegrt_jax.errors import UserError

# Under which names others keep what a field holds, the likeliest first; for proposals only.
SYNONYMS = {
    "prompt": ("question", "instruction", "query", "input", "problem", "message", "title", "context", "source"),
    "response": ("answer", "output", "completion", "reply", "solution", "rationale", "target", "explanation", "label"),
    "text": ("content", "document", "body", "article", "story", "sentence", "code"),
    "messages": ("conversation", "dialogue", "dialog", "chat", "turns"),
    "chosen": ("preferred", "accepted", "better", "winner", "response_chosen", "answer_chosen"),
    "rejected": ("dispreferred", "worse", "loser", "response_rejected", "answer_rejected"),
    "responses": ("answers", "completions", "candidates", "outputs"),
    "ranks": ("ranking", "rank"),
    "scores": ("ratings", "rewards", "labels", "score"),
}
UNKNOWN = "COLUMN"  # in a proposal: to be replaced
NAMED = 40  # columns in a message


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the rows of a source become records.

    Attributes:
      kind: of the records.
      shape: of the rows.
      columns: of which column each field is read.
      meta: of which column each part of `meta` is read.
      mapped: the source says the columns; else they are named as the fields are.
    """

    kind: type[Any]
    shape: Shape
    columns: Mapping[str, str]
    meta: Mapping[str, str]
    mapped: bool

    def record(self, row: dict, where: str) -> Any:
        """The record of a row."""
        if self._is_own(row):
            return self.kind.from_json(row, where)
        values = {}
        for field, column in self.columns.items():
            value = column_of(row, column)
            if value is not None:
                values[field] = _listed(field, value, where)
            elif field in self.shape.needs:
                more = f" (for {field!r})" if field != column else ""
                raise UserError(f"{where}: field {column!r}{more} is missing; the rows before have it.")
        obj = self.shape.make(values, where)
        meta = {**self._own_meta(row), **obj.get("meta", {})}
        for name, column in self.meta.items():
            if (value := column_of(row, column)) is None:
                raise UserError(f"{where}: field {column!r} (for 'meta.{name}') is missing.")
            meta[name] = value
        return self.kind.from_json({**obj, **({"meta": meta} if meta else {})}, where)

    def unread(self, row: dict) -> list[str]:
        """Columns of the row that are ignored."""
        read = {*self.columns.values(), *self.meta.values(), "meta"}
        return [name for name in row if not any(name == column or column.startswith(f"{name}.") for column in read)]

    def _own_meta(self, row: dict) -> dict:
        meta = row.get("meta")
        return meta if isinstance(meta, dict) else {}

    def _is_own(self, row: dict) -> bool:
        """Whether a row is a record as `records` writes it, in either of a kind's forms."""
        if self.mapped or not any(set(self.shape.needs) <= set(form) for form in self.kind.FORMS):
            return False
        foreign = row.get("system") is not None or any(isinstance(row.get(name), str) for name in LISTS)
        if "pairs" == self.shape.name:
            foreign |= "prompt" not in row or not all(isinstance(row.get(x), str) for x in ("chosen", "rejected"))
        return not foreign


def records(rows: Rows, spec: Spec, kind: type[Kind]) -> Iterator[Kind]:
    """Records of one kind from the rows of a source, of the shape that the first one has."""
    reading = None
    for where, row in rows:
        fields.whole(row, where, kind.FIELDS)
        reading = reading or recognise(row, where, spec, kind)
        yield reading.record(row, where)


def recognise(row: dict, where: str, spec: Spec, kind: type[Kind]) -> Reading:
    """The reading of a source whose first row this is."""
    said = {field: column for field, column in spec.columns.items() if not field.startswith("meta.")}
    meta = {field[len("meta.") :]: column for field, column in spec.columns.items() if field.startswith("meta.")}
    mapped = bool(spec.columns or spec.shape)
    shapes = _said_shapes(spec, said, kind)
    there = lambda shape: all(_has(row, said.get(field, field)) for field in shape.needs)
    fitting = [shape for shape in shapes if there(shape)]
    # A shape with more columns is the better reading of a row that has them all.
    fitting = [one for one in fitting if not any(set(one.needs) < set(other.needs) for other in fitting)]
    if len(fitting) > 1:
        specs = " or ".join(spec.mapped({name: name for name in shape.needs}) for shape in fitting)
        names = " and as ".join(f"{shape.name} ({', '.join(shape.needs)})" for shape in fitting)
        raise UserError(f"{where}: can be read as {names}; say which is meant: {specs}")
    if not fitting:
        raise _none(row, where, spec, kind, shapes, said)
    (shape,) = fitting
    columns = {field: said.get(field, field) for field in shape.fields}
    columns = {field: name for field, name in columns.items() if name and (field in said or _has(row, name))}
    for field, name in columns.items():
        if not _has(row, name):
            raise UserError(f"{where}: no column {name!r} (for {field!r}); its columns are {_names(row)}.")
    # Others of a shape that is not said may come in later rows.
    if not mapped:
        columns = {**columns, **{field: field for field in shape.takes if field not in columns}}
    return Reading(kind, shape, columns, meta, mapped)


def column_of(row: dict, column: str) -> Any:
    """What stands under a column's name, or inside of it under a dotted one ("answer.value", "choices.0")."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def describe(reading: Reading, row: dict, where: str, spec: Spec) -> list[str]:
    """Lines that say how the first row is understood."""
    read = (name if name == field else f"{field} from {name}" for field, name in reading.columns.items()
            if _has(row, name))  # fmt: skip
    parts = [f"{where}: read as {reading.shape.name}: {', '.join(read)}"]
    if reading.meta:
        parts.append("meta from " + ", ".join(f"{column} ({name})" for name, column in reading.meta.items()))
    if unread := reading.unread(row):
        parts.append(f"not read: {_names(unread)}")
    lines = ["; ".join(parts)]
    prompt = column_of(row, reading.columns.get("prompt", ""))
    if reading.shape.name != "transcript" and transcripts.reads_like_one(prompt):
        hint = spec.mapped({**spec.columns}, shape="transcript")
        lines.append(f"warning: the prompt reads like a transcript; where its turns are meant write {hint}")
    return lines


def _has(row: dict, column: str) -> bool:
    return bool(column) and column_of(row, column) is not None


def _listed(field: str, value: Any, where: str) -> Any:
    """The list that a cell of text holds as JSON, for fields that are lists."""
    if field in LISTS and isinstance(value, str) and value.lstrip().startswith("["):
        return fields.parse_json(value, f"{where}: field {field!r}")
    return value


def _said_shapes(spec: Spec, said: Mapping[str, str], kind: type[Kind]) -> list[Shape]:
    """The shapes that the source leaves open."""
    shapes = list(SHAPES[kind])
    if spec.shape:
        names = [shape.name for shape in shapes]
        if spec.shape not in names:
            raise UserError(f"source {spec.text!r}: shape={spec.shape}; of {kind.__name__} it is {', '.join(names)}.")
        shapes = [shape for shape in shapes if shape.name == spec.shape]
    else:
        shapes = [shape for shape in shapes if not shape.said]
    known = {field for shape in shapes for field in shape.fields}
    if wrong := next((field for field in said if field not in known), None):
        raise UserError(
            f"source {spec.text!r}: no field {wrong!r} in {kind.__name__} records; map {', '.join(sorted(known))} or"
            " meta.NAME."
        )
    fitting = [shape for shape in shapes if set(said) <= set(shape.fields)]
    if not fitting:
        raise UserError(f"source {spec.text!r}: {' and '.join(said)} are not of one shape; see docs/data.md.")
    return fitting


def _none(
    row: dict, where: str, spec: Spec, kind: type[Kind], shapes: list[Shape], said: Mapping[str, str]
) -> UserError:
    """Why no shape fits, and the mapping that would make the likeliest one fit."""
    missing = lambda shape: [field for field in shape.needs if not _has(row, said.get(field, field))]
    for field, column in said.items():
        if column and not _has(row, column):
            return UserError(f"{where}: no column {column!r} (for {field!r}); its columns are {_names(row)}.")

    def proposal(shape: Shape) -> dict[str, str]:
        found: dict[str, str] = {}
        for field in shape.needs:
            left = [name for name in row if name not in found.values()]
            found[field] = said.get(field) or _likely(field, left)
        return found

    # The likeliest: most of its fields found, then the first.
    best = max(shapes, key=lambda shape: sum(column != UNKNOWN for column in proposal(shape).values()))
    expected = "; or ".join(", ".join(shape.needs) for shape in shapes)
    hint = spec.mapped({**proposal(best), **{k: v for k, v in spec.columns.items() if k not in best.needs}})
    try:
        if not spec.columns and not spec.shape:
            fields.refuse_misspelt(row, where, (*kind.FIELDS, "meta"), kind.FORMS)
    except UserError as misspelt:
        return UserError(f"{misspelt} Where columns are called otherwise name them: {hint}")
    return UserError(
        f"{where}: field {missing(best)[0]!r} is missing; its columns are {_names(row)}, expected {expected}. Where"
        f" they are called otherwise name them: {hint}"
    )


def _likely(field: str, names: list[str]) -> str:
    """The column that may hold a field."""
    if field in names:
        return field
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in (field, *SYNONYMS.get(field, ())) if name in lower), UNKNOWN)


def _names(row: Any) -> str:
    names = [fields.shown(name)[1:-1] if isinstance(name, str) else str(name) for name in itertools.islice(row, NAMED)]
    more = f" and {len(row) - NAMED} more" if len(row) > NAMED else ""
    return f"{', '.join(names)}{more}" if names else "none"
