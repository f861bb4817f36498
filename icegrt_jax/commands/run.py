"""`icegrt run`: every stage in order. A finished stage is skipped, an unfinished one continues."""

import pathlib
import time

from icegrt_jax import commands
from icegrt_jax.config.options import Options
from icegrt_jax.hosts import sync
from icegrt_jax.runs import batch_check, begin, inputs, notes, provenance
from icegrt_jax.training.preemption import stop_if_asked
from icegrt_jax.training.progress import print_header


def main(config: Options, workdir: pathlib.Path) -> None:
    """Runs the stages that are not finished yet."""
    began = time.perf_counter()
    steps = [(command.get("STAGE"), command.in_run) for command in commands.in_run()]
    for stage, _ in steps:
        stage.check_config(config)
    training = {stage.name: getattr(config, stage.name) for stage, _ in steps if stage.steps(config)}
    batch_check.check_batches(config.mesh, batch_check.of_batches(training), workdir)
    # Each stage would say the same of its own inputs, hours later.
    notes.warn("run", inputs.check(config, workdir, *(stage for stage, _ in steps)))
    notes.warn("run", provenance.check(workdir, config.data_dir, [stage.name for stage, _ in steps]))
    parts = [(stage, purpose) for stage, purpose in steps if stage.is_due(config)]
    for number, (stage, purpose) in enumerate(parts, start=1):
        print_header(stage.name, purpose, number=number, total=len(parts))
        begin.carry_out(stage, config, workdir)
        sync.barrier(f"{stage.name} ends")
        stop_if_asked()
    minutes, seconds = divmod(round(time.perf_counter() - began), 60)
    print(f"finished in {minutes} min {seconds} s; open {pathlib.Path(workdir) / 'report' / 'index.html'}")
