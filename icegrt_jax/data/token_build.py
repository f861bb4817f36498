"""Records tokenised once into a folder of ArrayRecord files, one after the other; `token_store` reads it."""

import os
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from icegrt_jax import files
from icegrt_jax.data.encode import encoded
from icegrt_jax.data.token_store import FORMAT, NAME, to_bytes
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.errors import UserError

PART = 100_000  # records of a file


def write(folder: str | os.PathLike, made: Iterable[Any], kind: type[Any], tokenizer: ChatTokenizer) -> int:
    """Tokenises records into a new folder, whole or not at all; returns how many they are."""
    folder = pathlib.Path(folder).expanduser()
    if folder.exists():
        raise UserError(f"{folder} is there already and is written whole; remove it or choose another name.")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        count = _write_parts(temporary, made, tokenizer)
        if not count:
            raise UserError(f"{folder}: there are no records to write; nothing was written.")
        said = {"format": FORMAT, "kind": kind.__name__.lower(), "records": count, "tokenizer": tokenizer.fingerprint}
        files.write_json_atomic(temporary / NAME, said)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return count


def _write_parts(folder: pathlib.Path, made: Iterable[Any], tokenizer: ChatTokenizer) -> int:
    count = 0
    writer: Any = None
    try:
        for record in made:
            if count % PART == 0:
                if writer is not None:
                    writer.close()
                # One record a group: a record is then read without its neighbours.
                writer = ArrayRecordWriter(str(folder / f"part-{count // PART:05d}.array_record"), "group_size:1")
            writer.write(to_bytes(record, encoded(record, tokenizer)))
            count += 1
    finally:
        if writer is not None:
            writer.close()
    return count
