"""Topologies by name, such as v5e:2x4 or cpu:8, and their devices without the hardware.

The `libtpu` package holds the TPU compiler; `jax.experimental.topologies` describes a slice to it. Nothing here looks
for a TPU: `environment` says so to jax and libtpu, and must be set before either starts.
"""

import dataclasses
import math
import os
import re
import sys
from collections.abc import Sequence

from icegrt_jax.errors import UserError

# kind -> axes of a slice, chips of a host along them, what libtpu is told so that a device is a whole chip.
KINDS = {
    "v4": (3, (2, 2, 1), {"chip_config_name": "megacore"}),
    "v5e": (2, (2, 2, 1), {}),
    "v5p": (3, (2, 2, 1), {}),
    "v6e": (2, (2, 2, 1), {}),
}
EXAMPLES = "v5e:2x4, v4:2x2x4, v5p:4x4x4, v6e:16x16 or cpu:8"


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice, or several of the same shape. kind: of the chips. shape: chips along each axis of a slice."""

    kind: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices

    def __str__(self) -> str:
        name = f"{self.kind}:{'x'.join(map(str, self.shape))}"
        return f"{self.slices} x {name}" if self.slices > 1 else name


def parse_topology(text: str, slices: int = 1) -> Topology:
    """The topology that `--topology` and `--slices` name."""
    kind, _, sizes = text.partition(":")
    if kind not in (*KINDS, "cpu") or not re.fullmatch(r"\d+(x\d+)*", sizes):
        raise UserError(f"--topology={text}; expected something like {EXAMPLES}; --slices=2 for two of them.")
    shape = tuple(map(int, sizes.split("x")))
    axes = 1 if kind == "cpu" else KINDS[kind][0]
    if len(shape) != axes or min(shape) < 1:
        raise UserError(f"--topology={text}: a {kind} slice has {axes} axes of 1 or more; expected {EXAMPLES}.")
    if kind == "cpu" and slices > 1:
        raise UserError(f"--slices={slices}: simulated CPU devices are one slice; leave it out.")
    return Topology(kind, shape, slices)


def environment(topology: Topology) -> dict[str, str]:
    """What must be in the environment before jax is imported."""
    found = {"JAX_PLATFORMS": "cpu"}
    if topology.kind == "cpu":
        flags = re.sub(r"--xla_force_host_platform_device_count=\S*", "", os.environ.get("XLA_FLAGS", ""))
        return found | {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={topology.chips}".strip()}
    # libtpu asks the machine it is on what it is a part of; this one is part of nothing.
    return found | {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_MIN_LOG_LEVEL": "4",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is held, so planning need not wait for other processes
    }


def prepare(topology: Topology) -> None:
    """Sets the environment. Where jax is imported already it has been read, and must do."""
    if "jax" not in sys.modules:
        os.environ.update(environment(topology))
    elif topology.kind != "cpu":
        os.environ.update({k: v for k, v in environment(topology).items() if k != "JAX_PLATFORMS"})


def devices(topology: Topology) -> Sequence:
    """The devices of the topology, one a chip: to compile for, not to run on."""
    if topology.kind == "cpu":
        return _simulated(topology)
    import libtpu  # noqa: F401 - the command line says which extra has it
    from jax.experimental import topologies

    _, host, options = KINDS[topology.kind]
    bounds = tuple(min(size, most) for size, most in zip((*topology.shape, 1)[:3], host))
    slices = {"num_slices": topology.slices} if topology.slices > 1 else {}
    name = f"{topology.kind}:{'x'.join(map(str, topology.shape))}"
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=name, chips_per_host_bounds=bounds, **options, **slices
        ).devices
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--topology={name}: the TPU compiler knows no such slice ({reason}).") from error
    if len(found) != topology.chips:
        raise UserError(f"--topology={name}: the TPU compiler gives it {len(found)} devices, not {topology.chips}.")
    return found


def _simulated(topology: Topology) -> Sequence:
    import jax

    found = jax.devices("cpu")
    if len(found) < topology.chips:
        raise UserError(
            f"--topology={topology}: jax has started with {len(found)} simulated devices; start a new process, or set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={topology.chips}."
        )
    return found[: topology.chips]
