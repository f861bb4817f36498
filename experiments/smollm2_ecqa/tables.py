"""The numbers of the study's runs, as far as they are finished: JSON, Markdown, a picture, a page of samples."""

import collections
import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np

from icegrt_jax import files
from icegrt_jax.evaluation import paired
from icegrt_jax.runs.heldout_reward import wins
from icegrt_jax.training.metrics import read_metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INSTRUCT, GRT = "ICE-Instruct", "ICE-GRT"
TITLES = {"verdict": "right choices", "rouge_l": "ROUGE-L", "wins": "preferred to ICE-Instruct", "tokens": "tokens"}
DECODINGS = {"sampled": "sampled", "greedy": "greedy", "best": "at its best temperature"}
STAGES = {"sft": ("loss",), "reward": ("accuracy",), "ppo": ("score_raw", "gold_verdict", "gold_rouge_l", "kl")}
# Which number of a row of a general task counts: the first that it has; and by which rule it was read off the answer.
GENERAL_METRICS, GENERAL_FILTERS = ("extracted", "acc_norm", "acc", "exact_match"), ("strict-match",)

Table = Mapping[tuple[str, str], Mapping[str, np.ndarray]]  # {(row, decoding): {number: f64[K, N]}}


def collect(runs: pathlib.Path, size: str, seeds: list[int]) -> dict[str, Any]:
    """All that results/SIZE.json has; what is not finished is left out, and `steps` says how far each stage is."""
    folders = {str(seed): runs / f"seed_{seed}" for seed in seeds}
    evaluated = {seed: folder for seed, folder in folders.items() if (folder / "evaluate" / "results.json").exists()}
    trained = {"evaluator": runs / "evaluator", **{f"seed {seed}": folder for seed, folder in folders.items()}}
    numbers = joined([answers(folder) for folder in evaluated.values()])
    ranks = {path.name.removesuffix("_ranks.json"): path for path in sorted(runs.glob("*_ranks.json"))}
    return {
        "size": size,
        "steps": {who: progress(folder) for who, folder in trained.items()},
        "seeds": list(evaluated),
        "rows": rows(numbers),
        "differences": differences(numbers),
        "ranks": {name: files.read_json(path)["sources"]["rated"]["numbers"] for name, path in ranks.items()},
        "general": general(runs / "general", list(folders)),
        "curves": {who: curves(folder) for who, folder in trained.items()},
    }


def progress(run: pathlib.Path) -> dict[str, int]:
    """Of each stage that has begun the steps that are done."""
    begun = {stage: run / stage / "metrics.jsonl" for stage in STAGES}
    return {stage: int(read_metrics(path)[-1]["step"]) for stage, path in begun.items() if path.exists()}


def curves(run: pathlib.Path) -> dict[str, dict[str, list[float]]]:
    """Of each stage that has begun its numbers, step by step."""
    found: dict[str, dict[str, list[float]]] = {}
    for stage, names in STAGES.items():
        path = run / stage / "metrics.jsonl"
        for row in read_metrics(path) if path.exists() else ():
            for name in names:
                if name in row:
                    found.setdefault(stage, {}).setdefault(name, []).append(row[name])
    return found


def answers(run: pathlib.Path) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """What an evaluation found of every in-domain answer: of each row and decoding its numbers, f64[K, N]."""
    lines = collections.defaultdict(list)
    for line in files.read_jsonl(run / "evaluate" / "by_prompt.jsonl"):
        if line["group"] == "domain":
            lines[line["row"], line["decoding"]].append(line)
    found = {}
    for key, said in lines.items():
        shape = (1 + max(line["sample"] for line in said), -1)
        column = lambda get, said=said, shape=shape: np.array([get(line) for line in said], np.float64).reshape(shape)
        found[key] = {name: column(lambda line, name=name: line["grades"][name]) for name in ("verdict", "rouge_l")}
        found[key]["heldout_reward"] = column(lambda line: line["heldout_reward"])
        found[key]["tokens"] = column(lambda line: line["tokens"])
    for (row, decoding), mine in found.items():
        theirs = found.get((INSTRUCT, decoding))
        if theirs is not None and row != INSTRUCT:
            mine["wins"] = wins(mine["heldout_reward"], theirs["heldout_reward"])[None]
    return found


def joined(seeds: list[dict]) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """The answers of all seeds to the same prompts together: their means by prompt are over the seeds as well."""
    keys = [key for key in (seeds[0] if seeds else ()) if all(key in seed for seed in seeds)]
    return {key: {name: np.concatenate([seed[key][name] for seed in seeds]) for name in seeds[0][key]} for key in keys}


def rows(numbers: Table) -> list[dict[str, Any]]:
    """Means over the prompts with their 95 % intervals by bootstrap over the prompts."""
    found = []
    for (row, decoding), columns in numbers.items():
        means = {name: x.mean(axis=0) for name, x in columns.items() if name in TITLES}
        shown = {name: [float(x.mean()), *paired.bootstrap([x])] for name, x in means.items()}
        found.append({"row": row, "decoding": decoding, "prompts": len(means["verdict"]), "numbers": shown})
    return found


def differences(numbers: Table) -> list[dict[str, Any]]:
    """What ICE-GRT has more than ICE-Instruct and than best-of-n, prompt by prompt, with 95 % intervals."""
    found = []
    for (row, decoding), columns in numbers.items():
        if (row != INSTRUCT and not row.startswith("best-of-")) or (GRT, decoding) not in numbers:
            continue
        for name in ("verdict", "rouge_l", "heldout_reward"):
            ours, theirs = (x[name].mean(axis=0) for x in (numbers[GRT, decoding], columns))
            mean, low, high, _ = paired.difference(ours, theirs)
            found.append({"minus": row, "decoding": decoding, "metric": name, "difference": [mean, low, high]})
    return found


def general(folder: pathlib.Path, seeds: list[str]) -> dict[str, Any]:
    """The tasks that every policy has been asked: means of each and of all, and ICE-GRT less ICE-Instruct."""
    asked = {"base": [read_tasks(folder, "base")]}
    for name, stage in ((INSTRUCT, "sft"), (GRT, "ppo")):
        asked[name] = [found for seed in seeds if (found := read_tasks(folder, f"seed_{seed}_{stage}"))]
    if not all(found and found[0] for found in asked.values()):
        return {}
    tasks = [task for task in asked["base"][0] if all(task in one for found in asked.values() for one in found)]
    mean = {name: {t: np.mean([one[t] for one in found], axis=0) for t in tasks} for name, found in asked.items()}
    apart = lambda chosen: [mean[GRT][t] - mean[INSTRUCT][t] for t in chosen]
    told = lambda parts: [float(np.mean([x.mean() for x in parts])), *paired.bootstrap(parts)]
    lines = {}
    for label, chosen in [*((task, [task]) for task in tasks), ("mean", tasks)]:
        lines[label] = {name: told([mean[name][t] for t in chosen]) for name in asked}
        lines[label] |= {"difference": told(apart(chosen)), "questions": sum(len(mean["base"][t]) for t in chosen)}
    return lines


def read_tasks(folder: pathlib.Path, policy: str) -> dict[str, np.ndarray]:
    """Of each of the tasks what a policy has got for its questions, f64[N]; empty where not all have been asked."""
    found = collections.defaultdict(list)
    for path in sorted(folder.glob(f"{policy}.*.icegrt_*.jsonl")):
        task = path.name.split(".icegrt_")[1].removesuffix(".jsonl")
        task = next((group for group in ("mmlu", "agieval", "bbh") if task.startswith(group)), task)
        for line in files.read_jsonl(path):
            if line["filter"] not in GENERAL_FILTERS:
                found[task].append(float(line[next(name for name in GENERAL_METRICS if name in line)]))
    return {task: np.array(values) for task, values in found.items()}


def page(found: Mapping[str, Any]) -> str:
    """results/SIZE.md."""
    begun = [f"{who}: {', '.join(f'{stage} {n}' for stage, n in at.items()) or 'not begun'}" for who, at in
             found["steps"].items()]  # fmt: skip
    lines = [f"Size `{found['size']}`. Steps done: {'; '.join(begun)}.", ""]
    if found["rows"]:
        lines += _in_domain(found)
    if found["ranks"]:
        lines += ["Human rankings of the other half of the questions, pairs in the right order:", ""]
        for name, x in found["ranks"].items():
            told = x["accuracy"]
            lines.append(
                f"- {name}: {_shares(told['value'], [told['low'], told['high']])} of {told['prompts']} rankings"
            )
        lines.append("")
    if found["general"]:
        lines += _general(found["general"])
    if not found["rows"]:
        lines += ["No seed has been evaluated yet.", ""]
    return "\n".join(lines)


def _in_domain(found: Mapping[str, Any]) -> list[str]:
    seeds, prompts = len(found["seeds"]), found["rows"][0]["prompts"]
    lines = [
        f"{prompts} questions of ECQA's validation part, {seeds} seed{'s' if seeds > 1 else ''}; means and 95 % "
        "intervals over the questions, shares in per cent.",
        "",
        f"| stage | answers | {' | '.join(TITLES.values())} |",
        "|---|---|" + "---:|" * len(TITLES),
    ]
    for row in found["rows"]:
        cells = [_cell(name, row["numbers"].get(name)) for name in TITLES]
        lines.append(f"| {row['row']} | {DECODINGS[row['decoding']]} | {' | '.join(cells)} |")
    lines += ["", "ICE-GRT less another row, question by question, 95 % intervals; bold where 0 is outside:", ""]
    for apart in found["differences"]:
        share = apart["metric"] != "heldout_reward"
        mean, low, high = (100 * x if share else x for x in apart["difference"])
        name = TITLES.get(apart["metric"], "score of the unseen reward model")
        told = f"{mean:+.1f} [{low:.1f}, {high:.1f}]" if share else f"{mean:+.2f} [{low:.2f}, {high:.2f}]"
        told = f"**{told}**" if low > 0 or high < 0 else told
        lines.append(f"- {name}, {DECODINGS[apart['decoding']]}, less {apart['minus']}: {told}")
    return [*lines, ""]


def _general(tasks: Mapping[str, Any]) -> list[str]:
    lines = [
        "General tasks, per cent right with 95 % intervals over the questions; best-of-n has ICE-Instruct's weights.",
        "",
        f"| task | questions | base | {INSTRUCT} | {GRT} | {GRT} less {INSTRUCT} |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for task, x in tasks.items():
        cells = [_shares(x[name][0], x[name][1:]) for name in ("base", INSTRUCT, GRT, "difference")]
        lines.append(f"| {task} | {x['questions']} | {' | '.join(cells)} |")
    return [*lines, ""]


def _cell(name: str, told: list[float] | None) -> str:
    if told is None:
        return "-"
    return f"{told[0]:.1f}" if name == "tokens" else _shares(told[0], told[1:])


def _shares(mean: float, bounds: list[float]) -> str:
    return f"{100 * mean:.1f} [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def samples(runs: pathlib.Path, seeds: list[int]) -> str:
    """A page with every stage's first sampled answer to some prompts, of the first seed that is evaluated."""
    for seed in seeds:
        path = runs / f"seed_{seed}" / "evaluate" / "results.json"
        if path.exists():
            examples, parts = files.read_json(path)["examples"], [f"# Samples of every stage, seed {seed}"]
            for number, example in enumerate(examples, start=1):
                parts.append(f"## {number}\n\n{quoted(example['prompt'])}")
                parts += [f"**{row}**\n\n{quoted(answer)}" for row, answer in example["answers"].items()]
            return "\n\n".join(parts) + "\n"
    return "No seed has been evaluated yet.\n"


def quoted(text: str) -> str:
    """A block of Markdown that shows the text as it is, line by line, whatever is in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in text.split() if set(run) == {"`"}), default=0))
    return f"{fence}text\n{text.strip()}\n{fence}"


def plot(curves: Mapping[str, Mapping], path: pathlib.Path) -> None:
    """Every stage that has begun, step by step, a line for each seed."""
    shown = [(stage, name) for stage, names in STAGES.items() for name in names]
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    for ax, (stage, name) in zip(axes.flat, shown, strict=True):
        for who, found in curves.items():
            values = found.get(stage, {}).get(name, [])
            ax.plot(range(1, 1 + len(values)), values, label=who)
        ax.set(title=f"{stage}: {name}", xlabel="iteration" if stage == "ppo" else "update")
        ax.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
