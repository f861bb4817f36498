"""The table of commands: all that is known of each before its program is imported. Imports no jax.

A stage of one's own is one file with `STAGE` and `main`, and an entry like those below; see docs/extending.md.
"""

import dataclasses
import importlib
import os
from collections.abc import Mapping
from typing import Any, Literal

from icegrt_jax import plugins
from icegrt_jax.config import own
from icegrt_jax.errors import UserError
from icegrt_jax.runs import again as again_

OWN = "ICEGRT_COMMANDS"  # environment variable: commands of the user's own as FILE.py:NAME, commas between them


@dataclasses.dataclass(frozen=True)
class Left:
    """A model that a stage leaves: what it is, and its row in the table of `icegrt evaluate`, "" for none."""

    what: str
    row: str = ""


@dataclasses.dataclass(frozen=True)
class Command:
    """An entry of the table.

    Attributes:
      name: of `icegrt NAME`; its module is `icegrt_jax.commands.NAME`, a dash in it an underscore.
      purpose: what --help says.
      module: another module, by its dotted name or as a path that ends in .py.
      flags: "MODULE:FUNCTION", which adds its own flags to its parser; called only for this command.
      after: the command that it follows, in --help and in `icegrt run`; by default the last one.
      reads: "run": --config and --workdir; "config": --config alone; "files": neither.
      distributed: may run as several processes.
      only_reads: changes nothing in the workdir that a stage reads: may run while one trains there.
      doubts: says first what is doubtful in the config.
      in_run: a part of `icegrt run`, and what that prints above it.
      shaped_by: {part of the workdir: keys of the config that it is the first to read}, in the order they are made. A
        key that no part reads shapes all of them.
      length: the key of its steps: more of them, and a finished stage goes on.
      measured_by: keys that shape nothing but what it says of models: with others it measures again.
      leaves: {role: its model}.
      section: of a command of one's own: a frozen dataclass, which becomes the section of its name in the config, with
        the defaults that it has.
    """

    name: str
    purpose: str
    module: str = ""
    flags: str = ""
    after: str = ""
    reads: Literal["run", "config", "files"] = "run"
    distributed: bool = False
    only_reads: bool = False
    doubts: bool = False
    in_run: str = ""
    shaped_by: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    length: str = ""
    measured_by: tuple[str, ...] = ()
    leaves: Mapping[str, Left] = dataclasses.field(default_factory=dict)
    section: Any = None

    def get(self, name: str) -> Any:
        """What its module defines under a name: `main`, and for a part of a run `STAGE`."""
        return _get(self.name, self.module or f"icegrt_jax.commands.{self.name.replace('-', '_')}", name)

    def add_flags(self, parser: Any) -> None:
        if self.flags:
            module, _, function = self.flags.rpartition(":")
            _get(self.name, module, function)(parser)


def _get(command: str, module: str, name: str) -> Any:
    if module.startswith("icegrt_jax."):
        return getattr(importlib.import_module(module), name)
    return plugins.load(f"command {command}", f"{module}:{name}")


FLAGS, PAGE_FLAGS = "icegrt_jax.commands.flags", "icegrt_jax.commands.page_flags"
POLICY, REWARD, VALUE = "policy", "reward", "value"


def _heldout(stage: str) -> tuple[str, ...]:
    """Keys that say what a stage measures; they shape it where its best checkpoint goes by that."""
    return tuple(f"{stage}.{name}" for name in ("heldout", "heldout_limit", "heldout_every"))


# In the order of a run.
_COMMANDS = (
    Command(
        "run", "every stage in order; those that have finished are not run again", distributed=True, doubts=True,
        flags=f"{PAGE_FLAGS}:run",
    ),
    Command(
        "pretrain", "the base model, where none is given: next-token training on plain text", distributed=True,
        in_run="a base model from plain text", shaped_by={"pretrain": ("pretrain",)},
        length="pretrain.steps", measured_by=_heldout("pretrain"),
        leaves={POLICY: Left("the base language model", "base")},
    ),
    Command(
        "sft", "ICE-Instruct: supervised fine-tuning on in-domain and general instructions", distributed=True,
        in_run="ICE-Instruct, in-domain and general instructions", shaped_by={"sft": ("sft",)},
        length="sft.steps", measured_by=_heldout("sft"),
        leaves={POLICY: Left("ICE-Instruct, a language model after supervised fine-tuning", "ICE-Instruct")},
    ),
    Command(
        "reward", "ICE-Reward: a reward model from ranked answers", distributed=True, doubts=True,
        in_run="ICE-Reward, from ranked answers",
        shaped_by={
            "data/own_rankings.jsonl": (
                "reward.on_policy_k", "ppo.temperature", "ppo.top_k", "ppo.top_p", "ppo.min_p"
            ),
            "reward": ("reward", "ppo.sources", "evaluate.batch_size", "rounds", "annotation"),
        },
        length="reward.steps", measured_by=_heldout("reward"),
        leaves={REWARD: Left("ICE-Reward, which scores an answer to a prompt")},
    ),
    Command(
        "ppo", "ICE-GRT: PPO, against the reward model, functions of yours or both", distributed=True, doubts=True,
        in_run="ICE-GRT, PPO", shaped_by={"ppo": ("ppo", "value", "roles")},
        length="ppo.iterations", measured_by=_heldout("ppo"),
        leaves={
            POLICY: Left("ICE-GRT, a language model after PPO", "ICE-GRT"),
            VALUE: Left("the critic of PPO, which estimates the return of a response so far"),
        },
    ),
    Command(
        "evaluate", "the table: every stage's model on the in-domain and the general tasks", distributed=True,
        in_run="what each stage bought", shaped_by={"evaluate": ("evaluate",)}, measured_by=("evaluate",),
    ),
    Command(
        "report", "a run as one page: table, curves, answers, config; or several runs laid over each other",
        reads="files", only_reads=True, flags=f"{FLAGS}:report", in_run="one page of all of it",
    ),
    Command(
        "status", "how far the run in a workdir is: stages, step, time left, last numbers, alarms", reads="files",
        flags=f"{FLAGS}:status",
    ),
    Command(
        "export", "the model of a finished stage as a folder that transformers loads", only_reads=True,
        flags=f"{FLAGS}:export",
    ),
    Command(
        "sample", "answers from a checkpoint: K per prompt, written as records to be ranked, or one", distributed=True,
        only_reads=True, flags=f"{FLAGS}:sample",
    ),
    Command(
        "evaluate-reward", "how right a reward model is on rankings, by source, and whether best-of-n by it finds the "
        "good answers", reads="files", flags=f"{FLAGS}:evaluate_reward",
    ),
    Command(
        "judge", "which of two policies answers better, by a language model asked in both orders", reads="files",
        flags=f"{FLAGS}:judge",
    ),
    Command(
        "rank", "a page where people rank answers, several at once, and their rankings as records to train on",
        reads="files", flags=f"{PAGE_FLAGS}:rank",
    ),
    Command(
        "chat", "the models of a run side by side, in the terminal or on a page", reads="files",
        flags=f"{PAGE_FLAGS}:chat",
    ),
    Command(
        "people", "answers out as a blind CSV file for people to rate, and their ratings in", reads="files",
        flags=f"{FLAGS}:people",
    ),
    Command(
        "data", "check records, filter them, or build a data set from them: TFDS, or tokenised", reads="files",
        flags=f"{FLAGS}:data",
    ),
    Command(
        "plan", "whether a run fits a TPU slice and what it costs, compiled ahead of time, without a TPU",
        reads="config", doubts=True, flags=f"{FLAGS}:plan",
    ),
    Command(
        "check-model", "whether a Hugging Face folder computes here what it computes in transformers", reads="files",
        flags=f"{FLAGS}:check_model",
    ),
    Command(
        "lm-eval", "any task of lm-evaluation-harness for a model; twelve of them without a network", reads="files",
        flags=f"{FLAGS}:lm_eval",
    ),
)  # fmt: skip
TABLE: dict[str, Command] = {}


def register(command: Command) -> None:
    """Adds a command to the table, and its section to the config."""
    if command.name in TABLE:
        raise UserError(f"there is a command {command.name!r} already; give yours another name.")
    if command.after and command.after not in TABLE:
        raise UserError(f"command {command.name!r}: after={command.after!r} is none; they are {', '.join(TABLE)}.")
    entries = list(TABLE.items())
    place = list(TABLE).index(command.after) + 1 if command.after else len(entries)
    entries.insert(place, (command.name, command))
    TABLE.clear()
    TABLE.update(entries)
    if command.section is not None:
        own.SECTIONS[command.name] = command.section


def in_run() -> list[Command]:
    """What `icegrt run` does, in order."""
    return [command for command in TABLE.values() if command.in_run]


def leaving_models() -> list[Command]:
    """The stages that leave a model, in order."""
    return [command for command in TABLE.values() if command.leaves]


def parts() -> dict[str, tuple[str, ...]]:
    """The parts of a run in their order, and the keys that each is the first to read."""
    return {part: keys for command in TABLE.values() for part, keys in command.shaped_by.items()}


def may_branch(command: Command) -> bool:
    """Whether it may begin with the finished stages of another run."""
    return command.name == "run" or bool(command.in_run and command.shaped_by)


def again() -> list[again_.Part]:
    """The parts of a run in their order, and what may change in them later."""
    return [
        again_.Part(
            part,
            command.length if part == command.name else "",
            command.measured_by if part == command.name else (),
            not command.leaves and bool(command.measured_by),
        )
        for command in TABLE.values()
        for part in command.shaped_by
    ]


def register_own() -> None:
    """Registers the commands that the environment names."""
    for spec in filter(None, os.environ.get(OWN, "").split(",")):
        command = plugins.load(OWN, spec)
        if not isinstance(command, Command):
            raise UserError(f"{OWN}={spec!r}: expected a Command of icegrt_jax.commands, got {type(command).__name__}.")
        if TABLE.get(command.name) is not command:  # unless an earlier call has
            register(command)


for _command in _COMMANDS:
    register(_command)
