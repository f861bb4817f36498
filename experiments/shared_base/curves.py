"""Does PPO with adapters on one shared base learn what PPO of four full models learns?

    python experiments/shared_base/curves.py --runs=runs/shared_base

Runs the quickstart's chain twice with one seed, as configs/quickstart.py and as its switch :shared_base (finished
runs are not repeated), and writes results/curves.json, results/curves.png and results/curves.md beside this file.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys

import matplotlib
import numpy as np

from icegrt_jax import files
from icegrt_jax.training.metrics import read_metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = pathlib.Path(__file__).parent / "results"
WAYS = {"four full models": "", "shared base, rank 16": ":shared_base"}
CURVES = {"gold": "gold score of the rollouts", "score_raw": "ICE-Reward's score", "kl": "KL to the reference, nats"}
COLUMNS = ("verdict", "analysis", "gold", "gold_greedy", "general", "length")
SAME = ("data", "tokenizer", "pretrain", "sft")  # the two differ from the reward stage on


def run(switch: str, workdir: pathlib.Path) -> None:
    command = [sys.executable, "-m", "icegrt_jax", "run", f"--config=configs/quickstart.py{switch}"]
    with open(f"{workdir}.log", "a") as log:
        subprocess.run([*command, f"--workdir={workdir}"], check=True, stdout=log, stderr=subprocess.STDOUT)


def share(first: pathlib.Path, second: pathlib.Path) -> None:
    """Copies the stages that are the same in both, unless they are there."""
    for name in SAME:
        if (first / name).is_dir() and not (second / name).exists():
            shutil.copytree(first / name, second / name)


def collect(workdir: pathlib.Path) -> dict:
    rows = files.read_json(workdir / "evaluate" / "results.json")["rows"]
    metrics = read_metrics(workdir / "ppo" / "metrics.jsonl")
    return {
        "rows": {row["name"]: row["metrics"] for row in rows},
        "reward": files.read_json(workdir / "reward" / "done.json")["heldout"],
        "first_update": {name: metrics[0][name] for name in ("first_ratio_error", "kl")},
        "curves": {name: [row[name] for row in metrics] for name in CURVES},
    }


def table(results: dict[str, dict]) -> str:
    lines = ["| | held-out accuracy of ICE-Reward | " + " | ".join(COLUMNS) + " |"]
    lines += ["|---|" + "---:|" * (len(COLUMNS) + 1)]
    for way, result in results.items():
        row = result["rows"]["ICE-GRT"]
        cells = [f"{row[name] * (1 if name == 'length' else 100):.1f}" for name in COLUMNS]
        accuracy = 100 * result["reward"]["made/accuracy"]
        lines.append(f"| ICE-GRT, {way} | {accuracy:.1f} | " + " | ".join(cells) + " |")
    row = results["four full models"]["rows"]["ICE-Instruct"]
    cells = [f"{row[name] * (1 if name == 'length' else 100):.1f}" for name in COLUMNS]
    return "\n".join([*lines, "| ICE-Instruct, both | | " + " | ".join(cells) + " |"]) + "\n"


def plot(results: dict[str, dict], path: pathlib.Path) -> None:
    figure, panels = plt.subplots(1, len(CURVES), figsize=(13, 4), layout="constrained")
    for axes, (name, title) in zip(panels, CURVES.items(), strict=True):
        for way, result in results.items():
            smooth = np.convolve(result["curves"][name], np.ones(5) / 5, mode="valid")
            axes.plot(np.arange(len(smooth)) + 3, smooth, label=way)
        axes.set(title=f"{title} (mean of 5)", xlabel="PPO iteration")
        axes.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/shared_base"))
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    workdirs = {way: args.runs / (switch.strip(":") or "full") for way, switch in WAYS.items()}
    first, second = workdirs.values()
    run("", first)
    share(first, second)
    run(":shared_base", second)
    results = {way: collect(workdir) for way, workdir in workdirs.items()}
    RESULTS.mkdir(exist_ok=True)
    files.write_json_atomic(RESULTS / "curves.json", results)
    files.write_text_atomic(RESULTS / "curves.md", table(results))
    plot(results, RESULTS / "curves.png")
    print(table(results))


if __name__ == "__main__":
    main()
