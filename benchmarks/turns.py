"""Contenders that take turns: A, B, C, A, B, C, ... so that a busy moment hits all of them."""

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).parent.parent
ANSWER_S = 3600.0  # a contender that says nothing for so long has failed
GRACE_S = 60.0  # what was begun before a deadline may take so much longer


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way of doing a case.

    name: as the tables call it. target: MODULE:FUNCTION, see `worker.py`. settings: its arguments, as JSON.
    python: the interpreter that has its libraries. env: what its environment has on top of ours.
    warm_ups: repetitions that are not measured; more than one where sizes that are chance are compiled for.
    stays: between its turns; otherwise its process begins anew for each, because the others need its memory.
    """

    name: str
    target: str
    settings: dict
    python: str = sys.executable
    env: tuple[tuple[str, str], ...] = ()
    warm_ups: int = 1
    stays: bool = True


def threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def worker_environment(gpu: bool) -> dict[str, str]:
    """As many threads as cores for every library, one CPU device for jax, nothing looked up in the network."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }
    flags = [flag for flag in env.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in flag]
    env["XLA_FLAGS"] = " ".join(flags)
    env.update({name: str(threads()) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")})
    env.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", PYTHONUNBUFFERED="1")
    env.pop("JAX_PLATFORMS", None)
    if gpu:
        env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several contenders share the memory
    else:
        env.update(JAX_PLATFORMS="cpu", CUDA_VISIBLE_DEVICES="")
    return env


class Worker:
    """A contender's process, from the parent's side."""

    def __init__(self, contender: Contender, gpu: bool = False):
        self.log = tempfile.NamedTemporaryFile("w+", prefix="bench-", suffix=".log")
        env = {**worker_environment(gpu), **dict(contender.env)}
        self.process = subprocess.Popen(
            [contender.python, "-m", "benchmarks.worker", contender.target, json.dumps(contender.settings)],
            cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
        )  # fmt: skip
        self.lines = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.began = time.perf_counter()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def answer(self, timeout: float) -> dict:
        """The next message, or {"failed": why}."""
        try:
            line = self.lines.get(timeout=timeout)
        except queue.Empty:
            return {"failed": f"no answer within {timeout:.0f} s"}
        return json.loads(line) if line else {"failed": self._last_words()}

    def _last_words(self) -> str:
        self.process.wait()
        lines = [line for line in pathlib.Path(self.log.name).read_text(errors="replace").splitlines() if line.strip()]
        return (lines[-1][:300] if lines else "") + f" (exit status {self.process.returncode})"

    def go(self, timeout: float) -> dict:
        """One repetition's answer."""
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"failed": self._last_words()}
        return self.answer(timeout)

    def close(self) -> None:
        """Asks the process to end, and ends it if it does not."""
        with contextlib.suppress(OSError):  # it may have ended already
            self.process.stdin.write("quit\n")
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join(timeout=20)
        self.process.stdout.close()
        self.log.close()


def take_turns(
    contenders: list[Contender], rounds: int, *, gpu: bool = False, deadline: float | None = None, say=print
) -> dict[str, dict]:
    """Every contender's repetitions.

    Args:
      contenders: in their order within a round.
      rounds: measured ones; warm-ups, which include compilation, come before them.
      deadline: of `time.monotonic`; no round begins after it.

    Returns:
      {name: {"ready_s", "warm_up": the first, "rounds": [repetition, ...]}}, or {name: {"failed": why}} of those
      that could not do it, or "missing" where the deadline left no time for it. A repetition is what `Turns.done` said.
    """
    workers, results = {}, {}

    def patience() -> float:
        return ANSWER_S if deadline is None else max(GRACE_S, deadline + GRACE_S - time.monotonic())

    def fail(name: str, why: str) -> None:
        say(f"    {name}: failed: {why}")
        results[name] = {"failed": why}
        workers.pop(name).close()

    def begin(contender: Contender) -> None:
        """Starts its process and warms it up; what it has measured before stays."""
        name, worker = contender.name, Worker(contender, gpu)
        workers[name] = worker
        first = worker.answer(patience())
        if "failed" in first:
            return fail(name, first["failed"])
        ready = time.perf_counter() - worker.began
        warm_ups = [worker.go(patience()) for _ in range(contender.warm_ups)]
        if failed := next((warm["failed"] for warm in warm_ups if "failed" in warm), None):
            return fail(name, failed)
        if name not in results:
            results[name] = {"ready_s": ready, "warm_up": warm_ups[0], "rounds": []}
            say(f"    {name}: ready after {ready:.1f} s, first repetition {warm_ups[0]['seconds']:.2f} s")

    def measure(name: str) -> None:
        repetition = workers[name].go(patience())
        if "failed" in repetition:
            fail(name, repetition["failed"])
        else:
            results[name]["rounds"].append(repetition)

    try:
        for contender in contenders:  # made ready one after another, so that loading disturbs nobody's warm-up
            if contender.stays:
                begin(contender)
        for index in range(rounds):
            if deadline is not None and time.monotonic() > deadline:
                say(f"    the time budget is used up after {index} of {rounds} rounds")
                break
            for contender in contenders:
                name = contender.name
                if not contender.stays and "failed" not in results.get(name, {}):
                    begin(contender)
                if name in workers:
                    measure(name)
                if not contender.stays and name in workers:
                    workers.pop(name).close()
            taken = {name: result["rounds"] for name, result in results.items() if "failed" not in result}
            times = (f"{name} {repetitions[-1]['seconds']:.2f} s" for name, repetitions in taken.items())
            say(f"    round {index + 1} of {rounds}: {', '.join(times)}")
    finally:
        for worker in workers.values():
            worker.close()
    missing = {"missing": "the time budget was used up before a measured round"}
    for contender in contenders:
        result = results.setdefault(contender.name, missing)
        if "failed" not in result and not result.get("rounds"):
            results[contender.name] = missing
    return results
