"""Do the four factors of ICE-GRT matter: data, size of the reward, KL-control, normalised advantages?

    python experiments/four_factors/run.py --runs=runs/seeds --out=runs/four_factors

RUNS has the finished runs of `experiments/quickstart_seeds/run.py`. Of each seed PPO and the evaluation are run again
for every arm, from that seed's reward model, or from its base model where SFT is another too; what is finished is not
repeated, and with --only=ARM other arms are left for another time. Then results/four_factors.json, results/table.md and
results/frontier.png are written beside this file, of the arms that two or more of the seeds have finished.
"""

import argparse
import pathlib
import subprocess
import sys
from typing import Any

import matplotlib
import numpy as np

from icegrt_jax import files
from icegrt_jax.evaluation.intervals import student
from icegrt_jax.training.metrics import read_metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).parent
CONFIG = "configs/quickstart.py"
RECIPE = "recipe"
# KL-control as it is usually done: to ICE-Instruct as it is, the coefficient led to a target.
ADAPTIVE = (
    "ppo.kl.reference_temperature=0.0", "ppo.kl.adaptive=True", "ppo.kl.coef=0.15", "ppo.kl.target=1.5",
    "ppo.kl.horizon=500.0",
)  # fmt: skip
# The factor, the last stage that is taken from the seed's run, and what is another in the config.
ARMS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "score as it is": ("reward scaling", "reward", ("ppo.score.scale=none",)),
    "score a tenth": ("reward scaling", "reward", ("ppo.reward_weights.model=0.1",)),
    "score ten times": ("reward scaling", "reward", ("ppo.reward_weights.model=10.0",)),
    "no KL": ("KL-control", "reward", ("ppo.kl.coef=0.0",)),
    "KL ten times": ("KL-control", "reward", ("ppo.kl.coef=2.5",)),
    "reference not sharper": ("KL-control", "reward", ("ppo.kl.reference_temperature=0.0",)),
    "adaptive, reference not sharper": ("KL-control", "reward", ADAPTIVE),
    "advantages as they are": ("advantage normalization", "reward", ("ppo.advantages=none",)),
    "advantages to mean 0 only": ("advantage normalization", "reward", ("ppo.advantages=mean",)),
    "score ten times, advantages as they are": (
        "advantage normalization", "reward", ("ppo.reward_weights.model=10.0", "ppo.advantages=none"),
    ),
    "no replay": ("data", "reward", ("ppo.ptx.coef=0.0",)),
    "SFT on the domain alone": (
        "data", "pretrain",
        ("sft.weights.domain=0.7", "sft.weights.decisions=0.3", "sft.weights.general=0.0", "ppo.ptx.coef=0.0"),
    ),
    "three times as long": ("length", "reward", ("ppo.iterations=180",)),
    "three times as long, adaptive, reference not sharper": ("length", "reward", ("ppo.iterations=180", *ADAPTIVE)),
}  # fmt: skip
# ICE-Instruct's own best temperature and best-of-8 are measured in the study of seeds.
ALL = ("evaluate.temperatures=(0.0,)", "evaluate.best_of=0")
TICKS = (0.1, 0.2, 0.3, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 50)  # nats
LEAST_KL = 0.4  # nats, that are shown: with less the critic alone has learned, where nothing moves the actor
COLUMNS = ("gold", "gold_greedy", "verdict", "analysis", "general", "false_clear", "length")


def run_arm(seed: int, base: pathlib.Path, workdir: pathlib.Path, stage: str, overrides: tuple[str, ...]) -> None:
    """PPO and evaluation, and what of the stages before is another; output to WORKDIR.log."""
    command = [sys.executable, "-m", "icegrt_jax", "run", f"--config={CONFIG}", f"--workdir={workdir}"]
    command += [f"--from={base}:{stage}", f"--config.seed={seed}"]
    command += [f"--config.{override}" for override in (*ALL, *overrides)]
    with open(f"{workdir}.log", "a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)


def workdir_of(out: pathlib.Path, arm: str, seed: int) -> pathlib.Path:
    return out / f"{arm.replace(' ', '_').replace(',', '')}_{seed}"


def is_finished(workdir: pathlib.Path) -> bool:
    return (workdir / "evaluate" / "results.json").is_file()


def collect(workdir: pathlib.Path) -> dict[str, Any]:
    """ICE-GRT's row of one run, and the curves of its PPO."""
    results = files.read_json(workdir / "evaluate" / "results.json")
    rows = {row["name"]: row["metrics"] for row in results["rows"]}
    ppo = read_metrics(workdir / "ppo" / "metrics.jsonl")
    return {
        "row": {name: rows["ICE-GRT"][name] for name in COLUMNS},
        "curves": {name: [row[name] for row in ppo if name in row] for name in ("gold", "kl")},  # alarms have rows too
    }


def finished_by(seeds: dict[str, dict], arm: str) -> list[dict]:
    """What each of the seeds that have finished an arm has found."""
    return [found for found in seeds.values() if arm in found]


def difference(seeds: dict[str, dict], arm: str, column: str) -> str:
    """An arm less the recipe, paired by seed, as the table prints it; bold where the interval leaves 0 out."""
    scale = 1 if column == "length" else 100
    found = [scale * (s[arm]["row"][column] - s[RECIPE]["row"][column]) for s in finished_by(seeds, arm)]
    mean, half = student(found)
    said = f"{mean:+.1f} ± {half:.1f}"
    return f"**{said}**" if abs(mean) > half else said


def table(seeds: dict[str, dict[str, dict]]) -> str:
    """Markdown: the recipe, and what each arm is above or below it.

    Args:
      seeds: {seed: {arm: what `collect` gives}}; an arm that fewer than two have is left out.
    """
    arms = [arm for arm in ARMS if len(finished_by(seeds, arm)) > 1]
    lines = [
        "Means with their 95 % intervals over seeds, points, length in tokens; arms are less the recipe,",
        "paired by seed, bold where the interval leaves 0 out; KL in nats over the last ten iterations.",
        "",
        "| factor | arm | seeds | " + " | ".join(COLUMNS) + " | KL |",
        "|---|---|---:|" + "---:|" * (len(COLUMNS) + 1),
    ]
    late = lambda arm: np.mean([np.mean(s[arm]["curves"]["kl"][-10:]) for s in finished_by(seeds, arm)])
    cells = []
    for column in COLUMNS:
        scale = 1 if column == "length" else 100
        mean, half = student([scale * s[RECIPE]["row"][column] for s in seeds.values()])
        cells.append(f"{mean:.1f} ± {half:.1f}")
    lines.append(f"| | {RECIPE} | {len(seeds)} | {' | '.join(cells)} | {late(RECIPE):.1f} |")
    for arm in arms:
        cells = [str(len(finished_by(seeds, arm))), *(difference(seeds, arm, column) for column in COLUMNS)]
        lines.append(f"| {ARMS[arm][0]} | {arm} | {' | '.join(cells)} | {late(arm):.1f} |")
    return "\n".join(lines) + "\n"


def plot(seeds: dict[str, dict[str, dict]], path: pathlib.Path) -> None:
    """Gold of the rollouts against their KL as training goes on, a panel per factor, means over the seeds of an arm."""
    shown = [arm for arm in ARMS if len(finished_by(seeds, arm)) > 1]
    factors = list(dict.fromkeys(ARMS[arm][0] for arm in shown))
    figure, axes = plt.subplots(
        1, len(factors), figsize=(4.2 * len(factors), 4), sharey=True, layout="constrained", squeeze=False
    )
    for ax, factor in zip(axes[0], factors, strict=True):
        for arm in (RECIPE, *(arm for arm in shown if ARMS[arm][0] == factor)):
            curves = [found[arm]["curves"] for found in finished_by(seeds, arm)]
            kl, gold = (
                np.convolve(np.mean([curve[name] for curve in curves], axis=0), np.ones(5) / 5, "valid")
                for name in ("kl", "gold")
            )
            ax.plot(kl, 100 * gold, label=arm, linewidth=2.2 if arm == RECIPE else 1.2)
            ax.plot(kl[-1:], 100 * gold[-1:], "o", color=ax.lines[-1].get_color(), markersize=4)
        ax.set(title=factor, xlabel="KL in the penalty, nats", xscale="log")
        low, high = ax.get_xlim()
        low = max(low, LEAST_KL)
        ax.set_xlim(left=low)
        ax.set_xticks([tick for tick in TICKS if low <= tick <= high], minor=False)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    axes[0, 0].set_ylabel("gold of the rollouts, per cent")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/seeds"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/four_factors"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS), help="arms to run")
    args = parser.parse_args()
    if len(args.seeds) < 2:
        parser.error("--seeds: an interval over seeds needs two or more")
    args.out.mkdir(parents=True, exist_ok=True)
    for arm in args.only:
        for seed in args.seeds:
            workdir, (_, stage, overrides) = workdir_of(args.out, arm, seed), ARMS[arm]
            if not is_finished(workdir):
                run_arm(seed, args.runs / f"seed_{seed}", workdir, stage, overrides)
    seeds = {}
    for seed in args.seeds:
        found = {arm: path for arm in ARMS if is_finished(path := workdir_of(args.out, arm, seed))}
        seeds[str(seed)] = {
            RECIPE: collect(args.runs / f"seed_{seed}"), **{arm: collect(path) for arm, path in found.items()}
        }  # fmt: skip
    results = HERE / "results"
    files.write_json_atomic(results / "four_factors.json", seeds)
    files.write_text_atomic(results / "table.md", table(seeds))
    plot(seeds, results / "frontier.png")
    print(table(seeds))


if __name__ == "__main__":
    main()
