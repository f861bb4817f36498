"""`icegrt report`: one page of a run, or of several laid over each other."""

import pathlib
from collections.abc import Sequence

from icegrt_jax import commands
from icegrt_jax.config.convert import to_config
from icegrt_jax.config.file import flatten
from icegrt_jax.config.options import LogOptions, Options
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.report.build import build
from icegrt_jax.report.compare import compare as compare_runs
from icegrt_jax.report.live import Live
from icegrt_jax.runs.stage import Stage

RECIPE = "the config given"


def main(workdir: str = "", compare: Sequence[str] = (), out: str = "", config: Options | None = None) -> None:
    """Writes WORKDIR/report/index.html, or a page of the runs that are compared; can be called while a stage trains."""
    if bool(workdir) == bool(compare):
        raise UserError("icegrt report: expected --workdir=RUN, or --compare RUN RUN … for several.")
    if compare:
        folders = [pathlib.Path(folder) for folder in compare]
        path = pathlib.Path(out) if out else folders[0] / "report" / "compare.html"
        compare_runs(folders, stages(), path)
    elif out:
        raise UserError("icegrt report: --out is for --compare; the page of a run is its report/index.html.")
    else:
        recipe = (RECIPE, flatten(to_config(config))) if config else None
        path = build(pathlib.Path(workdir), stages(), recipe)
    print(f"report: {path}")


def stages() -> list[Stage]:
    """Those that a run goes through, but for this one."""
    return [command.get("STAGE") for command in commands.in_run() if command.name != "report"]


def while_training(workdir: pathlib.Path, log: LogOptions) -> tuple[Live, ...]:
    """What writes the report again while a stage trains; nothing with `log.report_minutes` 0."""
    return (Live(workdir, stages, log.report_minutes),) if log.report_minutes else ()


def _of_run(workdir: pathlib.Path) -> None:
    if sync.is_main():
        print(f"report: {build(workdir, stages())}")


STAGE = Stage("report", train=lambda run, config: _of_run(run.workdir), due=lambda config: True)
