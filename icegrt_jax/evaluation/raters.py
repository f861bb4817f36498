"""Answers for people to rate: a blind, shuffled CSV file, and what they put into it.

A row is an answer; those to one prompt stand together, in no order that tells whose they are. Whose they are is in a
file of its own, which the raters are not to see.
"""

import csv
import hashlib
import io
import pathlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icegrt_jax import files
from icegrt_jax.data.fields import shown
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation.asked.wording import CRITERIA, HIGHEST, LOWEST
from icegrt_jax.evaluation.sampled import Sampled

PREFERENCE = "preference"
TEXTS, FILLED = ("id", "prompt", "answer"), (*CRITERIA, PREFERENCE)
COLUMNS = (*TEXTS, *FILLED)
# What a spreadsheet takes for the beginning of a formula, in the wide forms of East Asian keyboards as well.
FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"
SEPARATORS = ",;\t"  # a spreadsheet writes the one of its country
LARGEST = 10 * 2**20  # characters of a cell


@dataclass(frozen=True)
class Rating:
    """What one person says of one answer.

    Attributes:
      id: of the answer. rater: whose file it is from.
      scores: by criterion, those that were given.
      preference: rank among the answers to the same prompt, 1 is best; None where not given.
    """

    id: str
    rater: str
    scores: dict[str, int]
    preference: int | None


def harmless(text: str) -> str:
    """A text that a spreadsheet does not run: one that begins like a formula has an apostrophe before it."""
    text = text.replace("\0", "\ufffd")
    first = text.strip()[:1]
    return f"'{text}" if first and first in FORMULA or text[:1] in ("\t", "\r", "\n") else text


def drawn(prompts: Sequence[str], limit: int, seed: int) -> list[str]:
    """So many of the prompts, by the seed, in their order; 0: all."""
    if not 0 < limit < len(prompts):
        return list(prompts)
    chosen = set(random.Random(f"{seed}/prompts").sample(list(prompts), limit))
    return [said for said in prompts if said in chosen]


def lay_out(rows: Sequence[Sampled], prompts: Sequence[str], samples: int, seed: int) -> tuple[list[list[str]], dict]:
    """The lines of the CSV file, and the key that says whose each answer is.

    Args:
      prompts: keys of those that all rows have answered.
      samples: answers of each row to a prompt, the first ones.
      seed: of the order.
    """
    draw = random.Random(f"{seed}/raters")
    order, lines, key = list(prompts), [list(COLUMNS)], {}
    draw.shuffle(order)
    for number, said in enumerate(order, 1):
        whose: dict[str, list[list]] = {}  # of each text: the same one is rated once
        for row in rows:
            for sample, answer in enumerate(row.answers[said][:samples]):
                whose.setdefault(answer, []).append([row.name, sample])
        answers = list(whose)
        draw.shuffle(answers)
        asked = "\n\n".join(f"{m['role']}: {m['content']}" for m in rows[0].prompts[said].prompt)
        for letter, answer in enumerate(answers, 1):
            name = f"{number}-{letter}"
            lines.append([name, harmless(asked), harmless(answer), *[""] * len(FILLED)])
            key[name] = {"prompt": number, "of": whose[answer], "sha256": _told(answer)}
    return lines, {"rows": [row.name for row in rows], "answers": key}


def to_csv(lines: Sequence[Sequence[str]]) -> str:
    """With a mark that the file is in UTF-8, which a spreadsheet looks for."""
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(lines)
    return "\ufeff" + out.getvalue()


def read_key(path: str) -> dict[str, Any]:
    """The key that was written beside a CSV file."""
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise UserError(
            f"--key={path}: no such file; expected the one that `icegrt people write` wrote beside the CSV."
        )
    try:
        key = files.read_json(file)
        whole = all({"prompt", "of", "sha256"} <= one.keys() for one in key["answers"].values()) and key["rows"]
    except (ValueError, KeyError, AttributeError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"--key={path}: this is no key; expected what `icegrt people write` wrote beside the CSV.")
    return key


def read_rated(path: str, key: dict[str, Any]) -> list[Rating]:
    """What a person has filled in; errors name file, row and column as the spreadsheet does."""
    file = pathlib.Path(path).expanduser()
    rater, known, ratings = file.stem, key["answers"], []
    lines = _lines(file)
    seen: dict[str, int] = {}
    for row, cells in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{file}, row {row}"
        if len(cells) > len(lines[0]) and any(cell.strip() for cell in cells[len(lines[0]) :]):
            raise UserError(f"{where}: {len(cells)} cells under {len(lines[0])} columns; save it as CSV with quotes.")
        given = dict(zip(lines[0], [*cells, *[""] * len(COLUMNS)]))
        name = given["id"].strip()
        if name not in known:
            raise UserError(f"{where}, column id: {shown(name)} is none of the key's; leave this column as it was.")
        if name in seen:
            raise UserError(f"{where}, column id: {name} stands in row {seen[name]} as well; keep one of them.")
        seen[name] = row
        if known[name]["sha256"] not in (_told(given["answer"]), _told(given["answer"].removeprefix("'"))):
            raise UserError(
                f"{where}, column answer: not the answer that was written for {name}; were some columns sorted without "
                "the others, or changed? Import the file with all columns as text."
            )
        scores = {
            criterion: value
            for criterion in CRITERIA
            if (value := _whole(f"{where}, column {criterion}", given[criterion], LOWEST, HIGHEST)) is not None
        }
        rank = _whole(f"{where}, column {PREFERENCE}", given[PREFERENCE], 1, None)
        if scores or rank is not None:
            ratings.append(Rating(name, rater, scores, rank))
    if not ratings:
        raise UserError(f"{file}: nothing is filled in; expected numbers in the columns {', '.join(FILLED)}.")
    return ratings


def _lines(file: pathlib.Path) -> list[list[str]]:
    """The cells of a CSV file whose first line has all columns, whatever separates them."""
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected a filled-in CSV.")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not in UTF-8 ({error}); save it as 'CSV UTF-8'.") from error
    csv.field_size_limit(LARGEST)
    lines: list[list[str]] = []
    for separator in SEPARATORS:
        try:
            lines = [
                list(map(_plain, cells)) for cells in csv.reader(io.StringIO(text, newline=""), delimiter=separator)
            ]
        except csv.Error as error:
            raise UserError(f"{file}: not to be read as CSV ({error}); save it again.") from error
        if lines and len(lines[0]) >= len(COLUMNS):
            break
    header = [cell.strip() for cell in lines[0]] if lines else []
    if missing := [name for name in COLUMNS if name not in header]:
        raise UserError(f"{file}, row 1: no column {missing[0]}; expected {', '.join(COLUMNS)}.")
    if twice := [name for name in COLUMNS if header.count(name) > 1]:
        raise UserError(f"{file}, row 1: two columns {twice[0]}; keep one of them.")
    return [header, *lines[1:]]


def _plain(cell: str) -> str:
    return cell.replace("\r\n", "\n")


def _whole(where: str, cell: str, lowest: int, highest: int | None) -> int | None:
    """A whole number in a cell, as spreadsheets write them; None for an empty one."""
    text = cell.strip()
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,6})(?:[.,]0+)?", text)
    value = int(found[1]) if found else -1
    if value < lowest or highest is not None and value > highest:
        to = f" to {highest}" if highest is not None else " on, 1 for the best answer to the prompt"
        raise UserError(f"{where}: {shown(cell)}; expected a whole number from {lowest}{to}, or nothing.")
    return value


def _told(answer: str) -> str:
    """Tells one answer from another; spaces and line ends, which spreadsheets change, do not count."""
    return hashlib.sha256(" ".join(answer.replace("\0", "\ufffd").split()).encode()).hexdigest()[:16]
