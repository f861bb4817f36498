"""Which stored tensors make up which leaf of ours, and whether a folder has them."""

import contextlib
import dataclasses
import json
import pathlib
import re
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.hf.families import family_of
from icegrt_jax.models.rope import base_frequencies, scale
from icegrt_jax.models.streaming import BLOCK_BYTES
from icegrt_jax.models.tree import flatten

HEAD_BIAS_PATH = "head/bias"  # kept in config.json
EMBEDDING_PATH, HEAD_PATH = "embed/embedding", "lm_head/kernel"  # one matrix where they are tied
RECOMPUTED = re.compile(r"\.rotary_emb\.inv_freq$")  # a buffer that old folders stored
FLOATS = ("F64", "F32", "F16", "BF16")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"


@dataclasses.dataclass(frozen=True)
class Source:
    """The tensors of theirs that make up one leaf of ours.

    Attributes:
      names: one, or one per layer.
      stacked: they are joined on a new leading axis (scanned layers).
      transposed: theirs is [out, in], ours [in, out].
    """

    names: tuple[str, ...]
    stacked: bool
    transposed: bool


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor on disk: its file, and a handle that reads from it when it is indexed."""

    file: pathlib.Path
    handle: Any


def source_of(path: str, config: ModelConfig) -> Source:
    """Where the leaf at `path`, such as layers/3/attn/q/kernel, comes from."""
    top, _, rest = path.partition("/")
    name_of = family_of(config).name_of
    stacked = top == "layers" and config.scan_layers
    if top != "layers":
        names: tuple[str, ...] = (name_of(path),)
    elif stacked:
        names = tuple(name_of(path).format(i) for i in range(config.num_layers))
    else:
        layer, _, rest = rest.partition("/")
        names = (name_of(f"layers/{rest}").format(layer),)
    return Source(names, stacked, transposed=path.endswith("/kernel"))


def open_tensors(folder: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, Stored]:
    """Every tensor of the folder by name; nothing is read yet."""
    tensors: dict[str, Stored] = {}
    for file, names in weight_files(folder).items():
        if not (folder / file).is_file():
            raise UserError(f"{folder / file}: missing; {INDEX} names it for {min(names)}; fetch it again.")
        try:
            opened = stack.enter_context(safe_open(folder / file, framework="numpy"))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder / file}: cannot be read ({error}); fetch it again.") from error
        if lost := names - set(opened.keys()):
            raise UserError(f"{folder / file}: has no {min(lost)}, which {INDEX} says is there; fetch both again.")
        tensors |= {name: Stored(folder / file, opened.get_slice(name)) for name in opened.keys()}
    return tensors


def weight_files(folder: pathlib.Path) -> dict[str, set[str]]:
    """The files that hold the weights, each with the tensors that the index says it has."""
    if (folder / ADAPTER).is_file():
        raise UserError(
            f"{folder / ADAPTER}: an adapter beside a whole model, which transformers adds to it where PEFT is "
            "installed and leaves out where it is not; move the adapter into a folder of its own, or remove it."
        )
    # In the order of transformers, which does not look at an index beside the one file.
    if (folder / SINGLE).is_file():
        return {SINGLE: set()}
    index = folder / INDEX
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            entries = [*weight_map.items()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{index}: no index of weights (weight_map); fetch it again.") from error
        files: dict[str, set[str]] = {}
        for name, file in entries:
            if not isinstance(file, str) or pathlib.PurePath(file).name != file:
                raise UserError(f"{index}: {repr(file):.80} for {name:.80} is no file of this folder; fetch it again.")
            files.setdefault(file, set()).add(name)
        return dict(sorted(files.items()))
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    if pickles:
        raise UserError(
            f"{folder / pickles[0]}: a pickle, which can run code when it is read, so it is not; convert it to "
            "model.safetensors, for example by loading and saving it with transformers."
        )
    raise UserError(f"{folder}: no model.safetensors here, nor an index of several; convert the weights first.")


def as_stored(config: ModelConfig, tensors: dict[str, Stored]) -> ModelConfig:
    """`config` with an output matrix of its own where it says tied and one with other values is stored.

    Tools that merge adapters leave such folders: the embedding is what it was, the output matrix was trained.
    """
    embedding, head = (tensors.get(source_of(path, config).names[0]) for path in (EMBEDDING_PATH, HEAD_PATH))
    if not config.tie_embeddings or embedding is None or head is None or same_values(embedding.handle, head.handle):
        return config
    return dataclasses.replace(config, tie_embeddings=False)


def same_values(one: Any, other: Any) -> bool:
    """Whether two stored matrices are equal, read a block of rows at a time."""
    shape = one.get_shape()
    if other.get_shape() != shape or len(shape) != 2:
        return False
    rows = max(BLOCK_BYTES // (8 * shape[1]), 1)
    blocks = (slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))
    return all(np.array_equal(*(stored[block].astype(np.float64) for stored in (one, other))) for block in blocks)


def check_frequencies(name: str, stored: Stored, config: ModelConfig) -> None:
    """Refuses stored rotary frequencies that are not those of config.json, scaled or before: we compute them anew."""
    got = stored.handle[:].astype(np.float64)
    bases = filter(None, (config.rope_theta, config.local_rope_theta))
    plain = [base_frequencies(theta, config.head_dim) for theta in bases]
    rtol, atol = (1e-4, 0.0) if stored.handle.get_dtype() in ("F64", "F32") else (1e-2, 1e-6)
    close = lambda expected: got.shape == expected.shape and np.allclose(got, expected, rtol=rtol, atol=atol)
    if not any(map(close, (*plain, scale(plain[0], config)))):
        raise UserError(
            f"{stored.file}: {name} holds other rotary frequencies than config.json describes "
            f"(rope_theta={config.rope_theta:g}); correct rope_theta or rope_scaling, or take the tensor out."
        )


def check_tensors(folder: pathlib.Path, config: ModelConfig, abstract: dict, tensors: dict[str, Stored]) -> None:
    """Refuses a folder whose tensors are not those of its config: names, shapes, dtypes."""
    expected: dict = {}
    for path, leaf in flatten(abstract).items():
        if path != HEAD_BIAS_PATH:
            source = source_of(path, config)
            shape = leaf.shape[1:] if source.stacked else leaf.shape
            expected |= dict.fromkeys(source.names, list(shape[::-1] if source.transposed else shape))
    ignored = {name for name in tensors if RECOMPUTED.search(name)}
    for name in ignored:
        check_frequencies(name, tensors[name], config)
    if config.tie_embeddings:
        ignored.add(source_of(HEAD_PATH, config).names[0])  # stored twice, see `as_stored`
    for kind, names in (("missing", expected.keys() - tensors), ("unexpected", tensors.keys() - expected - ignored)):
        if names:
            raise UserError(
                f"{folder}: {len(names)} {kind} tensor(s), first {min(names)}; config.json describes another model."
            )
    for name, shape in expected.items():
        file, got, dtype = tensors[name].file, tensors[name].handle.get_shape(), tensors[name].handle.get_dtype()
        if got != shape:
            raise UserError(f"{file}: {name} has shape {got}; by config.json it should be {shape}.")
        if dtype not in FLOATS:
            raise UserError(f"{file}: {name} is stored as {dtype}; expected one of {', '.join(FLOATS)}.")
