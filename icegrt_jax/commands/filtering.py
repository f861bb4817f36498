"""`icegrt data filter`: a source without its near-duplicates and without what a model will be evaluated on."""

import contextlib
import json
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO, Any

from icegrt_jax.data.filters import Contamination, Dropped, NearDuplicates
from icegrt_jax.data.records import KINDS, Record
from icegrt_jax.data.sources import files_of, iter_source
from icegrt_jax.errors import UserError
from icegrt_jax.files import replacing

SAYS = {"near_duplicate": "near-duplicates", "contamination": "with text of an evaluation"}


def write(
    *,
    source: str,
    kind: str,
    data_dir: str,
    out: str,
    report: str,
    near_duplicates: float,
    against: Sequence[str],
    ngram: int,
) -> None:
    """Writes the records that are kept, and a report of the others with the reason for each; both whole or not at all.

    Args:
      report: empty: beside `out`.
      near_duplicates: similarity from which they are left out; 0: none are.
      against: [KIND=]FORMAT:PATH of evaluations, by default of prompts; none: all records are kept.
      ngram: words of a shared n-gram.
    """
    kept_at, dropped_at = _targets(source, data_dir, out, report)
    if not near_duplicates and not against:
        raise UserError("nothing to filter by; give --near-duplicates=0.8, --against=SOURCE, or both.")
    rules: list[Any] = []
    if against:
        rules.append(_contamination(against, data_dir, ngram))
    if near_duplicates:
        rules.append(NearDuplicates(near_duplicates))
    counts: Counter[str] = Counter()
    with replacing(kept_at) as kept, replacing(dropped_at) as dropped:
        for record, reason in _judged(iter_source(source, kind=KINDS[kind], data_dir=data_dir), rules):
            counts[reason.rule if reason else "kept"] += 1
            _write(dropped if reason else kept, record, reason)
        if not counts["kept"]:
            raise UserError(f"source {source!r}: {counts.total()} records, and none is left; nothing was written.")
    left_out = ", ".join(f"{counts[rule]} {SAYS[rule]}" for rule in SAYS if counts[rule]) or "none"
    print(f"{source}: {counts.total()} {kind} records, {counts['kept']} kept; left out: {left_out}")
    print(f"{kept_at}: read them with jsonl:{kept_at}; what was left out and why: {dropped_at}")


def _judged(records: Iterator[Record], rules: Sequence[Any]) -> Iterator[tuple[Record, Dropped | None]]:
    """Each record with why it is left out; what one rule drops is nobody's partner in the next."""
    for record in records:
        yield record, next(filter(None, (rule.find(record) for rule in rules)), None)


def _contamination(against: Sequence[str], data_dir: str, ngram: int) -> Contamination:
    evaluations = {}
    for text in against:
        kind, equals, spec = text.partition("=")
        named = bool(equals) and kind in KINDS
        evaluations[text] = iter_source(
            spec if named else text, kind=KINDS[kind if named else "prompt"], data_dir=data_dir
        )
    found = Contamination(evaluations, ngram)
    for name, counts in found.counts.items():
        if not counts["records"]:
            raise UserError(f"--against={name}: no records in it.")
        print(
            f"{name}: {counts['records']} records; {counts['too_short']} too short to be recognised, "
            f"{counts['wording']} n-grams are the wording of its prompts",
            flush=True,
        )
    return found


def _targets(source: str, data_dir: str, out: str, report: str) -> tuple[pathlib.Path, pathlib.Path]:
    kept = pathlib.Path(out).expanduser().absolute()
    dropped = pathlib.Path(report).expanduser().absolute() if report else kept.with_suffix(".dropped.jsonl")
    for flag, path in (("--out", kept), ("--report", dropped)):
        if path.suffix != ".jsonl" or path.is_dir():
            raise UserError(f"{flag}={path}: expected the name of a file that ends in .jsonl.")
        with contextlib.suppress(OSError):
            if any(
                path == file or (path.exists() and path.samefile(file)) for file in files_of(source, data_dir=data_dir)
            ):
                raise UserError(f"{flag}={path} is a file of the source; choose another name.")
    if kept == dropped:
        raise UserError(f"--out and --report are both {kept}; choose another name for one.")
    return kept, dropped


def _write(file: IO[str], record: Record, reason: Dropped | None) -> None:
    row: dict[str, Any] = record.to_json()
    if reason:
        more = {"shared": reason.shared} if reason.shared else {}
        row = {"where": record.where, "rule": reason.rule, "partner": reason.partner,
               "similarity": round(reason.similarity, 4), **more, "record": row}  # fmt: skip
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
