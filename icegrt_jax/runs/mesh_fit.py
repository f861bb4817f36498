"""Whether a model's shape goes with the mesh: what does not divide is whole on every device, and is said."""

from jax.sharding import Mesh

from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig


def undivided(role: str, model: ModelConfig, mesh: Mesh) -> list[str]:
    """A sentence for each size of a role's model that does not divide over the axis that should split it.

    Raises UserError where an axis would split nothing at all: its devices would all do the same work.
    """
    found = []
    for axis, names in (("tensor", ("num_heads", "num_kv_heads", "d_ff", "vocab_size")), ("fsdp", ("d_model",))):
        parts = mesh.shape[axis]
        sizes = {name: getattr(model, name) for name in names}
        whole = {name: size for name, size in sizes.items() if size % parts}
        if len(whole) == len(sizes):
            raise UserError(
                f"mesh.{axis}={parts} splits nothing of the {role} model ({_listed(sizes)}); "
                "use a divisor of one of them."
            )
        found += [
            f"{role}: {name}={size} does not divide over mesh.{axis}={parts} and is whole on each of those devices; "
            f"mesh.{axis}={_largest_divisor(size, parts)} would split it"
            for name, size in whole.items()
        ]
    return found


def _largest_divisor(size: int, limit: int) -> int:
    return max(n for n in range(1, limit + 1) if size % n == 0)


def _listed(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())
