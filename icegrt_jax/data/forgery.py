"""Messages that would make turns of their own: control tokens written out in a text.

A control token is one that tokenizer or template give a meaning: every token that is
called special, every one that ends a response, and every added token that the chat
template writes around messages, whatever it is called (the role markers of
DeepSeek-R1-Distill-Qwen and Command-R are not called special).
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from icegrt_jax.data import template
from icegrt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ControlTokens:
    """The control tokens of a tokenizer.

    Attributes:
      names: all of them, as they are written.
      spoken: those of them that the assistant may write itself, such as the ones around its thoughts.
      end_ids: end a response.
    """

    tokenizer: PreTrainedTokenizerBase
    end_ids: tuple[int, ...]
    names: tuple[str, ...]
    spoken: frozenset[str]
    _expected: dict[tuple, Counter | None] = dataclasses.field(default_factory=dict, repr=False)

    def of(self, role: str) -> tuple[str, ...]:
        """Those that have no place in a message of the role."""
        return self._foreign if role == "assistant" else self.names

    def refuse_written(self, messages: Sequence[dict]) -> None:
        """Raises UserError for a message with a control token in it."""
        for message in messages:
            for token in self.of(message["role"]):
                if token in message["content"]:
                    raise UserError(
                        f"a {message['role']} message contains the control token {token!r};"
                        f" take it out of the data: {message['content'][:80]!r}"
                    )

    def refuse_in_text(self, text: str, ids: Sequence[int]) -> None:
        """Raises UserError where the ids of a plain text hold a control token, written out or made by a normalizer."""
        found = next((i for i in ids if i in self._ids), None)
        if found is not None:
            raise UserError(
                f"the text contains the control token {self.tokenizer.convert_ids_to_tokens(found)!r}, or what the"
                f" tokenizer makes it of; take it out of the data: {text[:80]!r}"
            )

    def refuse_made(self, messages: Sequence[dict], ids: Sequence[int], *, generate: bool) -> None:
        """Raises UserError where the ids of messages hold more control tokens than those of other words would.

        A text can become one that isn't written as such, through the tokenizer's normalizer or a template that
        changes the text. `generate`: the ids end with the generation prompt, else with an answer's end.
        """
        roles = tuple(message["role"] for message in messages)
        if (roles, generate) not in self._expected:
            self._expected[roles, generate] = self._count_expected(roles, generate)
        expected = self._expected[roles, generate]
        more = {} if expected is None else self._counted(ids) - expected
        if more:
            token = self.tokenizer.convert_ids_to_tokens(next(iter(more)))
            contents = " … ".join(message["content"][:40] for message in messages)
            raise UserError(
                f"the messages contain what tokenizer or chat template turn into the control token {token!r};"
                f" take it out of the data: {contents[:120]!r}"
            )

    def taken_apart(self, messages: Sequence[dict]) -> tuple[list[dict], str]:
        """The messages with a separator inside each control token written in them, and the separator, "" for none.

        The separator is a character of private use that is nowhere in the messages.
        """
        used = {character for message in messages for character in message["content"]}
        separator = next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in used)
        apart = [{**m, "content": self._apart(m["content"], self.of(m["role"]), separator)} for m in messages]
        found = any(separator in message["content"] for message in apart)
        return apart, separator if found else ""

    def _apart(self, text: str, tokens: Sequence[str], separator: str) -> str:
        written = [token for token in tokens if len(token) > 1 and token in text]
        if written:
            # Behind the first character, wherever a control token starts: one may overlap with another.
            beginning = re.compile("|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in written))
            text = beginning.sub(lambda found: found[0] + separator, text)
        if self.tokenizer.backend_tokenizer.normalizer is None:
            return text
        ids = set(self.tokenizer.convert_tokens_to_ids(list(tokens))) - {self.tokenizer.unk_token_id}
        while (place := self._first(text, ids, separator)) is not None:
            text = f"{text[: place + 1]}{separator}{text[place + 1 :]}"
        return text

    def _first(self, text: str, ids: set[int], separator: str) -> int | None:
        """Where the first part of several characters begins that becomes one of the ids."""
        at = 0
        for part in text.split(separator):
            encoding = self.tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)
            for i, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
                if i in ids and end - start > 1:
                    return at + start
            at += len(part) + len(separator)
        return None

    def _count_expected(self, roles: tuple[str, ...], generate: bool) -> Counter | None:
        """None where the template refuses other words."""
        try:
            text = template.render(self.tokenizer, template.conversation(roles), generate=generate)
        except UserError:
            return None
        if generate:
            return self._counted(self._encoded(text))
        before, _, after = text.rpartition(template.ANSWER)
        behind = self._encoded(after)
        stop = next((j + 1 for j, i in enumerate(behind) if i in self.end_ids), len(behind))
        return self._counted(self._encoded(before) + behind[:stop])

    def _encoded(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _counted(self, ids: Sequence[int]) -> Counter:
        return Counter(i for i in ids if i in self._ids)

    @functools.cached_property
    def _foreign(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name not in self.spoken)

    @functools.cached_property
    def _ids(self) -> frozenset[int]:
        # Any text may hold what the vocabulary doesn't know.
        return frozenset(self.tokenizer.convert_tokens_to_ids(list(self._foreign))) - {self.tokenizer.unk_token_id}


def control_tokens(tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int]) -> ControlTokens:
    """The control tokens of a tokenizer whose responses end with one of `end_ids`."""
    added = tokenizer.added_tokens_decoder.items()
    # Of Llama 3 and others, only the tokens with a role of their own are in `all_special_tokens`.
    named = (token.content for i, token in added if token.special or i in end_ids)
    special = dict.fromkeys((*tokenizer.all_special_tokens, *named))
    others = [mark for mark in template.marks(tokenizer) if mark not in special]
    spoken = template.spoken(tokenizer, others) if others else frozenset()
    return ControlTokens(tokenizer, tuple(end_ids), (*special, *others), spoken)
