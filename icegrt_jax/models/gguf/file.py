"""A llama.cpp model file (GGUF) read into a config, parameters and a Hugging Face tokenizer.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Weights are dequantised and placed tensor by tensor,
a block of rows at a time; the file is never whole in memory.
"""

import functools
import pathlib
from collections.abc import Callable

import gguf
import jax
import numpy as np

from icegrt_jax.config.choices import Dtype
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.models import streaming
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.finite import check_weights
from icegrt_jax.models.gguf.config import read_config
from icegrt_jax.models.gguf.tensors import ROPE_FREQS, Stored, names_of
from icegrt_jax.models.gguf.tokenizer import read_tokenizer
from icegrt_jax.models.tree import abstract_params, flatten, map_with_path
from icegrt_jax.models.vocabulary import check_tokenizer


def load_gguf(
    path: str | pathlib.Path,
    *,
    scan_layers: bool = False,
    dtype: Dtype = "float32",
    param_dtype: str = "float32",
    shardings: dict | Callable[[dict], dict] | None = None,
) -> tuple[ModelConfig, dict, ChatTokenizer]:
    """The config, parameters and tokenizer of a GGUF file; arguments as for `hf.load_hf`."""
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a GGUF model.")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as GGUF ({error}); fetch it again.") from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    shapes = {name: [int(size) for size in reversed(tensor.shape)] for name, tensor in tensors.items()}
    factors = tensors[ROPE_FREQS].data if ROPE_FREQS in tensors else None
    config = read_config(path, fields, shapes, factors, scan_layers=scan_layers, dtype=dtype)
    tokenizer = read_tokenizer(path, fields)
    check_tokenizer(tokenizer, config.vocab_size, str(path))
    abstract = abstract_params(config)
    stored = open_tensors(path, config, abstract, tensors)
    where = shardings(abstract) if callable(shardings) else shardings or map_with_path(lambda *_: None, abstract)

    def load(ours: str, leaf: jax.ShapeDtypeStruct, sharding) -> jax.Array:
        def fill(i: int, index: streaming.Index, out: np.ndarray) -> None:
            streaming.read_part(stored[ours][i], index, out, transposed=ours.endswith("kernel"))

        if ours.startswith("layers/") and scan_layers:
            return streaming.place_stack(leaf.shape, param_dtype, sharding, fill)
        return streaming.place(leaf.shape, param_dtype, sharding, functools.partial(fill, 0))

    params = map_with_path(load, abstract, where)
    check_weights(str(path), params)
    return config, params, tokenizer


def open_tensors(
    path: pathlib.Path, config: ModelConfig, abstract: dict, tensors: dict[str, gguf.ReaderTensor]
) -> dict[str, list[Stored]]:
    """The stored tensors of each of our leaves; refused if they are not those that the header describes."""
    stored, used = {}, {ROPE_FREQS}
    for ours, leaf in flatten(abstract).items():
        names = names_of(ours, config)
        shape = leaf.shape[1:] if ours.startswith("layers/") and config.scan_layers else leaf.shape
        expected = list(shape[::-1] if ours.endswith("kernel") else shape)
        for name in names:
            if name not in tensors:
                raise UserError(f"{path}: the tensor {name} is missing.")
        stored[ours] = [Stored(path, tensors[name], ours, config) for name in names]
        for name, tensor in zip(names, stored[ours], strict=True):
            if tensor.get_shape() != expected:
                raise UserError(
                    f"{path}: {name} has shape {tensor.get_shape()}; by the header it should be {expected}."
                )
        used |= set(names)
    if unexpected := tensors.keys() - used:
        raise UserError(
            f"{path}: {len(unexpected)} unexpected tensor(s), first {min(unexpected)}; not a plain {config.family}."
        )
    return stored
