"""`icegrt data`: check records, or build a TFDS dataset from them."""

import os

from icegrt_jax.data import records
from icegrt_jax.data.sources import load_source
from icegrt_jax.data.tfds_builder import build_dataset

KINDS = {
    "instruction": records.Instruction,
    "ranking": records.Ranking,
    "prompt": records.Prompt,
    "text": records.Text,
}


def main(command: str, **flags) -> None:
    """Runs `icegrt data check` or `icegrt data build`; the flags are the command line's."""
    {"check": check, "build": build}[command](**flags)


def check(*, source: str, kind: str, data_dir: str) -> None:
    """Reads and validates every record of a source; the first bad one is a `UserError` that names its line."""
    loaded = load_source(source, kind=KINDS[kind], data_dir=data_dir)
    print(f"{source}: {len(loaded)} {kind} records, all valid")


def build(*, source: str, kind: str, data_dir: str, name: str, split: str, out: str) -> None:
    """Writes the records of a source as one split of the TFDS dataset OUT/NAME."""
    loaded = load_source(source, kind=KINDS[kind], data_dir=data_dir)
    folder = build_dataset({split: loaded}, name, out)
    print(f"{folder}: {len(loaded)} {kind} records; read them with tfds:{name}@{os.path.abspath(out)}#{split}")
