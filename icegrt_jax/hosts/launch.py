"""How the processes of a run start together: found by JAX on a cluster, told by flags elsewhere, one otherwise."""

import dataclasses
import glob
import importlib.util
from collections.abc import Callable, Mapping

from icegrt_jax.errors import UserError
from icegrt_jax.hosts import signals


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
        assert self.process_id is not None and self.num_processes is not None
        if not 0 <= self.process_id < self.num_processes:
            raise UserError(
                f"--process-id={self.process_id} with --num-processes={self.num_processes}; "
                f"expected 0 to {self.num_processes - 1}."
            )


@dataclasses.dataclass(frozen=True)
class Start:
    """What a command does once its processes are known.

    Attributes:
      hold: keeps other runs out of the workdir, in the first process; gives what lets them in again. None: it only
        reads there, also while another trains.
      prepare: writes what a run begins with, in the first process; gives what takes it back after a user's mistake.
      main: the stage, in every process.
    """

    hold: Callable[[], Callable[[], None]] | None
    prepare: Callable[[], Callable[[], None]]
    main: Callable[[], None]


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
        if on_tpu(environ):
            return "tpu"
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        return "kubernetes"
    return None


def on_tpu(environ: Mapping[str, str]) -> bool:
    """Whether this machine has TPUs that JAX would use; JAX is not asked, which would take them."""
    if environ.get("JAX_PLATFORMS", "") == "cpu" or not importlib.util.find_spec("libtpu"):
        return False
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*"))


def alone(start: Start) -> None:
    """All of it in this process."""
    with signals.ends_at_once():
        release = start.hold() if start.hold else lambda: None
        undo = lambda: None
        try:
            undo = start.prepare()
            start.main()
        except UserError:
            release()
            undo()
            raise
        finally:
            release()
