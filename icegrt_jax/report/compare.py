"""Several runs laid over each other, as one page: their curves, tables, and the keys in which they differ."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from icegrt_jax import files
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation.table import columns_of
from icegrt_jax.report import about, build, evaluation, lines, page, settings, words
from icegrt_jax.runs import history
from icegrt_jax.runs.stage import Stage

MOST = 8  # runs: as many as there are colours


def compare(workdirs: Sequence[pathlib.Path], stages: Sequence[Stage], path: pathlib.Path) -> None:
    """Writes the page; refuses fewer than two runs, more than `MOST`, and one that has done nothing."""
    if len(workdirs) < 2:
        raise UserError("--compare: expected two runs or more, --compare RUN RUN; one alone is --workdir=RUN.")
    if len(workdirs) > MOST:
        raise UserError(f"--compare: {len(workdirs)} runs; expected {MOST} at most: more are not told apart.")
    for workdir in workdirs:
        if not build.has_something(workdir, stages):
            raise UserError(f"{workdir}: nothing to compare, no stage has written metrics or results here.")
    files.write_text_atomic(path, rendered(dict(zip(names_of(workdirs), workdirs)), stages))


def names_of(workdirs: Sequence[pathlib.Path]) -> list[str]:
    """What each run is called: the last part of its path, or so many of the last that all are told apart."""
    parts = [workdir.resolve().parts for workdir in workdirs]
    if len(set(parts)) < len(parts):
        twice = next(workdir for i, workdir in enumerate(workdirs) if parts[i] in parts[:i])
        raise UserError(f"--compare: {twice} is named twice; expected different runs.")
    count = next(n for n in range(1, max(map(len, parts)) + 1) if len({of[-n:] for of in parts}) == len(parts))
    return [str(pathlib.PurePath(*of[-count:])) for of in parts]


def rendered(runs: Mapping[str, pathlib.Path], stages: Sequence[Stage]) -> str:
    """The page; `runs` are workdirs by name."""
    results = {name: found for name, folder in runs.items() if (found := build.read(folder / build.RESULTS))}
    drawn = []
    for stage in stages:
        rows = {name: of_stage for name, folder in runs.items() if (of_stage := build.rows_of(folder / stage.name))}
        if panels := overlaid(list(runs), rows, stage):
            is_open = stage.name not in build.CLOSED
            drawn.append({"name": stage.name, "title": stage.title or stage.name, "open": is_open, "panels": panels})
    configs = {name: text for name, folder in runs.items() if (text := build.config_of(folder))}
    shown = [_facts(name, folder, stages) for name, folder in runs.items()]
    return page.render(
        "compare.html",
        {
            "stages": [{"name": stage["name"], "panels": stage["panels"]} for stage in drawn],
            "bars": _bars(results),
        },
        title=f"{len(runs)} runs: {', '.join(runs)}", written=about.moment(history.now()), runs=shown,
        table=_table(results) if results else None, stages=drawn,
        keys=settings.between(configs) if len(configs) == len(runs) else [],
    )  # fmt: skip


def overlaid(names: Sequence[str], rows: Mapping[str, list[dict[str, Any]]], stage: Stage) -> list[dict[str, Any]]:
    """The panels of a stage that a run has data for: a colour for each run, a dash for each metric of a panel."""
    of_run = {
        name: {panel["title"]: panel for panel in lines.panels_of(found, stage.panels)} for name, found in rows.items()
    }
    found = []
    for panel in stage.panels:
        having = {name: panels[panel.title] for name, panels in of_run.items() if panel.title in panels}
        if not having or panel.stacked:
            continue
        metrics = list(dict.fromkeys(line["metric"] for one in having.values() for line in one["lines"]))
        drawn = []
        for name, one in having.items():
            for line in one["lines"]:
                title = name if len(metrics) == 1 else f"{name}: {line['name']}"
                more = {"name": title, "colour": names.index(name), "dash": metrics.index(line["metric"]) % 4}
                drawn.append({**line, **more})
        found.append({"title": panel.title, "group": panel.group, "share": panel.share, "lines": drawn})
    return found


def _facts(name: str, folder: pathlib.Path, stages: Sequence[Stage]) -> dict[str, str]:
    found = (
        about.stage_facts(folder / stage.name, stage, build.last_step(build.rows_of(folder / stage.name)))
        for stage in stages
    )
    of_run = about.of_run(folder, [facts for facts in found if facts is not None])
    told = {what: "; ".join(values) for what, values in about.lines(of_run)}
    spent = "" if of_run["seconds"] is None else words.duration(of_run["seconds"])
    return {
        "name": name, "when": told.get("When", ""), "devices": told.get("Devices", ""),
        "versions": told.get("Versions", ""), "time": spent,
    }  # fmt: skip


def _table(results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The columns that are shown first in any of the runs, and every run's rows."""
    columns: dict[str, str] = {}
    for one in results.values():
        known = evaluation.metric_names(one["rows"])
        columns |= {key: words.title_of(key, dict(columns_of(one))) for key, _ in columns_of(one) if key in known}
    rows = []
    for run, one in results.items():
        for row in one["rows"]:
            cells = []
            for key in columns:
                share = words.is_share(key)
                bounds = words.interval(row.get("intervals", {}).get(key), share=share)
                cells.append({"text": words.number(row["metrics"].get(key), share=share), "interval": bounds})
            rows.append({"run": run, "name": row["name"], "cells": cells})
    return {"columns": list(columns.values()), "rows": rows}


def _bars(results: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each chart the last row of every run beside each other: what it has come to."""
    of_title: dict[str, dict[str, dict[str, Any]]] = {}
    for run, one in results.items():
        for chart in evaluation.bars(one):
            if chart["bars"]:
                of_title.setdefault(chart["title"], {})[run] = chart
    charts = []
    for title, of_run in of_title.items():
        labels = list(dict.fromkeys(label for chart in of_run.values() for label in chart["labels"]))
        drawn = []
        for run, chart in of_run.items():
            last, at = chart["bars"][-1], {label: i for i, label in enumerate(chart["labels"])}
            values = {
                key: [last[key][at[label]] if label in at else None for label in labels] for key in ("y", "bounds")
            }
            drawn.append({"name": f"{run}: {last['name']}", "colour": list(results).index(run), **values})
        if len(drawn) > 1:
            charts.append({"title": title, "labels": labels, "bars": drawn})
    return charts
