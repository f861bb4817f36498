"""The report of a run: one page with what was run, the table, the curves, the answers and the config.

Reads what the stages have written in the workdir, as far as it is there, and writes `report/index.html`, a single file
that can be sent by mail. Can be run while a stage trains.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from icegrt_jax import files
from icegrt_jax.config.convert import default_config
from icegrt_jax.config.file import FILE_NAME, flatten, from_json
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation.table import columns_of
from icegrt_jax.report import about, alarms, annotations, browse, evaluation, lines, page, settings, words
from icegrt_jax.runs import history
from icegrt_jax.runs.stage import Stage
from icegrt_jax.training import times
from icegrt_jax.training.metrics import HISTOGRAMS, read_metrics

CLOSED = ("pretrain", "sft")  # their curves are looked at last
RESULTS = pathlib.Path("evaluate", "results.json")


def build(
    workdir: pathlib.Path, stages: Sequence[Stage], recipe: tuple[str, Mapping[str, Any]] | None = None
) -> pathlib.Path:
    """Writes `workdir/report/index.html`; refuses a run that has done nothing.

    Args:
      stages: of a run, in order.
      recipe: name and keys of a config that the run's is compared with.

    Returns:
      The page's path.
    """
    workdir = pathlib.Path(workdir)
    if not has_something(workdir, stages):
        raise UserError(
            f"{workdir}: nothing to report, no stage has written metrics or results here; name the --workdir of a run, "
            "or begin one with `icegrt run`."
        )
    path = workdir / "report" / "index.html"
    files.write_text_atomic(path, rendered(workdir, stages, recipe))
    return path


def has_something(workdir: pathlib.Path, stages: Sequence[Stage]) -> bool:
    """Whether a stage has written anything to show."""
    made = [workdir / stage.name / "metrics.jsonl" for stage in stages] + [workdir / RESULTS]
    return any(path.exists() and path.stat().st_size for path in made)


def rendered(
    workdir: pathlib.Path, stages: Sequence[Stage], recipe: tuple[str, Mapping[str, Any]] | None = None
) -> str:
    """The page."""
    results = read(workdir / RESULTS)
    config_text = config_of(workdir)
    values = flatten(from_json(config_text)) if config_text else flatten(default_config())
    metrics = {stage.name: rows_of(workdir / stage.name) for stage in stages}
    facts = [
        found
        for stage in stages
        if (found := about.stage_facts(workdir / stage.name, stage, last_step(metrics[stage.name]))) is not None
    ]
    of_run = about.of_run(workdir, facts)
    drawn = [
        _drawn(workdir / stage.name, stage, metrics[stage.name], values) for stage in stages if metrics[stage.name]
    ]
    titles = {**dict(columns_of(results)), **results.get("harms", {})} if results else {}
    collections = browse.collections(workdir, titles)
    typed = about.overrides(of_run["commands"])
    keys = settings.table(config_text, recipe[1] if recipe else None, typed) if config_text else []
    return page.render(
        "report.html",
        {
            "stages": [{key: stage[key] for key in DRAWN} for stage in drawn],
            "bars": evaluation.bars(results) if results else [],
            "temperatures": evaluation.temperatures(results) if results else [],
            "collections": collections,
        },
        title=f"ICE-GRT run: {workdir.resolve().name}", state=_state(facts), written=about.moment(history.now()),
        facts=about.lines(of_run), begun=[_shown(stage) for stage in facts],
        timed=any(stage["began"] for stage in facts),
        table=evaluation.table(results) if results else None, note=evaluation.note(results) if results else "",
        differences=evaluation.differences(results) if results else [],
        annotations=annotations.table(workdir), stages=drawn, has_answers=bool(collections), settings=keys,
        recipe=recipe[0] if recipe else "", any_typed=any(row["typed"] for row in keys),
    )  # fmt: skip


DRAWN = ("name", "panels", "frontier", "histograms", "calibration")


def _drawn(folder: pathlib.Path, stage: Stage, rows: list[dict[str, Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's curves, and what stands above them."""
    events, histograms = alarms.read(folder), folder / HISTOGRAMS
    note = f"last metrics at step {last_step(rows)}"
    if lengths := [row["value_warmup"] for row in rows if "value_warmup" in row]:
        note += f"; the critic learned alone for the first {lengths[-1]:.0f}"
    is_ppo = stage.name == "ppo"
    return {
        "name": stage.name, "title": stage.title or stage.name, "note": note, "alarms": alarms.table(events),
        "open": stage.name not in CLOSED,
        "panels": lines.panels_of(rows, stage.panels, alarms.marks(events)),
        "frontier": lines.frontier(rows, values.get("log.ppo_checkpoint_every", 1)) if is_ppo else None,
        "histograms": lines.histograms(files.read_jsonl(histograms)) if histograms.is_file() else [],
        "calibration": _calibration(read(folder / "calibration.json")),
    }  # fmt: skip


def rows_of(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The metrics of a stage, and of its times the speed and the learning rate."""
    path = folder / "metrics.jsonl"
    rows = read_metrics(path) if path.is_file() else []
    return [*rows, *times.by_step(times.read(folder))] if rows else []


def last_step(rows: Sequence[Mapping[str, Any]]) -> int:
    """0 without rows."""
    return max((row["step"] for row in rows), default=0)


def config_of(workdir: pathlib.Path) -> str:
    """The run's resolved config as JSON, "" where none is there."""
    path = workdir / FILE_NAME
    return files.read_text(path) if path.is_file() else ""


def read(path: pathlib.Path) -> dict[str, Any] | None:
    """A JSON file of the run, None where it is not there."""
    return files.read_json(path) if path.is_file() else None


def _calibration(bins: Mapping[str, Any] | None) -> dict[str, list[float]] | None:
    """The bins of all held-out pairs that hold any."""
    seen = [i for i, count in enumerate(bins["count"]) if count] if bins else []
    return {key: [bins[key][i] for i in seen] for key in ("confidence", "accuracy", "count")} if bins and seen else None


def _state(facts: Sequence[Mapping[str, Any]]) -> str:
    open_ = [stage["title"] for stage in facts if stage["state"] == "under way"]
    stopped = [stage["title"] for stage in facts if stage["state"] == "stopped"]
    if open_:
        return f"Under way: {', '.join(open_)}."
    return f"Stopped in {', '.join(stopped)}." if stopped else "All stages that have begun are finished."


def _shown(stage: Mapping[str, Any]) -> dict[str, Any]:
    seconds, compiling = stage["seconds"], stage["compiling"]
    return {
        **stage, "when": about.moment(stage["began"]),
        "time": "" if seconds is None else words.duration(seconds),
        "compiled": "" if compiling is None else words.duration(compiling),
    }  # fmt: skip
