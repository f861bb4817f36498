"""Token ids of a conversation and the mask of what the assistant said in it, from the tokenizer's chat template.

The mask is found by rendering prefixes: the conversation before an assistant's
turn, with the generation prompt, is what the model is given at sampling time, so
everything after it up to and including the end-of-turn token is what it has to
produce. Template markers are never tokenised with extra special tokens, so a
template's own BOS isn't doubled.

Some templates write an earlier turn differently from the last one (Qwen 3 leaves
out its <think> part). What stands in the conversation is then not what would have
been sampled, so such a turn is no target there; it becomes an example of its own,
cut off after it.
"""

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from icegrt_jax.errors import UserError

Tokens = tuple[list[int], list[bool]]  # ids, and for each whether the assistant has to produce it


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict], *, generate: bool) -> str:
    """The conversation as text; `generate` adds what comes before the assistant's next words."""
    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generate)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"the chat template refuses a conversation of the roles {roles} ({error}); change the record to what the"
            " template knows (many know no system role and want user and assistant in turn), or leave it out."
        ) from error


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text as it stands, nothing added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict], end_ids: Sequence[int]
) -> Tokens:
    """The whole conversation; its mask has every assistant's turn that stands there as it would be sampled.

    Args:
      messages: any number of turns, the last of which is the assistant's.
      end_ids: tokens that end an assistant's turn; the first one found is part of the mask.

    Returns:
      ids, cut after the last end token (some templates add a line break), and the mask.
    """
    return encode_examples(tokenizer, messages, end_ids)[0]


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict], end_ids: Sequence[int]
) -> list[Tokens]:
    """What to train on so that every assistant's turn is learned once, as it would be sampled.

    Args as for `encode_conversation`, whose result comes first. Where the template writes an earlier turn
    differently, the conversation up to that turn follows, its mask on that turn only.
    """
    turns = [
        _last_turn(tokenizer, messages[: i + 1], end_ids)
        for i, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    whole, _ = turns[-1]
    mask, rewritten = [False] * len(whole), []
    for ids, start in turns:
        if whole[: len(ids)] == ids:
            mask[start : len(ids)] = [True] * (len(ids) - start)
        else:
            rewritten.append((ids, [i >= start for i in range(len(ids))]))
    return [(whole, mask), *rewritten]


def _last_turn(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict], end_ids: Sequence[int]
) -> tuple[list[int], int]:
    """Ids up to the end of the last message, which is the assistant's, and the index of its first token."""
    if len(messages) == 1:
        raise UserError(
            "the chat template has nothing in front of the assistant's first words; begin with a user message."
        )
    text, prefix = render(tokenizer, messages, generate=False), render(tokenizer, messages[:-1], generate=True)
    if not text.startswith(prefix):
        raise UserError(
            "the chat template rewrites earlier turns when the answer is added (the conversation does not start with"
            f" {prefix[-60:]!r}), so the assistant's tokens cannot be found; use a template that only appends."
        )
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, prefix_ids = encoding["input_ids"], tokenize(tokenizer, prefix)
    if ids[: len(prefix_ids)] == prefix_ids:
        start = len(prefix_ids)
    else:
        # The answer's first characters merged with the end of the generation prompt:
        # take the first token that reaches past it.
        start = next(j for j, (_, end) in enumerate(encoding["offset_mapping"]) if end > len(prefix))
    stop = next((j + 1 for j in range(start, len(ids)) if ids[j] in end_ids), None)
    if stop is None:
        raise UserError(
            "the chat template ends an assistant's turn without an end-of-turn token, so stopping cannot be"
            " learned; use a template that writes the tokenizer's EOS there."
        )
    return ids[:stop], start
