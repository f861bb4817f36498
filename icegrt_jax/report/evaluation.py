"""The table of `icegrt evaluate` as the page shows it: a few columns in words first, all of them on demand."""

from collections.abc import Mapping, Sequence
from typing import Any

from icegrt_jax.evaluation.table import columns_of, difference_cell, differences_of, format_note
from icegrt_jax.report import words

NEVER_BEST = ("length", "temperature", "n")
Results = dict[str, Any]  # of results.json


def metric_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the metrics that any row has, in the order they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row["metrics"]))


def table(results: Results) -> dict[str, Any]:
    """Columns and rows; `first` are the columns that are shown before one asks for all.

    A cell is marked as the best of its column where the intervals of the differences to every other row say so.
    """
    rows, names = results["rows"], metric_names(results["rows"])
    given = {**dict(columns_of(results)), **results.get("harms", {})}
    first = [key for key, _ in columns_of(results) if key in names]
    order = [*first, *(name for name in names if name not in first)]
    columns = [
        {"key": name, "title": words.title_of(name, given), "first": name in first, "share": words.is_share(name)}
        for name in order
    ]
    told = [_row(row, columns, results.get("best", {})) for row in rows]
    return {"columns": columns, "rows": told, "more": len(first) < len(order)}


def _row(row: Mapping[str, Any], columns: Sequence[Mapping[str, Any]], best: Mapping[str, str]) -> dict[str, Any]:
    cells = []
    for column in columns:
        key, share = column["key"], column["share"]
        bounds = row.get("intervals", {}).get(key)
        at = ""
        if key == "gold_best" and "temperature" in row["metrics"]:
            at = f"at {row['metrics']['temperature']:g}" if row["metrics"]["temperature"] else "greedy"
        cells.append(
            {
                "text": words.number(row["metrics"].get(key), share=share),
                "interval": words.interval(bounds, share=share), "at": at,
                "best": best.get(key) == row["name"] and key not in NEVER_BEST,
                "first": column["first"],
            }
        )  # fmt: skip
    return {"name": row["name"], "cells": cells}


def differences(results: Results) -> list[dict[str, Any]]:
    """What is compared, each with its lines of what differs, by how much, and what the interval says."""
    return [
        {
            "title": compared,
            "rows": [[one["title"], difference_cell(one).strip(), _verdict(one, results)] for one in lines],
        }
        for compared, lines in differences_of(results)
    ]


def _verdict(one: Mapping[str, Any], results: Results) -> str:
    low, high = one["interval"]
    if low <= 0 <= high:
        return "could be chance"
    less = one["metric"].rpartition("/")[2] in results.get("harms", {})
    return "better" if (low > 0) != less else "worse"


def note(results: Results) -> str:
    """What stands below the table."""
    return format_note(results)


def bars(results: Results) -> list[dict[str, Any]]:
    """Charts of the table: gold of every row with its interval, and the general tasks before and after."""
    rows, names = results["rows"], metric_names(results["rows"])
    given = dict(columns_of(results))
    charts = []
    gold = [name for name in ("gold", "gold_greedy", "gold_best") if name in names]
    if gold:
        charts.append(
            _chart("Held-out prompts of the domain", rows, {name: words.title_of(name, given) for name in gold})
        )
    for group, title in (("general", "General tasks, before and after"), ("gold", "Gold by kind of prompt")):
        of_group = {name: words.plain(name.partition("/")[2]) for name in names if name.startswith(f"{group}/")}
        if of_group:
            charts.append(_chart(title, rows, of_group))
    return charts


def _chart(title: str, rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, str]) -> dict[str, Any]:
    bars_of = []
    for at, row in enumerate(rows):
        if any(row["metrics"].get(name) is not None for name in metrics):
            bounds = [row.get("intervals", {}).get(name) for name in metrics]
            bars_of.append(
                {
                    "name": row["name"],
                    "colour": at,
                    "y": [row["metrics"].get(name) for name in metrics],
                    "bounds": bounds,
                }
            )
    return {"title": title, "labels": list(metrics.values()), "bars": bars_of}


def temperatures(results: Results) -> list[dict[str, Any]]:
    """Gold of each row by the temperature that was tried, on the prompts that it is chosen on."""
    return [
        {
            "name": row["name"], "colour": at, "metric": "gold", "x": [float(t) for t in tried],
            "y": [float(gold) for gold in tried.values()],
        }
        for at, row in enumerate(results["rows"])
        if (tried := row.get("gold_by_temperature"))
    ]  # fmt: skip
