"""Does a data set train that is three times larger than the memory that the process may take?

    ICEGRT_DATA=DIR python experiments/own_data/large.py --work=runs/own_data_large

Writes results/large.json and results/large.md beside this file; needs about ten times the limit of disk.
"""

import argparse
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

from icegrt_jax import files
from icegrt_jax.training.metrics import read_metrics

HERE = pathlib.Path(__file__).parent
CONFIG = HERE / "large_config.py"
MIB = 1 << 20
ROWS = "domain/pubmedqa/train.jsonl"  # copied again and again, each with a number of its own for an id
# The answer is trained on; the abstract, most of a row, is kept with the record, as a judge would ask for it.
MAPPING = "?text=LONG_ANSWER&meta.contexts=CONTEXTS&meta.number=id"
SMALL = 4 * MIB  # of the set that shows what a process takes whatever the data


class Limited:
    """A process that gets no more memory than `limit` bytes: the kernel ends it.

    With a memory cgroup of version 1 where this user may make one; elsewhere it is watched, and ended above the limit.

    Attributes:
      way: cgroup or watch.
    """

    def __init__(self):
        self._group = _new_group()
        self.way = "cgroup" if self._group else "watch"

    def __call__(self, log: pathlib.Path, *command: str, limit: int = 0) -> dict:
        """Runs `icegrt COMMAND`; its exit code, seconds and peak of resident bytes that no file backs."""
        if self._group:
            (self._group / "memory.limit_in_bytes").write_text(str(limit or -1))
        started, peak = time.perf_counter(), 0
        environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        with open(log, "w") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", ENTER, str(self._group or ""), *command],
                stdout=out, stderr=subprocess.STDOUT, env=environment,
            )  # fmt: skip
        while process.poll() is None:
            peak = max(peak, self._held(process.pid))
            if limit and not self._group and peak > limit:
                process.kill()
            time.sleep(0.02)
        return {"rc": process.wait(), "seconds": time.perf_counter() - started, "peak": peak}

    def close(self) -> None:
        if self._group:
            self._group.rmdir()

    def _held(self, pid: int) -> int:
        try:
            if self._group:
                stat = (self._group / "memory.stat").read_text()
                return int(stat.partition("total_rss ")[2].split()[0])
            return 1024 * int(pathlib.Path(f"/proc/{pid}/status").read_text().partition("RssAnon:")[2].split()[0])
        except (OSError, IndexError):  # it has just ended
            return 0


# Enters the group named first, then is the command behind it. The package doesn't need torch, which transformers
# imports where it is installed: 120 MB that have nothing to do with the data.
ENTER = """
import os, sys
sys.modules["torch"] = None
if sys.argv[1]:
    open(os.path.join(sys.argv[1], "cgroup.procs"), "w").write(str(os.getpid()))
from icegrt_jax.cli import main
sys.exit(main(sys.argv[2:]))
"""


def _new_group() -> pathlib.Path | None:
    own = next((line.split(":")[2] for line in open("/proc/self/cgroup") if ":memory:" in line), "").strip()
    group = pathlib.Path(f"/sys/fs/cgroup/memory{own}/own_data_{os.getpid()}")
    try:
        group.mkdir()
    except OSError:
        return None
    return group


def write_rows(path: pathlib.Path, size: int) -> int:
    """Writes numbered rows until the file has `size` bytes; returns how many."""
    lines = (pathlib.Path(os.environ["ICEGRT_DATA"]) / ROWS).read_text(encoding="utf-8").splitlines()
    heads = [f'{{"id": "{json.loads(line)["id"]}",' for line in lines]
    if not all(line.startswith(head) for line, head in zip(lines, heads, strict=True)):
        raise SystemExit(f"{ROWS}: expected rows that begin with their id")
    rests = [line[len(head) :].encode() for line, head in zip(lines, heads, strict=True)]
    written = 0
    with open(path, "wb") as file:
        for number in itertools.count():
            written += file.write(b'{"id": "%d",%s\n' % (number, rests[number % len(rests)]))
            if written >= size:
                return number + 1


def pretrain(run: Limited, work: pathlib.Path, name: str, source: str, limit: int = 0) -> dict:
    """Trains anew, with the tokenizer and the compiled programs of the first time."""
    workdir = work / "run"
    for part in workdir.glob("*"):
        if part.is_file():
            part.unlink()
        elif part.name not in ("tokenizer", "compile_cache"):
            shutil.rmtree(part)
    keys = (f"--config.data_dir={work}", f"--config.pretrain.sources.large={source}")
    log = work / f"{name}.log"
    found = run(log, "pretrain", f"--config={CONFIG}", f"--workdir={workdir}", *keys, limit=limit)
    metrics = workdir / "pretrain" / "metrics.jsonl"
    losses = [row["loss"] for row in read_metrics(metrics)] if metrics.exists() else []
    if not limit and found["rc"]:
        raise SystemExit(f"{log}: failed")
    return {**found, "losses": losses}


def build(run: Limited, work: pathlib.Path, name: str, limit: int = 0) -> dict:
    """Tokenises WORK/NAME.jsonl into WORK/NAME/train."""
    shutil.rmtree(work / name, ignore_errors=True)
    log, flags = (
        work / f"build_{name}.log",
        [f"--source=jsonl:{name}.jsonl{MAPPING}", f"--name={name}", f"--data_dir={work}"],
    )
    tokenizer = f"--tokenizer={work / 'run' / 'tokenizer'}"
    found = run(log, "data", "build", "--kind=text", *flags, f"--out={work}", tokenizer, limit=limit)
    if found["rc"]:
        raise SystemExit(f"{log}: failed")
    return {**found, "bytes": sum(file.stat().st_size for file in (work / name / "train").iterdir())}


def study(run: Limited, work: pathlib.Path, margin: float, times: float) -> dict:
    """All that the table has.

    Args:
      margin: the limit, by what a run on the small set takes.
      times: the large set, by the limit.
    """
    said: dict = {"way": run.way, "small_rows": write_rows(work / "small.jsonl", SMALL)}
    said["small_bytes"] = (work / "small.jsonl").stat().st_size
    pretrain(run, work, "first", f"jsonl:small.jsonl{MAPPING}")  # compiles
    said["build_small"] = build(run, work, "small")
    said["small_jsonl"] = pretrain(run, work, "small_jsonl", f"jsonl:small.jsonl{MAPPING}")
    said["small_tokens"] = pretrain(run, work, "small_tokens", "tokens:small/train")
    limit = said["limit"] = -(-int(margin * said["small_tokens"]["peak"]) // (16 * MIB)) * 16 * MIB
    said["rows"] = write_rows(work / "large.jsonl", int(times * limit))
    said["bytes"] = (work / "large.jsonl").stat().st_size
    said["build"] = build(run, work, "large", limit)
    said["tokens"] = pretrain(run, work, "large_tokens", "tokens:large/train", limit)
    said["jsonl"] = pretrain(run, work, "large_jsonl", f"jsonl:large.jsonl{MAPPING}", limit)
    return said


def table(said: dict) -> str:
    """Markdown."""
    mib = lambda size: f"{size / MIB:.0f}"
    loss = lambda losses: f"{losses[0]:.3f} → {losses[-1]:.3f}" if losses else "-"
    how = {"cgroup": "a memory cgroup", "watch": "a watcher of the process"}[said["way"]]
    size = said["bytes"]
    lines = [
        f"Limit {mib(said['limit'])} MiB ({how}); large set {mib(size)} MiB of JSON lines, {size / said['limit']:.2f}"
        f" times the limit, {said['rows']} rows; tokenised {mib(said['build']['bytes'])} MiB.",
        "",
        "| process | data, MiB | limit, MiB | peak, MiB | ended | seconds | loss |",
        "|---|---:|---:|---:|---|---:|---|",
    ]
    small = said["small_bytes"]
    rows = (
        ("pretrain, jsonl", "small_jsonl", small, 0), ("pretrain, tokens", "small_tokens", small, 0),
        ("data build", "build", size, said["limit"]), ("pretrain, tokens", "tokens", size, said["limit"]),
        ("pretrain, jsonl", "jsonl", size, said["limit"]),
    )  # fmt: skip
    for name, key, data, limit in rows:
        found = said[key]
        ended = "well" if not found["rc"] else "killed: out of memory" if found["rc"] == -9 else f"with {found['rc']}"
        cells = [mib(data), mib(limit) if limit else "none", mib(found["peak"]), ended, f"{found['seconds']:.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {loss(found.get('losses', []))} |")
    same = said["small_jsonl"]["losses"] == said["small_tokens"]["losses"]
    lines += ["", f"Losses on the small set, jsonl and tokens: {'the same, bit for bit' if same else 'NOT the same'}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/own_data_large"))
    parser.add_argument("--margin", type=float, default=1.15, help="the limit, by what a run on 4 MiB of data takes")
    parser.add_argument("--times", type=float, default=3.0, help="the size of the data, by the limit")
    args = parser.parse_args()
    if not os.environ.get("ICEGRT_DATA"):
        raise SystemExit("needs the public data sets of docs/data.md: set ICEGRT_DATA to their folder")
    work = args.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    run = Limited()
    try:
        said = study(run, work, args.margin, args.times)
    finally:
        run.close()
    files.write_json_atomic(HERE / "results" / "large.json", said)
    files.write_text_atomic(HERE / "results" / "large.md", table(said))
    print(table(said))


if __name__ == "__main__":
    main()
