"""What is checked and written in a workdir before a command's program begins. Imports no jax."""

import functools
import pathlib
from collections.abc import Callable

from icegrt_jax import commands, sums
from icegrt_jax.config import file as config_file
from icegrt_jax.config import reruns
from icegrt_jax.files import write_text_atomic
from icegrt_jax.runs import again, branching, more_rounds

# Keys that change what a run prints and keeps but not its numbers, when it says that something goes wrong, and what is
# done where a reward function fails; the mesh, onto any of which a checkpoint is read, and how ranked answers are laid
# out, which both change numbers by rounding alone. A rerun in the same workdir may change them.
FREE_KEYS = (
    "log", "mesh", "reward.share_prefixes", "ppo.alarms", "ppo.reward_timeout", "ppo.reward_workers",
    "ppo.reward_failed",
    *(f"annotation.judge_model.{name}" for name in ("key_env", "at_once", "timeout", "retries", "cache")),
)  # fmt: skip


def prepare(
    command: commands.Command, config: config_file.Group, workdir: pathlib.Path, source: str
) -> Callable[[], None]:
    """Refuses what cannot go on in `workdir` with this config; what is returned takes back what was written.

    Args:
      source: RUN:STAGE to begin with, "" for a run of its own or one that has begun.
    """
    undo: list[Callable[[], None]] = []

    def take_back():
        while undo:
            undo.pop()()

    try:
        if source:
            undo += [lambda: config_file.forget_if_unused(workdir), _take(command, config, workdir, source)]
        if taken := branching.check(workdir):
            print(f"{', '.join(taken['stages'])}: taken from {taken['run']}", flush=True)
        sums.check_run(workdir)
        _settle(command, config, workdir, undo)
    except BaseException:
        take_back()
        raise
    return take_back


def _take(
    command: commands.Command, config: config_file.Group, workdir: pathlib.Path, source: str
) -> Callable[[], None]:
    stages = [c.name for c in commands.in_run() if c.leaves]
    named = branching.parse(source, command.name, stages)
    last = list(commands.TABLE[named.stage].shaped_by)[-1]
    return branching.take(named, config, workdir, stages, commands.parts(), last, FREE_KEYS)


def _settle(
    command: commands.Command, config: config_file.Group, workdir: pathlib.Path, undo: list[Callable[[], None]]
) -> None:
    """Compares the config with that of the run in `workdir`, sets aside what is done again, and saves it."""
    changes = config_file.changes(config, workdir, FREE_KEYS, reruns.GONE, reruns.ADDED)
    first_part = functools.partial(reruns.first_part, commands.parts())
    flat = config_file.flatten(config)
    redone = again.find(commands.again(), workdir, changes, flat, first_part)
    redone = more_rounds.find(redone, commands.again(), workdir, changes, flat.get("rounds", 1))
    used_by = functools.partial(reruns.used_by, commands.parts(), workdir)
    config_file.check_same(config, workdir, (*FREE_KEYS, *redone.keys), used_by, reruns.GONE, reruns.ADDED)
    path = workdir / config_file.FILE_NAME
    # A reader leaves the config of whoever trains there as it is.
    if command.only_reads and path.exists():
        return
    if redone.keys:
        before = path.read_text(encoding="utf-8")
        put_back = redone.apply()
        undo.append(lambda: write_text_atomic(path, before) if put_back() else None)
    if config_file.save_resolved(config, workdir):
        undo.append(lambda: config_file.forget_if_unused(workdir))
