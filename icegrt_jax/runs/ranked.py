"""Rankings as a reward model scores them, whatever their lengths."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from icegrt_jax.data.encode import encoded, refuse_other_tokenizer
from icegrt_jax.data.packing import right_pad
from icegrt_jax.data.records import Ranking
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation.rankings import Scored
from icegrt_jax.models.api import Model
from icegrt_jax.runs.scoring import mean_scores, scores_of
from icegrt_jax.sampling.generate import BUCKET
from icegrt_jax.training.preemption import stop_if_asked


def score_rankings(
    model: Model, records: Sequence[Ranking], length: int, batch_size: int
) -> tuple[Scored, dict[str, int]]:
    """The rankings with their scores, and counts of what was read.

    Args:
      length: tokens of prompt and answer at most; what is longer loses its end. An answer of which nothing would be
        read is left out, and a record that is left with less than two.
      batch_size: answers scored at a time.
    """
    refuse_other_tokenizer(records, model.tokenizer)
    counts = Counter(records=len(records), dropped=0, answers=0, cut=0)
    kept, rows = [], []
    for record in records:
        places = [
            (place, ids, start)
            for place, (ids, start) in enumerate(encoded(record, model.tokenizer))
            if len(ids) <= length or start < length
        ]
        if len(places) < 2:
            counts["dropped"] += 1
            continue
        counts["answers"] += len(places)
        counts["cut"] += sum(len(ids) > length for _, ids, _ in places)
        kept.append((record, places))
        rows += [ids[:length] for _, ids, _ in places]
    if not kept:
        raise UserError(f"none of {len(records)} records fits into {length} tokens; give a larger --length.")
    return _laid_out(kept, rows, _scores(model, rows, batch_size)), dict(counts)


def _laid_out(kept: list[tuple], rows: list[list[int]], scores: np.ndarray) -> Scored:
    """What was read of each record, and the scores of all its answers, as rectangles."""
    shape = len(kept), max(len(record.ranks) for record, _ in kept)
    floats, ranks = np.zeros(shape), np.zeros(shape)
    valid: np.ndarray = np.zeros(shape, np.bool_)
    lengths: np.ndarray = np.zeros(shape, np.int64)
    same: np.ndarray = np.zeros((*shape, shape[1]), np.bool_)
    first = 0
    for row, (record, places) in enumerate(kept):
        own = rows[first : first + len(places)]
        for i, (place, ids, start) in enumerate(places):
            floats[row, place], ranks[row, place] = scores[first + i], record.ranks[place]
            valid[row, place], lengths[row, place] = True, len(ids) - start
            for j, (other, _, _) in enumerate(places):
                same[row, place, other] = own[i] == own[j]
        first += len(places)
    return Scored(floats, ranks, valid, lengths, same, [record.meta for record, _ in kept])


def _scores(model: Model, rows: list[list[int]], batch_size: int) -> np.ndarray:
    """f64[N]; rows of like length together, so that little is padded."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    scores = np.zeros(len(rows))
    for begin in range(0, len(rows), batch_size):
        stop_if_asked()
        places = order[begin : begin + batch_size]
        batch = [rows[i] for i in places]
        batch += [batch[-1]] * (batch_size - len(batch))
        tokens, mask = right_pad(batch, width_of(len(batch[-1])), model.tokenizer.pad_id)
        scores[places] = mean_scores(scores_of(model.params, model.config, tokens, mask, batch_size)[: len(places)])
    return scores


def width_of(longest: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, ... times BUCKET: few widths, few programs."""
    need, width = -(-longest // BUCKET), 1
    while width < need:
        half_more = width * 3 // 2
        width = half_more if width > 1 and half_more >= need and width & (width - 1) == 0 else width * 2
    return width * BUCKET
