"""Records made into token lists that fit a given length, with counts of what had to be cut or dropped.

Each function returns the fitting lists and counts that add up to the number of
records, so that nothing is lost unseen.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from icegrt_jax.data.packing import Example
from icegrt_jax.data.records import Instruction, Messages, Prompt, Ranking, Record, Text, naming
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.errors import UserError

ROUGHLY = 4  # times what the longest tokens reach: from there on a prompt's beginning changes nothing of its end


def refuse_other_tokenizer(records: Any, tokenizer: ChatTokenizer) -> None:
    """Refuses records that were stored with the ids of another tokenizer (`token_store.Stored`)."""
    made_by = getattr(records, "made_by", None)
    if made_by is not None and made_by != tokenizer.fingerprint:
        raise UserError(
            f"{records.folder}: tokenised with another tokenizer or chat template than the one that reads it; build it"
            " again with this one: icegrt data build --config=... or --tokenizer=..."
        )


def encoded(record: Record, tokenizer: ChatTokenizer, k: int | None = None) -> list:
    """What the tokenizer makes of a record, or made of it when it was stored; an error names the record.

    Args:
      k: of a ranking the first k answers; None: all.

    Returns:
      (ids, targets) of each example of a conversation; (ids, place of its first token) of each answer of a ranking;
      the ids of a prompt or text.
    """
    if record.encoded:
        return record.encoded[:k]
    with naming(record):
        if isinstance(record, Instruction):
            return tokenizer.encode_examples(record.messages)
        if isinstance(record, Ranking):
            return [tokenizer.encode_answer(record.prompt, answer) for answer in record.responses[:k]]
        if isinstance(record, Prompt):
            return tokenizer.encode_prompt(record.prompt)
        return tokenizer.encode_document(record.text)


def fit_examples(
    records: Sequence[Instruction | Text], tokenizer: ChatTokenizer, length: int, overlong: str
) -> tuple[list[Example], dict[str, int]]:
    """Training examples of at most `length` tokens.

    Counts records: kept whole; cut at the end; dropped, for being too long or for having
    nothing to learn within the length; split into several examples, which happens to long plain
    texts and to conversations whose template rewrites earlier turns.
    """
    refuse_other_tokenizer(records, tokenizer)
    examples, counts = [], Counter(kept=0, cut=0, dropped=0, split=0)
    for record in records:
        if isinstance(record, Text):
            pieces = _split([*encoded(record, tokenizer), tokenizer.eos_id], length)
            examples += [Example(piece, [True] * len(piece)) for piece in pieces]
            counts["kept" if len(pieces) == 1 else "split"] += 1
            continue
        whole = encoded(record, tokenizer)
        fitting = [Example(ids[:length], mask[:length]) for ids, mask in whole if any(mask[:length])]
        too_long = any(len(ids) > length for ids, _ in whole)
        if not fitting or (too_long and overlong == "drop"):
            counts["dropped"] += 1
            continue
        examples += fitting
        counts["cut" if too_long else "kept" if len(whole) == 1 else "split"] += 1
    return examples, dict(counts)


def encode_prompt(record: Prompt, tokenizer: ChatTokenizer) -> list[int]:
    """Prompt ids; an error names the record."""
    return encoded(record, tokenizer)


def fit_prompts(
    records: Sequence[Prompt], tokenizer: ChatTokenizer, length: int, overlong: str, offset: int = 0
) -> tuple[list[tuple[int, list[int]]], dict[str, int]]:
    """(index of the record plus `offset`, prompt ids); at most `length` ids unless overlong is "keep".

    Counts records: kept, those longer than `length` among them as over; cut; dropped.
    """
    refuse_other_tokenizer(records, tokenizer)
    rows, counts = [], Counter(kept=0, over=0, cut=0, dropped=0)
    for index, record in enumerate(records, start=offset):
        prompt, ids = record.prompt, record.encoded
        if not ids and overlong != "keep":
            with naming(record):
                prompt, ids = _roughly_cut(prompt, tokenizer, length)
        ids = ids or encode_prompt(record, tokenizer)
        outcome = "kept"
        if len(ids) > length and overlong == "keep":
            counts["over"] += 1
        elif len(ids) > length:
            shorter = cut_prompt(prompt, tokenizer, length) if overlong == "cut" else ()
            ids = tokenizer.encode_prompt(shorter) if shorter else []
            outcome = "cut" if ids else "dropped"
        counts[outcome] += 1
        if ids:
            rows.append((index, ids))
    return rows, dict(counts)


def fit_answers(
    prompts: Sequence[Messages], answers: Sequence[str], finished: Sequence[bool], tokenizer: ChatTokenizer, length: int
) -> tuple[list[list[int]], int]:
    """Ids of each prompt with its answer, of at most `length` tokens, and how many lost their end to be so.

    Unfinished answers (cut off before an EOS) are not ended here either; see `ChatTokenizer.encode_answer`.
    """
    rows = [
        tokenizer.encode_answer(prompt, answer, finished=bool(ended))[0]
        for prompt, answer, ended in zip(prompts, answers, finished, strict=True)
    ]
    return [ids[:length] for ids in rows], sum(len(ids) > length for ids in rows)


class Ranked(NamedTuple):
    """ids: of prompt and answer. rank: 1 is best. start: index of the answer's first token."""

    ids: list[int]
    rank: float
    start: int


def fit_rankings(
    records: Sequence[Ranking], tokenizer: ChatTokenizer, length: int, k: int, overlong: str
) -> tuple[list[list[Ranked]], dict[str, int]]:
    """For each record at most `k` answers; ranks are 1, 2, 3, ...

    Counts records: kept; dropped, for having fewer than two answers that fit; tied, left out
    because all answers share a rank and nothing can be compared; identical, left out because all
    that could be compared are the same ids. Counts answers: all of them, cut, too long, and beyond
    the first `k`. Counts pairs of answers that are ranked apart and are the same ids: such a pair teaches
    and measures nothing (see `rl.ranking`), whether texts, the template or a cut made it so.
    """
    refuse_other_tokenizer(records, tokenizer)
    rows = []
    counts = Counter(
        kept=0, dropped=0, tied=0, identical=0,
        answers=0, answers_cut=0, answers_dropped=0, answers_beyond_k=0, pairs_identical=0,
    )  # fmt: skip
    for record in records:
        counts["answers"] += len(record.responses)
        counts["answers_beyond_k"] += max(0, len(record.responses) - k)
        row = []
        for (ids, start), rank in zip(encoded(record, tokenizer, k), record.ranks):
            if len(ids) > length and (overlong == "drop" or start >= length):
                counts["answers_dropped"] += 1
                continue
            counts["answers_cut"] += len(ids) > length
            row.append(Ranked(ids[:length], rank, start))
        pairs = [a.ids == b.ids for a, b in itertools.combinations(row, 2) if a.rank != b.rank]
        counts["pairs_identical"] += sum(pairs)
        outcome = "dropped" if len(row) < 2 else "tied" if not pairs else "identical" if all(pairs) else "kept"
        counts[outcome] += 1
        if outcome == "kept":
            # Only the order counts, and float32 would make large or close ranks equal.
            places = {rank: place for place, rank in enumerate(sorted({answer.rank for answer in row}), start=1)}
            rows.append([answer._replace(rank=float(places[answer.rank])) for answer in row])
    return rows, dict(counts)


def token_counts(record: Record, tokenizer: ChatTokenizer) -> list[int]:
    """Tokens of a record as a stage would read it: of each example, answer with its prompt, prompt or text."""
    ids = encoded(record, tokenizer)
    if isinstance(record, Instruction | Ranking):
        return [len(part) for part, _ in ids]
    return [len(ids) + isinstance(record, Text)]  # a text is followed by EOS


def _split(ids: list[int], length: int) -> list[list[int]]:
    """Pieces of at most `length`; each starts with the last token of the one before.

    The first token of a row is never a target, so every token but the text's first is one exactly once.
    """
    return [ids[start : start + length] for start in range(0, max(len(ids) - 1, 1), length - 1)]


def _roughly_cut(messages: Messages, tokenizer: ChatTokenizer, length: int) -> tuple[Messages, list[int]]:
    """The prompt without what no cut could leave of its last message, and its ids, which are still too many.

    As it is, and [], where that is not told so easily. A prompt of a million words need not be encoded.
    """
    *earlier, last = messages
    reached = last["content"][-ROUGHLY * length * tokenizer.longest_token :]
    if len(reached) < len(last["content"]):
        shorter = (*earlier, {**last, "content": reached.partition(" ")[2].strip() or reached})
        if len(ids := tokenizer.encode_prompt(shorter)) > length:
            return shorter, ids
    return messages, []


def cut_prompt(messages: Messages, tokenizer: ChatTokenizer, length: int) -> Messages:
    """The prompt with the beginning of its last message left out, of at most `length` ids.

    As it is where it fits; () where leaving out all but a last word is not enough.
    """
    messages, ids = _roughly_cut(messages, tokenizer, length)
    *earlier, last = messages
    content = tokenizer.encode_text(last["content"])
    size = len(ids or tokenizer.encode_prompt(messages))
    # Tokenising what is left again may give a token more at the cut, hence the loop.
    while size > length:
        content = content[size - length :]
        # A cut inside a character leaves its tail bytes, decoded as U+FFFD.
        text = tokenizer.decode(content).lstrip("\ufffd")
        if not text.strip():
            return ()
        messages = (*earlier, {**last, "content": text})
        size = len(tokenizer.encode_prompt(messages))
    return messages
