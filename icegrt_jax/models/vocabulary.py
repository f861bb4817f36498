"""Whether ids are in a model's embedding. Looked up outside it they are NaN or another token, without a word."""

from typing import Any

import numpy as np

from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.errors import UserError


def check_tokenizer(tokenizer: ChatTokenizer, rows: int, name: str) -> None:
    """Refuses a tokenizer that gives ids which an embedding of `rows` does not have; `name` says whose it is.

    More rows than ids are usual. Ids beyond the rows may only be those of special tokens that never occur: that the
    chat template does not write, and that neither end nor pad a response.
    """
    if tokenizer.vocab_size <= rows:
        return
    outside = {i: token for token, i in tokenizer.tokenizer.get_vocab().items() if i >= rows}
    occurring = outside.keys() - _never(tokenizer)
    if occurring:
        first = min(occurring)
        raise UserError(
            f"{name}: the tokenizer has {tokenizer.vocab_size} ids, the embedding {rows} rows; they do not belong "
            f"together: {outside[first]!r} is id {first}."
        )


def _never(tokenizer: ChatTokenizer) -> set[int]:
    """Ids of special tokens that no prompt, conversation or response holds; messages that hold one are refused."""
    added = tokenizer.tokenizer.added_tokens_decoder.items()
    special = {i for i, token in added if token.special}
    question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    written = {*tokenizer.encode_prompt([question]), *tokenizer.encode_conversation([question, answer])[0]}
    return special - written - {*tokenizer.eos_ids, tokenizer.pad_id}


def check_ids(ids: Any, rows: int, name: str) -> None:
    """Refuses ids, an array of any shape on the host or a list, that are not of the `rows` of an embedding."""
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise UserError(f"{name}: token ids of type {ids.dtype}; expected integers.")
    wrong = np.argwhere((ids < 0) | (ids >= rows))
    if len(wrong):
        place = tuple(int(i) for i in wrong[0])
        where = ", ".join(map(str, place))
        raise UserError(
            f"{name}: token id {int(ids[place])} at [{where}]; the model has ids 0 to {rows - 1}, and padding is "
            "told by the mask, not by an id of its own."
        )
