"""Are the numbers of our `lm_eval` model those of the harness's own `hf` backend, and how long does each take?

    ICEGRT_DATA=DIR python experiments/lm_eval/run.py --model=models/smollm2-135m-instruct --part=batch_sizes
    ICEGRT_DATA=DIR python experiments/lm_eval/run.py --model=models/smollm2-135m-instruct
    ICEGRT_DATA=DIR python experiments/lm_eval/run.py --model=models/smollm2-135m-instruct --part=exact

Six tasks of docs/lm_eval.md, the same rows for both, float32, one after the other in one process, task by task. The
first part finds the batch size at which the `hf` backend is fastest, the second takes it. Times are of the answers
alone: neither loading nor reading the data counts; the first time that a task is asked has our compilation in it, the
times after that have not. Tasks that have been asked are not asked again. The third part says how far each of the two
is from the `hf` backend in float64, norms, rotations and softmax included, where the answers are longest. Writes
batch_sizes.json, lm_eval.json, table.md and exact.json into results/ beside this file.
"""

import argparse
import importlib.metadata
import logging
import os
import pathlib
import statistics
import time

import jax

from icegrt_jax import files

HERE = pathlib.Path(__file__).parent
# Rows of each; icegrt_mmlu has 57 subjects with that many each.
TASKS = {
    "icegrt_arc_challenge": 29,
    "icegrt_boolq": 29,
    "icegrt_hellaswag": 29,
    "icegrt_mmlu": 1,
    "icegrt_piqa": 29,
    "icegrt_winogrande": 29,
}
BATCH_SIZES = (1, 8, 16, 32)  # of the hf backend
TRIED = {"icegrt_arc_challenge": 5, "icegrt_hellaswag": 5, "icegrt_piqa": 5}  # rows, to choose among them
ROUNDS = 1
EXACT = ("icegrt_hellaswag", "icegrt_piqa")
WARM_UP = 2  # rows of each task that the hf backend is asked before; ours has its first answers for that


def main(model: pathlib.Path, out: pathlib.Path, part: str, tasks: list[str], rounds: int) -> None:
    """Asks both and writes what was found."""
    if not os.environ.get("ICEGRT_DATA"):
        return print("skipped: needs the public data sets of docs/lm_eval.md; set ICEGRT_DATA to their folder")
    # Theirs are torch's.
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from icegrt_jax.commands.lm_eval import OURS
    from icegrt_jax.runs.harness import HarnessModel

    logging.disable(logging.WARNING)
    manager = TaskManager(include_path=str(OURS), include_defaults=False)
    theirs = HFLM(str(model), device="cpu", dtype="float32", batch_size=8)
    if part == "batch_sizes":
        return files.write_json_atomic(out / "batch_sizes.json", batch_sizes(theirs, manager))
    if part == "exact":
        return files.write_json_atomic(out / "exact.json", exactness(model, theirs, manager))
    tried = files.read_json(out / "batch_sizes.json")
    theirs.batch_size_per_gpu = int(min(tried, key=lambda size: tried[size]))
    both = {"hf": theirs, "icegrt": HarnessModel(model, data=1)}
    record = out / "lm_eval.json"
    found = files.read_json(record)["tasks"] if record.exists() else {}
    for task in tasks:
        if task not in found:
            found[task] = compared(rounds_of(both, task, rounds, manager))
            files.write_json_atomic(record, summary(model, found, theirs.batch_size_per_gpu))
    files.write_text_atomic(out / "table.md", table(files.read_json(record)) + "\n")
    print(table(files.read_json(record)))


def batch_sizes(theirs, manager) -> dict[int, float]:
    """Seconds of the hf backend at each size, for a few rows."""
    tried = {}
    for size in BATCH_SIZES:
        theirs.batch_size_per_gpu = size
        tried[size] = sum(asked(theirs, task, rows, manager)["seconds"] for task, rows in TRIED.items())
        print(f"hf, batch size {size}: {tried[size]:.1f} s for {sum(TRIED.values())} rows", flush=True)
    return tried


def exactness(model: pathlib.Path, theirs, manager) -> dict[str, dict[str, float]]:
    """Of each task the largest distance of a log-likelihood, in nats: of each float32 model to the float64 one, and
    between the two."""
    from lm_eval.models.huggingface import HFLM

    from icegrt_jax.runs.harness import HarnessModel

    exact = HFLM(str(model), device="cpu", dtype="float64", batch_size=8, softmax_dtype="float64")
    in_float64(exact.model)
    models = {"hf": theirs, "icegrt": HarnessModel(model, data=1), "exact": exact}
    found = {}
    for task in EXACT:
        answers = {name: [x for x, _ in asked(m, task, TASKS[task], manager)["answers"]] for name, m in models.items()}
        found[task] = {
            "hf": farthest(answers["hf"], answers["exact"]),
            "icegrt": farthest(answers["icegrt"], answers["exact"]),
            "between": farthest(answers["hf"], answers["icegrt"]),
        }
        found[task]["requests"] = len(answers["exact"])
        print(task, found[task], flush=True)
    return found


def farthest(one: list[float], other: list[float]) -> float:
    """The largest difference."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def in_float64(model) -> None:
    """Has a Llama of `transformers` compute in float64 what it casts to float32 whatever its dtype is."""
    import torch

    def normed(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def rotations(self, x, position_ids):
        width = model.config.head_dim
        exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
        theta = model.config.rope_parameters["rope_theta"]
        angles = position_ids[..., None].double() / theta**exponents
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = normed.__get__(module)
        elif type(module).__name__ == "LlamaRotaryEmbedding":
            module.forward = rotations.__get__(module)


def rounds_of(both: dict, task: str, rounds: int, manager) -> dict[str, list[dict]]:
    """Each model's answers: ours for the first time, then theirs and ours, as often as there are rounds."""
    if TASKS[task] > WARM_UP:
        asked(both["hf"], task, WARM_UP, manager)
    answers: dict[str, list[dict]] = {name: [] for name in both}
    for name in ["icegrt", *["hf", "icegrt"] * rounds]:
        answers[name].append(asked(both[name], task, TASKS[task], manager))
        print(f"{task}  {name} {answers[name][-1]['seconds']:.1f} s", flush=True)
    return answers


def summary(model: pathlib.Path, tasks: dict[str, dict], batch_size: int) -> dict:
    """What is written."""
    return {
        "model": model.name,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[1],
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "lm_eval", "torch", "transformers")},
        "hf_batch_size": batch_size,
        "tasks": tasks,
        "total": total(tasks),
    }


def asked(model, task: str, rows: int, manager) -> dict:
    """What the model makes of the first rows of a task: {seconds, answers, metrics}.

    answers: (log-likelihood, greedy) of each request, in the order of the task.
    """
    import lm_eval

    seconds, answers = 0.0, []
    plain = model.loglikelihood

    def timed(requests, **options):
        nonlocal seconds
        start = time.perf_counter()
        answers.extend(plain(requests, disable_tqdm=True))
        seconds += time.perf_counter() - start
        return answers[-len(requests) :]

    model.loglikelihood = timed
    try:
        found = lm_eval.simple_evaluate(
            model, tasks=[task], task_manager=manager, limit=rows, bootstrap_iters=0, log_samples=False
        )
    finally:
        del model.loglikelihood
    numbers = {key.partition(",")[0]: value for key, value in found["results"][task].items() if "acc" in key}
    metrics = {key: value for key, value in numbers.items() if isinstance(value, float) and "stderr" not in key}
    counts = {name: samples["effective"] for name, samples in found["n-samples"].items()}
    return {"seconds": seconds, "answers": answers, "metrics": metrics, "rows": sum(counts.values())}


def compared(answers: dict[str, list[dict]]) -> dict:
    """Both models' answers to one task: how far apart, and how long each took."""
    hf, icegrt = answers["hf"][0], answers["icegrt"][0]
    pairs = list(zip(hf["answers"], icegrt["answers"], strict=True))
    # The first of ours has compilation in it.
    seconds = {name: [one["seconds"] for one in answers[name]] for name in answers}
    warm = {"hf": statistics.median(seconds["hf"]), "icegrt": statistics.median(seconds["icegrt"][1:])}
    return {
        "rows": hf["rows"],
        "requests": len(pairs),
        "largest_difference": max(abs(a - b) for (a, _), (b, _) in pairs),
        "greedy_different": sum(a != b for (_, a), (_, b) in pairs),
        "metrics": {"hf": hf["metrics"], "icegrt": icegrt["metrics"]},
        "seconds": seconds,
        "first": {"hf": seconds["hf"][0], "icegrt": seconds["icegrt"][0]},
        "warm": warm,
    }


def total(tasks: dict[str, dict]) -> dict:
    """Over all tasks."""
    summed = lambda key, name: sum(found[key][name] for found in tasks.values())
    return {
        "rows": sum(found["rows"] for found in tasks.values()),
        "requests": sum(found["requests"] for found in tasks.values()),
        "largest_difference": max(found["largest_difference"] for found in tasks.values()),
        "greedy_different": sum(found["greedy_different"] for found in tasks.values()),
        "first": {name: summed("first", name) for name in ("hf", "icegrt")},
        "warm": {name: summed("warm", name) for name in ("hf", "icegrt")},
    }


def table(results: dict) -> str:
    """Markdown: a row for each task, and all of them."""
    lines = [
        "| task | rows | requests | difference | acc hf | acc icegrt | hf s | icegrt s | times as fast | first |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in [*results["tasks"].items(), ("all", results["total"])]:
        acc = [f"{found['metrics'][who]['acc']:.4f}" if "metrics" in found else "" for who in ("hf", "icegrt")]
        warm, first = found["warm"], found["first"]
        cells = [name, found["rows"], found["requests"], f"{found['largest_difference']:.1e}", *acc]
        cells += [f"{warm['hf']:.1f}", f"{warm['icegrt']:.1f}", f"{warm['hf'] / warm['icegrt']:.1f}"]
        lines.append("| " + " | ".join(map(str, [*cells, f"{first['hf'] / first['icegrt']:.1f}"])) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="a Hugging Face folder")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results", help="where the results go")
    parser.add_argument(
        "--part", choices=("batch_sizes", "compare", "exact"), default="compare", help="(default compare)"
    )
    parser.add_argument("--tasks", default=",".join(TASKS), help="of those above, commas between them (default all)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="times that each is timed without compilation")
    arguments = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", None)
    main(arguments.model, arguments.out, arguments.part, arguments.tasks.split(","), max(1, arguments.rounds))
