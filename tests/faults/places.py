"""Where a run is at each moment, told line by line through a FIFO: "+PLACE" where it comes to one, "-PLACE" back there.

A place is STAGE/WHAT: a phase of the progress line, a compiled step, a checkpoint, a small file, a measurement.
"""

import contextlib
import importlib
import os

# Run by `tests.commands.forked.Forked` with the FIFO and the arguments of icegrt.
CODE = """
import sys
from tests.faults import places
places.tell(sys.argv.pop(1))
from icegrt_jax.__main__ import main
sys.exit(main())
"""
CALLED = {  # by name, what is a place while it runs
    "icegrt_jax.commands.reward:rank_own_answers": "own answers ranked",
    "icegrt_jax.commands.reward:measure": "measurement",
    "icegrt_jax.commands.reward:fit_normalization": "normalisation",
    "icegrt_jax.commands.ppo:_report_kl": "KL reported",
    "icegrt_jax.runs.rundir:finish": "end of the stage",
    "icegrt_jax.report.build:rendered": "the page",
    "icegrt_jax.files:write_text_atomic": "a small file",
    "icegrt_jax.files:append_jsonl": "a row appended",
    "icegrt_jax.files:cut_jsonl": "rows cut",
    "icegrt_jax.runs.loop:resumed": "restore",
}
SAVED = "checkpoint"


def tell(fifo: str) -> None:
    """Has this process tell where it is from now on."""
    line, stack, stage = os.open(fifo, os.O_WRONLY), ["start/imports"], ["start"]

    @contextlib.contextmanager
    def at(what: str):
        place = f"{stage[0]}/{what}"
        stack.append(place)
        os.write(line, f"+{place}\n".encode())
        try:
            yield
        finally:
            stack.remove(place)
            os.write(line, f"-{stack[-1]}\n".encode())

    def wrapped(call, what: str):
        def told(*args, **kwargs):
            with at(what):
                return call(*args, **kwargs)

        return told

    def jit_step(compiled):
        return lambda step, *rest: wrapped(compiled(step, *rest), getattr(step, "__name__", "update"))

    def header(print_header):
        def told(title, *args, **kwargs):
            stage[0], stack[:] = title, [f"{title}/begin"]
            os.write(line, f"+{title}/begin\n".encode())
            return print_header(title, *args, **kwargs)

        return told

    def phase(phase_of):
        @contextlib.contextmanager
        def told(self, name):
            with at(name), phase_of(self, name):
                yield

        return told

    os.write(line, b"+start/imports\n")
    modules = {name: importlib.import_module(f"icegrt_jax.{name}") for name in (
        "training.progress", "training.checkpoints", "commands.run", "runs.iteration", "runs.loop")}  # fmt: skip
    modules["training.progress"].Progress.phase = phase(modules["training.progress"].Progress.phase)
    checkpoints = modules["training.checkpoints"].Checkpoints
    checkpoints.save = wrapped(checkpoints.save, SAVED)
    modules["commands.run"].print_header = header(modules["commands.run"].print_header)
    for name in ("runs.iteration", "runs.loop"):
        modules[name].jit_step = jit_step(modules[name].jit_step)
    for name, what in CALLED.items():
        module, _, function = name.partition(":")
        holder = importlib.import_module(module)
        setattr(holder, function, wrapped(getattr(holder, function), what))
