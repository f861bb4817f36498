"""What reward functions have said of a rollout, kept until a checkpoint stands behind it: they are not asked twice.

Asked again a function may say something else, as a judge behind an endpoint does, and cost as much again. What it said
is found by the texts, the records and the code in the folder of its file, so a function that was mended is asked anew.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from icegrt_jax import plugins
from icegrt_jax.data.records import Prompt
from icegrt_jax.hosts import sync
from icegrt_jax.runs.kept import Place
from icegrt_jax.runs.rewards import Answer, Rewards

SAID = "said"  # JSON, in bytes


def ask(
    rewards: Rewards, keep: Place | None, step: int, records: Sequence[Prompt], responses: Sequence[str], *, group: int
) -> Callable[[], Answer]:
    """As `Rewards.ask`, of iteration `step`; `keep`: where answers are kept and looked for."""
    what = f"ppo, iteration {step}"
    if keep is None or not rewards:
        return rewards.ask(what, records, responses, group=group)
    asked = _identity(_code(rewards), list(rewards.specs), rewards.failed, records, responses)
    if keep.has(asked, step):
        told = sync.from_main(f"what was said, {what}", lambda: _read(keep, asked, step))
        if told is not None:
            if sync.is_main():
                print(f"ppo  what the reward functions say of iteration {step} is there", flush=True)
            return lambda: Answer(told["values"], told["failed"])
    wait = rewards.ask(what, records, responses, group=group)

    def waited() -> Answer:
        answer = wait()
        text = json.dumps({"values": answer.values, "failed": answer.failed})
        keep.write(asked, {SAID: np.frombuffer(text.encode(), np.uint8)}, step)
        return answer

    return waited


@functools.lru_cache(maxsize=1)
def _code(rewards: Rewards) -> list[str]:
    """Of the functions as they were loaded; the main process has their files, others need not."""
    code = lambda: [plugins.code_of(spec) if isinstance(spec, str) else "" for spec in rewards.specs.values()]
    return sync.from_main("code of the reward functions", code)


def _identity(*parts: Any) -> str:
    return hashlib.sha256("\0".join(map(repr, parts)).encode()).hexdigest()[:32]


def _read(keep: Place, asked: str, step: int) -> Any:
    arrays = keep.read(asked, [SAID], step)
    return arrays and json.loads(arrays[SAID].tobytes())
