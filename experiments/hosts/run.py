"""Does a run have the same numbers on one, two and four processes, and does it survive losing one?

    python experiments/hosts/run.py --work=runs/hosts

Real processes on this machine, over loopback, four simulated devices in all. Runs the quickstart's smoke config through
every stage in each layout; then once more, terminated and killed on the way and continued with other numbers of
processes. Writes results/hosts.json and results/table.md beside this file; what has finished is not run again.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version

from icegrt_jax import files
from icegrt_jax.training.metrics import read_metrics

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
LAYOUTS = {"1 x 4": (1, 4), "2 x 2": (2, 2), "4 x 1": (4, 1)}  # processes x devices of each
STAGES = ("pretrain", "sft", "reward", "ppo")
# Compiling costs more than running here: code that is not optimised is ready seven times sooner.
XLA = "--xla_backend_optimization_level=0"
if version("jaxlib") < "0.11":  # gone in later ones, which end the process over a flag they do not know
    XLA += " --xla_cpu_use_fusion_emitters=false"
SCORES = ("score", "score_raw")
LIMIT = 60  # seconds that one process waits for another


def start(workdir: pathlib.Path, processes: int, devices: int) -> list[subprocess.Popen]:
    """`icegrt run` on the smoke config, as so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": f"{XLA} --xla_force_host_platform_device_count={devices}",
    }  # fmt: skip
    smoke = "--config=configs/quickstart.py:smoke"
    command = [sys.executable, "-m", "icegrt_jax", "run", smoke, f"--workdir={workdir}"]
    started = []
    for i in range(processes):
        flags = [f"--coordinator=127.0.0.1:{port}", f"--num-processes={processes}", f"--process-id={i}"]
        flags = [*flags, f"--host-timeout={LIMIT}"] if processes > 1 else []
        started.append(subprocess.Popen(
            [*command, *flags], cwd=ROOT, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        ))  # fmt: skip
    return started


def ends(started: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    """Exit codes and what went to stderr."""
    errors = [process.communicate()[1] for process in started]
    return [process.returncode for process in started], errors


def stop_at(started: list[subprocess.Popen], workdir: pathlib.Path, stage: str, step: int, number: int, which: int):
    """Sends process `which` a signal when the stage's metrics show a step; gives exit codes and stderr."""
    metrics = workdir / stage / "metrics.jsonl"
    while all(process.poll() is None for process in started):
        if metrics.is_file() and any(row["step"] >= step for row in files.read_jsonl(metrics)):
            started[which].send_signal(number)
            break
        time.sleep(0.05)
    return ends(started)


def interrupted(workdir: pathlib.Path, programs: list[pathlib.Path]) -> list[dict]:
    """One run in three parts: two processes, one asked to stop; four, one killed; then one alone to the end.

    Compiled programs are taken over from runs that have them.
    """
    parts = []
    for folder in programs:
        shutil.copytree(folder / "compile_cache", workdir / "compile_cache", dirs_exist_ok=True)
    for what, layout, *stop in [
        ("SIGTERM to process 1 in sft", (2, 2), "sft", 4, signal.SIGTERM, 1),
        ("SIGKILL of process 2 in ppo", (4, 1), "ppo", 3, signal.SIGKILL, 2),
        ("to the end", (1, 4)),
    ]:
        started = start(workdir, *layout)
        began = time.monotonic()
        codes, errors = stop_at(started, workdir, *stop) if stop else ends(started)
        said = [next((x for x in reversed(e.splitlines()) if x.startswith(("error:", "SIGTERM:"))), "") for e in errors]
        parts.append({"what": what, "processes": layout[0], "exit codes": codes, "last words": said})
        print(f"{what}: {codes} after {time.monotonic() - began:.0f} s\n" + "\n".join(said), flush=True)
    return parts


def difference(one: pathlib.Path, other: pathlib.Path) -> dict:
    """The largest difference of any metric of any step, by stage, and whether what was sampled and judged is equal."""
    found = {}
    for stage in STAGES:
        rows, others = (read_metrics(folder / stage / "metrics.jsonl") for folder in (one, other))
        assert [row.keys() for row in rows] == [row.keys() for row in others], stage
        pairs = [(key, a[key], b[key]) for a, b in zip(rows, others, strict=True) for key in a]
        assert all(math.isfinite(a) and math.isfinite(b) for _, a, b in pairs)
        largest = lambda kept, pairs=pairs: max(
            (abs(a - b) / max(abs(a), 1.0) for key, a, b in pairs if (key in SCORES) == kept), default=0.0
        )
        found[f"{stage}, metrics"] = largest(False)
        if stage in ("reward", "ppo"):
            found[f"{stage}, mean raw score"] = largest(True)
    texts = lambda folder: [(r["step"], r["response"]) for r in files.read_jsonl(folder / "ppo" / "samples.jsonl")]
    results = lambda folder: files.read_json(folder / "evaluate" / "results.json")
    rankings = lambda folder: (folder / "data" / "own_rankings.jsonl").read_bytes()
    return found | {
        "PPO's samples equal": texts(one) == texts(other),
        "own rankings equal": rankings(one) == rankings(other),
        "evaluation equal": results(one) == results(other),
    }


def table(results: dict) -> str:
    names = list(results["against one process"])
    rows = [f"| against 1 x 4 | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for key in results["against one process"][names[0]]:
        cells = [results["against one process"][name][key] for name in names]
        cells = [("yes" if x else "no") if isinstance(x, bool) else f"{x:.1e}" for x in cells]
        rows.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder of the runs")
    work = parser.parse_args().work.absolute()
    runs = {name: work / name.replace(" ", "") for name in LAYOUTS}
    for name, layout in LAYOUTS.items():
        if not (runs[name] / "report" / "index.html").is_file():
            codes, errors = ends(start(runs[name], *layout))
            assert not any(codes), errors
    broken, told = work / "interrupted", work / "interrupted.json"
    if not told.is_file():
        shutil.rmtree(broken, ignore_errors=True)
        files.write_json_atomic(told, interrupted(broken, list(runs.values())))
    one, *_ = runs
    others = {**{name: folder for name, folder in runs.items() if name != one}, "interrupted": broken}
    results = {
        "against one process": {name: difference(runs[one], folder) for name, folder in others.items()},
        "the interrupted run": files.read_json(told),
    }
    files.write_json_atomic(HERE / "results" / "hosts.json", results)
    files.write_text_atomic(HERE / "results" / "table.md", table(results))
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
