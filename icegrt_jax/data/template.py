"""A tokenizer's chat template: conversations as text, and what a few questions tell of a template.

A template is a program that somebody else wrote. It is asked with known words, once,
before data is rendered with it: whether it writes what is said as it is said, in
which form it reads contents, and which tokens it puts around them.
"""

import functools
import itertools
import json
import re
from collections.abc import Sequence

import jinja2
from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from icegrt_jax.data import limits
from icegrt_jax.errors import UserError

# In both cases, so that a change is seen, and in no template.
SYSTEM, QUESTION, ANSWER = "womBAt", "quoKKa", "numBAt"
DIGITS = 5  # of the largest number in a template
WIDE = re.compile(r"%[-+# 0]*\d{6}|[:<>^]\d{6}")  # a width in a format of text
WORDS = {"system": SYSTEM, "user": QUESTION, "assistant": ANSWER}


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict], *, generate: bool) -> str:
    """The conversation as text; `generate` adds what comes before the assistant's next words."""
    return _apply(tokenizer, as_read(tokenizer, messages), generate)


def as_read(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict]) -> list[dict]:
    """Messages with contents as the template reads them: strings, or lists of one part of type text."""
    parts = _roles_in_parts(tokenizer, str(tokenizer.chat_template))
    return [_in_parts(message) if message["role"] in parts else message for message in messages]


def conversation(roles: Sequence[str]) -> list[dict]:
    """Messages of these roles with the words that templates are asked with."""
    return [{"role": role, "content": WORDS[role]} for role in roles]


def check(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UserError for a template with which nothing can be trained, whatever the data."""
    versions = tokenizer.chat_template
    if isinstance(versions, dict) and "default" not in versions:
        raise UserError(
            f"the chat template exists in the versions {', '.join(sorted(versions))} and none is called default; save"
            " the one to use as chat_template.jinja in the folder, or name it default."
        )
    for source in versions.values() if isinstance(versions, dict) else (versions,):
        _refuse_large(str(source))
    text = render(tokenizer, shortest(tokenizer), generate=False)
    for role, word in (("assistant", ANSWER), ("user", QUESTION)):
        if word in text:
            continue
        if word.casefold() in text.casefold():
            problem = f"changes the case of the {role}'s words, so that what was said is not what is written"
        else:
            problem = f"leaves out the {role}'s words, also where contents are given in parts of type text"
        raise UserError(f"the chat template {problem}; use one that writes every message as it stands.")


def _refuse_large(source: str) -> None:
    """Refuses a template in which one step may ask for any amount of memory: such numbers are in no honest one."""
    try:
        tokens = list(jinja2.Environment().lex(source))
    except TemplateSyntaxError:
        return  # which is said when it is rendered
    for line, kind, text in tokens:
        number = kind == "integer" and len(text.replace("_", "")) > DIGITS
        if number or (kind == "operator" and text == "**") or (kind == "string" and WIDE.search(text)):
            raise UserError(
                f"the chat template has {text[:40]!r} in line {line}, by which a text may become longer than any"
                " memory; use another template."
            )


def shortest(tokenizer: PreTrainedTokenizerBase) -> list[dict]:
    """A question and its answer, with a system message where the template refuses to do without."""
    plain, led = conversation(("user", "assistant")), conversation(("system", "user", "assistant"))
    try:
        render(tokenizer, plain, generate=False)
    except UserError as error:
        if not _rendered(tokenizer, as_read(tokenizer, led)):
            raise UserError(_useless(error)) from error
        return led
    return plain


def after_answer(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template writes behind the assistant's last words; "" for one that leaves them out."""
    return render(tokenizer, shortest(tokenizer), generate=False).rpartition(ANSWER)[2]


def leaves_out_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a system message is taken and then not written."""
    text = _rendered(tokenizer, as_read(tokenizer, conversation(("system", "user"))), generate=True)
    return bool(text) and SYSTEM not in text


def marks(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Added tokens, called special or not, that the template writes around messages.

    Not those that are words or white space: templates write them as everybody does.
    """
    added = tokenizer.added_tokens_decoder
    found: dict[int, None] = {}
    for text in _samples(tokenizer):
        for frame in re.split("|".join(WORDS.values()), text):
            found |= dict.fromkeys(i for i in tokenizer(frame, add_special_tokens=False)["input_ids"] if i in added)
    names = (added[i].content for i in found)
    return tuple(name for name in names if len(name) > 1 and re.search(r"[^\w\s]", name))


def spoken(tokenizer: PreTrainedTokenizerBase, candidates: Sequence[str]) -> frozenset[str]:
    """Those of `candidates` that the assistant may write itself, such as the tokens around its thoughts.

    Written in an answer, such a token is read by the template, or is the one that its generation prompt ends
    with: the conversation has no more of it than with another answer.
    """
    *before, answer = shortest(tokenizer)
    plain = render(tokenizer, [*before, answer], generate=False)
    asked = render(tokenizer, before, generate=True)
    found = set()
    for opening in candidates:
        for closing in ("", *candidates):
            said = f"{opening}\n{QUESTION}\n{closing}\n\n{ANSWER}"
            text = _rendered(tokenizer, as_read(tokenizer, [*before, {**answer, "content": said}]))
            pair = {opening, closing} - {""}
            if text and all(text.count(token) <= max(plain.count(token), asked.count(token)) for token in pair):
                found |= pair
    return frozenset(found)


def _samples(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Conversations of the words, one and two turns long, with and without generation prompt.

    With a system message where the template takes one: what it says by itself in its place is no frame.
    """
    turns = ("user", "assistant", "user", "assistant")
    asked = [(turns[:n], generate) for n in (1, 2, 3, 4) for generate in (False, True)]
    sampled = lambda lead: [
        _rendered(tokenizer, as_read(tokenizer, conversation(lead + roles)), generate) for roles, generate in asked
    ]
    led = sampled(("system",))
    return led if any(led) else sampled(())


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict], generate: bool) -> str:
    try:
        with limits.limited():
            return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generate)
    except limits.Exceeded as error:
        raise UserError(
            f"the chat template takes more than {limits.SECONDS:g} seconds or {limits.BYTES // 2**20:,} MiB for a"
            f" conversation of {len(messages)} messages; use another."
        ) from error
    except TemplateSyntaxError as error:
        raise UserError(f"the chat template is no Jinja template (line {error.lineno}: {error.message}).") from error
    except Exception as error:  # of a program that anybody may have written
        roles = ", ".join(message["role"] for message in messages)
        if type(error) is TemplateError:  # its own raise_exception
            raise UserError(
                f"the chat template refuses a conversation of the roles {roles} ({error}); change the record to what"
                " the template knows (many know no system role and want user and assistant in turn), or leave it out."
            ) from error
        raise UserError(
            f"the chat template fails on a conversation of the roles {roles} ({type(error).__name__}: {error}); the"
            " template is at fault: mend it or use another."
        ) from error


def _useless(error: UserError) -> str:
    """The sentence of a template that takes no conversation, not even the shortest."""
    if isinstance(error.__cause__, TemplateSyntaxError):
        return str(error)
    verb = "refuses" if type(error.__cause__) is TemplateError else "fails on"
    return (
        f"the chat template {verb} every conversation, a question with its answer as well ({error.__cause__}); mend it"
        " or use another."
    )


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict], generate: bool = False) -> str:
    """The conversation as text, "" where the template does not take it."""
    try:
        return _apply(tokenizer, messages, generate)
    except UserError:
        return ""


def _in_parts(message: dict) -> dict:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


@functools.lru_cache(maxsize=16)
def _roles_in_parts(tokenizer: PreTrainedTokenizerBase, template: str) -> frozenset[str]:
    """The roles whose contents the template reads as lists of parts, found by what it writes of them."""
    del template  # a part of the key: a tokenizer may be given another one

    mixed = [roles for count in (2, 1) for roles in itertools.combinations(WORDS, count)]
    for roles in (tuple(WORDS), ("user", "assistant")):
        for parts in map(frozenset, ((), WORDS, *mixed)):
            messages = [_in_parts(m) if m["role"] in parts else m for m in conversation(roles)]
            text = _rendered(tokenizer, messages).casefold()
            # A list that is written out, as Python or JSON writes it, is not read.
            lists = [m["content"] for m in messages if m["role"] in parts]
            unread = any(form(content).casefold() in text for content in lists for form in (str, json.dumps))
            if not unread and all(WORDS[role].casefold() in text for role in roles):
                return parts
    return frozenset()
