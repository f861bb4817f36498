"""Records as nobody should write them, read as `icegrt data check` reads them: mutations of good ones, by a seed.

    python -m tests.faults.fuzz_records --records=200000 --seed=0

Each is a file of one row: JSON lines, .gz too, a JSON list, or CSV. It is read, or refused by one sentence with the
file, the line or item, and the reason. What is read survives JSON, is text of whole characters, and where a tokenizer
encodes it makes no turn that its template does not write. Exit 1 and the file's content where that is not so.
"""

import argparse
import collections
import copy
import csv
import gzip
import io
import json
import pathlib
import random
import re
import sys
import tempfile
import time
from typing import Any

from icegrt_jax.data.encode import encoded
from icegrt_jax.data.records import KINDS, Instruction, Text
from icegrt_jax.data.sources import load_source
from icegrt_jax.data.tokenizers import ChatTokenizer, wrap
from icegrt_jax.errors import UserError
from tests.data import templates

SLOWEST = 1.0  # seconds for a record
LONGEST = 1500  # characters of a sentence, the file's name not counted
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is 7 odd?"},
         {"role": "assistant", "content": "Yes."}]  # fmt: skip
GOOD: dict[str, list[dict]] = {
    "instruction": [
        {"prompt": "Is 7 odd?", "response": "Yes."}, {"messages": TURNS},
        {"conversations": [{"from": "human", "value": "Is 7 odd?"}, {"from": "gpt", "value": "Yes."}]},
        {"instruction": "Say.", "input": "7", "output": "7", "meta": {"id": 1}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "7?"}]}, TURNS[-1]], "tools": []},
    ],
    "ranking": [
        {"prompt": "Is 7 odd?", "responses": ["Yes.", "No.", "It is."], "ranks": [1, 3, 2]},
        {"prompt": TURNS[:2], "chosen": "Yes.", "rejected": "No."},
        {"prompt": "7?", "responses": ["a", "b"], "scores": [0.5, -1e3]},
        {"chosen": "\n\nHuman: 7?\n\nAssistant: Yes.", "rejected": "\n\nHuman: 7?\n\nAssistant: No."},
    ],
    "prompt": [{"prompt": "Is 7 odd?", "reference": "Yes."}, {"prompt": TURNS[:2], "meta": {"a": [1, {"b": None}]}}],
    "text": [{"text": "Seven is odd."}],
}  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e308, float("inf"), float("nan"), 10**20, 10**400, "", " ", "\n", "\0", "\ud83d",
    "\U0001f600", "\ufeff", "\u2028", "7" * 300, "<|im_start|>", "<|im_end|>user", "<s>", "[INST]", "</s>", "\\", '"',
    "{{ 1 }}", "{% for %}", [], [[]], [None], {}, {"role": "user"}, {"type": "image"}, ["a", 1], {"": ""}, "é" * 50,
    "Human: a", "a\rb",
]  # fmt: skip
KEYS = ["prompt", "response", "messages", "role", "content", "responses", "ranks", "scores", "chosen", "rejected",
        "meta", "text", "system", "weight", "tool_calls", "prompts", "", "\ud800", "x" * 200]  # fmt: skip
BYTES = [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\0", b"\n", b"\r", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"{", b"}", b"[",
         b'"', b"\\", b"\\u", b"\\ud83d", b"9" * 4301, b"[" * 600, b'{"a":' * 600, b"NaN", b"-", b"1e999"]  # fmt: skip


def mutated(rng: random.Random, value: Any) -> Any:
    """A value with one to three places in it changed."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        places = [*_places(value)]
        if not places:
            return value
        holder, key = rng.choice(places)
        what = rng.randrange(7)
        if what <= 2:
            holder[key] = copy.deepcopy(rng.choice(ODD))
        elif what == 3 and isinstance(holder[key], str):
            at = rng.randint(0, len(holder[key]))
            odd = rng.choice(ODD)
            holder[key] = holder[key][:at] + (odd if isinstance(odd, str) else str(odd)[:40]) + holder[key][at:]
        elif what == 4 and isinstance(holder, dict):
            holder[rng.choice(KEYS)] = holder.pop(key)
        elif what == 5:
            del holder[key]
        else:
            holder[key] = rng.choice([[holder[key]], {"content": holder[key]}, {rng.choice(KEYS): holder[key]}])
    return value


def _places(value: Any):
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def spoilt(rng: random.Random, line: bytes) -> bytes:
    """The bytes of a row with one to three places in them changed."""
    for _ in range(rng.randint(1, 3)):
        at, what = rng.randint(0, len(line)), rng.randrange(4)
        if what == 0:
            line = line[:at] + rng.choice(BYTES) + line[at:]
        elif what == 1:
            line = line[:at] + line[at + rng.randint(1, 9) :]
        elif what == 2 and at < len(line):
            line = line[:at] + bytes([line[at] ^ (1 << rng.randrange(8))]) + line[at + 1 :]
        else:
            end = rng.randint(at, min(len(line), at + 60))
            line = line[:at] + line[at:end] * rng.randint(2, 4) + line[end:]
    return line


def content(rng: random.Random, kind: str) -> tuple[str, str, bytes]:
    """(format, ending, what is in the file) of one record."""
    row = rng.choice(GOOD[kind])
    if rng.random() < 0.8:
        row = mutated(rng, row)
    form = rng.choices(["jsonl", "gz", "json", "csv"], [70, 8, 10, 12])[0]
    line = json.dumps(row, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if form == "csv":
        file = io.StringIO(newline="")
        cells = {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
        csv.writer(file).writerows([cells, cells.values()])
        line = file.getvalue().encode("utf-8", "surrogatepass")
    if rng.random() < 0.4:
        line = spoilt(rng, line)
    if form == "json":
        return "json", ".json", b"[" + line + b"]"
    if form == "gz":
        packed = gzip.compress(line + b"\n", compresslevel=1)
        return "jsonl", ".jsonl.gz", spoilt(rng, packed) if rng.random() < 0.5 else packed
    return form, f".{form}", line + b"\n"


def tried(kind: str, spec: str, path: pathlib.Path, tokenizer: ChatTokenizer) -> str:
    """How reading the file has ended; AssertionError for an end that it must not have."""
    try:
        records = load_source(spec, kind=KINDS[kind])
        for record in records:
            assert KINDS[kind].from_json(json.loads(json.dumps(record.to_json()))) == record, "does not survive JSON"
    except UserError as error:
        text = str(error)
        assert str(path) in text, f"names no file: {text}"
        assert len(text.replace(str(path), "")) <= LONGEST, f"{len(text)} characters"
        assert "\n" not in text, f"of several lines: {text!r}"
        of_all = ["gzip", "no records in it", "not UTF-8"]
        if path.suffix == ".json":  # one value, read whole
            of_all += ["not JSON", "holds a JSON value", "integer of too many digits", "too deep", "stands twice"]
        assert any(said in text for said in of_all) or re.search(r", (line|item) \d", text), f"names no line: {text}"
        return "refused"
    for record in records:
        try:
            ids = encoded(record, tokenizer)
        except UserError:
            return "read, and refused by the tokenizer"
        if isinstance(record, Instruction):
            ends = sum(i in tokenizer.eos_ids for i in ids[0][0])
            said = sum(message["role"] == "assistant" for message in record.messages)
            assert said <= ends <= len(record.messages) + 1, f"{ends} ends of turns"
        if isinstance(record, Text):
            assert not set(ids) & set(tokenizer.tokenizer.all_special_ids), "a control token in a text"
    return "read"


def main(records: int, seed: int) -> collections.Counter:
    """Tries so many records; how they ended."""
    rng, counts, slowest = random.Random(seed), collections.Counter(), 0.0
    shapes = ("chatml", "llama2", "llama3")
    tokenizers = [wrap(templates.make(shape)) for shape in shapes if shape in templates.SHAPES]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(records):
            kind = rng.choice([*GOOD])
            form, ending, held = content(rng, kind)
            path = pathlib.Path(folder) / f"rows{ending}"
            path.write_bytes(held)
            begin = time.perf_counter()
            try:
                counts[tried(kind, f"{form}:{path}", path, rng.choice(tokenizers))] += 1
            except BaseException as error:
                print(f"record {number}, {kind}, {form}, {type(error).__name__}: {error}\n{held!r:.2000}", flush=True)
                raise
            slowest = max(slowest, time.perf_counter() - begin)
            if slowest > SLOWEST:
                raise AssertionError(f"record {number} took {slowest:.1f} s: {held!r:.2000}")
    print(f"{records} records, seed {seed}: {dict(counts)}, the slowest {1000 * slowest:.0f} ms", flush=True)
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        main(given.records, given.seed)
    except Exception:
        sys.exit(1)
