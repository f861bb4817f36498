"""Checkpoints of training states. The only file that knows Orbax.

A checkpoint is a folder named after its step. Orbax writes it under a temporary
name, in the background, and renames it when it is complete: a run killed at any
moment leaves its last finished checkpoint as it was, and the leftover is removed
before the next save. Of several processes each writes what its devices hold, into
one checkpoint; any number of processes reads it.

    with Checkpoints(workdir / "sft" / "checkpoints") as checkpoints:
        if checkpoints.latest() is not None:
            state = checkpoints.restore(abstract_like(state))
        ...
        checkpoints.save(step, state, {"data": iterator_state})
"""

import dataclasses
import os
import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.training.finite import check_finite_tree

_MAX_NAMED = 8  # differing keys named in an error


def abstract_like(tree: Any) -> Any:
    """Returns `tree` with each array replaced by its shape, dtype and sharding."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)), tree)


class Checkpoints:
    """The checkpoints of one stage.

    Opening a folder only reads; it is made, and leftovers of a killed run are
    cleaned away, by the first save. So a folder can be read while a run writes it.

    Args:
      directory: where the checkpoints are, one folder per step.
      keep: how many are kept; older ones are deleted after a newer one is complete.
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int = 2):
        self._directory = pathlib.Path(directory).absolute()
        self._keep = keep
        self._writer: ocp.training.Checkpointer | None = None
        self._saving: ocp.AsyncResponse | None = None

    def steps(self) -> list[int]:
        """Returns the steps with a complete checkpoint, ascending; waits for a save of ours under way."""
        self.wait()
        # Of several processes the main one looks: all go on from the same.
        return sync.from_main(f"checkpoints in {self._directory}", self._complete)

    def _complete(self) -> list[int]:
        if not self._directory.is_dir():
            return []
        folders = [f for f in self._directory.iterdir() if f.name.isdigit()]
        return sorted(int(f.name) for f in folders if ocp.is_orbax_checkpoint(f))

    def latest(self) -> int | None:
        """Returns the last step with a complete checkpoint, None where there is none."""
        return max(self.steps(), default=None)

    def save(self, step: int, tree: Any, metadata: dict | None = None) -> None:
        """Saves `tree` in the background; a step that is already saved is left alone.

        The next update may donate the arrays: Orbax has copied them by then, or holds
        on to their buffers. A failure is raised by the next `save`, `wait` or `close`.
        Of a tree that is not finite nothing is saved: a run goes on from where it can.

        Args:
          step: names the checkpoint.
          tree: any tree of `jax.Array`s, typed keys included; None and empty nodes may be in it.
          metadata: what JSON can hold, such as the position of a data iterator.

        Raises:
          TrainingError: an array has a NaN or an infinity.
        """
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            assert isinstance(leaf, jax.Array), f"{_name(path)} is a {type(leaf)}, not a jax.Array"
        check_finite_tree(step, tree, self.left)
        if self._writer is None:
            self._writer = ocp.training.Checkpointer(
                self._directory,
                preservation_policy=ocp.training.preservation_policies.LatestN(self._keep),
                cleanup_tmp_directories=True,
            )
        if step in self.steps():
            return
        # Forced: the default policy skips a save when it finds one under way.
        self._saving = self._writer.save_async(step, tree, force=True, custom_metadata=metadata)

    def left(self) -> str:
        """Says what a stage that cannot go on has left, and how it is begun anew."""
        last, folder = self.latest(), self._directory.parent
        saved = "No step has been saved" if last is None else f"Step {last}, the last one saved, is finite and kept"
        return (
            f"{saved}; the same command comes here again. Lower the learning rate or look at this step's data; "
            f"with {folder} deleted, {folder.name} begins anew and may have other values."
        )

    def restore(self, abstract_tree: Any, step: int | None = None, *, partial: bool = False) -> Any:
        """Returns the stored tree, bit for bit, laid out as `abstract_tree` says.

        Args:
          abstract_tree: `jax.ShapeDtypeStruct` leaves, see `abstract_like`; those without a
            sharding are put on the first device. Shardings may differ from those at saving.
          step: which checkpoint; the latest by default.
          partial: read only the part that `abstract_tree` has, such as
            `{"params": {"policy": ...}}` of a training state; other fields are never read.

        Raises:
          UserError: there is no such checkpoint, or it holds another tree.
        """
        folder = self._folder(step)
        stored = ocp.metadata(folder).metadata
        _check_same(stored, abstract_tree, folder, partial)
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract_tree = jax.tree.map(
            lambda x: x if x.sharding else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
            abstract_tree,
        )
        context = ocp.Context()
        context.pytree.loading.partial_load = partial
        newer = _newer_fields(abstract_tree, stored)
        with context:
            if not newer:
                return ocp.load(folder, abstract_tree)
            known = {name: value for name, value in _fields(abstract_tree).items() if name not in newer}
            return abstract_tree.replace(**ocp.load(folder, known))

    def metadata(self, step: int | None = None) -> dict:
        """Returns the metadata given to `save`, of the latest step by default."""
        return dict(ocp.metadata(self._folder(step)).custom_metadata)

    def wait(self) -> None:
        """Returns when the save under way is complete; raises what made it fail."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()  # only this ends the thread and frees the descriptors that each save has
        if self._writer is not None:
            self._writer.wait()

    def close(self) -> None:
        """Waits, then frees Orbax's threads. A later save opens it again."""
        try:
            self.wait()
        finally:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def _folder(self, step: int | None) -> pathlib.Path:
        steps = self.steps()
        if not steps:
            raise UserError(f"No checkpoint in {self._directory}; run the stage that writes it first.")
        if step is None:
            step = steps[-1]
        if step not in steps:
            raise UserError(f"No checkpoint of step {step} in {self._directory}; there are {steps}.")
        return self._directory / str(step)


def _check_same(stored_tree: Any, wanted_tree: Any, folder: pathlib.Path, partial: bool) -> None:
    """Raises UserError naming the leaves that are not in both trees with one shape and dtype."""
    stored, wanted = _specs(stored_tree), _specs(wanted_tree)
    differences = [f"{name} is not stored" for name in wanted.keys() - stored.keys()]
    if not partial:
        differences += [f"{name} is stored but not wanted" for name in stored.keys() - wanted.keys()]
    differences += [
        f"{name} is stored as {stored[name]}, wanted {wanted[name]}"
        for name in wanted.keys() & stored.keys()
        if stored[name] != wanted[name]
    ]
    if differences:
        named = "; ".join(sorted(differences)[:_MAX_NAMED])
        more = f"; and {len(differences) - _MAX_NAMED} more" if len(differences) > _MAX_NAMED else ""
        raise UserError(
            f"The checkpoint {folder} does not fit this configuration: {named}{more}. "
            "Use the configuration it was written with, or another workdir."
        )


def _fields(tree: Any) -> dict[str, Any]:
    """What a struct of flax holds in its fields that are no static description; nothing of another tree."""
    if not dataclasses.is_dataclass(tree):
        return {}
    is_node = lambda field: field.metadata.get("pytree_node", True)
    return {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree) if is_node(field)}


def _newer_fields(wanted: Any, stored: Any) -> set[str]:
    """Fields that hold nothing and that whoever wrote the checkpoint did not have: Orbax would ask for them."""
    return {name for name, value in _fields(wanted).items() if not jax.tree.leaves(value)} - set(stored)


def _specs(tree: Any) -> dict[str, str]:
    """Returns each leaf's shape and dtype as text, by its name."""
    return {_name(path): _spec(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _spec(leaf: Any) -> str:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)  # stored as its uint32 words
    return f"{leaf.dtype}{list(leaf.shape)}"


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
