"""Records tokenised once, in ArrayRecord files, for data sets that are larger than memory.

    DIR/store.json               what is in it and which tokenizer made it
    DIR/part-00000.array_record  one element a record: its JSON form, a line feed, its ids

`token_build` makes one; a `Stored` reads each record when it is asked for, through Grain. What is kept is independent
of lengths: what is cut or left out is decided by whoever reads it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, overload

import grain
import numpy as np

from icegrt_jax import files
from icegrt_jax.data.records import KINDS, Instruction, Ranking, Record
from icegrt_jax.errors import UserError

FORMAT, NAME = 1, "store.json"


def to_bytes(record: Record, ids: list) -> bytes:
    """A record with what the tokenizer made of it, see `encode.encoded`."""
    parts: list[Any] = [ids]
    more: dict[str, Any] = {}
    if isinstance(record, Instruction):
        parts = [part for part, _ in ids]
        more["masks"] = "".join(np.packbits(np.asarray(mask, np.bool_)).tobytes().hex() for _, mask in ids)
    elif isinstance(record, Ranking):
        parts = [part for part, _ in ids]
        more["starts"] = [int(start) for _, start in ids]
    head = {"record": record.to_json(), "where": record.where, "sizes": [len(part) for part in parts], **more}
    flat = np.array([token for part in parts for token in part], "<i4")
    return json.dumps(head, ensure_ascii=False).encode() + b"\n" + flat.tobytes()


def from_bytes(content: bytes, kind: type[Any]) -> Any:
    """The record, its ids in `encoded`."""
    line, _, flat = content.partition(b"\n")
    head = json.loads(line)
    record = kind.from_json(head["record"], head["where"] or "record")
    edges = np.cumsum(head["sizes"])
    parts = [part.tolist() for part in np.split(np.frombuffer(flat, "<i4"), edges[:-1])]
    ids: list[Any] = parts[0]
    if kind is Instruction:
        masks = np.frombuffer(bytes.fromhex(head["masks"]), np.uint8)
        starts = np.cumsum([0, *(-(-size // 8) for size in head["sizes"])])
        bits = (np.unpackbits(masks[start:], count=size) for start, size in zip(starts, head["sizes"]))
        ids = list(zip(parts, (mask.astype(np.bool_).tolist() for mask in bits), strict=True))
    elif kind is Ranking:
        ids = list(zip(parts, head["starts"], strict=True))
    return dataclasses.replace(record, encoded=ids)


class Stored(Sequence[Any]):
    """The records of a folder, each read when it is asked for; a slice is a view.

    Attributes:
      folder: where they lie.
      made_by: fingerprint of the tokenizer whose ids they have.
    """

    def __init__(self, folder: pathlib.Path, source: Sequence[bytes], kind: type[Any], made_by: str, places: range):
        self.folder, self.made_by = folder, made_by
        self._source, self._kind, self._places = source, kind, places

    @classmethod
    def open(cls, folder: pathlib.Path, kind: type[Any]) -> "Stored":
        said = files.read_described(folder, NAME, "a folder that `icegrt data build --tokenizer=...` has written")
        if said.get("format") != FORMAT or KINDS.get(str(said.get("kind"))) is None:
            raise UserError(f"{folder / NAME}: of another version of this program; build the records again.")
        if KINDS[said["kind"]] is not kind:
            raise UserError(f"{folder}: holds {said['kind']} records, and {kind.__name__.lower()} records are wanted.")
        paths = sorted(str(path) for path in folder.glob("part-*.array_record"))
        try:
            source = grain.sources.ArrayRecordDataSource(paths)
            found = len(source)
        except Exception as error:  # of the reader's own types
            raise UserError(f"{folder}: its files cannot be read ({error}); build the records again.") from error
        if found != said["records"]:
            raise UserError(f"{folder}: {found} of its {said['records']} records are here; build the records again.")
        return cls(folder, source, kind, said["tokenizer"], range(found))

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> "Stored": ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Stored(self.folder, self._source, self._kind, self.made_by, self._places[index])
        return from_bytes(self._source[self._places[index]], self._kind)
