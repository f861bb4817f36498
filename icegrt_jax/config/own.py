"""Sections of the config that commands of a user's own bring along, see `commands.register`."""

import dataclasses
from typing import Any

from icegrt_jax.config.options import Options

# {name: its dataclass, with the defaults}; filled while the table of commands is.
SECTIONS: dict[str, Any] = {}


def defaults() -> Options:
    """The options of a run with every default, and a field for each section of one's own."""
    if not SECTIONS:
        return Options()
    fields = [(name, type(section), dataclasses.field(default=section)) for name, section in SECTIONS.items()]
    return dataclasses.make_dataclass("Options", fields, bases=(Options,), frozen=True, kw_only=True)()
