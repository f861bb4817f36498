"""Arms of a study on finished runs of the quickstart: PPO again from a seed's own reward model, one thing changed.

A study names its arms and calls `main`, by `runpy` (experiments/four_factors/run.py, experiments/recipes/run.py). What
is finished is not repeated. Of the arms that two or more seeds have finished `main` writes results/NAME.json, the
numbers; results/table.md, each less the recipe; and results/frontier.png, gold against KL.
"""

import argparse
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple

import matplotlib
import numpy as np

from icegrt_jax import files
from icegrt_jax.evaluation.intervals import student
from icegrt_jax.training.metrics import read_metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CONFIG = "configs/quickstart.py"
RECIPE = "recipe"
# ICE-Instruct's own best temperature and best-of-8 are measured in the study of seeds.
ALL = ("evaluate.temperatures=(0.0,)", "evaluate.best_of=0")
TICKS = (0.1, 0.2, 0.3, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500)  # nats
LEAST_KL = 0.4  # nats, that are shown: with less the critic alone has learned, where nothing moves the actor
COLUMNS = ("gold", "gold_greedy", "verdict", "analysis", "general", "false_clear", "length")


class Arm(NamedTuple):
    """What one arm changes.

    Attributes:
      group: what it is told with: a row of the table begins with it, a panel of the picture is it.
      stage: the last stage that is taken from the seed's run.
      overrides: KEY=VALUE of the config.
      config: the config file that all else is of.
      base: KEY=VALUE of another base model and ICE-Instruct, made first; `{base}` in `overrides` is the folder.
    """

    group: str
    stage: str
    overrides: tuple[str, ...] = ()
    config: str = CONFIG
    base: tuple[str, ...] = ()


def run_arm(seed: int, run: pathlib.Path, workdir: pathlib.Path, arm: Arm) -> None:
    """PPO and evaluation, and what of the stages before is another; output to WORKDIR.log."""
    base, base_model = (workdir.with_name(f"{workdir.name}_{what}") for what in ("base", "base_model"))
    with open(f"{workdir}.log", "a") as log:

        def icegrt(command: str, workdir: pathlib.Path, *words: str) -> None:
            common = [f"--config={arm.config}", f"--workdir={workdir}", f"--config.seed={seed}"]
            program = [sys.executable, "-m", "icegrt_jax", command]
            subprocess.run([*program, *common, *words], check=True, stdout=log, stderr=subprocess.STDOUT)

        if arm.base and not base_model.exists():
            keys = [f"--config.{override}" for override in arm.base]
            for stage in ("pretrain", "sft"):
                icegrt(stage, base, *keys)
            icegrt("export", base, "--stage=sft", f"--out={base_model}", *keys)
        overrides = [override.replace("{base}", str(base_model.absolute())) for override in (*ALL, *arm.overrides)]
        icegrt("run", workdir, f"--from={run}:{arm.stage}", *(f"--config.{override}" for override in overrides))


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


def table(known: dict[str, Arm], seeds: dict[str, dict[str, dict]], of: str) -> str:
    """Markdown: the recipe, and what each arm is above or below it.

    Args:
      known: the study's arms, in the order in which they are told.
      seeds: {seed: {arm: what `collect` gives}}; an arm that fewer than two have is left out.
      of: what a group is: the head of the first column.
    """
    arms = [arm for arm in known if len(finished_by(seeds, arm)) > 1]
    lines = [
        "Means with their 95 % intervals over seeds, points, length in tokens; arms are less the recipe,",
        "paired by seed, bold where the interval leaves 0 out; KL in nats over the last ten iterations.",
        "",
        f"| {of} | arm | seeds | " + " | ".join(COLUMNS) + " | KL |",
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
        lines.append(f"| {known[arm].group} | {arm} | {' | '.join(cells)} | {late(arm):.1f} |")
    return "\n".join(lines) + "\n"


def plot(known: dict[str, Arm], seeds: dict[str, dict[str, dict]], path: pathlib.Path) -> None:
    """Gold of the rollouts against their KL as training goes on, a panel per group, means over the seeds of an arm."""
    shown = [arm for arm in known if len(finished_by(seeds, arm)) > 1]
    groups = list(dict.fromkeys(known[arm].group for arm in shown))
    figure, axes = plt.subplots(
        1, len(groups), figsize=(4.2 * len(groups), 4), sharey=True, layout="constrained", squeeze=False
    )
    for ax, group in zip(axes[0], groups, strict=True):
        for arm in (RECIPE, *(arm for arm in shown if known[arm].group == group)):
            curves = [found[arm]["curves"] for found in finished_by(seeds, arm)]
            last = -min(len(curve["kl"]) for curve in curves)  # a warm-up until the critic is flat ends by seed
            kl, gold = (
                np.convolve(np.mean([curve[name][last:] for curve in curves], axis=0), np.ones(5) / 5, "valid")
                for name in ("kl", "gold")
            )
            ax.plot(kl, 100 * gold, label=arm, linewidth=2.2 if arm == RECIPE else 1.2)
            ax.plot(kl[-1:], 100 * gold[-1:], "o", color=ax.lines[-1].get_color(), markersize=4)
        ax.set(title=group, xlabel="KL in the penalty, nats", xscale="log")
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


def main(known: dict[str, Arm], here: pathlib.Path, about: str, of: str) -> None:
    """The command line of a study.

    Args:
      known: its arms.
      here: its folder, whose name the results have.
      about: what --help says.
      of: what a group of arms is.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/seeds"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs") / here.name)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="*", choices=list(known), default=list(known), help="arms to run")
    args = parser.parse_args()
    if len(args.seeds) < 2:
        parser.error("--seeds: an interval over seeds needs two or more")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        for seed in args.seeds:
            workdir = workdir_of(args.out, name, seed)
            if not is_finished(workdir):
                run_arm(seed, args.runs / f"seed_{seed}", workdir, known[name])
    seeds = {}
    for seed in args.seeds:
        found = {arm: path for arm in known if is_finished(path := workdir_of(args.out, arm, seed))}
        seeds[str(seed)] = {
            RECIPE: collect(args.runs / f"seed_{seed}"), **{arm: collect(path) for arm, path in found.items()}
        }  # fmt: skip
    results = here / "results"
    files.write_json_atomic(results / f"{here.name}.json", seeds)
    files.write_text_atomic(results / "table.md", table(known, seeds, of))
    plot(known, seeds, results / "frontier.png")
    print(table(known, seeds, of))
