"""`icegrt STAGE --config=FILE --workdir=DIR [--config.key=value ...]`: from a command to its program's `main`.

What can be wrong in a command or a config is said here, in one sentence and with exit code 2, before jax is imported.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Sequence

from ml_collections import ConfigDict

from icegrt_jax import commands, refused, terminal
from icegrt_jax.commands import flags as common_flags
from icegrt_jax.commands.workdir import prepare as prepare_workdir
from icegrt_jax.config import checks, convert
from icegrt_jax.config import file as config_file
from icegrt_jax.config.options import Options
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import entry, launch, lock, memory
from icegrt_jax.hosts.heap import keep_freed_memory
from icegrt_jax.version import __version__

# Modules that only an extra installs.
EXTRAS = {
    "datasketch": "filters",
    "starlette": "rank",
    "uvicorn": "rank",
    "lm_eval": "eval",
    "trl": "bench",
    "libtpu": "tpu",
    "torch": "test",
    "pytest": "test",
}
USAGE = """\
icegrt STAGE --config=FILE[:SWITCH] --workdir=DIR [--config.key=value ...]

  icegrt run --config=configs/quickstart.py --workdir=runs/quickstart
  icegrt ppo --config=configs/quickstart.py --workdir=runs/quickstart --config.seed=1
  icegrt STAGE --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command, `sys.argv[1:]` by default, and returns its exit code."""
    with terminal.between_words():
        return _exit_code(list(sys.argv[1:] if argv is None else argv))


def _exit_code(argv: list[str]) -> int:
    try:
        with refused.told():
            return _run(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        print(f'error: {error.name} is not installed; pip install "icegrt_jax[{EXTRAS[error.name]}]"', file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not memory.is_full(error):
            raise
        print(f"error: {memory.sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return 130


def _run(argv: list[str]) -> int:
    commands.register_own()
    # Split off first: argparse knows none of the config's keys.
    overrides = [arg for arg in argv if arg.startswith(("--config.", "--noconfig."))]
    rest = [arg for arg in argv if arg not in overrides]
    if rest and not rest[0].startswith("-") and rest[0] not in commands.TABLE:
        close = config_file.nearest(rest[0], commands.TABLE)
        hint = f"did you mean {close}?" if close else f"the stages are {', '.join(commands.TABLE)}."
        raise UserError(f"unknown stage {rest[0]!r}; {hint}")
    args, unknown = _parser(rest[0] if rest else "").parse_known_args(rest)
    if unknown:
        _refuse(unknown[0], args)
    flags = vars(args)
    command = commands.TABLE[flags.pop("program")]
    if command.reads == "run":
        _run_in_workdir(command, flags.pop("config"), flags.pop("workdir"), overrides, flags)
        return 0
    spec = flags.get("config", "")
    if not spec and overrides:
        raise UserError(f"icegrt {command.name} reads no config, so it takes no {overrides[0]}.")
    if spec:
        _, flags["config"], doubts = _loaded(spec, overrides)
        _say(doubts if command.doubts else ())
    if command.reads == "config":
        return command.get("main")(flags.pop("config"), name=spec, **flags) or 0
    # Only a check has a result that is not a mistake.
    return command.get("main")(**flags) or 0


def _loaded(spec: str, overrides: list[str]) -> tuple[ConfigDict, Options, list[str]]:
    """The config as it is saved with a run, the checked options as its programs read it, and what is doubtful."""
    config = config_file.load_config(spec, overrides)
    options = convert.read(config)
    checks.check(options)
    doubts = checks.doubts(options.reward, options.ppo, longest=options.total, weight=options.reward_model)
    return config, options, doubts


def _say(doubts: Sequence[str]) -> None:
    for doubt in doubts:
        print(f"warning: {doubt}", file=sys.stderr)


def _run_in_workdir(command: commands.Command, spec: str, folder: str, overrides: list[str], flags: dict) -> None:
    config, options, doubts = _loaded(spec, overrides)
    workdir = pathlib.Path(os.path.abspath(folder))
    source = flags.pop("source", "")
    names = {field.name for field in dataclasses.fields(launch.Launch)}
    processes = launch.Launch(**{name: flags.pop(name) for name in names & flags.keys()})

    def prepare():
        with refused.told():
            undo = prepare_workdir(command, config, workdir, source)
        _say(doubts if command.doubts else ())
        return undo

    def program():
        with refused.told():
            command.get("main")(options, workdir, **flags)

    keep_freed_memory()
    hold = None if command.only_reads else functools.partial(lock.hold, workdir, command.name)
    start = launch.Start(hold, prepare, program)
    if not command.distributed:
        return entry.alone(start)
    entry.run(processes, config_file.to_json(config), workdir, [command.name, flags], start)


class _Parser(argparse.ArgumentParser):
    """argparse, its mistakes raised as `UserError` and no flag abbreviated."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")


def _parser(chosen: str) -> _Parser:
    """Of every command its name and purpose, and of the chosen one all flags: its module may be slow to import."""
    parser = _Parser(prog="icegrt", usage=USAGE, description="RLHF in JAX: SFT, reward model, PPO and evaluation.")
    parser.add_argument("--version", action="version", version=f"icegrt_jax {__version__}")
    stages = parser.add_subparsers(dest="program", metavar="STAGE", required=True, prog="icegrt")
    for name, command in commands.TABLE.items():
        purpose = command.purpose
        stage = stages.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
        if name == chosen:
            _add_flags(stage, command)
    return parser


def _add_flags(stage: _Parser, command: commands.Command) -> None:
    if command.reads != "files":
        stage.epilog = (
            "Any key of the config can be set: --config.key=value, --config.group.key=value.\n"
            'Tuples are quoted: --config.key="(1, 2)". Booleans: --config.key=true or false.'
        )
        stage.add_argument("--config", required=True, metavar="FILE[:SWITCH]", help="config file, and its variant")
    if command.reads == "run":
        stage.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder; the same command resumes")
    if commands.may_branch(command):
        common_flags.source(stage)
    if command.distributed:
        common_flags.processes(stage)
    command.add_flags(stage)


def _refuse(unknown: str, args: argparse.Namespace) -> None:
    name = unknown.split("=")[0]
    if not name.startswith("-"):
        raise UserError(f"unexpected argument {unknown!r}; flags are written --name=value.")
    close = config_file.nearest(name.lstrip("-"), [flag for flag in vars(args) if flag not in ("program", "command")])
    raise UserError(f"unknown flag {name}{f'; did you mean --{close}?' if close else ''}")
