"""The smallest run of the whole chain, as a command of its own process or as a call."""

import contextlib
import functools
import io
import os
import pathlib
import re
import shutil
import subprocess

import jax
import pytest

from icegrt_jax import cli
from tests.commands.forked import Forked

ROOT = pathlib.Path(__file__).parent.parent.parent
QUICKSTART = f"--config={ROOT / 'configs' / 'quickstart.py'}:smoke"
SIZES = {
    "corpus": 120, "demonstrations": 120, "general": 120, "rankings": 24, "ranking_prompts": 8,
    "heldout_rankings": 8, "prompts": 40, "eval_prompts": 8, "eval_general": 1,
}  # fmt: skip
KEYS = {
    **{f"domain_sizes.{name}": size for name, size in SIZES.items()},
    # One layer, and rows of PPO that are all of one width, 54 + 10 tokens: half of what is traced and compiled.
    "model.num_layers": 1, "max_prompt_length": 54, "max_response_length": 10,
    "pretrain.steps": 6, "pretrain.batch_size": 8,
    "sft.steps": 6, "sft.batch_size": 8,
    "reward.steps": 6, "reward.batch_size": 8, "reward.on_policy_k": 3, "reward.normalize_on": 8,
    "ppo.iterations": 5, "ppo.batch_size": 8, "ppo.ptx.batch_size": 8, "ppo.ptx.coef": 0.3,
    # As by default: the quickstart's coefficient is fixed, and its reference sharper than the policy at the start.
    "ppo.kl.adaptive": True, "ppo.kl.target": 1.5, "ppo.kl.horizon": 250.0, "ppo.kl.reference_temperature": 0.0,
    # A schedule would depend on the number of iterations, which tests change.
    "ppo.policy_optimizer.schedule": "constant", "ppo.value_optimizer.schedule": "constant",
    "evaluate.batch_size": 8, "evaluate.best_of": 2,
    "log.every": 2, "log.checkpoint_every": 3, "log.ppo_checkpoint_every": 2, "log.samples_every": 2,
    "log.followed": 2,
}  # fmt: skip
PLAIN = """
import sys
from icegrt_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""
# Kills the process, or asks it to stop, when the progress of a stage shows a step, or when a function is first called.
DRIVER = """
import importlib, os, sys
from icegrt_jax.training.progress import Progress
update, (where, step, number) = Progress.update, sys.argv[1:4]

def update_and_signal(self, at, *metrics):
    update(self, at, *metrics)
    if self._title == where and at == int(step):
        os.kill(os.getpid(), int(number))

Progress.update = update_and_signal
if ":" in where:
    module, name = importlib.import_module(where.split(":")[0]), where.split(":")[1]
    called, calls = getattr(module, name), []

    def call_and_signal(*args, **kwargs):
        calls.append(1)
        if len(calls) == int(step):
            os.kill(os.getpid(), int(number))
        return called(*args, **kwargs)

    setattr(module, name, call_and_signal)
from icegrt_jax.cli import main
sys.exit(main(sys.argv[4:]))
"""


def copy_parts(finished: tuple, workdir: pathlib.Path, *names: str) -> pathlib.Path:
    """A workdir with the named parts of a finished run, as if it had only come that far."""
    workdir.mkdir(parents=True, exist_ok=True)
    for name in names:
        copy = shutil.copytree if (finished[0] / name).is_dir() else shutil.copy
        copy(finished[0] / name, workdir / name)
    return workdir


def command(stage: str, workdir, *more: str, **keys) -> list[str]:
    """The arguments of `icegrt STAGE` on the smallest run; `keys` are further keys of the config."""
    overrides = [f"--config.{key}={value}" for key, value in {**KEYS, **keys}.items()]
    return [stage, QUICKSTART, f"--workdir={workdir}", *overrides, *more]


def call(stage: str, workdir, *more: str, **keys) -> int:
    """The exit code of the command, run in this process: on its eight devices where `keys` say of a mesh, else on one.

    What this process has compiled for an earlier command is not compiled again.
    """
    with contextlib.nullcontext() if any(key.startswith("mesh.") for key in keys) else one_of_the_devices():
        return cli.main(command(stage, workdir, *more, **keys))


@contextlib.contextmanager
def one_of_the_devices():
    """Within, JAX says that this process has one device."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("devices", "local_devices"):
            patch.setattr(jax, name, functools.partial(_first, getattr(jax, name)))
        for name in ("device_count", "local_device_count"):
            patch.setattr(jax, name, lambda *backend: 1)
        yield


def _first(devices, *backend):
    return devices(*backend)[:1]


def one_device() -> dict[str, str]:
    """The environment of a process that has one device."""
    flags = re.sub(r"--xla_force_host_platform_device_count=\S+", "", os.environ["XLA_FLAGS"])
    return {**os.environ, "XLA_FLAGS": flags}


def begin(arguments: list[str], *, stop: tuple | None = None, env: dict[str, str] | None = None, cwd=ROOT) -> Forked:
    """The command, started in a process of its own, by default on one device; `stop` as for `run`."""
    code = DRIVER if stop else PLAIN
    return Forked(code, [*(stop or ()), *arguments], env=env or one_device(), cwd=cwd)


def ended(process: Forked) -> subprocess.CompletedProcess:
    """What it has printed, said on stderr and returned."""
    printed, said = process.communicate()
    return subprocess.CompletedProcess([], process.returncode, printed, said)


def run(stage: str, workdir, *more: str, stop: tuple | None = None, **keys) -> subprocess.CompletedProcess:
    """The command in a process of its own, on one device, when it has ended.

    Args:
      stop: (stage, step, signal), sent when that step of that stage is shown as done; or ("MODULE:FUNCTION", call,
        signal), sent when that function is called for the first time, the second, ...
    """
    return ended(begin(command(stage, workdir, *more, **keys), stop=stop))


def inside(stage: str, workdir, *more: str, **keys) -> subprocess.CompletedProcess:
    """As `run`, in this process as `call`: sooner, and rounded otherwise than in one that has a single device."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()) as said:
        code = call(stage, workdir, *more, **keys)
    return subprocess.CompletedProcess([], code, printed.getvalue(), said.getvalue())
