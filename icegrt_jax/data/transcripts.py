"""Conversations written out as one text, as in hh-rlhf: "\\n\\nHuman: ...\\n\\nAssistant: ...".

Bai et al. 2022, https://arxiv.org/abs/2204.05862.
"""

import itertools
import re

from icegrt_jax.data.fields import Messages, nonempty, shown
from icegrt_jax.errors import UserError

SPEAKERS = {"Human": "user", "Assistant": "assistant"}
MARK = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def reads_like_one(text: object) -> bool:
    """Whether a text begins as a transcript does."""
    return isinstance(text, str) and bool(re.match(r"\s*Human:", text))


def turns(text: str, where: str, name: str) -> Messages:
    """The messages of a whole transcript, white space around each taken off.

    Of hh-rlhf some turns before the last are empty. Such a turn is left out, and what its neighbours say is one turn.
    """
    head, *rest = MARK.split(nonempty(text, where, name))
    if head.strip() or not rest:
        raise UserError(
            f"{where}: field {name!r} is {shown(text)}; expected a transcript: Human: ..., an empty line,"
            " Assistant: ..."
        )
    said = [(SPEAKERS[speaker], words.strip()) for speaker, words in zip(rest[::2], rest[1::2], strict=True)]
    nonempty(said[-1][1], where, f"{name}, turn {len(said)}")
    spoken = [(role, words) for role, words in said if words]
    return tuple(
        {"role": role, "content": "\n\n".join(words for _, words in turn)}
        for role, turn in itertools.groupby(spoken, key=lambda turn: turn[0])
    )


def prompt_turns(text: str, where: str, name: str) -> Messages:
    """The messages of a transcript that stops where the assistant is to speak, "Assistant:" at its end or not."""
    return turns(re.sub(r"\n\nAssistant:\s*\Z", "", nonempty(text, where, name)), where, name)
