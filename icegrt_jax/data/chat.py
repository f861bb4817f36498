"""Token ids of a conversation and the mask of what the assistant said in it, from the tokenizer's chat template.

The mask is found by rendering prefixes: the conversation before an assistant's
turn, with the generation prompt, is what the model is given at sampling time, so
everything after it up to and including the end-of-turn token is what it has to
produce. Template markers are never tokenised with extra special tokens, so a
template's own BOS isn't doubled.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from icegrt_jax.errors import UserError


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict], *, generate: bool) -> str:
    """The conversation as text; `generate` adds what comes before the assistant's next words."""
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generate)


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text as it stands, nothing added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict], end_ids: Sequence[int]
) -> tuple[list[int], list[bool]]:
    """Ids of a conversation and, for each, whether the assistant has to produce it.

    Args:
      messages: any number of turns, the last of which is the assistant's.
      end_ids: tokens that end an assistant's turn; the first one found is part of the mask.

    Returns:
      ids, cut after the last end token (some templates add a line break), and the mask.
    """
    text = render(tokenizer, messages, generate=False)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    mask = [False] * len(ids)
    stop = 0
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start = _first_token(tokenizer, text, ids, offsets, messages[:i])
        stop = next((j + 1 for j in range(start, len(ids)) if ids[j] in end_ids), 0)
        if not stop:
            raise UserError(
                "the chat template ends an assistant's turn without an end-of-turn token, so stopping cannot be"
                " learned; use a template that writes the tokenizer's EOS there."
            )
        mask[start:stop] = [True] * (stop - start)
    return ids[:stop], mask[:stop]


def _first_token(
    tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int], offsets: list, before: Sequence[dict]
) -> int:
    """Index of the first token of the assistant's turn that follows the messages `before`."""
    prefix = render(tokenizer, before, generate=True)
    if not text.startswith(prefix):
        raise UserError(
            "the chat template rewrites earlier turns when a later one is added (the conversation does not start with"
            f" {prefix[-60:]!r}), so the assistant's tokens cannot be found; use a template that only appends."
        )
    prefix_ids = tokenize(tokenizer, prefix)
    if ids[: len(prefix_ids)] == prefix_ids:
        return len(prefix_ids)
    # The answer's first characters merged with the end of the generation prompt:
    # take the first token that reaches past it.
    return next(j for j, (_, end) in enumerate(offsets) if end > len(prefix))
