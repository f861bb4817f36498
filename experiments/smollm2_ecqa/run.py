"""Is ICE-GRT better than ICE-Instruct at explaining, on a real model and real data, and is nothing lost in general?

    ICEGRT_DATA=DIR python experiments/smollm2_ecqa/run.py --model=models/smollm2-135m-instruct --size=laptop

DIR has the public sets of docs/data.md, the model is what `make smollm2` fetches. First the evaluation's reward model
is trained on one half of the data, then for every seed the chain on the other half, then both reward models are
measured and the twelve general tasks asked. Each is a command of icegrt with a log beside its folder in RUNS. What is
finished is not repeated and what was stopped goes on: the same words continue a study, and --report writes what there
is by now.
Writes results/SIZE.json, SIZE.md, SIZE_samples.md and SIZE.png beside this file.
"""

import argparse
import os
import pathlib
import runpy
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

from icegrt_jax import files

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
# As they are called in the records of a run, which another checkout of the same files then goes on with.
CONFIG, EVALUATOR = (f"experiments/smollm2_ecqa/{name}.py" for name in ("config", "evaluator"))
RATED = 400  # rankings of the half that a reward model was not trained on
# Rows of each of MMLU's 57 subjects and BBH's 27 puzzles, and of each of AGIEval's 7 exams and every other task.
GENERAL = {"gpu": (10, 100), "laptop": (2, 25), "short": (1, 10), "smoke": (1, 1)}
TASKS = (
    ("mmlu", "bbh"),
    ("agieval", "arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande", "boolq", "openbookqa", "triviaqa",
     "gsm8k"),
)  # fmt: skip


class Step(NamedTuple):
    """A command of icegrt: what it is called, the file that it leaves when it has come to its end, and its words."""

    name: str
    leaves: pathlib.Path
    words: list[str]


def steps(size: str, seeds: list[int], runs: pathlib.Path, model: str) -> Iterator[Step]:
    """All of the study, in the order in which it is done."""
    evaluator = runs / "evaluator"
    shared = [f"--config.model.path={model}"]
    for stage in ("sft", "reward"):
        words = [stage, f"--config={EVALUATOR}:{size}", f"--workdir={evaluator}", *shared]
        yield Step(f"evaluator_{stage}", evaluator / stage / "done.json", words)
    for seed in seeds:
        run = runs / f"seed_{seed}"
        words = ["run", f"--config={CONFIG}:{size}", f"--workdir={run}", *shared, f"--config.seed={seed}"]
        words.append(f"--config.evaluate.reward_model={evaluator / 'reward'}")
        yield Step(f"seed_{seed}", run / "evaluate" / "results.json", words)
    for name, other in [(f"seed_{seed}", "evaluator") for seed in seeds] + [("evaluator", f"seed_{seeds[0]}")]:
        out, rated = runs / f"{name}_ranks.json", runs / other / "data" / "rated.jsonl"
        words = ["evaluate-reward", f"--reward={runs / name}", f"--out={out}", f"--source=rated=jsonl:{rated}"]
        yield Step(f"{name}_ranks", out, [*words, f"--limit={RATED if size != 'smoke' else 4}"])
    policies = [("base", f"--checkpoint={model}")]
    for seed in seeds:
        policies += [(f"seed_{seed}_{s}", f"--checkpoint={runs / f'seed_{seed}' / s}") for s in ("sft", "ppo")]
    for name, policy in policies:
        for tasks, limit in zip(TASKS, GENERAL[size], strict=True):
            out, asked = runs / "general" / f"{name}.{tasks[0]}.json", ",".join(f"icegrt_{task}" for task in tasks)
            words = ["lm-eval", policy, f"--tasks={asked}", f"--out={out}", f"--limit={limit}"]
            yield Step(f"{name}_{tasks[0]}", out, [*words, f"--dtype={'bfloat16' if size == 'gpu' else 'float32'}"])


def do(step: Step, runs: pathlib.Path) -> None:
    """Does what is not done yet; output to RUNS/NAME.log. A command that does not come to its end ends the study."""
    if step.leaves.exists():
        return
    print(f"{step.name}: icegrt {' '.join(step.words)}", flush=True)
    step.leaves.parent.mkdir(parents=True, exist_ok=True)
    path = runs / f"{step.name}.log"
    with open(path, "a") as log:
        command = [sys.executable, "-m", "icegrt_jax", *step.words]
        code = subprocess.run(command, check=False, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT).returncode
    if code or not step.leaves.exists():
        raise SystemExit(f"{step.name} ended with {code}; {path} says why. The same command goes on from there.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(GENERAL), default="laptop")
    parser.add_argument("--model", default="models/smollm2-135m-instruct", help="a Hugging Face folder (%(default)s)")
    parser.add_argument("--runs", type=pathlib.Path, help="where the runs lie (default runs/smollm2_ecqa/SIZE)")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results", help="where the results go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--report", action="store_true", help="only write what is there by now")
    args = parser.parse_args()
    if not os.environ.get("ICEGRT_DATA"):
        return print("skipped: needs the public data sets of docs/data.md; set ICEGRT_DATA to their folder")
    runs = (args.runs or pathlib.Path("runs/smollm2_ecqa") / args.size).absolute()
    runs.mkdir(parents=True, exist_ok=True)
    for step in () if args.report else steps(args.size, args.seeds, runs, str(pathlib.Path(args.model).absolute())):
        do(step, runs)
    tables = runpy.run_path(str(HERE / "tables.py"))
    found = tables["collect"](runs, args.size, args.seeds)
    files.write_json_atomic(args.out / f"{args.size}.json", found)
    files.write_text_atomic(args.out / f"{args.size}.md", tables["page"](found))
    files.write_text_atomic(args.out / f"{args.size}_samples.md", tables["samples"](runs, args.seeds))
    tables["plot"](found["curves"], args.out / f"{args.size}.png")
    print(tables["page"](found))


if __name__ == "__main__":
    main()
