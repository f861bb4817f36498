"""What is ranked: prompts with two different answers or more, from a file of records or a folder of them."""

import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

from icegrt_jax import files
from icegrt_jax.data.fields import Messages
from icegrt_jax.data.records import Ranking
from icegrt_jax.data.rows import json_lines
from icegrt_jax.errors import UserError

MOST = 9  # answers to a prompt: each has a key


@dataclasses.dataclass(frozen=True)
class Item:
    """One prompt with its answers, all different. Ranks that they may have had are not kept: nobody is to see them."""

    prompt: Messages
    responses: tuple[str, ...]
    meta: dict

    @functools.cached_property
    def key(self) -> str:
        """The same for the same prompt and answers, wherever they stand."""
        said = [text for message in self.prompt for text in (message["role"], message["content"])]
        return hashlib.sha256("\0".join([str(len(said)), *said, *sorted(self.responses)]).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Read:
    """items: each once. left_out: records without two different answers. again: records that stand there again."""

    items: list[Item]
    left_out: int
    again: int


def read(path: str) -> Read:
    """The items of a .jsonl file, or of those in a folder."""
    found: dict[str, Item] = {}
    left_out = again = 0
    for file in _files(path):
        for where, obj in json_lines(file):
            item = _item(obj, where)
            if len(item.responses) < 2:
                left_out += 1
                continue
            again += item.key in found
            found.setdefault(item.key, item)
    if not found:
        raise UserError(f"--records={path}: no record has two different answers, so there is nothing to rank.")
    return Read(list(found.values()), left_out, again)


def fingerprint(path: str) -> str:
    """The same while the files are."""
    return " ".join(files.sha256(file) for file in _files(path) if file.is_file())


def of_records(records: list[Ranking]) -> list[Item]:
    """Rankings, whose ranks do not count, as items."""
    return [Item(record.prompt, tuple(dict.fromkeys(record.responses)), record.meta) for record in records]


def _item(obj: Any, where: str) -> Item:
    if isinstance(obj, dict) and isinstance(obj.get("responses"), list) and "ranks" not in obj:
        obj = {**obj, "ranks": [1] * len(obj["responses"])}  # answers alone are as good here
    [item] = of_records([Ranking.from_json(obj, where)])
    if len(item.responses) > MOST:
        raise UserError(f"{where}: {len(item.responses)} answers; {MOST} at most can be ranked on a page.")
    return item


def _files(path: str) -> list[pathlib.Path]:
    place = pathlib.Path(path).expanduser()
    if not place.is_dir():
        return [place]
    found = sorted(file for file in place.iterdir() if file.name.endswith((".jsonl", ".jsonl.gz")))
    if not found:
        raise UserError(f"--records={path}: no .jsonl file in this folder; expected some with answers to be ranked.")
    return found
