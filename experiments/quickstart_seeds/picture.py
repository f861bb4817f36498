"""The picture of the README, docs/quickstart.png, from the numbers of the study beside this file.

    python experiments/quickstart_seeds/picture.py

Points are means over the seeds and bars their 95 % intervals; thin lines are single seeds.
"""

import pathlib

import matplotlib
import numpy as np

from icegrt_jax import files
from icegrt_jax.evaluation.intervals import student

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).parent
OUT = HERE.parents[1] / "docs" / "quickstart.png"
STAGES = ("base", "ICE-Instruct", "best-of-8", "ICE-GRT")
METRICS = {"verdict": "#4477aa", "analysis": "#cc6677", "general": "#999933"}
LABELS = {"general": "general tasks (not asked of best-of-8)"}
SMOOTH = 7  # iterations of PPO in a running mean


def by_stage(axes, seeds: list[dict]) -> None:
    """What each stage scores on held-out prompts, a colour per metric."""
    for offset, (metric, colour) in zip((-0.2, 0.0, 0.2), METRICS.items(), strict=True):
        for x, stage in enumerate(STAGES):
            values = np.array([100 * s["rows"][stage][metric] for s in seeds if metric in s["rows"][stage]])
            if len(values):  # best-of-n has no general tasks
                mean, half = student(values)
                label = LABELS.get(metric, metric) if stage == STAGES[0] else None
                axes.bar(x + offset, mean, 0.19, yerr=half, capsize=3, color=colour, label=label)
    axes.set(title="Held-out prompts, by stage", ylabel="per cent", ylim=(0, 100))
    axes.set_xticks(range(len(STAGES)), STAGES)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False, fontsize=9)


def during_ppo(axes, seeds: list[dict]) -> None:
    """The judge's score of the answers that PPO samples; the judge never reaches the training."""
    curves = 100 * np.array([np.convolve(s["gold_curve"], np.ones(SMOOTH) / SMOOTH, mode="valid") for s in seeds])
    steps = np.arange(curves.shape[1]) + 1 + SMOOTH // 2
    axes.plot(steps, curves.T, color="#882255", alpha=0.25, linewidth=0.8)
    mean, half = student(curves)
    axes.plot(steps, mean, color="#882255", linewidth=2, label=f"answers during PPO (mean of {SMOOTH} iterations)")
    axes.fill_between(steps, mean - half, mean + half, color="#882255", alpha=0.15, linewidth=0)
    for stage, style in (("ICE-Instruct", ":"), ("best-of-8", "--")):
        level = np.mean([100 * s["rows"][stage]["gold"] for s in seeds])
        axes.axhline(level, color="black", linestyle=style, linewidth=1, label=f"{stage}, held-out prompts")
    axes.set(title="Gold score (verdict and analysis) in PPO", xlabel="iteration", ylabel="per cent", ylim=(35, 95))
    axes.legend(loc="lower right", frameon=False, fontsize=8)


def main() -> None:
    seeds = list(files.read_json(HERE / "results" / "seeds.json")["seeds"].values())
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    by_stage(left, seeds)
    during_ppo(right, seeds)
    for axes in (left, right):
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    figure.suptitle(f"Quickstart on a CPU: means over {len(seeds)} seeds with 95 % intervals", fontsize=11)
    figure.savefig(OUT, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
