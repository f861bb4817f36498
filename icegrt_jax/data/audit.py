"""The check of what a stage is about to feed its model, and one example of it for people to read.

It looks at the batches themselves, tokens and masks as the pipeline made them, never at text rendered anew: a
wrong pipeline is what it is there to catch. Four mistakes stop the stage. Each of them trains without an error
and gives a model that is somewhat worse: a doubled BOS, a target span without its end-of-turn token, padding that
a mask counts, nothing to learn at all.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.data.trees import sequences_of
from icegrt_jax.errors import UserError

OPEN, CLOSE = "⟦", "⟧"
SHOWN = 1200  # characters of an example on the terminal; the file has all of it


class Sequence(NamedTuple):
    """One conversation, text or prompt of a batch.

    ids: i32[N]. targets: bool[N], what is marked. ends: False where its end, EOS included, may have been cut off.
    """

    ids: np.ndarray
    targets: np.ndarray
    ends: bool


def check(batch: dict[str, np.ndarray], tokenizer: ChatTokenizer, *, cut: bool = False) -> str:
    """Raises UserError for a batch that must not be trained on; returns its first example as text.

    Args:
      batch: of `data.pipeline`: rows with loss_mask, rankings, or prompts.
      tokenizer: the one the batch was made with.
      cut: overlong rows may have lost their end, EOS included.

    Returns:
      A line that says what is marked, and the example, its targets in ⟦ ⟧, special tokens spelled out.
    """
    if "loss_mask" in batch:
        what, sequences = "is trained on", _rows(batch, cut)
    elif "ranks" in batch:
        what, sequences = "is where the score is read", _rankings(batch, cut)
    else:
        what, sequences = "is where the model answers", _prompts(batch)
    first = None
    for sequence in sequences:
        _check_sequence(sequence, tokenizer)
        first = first or sequence
    if first is None:
        raise UserError("a batch holds no tokens at all; check the sources and the length of the rows.")
    count = f"{int(first.targets.sum())} of {len(first.ids)} tokens; " if first.targets.any() else ""
    return f"{count}{OPEN} {CLOSE} {what}\n{mark(first, tokenizer)}"


def mark(sequence: Sequence, tokenizer: ChatTokenizer) -> str:
    """The sequence as text with its targets in ⟦ ⟧; a prompt has the place of the answer."""
    edges: np.ndarray = np.flatnonzero(np.diff(sequence.targets.astype(np.int8))) + 1
    done, parts = "", []
    for start, stop in zip([0, *edges], [*edges, len(sequence.ids)]):
        # Decoded from the beginning: by itself a part would lose the space in front of its first word.
        text = tokenizer.tokenizer.decode(sequence.ids[:stop].tolist(), skip_special_tokens=False)
        part, done = text[len(done) :], text
        parts.append(f"{OPEN}{part}{CLOSE}" if sequence.targets[start] else part)
    return "".join(parts) + ("" if sequence.targets.any() else f"{OPEN} {CLOSE}")


def shorten(text: str, limit: int = SHOWN) -> str:
    """Beginning and end of a long text, with what was left out counted."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} … [{len(text) - 2 * half} characters] … {text[-half:]}"


def _rows(batch: dict, cut: bool) -> Iterator[Sequence]:
    """The segments of the rows of an SFT batch."""
    tokens, segments, targets = batch["tokens"], batch["segment_ids"], batch["loss_mask"]
    if (targets & (segments == 0)).any():
        raise UserError(
            f"{int((targets & (segments == 0)).sum())} places of padding are counted by the loss mask; padding must "
            "be left out by the mask, whatever token fills it."
        )
    for row, (ids, segment, target) in enumerate(zip(tokens, segments, targets, strict=True)):
        for number in range(1, int(segment.max(initial=0)) + 1):
            here = segment == number
            if not target[here].any():
                raise UserError(
                    f"row {row} of a batch has an empty mask in its conversation {number}: nothing of it is trained "
                    "on; check the chat template and the length of the rows."
                )
            # What was cut, or is one of the pieces of a long text, fills its row to the end.
            yield Sequence(ids[here], target[here], ends=not (cut and here.all()))


def _rankings(batch: dict, cut: bool) -> Iterator[Sequence]:
    """The answers of a ranking batch; the place of the score is the last real token."""
    if "ends" in batch:
        # Which of them have lost their end, where any may have, is not to be seen in a tree.
        for row in range(len(batch["tokens"])):
            for ids in sequences_of(batch, row):
                yield Sequence(ids, np.arange(len(ids)) == len(ids) - 1, ends=not cut)
        return
    for ids, mask, last in zip(
        *(batch[name].reshape(-1, *batch[name].shape[2:]) for name in ("tokens", "mask", "last")), strict=True
    ):
        if not mask.any():
            raise UserError("an answer to be ranked has an empty mask: no token of it is read; check the sources.")
        count = int(mask.sum())
        if int(last) != int(np.flatnonzero(mask)[-1]):
            raise UserError(f"the score of an answer is read at token {int(last)}, its last one is {count - 1}.")
        targets = np.arange(count) == count - 1
        yield Sequence(ids[mask], targets, ends=not (cut and count == len(ids)))


def _prompts(batch: dict) -> Iterator[Sequence]:
    """The prompts of a batch; nothing of them is a target."""
    for row, (ids, mask) in enumerate(zip(batch["tokens"], batch["mask"], strict=True)):
        if not mask.any():
            raise UserError(f"prompt {row} of a batch has an empty mask: no token of it is read; check the sources.")
        yield Sequence(ids[mask], np.zeros(int(mask.sum()), np.bool_), ends=False)


def _check_sequence(sequence: Sequence, tokenizer: ChatTokenizer) -> None:
    ids, bos = sequence.ids, tokenizer.tokenizer.bos_token_id
    name = lambda token: repr(tokenizer.tokenizer.convert_ids_to_tokens(int(token)))
    twice = lambda token: (ids[1:] == token) & (ids[:-1] == token)
    if tokenizer.pad_id in tokenizer.eos_ids and twice(tokenizer.pad_id).any():
        raise UserError(
            f"padding is {name(tokenizer.pad_id)}, which is also EOS, and the mask counts it: the model would learn "
            "from padding; pad with another token, or leave padding out by the mask."
        )
    # Where BOS is EOS too, the end of one turn may meet the beginning of the next.
    doubled = twice(bos)[: 1 if bos in tokenizer.eos_ids else None]
    if bos is not None and doubled.any():
        raise UserError(
            f"double BOS: {name(bos)} stands twice in a row ({mark(sequence, tokenizer)[:80]!r}); the chat template "
            "writes one and the tokenizer adds one, so encode without special tokens."
        )
    stops = np.flatnonzero(np.diff(sequence.targets.astype(np.int8), append=0) == -1)
    whole = stops if sequence.ends else stops[stops < len(ids) - 1]
    missing = [token for token in ids[whole] if token not in tokenizer.eos_ids]
    if missing:
        raise UserError(
            f"what is marked ends with {name(missing[0])} and not with EOS "
            f"({', '.join(map(name, tokenizer.eos_ids))}), so stopping would not be learned; check the chat template "
            f"and the mask ({mark(sequence, tokenizer)[-80:]!r})."
        )
