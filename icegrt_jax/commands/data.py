"""`icegrt data`: check records, filter them, or build a data set from them: TFDS, or tokenised."""

import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from icegrt_jax.commands import filtering
from icegrt_jax.config.options import (
    LengthOptions,
    Options,
    OriginOptions,
    ReplayOptions,
    RewardOptions,
    SFTOptions,
    SupervisedOptions,
)
from icegrt_jax.data import losses, token_build
from icegrt_jax.data.encode import fit_examples, fit_prompts, fit_rankings, refuse_other_tokenizer, token_counts
from icegrt_jax.data.records import KINDS
from icegrt_jax.data.sources import iter_source, load_source, understood
from icegrt_jax.data.tfds_builder import build_dataset
from icegrt_jax.data.tokenizers import ChatTokenizer, load_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.models.hf.hub import local_folder
from icegrt_jax.runs import tokenizers

FITS: dict[str, Callable] = {
    "instruction": fit_examples,
    "text": fit_examples,
    "prompt": fit_prompts,
    "ranking": lambda loaded, tokenizer, length, overlong: fit_rankings(
        loaded, tokenizer, length, max(len(record.responses) for record in loaded), overlong
    ),
}
LONGER = {"drop": "dropped", "cut": "cut", "keep": "kept", "split": "split"}
QUANTILES = {"median": 50, "90 %": 90, "99 %": 99, "longest": 100}


def main(
    command: str, *, kind: str, config: Options | None = None, tokenizer: str = "", length: int = 0, **flags
) -> None:
    """Runs `icegrt data check`, `filter` or `build`; the flags are the command line's.

    With a tokenizer, a config's or one by itself, a check counts tokens too, and a build stores them.
    """
    if command == "filter":
        return filtering.write(kind=kind, **flags)
    if length and not (config or tokenizer):
        raise UserError("--length counts tokens; give --tokenizer or --config as well.")
    reader = None
    if tokenizer:
        reader = load_tokenizer(local_folder(tokenizer))
    elif config:
        reader = _tokenizer_of(config, config.reward, kind)
    if command == "build":
        return build(kind=kind, reader=reader, **flags)
    lengths: list[tuple[str, int, str]] = []
    if length:
        lengths = [("--length", length, "split" if kind == "text" else "drop")]
    elif config:
        lengths = list(_lengths(kind, config, config.pretrain, config.sft, config.reward, config.ppo.ptx))
    check(kind=kind, reader=reader, lengths=lengths, **flags)


def check(
    *, source: str, kind: str, data_dir: str, reader: ChatTokenizer | None, lengths: Sequence[tuple[str, int, str]]
) -> None:
    """Reads and validates every record of a source; the first bad one is a `UserError` that names its line.

    Before that it says how the first record is understood; where a field is missing the error proposes a mapping.

    With a reader the records are tokenised too: how long they are, and how many would be left out or cut at each of
    `lengths` (key, tokens, what happens to longer records).
    """
    for line in understood(source, kind=KINDS[kind], data_dir=data_dir):
        print(line)
    loaded: Sequence[Any] = load_source(source, kind=KINDS[kind], data_dir=data_dir)
    print(f"{source}: {len(loaded)} {kind} records, all valid")
    if reader is None:
        return print("for their lengths in tokens give --config or --tokenizer")
    refuse_other_tokenizer(loaded, reader)
    sizes = [size for record in loaded for size in token_counts(record, reader)]
    shown = (f"{name} {int(np.percentile(sizes, q, method='higher'))}" for name, q in QUANTILES.items())
    print(f"tokens: {', '.join(shown)}{' (of answers with their prompt)' if kind == 'ranking' else ''}")
    for key, tokens, overlong in lengths:
        _show_fit(loaded, FITS[kind], reader, f"{key}={tokens} tokens", tokens, overlong)


def _tokenizer_of(origin: OriginOptions, reward: RewardOptions, kind: str) -> ChatTokenizer:
    """The one that reads records of a kind in a run: rankings are the reward model's."""
    own = tokenizers.reward_tokenizer(reward) if kind == "ranking" else None
    return own or tokenizers.future_tokenizer(origin)


def _lengths(
    kind: str,
    lengths: LengthOptions,
    pretrain: SupervisedOptions,
    sft: SFTOptions,
    reward: RewardOptions,
    replay: ReplayOptions,
) -> Iterator[tuple[str, int, str]]:
    """(key, tokens, what happens to longer records) of a run's places for records of a kind."""
    if kind == "prompt":
        yield "max_prompt_length", lengths.max_prompt_length, lengths.overlong_prompts
    elif kind == "text":
        yield "pretrain.length", pretrain.length, "split"
    elif kind == "ranking":
        yield "reward.length", reward.length, reward.overlong
    else:
        yield "sft.length", sft.length, sft.overlong
        if replay.coef:
            yield "ppo.ptx.length", replay.length, "drop"


def _show_fit(
    loaded: Sequence, fit: Callable, tokenizer: ChatTokenizer, length: str, tokens: int, overlong: str
) -> None:
    """One line of what is kept, cut and left out at a length, and the warnings of a stage that would read it."""
    _, counts = fit(loaded, tokenizer, tokens, overlong)
    counts["records"] = len(loaded)
    shown = ", ".join(f"{name} {count}" for name, count in counts.items() if count or name in ("kept", "dropped"))
    print(f"at {length}, longer ones {LONGER[overlong]}: {shown}")
    for line in losses.warnings("the source", counts, length):
        print(f"warning: {line}")


def build(
    *, source: str, kind: str, data_dir: str, name: str, split: str, out: str, reader: ChatTokenizer | None
) -> None:
    """Writes the records of a source as one split of the TFDS dataset OUT/NAME.

    With a reader they are tokenised into OUT/NAME/SPLIT instead, one after the other.
    """
    if reader is not None:
        folder = pathlib.Path(out).expanduser().absolute() / name / split
        made = iter_source(source, kind=KINDS[kind], data_dir=data_dir)
        count = token_build.write(folder, made, KINDS[kind], reader)
        return print(f"{folder}: {count} {kind} records, tokenised; read them with tokens:{folder}")
    loaded: Sequence[Any] = load_source(source, kind=KINDS[kind], data_dir=data_dir)
    folder = build_dataset({split: loaded}, name, out)
    print(f"{folder}: {len(loaded)} {kind} records; read them with tfds:{name}@{os.path.abspath(out)}#{split}")
