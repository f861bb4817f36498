"""How far can choosing by the reward model go, and what would choose better?

    python experiments/beyond_best_of_n/limits.py runs/quickstart [NAME=RUN ...]

For each run of the quickstart: answers of ICE-Instruct to ads that no stage has seen, and the gold of the best of 1, 2,
4, ... of them by the run's reward model, by ICE-Instruct's own mean log-probability, by their sum, and by gold itself.
Results go to results/limits.json, results/limits.md and results/limits.png beside this file.
"""

import argparse
import pathlib

import jax
import matplotlib
import numpy as np

import icegrt_jax as ice
from icegrt_jax import files
from icegrt_jax.domains.adreview import build, judge
from icegrt_jax.evaluation.best_of import expected_quality
from icegrt_jax.evaluation.intervals import bootstrap
from icegrt_jax.evaluation.pairs import pair_accuracy

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).parent
CHOOSERS = {
    "reward": "ICE-Reward",
    "likelihood": "mean log-probability",
    "both": "their sum, each over its spread",
    "gold": "gold itself",
}


def best_of(scores: np.ndarray, gold: np.ndarray, n: int) -> np.ndarray:
    """Expected gold f64[B] of the best by score of n of a prompt's answers; both f64[B, N]."""
    return np.array([expected_quality(*row, n) for row in zip(scores, gold, strict=True)])


def pairs(scores: np.ndarray, gold: np.ndarray) -> list[float]:
    """Pairs of answers to one prompt that the scores order as gold does: their share and its interval over prompts."""
    prompts = np.repeat(np.arange(len(gold)), gold.shape[1])
    found = pair_accuracy(scores.reshape(-1), gold.reshape(-1), prompts)
    assert found is not None, "some answers differ in gold"
    return list(found[:3])


def measure(run: pathlib.Path, temperatures: list[float], prompts: int, samples: int) -> list[dict]:
    """A row for each temperature."""
    seed = files.read_json(run / "config.json")["seed"]
    asked = build.build(seed, {"dev_prompts": prompts})["dev_prompts"]
    chats = [list(record.prompt) for record in asked]
    policy, reward = ice.load_model(run / "sft"), ice.load_model(run / "reward")
    grades = lambda texts, k: np.array(
        [judge.grade(asked[i // k].meta, text)["gold"] for i, text in enumerate(texts)]
    ).reshape(-1, k)
    draw = lambda temperature, k: ice.generate(
        policy, chats, key=jax.random.key(7), max_new_tokens=64, temperature=temperature, num_samples=k
    )
    greedy, rows = grades(draw(0.0, 1).text, 1), []
    for temperature in temperatures:
        out = draw(temperature, samples)
        gold, mask = grades(out.text, samples), np.asarray(out.mask)
        likelihood = (np.where(mask, out.logprobs, 0.0).sum(1) / mask.sum(1)).reshape(gold.shape)
        scores = ice.score(reward, chats, out.text, finished=out.finished).reshape(gold.shape)
        spread = lambda x: x / x.std(axis=1).mean()
        by = {"reward": scores, "likelihood": likelihood, "both": spread(scores) + spread(likelihood), "gold": gold}
        sizes = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
        curves = {
            name: [bootstrap(best_of(x, gold, n), lambda sums: sums, mean=True) for n in sizes]
            for name, x in by.items()
        }
        rows.append({
            "temperature": temperature, "sizes": sizes, "best_of": curves,
            "greedy": bootstrap(greedy[:, 0], lambda sums: sums, mean=True),
            "pairs": {name: pairs(x, gold) for name, x in by.items() if name != "gold"},
        })  # fmt: skip
    return rows


def table(runs: dict[str, list[dict]]) -> str:
    """Markdown: gold in per cent with the bounds of its 95 % interval, bootstrapped over prompts."""
    cell = lambda found: "{:.1f} [{:.0f}, {:.0f}]".format(*(100 * x for x in found))
    lines = []
    for name, rows in runs.items():
        lines += [f"**{name}**, greedy {cell(rows[0]['greedy'])}", ""]
        for row in rows:
            sizes = row["sizes"]
            lines.append(
                f"| best of n at temperature {row['temperature']:g} | pairs | " + " | ".join(map(str, sizes)) + " |"
            )
            lines.append("|---|---:|" + "---:|" * len(sizes))
            for by, title in CHOOSERS.items():
                ordered = cell(row["pairs"][by]) if by in row["pairs"] else "-"
                lines.append(f"| {title} | {ordered} | " + " | ".join(map(cell, row["best_of"][by])) + " |")
            lines.append("")
    return "\n".join(lines)


def plot(runs: dict[str, list[dict]], path: pathlib.Path) -> None:
    """A column for each run, a row for each temperature: gold against n by each way to choose, and greedy as a line."""
    shape = len(next(iter(runs.values()))), len(runs)
    size = (4.2 * shape[1], 3.4 * shape[0])
    figure, axes = plt.subplots(*shape, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for column, (name, rows) in enumerate(runs.items()):
        for ax, row in zip(axes[:, column], rows, strict=True):
            for by, title in CHOOSERS.items():
                value, low, high = 100 * np.array(row["best_of"][by]).T
                (line,) = ax.plot(row["sizes"], value, marker="o", label=title)
                ax.fill_between(row["sizes"], low, high, color=line.get_color(), alpha=0.12)
            ax.axhline(100 * row["greedy"][0], color="black", linestyle="--", linewidth=1, label="greedy")
            ax.set(title=f"{name}, temperature {row['temperature']:g}", xlabel="n", xscale="log")
            ax.set_xticks(row["sizes"], [str(n) for n in row["sizes"]])
            ax.minorticks_off()
            ax.grid(alpha=0.3)
    for ax in axes[:, 0]:
        ax.set_ylabel("gold of the answer taken, per cent")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="[NAME=]WORKDIR with a finished reward stage")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--prompts", type=int, default=240)
    parser.add_argument("--samples", type=int, default=32)
    args = parser.parse_args()
    named = dict(run.split("=", 1) if "=" in run else (pathlib.Path(run).name, run) for run in args.runs)
    runs = {
        name: measure(pathlib.Path(run), args.temperatures, args.prompts, args.samples) for name, run in named.items()
    }
    results = HERE / "results"
    files.write_json_atomic(results / "limits.json", runs)
    files.write_text_atomic(results / "limits.md", table(runs))
    plot(runs, results / "limits.png")
    print(table(runs))


if __name__ == "__main__":
    main()
