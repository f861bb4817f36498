"""Token ids of a conversation and the mask of what the assistant said in it, from the tokenizer's chat template.

The mask is found by rendering prefixes: the conversation before an assistant's
turn, with the generation prompt, is what the model is given at sampling time, so
everything after it up to and including the end-of-turn token is what it has to
produce. The ids of the two are made apart wherever a tokenizer would merge the
end of the one with the beginning of the other (a line break with a line break):
the sampler is never given such a token. Template markers are never tokenised with
extra special tokens, so a template's own BOS isn't doubled.

Some templates write an earlier turn differently from the last one (Qwen 3 leaves
out its <think> part). What stands in the conversation is then not what would have
been sampled, so such a turn is no target there; it becomes an example of its own,
cut off after it.
"""

import contextlib
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from icegrt_jax.data import beginnings, template
from icegrt_jax.data.beginnings import Beginnings, Places
from icegrt_jax.data.template import render
from icegrt_jax.errors import UserError

Tokens = tuple[list[int], list[bool]]  # ids, and for each whether the assistant has to produce it


class _Turn(NamedTuple):
    """A conversation whose last turn is the assistant's: text, of which the first `given` characters are the prompt.

    ids and their places in the text; start: index of the turn's first token; stop: the index after its end token.
    """

    text: str
    given: int
    ids: list[int]
    places: Places
    start: int
    stop: int


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text as it stands, nothing added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_conversation(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict], end_ids: Sequence[int]) -> Tokens:
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

    Args as for `encode_conversation`, whose result comes first. Where an earlier turn does not stand in it as it
    would be sampled, in words or in tokens, the conversation up to that turn follows, its mask on that turn only.
    """
    known, all_of_it = Beginnings(tokenizer), None
    with contextlib.suppress(UserError):  # of the turns, the first that the template refuses says so
        all_of_it = render(tokenizer, messages, generate=False)
        known.encode(all_of_it)
    turns = [
        _turn(tokenizer, messages[: i + 1], end_ids, known=known, text=all_of_it if i + 1 == len(messages) else None)
        for i, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    whole = turns[-1].ids[: turns[-1].stop]
    mask, rewritten = [False] * len(whole), []
    for turn in turns:
        ids, start = turn.ids[: turn.stop], turn.start
        if whole[: len(ids)] == ids:
            mask[start : len(ids)] = [True] * (len(ids) - start)
        else:
            rewritten.append((ids, [i >= start for i in range(len(ids))]))
    return [(whole, mask), *rewritten]


def encode_answer(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict], end_ids: Sequence[int], separator: str, *,
    finished: bool,
) -> tuple[list[int], int]:  # fmt: skip
    """Ids of a prompt with a text that somebody, such as another model, has answered.

    A finished answer is what `encode_conversation` makes of it. An unfinished one ends with its own last
    token: neither the end-of-turn token follows it nor anything the template writes before that token.
    An answer without any text is the prompt, and the end-of-turn token if finished.

    Args:
      messages: the last one is the answer.
      separator: stands where the contents are to be encoded in parts, "" for nowhere; see `forgery.taken_apart`.

    Returns:
      ids, and the index of the first token of the answer.
    """
    *prompt, answer = messages
    if not answer["content"].strip():
        ids, _ = _encode(tokenizer, render(tokenizer, prompt, generate=True), separator)
        return ids + (list(end_ids[:1]) if finished else []), len(ids)
    turn = _turn(tokenizer, messages, end_ids, separator, as_it_stands=False)
    if finished:
        return turn.ids[: turn.stop], turn.start
    # Encoded anew, as the answer may have merged with what stands before its end.
    text = turn.text[: turn.places[turn.stop - 1][0]].removesuffix(_before_end(tokenizer, end_ids))
    ids, _, start = _after(tokenizer, turn.text[: turn.given], text, separator)
    return ids, start


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, separator: str = "") -> tuple[list[int], Places]:
    """Ids of rendered text and the places they have in it; parts between separators are encoded each by itself."""
    ids, offsets, place = [], [], 0
    for part in text.split(separator) if separator else [text]:
        found, places = beginnings.encode(tokenizer, part)
        ids += found
        offsets += [(place + start, place + end) for start, end in places] if place else places
        place += len(part) + len(separator)
    return ids, offsets


def _turn(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict], end_ids: Sequence[int], separator: str = "", *,
    as_it_stands: bool = True, known: Beginnings | None = None, text: str | None = None,
) -> _Turn:  # fmt: skip
    """The conversation up to its last message, which is the assistant's and has to be written `as_it_stands`.

    `text` is what the template makes of it, where that is known already.
    """
    if len(messages) == 1:
        raise UserError(
            "the chat template has nothing in front of the assistant's first words; begin with a user message."
        )
    text = render(tokenizer, messages, generate=False) if text is None else text
    prompt = render(tokenizer, messages[:-1], generate=True)
    if not text.startswith(prompt):
        raise UserError(_rewritten(tokenizer, text, prompt, messages[:-1]))
    ids, places, start = _after(tokenizer, prompt, text, separator, known)
    ends = [j for j in range(start, len(ids)) if ids[j] in end_ids]
    if not ends:
        raise UserError(
            "the chat template ends an assistant's turn without an end-of-turn token, so stopping cannot be"
            " learned; use a template that writes the tokenizer's EOS there."
        )
    said = messages[-1]["content"]
    spoken = _end_of_words(said, text[: places[ends[-1]][0]], len(prompt))
    if as_it_stands and spoken is None:
        raise UserError(
            f"the chat template does not write the assistant's words as they stand: {said.strip()[:60]!r} has become"
            f" {text[len(prompt) :][:60]!r}; change the record (templates leave out thoughts and escape characters)"
            " or use a template that keeps them."
        )
    if as_it_stands and spoken is not None and places[ends[0]][0] < spoken:
        raise UserError(
            f"the chat template writes the end-of-turn token {tokenizer.convert_ids_to_tokens(ids[ends[0]])!r} in"
            " front of the assistant's words, where sampling would stop; use a template whose generation prompt has"
            " everything up to the words."
        )
    stop = next((j for j in ends if places[j][0] >= (spoken or 0)), ends[-1]) + 1
    return _Turn(text, len(prompt), ids, places, start, stop)


def _rewritten(tokenizer: PreTrainedTokenizerBase, text: str, prompt: str, before: Sequence[dict]) -> str:
    """The sentence of an answered conversation that does not begin with the prompt."""
    asked = render(tokenizer, before, generate=False)
    if prompt.startswith(asked) and text.startswith(asked):
        return (
            f"the chat template asks for an answer with {prompt[len(asked) :]!r} and writes this one behind"
            f" {text[len(asked) :][: len(prompt) - len(asked)]!r}, so what is sampled is not what is learned; begin"
            " the answer as the template asks for it (with thoughts, where it asks for some) or use another template."
        )
    return (
        "the chat template rewrites earlier turns when the answer is added (the conversation does not start with"
        f" {prompt[-60:]!r}), so the assistant's tokens cannot be found; use a template that only appends."
    )


def _after(
    tokenizer: PreTrainedTokenizerBase, prompt: str, text: str, separator: str, known: Beginnings | None = None
) -> tuple[list[int], Places, int]:
    """Ids of a text that begins with the prompt, their places, and the number of them that are the prompt's.

    The first are what the prompt has by itself: the sampler is given those.
    """
    encode = known.encode if known else lambda text: _encode(tokenizer, text, separator)
    given, given_places = encode(prompt)
    ids, places = encode(text)
    if ids[: len(given)] == given:
        return ids, places, len(given)
    rest, rest_places = _continuation(tokenizer, given, ids, text[len(prompt) :], separator)
    shifted = [(len(prompt) + start, len(prompt) + end) for start, end in rest_places]
    return given + rest, given_places + shifted, len(given)


def _continuation(
    tokenizer: PreTrainedTokenizerBase, given: list[int], whole: list[int], rest: str, separator: str
) -> tuple[list[int], Places]:
    """Ids and places of the text `rest` that follows `given`; `whole` are those of both in one."""
    first = _encode(tokenizer, rest, separator)
    if _decoded(tokenizer, given + first[0]) == _decoded(tokenizer, whole):
        return first
    # Some tokenizers put a space in front of whatever is encoded by itself; behind other text they don't.
    for lead in ("a", "0", ".", *tokenizer.all_special_tokens[:1]):
        count = len(_encode(tokenizer, lead)[0])
        both, places = _encode(tokenizer, lead + rest, separator)
        ids = both[count:]
        if _decoded(tokenizer, given + ids) == _decoded(tokenizer, whole):
            return ids, [(max(0, start - len(lead)), end - len(lead)) for start, end in places[count:]]
    return first


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    # Normalised, as a tokenizer may do so across the place where the text is parted.
    return unicodedata.normalize("NFKC", tokenizer.decode(ids, skip_special_tokens=False))


def _end_of_words(words: str, text: str, begin: int) -> int | None:
    """Where in the text the assistant's words end, the last time they are written; None where they are not.

    They end behind `begin`, and may begin before, where the generation prompt already has their first ones
    (<think>). White space does not count: templates trim it, and part thoughts from the rest by it.
    """
    at = text.rfind(words.strip(), begin)
    if at >= 0:
        return at + len(words.strip())
    places = [i for i, character in enumerate(text) if not character.isspace()]
    written, words = "".join(text[i] for i in places), "".join(words.split())
    behind = bisect_left(places, begin)
    at = written.rfind(words, max(0, behind - len(words) + 1))
    return places[at + len(words) - 1] + 1 if at >= 0 else None


def _before_end(tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int]) -> str:
    """What the chat template writes between an answer and its end-of-turn token, mostly nothing."""
    rest = template.after_answer(tokenizer)
    ids, offsets = _encode(tokenizer, rest)
    return next((rest[:start] for i, (start, _) in zip(ids, offsets) if i in end_ids), "")
