"""Hugging Face model folders in and out: the families of `families.py`, safetensors, without torch.

Reading and writing go tensor by tensor, and for sharded parameters slice by slice: a host reads from disk what its
devices hold (`streaming.py`), and writes without holding the model (`safetensors_file.py`).
"""

import contextlib
import functools
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from icegrt_jax.config.choices import Dtype
from icegrt_jax.data.special_ids import GENERATION, one_or_list
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.files import write_json_atomic
from icegrt_jax.models import streaming
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.finite import check_weights
from icegrt_jax.models.hf import card, safetensors_file
from icegrt_jax.models.hf.config import HEAD_BIAS, is_scalar, read_hf_config, to_hf_config, to_model_config
from icegrt_jax.models.hf.hub import local_folder
from icegrt_jax.models.hf.tensors import HEAD_BIAS_PATH, as_stored, check_tensors, open_tensors, source_of
from icegrt_jax.models.tree import abstract_params, flatten, map_with_path

MAX_SHARD_BYTES = 4 * 2**30  # of one file of weights
WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|generation_config\.json")


def load_hf(
    path: str | pathlib.Path,
    *,
    scan_layers: bool = False,
    dtype: Dtype = "float32",
    param_dtype: str = "float32",
    shardings: dict | Callable[[dict], dict] | None = None,
) -> tuple[ModelConfig, dict]:
    """The model of a Hugging Face folder, or of a name on the hub.

    Args:
      path: a folder with config.json and safetensors, in one file or several with an index; or such as Qwen/Qwen3-0.6B.
      scan_layers: stack the layers in one tree.
      dtype: of the computation.
      param_dtype: of the parameters.
      shardings: where each leaf goes, a tree like the parameters, or what gives it for their shapes; by default the
        first device.

    Returns:
      The config and the parameters; these have a scalar `head` if the folder holds a sequence classifier. What
      config.json ties is untied if an output matrix with other values than the embedding's is stored.
    """
    folder = local_folder(path)
    raw = read_hf_config(folder)
    config = to_model_config(raw, folder, scan_layers=scan_layers, dtype=dtype)
    with contextlib.ExitStack() as stack:
        tensors = open_tensors(folder, stack)
        config = as_stored(config, tensors)
        abstract = abstract_params(config, scalar_head=is_scalar(raw))
        where = shardings(abstract) if callable(shardings) else shardings or map_with_path(lambda *_: None, abstract)
        check_tensors(folder, config, abstract, tensors)

        def load(path: str, leaf: jax.ShapeDtypeStruct, sharding: Sharding | None) -> jax.Array:
            if path == HEAD_BIAS_PATH:
                bias = lambda _, out: out.fill(raw.get(HEAD_BIAS, 0.0))
                return streaming.place(leaf.shape, param_dtype, sharding, bias)
            source = source_of(path, config)

            def fill(i: int, index: streaming.Index, out: np.ndarray) -> None:
                streaming.read_part(tensors[source.names[i]].handle, index, out, transposed=source.transposed)

            if source.stacked:
                return streaming.place_stack(leaf.shape, param_dtype, sharding, fill)
            return streaming.place(leaf.shape, param_dtype, sharding, functools.partial(fill, 0))

        params = map_with_path(load, abstract, where)
        check_weights(str(folder), params)
        return config, params


def save_hf(
    path: str | pathlib.Path,
    config: ModelConfig,
    params: dict,
    tokenizer: ChatTokenizer | None,
    *,
    dtype: Dtype = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a folder that `transformers` loads; it appears whole or not at all.

    Scalar models become the family's ...ForSequenceClassification with one label. Its head has no bias: ours is kept
    in config.json as `icegrt_head_bias`, so that their score is ours minus that constant.
    """
    with new_folder(pathlib.Path(path).expanduser()) as folder:
        write_hf(folder, config, params, tokenizer, dtype=dtype, max_shard_bytes=max_shard_bytes)


def write_hf(
    folder: pathlib.Path,
    config: ModelConfig,
    params: dict,
    tokenizer: ChatTokenizer | None,
    *,
    dtype: str,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes the files of `save_hf` into an existing folder."""
    if dtype not in safetensors_file.DTYPES:
        raise UserError(f"dtype={dtype!r}; expected one of {', '.join(safetensors_file.DTYPES)}.")
    token_ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    if tokenizer is not None:
        token_ids = {
            "bos_token_id": tokenizer.tokenizer.bos_token_id,
            "eos_token_id": one_or_list(tokenizer.eos_ids),
            "pad_token_id": tokenizer.tokenizer.pad_token_id,  # by which a classifier finds the end of a row
        }
        tokenizer.save(folder)
    head_bias = float(params["head"]["bias"][0]) if "head" in params else None
    raw = to_hf_config(config, dtype=dtype, token_ids=token_ids, head_bias=head_bias)
    write_json_atomic(folder / "config.json", raw)
    write_tensors(folder, config, params, dtype, max_shard_bytes)
    if head_bias is None:
        settings = tokenizer.generation if tokenizer is not None else {}
        write_json_atomic(folder / GENERATION, {**settings, **token_ids})


def write_tensors(folder: pathlib.Path, config: ModelConfig, params: dict, dtype: str, max_shard_bytes: int) -> None:
    """Writes the parameters under their names and in their layout; each comes to the host when its turn comes."""
    chex.assert_trees_all_equal_shapes(params, abstract_params(config, scalar_head="head" in params))
    leaves = flatten(params)
    places, specs = {}, {}  # name -> (path, layer or None, transposed), and what is stored
    for path, leaf in leaves.items():
        if path == HEAD_BIAS_PATH:
            continue
        source = source_of(path, config)
        shape = leaf.shape[1:] if source.stacked else leaf.shape
        for i, name in enumerate(source.names):
            places[name] = path, i if source.stacked else None, source.transposed
            specs[name] = safetensors_file.Spec(tuple(shape[::-1] if source.transposed else shape), dtype)

    def read(name: str) -> np.ndarray:
        path, layer, transposed = places[name]
        part = leaves[path] if layer is None else leaves[path][layer]
        part = np.asarray((part.T if transposed else part).astype(jnp.dtype(dtype)))
        if dtype == "float16" and not np.isfinite(part).all():
            raise UserError(f"{name}: holds numbers too large for float16; use bfloat16 or float32.")
        return part

    # One layer's tensors are neighbours, whichever way ours are stacked.
    specs = dict(sorted(specs.items(), key=lambda item: [int(x) if x.isdigit() else -1 for x in item[0].split(".")]))
    safetensors_file.write_sharded(folder, specs, read, max_shard_bytes)


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary folder that takes the place of `path` once the block has ended well.

    An older export at `path` is replaced; a folder that holds anything else is refused.
    """
    if path.is_symlink():
        path = path.resolve()
    temporary, aside = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed run
    if aside.exists() and not path.exists():  # it was killed between two renames
        aside.rename(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            refuse_to_lose(path, {file.name for file in temporary.iterdir()})
            _replace(temporary, path, aside)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(new: pathlib.Path, path: pathlib.Path, aside: pathlib.Path) -> None:
    """Puts a folder in another's place. Both are whole at any moment, and one is under the name but between renames."""
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    try:
        new.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def refuse_to_lose(path: pathlib.Path, written: set[str]) -> None:
    """Refuses to replace `path` if that would delete a file which is neither written anew nor a model's."""
    there = {file.name for file in path.iterdir()} if path.is_dir() else {path.name}
    lost = sorted(name for name in there - written if not (path.is_dir() and WEIGHTS.fullmatch(name)))
    if path.is_dir() and card.CARD in there and not card.is_ours(path / card.CARD):
        lost.append(card.CARD)
    if lost:
        raise UserError(f"{path}: holds {lost[0]}, which is not part of a model; choose another folder.")
