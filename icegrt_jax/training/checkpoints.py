"""Checkpoints of training states. The only file that knows Orbax.

A checkpoint is a folder named after its step. Orbax writes it under a temporary
name, in the background, and renames it when it is complete: a run killed at any
moment leaves its last finished checkpoint as it was, and the leftover is removed
before the next save. Of several processes each writes what its devices hold, into
one checkpoint; any number of processes reads it.

In its metadata are its step and the names, shapes and checksums of its arrays. What is read is compared with them:
a damaged, half copied or misnamed folder is never taken for a checkpoint. Those of older versions have none.

    with Checkpoints(workdir / "sft" / "checkpoints") as checkpoints:
        if (found := checkpoints.newest(abstract_like(state))) is not None:
            state, step = found
        ...
        checkpoints.save(step, state, {"data": iterator_state})
"""

import os
import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.training import inventory
from icegrt_jax.training.finite import check_finite_tree
from icegrt_jax.training.inventory import Broken

_RECORD = "icegrt_jax"  # its name in the metadata, see `inventory`
_COMMITTED = "commit_success.txt"


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
        return [step for step in self._numbered() if ocp.is_orbax_checkpoint(self._directory / str(step))]

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
            assert isinstance(leaf, jax.Array), f"{inventory.name(path)} is a {type(leaf)}, not a jax.Array"
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
        metadata = {**(metadata or {}), _RECORD: inventory.record(step, tree)}
        self._saving = self._writer.save_async(step, tree, force=True, custom_metadata=metadata)

    def left(self) -> str:
        """Says what a stage that cannot go on has left, and how it is begun anew."""
        last, folder = self.latest(), self._directory.parent
        saved = "No step has been saved" if last is None else f"Step {last}, the last one saved, is finite and kept"
        return (
            f"{saved}; the same command comes here again. Lower the learning rate or look at this step's data; "
            f"with {folder} deleted, {folder.name} begins anew and may have other values."
        )

    def newest(self, abstract_tree: Any) -> tuple[Any, int] | None:
        """The newest checkpoint that can be read, see `restore`, and its step; None: nothing has been saved.

        Those after it are set aside, under names that say so: their steps come again.

        Raises:
          Broken: there are some, none of which can be read.
        """
        reasons: dict[int, str] = {}
        for step in reversed(self._committed()):
            restored = reason = None
            try:
                restored = self._restored(self._directory / str(step), abstract_tree, partial=False)
            except Broken as error:
                reason = str(error)
            # Each process reads what its devices hold: what one cannot read none goes on from.
            said = [other for other in sync.exchange(f"checkpoint {step} is read", reason) if other]
            if not said:
                self._set_aside(step, reasons)
                return restored, step
            reasons[step] = said[0]
        if reasons:
            raise Broken(
                f"no checkpoint can be gone on from: {'; '.join(reasons.values())}. Bring one back from a copy, or "
                f"delete {self._directory.parent}: {self._directory.parent.name} then begins anew."
            )
        return None

    def _committed(self) -> list[int]:
        """The steps of folders that were once complete checkpoints, ascending, whatever has become of them."""
        self.wait()

        def found() -> list[int]:
            whole = set(self._complete())
            return [step for step in self._numbered() if step in whole or _was_committed(self._directory / str(step))]

        return sync.from_main(f"checkpoints in {self._directory}", found)

    def _numbered(self) -> list[int]:
        names = os.listdir(self._directory) if self._directory.is_dir() else ()
        return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)

    def _set_aside(self, last: int, reasons: dict[int, str]) -> None:
        """Renames the folders of later steps, which would be taken for what is saved there next."""

        def rename() -> None:
            for step in self._numbered():
                if step > last:
                    folder = self._directory / str(step)
                    names = (f"{step}.broken{number}" for number in ("", *(f".{n}" for n in range(1, 1000))))
                    aside = next(folder.with_name(name) for name in names if not folder.with_name(name).exists())
                    folder.rename(aside)
                    print(f"warning: {reasons.get(step, f'{folder} is unfinished')}; going on from step {last}, it is "
                          f"kept as {aside.name}", flush=True)  # fmt: skip

        sync.from_main(f"broken checkpoints in {self._directory}", rename)

    def restore(self, abstract_tree: Any, step: int | None = None, *, partial: bool = False) -> Any:
        """Returns the stored tree, bit for bit, laid out as `abstract_tree` says.

        Args:
          abstract_tree: `jax.ShapeDtypeStruct` leaves, see `abstract_like`; those without a
            sharding are put on the first device. Shardings may differ from those at saving.
          step: which checkpoint; the latest by default.
          partial: read only the part that `abstract_tree` has, such as
            `{"params": {"policy": ...}}` of a training state; other fields are never read.

        Raises:
          Broken: its files are damaged or missing.
          UserError: there is no such checkpoint, or it holds another tree.
        """
        folder = self._folder(step)
        try:
            return self._restored(folder, abstract_tree, partial)
        except Broken as error:
            raise Broken(
                f"{error}. Bring {folder} back from a copy, or delete {folder.parents[1]}: {folder.parents[1].name} "
                "then begins anew."
            ) from error

    def _restored(self, folder: pathlib.Path, abstract_tree: Any, partial: bool) -> Any:
        with inventory.reading(folder):
            read = ocp.metadata(folder)
            there, record = read.metadata, (read.custom_metadata or {}).get(_RECORD)
            if there is None:  # Orbax has logged why
                raise Broken(f"{folder} cannot be read (it does not say what it holds)")
            specs = inventory.specs(there)
        arrays = inventory.recorded(folder, record, specs)
        inventory.check_same(specs, abstract_tree, folder, partial)
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract_tree = jax.tree.map(
            lambda x: x if x.sharding else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
            abstract_tree,
        )
        context = ocp.Context()
        context.pytree.loading.partial_load = partial
        newer = inventory.newer_fields(abstract_tree, there)
        known: Any = abstract_tree
        if newer:
            known = {name: value for name, value in inventory.fields(abstract_tree).items() if name not in newer}
        with inventory.reading(folder), context:
            loaded = ocp.load(folder, known)
        if record is not None:
            inventory.check_numbers(folder, loaded, arrays)
        return abstract_tree.replace(**loaded) if newer else loaded

    def metadata(self, step: int | None = None) -> dict:
        """Returns the metadata given to `save`, of the latest step by default."""
        folder = self._folder(step)
        with inventory.reading(folder):
            return {k: v for k, v in dict(ocp.metadata(folder).custom_metadata).items() if k != _RECORD}

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


def _was_committed(folder: pathlib.Path) -> bool:
    try:
        return (folder / _COMMITTED).exists()
    except OSError:  # one that may not be looked into
        return True
