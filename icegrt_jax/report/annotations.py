"""The report's table of what has been annotated in each round, and what became of it."""

import pathlib
from typing import Any

from icegrt_jax import files
from icegrt_jax.runs.annotation import COUNTS

COLUMNS = ("round", "ranked by", "rankings", "answers", "answers in all", "reward model, held out", "KL (nats)")


def table(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Its columns and rows as texts; None of a run with one round."""
    path = workdir / "data" / COUNTS
    counts = files.read_json(path) if path.is_file() else []
    rows, answers = [], 0
    for row in counts:
        answers += row["answers"]
        # The last round lies in the workdir itself.
        earlier = workdir / "rounds" / str(row["round"])
        found = [_of_stages(folder) for folder in (earlier, workdir) if folder == workdir or folder.is_dir()][0]
        numbers = (row["round"], row["by"] or "the config's sources", row["rankings"], row["answers"], answers)
        rows.append([*map(str, numbers), *found])
    return {"columns": COLUMNS, "rows": rows} if rows else None


def _of_stages(folder: pathlib.Path) -> tuple[str, str]:
    """Accuracy of the round's reward model on held-out rankings, and the KL of its PPO; as far as they are there."""
    done = [folder / stage / "done.json" for stage in ("reward", "ppo")]
    reward, ppo = (files.read_json(path) if path.is_file() else {} for path in done)
    accuracy = {name: x for name, x in reward.get("heldout", {}).items() if name.endswith("/accuracy")}
    shown = ", ".join(f"{name.removesuffix('/accuracy')} {x:.3f}" for name, x in accuracy.items())
    return shown or "–", f"{ppo['late_kl']:.2f}" if "late_kl" in ppo else "–"
