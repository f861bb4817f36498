"""A command in all processes of its run, or in this one alone.

Imports JAX only where there may be more than one process, after the config has been checked.
"""

import os
import pathlib
from typing import Any

from icegrt_jax.hosts import maintenance
from icegrt_jax.hosts.launch import Launch, Start, alone, cluster, on_tpu


def run(launch: Launch, config: str, workdir: pathlib.Path, command: list[Any], start: Start) -> None:
    """Calls `start.main` in every process, once all have come; on a plain machine in this one.

    Args:
      config: as JSON, the same in every process.
      workdir: a folder that all of them see.
      command: the stage and its flags, the same in every process.
    """
    found = None if launch.num_processes or launch.distributed == "off" else cluster(os.environ)
    with maintenance.heard(on_tpu=on_tpu(os.environ)):
        if not found and (launch.num_processes or 1) == 1:
            return alone(start)
        from icegrt_jax.hosts import supervise  # imports JAX

        supervise.run(launch, found, config, workdir, command, start)
