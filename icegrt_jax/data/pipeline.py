"""Batches for the stages: weighted mixtures of sources, addressed by step.

`batches[step]` is a pure function of the seed and the step, so a run resumes by
asking for the next step. Batches are cut from one global stream, whatever the
number of hosts: each host lays out its own rows of a batch.

The three builders share their first arguments: `sources`, {name: records},
and `weights`, {name: share of the batches}; and the last, `share`, what this host
does of it. Each tokenises its records once, up front, with several hosts each a
part of them; what was cut or dropped on the way is counted in `.report`.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from icegrt_jax.data import encode, losses
from icegrt_jax.data.host_share import WHOLE, OwnRows, Share, in_shares
from icegrt_jax.data.packing import left_pad, one_per_row, pack, right_pad
from icegrt_jax.data.records import Instruction, Prompt, Ranking, Text
from icegrt_jax.data.sequences import Epochs, Examples, Turns
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.data.trees import arrays as tree_arrays
from icegrt_jax.data.trees import tree_of
from icegrt_jax.data.trees import widths_of as tree_widths
from icegrt_jax.errors import UserError

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Batches:
    """An endless run of batches, random access by step.

    Attributes:
      dataset: this host's part of batch `step` at index `step`; Grain's own tools
        (prefetching, `to_iter_dataset`) work on it.
      report: {source: {count name: count}} of what was kept, cut and dropped.
    """

    dataset: grain.MapDataset
    report: dict[str, dict[str, int]]

    def __getitem__(self, step: int) -> Batch:
        return self.dataset[step]


def mixture(datasets: Mapping[str, Sequence[Any]], weights: Mapping[str, float], seed: int) -> grain.MapDataset:
    """An endless stream of elements, each source with its share, shuffled anew every epoch of its own.

    A source's order depends on the seed and its name only, so adding another
    source doesn't reshuffle it.
    """
    check_weights(datasets, weights)
    names = [name for name in datasets if weights[name] > 0]
    streams = []
    for name in names:
        if not datasets[name]:
            raise UserError(
                f"source {name!r} has weight {weights[name]} and nothing in it; set its weight to 0 or fill it."
            )
        streams.append(grain.MapDataset.source(Epochs(datasets[name], [seed, zlib.crc32(name.encode())])))
    return grain.MapDataset.mix(streams, [weights[name] for name in names])


def sft_batches(
    sources: Mapping[str, Sequence[Instruction | Text]],
    weights: Mapping[str, float],
    tokenizer: ChatTokenizer,
    *,
    batch_size: int,
    length: int,
    seed: int,
    packing: bool = True,
    overlong: str = "drop",
    share: Share = WHOLE,
) -> Batches:
    """Rows for supervised training; the loss is on what the assistant says, or on all of a plain text.

    Each source is shuffled and packed once, before the first step: which examples
    share a row is fixed, the order of the rows changes every epoch. Rows are nearly
    full and of one source, so the weights are shares of tokens; without packing
    they are shares of examples.

    Args:
      length: L, tokens in a row.
      packing: several examples to a row, else one.
      overlong: conversations of more than L tokens are left out ("drop") or lose their end
        ("cut"). Plain texts are split over several rows instead.

    Returns:
      Batches of tokens i32[B, L], segment_ids i32[B, L] (0 is padding), positions i32[B, L]
      and loss_mask bool[B, L] (True where the token is a target).
    """
    _check_choice("overlong", overlong, ("drop", "cut"))
    if length < 2:
        raise UserError(f"length={length}; a row needs 2 tokens or more, one to predict from the other.")
    rows, report = {}, {}
    for name, records in sources.items():
        encode.refuse_other_tokenizer(records, tokenizer)
        fit = lambda part, _: encode.fit_examples(part, tokenizer, length, overlong)
        fitting, sizes, counts = in_shares(fit, records, share, name, _example_sizes)
        # NumPy reads a missing number as 0: without the last one this were the order of the rows in epoch 0.
        order = np.random.default_rng([seed, zlib.crc32(name.encode()), 0, 1]).permutation(len(fitting))
        lay_out_all = pack if packing else one_per_row
        rows[name] = lay_out_all(Examples(fitting), length, tokenizer.pad_id, sizes=sizes[:, 0], order=order)
        report[name] = {
            "records": len(records),
            **counts,
            "rows": len(rows[name]),
            "tokens": int(sizes[:, 0].sum()),
            "targets": int(sizes[:, 1].sum()),
        }
        _check_left(name, weights, rows[name], report[name], f"{length} tokens")
    return Batches(_batched(mixture(rows, weights, seed), batch_size, _stack, share), report)


def prompt_batches(
    sources: Mapping[str, Sequence[Prompt]],
    weights: Mapping[str, float],
    tokenizer: ChatTokenizer,
    *,
    batch_size: int,
    max_prompt_length: int,
    seed: int,
    overlong: str = "drop",
    share: Share = WHOLE,
) -> Batches:
    """Left-padded prompts for sampling.

    Args:
      max_prompt_length: P.
      overlong: prompts of more than P tokens are left out ("drop"); lose the beginning of the
        last user message, the template kept whole ("cut", or left out where that is not
        enough); or make P as long as the longest of them ("keep").

    Returns:
      Batches of tokens i32[B, P], mask bool[B, P] and index i32[B], the record's place in the
      lists of `sources` put one after the other.
    """
    _check_choice("overlong", overlong, ("drop", "cut", "keep"))
    fitted, report, offset, longest = {}, {}, 0, 0
    for name, records in sources.items():
        encode.refuse_other_tokenizer(records, tokenizer)
        fit = lambda part, start, offset=offset: encode.fit_prompts(
            part, tokenizer, max_prompt_length, overlong, offset + start
        )
        fitted[name], sizes, counts = in_shares(fit, records, share, name, lambda row: [len(row[1])])
        report[name] = {"records": len(records), **counts, "tokens": int(sizes.sum())}
        longest = max(longest, int(sizes.max(initial=0)))
        _check_left(name, weights, fitted[name], report[name], f"{max_prompt_length} tokens")
        offset += len(records)
    width = max(longest, max_prompt_length)

    def collate(rows: Sequence[tuple[int, list[int]]]) -> Batch:
        tokens, mask = left_pad([ids for _, ids in rows], width, tokenizer.pad_id)
        return {"tokens": tokens, "mask": mask, "index": np.array([index for index, _ in rows], np.int32)}

    return Batches(_batched(mixture(fitted, weights, seed), batch_size, collate, share), report)


def ranking_batches(
    sources: Mapping[str, Sequence[Ranking]],
    weights: Mapping[str, float],
    tokenizer: ChatTokenizer,
    *,
    batch_size: int,
    length: int,
    seed: int,
    k: int = 0,
    overlong: str = "drop",
    starts: bool = False,
    trees: bool = False,
    more_seeds: Sequence[int] = (),
    share: Share = WHOLE,
) -> Batches:
    """Prompts with their ranked answers, each answer as the whole conversation, right-padded.

    Args:
      batch_size: B, prompts in a batch.
      length: L, tokens of prompt and answer.
      k: K, answers for each prompt; 0 is the most that any record has. Of a longer list the
        first K are kept.
      overlong: answers that make more than L tokens are left out ("drop") or lose their end,
        EOS included ("cut"). A record left without two answers that differ in ids and rank is left out.
      starts: batches have start i32[B, K] as well, the index of each answer's first token.
      trees: a prompt and its answers are one row, what they begin with alike once (`data.trees`), where the rows of a
        batch are then short enough: at most twice as many pairs of tokens as the padded answers have. Not with
        `starts`, and not on several hosts, which would have to agree on the width.
      more_seeds: of further orders: batches have M times the rows, one of each order by turns.

    Returns:
      Batches of tokens i32[B, K, L], mask bool[B, K, L], last i32[B, K] (index of the last
      token), ranks f32[B, K] (1 is best, then 2, 3, ...) and valid bool[B, K]. Places past a record's last
      answer repeat its first one, so that no row is empty, and aren't valid. Of trees tokens, positions, ends i32[B, W]
      and mask bool[B, W] in the place of tokens and mask, W one of a few widths.
    """
    _check_choice("overlong", overlong, ("drop", "cut"))
    k = k or max((len(r.responses) for records in sources.values() for r in records), default=0)
    fitted, report = {}, {}
    for name, records in sources.items():
        encode.refuse_other_tokenizer(records, tokenizer)
        fit = lambda part, _: encode.fit_rankings(part, tokenizer, length, k, overlong)
        tokens = lambda row: [sum(len(ids) for ids, *_ in row)]
        fitted[name], sizes, counts = in_shares(fit, records, share, name, tokens)
        report[name] = {"records": len(records), **counts, "tokens": int(sizes.sum())}
        _check_left(name, weights, fitted[name], report[name], f"{length} tokens")

    # So wide that attention has at most twice as many pairs of tokens as over K rows of L; all else has fewer tokens.
    widths = tree_widths(int((2 * k) ** 0.5 * length)) if trees and not starts and share.count == 1 else []
    collate = functools.partial(ranked_rows, k=k, length=length, pad_id=tokenizer.pad_id, starts=starts, widths=widths)
    orders = [mixture(fitted, weights, order) for order in (seed, *more_seeds)]
    stream = orders[0] if len(orders) == 1 else grain.MapDataset.source(Turns(orders))
    return Batches(_batched(stream, batch_size * len(orders), collate, share), report)


def ranked_rows(
    rows: Sequence[list[encode.Ranked]], *, k: int, length: int, pad_id: int, starts: bool, widths: Sequence[int]
) -> Batch:
    """A batch of `ranking_batches` of fitted records, trees where one of `widths` holds them."""
    full = [row + [row[0]] * (k - len(row)) for row in rows]
    batch = {
        "ranks": np.array([[rank for _, rank, _ in row] for row in full], np.float32),
        "valid": np.array([[j < len(row) for j in range(k)] for row in rows], np.bool_),
    }
    if widths:
        laid_out = [tree_of([ids for ids, *_ in row]) for row in full]
        longest = max(len(tree.tokens) for tree, _ in laid_out)
        if width := next((width for width in widths if width >= longest), 0):
            last = np.array([last for _, last in laid_out], np.int32)
            return batch | tree_arrays([tree for tree, _ in laid_out], width, pad_id) | {"last": last}
    tokens, mask = right_pad([ids for row in full for ids, *_ in row], length, pad_id)
    shape = (len(rows), k)
    if starts:
        batch["start"] = np.array([[start for *_, start in row] for row in full], np.int32)
    return batch | {
        "tokens": tokens.reshape(*shape, length),
        "mask": mask.reshape(*shape, length),
        "last": mask.sum(axis=-1, dtype=np.int32).reshape(shape) - 1,
    }


def _example_sizes(example: Sequence[Any]) -> list[int]:
    """Tokens, and targets; the first token never is one."""
    ids, mask = example
    return [len(ids), sum(mask[1:])]


def _batched(
    stream: grain.MapDataset, batch_size: int, collate: Callable[[Sequence[Any]], Batch], share: Share
) -> grain.MapDataset:
    """This host's rows of each global batch."""
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}; expected 1 or more.")
    return grain.MapDataset.source(OwnRows(stream, batch_size, share.rows(batch_size), collate))


def _stack(rows: Sequence[Batch]) -> Batch:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def check_weights(datasets: Mapping[str, Any], weights: Mapping[str, float]) -> None:
    """Refuses weights that are not of these sources, are no shares, or are all 0."""
    if set(datasets) != set(weights):
        raise UserError(f"weights are given for {sorted(weights)}, sources are {sorted(datasets)}; name the same ones.")
    wrong = [name for name, weight in weights.items() if not 0 <= weight < math.inf]
    if wrong:
        raise UserError(f"weight of source {wrong[0]!r} is {weights[wrong[0]]}; expected a number of 0 or more.")
    if not any(weights.values()):
        raise UserError("all weights are 0 or there is no source; give one source a weight above 0.")


def _check_left(name: str, weights: Mapping[str, float], rows: Sequence[Any], counts: dict, length: str) -> None:
    """Refuses a source of which nothing is left to be drawn, and says why."""
    if not rows and counts["records"] and weights.get(name):
        raise UserError(
            f"source {name!r} has weight {weights[name]} and nothing in it: of its {counts['records']} records "
            f"{losses.reasons(counts, length)}; set its weight to 0, fill it or allow more tokens."
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name}={value!r}; expected one of {', '.join(choices)}.")
