"""The report of a run: its curves as PNG files, and one page with them, the table and examples.

Reads `metrics.jsonl` of each stage, `reward/calibration.json` and `evaluate/results.json`, as far as they are there;
writes `report/*.png` and `report/index.html`, a single file that can be sent by mail. Can be run while a stage trains.
"""

import io
import pathlib
from collections.abc import Sequence

import matplotlib.pyplot as plt

from icegrt_jax import files
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation.table import columns_of, difference_cell, differences_of
from icegrt_jax.hosts import sync
from icegrt_jax.report import alarms, annotations, curves, page
from icegrt_jax.runs.stage import Stage
from icegrt_jax.training.metrics import read_metrics


def build(workdir: pathlib.Path, stages: Sequence[Stage], config: str) -> None:
    """Writes `workdir/report/`; what a run has not done yet is said on the page. Refuses one that has done nothing.

    Args:
      stages: that have curves.
      config: of the run as JSON, shown at the end of the page.
    """
    if not sync.is_main():
        return
    workdir = pathlib.Path(workdir)
    made = [workdir / stage.name / "metrics.jsonl" for stage in stages] + [workdir / "evaluate" / "results.json"]
    if not any(path.exists() and path.stat().st_size for path in made):
        raise UserError(
            f"{workdir}: nothing to report, no stage has written metrics or results here; name the --workdir of a run, "
            "or begin one with `icegrt run`."
        )
    out = workdir / "report"
    out.mkdir(parents=True, exist_ok=True)
    results = _read(workdir / "evaluate" / "results.json")
    sections = [_stage_section(workdir, stage, out) for stage in stages]
    sections.append(_evaluation_section(results, out))
    text = page.render(
        title=f"ICE-GRT run: {workdir.resolve().name}",
        table=_table(results) if results else None,
        differences=_differences(results) if results else [],
        annotations=annotations.table(workdir),
        sections=sections,
        examples=_examples(results) if results else [],
        config=config,
    )
    files.write_text_atomic(out / "index.html", text)
    print(f"report: {out / 'index.html'}")


def _stage_section(workdir: pathlib.Path, stage: Stage, out: pathlib.Path) -> dict:
    name, title = stage.name, stage.title
    path = workdir / name / "metrics.jsonl"
    rows = read_metrics(path) if path.exists() else []
    if not rows:
        return {"name": name, "title": title, "note": f"No metrics of {name} in this run.", "images": []}
    events = alarms.read(workdir / name)
    figure = curves.training_figure(rows, stage.panels, title, alarms.marks(events))
    images = [_save(figure, out / f"{name}.png")]
    calibration = _read(workdir / name / "calibration.json")
    if calibration:
        images.append(_save(curves.calibration_figure(calibration), out / f"{name}_calibration.png"))
    done = "finished" if (workdir / name / "done.json").exists() else "not finished"
    note = f"{done}, last metrics at step {rows[-1]['step']}"
    if lengths := [row["value_warmup"] for row in rows if "value_warmup" in row]:
        note += f"; the critic learned alone for the first {lengths[-1]:.0f}"
    return {"name": name, "title": title, "note": note, "images": images, "alarms": alarms.table(events)}


def _evaluation_section(results: dict | None, out: pathlib.Path) -> dict:
    section = {"name": "evaluate", "title": "Evaluation by metric and task", "note": "", "images": []}
    if not results:
        return section | {"note": "No evaluation in this run."}
    return section | {
        "images": [_save(curves.evaluation_figure(results["rows"], columns_of(results)), out / "evaluate.png")]
    }


def _table(results: dict) -> dict:
    """Returns the cells of the table, the best of each column marked: the highest, of a judge's harms the lowest."""
    rows, harms = results["rows"], results.get("harms", ())
    columns = curves.metric_names(rows)
    best = {}
    for c in columns:
        values = [v for row in rows if (v := row["metrics"].get(c)) is not None]
        if values and c != "temperature":  # which is chosen, not better
            best[c] = min(values) if c.rpartition("/")[2] in harms else max(values)
    cell = lambda v, c: {"text": "–" if v is None else f"{v:.3f}", "best": v is not None and v == best.get(c)}
    cells = lambda row: [cell(row["metrics"].get(c), c) for c in columns]
    return {"columns": columns, "rows": [{"name": row["name"], "cells": cells(row)} for row in rows]}


def _differences(results: dict) -> list[dict]:
    """Returns what is compared, each with its lines of what differs and by how much."""
    return [
        {"title": compared, "rows": [(one["title"], difference_cell(one)) for one in found]}
        for compared, found in differences_of(results)
    ]


def _examples(results: dict) -> list[dict]:
    """Returns the examples with their answers in the order of the models."""
    order = results.get("order") or [row["name"] for row in results["rows"]]
    return [
        {"prompt": e["prompt"], "answers": [(name, e["answers"][name]) for name in order if name in e["answers"]]}
        for e in results.get("examples", [])
    ]


def _save(figure: plt.Figure, path: pathlib.Path) -> bytes:
    """Writes a figure as PNG, closes it and returns the file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def _read(path: pathlib.Path) -> dict | None:
    return files.read_json(path) if path.exists() else None
