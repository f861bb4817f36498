"""The record reader and the way through tokenizer and template, fuzzed by coverage (atheris, which is libFuzzer's).

    pip install atheris
    python -m tests.faults.fuzz_guided records -max_total_time=300 -seed=1
    python -m tests.faults.fuzz_guided turns -max_total_time=300 -seed=1

`records`: bytes are a file, checked as in `fuzz_records`. `turns`: bytes are messages with control tokens in them, and
the template; no turn may be forged, see `forge_turns`. What is found is an exception, and libFuzzer keeps the bytes.
"""

import itertools
import pathlib
import random
import sys
import tempfile
import time

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed: pip install atheris (Linux and macOS, Python 3.8 to 3.13)")

with atheris.instrument_imports(include=["icegrt_jax.data"]):
    from icegrt_jax.data import template
    from icegrt_jax.data.records import KINDS
    from icegrt_jax.data.tokenizers import wrap
    from tests.data import templates
    from tests.faults import forge_turns, fuzz_records

FORMS = (("jsonl", ".jsonl"), ("json", ".json"), ("csv", ".csv"), ("jsonl", ".jsonl.gz"))
WAYS = ("prompt", "examples", "finished answer", "unfinished answer", "text")
LEADS = (("user",), ("system", "user"), ("user", "assistant", "user"))


def records(folder: pathlib.Path):
    """One execution: a byte for kind, format and tokenizer, and the file."""
    tokenizers = [wrap(templates.make(shape)) for shape in ("chatml", "llama2", "llama3")]

    def once(data: bytes) -> None:
        if len(data) < 2:
            return
        rest, kind = divmod(data[0], len(KINDS))
        rest, form = divmod(rest, len(FORMS))
        path = folder / f"rows{FORMS[form][1]}"
        path.write_bytes(data[1:])
        began = time.perf_counter()
        fuzz_records.tried([*KINDS][kind], f"{FORMS[form][0]}:{path}", path, tokenizers[rest % len(tokenizers)])
        assert time.perf_counter() - began < fuzz_records.SLOWEST, "it takes too long"

    return once


def turns():
    """One execution: which template and way, then pieces of each message, tokens among them."""
    opened = [wrap(templates.make(shape)) for shape in templates.SHAPES]
    known = [forge_turns.controls(tokenizer) for tokenizer in opened]

    def once(data: bytes) -> None:
        given = atheris.FuzzedDataProvider(data)
        at = given.ConsumeIntInRange(0, len(opened) - 1)
        way, lead = given.PickValueInList(list(WAYS)), given.PickValueInList(list(LEADS))
        tokens, messages = [*known[at].values(), "<think>", "</think>", " ", "\n"], []
        for role in (*lead, "assistant"):
            pieces = []
            for _ in range(given.ConsumeIntInRange(0, 4)):
                token = given.PickValueInList(tokens)
                end = given.ConsumeIntInRange(0, len(token))
                pieces.append(token[:end] if given.ConsumeBool() else token[end:])
                pieces.append(given.ConsumeUnicodeNoSurrogates(given.ConsumeIntInRange(0, 4)))
            messages.append({"role": role, "content": "".join(pieces) or template.WORDS[role]})
        ended = forge_turns.forged(opened[at], known[at], way, messages)
        assert not ended.startswith("FORGED"), f"{[*templates.SHAPES][at]}, {way}: {ended}, {messages}"

    return once


def seeds(folder: pathlib.Path, count: int = 400) -> None:
    """Files to begin with: what `fuzz_records` makes of good records."""
    rng = random.Random(0)
    for number, kind in zip(range(count), itertools.cycle(fuzz_records.GOOD), strict=False):
        form, ending, held = fuzz_records.content(rng, kind)
        first = [*KINDS].index(kind) + len(KINDS) * FORMS.index((form, ending))
        (folder / str(number)).write_bytes(bytes([first]) + held)


def main(target: str, arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as files, tempfile.TemporaryDirectory() as corpus:
        seeds(pathlib.Path(corpus))
        once = records(pathlib.Path(files)) if target == "records" else turns()
        given = [corpus] if target == "records" else []
        atheris.Setup([sys.argv[0], *arguments, *given], once)
        atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] not in (["records"], ["turns"]):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
