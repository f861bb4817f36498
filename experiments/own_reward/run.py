"""What does PPO learn from a rule that a user writes in ten lines, from the reward model, and from both?

    python experiments/own_reward/run.py --runs=runs/own_reward

For each seed the stages before PPO are run once, then PPO and the evaluation for each arm (what is finished is not
repeated); then results/own_reward.json, results/table.md and results/own_reward.png are written beside this file.
"""

import argparse
import pathlib
import shutil
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
# In every arm the critic starts from ICE-Instruct, and the function is called: with weight 0 it is only looked at.
ALL = ("value.init=sft", "ppo.rewards.form=experiments/own_reward/form.py:form", "ppo.reward_scales.form=reference")
ARMS = {
    "function": ("ppo.reward_weights.model=0", "ppo.reward_weights.form=1"),
    "model": ("ppo.reward_weights.model=1", "ppo.reward_weights.form=0"),
    "both": ("ppo.reward_weights.model=1", "ppo.reward_weights.form=1"),
}
SHARED = ("data", "tokenizer", "pretrain", "sft", "reward")
COLUMNS = ("verdict", "analysis", "gold", "gold_greedy", "general", "length")
CURVES = {"reward/form": "the function's value", "gold": "gold score of the rollouts", "kl": "KL to ICE-Instruct, nats"}


def icegrt(stage: str, workdir: pathlib.Path, *overrides: str) -> None:
    """One stage; output to WORKDIR.log."""
    command = [sys.executable, "-m", "icegrt_jax", stage, f"--config={CONFIG}", f"--workdir={workdir}"]
    with open(f"{workdir}.log", "a") as log:
        command += [f"--config.{override}" for override in overrides]
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)


def run_seed(seed: int, runs: pathlib.Path) -> dict[str, pathlib.Path]:
    """The workdir of each arm, finished."""
    base = runs / f"base_{seed}"
    for stage in ("pretrain", "sft", "reward"):
        icegrt(stage, base, f"seed={seed}", *ALL)
    workdirs = {arm: runs / f"{arm}_{seed}" for arm in ARMS}
    for arm, workdir in workdirs.items():
        for part in SHARED:
            if not (workdir / part).exists():
                shutil.copytree(base / part, workdir / part)
        icegrt("run", workdir, f"seed={seed}", *ALL, *ARMS[arm])
    return workdirs


def collect(workdir: pathlib.Path) -> dict:
    """The table of one run and its curves."""
    results = files.read_json(workdir / "evaluate" / "results.json")
    rows = {row["name"]: row["metrics"] for row in results["rows"]}
    ppo = read_metrics(workdir / "ppo" / "metrics.jsonl")
    return {"rows": rows, "curves": {name: [row[name] for row in ppo] for name in CURVES}}


def said(values: list[float], column: str, sign: str = "") -> str:
    """Mean and interval as the table prints them."""
    mean, half = student([(1 if column == "length" else 100) * value for value in values])
    return f"{mean:{sign}.1f} ± {half:.1f}"


def table(seeds: dict[str, dict[str, dict]]) -> str:
    """Markdown: what ICE-Instruct is, what choosing among eight makes of it, and what each arm does; seed by seed too.

    Args:
      seeds: {seed: {arm: what `collect` gives}}.
    """
    rows = {name: [seed["model"]["rows"][name] for seed in seeds.values()] for name in ("ICE-Instruct", "best-of-8")}
    rows |= {f"PPO, {arm}": [seed[arm]["rows"]["ICE-GRT"] for seed in seeds.values()] for arm in ARMS}
    head = ["| model | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    lines = [
        f"Means over {len(seeds)} seeds with their 95 % intervals; shares in per cent, length in tokens.",
        "",
        *head,
    ]
    for name, found in rows.items():
        cells = [said([row[c] for row in found], c) if all(c in row for row in found) else "-" for c in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "Differences of the same seed, both less model:", "", *head]
    pairs = list(zip(rows["PPO, both"], rows["PPO, model"], strict=True))
    cells = [said([both[c] - model[c] for both, model in pairs], c, "+") for c in COLUMNS]
    lines.append("| both - model | " + " | ".join(cells) + " |")
    lines += ["", "Each seed; `value` is the function's in the last ten iterations, KL in nats:", ""]
    lines += ["| seed | arm | value | KL | gold | gold_greedy | length |", "|---|---|" + "---:|" * 5]
    for seed, arms in seeds.items():
        for arm in ARMS:
            row, curves = arms[arm]["rows"]["ICE-GRT"], arms[arm]["curves"]
            value, kl = (float(np.mean(curves[name][-10:])) for name in ("reward/form", "kl"))
            golds = f"{100 * row['gold']:.1f} | {100 * row['gold_greedy']:.1f}"
            lines.append(f"| {seed} | {arm} | {value:.3f} | {kl:.2f} | {golds} | {row['length']:.1f} |")
    return "\n".join(lines) + "\n"


def plot(seeds: dict[str, dict[str, dict]], path: pathlib.Path) -> None:
    """Each curve by arm: every seed thin, their mean thick; means of seven iterations."""
    figure, axes = plt.subplots(1, len(CURVES), figsize=(4.6 * len(CURVES), 4), layout="constrained")
    for ax, (name, title) in zip(axes, CURVES.items(), strict=True):
        for arm in ARMS:
            curves = np.array([seed[arm]["curves"][name] for seed in seeds.values()])
            smooth = np.stack([np.convolve(curve, np.ones(7) / 7, mode="valid") for curve in curves])
            steps = np.arange(smooth.shape[1]) + 4
            (line,) = ax.plot(steps, smooth.mean(0), label=arm, linewidth=2.2)
            ax.plot(steps, smooth.T, color=line.get_color(), linewidth=0.8, alpha=0.6)
        ax.set(title=title, xlabel="PPO iteration")
        ax.grid(alpha=0.3)
    axes[0].legend(title="rewarded by")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/own_reward"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    if len(args.seeds) < 2:
        parser.error("--seeds: an interval over seeds needs two or more")
    args.runs.mkdir(parents=True, exist_ok=True)
    workdirs = {seed: run_seed(seed, args.runs) for seed in args.seeds}
    seeds = {str(seed): {arm: collect(path) for arm, path in arms.items()} for seed, arms in workdirs.items()}
    results = HERE / "results"
    files.write_json_atomic(results / "own_reward.json", seeds)
    files.write_text_atomic(results / "table.md", table(seeds))
    plot(seeds, results / "own_reward.png")
    print(table(seeds))


if __name__ == "__main__":
    main()
