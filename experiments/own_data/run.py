"""Are public data sets trained on as they lie, each in the shape that its publisher gave it?

    ICEGRT_DATA=DIR python experiments/own_data/run.py --runs=runs/own_data

DIR has the public sets of docs/data.md. A small base model is trained, from it ICE-Instruct on three sets of
conversations, from that a reward model on two sets of rankings. What is finished is not repeated. Writes own_data.json
and table.md into results/ beside this file.
"""

import argparse
import os
import pathlib
import runpy
import subprocess
import sys

from icegrt_jax import files
from icegrt_jax.data.records import Instruction, Ranking
from icegrt_jax.data.sources import understood

HERE = pathlib.Path(__file__).parent
CONFIG = HERE / "config.py"
SHAPES = {
    "alpaca": "instruction, input, output",
    "gsm8k": "columns of other names, mapped",
    "cos_e": "question, choices, answer, explanation",
    "hh_rlhf": "two answers to a transcript",
    "comve": "answers with scores",
}


def icegrt(stage: str, workdir: pathlib.Path, *more: str) -> dict:
    """The `done.json` of a stage, which is trained where it isn't yet; output to WORKDIR.STAGE.log."""
    if not (workdir / stage / "done.json").exists():
        command = [sys.executable, "-m", "icegrt_jax", stage, f"--config={CONFIG}", f"--workdir={workdir}", *more]
        with open(f"{workdir}.{stage}.log", "w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    return files.read_json(workdir / stage / "done.json")


def measured(runs: pathlib.Path, stage: str, before: str, sets: dict) -> dict[str, dict]:
    """Of each set what the check understands of it, and what training on all of them has changed on its held-out rows.

    Args:
      before: the stage that this one begins with.
    """
    kind, number = (Instruction, "loss") if stage == "sft" else (Ranking, "accuracy")
    # One update at a learning rate of nothing: the model as it begins.
    idle = [f"--config.{stage}.steps=1", f"--config.{stage}.optimizer.lr=1e-12"]
    start, run = runs / f"before_{stage}", runs / "run"
    icegrt(stage, start, *([] if (start / "from.json").exists() else [f"--from={run}:{before}"]), *idle)
    icegrt(stage, run)
    data, rows = files.read_json(run / stage / "data.json"), {}
    heldout = {folder: files.read_jsonl(folder / stage / "heldout.jsonl")[-1] for folder in (start, run)}
    for name, (source, _) in sets.items():
        first = understood(source, kind=kind)
        rows[name] = {
            "source": source,
            "understood": first[0].partition(": ")[2] if first else "",
            "stage": stage,
            "counts": {key: value for key, value in data[name].items() if isinstance(value, int)},
            "number": number,
            **{key: heldout[folder][f"heldout/{name}/{number}"] for key, folder in (("before", start), ("after", run))},
        }
    return rows


def table(sets: dict[str, dict]) -> str:
    """Markdown: a row for each set."""
    lines = [
        "| set | shape of its rows | stage | records | read | cut | dropped | held out | before | after |",
        "|---|---|---|---:|---:|---:|---:|---|---:|---:|",
    ]
    for name, found in sets.items():
        counts = found["counts"]
        read = counts["records"] - counts.get("dropped", 0) - counts.get("identical", 0)
        shown = (lambda x: f"{x:.3f}") if found["number"] == "loss" else (lambda x: f"{100 * x:.1f} %")
        cells = [name, SHAPES[name], found["stage"], counts["records"], read, counts.get("cut", 0)]
        cells += [counts["records"] - read, found["number"], shown(found["before"]), shown(found["after"])]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    lines += ["", "As they were named, and understood:", ""]
    lines += [f"- `{x['source']}`{': ' if x['understood'] else ''}{x['understood']}" for x in sets.values()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/own_data"))
    args = parser.parse_args()
    if not os.environ.get("ICEGRT_DATA"):
        return print("skipped: needs the public data sets of docs/data.md; set ICEGRT_DATA to their folder")
    runs = args.runs.absolute()
    runs.mkdir(parents=True, exist_ok=True)
    config = runpy.run_path(str(CONFIG))
    icegrt("pretrain", runs / "run")
    sets = measured(runs, "sft", "pretrain", config["SFT"]) | measured(runs, "reward", "sft", config["REWARD"])
    files.write_json_atomic(HERE / "results" / "own_data.json", sets)
    files.write_text_atomic(HERE / "results" / "table.md", table(sets))
    print(table(sets))


if __name__ == "__main__":
    main()
