"""`icegrt STAGE --config=FILE --workdir=DIR [--config.key=value ...]`: from a command to a stage's `main`.

What can be wrong in a command or a config is said here, in one sentence and with exit code 2, before jax is imported.
"""

import argparse
import dataclasses
import functools
import importlib
import math
import os
import pathlib
import sys
from collections.abc import Sequence

from ml_collections import ConfigDict

from icegrt_jax.config import file as config_file
from icegrt_jax.config import reruns
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import entry, launch, lock
from icegrt_jax.hosts.heap import keep_freed_memory
from icegrt_jax.version import __version__

# In the order of a run; each is `icegrt_jax.commands.NAME`, a dash in it an underscore.
STAGES = {
    "run": "every stage in order; those that have finished are not run again",
    "pretrain": "the base model, where none is given: next-token training on plain text",
    "sft": "ICE-Instruct: supervised fine-tuning on in-domain and general instructions",
    "reward": "ICE-Reward: a reward model from ranked answers",
    "ppo": "ICE-GRT: PPO against the reward model",
    "evaluate": "the table: every stage's model on the in-domain and the general tasks",
    "report": "the curves of a run as PNG files and one page",
    "export": "the model of a finished stage as a folder that transformers loads",
    "sample": "answers from a checkpoint: K per prompt, written as records to be ranked, or one",
    "data": "check records, or build a TFDS dataset from them",
    "plan": "whether a run fits a TPU slice and what it costs, compiled ahead of time, without a TPU",
    "check-model": "whether a Hugging Face folder computes here what it computes in transformers",
}
WITHOUT_CONFIG = ("data", "check-model")
DISTRIBUTED = ("run", "pretrain", "sft", "reward", "ppo", "evaluate", "sample")  # may run as several processes
READERS = ("report", "export", "sample")  # of a workdir: may run while a stage trains there
TRAINED = ("pretrain", "sft", "reward", "ppo")  # stages that leave a model
DOUBTED = ("run", "reward", "ppo", "plan")  # that begin with what is doubtful in their config
KINDS = ("instruction", "ranking", "prompt", "text")
# Keys that change what a run prints and keeps but not its numbers, and what is done where a reward function fails: a
# rerun in the same workdir may change them.
FREE_KEYS = ("log", "ppo.reward_timeout", "ppo.reward_workers", "ppo.reward_failed")
# Modules that only an extra installs.
EXTRAS = {"lm_eval": "eval", "trl": "bench", "libtpu": "tpu", "torch": "test", "pytest": "test"}
USAGE = """\
icegrt STAGE --config=FILE[:SWITCH] --workdir=DIR [--config.key=value ...]

  icegrt run --config=configs/quickstart.py --workdir=runs/quickstart
  icegrt ppo --config=configs/quickstart.py --workdir=runs/quickstart --config.seed=1
  icegrt STAGE --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command, `sys.argv[1:]` by default, and returns its exit code."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        print(f'error: {error.name} is not installed; pip install "icegrt_jax[{EXTRAS[error.name]}]"', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return 130


def _run(argv: list[str]) -> int:
    # Split off first: argparse knows none of the config's keys.
    overrides = [arg for arg in argv if arg.startswith(("--config.", "--noconfig."))]
    rest = [arg for arg in argv if arg not in overrides]
    parser = _parser()
    if rest and not rest[0].startswith("-") and rest[0] not in STAGES:
        close = config_file.nearest(rest[0], STAGES)
        hint = f"did you mean {close}?" if close else f"the stages are {', '.join(STAGES)}."
        raise UserError(f"unknown stage {rest[0]!r}; {hint}")
    args, unknown = parser.parse_known_args(rest)
    if unknown:
        _refuse(unknown[0], args)
    flags = vars(args)
    stage = flags.pop("program")
    if stage == "plan":
        spec = flags.pop("config")
        config = config_file.load_config(spec, overrides)
        _check(config)
        _say_doubts(stage, config)
        return _module(stage).main(_read(config), name=spec, **flags) or 0
    if stage == "data" and flags.get("config"):
        config = config_file.load_config(flags["config"], overrides)
        _check(config)
        return _module(stage).main(**{**flags, "config": _read(config)}) or 0
    if stage not in WITHOUT_CONFIG:
        _run_stage(stage, flags.pop("config"), flags.pop("workdir"), overrides, flags)
        return 0
    if overrides:
        raise UserError(f"icegrt {stage} reads no config, so it takes no {overrides[0]}.")
    # Only a check has a result that is not a mistake.
    return _module(stage).main(**flags) or 0


def _check(config: ConfigDict) -> None:
    importlib.import_module("icegrt_jax.config").check(config)


def _read(config: ConfigDict):
    return importlib.import_module("icegrt_jax.config").read(config)


def _say_doubts(stage: str, config: ConfigDict) -> None:
    if stage in DOUBTED:
        for doubt in importlib.import_module("icegrt_jax.config").doubts(config):
            print(f"warning: {doubt}", file=sys.stderr)


def _module(stage: str):
    return importlib.import_module(f"icegrt_jax.commands.{stage.replace('-', '_')}")


def _run_stage(stage: str, spec: str, folder: str, overrides: list[str], flags: dict) -> None:
    config = config_file.load_config(spec, overrides)
    _check(config)
    workdir = pathlib.Path(os.path.abspath(folder))
    names = {field.name for field in dataclasses.fields(launch.Launch)}
    processes = launch.Launch(**{name: flags.pop(name) for name in names & flags.keys()})

    reads = stage in READERS

    def prepare():
        used_by = functools.partial(reruns.used_by, workdir)
        config_file.check_same(config, workdir, FREE_KEYS, used_by, reruns.GONE, reruns.ADDED)
        # A reader leaves the config of whoever trains there as it is.
        saves = not reads or not (workdir / config_file.FILE_NAME).exists()
        is_new = saves and config_file.save_resolved(config, workdir)
        _say_doubts(stage, config)
        return lambda: config_file.forget_if_unused(workdir) if is_new else None

    keep_freed_memory()
    hold = None if reads else functools.partial(lock.hold, workdir, stage)
    start = launch.Start(hold, prepare, lambda: _module(stage).main(_read(config), workdir, **flags))
    if stage not in DISTRIBUTED:
        return entry.alone(start)
    entry.run(processes, config_file.to_json(config), workdir, [stage, flags], start)


class _Parser(argparse.ArgumentParser):
    """argparse, its mistakes raised as `UserError` and no flag abbreviated."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help")


def _parser() -> _Parser:
    parser = _Parser(prog="icegrt", usage=USAGE, description="RLHF in JAX: SFT, reward model, PPO and evaluation.")
    parser.add_argument("--version", action="version", version=f"icegrt_jax {__version__}")
    stages = parser.add_subparsers(dest="program", metavar="STAGE", required=True, prog="icegrt")
    for name, purpose in STAGES.items():
        stage = stages.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
        if name == "data":
            _add_data_commands(stage)
            continue
        if name == "check-model":
            _add_check_flags(stage)
            continue
        stage.epilog = (
            "Any key of the config can be set: --config.key=value, --config.group.key=value.\n"
            'Tuples are quoted: --config.key="(1, 2)". Booleans: --config.key=true or false.'
        )
        stage.add_argument("--config", required=True, metavar="FILE[:SWITCH]", help="config file, and its variant")
        if name == "plan":
            _add_plan_flags(stage)
            continue
        stage.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder; the same command resumes")
        if name in DISTRIBUTED:
            _add_process_flags(stage)
        if name == "sample":
            _add_sample_flags(stage)
        if name == "export":
            _add_export_flags(stage)
    return parser


def _add_process_flags(parser: _Parser) -> None:
    group = parser.add_argument_group("several hosts", "the same command on each; found by JAX on TPU pods, Slurm, ...")
    add = group.add_argument
    # Written with either dash: the flags of a launcher look like this, ours like that.
    add("--distributed", choices=("auto", "off"), default="auto", help="off: one process (default auto)")
    add("--coordinator", default="", metavar="HOST:PORT", help="of process 0, where nothing is found")
    add("--num-processes", "--num_processes", type=_positive(int), metavar="N", help="how many processes there are")
    add("--process-id", "--process_id", type=int, metavar="I", help="which one this is, from 0")
    add("--host-timeout", "--host_timeout", type=_positive(float), default=600.0, metavar="SECONDS",
        dest="timeout", help="how long one process waits for another (default 600)")  # fmt: skip


def _add_sample_flags(parser: _Parser) -> None:
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="STAGE", help="sft, ppo, ..., or the path of a model")
    add("--prompts", required=True, metavar="SPEC", help="where the prompts are, such as jsonl:prompts.jsonl")
    add("--out", required=True, metavar="FILE", help="the .jsonl file to write")
    add("--num_samples", type=_positive(int), default=4, metavar="K",
        help="answers per prompt; 1: instruction records (default 4)")  # fmt: skip
    add("--temperature", type=_at_least_0, default=1.0, help="of the sampler; 0 is greedy (default 1.0)")
    add("--max_new_tokens", type=_positive(int), default=128, help="longest answer in tokens (default 128)")


def _add_plan_flags(parser: _Parser) -> None:
    codes = "Exit code 0: fits, or the memory is not known; 3: does not fit; 2: cannot be planned."
    parser.epilog = f"{parser.epilog}\n{codes}"
    add = parser.add_argument
    add("--topology", required=True, metavar="SLICE", help="v5e:1x1, v5e:2x4, v4:2x2x4, v5p:4x4x4, v6e:16x16, cpu:8")
    add("--slices", type=_positive(int), default=1, metavar="N", help="of that shape (default 1)")
    add("--memory", type=_positive(float), default=0.0, metavar="GIB", help="of a chip (default: what it has)")
    add("--answers", type=_positive(int), default=4, metavar="K", help="of a ranked prompt (default 4)")
    add("--quick", action="store_true", help="do not search for the largest batches")
    add("--sweep", action="store_true", help="try meshes and rematerialisation, and print the best")
    add("--json", dest="as_json", action="store_true", help="for programs")
    add("--cache", default="~/.cache/icegrt_jax/plan", metavar="DIR", help="what has been compiled (%(default)s)")


def _add_check_flags(parser: _Parser) -> None:
    parser.epilog = "Exit code 0: the same within the tolerance; 1: something differs; 2: it cannot be checked."
    add = parser.add_argument
    add("--hf", required=True, metavar="DIR", help="Hugging Face folder of a language model or a reward model")
    add("--reference", default="", metavar="DIR", help="folder that transformers loads (default: the same)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation (default float32)")
    add("--prompts", default="", metavar="FILE.jsonl", help="prompt records (default: six built in)")
    add("--new_tokens", type=_positive(int), default=32, metavar="N", help="of the greedy answers (default 32)")
    add("--tolerance", type=_positive(float), default=0.0, metavar="X",
        help="difference over the largest logit (default 1e-4, 3e-2 with bfloat16)")  # fmt: skip


def _add_export_flags(parser: _Parser) -> None:
    add = parser.add_argument
    add("--stage", required=True, choices=TRAINED, help="whose model: %(choices)s")
    add("--role", choices=("policy", "value", "reward"), help="which of its models (default: policy, else reward)")
    add("--out", required=True, metavar="DIR", help="the folder to write")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of the tensors (%(default)s)")
    add("--adapter", action="store_true", help="write the stage's LoRA adapter alone, in PEFT's format")
    add("--base", default="", metavar="NAME", help="with --adapter: folder or hub name where PEFT will find the base")


def _add_data_commands(parser: _Parser) -> None:
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    check = commands.add_parser("check", help="read and validate every record, write nothing")
    build = commands.add_parser("build", help="write the records as a TFDS dataset (ArrayRecord)")
    for command in (check, build):
        command.add_argument("--source", required=True, metavar="SPEC", help="FORMAT:PATH, such as jsonl:rows.jsonl")
        command.add_argument("--kind", required=True, choices=KINDS, help="what a record is: %(choices)s")
        command.add_argument(
            "--data_dir",
            default=os.environ.get("ICEGRT_DATA", "."),
            metavar="DIR",
            help="where relative paths start (default: $ICEGRT_DATA, else here)",
        )
    measure = check.add_argument_group("token lengths", "shown with either")
    add = measure.add_argument
    add("--config", default="", metavar="FILE[:SWITCH]",
        help="whose tokenizer reads the records, and at whose lengths they are cut or dropped")  # fmt: skip
    add("--tokenizer", default="", metavar="DIR", help="Hugging Face folder, in place of the config's")
    add("--length", type=_positive(int), default=0, metavar="N", help="tokens, in place of the config's lengths")
    build.add_argument("--name", required=True, help="the dataset's name, read later as tfds:NAME@OUT")
    build.add_argument("--split", default="train", help="the dataset's split (default train)")
    build.add_argument("--out", required=True, metavar="DIR", help="folder of the dataset")


def _at_least_0(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


_at_least_0.__name__ = "number of 0 or more"  # as argparse's message says it


def _positive(kind: type):
    """A parser of numbers above 0, named so that argparse's message says what was expected."""

    def parse(text: str):
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def _refuse(unknown: str, args: argparse.Namespace) -> None:
    name = unknown.split("=")[0]
    if not name.startswith("-"):
        raise UserError(f"unexpected argument {unknown!r}; flags are written --name=value.")
    close = config_file.nearest(name.lstrip("-"), [flag for flag in vars(args) if flag not in ("program", "command")])
    raise UserError(f"unknown flag {name}{f'; did you mean --{close}?' if close else ''}")
