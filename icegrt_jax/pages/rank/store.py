"""What people have said, in one SQLite file: whatever has been saved survives a kill, and nothing is there twice.

    item           a prompt with its answers
    judgement      what an annotator says of one; a second row where it was shown again
    adjudication   what is decided where annotators disagree

A judgement is one transaction, on disk when `save` returns (write-ahead log, synchronous FULL); the same one saved
again replaces itself.
"""

import dataclasses
import json
import os
import pathlib
import sqlite3
import time
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

from icegrt_jax.errors import UserError
from icegrt_jax.pages.rank.items import Item

FILE = "rank.sqlite"
VERSION = "1"
_TABLES = """
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS item (
  number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, prompt TEXT NOT NULL, responses TEXT NOT NULL,
  meta TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS judgement (
  place INTEGER PRIMARY KEY AUTOINCREMENT, annotator TEXT NOT NULL, item INTEGER NOT NULL REFERENCES item (number),
  again INTEGER NOT NULL CHECK (again IN (0, 1)), ranks TEXT, ratings TEXT NOT NULL, note TEXT NOT NULL,
  seconds REAL NOT NULL, at TEXT NOT NULL, UNIQUE (annotator, item, again));
CREATE INDEX IF NOT EXISTS of_item ON judgement (item);
CREATE TABLE IF NOT EXISTS adjudication (
  item INTEGER PRIMARY KEY REFERENCES item (number), adjudicator TEXT NOT NULL, ranks TEXT NOT NULL,
  note TEXT NOT NULL, at TEXT NOT NULL);
"""


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What one person says of the answers to one prompt.

    Attributes:
      annotator: their name. item: number of the prompt. again: whether it was shown for the second time.
      ranks: by answer, as the record has them: 1 is best, equal ones are ties, None: not ranked. None: skipped.
      ratings: of each criterion that was used, by answer, None where not rated.
      note: in their words. seconds: how long it took. at: when, UTC.
      place: the larger, the later it was first saved; 0: not saved yet.
    """

    annotator: str
    item: int
    again: bool
    ranks: tuple[int | None, ...] | None
    ratings: dict[str, list[int | None]] = dataclasses.field(default_factory=dict)
    note: str = ""
    seconds: float = 0.0
    at: str = ""
    place: int = 0


@dataclasses.dataclass(frozen=True)
class Decision:
    """What an adjudicator has decided about a prompt."""

    adjudicator: str
    item: int
    ranks: tuple[int | None, ...]
    note: str = ""
    at: str = ""


class Store(MutableMapping[str, str]):
    """An open file of judgements; as a mapping, the facts that are kept beside them."""

    def __init__(self, folder: pathlib.Path, *, new: bool):
        """Opens DIR/rank.sqlite. `new`: makes it where there is none."""
        path = folder / FILE
        if not new and not path.is_file():
            raise UserError(f"--out={folder}: no {FILE} here, so nothing has been ranked; name --records to begin.")
        folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # it holds the page's tokens
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{path}: no file of rankings ({error}); choose another --out, or bring it back."
            ) from error
        if self.setdefault("version", VERSION) != VERSION:
            raise UserError(f"{path}: written by a newer version of icegrt_jax; open it with that one.")

    def __getitem__(self, name: str) -> str:
        row = self._db.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise KeyError(name)
        return row[0]

    def __setitem__(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))

    def __delitem__(self, name: str) -> None:
        self._db.execute("DELETE FROM fact WHERE name = ?", (name,))

    def __iter__(self) -> Iterator[str]:
        return iter([name for (name,) in self._db.execute("SELECT name FROM fact")])

    def __len__(self) -> int:
        return self._db.execute("SELECT count(*) FROM fact").fetchone()[0]

    def close(self) -> None:
        self._db.close()

    def add(self, items: Sequence[Item]) -> None:
        """Keeps what is to be ranked; all that is there already has to be among it."""
        kept = set(self.keys_of_items())
        if missing := kept - {item.key for item in items}:
            raise UserError(
                f"{len(missing)} of the {len(kept)} prompts that are ranked in this folder are not in these records, "
                "or have other answers; choose another --out."
            )
        rows = [
            (item.key, _json(item.prompt), _json(item.responses), _json(item.meta))
            for item in items
            if item.key not in kept
        ]
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT INTO item (key, prompt, responses, meta) VALUES (?, ?, ?, ?)", rows)

    def keys_of_items(self) -> list[str]:
        """Of item number 1, 2, ..."""
        return [key for (key,) in self._db.execute("SELECT key FROM item ORDER BY number")]

    def item(self, number: int) -> Item | None:
        row = self._db.execute("SELECT prompt, responses, meta FROM item WHERE number = ?", (number,)).fetchone()
        return None if row is None else _item(*row)

    def all_items(self) -> dict[int, Item]:
        """By number."""
        rows = self._db.execute("SELECT number, prompt, responses, meta FROM item ORDER BY number")
        return {number: _item(*row) for number, *row in rows}

    def save(self, said: Judgement) -> None:
        """Keeps a judgement, in place of an earlier one of the same; the time it took adds up."""
        ranks = None if said.ranks is None else json.dumps(said.ranks)
        row = (said.annotator, said.item, said.again, ranks, json.dumps(said.ratings), said.note, said.seconds, _now())
        self._db.execute(
            "INSERT INTO judgement (annotator, item, again, ranks, ratings, note, seconds, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (annotator, item, again) DO UPDATE SET"
            " ranks = excluded.ranks, ratings = excluded.ratings, note = excluded.note,"
            " seconds = seconds + excluded.seconds, at = excluded.at",
            row,
        )

    def judgements(self, annotator: str = "", item: int = 0) -> list[Judgement]:
        """Of one person, of one prompt, or all; in the order they were first saved."""
        rows = self._db.execute(
            "SELECT annotator, item, again, ranks, ratings, note, seconds, at, place FROM judgement"
            " WHERE (? = '' OR annotator = ?) AND (? = 0 OR item = ?) ORDER BY place",
            (annotator, annotator, item, item),
        )
        return [
            Judgement(name, number, bool(again), _ranks(ranks), json.loads(ratings), note, seconds, at, place)
            for name, number, again, ranks, ratings, note, seconds, at, place in rows
        ]

    def counts(self) -> dict[int, int]:
        """{item: people who have ranked it}, of those that somebody has."""
        return dict(
            self._db.execute("SELECT item, count(*) FROM judgement WHERE again = 0 AND ranks IS NOT NULL GROUP BY item")
        )

    def untouched(self) -> int:
        """Prompts that nobody has ranked or skipped."""
        return self._db.execute(
            "SELECT count(*) FROM item WHERE number NOT IN (SELECT item FROM judgement)"
        ).fetchone()[0]

    def decide(self, decided: Decision) -> None:
        """Keeps what an adjudicator has decided, in place of an earlier decision about the same prompt."""
        self._db.execute(
            "INSERT OR REPLACE INTO adjudication VALUES (?, ?, ?, ?, ?)",
            (decided.item, decided.adjudicator, json.dumps(decided.ranks), decided.note, _now()),
        )

    def decisions(self) -> dict[int, Decision]:
        """By item."""
        rows = self._db.execute("SELECT item, adjudicator, ranks, note, at FROM adjudication")
        return {item: Decision(name, item, tuple(json.loads(ranks)), note, at) for item, name, ranks, note, at in rows}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _item(prompt: str, responses: str, meta: str) -> Item:
    return Item(tuple(json.loads(prompt)), tuple(json.loads(responses)), json.loads(meta))


def _ranks(text: str | None) -> Any:
    return None if text is None else tuple(json.loads(text))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
