"""What a checkpoint says of itself: its step, and of each array its name, shape, dtype and checksum.

It is in Orbax's own metadata, which are there as soon as the checkpoint is. What is read is compared with it.
"""

import contextlib
import dataclasses
import functools
import gc
import logging
import pathlib
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax

from icegrt_jax.errors import UserError
from icegrt_jax.training import checksums

_MAX_NAMED = 8  # differing keys named in an error


class Broken(UserError):
    """A checkpoint cannot be read, or holds something else than was saved."""


@contextlib.contextmanager
def reading(folder: pathlib.Path) -> Iterator[None]:
    """What goes wrong while a folder is read is the folder's fault, unless memory or a device is: `Broken`.

    That is said once, by whoever catches it, and not by Orbax's log and what its other reads leave behind as well.
    """
    hook, level = sys.unraisablehook, logging.root.manager.disable
    sys.unraisablehook = functools.partial(_but_of_closed_loops, hook)
    logging.disable(logging.ERROR)
    try:
        yield
        sys.unraisablehook = hook
    except Broken as error:
        _let_go(error)
        raise
    except (UserError, MemoryError, jax.errors.JaxRuntimeError):
        sys.unraisablehook = hook
        raise
    except Exception as error:  # of Orbax, TensorStore, JSON: any, as any byte may be another
        said = " ".join(str(error).split())[:200]
        _let_go(error)
        raise Broken(f"{folder} cannot be read ({type(error).__name__}: {said})") from error
    finally:
        logging.disable(level)


def _let_go(error: Exception) -> None:
    """Lets go of the reads that failed as well, here, where nothing is logged of them; some live on for a while."""
    logging.getLogger("asyncio").addFilter(_but_of_other_reads)
    traceback.clear_frames(error.__traceback__)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of those that have not begun
        gc.collect()


def _but_of_other_reads(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Task exception was never retrieved")


def _but_of_closed_loops(hook: Callable[[Any], Any], unraisable: Any) -> None:
    """Where one read of several has failed, the others come back to a loop that is gone, some later still."""
    if not str(unraisable.exc_value).startswith(("Event loop is closed", "Encountered error while reading array")):
        hook(unraisable)


def recorded(folder: pathlib.Path, record: Any, specs: dict[str, str]) -> dict[str, list]:
    """Shape and checksum of each array as they were saved; {} where an older version has saved them."""
    if record is None:
        return {}
    with reading(folder):
        arrays, step = dict(record["arrays"]), int(record["step"])
        saved = {name: spec for name, (spec, _) in arrays.items()}
    if str(step) != folder.name:
        raise Broken(f"{folder} holds step {step}: it has been renamed, or copied over another")
    if saved != specs:
        raise Broken(f"{folder} is damaged: its own description of its arrays is not what was saved")
    return arrays


def record(step: int, tree: Any) -> dict[str, Any]:
    """{"step", "arrays": {name: [shape and dtype, checksum]}} of what is saved."""
    sums = checksums.of_tree(tree)
    return {"step": step, "arrays": {name: [spec, sums[name]] for name, spec in specs(tree).items()}}


def check_numbers(folder: pathlib.Path, loaded: Any, arrays: dict[str, list]) -> None:
    """Raises `Broken` where what has been read is not what was saved."""
    bad = [name for name, found in checksums.of_tree(loaded).items() if arrays[name][1] != found]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise Broken(f"{folder} is damaged: {bad[0]}{more} holds other numbers than were saved")


def check_same(stored: dict[str, str], wanted_tree: Any, folder: pathlib.Path, partial: bool) -> None:
    """Raises UserError naming the leaves that are not in both trees with one shape and dtype."""
    wanted = specs(wanted_tree)
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


def fields(tree: Any) -> dict[str, Any]:
    """What a struct of flax holds in its fields that are no static description; nothing of another tree."""
    if not dataclasses.is_dataclass(tree):
        return {}
    is_node = lambda field: field.metadata.get("pytree_node", True)
    return {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree) if is_node(field)}


def newer_fields(wanted: Any, stored: Any) -> set[str]:
    """Fields that hold nothing and that whoever wrote the checkpoint did not have: Orbax would ask for them."""
    return {name for name, value in fields(wanted).items() if not jax.tree.leaves(value)} - set(stored)


def specs(tree: Any) -> dict[str, str]:
    """Returns each leaf's shape and dtype as text, by its name."""
    return {name(path): spec(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def spec(leaf: Any) -> str:
    return _spec(leaf.shape, leaf.dtype)


@functools.cache  # of a key's words JAX would keep one more traced function for each checkpoint
def _spec(shape: tuple[int, ...], dtype: Any) -> str:
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        words = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(shape, dtype))  # stored as its uint32 words
        shape, dtype = words.shape, words.dtype
    return f"{dtype}{list(shape)}"


def name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
