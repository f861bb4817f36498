"""How the processes of a run start together: found by JAX on a cluster, told by flags elsewhere, one otherwise.

Imports JAX only where there is more than one process, after the config has been checked and before any computation.
"""

import contextlib
import dataclasses
import glob
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import secrets
import shutil
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from icegrt_jax.errors import UserError
from icegrt_jax.parallel.meeting import HostError, Meeting
from icegrt_jax.parallel.pulse import PATIENCE, Pulse

FOLDER = ".hosts"  # in the workdir; a folder in it for each start, removed at its end
FIRST_LOOK = 60.0  # seconds in which a shared folder shows what another host has written
LATER = 60  # seconds by which JAX's own limit for a sign of life comes after ours, which says more
LOST = 1  # exit code of a run that lost a process


@dataclasses.dataclass(frozen=True)
class Launch:
    """What the flags say of the processes.

    Attributes:
      distributed: "auto": as JAX finds it, unless the other flags say; "off": one process.
      coordinator: HOST:PORT of process 0, "" where it is to be found.
      num_processes: how many there are; None where that is to be found.
      process_id: which one this is, from 0; None where that is to be found.
      timeout: seconds that one process waits for another.
    """

    distributed: str = "auto"
    coordinator: str = ""
    num_processes: int | None = None
    process_id: int | None = None
    timeout: float = 600.0

    def __post_init__(self):
        given = {"--coordinator": self.coordinator or None, "--num-processes": self.num_processes,
                 "--process-id": self.process_id}  # fmt: skip
        missing = [flag for flag, value in given.items() if value is None]
        if self.distributed == "off" and len(missing) < 3:
            raise UserError("--distributed=off is for one process; leave out --coordinator and the flags beside it.")
        if missing and len(missing) < 3:
            raise UserError(f"{missing[0]} is missing; --coordinator, --num-processes and --process-id go together.")
        if missing:
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"--coordinator={self.coordinator}; expected HOST:PORT of process 0, as 10.0.0.2:8476.")
        if not 0 <= self.process_id < self.num_processes:
            raise UserError(
                f"--process-id={self.process_id} with --num-processes={self.num_processes}; "
                f"expected 0 to {self.num_processes - 1}."
            )


def cluster(environ: Mapping[str, str]) -> str | None:
    """What has started this process as one of several, or may have: a launcher's name; None on a plain machine."""
    number = lambda name: int(environ.get(name) or 1)
    if "SLURM_STEP_NODELIST" in environ and number("SLURM_NTASKS") > 1:
        return "slurm"
    if number("OMPI_COMM_WORLD_SIZE") > 1 and "OMPI_MCA_orte_hnp_uri" in environ:
        return "ompi"
    if number("OMPI_COMM_WORLD_SIZE") > 1 or number("PMI_SIZE") > 1:
        return "mpi4py"  # newer Open MPI, MPICH, Intel: JAX asks the library
    if environ.get("JAX_PLATFORMS", "") != "cpu":
        workers = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES") or ""
        if "," in workers or number("MEGASCALE_NUM_SLICES") > 1:
            return "gke"
        # Of a TPU VM only its metadata server knows whether it is part of a pod; JAX asks it.
        if importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*")):
            return "tpu"
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        return "kubernetes"
    return None


def run(
    launch: Launch,
    config: str,
    workdir: pathlib.Path,
    command: list[Any],
    prepare: Callable[[], Callable[[], None]],
    main: Callable[[], None],
) -> None:
    """Calls `prepare` in the first process, then `main` in every one, once all have come; on a plain machine just both.

    Of several processes none returns with an error: it ends, because an orderly end would wait for all the others.

    Args:
      config: as JSON, the same in every process.
      workdir: a folder that all of them see.
      command: the stage and its flags, the same in every process.
      prepare: writes what a run begins with; gives what takes it back after a mistake of the user.
    """
    found = None if launch.num_processes or launch.distributed == "off" else cluster(os.environ)
    if not found and (launch.num_processes or 1) == 1:
        return alone(prepare, main)
    with _joining(launch, workdir):
        _initialize(launch, found)
    import jax

    if jax.process_count() == 1:
        _tidy(workdir)
        return alone(prepare, main)
    meeting, pulse, undo = None, None, lambda: None
    try:
        meeting = _meet(launch, workdir)
        pulse = meeting.watch(_patience(launch), _lost)
        _compare(meeting, config, workdir, command)
        if jax.process_index():
            sys.stdout = open(os.devnull, "w", encoding="utf-8")
        else:
            undo = prepare()
        meeting.exchange("the first file of the run")
        main()
        _part(meeting, pulse, workdir)
    except SystemExit:  # all processes have agreed on it
        _part(meeting, pulse, workdir)
        raise
    except BaseException as error:
        if pulse is not None:
            pulse.stop()
        _stop(error, meeting, workdir, undo)


def _part(meeting: Meeting, pulse: Pulse, workdir: pathlib.Path) -> None:
    """The orderly end of all processes."""
    meeting.exchange("the end")
    pulse.stop()
    if meeting.index == 0:
        _tidy(workdir)


def _patience(launch: Launch) -> float:
    """Seconds of silence after which a process counts as lost."""
    return min(PATIENCE, launch.timeout)


def _lost(sentence: str) -> None:
    """Called beside a main thread that may wait for ever."""
    print(f"error: {sentence}", file=sys.stderr)
    _end(LOST)


def alone(prepare: Callable[[], Callable[[], None]], main: Callable[[], None]) -> None:
    """Calls both in this process, and takes back what was prepared after a mistake of the user."""
    undo = prepare()
    try:
        main()
    except UserError:
        undo()
        raise


def _initialize(launch: Launch, found: str | None) -> None:
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # read where there are CPUs only
    limits = {
        "initialization_timeout": round(launch.timeout) + LATER,
        "heartbeat_timeout_seconds": round(_patience(launch)) + LATER,
        "shutdown_timeout_seconds": round(launch.timeout),
    }
    if launch.num_processes:
        jax.distributed.initialize(launch.coordinator, launch.num_processes, launch.process_id, **limits)
        return
    try:
        jax.distributed.initialize(cluster_detection_method="mpi4py" if found == "mpi4py" else None, **limits)
    except (ValueError, RuntimeError) as error:
        if found == "tpu" and isinstance(error, ValueError):
            return  # a TPU VM by itself
        raise UserError(
            f"started by {found}, but JAX cannot tell the processes from it ({' '.join(str(error).split())}); give "
            "--coordinator, --num-processes and --process-id, or --distributed=off for one process."
        ) from error


@contextlib.contextmanager
def _joining(launch: Launch, workdir: pathlib.Path):
    """Ends the process with a sentence where not all have come within the limit; JAX's own end is an abort.

    Who is there is told by files that change: those of an earlier start do not.
    """
    folder = workdir / FOLDER / "joining"
    folder.mkdir(parents=True, exist_ok=True)
    own = f"{'' if launch.process_id is None else launch.process_id}.{socket.gethostname()}.{os.getpid()}"
    joined, at_first, here = threading.Event(), {}, {own}

    def look():
        # The main process clears the folder away once all have come.
        with contextlib.suppress(OSError):
            (folder / own).write_text(str(time.time_ns()), encoding="utf-8")
            for path in folder.iterdir():
                stamp = path.read_text(encoding="utf-8")
                if at_first.setdefault(path.name, stamp) != stamp:
                    here.add(path.name)

    def wait():
        until = time.monotonic() + launch.timeout
        while not joined.wait(min(1.0, launch.timeout / 5)):
            look()
            if time.monotonic() > until:
                print(f"error: {_absentees(launch, workdir, here)}", file=sys.stderr)
                leave()
                _end(LOST)

    def leave():
        (folder / own).unlink(missing_ok=True)
        for empty in (folder, folder.parent, workdir):
            with contextlib.suppress(OSError):
                empty.rmdir()

    look()
    threading.Thread(target=wait, daemon=True).start()
    try:
        yield
    except UserError:
        joined.set()
        leave()
        raise
    joined.set()


def _absentees(launch: Launch, workdir: pathlib.Path, here: set[str]) -> str:
    """Who has not come, from the names of those that have: PROCESS.HOST.PID, the first empty where it is not known."""
    where = f"within {launch.timeout:g} s ({workdir} must be a folder that all hosts share)"
    if launch.num_processes:
        came = {name.split(".")[0] for name in here}
        missing = [str(i) for i in range(launch.num_processes) if str(i) not in came]
        if not missing:
            return f"all processes are there, but not all reach {launch.coordinator}; check its port and the network."
        of = f"of {launch.num_processes}, coordinator {launch.coordinator},"
        return f"process {', '.join(missing)} {of} did not come {where}."
    names = sorted(name.split(".", 1)[1].rpartition(".")[0] for name in here)
    return f"not all processes came {where}; those that did are on {', '.join(names)}."


def _meet(launch: Launch, workdir: pathlib.Path) -> Meeting:
    """Makes the folder of this start, under a name that process 0 draws."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    from icegrt_jax.parallel import hosts

    drawn = np.frombuffer(secrets.token_bytes(4), np.uint8).astype(np.int32)
    if jax.process_index() == 0:
        shutil.rmtree(workdir / FOLDER, ignore_errors=True)  # also of runs that were killed
    name = bytes(multihost_utils.broadcast_one_to_all(drawn).astype(np.uint8)).hex()
    meeting = Meeting(workdir / FOLDER / name, jax.process_index(), jax.process_count(), launch.timeout)
    hosts.open_meeting(meeting)
    first_look = min(FIRST_LOOK, launch.timeout)
    hint = f"{workdir} must be a folder that all hosts share"
    meeting.introduce(meeting.exchange("the start", socket.gethostname(), timeout=first_look, hint=hint))
    return meeting


def _compare(meeting: Meeting, config: str, workdir: pathlib.Path, command: list[Any]) -> None:
    """Refuses processes that were started with something else than process 0, or see another workdir."""
    mine = {
        "config": _flat(json.loads(config)),
        "command": {"stage and flags": command},
        "version": {name: importlib.metadata.version(name) for name in ("icegrt_jax", "jax", "jaxlib")},
        "workdir": _contents(workdir),
    }
    first, *others = meeting.exchange("the comparison of configs", mine)
    for i, other in enumerate(others, start=1):
        for what, values in first.items():
            keys = [k for k in sorted({*values, *other[what]}) if values.get(k) != other[what].get(k)]
            if keys:
                shown = "; ".join(f"{k} {values.get(k)!r} → {other[what].get(k)!r}" for k in keys[:8])
                raise UserError(
                    f"{meeting.named(i)} has another {what} than process 0 ({shown}); start every process with the "
                    "same command, config, versions and shared workdir."
                )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {key: leaf for name, value in tree.items()
            for key, leaf in _flat(value, f"{prefix}.{name}" if prefix else name).items()}  # fmt: skip


def _contents(workdir: pathlib.Path) -> dict[str, int]:
    """What decides how a run goes on, with sizes: config, data, finished stages and checkpoints."""
    files = [workdir / "config.json", *workdir.glob("data/*"), *workdir.glob("*/done.json")]
    sizes = {str(path.relative_to(workdir)): path.stat().st_size for path in files if path.is_file()}
    checkpoints = [path for path in workdir.glob("*/checkpoints/*") if path.name.isdigit()]
    return sizes | {str(path.relative_to(workdir)): 0 for path in checkpoints}


def _tidy(workdir: pathlib.Path) -> None:
    """Removes what only the start needed, and the workdir where nothing else is in it."""
    shutil.rmtree(workdir / FOLDER, ignore_errors=True)
    with contextlib.suppress(OSError):
        workdir.rmdir()


def _stop(error: BaseException, meeting: Meeting | None, workdir: pathlib.Path, undo: Callable[[], None]) -> None:
    """Says why, tells the others, and ends the process."""
    import jax

    who, code, lost = f"process {jax.process_index()}", LOST, ""
    if isinstance(error, jax.errors.JaxRuntimeError) and meeting is not None:
        lost = meeting.roll_call()  # a collective failed: is anybody gone?
    if isinstance(error, HostError) or lost:
        # Said as well: where only this process has failed, the others are there and cannot answer.
        sentence = f"error: {lost} ({' '.join(str(error).split())[:200]})" if lost else f"error: {error}"
    elif isinstance(error, UserError):
        sentence, code = f"error: {who}: {error}", 2
    elif isinstance(error, KeyboardInterrupt):
        sentence, code = f"{who}: interrupted; the same command continues from the last checkpoint", 130
    else:
        sentence = "".join(traceback.format_exception(error)) + who
    print(sentence, file=sys.stderr, flush=True)
    if meeting is not None:
        meeting.leave("interrupted" if code == 130 else str(error) or type(error).__name__)
        if meeting.index == 0:
            # With process 0 goes JAX's coordinator, which would abort the others in the middle of their sentence.
            meeting.wait_until_left()
            _tidy(workdir)
            if isinstance(error, UserError):
                undo()
    _end(code)


def _end(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
