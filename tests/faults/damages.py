"""The five ways in which a file is damaged."""

import pathlib
import random
from collections.abc import Callable


def cut(content: bytes, rng: random.Random) -> bytes:
    """At a line's end where it has several lines: what is left reads like a whole file."""
    lines = content.splitlines(keepends=True)
    return b"".join(lines[: rng.randrange(1, len(lines))]) if len(lines) > 1 else content[: len(content) // 2]


def flip(content: bytes, rng: random.Random) -> bytes:
    """One bit."""
    if not content:
        return b"\0"
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]


CONTENTS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": cut, "emptied": lambda content, rng: b"", "one bit": flip,
    "garbage": lambda content, rng: rng.randbytes(max(len(content), 16)),
}  # fmt: skip
WAYS = (*CONTENTS, "deleted")


def damage(path: pathlib.Path, way: str, rng: random.Random) -> None:
    """Damages a file in one of `WAYS`."""
    if way == "deleted":
        path.unlink()
    else:
        path.write_bytes(CONTENTS[way](path.read_bytes(), rng))
