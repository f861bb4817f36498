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

import re
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
    text = render(tokenizer, messages, generate=False)
    ids, offsets = _encode(tokenizer, text)
    start, stop = _turn(tokenizer, text, ids, offsets, messages[:-1], end_ids)
    return ids[:stop], start


def encode_answer(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[dict],
    answer: str,
    end_ids: Sequence[int],
    control_tokens: Sequence[str],
    *,
    finished: bool,
) -> tuple[list[int], int]:
    """Ids of a prompt with a text that somebody, such as another model, has answered.

    A finished answer is what `encode_conversation` makes of it. An unfinished one ends with its own last
    token: neither the end-of-turn token follows it nor anything the template writes before that token.
    An answer without any text is the prompt, and the end-of-turn token if finished. Control tokens (of
    two characters or more) that are written out in the messages are encoded as the text they are, in two
    parts, so that they never make a turn.

    Returns:
      ids, and the index of the first token of the answer.
    """
    if not answer.strip():
        messages, separator = _taken_apart(prompt, control_tokens)
        ids, _ = _encode(tokenizer, render(tokenizer, messages, generate=True), separator)
        return ids + (list(end_ids[:1]) if finished else []), len(ids)
    messages, separator = _taken_apart((*prompt, {"role": "assistant", "content": answer}), control_tokens)
    text = render(tokenizer, messages, generate=False)
    ids, offsets = _encode(tokenizer, text, separator)
    start, stop = _turn(tokenizer, text, ids, offsets, messages[:-1], end_ids, separator)
    if finished:
        return ids[:stop], start
    # Encoded anew, as the answer may have merged with what stands before its end.
    text = text[: offsets[stop - 1][0]].removesuffix(_before_end(tokenizer, end_ids))
    ids, _ = _encode(tokenizer, text, separator)
    return ids, min(start, len(ids))


def _encode(
    tokenizer: PreTrainedTokenizerBase, text: str, separator: str = ""
) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of rendered text and the places they have in it; parts between separators are encoded each by itself."""
    ids, offsets, place = [], [], 0
    for part in text.split(separator) if separator else [text]:
        encoding = tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)
        ids += encoding["input_ids"]
        offsets += [(place + start, place + end) for start, end in encoding["offset_mapping"]]
        place += len(part) + len(separator)
    return ids, offsets


def _taken_apart(messages: Sequence[dict], control_tokens: Sequence[str]) -> tuple[list[dict], str]:
    """The messages with a separator inside each control token written out in them, and the separator, "" for none.

    The separator is a character of private use that is nowhere in the messages.
    """
    written = [token for token in control_tokens if any(token in message["content"] for message in messages)]
    if not written:
        return list(messages), ""
    used = {character for message in messages for character in message["content"]}
    separator = next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in used)
    # Behind the first character, wherever a control token starts: one may overlap with another.
    beginning = re.compile("|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in written))
    apart = lambda text: beginning.sub(lambda found: found[0] + separator, text)
    return [{**message, "content": apart(message["content"])} for message in messages], separator


def _turn(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    ids: list[int],
    offsets: list,
    before: Sequence[dict],
    end_ids: Sequence[int],
    separator: str = "",
) -> tuple[int, int]:
    """First token of the assistant's turn that follows the messages `before`, and the place after its end token."""
    start = _first_token(tokenizer, text, ids, offsets, before, separator)
    stop = next((j + 1 for j in range(start, len(ids)) if ids[j] in end_ids), 0)
    if not stop:
        raise UserError(
            "the chat template ends an assistant's turn without an end-of-turn token, so stopping cannot be"
            " learned; use a template that writes the tokenizer's EOS there."
        )
    return start, stop


def _first_token(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    ids: list[int],
    offsets: list,
    before: Sequence[dict],
    separator: str = "",
) -> int:
    """Index of the first token of the assistant's turn that follows the messages `before`."""
    prefix = render(tokenizer, before, generate=True)
    if not text.startswith(prefix):
        raise UserError(
            "the chat template rewrites earlier turns when the answer is added (the conversation does not start with"
            f" {prefix[-60:]!r}), so the assistant's tokens cannot be found; use a template that only appends."
        )
    prefix_ids, _ = _encode(tokenizer, prefix, separator)
    if ids[: len(prefix_ids)] == prefix_ids:
        return len(prefix_ids)
    # The answer's first characters merged with the end of the generation prompt:
    # take the first token that reaches past it.
    return next(j for j, (_, end) in enumerate(offsets) if end > len(prefix))


def _before_end(tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int]) -> str:
    """What the chat template writes between an answer and its end-of-turn token, mostly nothing."""
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    text = render(tokenizer, messages, generate=False)
    rest = text[text.rindex("answer") + len("answer") :]
    ids, offsets = _encode(tokenizer, rest)
    return next((rest[:start] for i, (start, _) in zip(ids, offsets) if i in end_ids), "")
