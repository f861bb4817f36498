"""Stop strings inside the compiled sampler: which token completes one, however it is cut into tokens.

An automaton of Aho and Corasick (1975, https://doi.org/10.1145/360825.360855) over the bytes of all strings, and from
it a table from state and token to the state after the token.
"""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

BYTES = 256
NO_TEXT = b"\xff"  # in no text
STATES = 16  # a table has a multiple of them, so that different strings share a compiled program


def token_texts(tokenizer: PreTrainedTokenizerBase, count: int) -> list[bytes]:
    """What each of the ids 0, …, count - 1 writes behind other text, control tokens as they are called.

    A part of a character is no text of its own: nothing is found in it.
    """
    lead = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    known = min(count, len(tokenizer))
    rows = [lead, *([*lead, i] for i in range(known))]
    first, *texts = tokenizer.batch_decode(rows, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    written = [text.removeprefix(first).encode().replace("\ufffd".encode(), NO_TEXT) for text in texts]
    return written + [b""] * (count - known)


def table(texts: Sequence[bytes], stops: Sequence[str]) -> np.ndarray:
    """i32[S, V], the state after a token of these texts; from 0 on, and the last one once a string has been written."""
    step = _automaton([stop.encode() for stop in stops])
    found = len(step) - 1
    rows = -(-len(step) // STATES) * STATES
    longest_first = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    lengths = np.array([len(texts[i]) for i in longest_first])
    padded: np.ndarray = np.zeros((len(texts), int(lengths.max(initial=0))), np.uint8)
    for row, i in enumerate(longest_first):
        padded[row, : len(texts[i])] = np.frombuffer(texts[i], np.uint8)
    states = np.tile(np.arange(len(step), dtype=np.int32)[:, None], (1, len(texts)))  # [S, V]
    for place in range(padded.shape[1]):
        longer = int(np.searchsorted(-lengths, -place, side="left"))  # tokens that have a byte there
        states[:, :longer] = step[states[:, :longer], padded[None, :longer, place]]
    # States that are not in use lie between, so that the last row is the one of what has been found.
    out: np.ndarray = np.zeros((rows, len(texts)), np.int32)
    out[:found][:, longest_first] = np.where(states[:found] == found, rows - 1, states[:found])
    out[rows - 1] = rows - 1
    return out


def cut(text: str, stops: Sequence[str]) -> str:
    """The text up to the first stop string; an empty one stops nothing."""
    for stop in filter(None, stops):
        text = text.partition(stop)[0]
    return text


def _automaton(strings: Sequence[bytes]) -> np.ndarray:
    """i32[S, 256], the state after a byte; the last one, of a string that has been found, is never left."""
    children: list[dict[int, int]] = [{}]
    ends = [False]
    for string in filter(None, strings):
        state = 0
        for byte in string:
            if byte not in children[state]:
                children[state][byte] = len(children)
                children.append({})
                ends.append(False)
            state = children[state][byte]
        ends[state] = True
    step: np.ndarray = np.zeros((len(children) + 1, BYTES), np.int32)
    fallback = [0] * len(children)
    queue = [0]
    for state in queue:  # grows: by length, so that what a state falls back to has been done
        if state:
            step[state] = step[fallback[state]]
        for byte, child in children[state].items():
            fallback[child] = int(step[fallback[state], byte]) if state else 0
            ends[child] |= ends[fallback[child]]
            step[state, byte] = child
            queue.append(child)
    found = len(children)
    over = np.array([*ends, True])
    step[over] = found
    return np.where(over[step], found, step)
