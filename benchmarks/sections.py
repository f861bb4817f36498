"""What the sections share: options, contenders and their environments, the description of the machine."""

import dataclasses
import functools
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

from benchmarks.cases import TINY, Model, llama_1b, smollm2, tiny
from benchmarks.formulas import Machine
from benchmarks.results import OURS
from benchmarks.turns import Contender, take_turns, threads

QUICK_ROUNDS = 1
PEERS = "benchmarks.peers"


@dataclasses.dataclass
class Options:
    """What was asked for on the command line.

    rounds: measured ones. quick: tiny models and sizes, to see that everything runs. gpu: the sections for a GPU.
    deadline: of time.monotonic, or None. smollm2: its folder. torch_python, tunix_python: interpreters of the peers.
    scratch: a folder for what has to be written. machine: measured limits, once they are.
    """

    rounds: int = 5
    quick: bool = False
    gpu: bool = False
    deadline: float | None = None
    smollm2: str = "models/smollm2-135m-instruct"
    torch_python: str = sys.executable
    tunix_python: str = ""
    scratch: pathlib.Path = pathlib.Path(tempfile.gettempdir())
    machine: Machine | None = None
    nominal_flops: float | None = None

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.gpu else "float32"

    @property
    def device(self) -> str:
        return "cuda" if self.gpu else "cpu"

    @property
    def weight_bytes(self) -> int:
        return 2 if self.gpu else 4

    def flops_rate(self) -> dict:
        """What utilisation is counted against: the vendor's rate of a known accelerator, else the measured one."""
        if self.nominal_flops:
            return {"flops_rate": self.nominal_flops, "flops_rate_is": "of the nominal rate"}
        return {"flops_rate": self.machine.flops, "flops_rate_is": "of the measured rate"}

    def tiny(self) -> Model:
        return tiny(self.scratch)

    def large(self) -> Model:
        """SmolLM2, on a GPU a 1B model; something tiny for a quick look."""
        if self.quick:
            return dataclasses.replace(llama_1b(), name="tiny Llama", shape=TINY) if self.gpu else self.tiny()
        return llama_1b() if self.gpu else smollm2(str(pathlib.Path(self.smollm2).absolute()))

    def no_model(self, model: Model) -> str:
        """Why a model cannot be measured, or nothing."""
        missing = model.path and not (pathlib.Path(model.path) / "config.json").is_file()
        return f"{model.name} is not there: make smollm2, or --smollm2=FOLDER" if missing else ""


@functools.cache
def versions(python: str, packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of those of `packages` that an interpreter has."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    try:
        run = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return json.loads(run.stdout)


@functools.cache
def has_cuda(python: str) -> bool:
    code = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


@dataclasses.dataclass(frozen=True)
class Missing:
    """A contender that this machine does not have, and why."""

    name: str
    why: str


def ours(function: str, settings: dict, name: str = OURS, **more) -> Contender:
    """more: of `Contender`."""
    return Contender(name, f"benchmarks.ours:{function}", settings, **more)


def torch_peer(options: Options, name: str, target: str, settings: dict, package: str) -> Contender | Missing:
    """A peer that runs in the environment of the extra `bench`."""
    found = versions(options.torch_python, ("torch", "transformers", "trl"))
    if "torch" not in found or package not in found:
        return Missing(name, f"{package} is not installed: pip install '.[bench]', or --torch-python=PATH")
    if target.startswith("trl_ppo") and tuple(map(int, found["trl"].split(".")[:2])) >= (1, 13):
        return Missing(name, f"TRL {found['trl']} has no PPO any more; 1.12 is the last: pip install '.[bench]'")
    if options.gpu and not has_cuda(options.torch_python):
        return Missing(name, "torch with CUDA is not installed")
    return Contender(name, f"{PEERS}.{target}", settings, options.torch_python)


def tunix_peer(options: Options, target: str, settings: dict) -> Contender | Missing:
    if not options.tunix_python:
        return Missing("Tunix", "not installed: --tunix-python=PATH or TUNIX_PYTHON names an environment of its own")
    if "google-tunix" not in versions(options.tunix_python, ("google-tunix",)):
        return Missing("Tunix", "google-tunix is not installed in the environment that --tunix-python names")
    return Contender("Tunix", f"{PEERS}.{target}", settings, options.tunix_python)


def run_case(options: Options, title: str, groups: list[list[Contender | Missing]], **facts) -> dict:
    """One case: the contenders of each group take turns, group after group.

    facts: "unit", "amount" and the like, for the tables.
    """
    print(f"  {title}", flush=True)
    case = {"title": title, **facts, "groups": []}
    say = functools.partial(print, flush=True)
    for group in groups:
        missing = [contender for contender in group if isinstance(contender, Missing)]
        for contender in missing:
            say(f"    {contender.name}: {contender.why}")
        present = [contender for contender in group if isinstance(contender, Contender)]
        if options.deadline is not None and time.monotonic() > options.deadline:
            say("    left out: the time budget is used up")
            found = {contender.name: {"missing": "the time budget was used up"} for contender in present}
        else:
            rounds = QUICK_ROUNDS if options.quick else options.rounds
            found = take_turns(present, rounds, gpu=options.gpu, deadline=options.deadline, say=say)
        found |= {contender.name: {"missing": contender.why} for contender in missing}
        case["groups"].append({contender.name: found[contender.name] for contender in group})
    return case


def left_out(title: str, why: str) -> dict:
    """A case that cannot be run here."""
    print(f"  {title}: left out: {why}", flush=True)
    return {"title": f"{title} Left out: {why}.", "unit": "", "amount": 0, "limit_s": None, "groups": []}


def description() -> dict:
    """The machine, as far as it says what it is."""
    cpu = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.is_file():
        names = (line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line)
        cpu = next(names, cpu)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {
        "cpu": cpu, "cores": threads(), "memory_gib": memory and round(memory / 2**30, 1), "system": platform.system(),
        "python": platform.python_version(),
    }  # fmt: skip


def all_versions(options: Options) -> dict[str, str]:
    """Of ours and of the peers' packages, prefixed where an environment of their own has another one."""
    found = versions(sys.executable, ("jax", "jaxlib", "numpy"))
    found |= versions(options.torch_python, ("torch", "transformers", "trl", "accelerate"))
    if options.tunix_python:
        theirs = versions(options.tunix_python, ("google-tunix", "jax"))
        found |= {"google-tunix": theirs["google-tunix"], "jax of Tunix": theirs["jax"]} if len(theirs) == 2 else {}
    return found
