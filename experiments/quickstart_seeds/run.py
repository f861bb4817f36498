"""Does PPO improve the quickstart's expert, and more than choosing among eight, without costing general ability?

    python experiments/quickstart_seeds/run.py --runs=runs/seeds

Runs `icegrt run --config=configs/quickstart.py` once per seed (finished runs are not repeated), then writes
results/seeds.json, results/table.md and results/seeds.png beside this file.
"""

import argparse
import pathlib
import subprocess
import sys

import matplotlib
import numpy as np

from icegrt_jax import files
from icegrt_jax.evaluation.intervals import student
from icegrt_jax.training.metrics import read_metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).parent
CONFIG = "configs/quickstart.py"
COLUMNS = ("verdict", "analysis", "gold", "gold_greedy", "gold_best", "general", "false_clear", "length")
TITLES = {
    "verdict": "right verdicts", "analysis": "analysis", "gold": "gold, sampled", "gold_greedy": "gold, greedy",
    "gold_best": "gold, at its best temperature", "general": "general tasks", "false_clear": "false all-clears",
    "greedy/false_clear": "false all-clears, greedy", "length": "tokens",
}  # fmt: skip
# What the claim rests on: of ICE-GRT less another row, a number.
GAINS = (
    ("best-of-8", "gold"),
    *(("ICE-Instruct", name) for name in (
        "gold", "gold_greedy", "gold_best", "verdict", "analysis", "general", "false_clear", "greedy/false_clear")),
)  # fmt: skip


def run_seed(seed: int, workdir: pathlib.Path) -> None:
    """One whole run; output to WORKDIR.log."""
    command = [sys.executable, "-m", "icegrt_jax", "run", f"--config={CONFIG}", f"--workdir={workdir}"]
    with open(f"{workdir}.log", "a") as log:
        subprocess.run([*command, f"--config.seed={seed}"], check=True, stdout=log, stderr=subprocess.STDOUT)


def collect(workdir: pathlib.Path) -> dict:
    """The final table of one run, and the KL over the second half of PPO."""
    results = files.read_json(workdir / "evaluate" / "results.json")
    rows = {row["name"]: row["metrics"] for row in results["rows"]}
    ppo = read_metrics(workdir / "ppo" / "metrics.jsonl")
    late = [row["kl"] for row in ppo[len(ppo) // 2 :]]
    reward = files.read_json(workdir / "reward" / "done.json")["heldout"]
    raised = workdir / "ppo" / "alarms.jsonl"
    return {
        "rows": rows,
        "late_kl": float(np.mean(late)),
        "reward": reward,
        "gold_curve": [row["gold"] for row in ppo],
        "alarms": files.read_jsonl(raised) if raised.exists() else [],
    }


def interval(values: list[float]) -> dict[str, float]:
    """Mean and half the width of its 95 % Student interval."""
    mean, half = student(values)
    return {"mean": float(mean), "half_width": float(half)}


def summarize(seeds: dict[str, dict]) -> dict:
    """Gains of ICE-GRT over the other rows, paired by seed."""
    gain = {
        f"{TITLES[name]}, less {row}": interval(
            [s["rows"]["ICE-GRT"][name] - s["rows"][row][name] for s in seeds.values()]
        )
        for row, name in GAINS
    }
    return {"gain": gain, "late_kl": interval([s["late_kl"] for s in seeds.values()])}


def table(seeds: dict[str, dict], summary: dict) -> str:
    """Markdown: means over seeds by stage, gold by seed, and the paired gains."""
    names = list(next(iter(seeds.values()))["rows"])
    lines = [f"Means over {len(seeds)} seeds with their 95 % intervals; shares in per cent.", ""]
    lines += ["| stage | " + " | ".join(TITLES[name] for name in COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for name in names:
        cells = []
        for column in COLUMNS:
            scale = 1 if column == "length" else 100
            values = [scale * s["rows"][name][column] for s in seeds.values() if column in s["rows"][name]]
            cells.append("{mean:.1f} ± {half_width:.1f}".format(**interval(values)) if values else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| seed | " + " | ".join(f"gold {n}" for n in names[1:]) + " | general before | after | late KL |"]
    lines += ["|---|" + "---:|" * (len(names) + 2)]
    for seed, s in seeds.items():
        gold = " | ".join(f"{100 * s['rows'][n]['gold']:.1f}" for n in names[1:])
        before, after = (100 * s["rows"][n]["general"] for n in ("ICE-Instruct", "ICE-GRT"))
        lines.append(f"| {seed} | {gold} | {before:.1f} | {after:.1f} | {s['late_kl']:.2f} |")
    lines += ["", "ICE-GRT less another row, paired by seed, points, mean and 95 % interval over seeds:", ""]
    for name, x in summary["gain"].items():
        lines.append(f"- {name}: {100 * x['mean']:+.1f} ± {100 * x['half_width']:.1f}")
    late_kl = "{mean:.2f} ± {half_width:.2f}".format(**summary["late_kl"])
    lines.append(f"- KL to the sharper reference, second half of PPO: {late_kl} nats")
    return "\n".join(lines) + "\n"


def plot(seeds: dict[str, dict], path: pathlib.Path) -> None:
    """Gold score by stage, a line per seed, and the gold score of the rollouts."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    names = list(next(iter(seeds.values()))["rows"])[1:]
    for seed, s in seeds.items():
        left.plot(names, [100 * s["rows"][n]["gold"] for n in names], marker="o", label=f"seed {seed}")
        curve = np.array(s["gold_curve"])
        smooth = np.convolve(curve, np.ones(7) / 7, mode="valid")
        right.plot(np.arange(len(smooth)) + 4, 100 * smooth, label=f"seed {seed}")
    left.set(title="Gold score on held-out ads", ylabel="per cent")
    right.set(title="Gold score of the rollouts (mean of 7)", xlabel="PPO iteration", ylabel="per cent")
    left.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    if len(args.seeds) < 2:
        parser.error("--seeds: an interval over seeds needs two or more")
    args.runs.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        run_seed(seed, args.runs / f"seed_{seed}")
    seeds = {str(seed): collect(args.runs / f"seed_{seed}") for seed in args.seeds}
    summary = summarize(seeds)
    results = HERE / "results"
    files.write_json_atomic(results / "seeds.json", {"summary": summary, "seeds": seeds})
    files.write_text_atomic(results / "table.md", table(seeds, summary))
    plot(seeds, results / "seeds.png")
    print(table(seeds, summary))


if __name__ == "__main__":
    main()
