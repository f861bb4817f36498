"""Whole chains ended at random moments, each gone on with by the same command until it is finished: what that changes.

    python -m tests.faults.kills --kills=200 --signals=100 --seed=0 --workdir=runs/kills

Or in several portions, with the same folder and other seeds; --kills=0 --signals=0 is the table of all of them.

The chain is the smallest: every stage, evaluation and report. One runs uninterrupted and tells where it was when. Of
each further one the moments are drawn: a quarter uniform in the first seconds of an attempt, the others at a place of
the stage that is due or the one after it, each place as likely, and uniform within the time that it takes. A SIGKILL
has to end in nothing, SIGTERM and SIGINT in 143 and 130 with one sentence. What is finished in the end has to have
the bytes of the uninterrupted one (`tests.faults.compare.EXCEPT` says what is not compared). Exit 1 where something
was otherwise.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import re
import select
import shutil
import signal
import statistics
import sys
import time
from typing import Any

from icegrt_jax import files
from tests import conftest  # one device, code that is ready soon, as in all tests
from tests.commands.forked import Forked
from tests.commands.runs import ROOT, command, one_device
from tests.faults import compare, places

STAGES = ("pretrain", "sft", "reward", "ppo", "evaluate", "report")
SENTENCE = re.compile(r"^SIG(TERM|INT): .+; run the same command to continue\.$")
EARLY = 8.0  # seconds of an attempt in which a moment may be drawn by time alone
BEHIND = 0.3  # seconds behind the call of a save, in which the checkpoint is written in the background
LATE = 2.0  # seconds of a later stage in which an attempt ends that has not come to its moment
IN_REPORT = 2  # attempts of a chain that only the report is left of: it is short, and would take all that are left
HALF_WRITTEN = re.compile(r"orbax-checkpoint-tmp|\.partial_save")


@dataclasses.dataclass(frozen=True)
class Moment:
    """When an attempt is to be ended.

    Attributes:
      place: STAGE/WHAT, "" for a time since the start.
      time: how often it has come there by then, this time included.
      delay: seconds after that.
    """

    place: str
    time: int
    delay: float

    def __str__(self) -> str:
        return f"{self.place or 'the start'}{f' no. {self.time}' if self.place else ''} + {self.delay:.3f} s"


@dataclasses.dataclass
class Ending:
    """How an attempt has ended: where it was at the signal ("" where there was none), and how long that took."""

    place: str
    code: int
    said: str
    seconds: float = 0.0
    walk: list[tuple[float, str]] = dataclasses.field(default_factory=list)


def attempt(
    arguments: list[str], env: dict[str, str], fifo: pathlib.Path, moment: Moment | None, number: int
) -> Ending:
    """Runs the command, and sends it the signal at the moment, if it comes there."""
    fifo.unlink(missing_ok=True)
    os.mkfifo(fifo)
    reads = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    walk: list[tuple[float, str]] = []
    try:
        process = Forked(places.CODE, [str(fifo), *arguments], env=env, cwd=ROOT)
        began = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            ended = pool.submit(process.communicate)
            sent = None
            due = began + moment.delay if moment and not moment.place else None
            while not ended.done():
                wait = 0.05 if due is None or sent else min(max(due - time.perf_counter(), 0.0), 0.05)
                for line in _lines(reads, wait):
                    walk.append((time.perf_counter() - began, line))
                    if due is None and moment and _reached(moment, walk):
                        due = time.perf_counter() + moment.delay
                if due is not None and sent is None and time.perf_counter() >= due:
                    sent = time.perf_counter(), walk[-1][1][1:] if walk else "start/imports"
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, number)
            _, said = ended.result()
    finally:
        os.close(reads)
    over = time.perf_counter() - sent[0] if sent else 0.0
    return Ending(sent[1] if sent else "", process.returncode, said, over, walk)


def _lines(reads: int, wait: float) -> list[str]:
    """What has been told within so many seconds; lines are written whole."""
    ready, _, _ = select.select([reads], [], [], wait)
    told = os.read(reads, 1 << 16) if ready else b""
    if ready and not told:
        time.sleep(0.01)  # nobody has it open
    return told.decode().splitlines()


def _reached(moment: Moment, walk: list[tuple[float, str]]) -> bool:
    """Whether a walk has come to the moment's place so often, or is LATE in a stage after it."""
    if sum(line == f"+{moment.place}" for _, line in walk) >= moment.time:
        return True
    begun = {line[1:].partition("/")[0]: at for at, line in reversed(walk) if line.endswith("/begin")}
    stage = moment.place.partition("/")[0]
    after = [at for name, at in begun.items() if name in STAGES and STAGES.index(name) > STAGES.index(stage)]
    return bool(after) and walk[-1][0] - min(after) > LATE


def spans(walk: list[tuple[float, str]]) -> dict[str, dict[str, list[float]]]:
    """Of each stage its places, and how long each stay in one took until the next line, in seconds."""
    found: dict[str, dict[str, list[float]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for (at, line), (then, _) in zip(walk, [*walk[1:], (walk[-1][0], "")], strict=True):
        if line.startswith("+"):
            found[line[1:].partition("/")[0]][line[1:]].append(then - at)
    return found


def drawn(rng: random.Random, known: dict[str, dict[str, list[float]]], due: str) -> Moment:
    """A moment of an attempt that goes on with the stage `due`."""
    if rng.random() < 0.25:
        return Moment("", 0, rng.uniform(0.05, EARLY))
    at = STAGES.index(due)
    stage = rng.choice([name for name in STAGES[at : at + 2] if name in known])
    place = rng.choice(sorted(known[stage]))
    longest = max(statistics.fmean(known[stage][place]), BEHIND if place.endswith(places.SAVED) else 0.002)
    return Moment(place, rng.randint(1, min(len(known[stage][place]), 4)), rng.uniform(0.0, longest))


def wrong(ending: Ending, number: int) -> str:
    """What is not as it should be in how an attempt has ended; "" for nothing."""
    if not ending.place:
        return "" if ending.code == 0 else f"exit {ending.code} by itself"
    if "Traceback" in ending.said:
        return "a traceback"
    if ending.code == 0 and ending.seconds < 0.5:
        return ""  # it was at its end
    if number == signal.SIGKILL:
        return "" if ending.code == -signal.SIGKILL else f"exit {ending.code}"
    if ending.code == -number and not ending.said.splitlines()[-1:][0].startswith("SIG"):
        return "" if "report" in ending.place else "died of the signal"  # behind the last line nothing is said
    if ending.code != 128 + number:
        return f"exit {ending.code}"
    return "" if SENTENCE.match(ending.said.splitlines()[-1]) else "no sentence"


def due_stage(workdir: pathlib.Path) -> str:
    """The first stage that is not finished; the report where all are."""
    return next((stage for stage in STAGES[:-1] if not (workdir / stage / "done.json").exists()), STAGES[-1])


class Trial:
    """One uninterrupted chain, and all that is tried beside it.

    Args:
      folder: for all files: `whole` is the uninterrupted run, `ends.jsonl` has a line for each end of an attempt or a
        chain.
    """

    def __init__(self, folder: pathlib.Path, seed: int):
        self.folder, self.seed, self.rng, self.chains = folder, seed, random.Random(seed), 0
        self.env = one_device() | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}

    def begin(self) -> None:
        """The chain that nothing interrupts, once for the folder, and twice then: the first one compiles."""
        whole, walk = self.folder / "whole" / "run", self.folder / "walk.json"
        if not walk.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            for name in ("warm", "whole"):
                ending = self._run(self.folder / name / "run", None, signal.SIGKILL)
                assert ending.code == 0, ending.said
            other = compare.differences(compare.tree(self.folder / "warm" / "run"), compare.tree(whole))
            assert not other, f"two uninterrupted runs differ: {other}"
            walk.write_text(json.dumps(ending.walk))
        found = json.loads(walk.read_text())
        self.known, self.expected, self.steps = spans(found), compare.tree(whole), compare.steps(whole)
        print(f"uninterrupted: {found[-1][0]:.0f} s, {len(self.expected)} files and arrays", flush=True)

    def chain(self, signals: list[int]) -> None:
        """One chain, which takes from `signals` what it is ended by, and is compared once it is finished."""
        self.chains += 1
        workdir, tries, last = self.folder / f"chain_{self.seed}_{self.chains}" / "run", 0, 0
        while True:
            number, due = signals[-1] if signals else signal.SIGKILL, due_stage(workdir)
            last += due == STAGES[-1]
            moment = drawn(self.rng, self.known, due) if signals and last <= IN_REPORT else None
            ending, tries = self._run(workdir, moment, number), tries + 1
            self._note(ending, moment, number, workdir, tries)
            if ending.place and ending.code:
                signals.pop()
            elif ending.code == 0:
                break
            else:
                return  # it cannot be gone on with: said as bad
        other = compare.differences(compare.tree(workdir), self.expected)
        lost, doubled = compare.lost_and_doubled(compare.steps(workdir), self.steps)
        self._put({"differences": other, "lost": lost, "doubled": doubled, "attempts": tries})
        if not other:
            shutil.rmtree(workdir.parent)

    def _run(self, workdir: pathlib.Path, moment: Moment | None, number: int) -> Ending:
        workdir.parent.mkdir(parents=True, exist_ok=True)
        return attempt(command("run", workdir), self.env, self.folder / "places", moment, number)

    def _note(self, ending: Ending, moment: Moment | None, number: int, workdir: pathlib.Path, tries: int) -> None:
        how = wrong(ending, number)
        if how:
            print(ending.said[-1500:], flush=True)
        if how or (ending.place and ending.code):
            half = number == signal.SIGKILL and any(HALF_WRITTEN.search(path.name) for path in workdir.rglob("*"))
            self._put({
                "attempt": tries, "signal": signal.Signals(number).name, "place": ending.place, "drawn": str(moment),
                "exit": ending.code, "seconds": round(ending.seconds, 2), "half": half, "bad": how,
            })  # fmt: skip

    def _put(self, row: dict[str, Any]) -> None:
        row = {"seed": self.seed, "chain": self.chains, **row}
        files.append_jsonl(self.folder / "ends.jsonl", [row])
        print(json.dumps(row), flush=True)


def told(rows: list[dict[str, Any]]) -> bool:
    """Prints how often which place was interrupted, in all portions; whether all has ended as it should."""
    names, sums = ("SIGKILL", "SIGTERM", "SIGINT"), collections.Counter()
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    slowest: dict[str, float] = collections.defaultdict(float)
    for row in rows:
        if "signal" in row:
            sums[row["signal"]] += 1
            counts[row["place"]][row["signal"]] += 1
            counts["(a checkpoint was half written)"][row["signal"]] += row["half"]
            if row["signal"] != "SIGKILL":
                slowest[row["place"]] = max(slowest[row["place"]], row["seconds"])
    print(f"\n| place | {' | '.join(names)} | longest end, s |\n| --- | --- | --- | --- | --- |")
    for place, count in sorted(counts.items()):
        print(f"| {place} | {' | '.join(str(count[n]) for n in names)} | {slowest.get(place, 0.0):.2f} |")
    chains = [row for row in rows if "differences" in row]
    bad = [row for row in rows if row.get("bad") or row.get("differences")]
    lost, doubled = (sum(row[name] for row in chains) for name in ("lost", "doubled"))
    print(f"{dict(sums)}, {len(chains)} chains finished: {len(bad)} bad ends, {lost} steps lost, {doubled} doubled",
          *bad, sep="\n", flush=True)  # fmt: skip
    return not bad


def main(kills: int, signals: int, seed: int, workdir: pathlib.Path) -> bool:
    """Whether all has ended as it should."""
    trial = Trial(workdir, seed)
    numbers = [signal.SIGKILL] * kills + [(signal.SIGTERM, signal.SIGINT)[i % 2] for i in range(signals)]
    trial.rng.shuffle(numbers)
    if numbers:
        trial.begin()
    while numbers:
        trial.chain(numbers)
    return told(files.read_jsonl(workdir / "ends.jsonl"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs")
    parser.add_argument("--signals", type=int, default=100, help="SIGTERMs and SIGINTs, in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="a folder for all files")
    given = parser.parse_args()
    assert conftest.XLA_FLAGS
    sys.exit(not main(given.kills, given.signals, given.seed, given.workdir.absolute()))
