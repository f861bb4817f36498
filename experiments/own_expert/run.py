"""From a clone to a table of one's own on SmolLM2, each step timed.

    python experiments/own_expert/run.py --data=FOLDER --work=runs/own_expert [--model=FOLDER]

`--data` is the folder of the public sets (docs/data.md), of which ComVE is taken as two tables of a user. The rest
is README's: its commands, its reward function, its config, of which only paths and columns are changed. Without
`--model` the model folder is made by the README's command, from the network. Writes results/trial.json and
results/table.md beside this file.
"""

import argparse
import csv
import gzip
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
QUESTION = "Why does this make no sense? {false_sentence}"
TABLES = {"reasons_train.csv": ("train.jsonl.gz", 1500), "reasons_test.csv": ("test.jsonl", 300)}
SECTION = "Your data, your reward"
MODEL = "models/smollm2-135m-instruct"


def shown(readme: str) -> dict[str, str]:
    """{name: text} of the files that README's section shows."""
    section = readme.partition(f"## {SECTION}\n")[2].partition("\n## ")[0]
    names = re.findall(r"\*\*(\w+\.py)\*\*", section)
    return dict(zip(names, re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE), strict=True))


def edited(config: str, model: str) -> str:
    """The config with the user's names in it: the tables', the column of the answers and the model's folder."""
    changes = [
        ("train.csv", "reasons_train.csv"),
        ("test.csv", "reasons_test.csv"),
        ("=answer", "=reason"),
        (MODEL, model),
    ]
    for before, after in changes:
        assert before in config, before
        config = config.replace(before, after)
    return config


def tables(data: pathlib.Path, folder: pathlib.Path) -> None:
    """The user's tables: a sentence that makes no sense, and an expert's reason why."""
    for name, (source, count) in TABLES.items():
        path = data / "domain" / "comve" / source
        opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
        with opened as lines, open(folder / name, "w", newline="", encoding="utf-8") as out:
            rows = [json.loads(line) for line in lines][:count]
            csv.writer(out).writerow(["id", "question", "reason"])
            csv.writer(out).writerows([r["id"], QUESTION.format(**r), r["reference_reasons"][0]] for r in rows)


class Clock:
    """Runs commands, keeps what they print and how long each took: seconds, and those of the processors."""

    def __init__(self, folder: pathlib.Path, environment: dict[str, str]):
        self.folder, self.environment, self.steps = folder, environment, {}

    def run(self, step: str, *command: str) -> list[tuple[float, str]]:
        """The lines that a command prints, each with the seconds since it began."""
        print(f"{step}: {' '.join(command)}", flush=True)
        began, before, lines = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN), []
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for line in process.stdout:
            lines.append((time.perf_counter() - began, line.rstrip()))
            print(line, end="", flush=True)
        if process.wait():
            sys.exit(f"{step} failed with {process.returncode}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self.steps[step] = {"seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(cpu, 1)}
        return lines


def parts(lines: list[tuple[float, str]]) -> dict[str, float]:
    """Seconds of each part of `icegrt run`, and before the first; from its headings."""
    marks = [(at, match[1]) for at, line in lines if (match := re.match(r"\[\d/\d\] (\w+):", line))]
    marks = [(0.0, "start"), *marks, (lines[-1][0], "")]
    return {name: round(end - at, 1) for (at, name), (end, _) in zip(marks, marks[1:])}


def table(trial: dict) -> str:
    """Both tables as Markdown: what came out, and how long it took."""
    lines = [f"{trial['prompts']} held-out prompts; in brackets 95 % intervals over them.", ""]
    lines += ["| stage | gold, sampled | gold, greedy | tokens |", "|---|---:|---:|---:|"]
    for row in trial["rows"]:
        cells = []
        for name in ("gold", "gold_greedy"):
            low, high = row["intervals"][name]
            cells.append(f"{100 * row['metrics'][name]:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        lines.append(f"| {row['name']} | {' | '.join(cells)} | {row['metrics']['length']:.1f} |")
    lines += ["", "| step | seconds | CPU seconds |", "|---|---:|---:|"]
    for step, took in trial["steps"].items():
        lines.append(f"| {step} | {took['seconds']:.0f} | {took['cpu_seconds']:.0f} |")
    lines += [f"| ... {name} | {seconds:.0f} | |" for name, seconds in trial["parts"].items()]
    total = {name: sum(took[name] for took in trial["steps"].values()) for name in ("seconds", "cpu_seconds")}
    lines.append(f"| all | {total['seconds']:.0f} | {total['cpu_seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--model", default="")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True)  # a new folder: nothing of an earlier trial is there
    own = {"VIRTUAL_ENV", "PYTHONPATH", "ICEGRT_DATA"}
    clock = Clock(arguments.work.resolve(), {name: value for name, value in os.environ.items() if name not in own})
    clock.run("clone", "git", "clone", "-q", str(ROOT), "repo")
    clock.folder = clock.folder / "repo"
    clock.run("virtual environment", sys.executable, "-m", "venv", ".venv")
    constraints = "constraints.txt" if sys.version_info < (3, 12) else "constraints-py313.txt"
    clock.run("install", ".venv/bin/pip", "install", "-q", "-e", ".", "-c", constraints)
    if not arguments.model:
        clock.run("model folder", ".venv/bin/python", "-m", "icegrt_jax.models.smollm2", f"--out={MODEL}")
    tables(arguments.data, clock.folder)
    files = shown((clock.folder / "README.md").read_text(encoding="utf-8"))
    files["mine.py"] = edited(files["mine.py"], arguments.model or MODEL)
    for name, text in files.items():
        (clock.folder / name).write_text(text, encoding="utf-8")
    lines = clock.run("run", ".venv/bin/icegrt", "run", "--config=mine.py", "--workdir=runs/mine")
    results = json.loads((clock.folder / "runs/mine/evaluate/results.json").read_text())
    trial = {
        "steps": clock.steps, "parts": parts(lines), "rows": results["rows"], "prompts": results["prompts"]["domain"],
        "examples": results["examples"], "processors": os.cpu_count(),
    }  # fmt: skip
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "trial.json").write_text(
        json.dumps(trial, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (HERE / "results" / "table.md").write_text(table(trial), encoding="utf-8")
    print(table(trial))


if __name__ == "__main__":
    main()
