"""Resident memory and time of whole stages, by how malloc is set: ours, glibc's own ways, and kept without a watch.

    python -m benchmarks.heap --rounds=3

`icegrt sft` (8 rows of 256 tokens, all parameters), `icegrt reward` (2 prompts with 4 answers of at most 224 tokens,
an adapter on the shared base) and `icegrt ppo` (16 answers, adapters on that base) as `heap_config.py` has them, on
the first LAYERS layers of SmolLM2-135M. Each run is a new process that begins with what `icegrt sft` and `icegrt
reward` have left; the ways take turns, round after round. The records are made up.
"""

import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import time

from benchmarks.results import OURS
from benchmarks.sections import left_out
from benchmarks.table import GIB
from benchmarks.turns import ANSWER_S, ROOT, Contender, Worker, worker_environment

WAYS = {  # name: environment; where a MALLOC_ variable is set, `icegrt_jax/hosts/heap.py` does nothing
    OURS: (),
    "kept, never given back": (
        ("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_MAX_", "0"), ("MALLOC_TRIM_THRESHOLD_", str(2**62)),
        ("MALLOC_TOP_PAD_", str(2**26)),
    ),
    "glibc's own settings": (("MALLOC_ARENA_TEST", "8"),),  # which is its default
    "MALLOC_ARENA_MAX=4": (("MALLOC_ARENA_MAX", "4"),),
}  # fmt: skip
STAGES = {"sft": (), "reward": ("sft",), "ppo": ("sft", "reward")}  # and what each begins with
LAYERS = 4  # of 30, so that 36 runs take a quarter of an hour
WORDS = "the a cat tree house water runs sees finds old red small under over then because when why yes no".split()


def records(folder: pathlib.Path) -> None:
    """Conversations, rankings and prompts of words drawn at random, of lengths that differ."""
    rng = random.Random(0)
    words = lambda low, high: " ".join(rng.choices(WORDS, k=rng.randint(low, high)))
    kinds = {
        "instructions": lambda: {"prompt": words(10, 60), "response": words(10, 60)},
        "rankings": lambda: {
            "prompt": words(10, 60), "responses": [words(10, 100) for _ in range(4)], "ranks": [1, 2, 3, 4]
        },
        "prompts": lambda: {"prompt": words(10, 60)},
    }  # fmt: skip
    for kind, make in kinds.items():
        lines = (json.dumps(make()) + "\n" for _ in range(400))
        (folder / f"{kind}.jsonl").write_text("".join(lines), encoding="utf-8")


def first_layers(path: str, layers: int, out: pathlib.Path) -> pathlib.Path:
    """A folder with the model at `path` cut off after that many layers, tokenizer included."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(path, out, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    (out / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}), encoding="utf-8")
    tensors = load_file(pathlib.Path(path) / "model.safetensors")
    number = lambda name: int(name.split(".")[2]) if name.startswith("model.layers.") else -1
    kept = {name: tensor for name, tensor in tensors.items() if number(name) < layers}
    save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
    return out


def stage(turns, *, name: str, argv: list) -> None:
    """One repetition is `icegrt NAME` from its start to its end, in this process; there is only one."""
    import resource

    from icegrt_jax import cli
    from icegrt_jax.hosts import heap
    from icegrt_jax.training.progress import Progress

    marks, after, update, give_back = [], [], Progress.update, heap.give_back

    def marked(self, step, *metrics):
        update(self, step, *metrics)
        used = resource.getrusage(resource.RUSAGE_SELF)
        marks.append([time.perf_counter(), used.ru_utime + used.ru_stime, used.ru_stime])

    def after_loop():
        give_back()
        after.append(int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))

    Progress.update, heap.give_back = marked, after_loop
    while turns.wait():
        if code := cli.main(argv):
            raise RuntimeError(f"icegrt {name} ended with {code}")
        steps = [[b - a for a, b in zip(*pair)] for pair in zip(marks, marks[1:])]
        turns.done({}, steps=steps, after_loop=after[-1])


def prepare(options, folder: pathlib.Path) -> list[str]:
    """Runs what the stages begin with in `folder`/first; returns the arguments that all runs have."""
    first = folder / "first"
    first.mkdir(parents=True)
    records(first)
    config = pathlib.Path(__file__).with_name("heap_config.py")
    args = [f"--config={config}:quick" if options.quick else f"--config={config}"]
    if not options.quick:
        args.append(f"--config.model.path={first_layers(options.large().path, LAYERS, folder / 'model')}")
    for name in ("sft", "reward"):
        command = [sys.executable, "-m", "icegrt_jax", name, *args, f"--workdir={first}"]
        short = [f"--config.{stage}.steps=1" for stage in ("sft", "reward")]
        subprocess.run([*command, *short], cwd=ROOT, env=worker_environment(gpu=False), check=True, capture_output=True)
    return args


def workdir(folder: pathlib.Path, name: str) -> pathlib.Path:
    """A new one as the stage finds it; what has been compiled is there for every run, as it is for a rerun."""
    first, new = folder / "first", folder / "run"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for part in [*first.glob("*.jsonl"), *(first / x for x in ("data", "tokenizer", "compile_cache", *STAGES[name]))]:
        if part.exists():
            (new / part.name).symlink_to(part)
    return new


def run(name: str, args: list[str], folder: pathlib.Path, env: tuple) -> dict:
    """One run of a stage in a process of its own: what it said, or {"failed": why}."""
    settings = {"name": name, "argv": [name, *args, f"--workdir={workdir(folder, name)}"]}
    worker = Worker(Contender(name, "benchmarks.heap:stage", settings, env=env))
    try:
        ready = worker.answer(ANSWER_S)
        return ready if "failed" in ready else worker.go(ANSWER_S)
    finally:
        worker.close()


def section(options) -> dict:
    """The section `heap`."""
    model = options.large()
    if why := "" if options.quick else options.no_model(model):
        return {"cases": {name: left_out(f"icegrt {name}", why) for name in STAGES}}
    folder = options.scratch / "heap"
    args = prepare(options, folder)
    rounds = 1 if options.quick else options.rounds
    found = {name: {way: [] for way in WAYS} for name in STAGES}
    for index in range(rounds):
        if options.deadline is not None and time.monotonic() > options.deadline:
            print(f"    the time budget is used up after {index} of {rounds} rounds", flush=True)
            break
        for name in STAGES:
            for way, env in WAYS.items():
                answer = run(name, args, folder, env)
                found[name][way].append(answer)
                print(f"    round {index + 1}, {name}, {way}: {text_of(answer)}", flush=True)
    what = "tiny model" if options.quick else f"{model.name}, first {LAYERS} layers"
    return {"cases": {name: case(f"{what}, icegrt {name}.", ways) for name, ways in found.items()}}


def text_of(answer: dict) -> str:
    """A run in a few words."""
    if "failed" in answer:
        return f"failed: {answer['failed']}"
    peak, after = (x / GIB for x in (answer["peak_bytes"], answer["info"]["after_loop"]))
    return f"peak {peak:.2f} GiB, {after:.2f} after the loop, {seconds(answer):.2f} s a step"


def seconds(answer: dict, which: int = 0) -> float:
    """Of a step: 0 passed, 1 of all cores' time, 2 of those in the system. Median of those between two marks."""
    return statistics.median(step[which] for step in answer["info"]["steps"])


def case(title: str, ways: dict[str, list[dict]]) -> dict:
    """A table: peaks and their ratio to the least, what stays, seconds and their ratio to ours round by round."""
    whole = {way: runs for way, runs in ways.items() if runs and all("failed" not in run for run in runs)}
    peaks = {way: [run["peak_bytes"] / GIB for run in runs] for way, runs in whole.items()}
    least = min((max(values) for values in peaks.values()), default=None)
    header = [
        "", "peak GiB, each run", "largest over the least way's", "GiB after the loop", "s/step (range)",
        "over ours (by round)", "CPU s/step", "of it in the system",
    ]  # fmt: skip
    rows = []
    for way, runs in ways.items():
        if way not in whole:
            rows.append([way, next((run["failed"] for run in runs if "failed" in run), "not run"), *[""] * 6])
            continue
        times, after = [seconds(run) for run in runs], [run["info"]["after_loop"] / GIB for run in runs]
        ratios = [time / seconds(own) for time, own in zip(times, whole.get(OURS, []))]
        over = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else "-"
        rows.append([
            way, ", ".join(f"{peak:.2f}" for peak in peaks[way]), f"{max(peaks[way]) / least:.2f}",
            f"{max(after):.2f}", f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})", over,
            *(f"{statistics.median(seconds(run, which) for run in runs):.2f}" for which in (1, 2)),
        ])  # fmt: skip
    return {"title": title, "header": header, "rows": rows, "runs": ways}


if __name__ == "__main__":
    from benchmarks.__main__ import main

    raise SystemExit(main(["--only=heap", *sys.argv[1:]]))
