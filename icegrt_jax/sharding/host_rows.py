"""A global batch whose rows the processes of a run hold in parts."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from icegrt_jax.hosts.sync import fetch
from icegrt_jax.sharding.rules import batch_sharding


def own_rows(mesh: Mesh, size: int) -> Sequence[int]:
    """Which rows of a global batch of `size` this process places, ascending."""
    parts = batch_sharding(mesh).addressable_devices_indices_map((size,)).values()
    return sorted({row for (rows,) in parts for row in range(*rows.indices(size))})


def place_rows(batch: Any, mesh: Mesh) -> Any:
    """Global arrays split over the mesh, from each process's own rows of them on the host."""
    return jax.make_array_from_process_local_data(batch_sharding(mesh), batch)


def all_rows(rows: np.ndarray, mesh: Mesh) -> np.ndarray:
    """The global array on every host, from each process's own rows of it."""
    return rows if jax.process_count() == 1 else fetch(place_rows(rows, mesh))
