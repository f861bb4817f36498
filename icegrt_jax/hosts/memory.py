"""Out of memory, of a device or of the host: which program, what it asked for, and the keys that make it ask for less.

Imports no JAX: the command line asks it of every error.
"""

import contextlib
import re
from collections.abc import Iterator

from icegrt_jax.errors import UserError

_ASKED = re.compile(r"(?:allocat\w*|Used) ([\d.]+) ?(bytes|[KMGTP]i?B?)\b", re.IGNORECASE)
_UNITS = {"b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
# By what a stage is at, from the key that costs least; {stage} is its name.
KEYS = {
    "update": ("{stage}.microbatch", "model.remat='full'", "{stage}.length", "mesh.fsdp"),
    "rollout": ("ppo.rollout_slots", "ppo.cache_dtype='int8'", "max_response_length", "mesh.rollout_tensor"),
    "learn": ("ppo.microbatch", "ppo.score_batch", "model.remat='full'", "mesh.fsdp"),
    "evaluate": ("evaluate.batch_size", "max_response_length", "mesh.tensor"),
    "": ("the batch sizes", "mesh.fsdp", "model.param_dtype='bfloat16'"),
}


class OutOfMemory(UserError):
    """There is not enough memory for a program."""


def is_full(error: BaseException) -> bool:
    """Whether the error is of memory that there is not, of a device or of the host."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error))


def sentence(error: BaseException, what: str = "", stage: str = "", phase: str = "") -> str:
    """What to say of such an error.

    Args:
      what: was under way, "sft, update of step 3"; "" where nobody knows.
      stage, phase: whose keys are proposed, see `KEYS`.
    """
    asked = asked_for(str(error))
    size = f"{asked / 2**30:.2f} GiB" if asked else "more"
    where = "the host" if isinstance(error, MemoryError) else "the device"
    keys = ", ".join(key.format(stage=stage) for key in KEYS.get(phase, KEYS[""]))
    return (
        f"{f'{what}: ' if what else ''}out of memory: {size} asked for, which {where} has not "
        f"({' '.join(str(error).split())[:160]}). To need less, look at {keys}; `icegrt plan` says what a run needs. "
        "The same command continues."
    )


def asked_for(text: str) -> int:
    """Bytes by the message of XLA or NumPy; 0 where it does not say."""
    found = _ASKED.search(text)
    if not found:
        return 0
    unit = found[2].lower()
    return round(float(found[1].rstrip(".")) * 1024 ** (0 if unit == "bytes" else _UNITS[unit[0]]))


@contextlib.contextmanager
def explained(what: str, stage: str, phase: str) -> Iterator[None]:
    """Within, an error of memory becomes an `OutOfMemory` that names what was under way."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_full(error):
            raise
        raise OutOfMemory(sentence(error, what, stage, phase)) from error
