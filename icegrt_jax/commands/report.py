"""`icegrt report`: the curves of a run as PNG files, and one page with them, the table and examples."""

import pathlib

from icegrt_jax.commands import leaving_models
from icegrt_jax.config.convert import to_config
from icegrt_jax.config.file import to_json
from icegrt_jax.config.options import Options
from icegrt_jax.report.build import build
from icegrt_jax.runs.stage import Stage


def main(config: Options, workdir: pathlib.Path) -> None:
    """Writes WORKDIR/report; can be called while a stage trains."""
    stages = [command.get("STAGE") for command in leaving_models()]
    build(workdir, stages, to_json(to_config(config)))


STAGE = Stage("report", train=lambda run, config: main(config, run.workdir), due=lambda config: True)
