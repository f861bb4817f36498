"""From a compiled program to bytes and seconds: a roofline of the chip's published figures.

A program takes at least as long as the slowest of its matrix products at the chip's peak, its memory traffic at the
memory's bandwidth, and its collectives at the links' (Williams et al. 2009, https://doi.org/10.1145/1498765.1498785).
Nothing overlaps worse, and no latency, host work or waiting is in it: real runs are slower.
"""

import dataclasses

from icegrt_jax.plan.chips import Chip
from icegrt_jax.plan.compiled import Compiled, Part
from icegrt_jax.plan.program import Program
from icegrt_jax.plan.shapes import bytes_per_chip


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one run, of the matrix products, the memory traffic and the network; all 0 without figures."""

    compute: float
    memory: float
    network: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory, self.network)

    @property
    def bound(self) -> str:
        """Which of the three it is."""
        return max(("compute", "memory", "network"), key=lambda name: getattr(self, name))


def roofline(part: Part, chip: Chip | None) -> Roofline:
    """Of one run of a program or of a part of it."""
    if chip is None:
        return Roofline(0.0, 0.0, 0.0)
    sent = sum(part.collectives.values())
    network = (sent - part.between_slices) / chip.ici_bandwidth + part.between_slices / chip.dcn_bandwidth
    return Roofline(part.flops / chip.flops, part.hbm_bytes / chip.hbm_bandwidth, network)


def peak_bytes(program: Program, compiled: Compiled) -> int:
    """Bytes of a chip's memory while the program runs.

    What is resident counts whether the program reads it or not; the compiler drops arguments that it does not.
    """
    memory = compiled.memory
    resident = bytes_per_chip(program.resident)
    if "needed" in memory:
        return max(memory["needed"], resident)
    unread = max(resident - memory["arguments"], 0)
    new = memory["outputs"] - memory["aliased"]
    return memory["arguments"] + unread + new + memory["temporaries"] + memory["code"]
