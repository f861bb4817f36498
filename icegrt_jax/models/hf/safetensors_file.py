"""safetensors files written tensor by tensor, so that no more than one is on the host.

Format: https://huggingface.co/docs/safetensors/index#format. The library's own writer wants all of a file's tensors
at once; reading is the library's.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterable

import jax.numpy as jnp
import numpy as np

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # ours -> theirs


@dataclasses.dataclass(frozen=True)
class Spec:
    """One tensor to be written: its shape and the dtype it is stored in."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * jnp.dtype(self.dtype).itemsize


def write(path: pathlib.Path, specs: dict[str, Spec], read: Callable[[str], np.ndarray]) -> None:
    """One file with the tensors of `specs`; `read(name)` gives each when its turn comes."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, spec in specs.items():
        offsets = [offset, offset + spec.size]
        header[name] = {"dtype": DTYPES[spec.dtype], "shape": list(spec.shape), "data_offsets": offsets}
        offset += spec.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data start at a multiple of 8
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, spec in specs.items():
            tensor = read(name)
            assert (tensor.shape, tensor.dtype) == (spec.shape, jnp.dtype(spec.dtype)), name
            # As bytes: bfloat16 is no type that a buffer can have.
            file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8))
            del tensor  # before the next one is read


def shards(specs: dict[str, Spec], limit: int) -> Iterable[dict[str, Spec]]:
    """The tensors in order, in groups of at most `limit` bytes; a larger one is a group of its own."""
    group: dict[str, Spec] = {}
    size = 0
    for name, spec in specs.items():
        if group and size + spec.size > limit:
            yield group
            group, size = {}, 0
        group[name] = spec
        size += spec.size
    yield group


def write_sharded(folder: pathlib.Path, specs: dict[str, Spec], read: Callable[[str], np.ndarray], limit: int) -> None:
    """`model.safetensors`, or several of at most `limit` bytes with the index that transformers reads."""
    groups = list(shards(specs, limit))
    if len(groups) == 1:
        write(folder / "model.safetensors", specs, read)
        return
    weight_map: dict[str, str] = {}
    for i, group in enumerate(groups):
        file = f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors"
        write(folder / file, group, read)
        weight_map |= dict.fromkeys(group, file)
    index = {"metadata": {"total_size": sum(spec.size for spec in specs.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
