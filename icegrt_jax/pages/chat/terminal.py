"""The conversation in the terminal: a line is said to every model, one that begins with / is a command."""

import contextlib
import importlib
import itertools
import pathlib
import shutil
import textwrap
from collections.abc import Callable, Sequence

from icegrt_jax.errors import UserError
from icegrt_jax.pages.chat.talk import Answer, Talk

NARROWEST = 28  # columns of an answer that stands beside others
HELP = """\
/temperature X    0 is greedy; another one is compiled for first
/tokens N         longest answer
/rank 2 1 3       keeps the exchange as a ranking, best first; 2=1 are equal, who is left out is not ranked.
                  All go on from the best
/share N          all go on from the conversation of N
/new              begins anew
/help, /quit"""


def run(talk: Talk, keep: pathlib.Path, ask: Callable[[str], str] = input, width: int = 0) -> None:
    """Until /quit or the end of what is typed.

    Args:
      keep: the file of rankings.
      ask: gives a line for a prompt, EOFError at the end.
      width: columns of the terminal; 0: as it is.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")  # with it `input` knows arrow keys and earlier lines
    print(", ".join(f"{n} {voice.name}" for n, voice in enumerate(talk.voices, 1)) + "; /help lists commands")
    while True:
        try:
            line = ask("> ").strip()
        except EOFError:
            print()
            return
        try:
            if line in ("/quit", "/exit"):
                return
            if line.startswith("/"):
                print(command(talk, line, keep))
            elif line:
                answers = talk.say(line)
                print(side_by_side([v.name for v in talk.voices], answers, width or shutil.get_terminal_size().columns))
        except UserError as error:
            print(f"error: {error}")


def command(talk: Talk, line: str, keep: pathlib.Path) -> str:
    """Does what a line that begins with / says; returns what is printed."""
    name, *words = line[1:].split()
    settings = talk.settings
    if name == "help":
        return HELP
    if name == "new":
        talk.new()
        return "a new conversation"
    if name == "temperature":
        settings.temperature = temperature(words[0] if words else "")
        return f"temperature {settings.temperature:g}"
    if name == "tokens":
        settings.max_new_tokens = tokens(words[0] if words else "")
        return f"{settings.max_new_tokens} tokens at most"
    if name == "share":
        place = _place(talk, words[0] if words else "")
        talk.share(place)
        return f"all go on from {talk.voices[place].name}"
    if name == "rank":
        talk.keep(ranks(talk, words), keep)
        return f"kept in {keep}; all go on from the best answer"
    raise UserError(f"/{name} is no command; /help lists them.")


def temperature(text: str) -> float:
    """A temperature that was typed."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10:
        raise UserError(f"temperature {text!r}; expected a number from 0 to 10.")
    return value


def tokens(text: str) -> int:
    """A length that was typed."""
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0
    if not value:
        raise UserError(f"tokens {text!r}; expected a whole number of 1 or more.")
    return value


def ranks(talk: Talk, words: Sequence[str]) -> list[int | None]:
    """Of each voice, from an order such as "2 1=3"."""
    found: list[int | None] = [None] * len(talk.voices)
    for rank, word in enumerate(words, 1):
        for number in word.split("="):
            place = _place(talk, number)
            if found[place] is not None:
                raise UserError(f"{number} stands there twice; name each answer once.")
            found[place] = rank
    return found


def side_by_side(names: Sequence[str], answers: Sequence[Answer], width: int) -> str:
    """The answers in columns where these are wide enough, else below each other."""
    titles = [f"{n} {name}" for n, name in enumerate(names, 1)]
    said = [
        f"[{answer.problem}]" if answer.problem else answer.text + ("" if answer.finished else " [cut off]")
        for answer in answers
    ]
    each = (width - 2 * (len(names) - 1)) // len(names)
    if each < NARROWEST:
        return "\n".join(
            f"{title}\n{textwrap.indent(_wrapped(text, width - 2), '  ')}" for title, text in zip(titles, said)
        )
    columns = [[title, "─" * each, *_wrapped(text, each).split("\n")] for title, text in zip(titles, said)]
    rows = itertools.zip_longest(*columns, fillvalue="")
    return "\n".join("  ".join(cell.ljust(each) for cell in row).rstrip() for row in rows)


def _wrapped(text: str, width: int) -> str:
    """Lines of at most that width, without what would move a terminal's cursor."""
    plain = "".join(c if c == "\n" or c.isprintable() else " " for c in text)
    return "\n".join("\n".join(textwrap.wrap(line, width)) for line in plain.split("\n"))


def _place(talk: Talk, text: str) -> int:
    """Of the voice with that number."""
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= len(talk.voices)):
        raise UserError(f"{text!r} is no model here; expected a number from 1 to {len(talk.voices)}.")
    return int(text) - 1
