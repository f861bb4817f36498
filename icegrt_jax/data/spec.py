"""A source as a config names it: "FORMAT:PATH", "FORMAT:PATH?FIELD=COLUMN&..."."""

import dataclasses
import os
import pathlib
from collections.abc import Collection, Mapping
from urllib.parse import quote, unquote

from icegrt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Spec:
    """The parts of a source's name.

    Attributes:
      text: as it was written.
      format: such as jsonl.
      path: of a file, or a name; `{workdir}` filled in.
      columns: of which column a field is read, "" for none; `meta.NAME` is a field too.
      shape: of the rows, where it is said.
    """

    text: str
    format: str
    path: str
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    shape: str = ""

    def mapped(self, columns: Mapping[str, str], **more: str) -> str:
        """The source as it would be written with this mapping."""
        said = {**columns, **more}
        safe = "{}/.,:@# -_"
        plain = self.text.rpartition("?")[0] if self.columns or self.shape else self.text
        return f"{plain}?" + "&".join(f"{field}={quote(column, safe=safe)}" for field, column in said.items())


def _meant(text: str, formats: Collection[str]) -> str:
    """A path without its format is one more often than not."""
    if ":" in text:
        return ""
    suffixes = [suffix.lstrip(".") for suffix in pathlib.PurePath(text.partition("?")[0]).suffixes]
    format_ = next((suffix for suffix in suffixes if suffix in formats), "")
    return f"; did you mean '{format_}:{text}'?" if format_ else ""


def parse(text: str, formats: Collection[str], workdir: str = "") -> Spec:
    """The parts of a source; `workdir` stands for `{workdir}` in it."""
    format_, colon, path = text.partition(":")
    if not colon or not path or format_ not in formats:
        raise UserError(
            f"source {text!r}: expected FORMAT:PATH with a FORMAT of {', '.join(formats)}{_meant(text, formats)}."
        )
    # A name may hold a question mark; a mapping has an equals sign after it.
    head, _, tail = path.rpartition("?")
    columns = _columns(tail, text) if head and "=" in tail else {}
    path = head if columns else path
    if "{workdir}" in path:
        if not workdir:
            raise UserError(f"source {text!r}: {{workdir}} is used but no workdir is known; pass --workdir.")
        path = path.replace("{workdir}", os.path.abspath(workdir))
    shape = columns.pop("shape", "")
    return Spec(text, format_, path, columns, shape)


def _columns(mapping: str, text: str) -> dict[str, str]:
    columns = {}
    for part in mapping.split("&"):
        field, equals, column = part.partition("=")
        if not field or not equals:
            raise UserError(f"source {text!r}: {part!r} is no FIELD=COLUMN; write ?prompt=question&response=answer.")
        if field in columns:
            raise UserError(f"source {text!r}: field {field!r} is given two columns; name one.")
        columns[field] = unquote(column)
    return columns


def resolve(path: str, data_dir: str) -> pathlib.Path:
    """The file of a source; a relative path lies under `data_dir`, else $ICEGRT_DATA, else where the command runs."""
    root = data_dir or os.environ.get("ICEGRT_DATA", "")
    folder = pathlib.Path(root).expanduser() if root else pathlib.Path.cwd()
    return folder / pathlib.Path(path).expanduser()
