"""Hugging Face model folders in and out: the families of `families.py`, safetensors, without torch.

Reading goes tensor by tensor, and for sharded parameters slice by slice: a host reads from disk what
its devices hold.
"""

import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.files import write_json_atomic
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.families import family_of
from icegrt_jax.models.heads import init_params
from icegrt_jax.models.hf_config import HEAD_BIAS, is_scalar, read_hf_config, to_hf_config, to_model_config

HEAD_BIAS_PATH = "head/bias"  # kept in config.json
RECOMPUTED = re.compile(r"\.rotary_emb\.inv_freq$")  # a buffer that old folders stored
FLOATS = ("F64", "F32", "F16", "BF16")


def load_hf(
    path: str | pathlib.Path,
    *,
    scan_layers: bool = False,
    dtype: str = "float32",
    param_dtype: str = "float32",
    shardings: Any = None,
) -> tuple[ModelConfig, dict]:
    """The model of a Hugging Face folder.

    Args:
      path: a folder with config.json and safetensors, in one file or several with an index.
      scan_layers: stack the layers in one tree.
      dtype: of the computation.
      param_dtype: of the parameters.
      shardings: where each leaf goes, a tree like the parameters (see `abstract_params`); by default
        the first device.

    Returns:
      The config and the parameters; these have a scalar `head` if the folder holds a
      sequence classifier with one label.
    """
    folder = pathlib.Path(path).expanduser()
    raw = read_hf_config(folder)
    config = to_model_config(raw, folder, scan_layers=scan_layers, dtype=dtype)
    abstract = abstract_params(config, scalar_head=is_scalar(raw))
    where = map_with_path(lambda *_: None, abstract) if shardings is None else shardings
    with contextlib.ExitStack() as stack:
        tensors = open_tensors(folder, stack)
        check_tensors(folder, config, abstract, tensors)

        def load(path: str, leaf: jax.ShapeDtypeStruct, sharding: Any) -> jax.Array:
            if path == HEAD_BIAS_PATH:
                read = lambda _: np.full(leaf.shape, raw.get(HEAD_BIAS, 0.0), param_dtype)
            else:
                read = lambda index: read_slice(source_of(path, config), tensors, index).astype(param_dtype)
            if sharding is None:
                return jnp.asarray(read((slice(None),) * leaf.ndim))
            return jax.make_array_from_callback(leaf.shape, sharding, read)

        return config, map_with_path(load, abstract, where)


def save_hf(
    path: str | pathlib.Path,
    config: ModelConfig,
    params: dict,
    tokenizer: ChatTokenizer | None,
    *,
    dtype: str = "float32",
) -> None:
    """Writes a folder that `transformers` loads; it appears whole or not at all.

    Scalar models become the family's ...ForSequenceClassification with one label. Its head has no bias: ours is
    kept in config.json as `icegrt_head_bias`, so that their score is ours minus that constant.
    """
    with new_folder(pathlib.Path(path).expanduser()) as folder:
        write_hf(folder, config, params, tokenizer, dtype=dtype)


def write_hf(
    folder: pathlib.Path, config: ModelConfig, params: dict, tokenizer: ChatTokenizer | None, *, dtype: str
) -> None:
    """Writes the files of `save_hf` into an existing folder."""
    token_ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    if tokenizer is not None:
        eos = list(tokenizer.eos_ids)
        token_ids = {
            "bos_token_id": tokenizer.tokenizer.bos_token_id,
            "eos_token_id": eos[0] if len(eos) == 1 else eos,
            "pad_token_id": tokenizer.pad_id,
        }
        tokenizer.save(folder)
    head_bias = float(params["head"]["bias"][0]) if "head" in params else None
    raw = to_hf_config(config, dtype=dtype, token_ids=token_ids, head_bias=head_bias)
    write_json_atomic(folder / "config.json", raw)
    weights = folder / "model.safetensors"
    save_file(to_hf_tensors(config, params, dtype), weights, metadata={"format": "pt"})
    weights.chmod((folder / "config.json").stat().st_mode)  # safetensors lets only its owner read it
    if head_bias is None:
        write_json_atomic(folder / "generation_config.json", token_ids)


def abstract_params(config: ModelConfig, *, scalar_head: bool = False) -> dict:
    """The parameter tree as shapes and dtypes, nothing allocated."""
    return jax.eval_shape(lambda key: init_params(key, config, scalar_head=scalar_head), jax.random.key(0))


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


def source_of(path: str, config: ModelConfig) -> Source:
    """Where the leaf at `path`, such as layers/3/attn/q/kernel, comes from."""
    top, _, rest = path.partition("/")
    name_of = family_of(config).name_of
    stacked = top == "layers" and config.scan_layers
    if top != "layers":
        names = (name_of(path),)
    elif stacked:
        names = tuple(name_of(path).format(i) for i in range(config.num_layers))
    else:
        layer, _, rest = rest.partition("/")
        names = (name_of(f"layers/{rest}").format(layer),)
    return Source(names, stacked, transposed=path.endswith("/kernel"))


def read_slice(source: Source, tensors: dict[str, Any], index: tuple[slice, ...]) -> np.ndarray:
    """The part of a leaf that `index` picks, read from disk."""
    names = source.names[index[0]] if source.stacked else source.names
    index = index[1:] if source.stacked else index
    if source.transposed:
        parts = [tensors[name][index[::-1]].T for name in names]
    else:
        parts = [tensors[name][index] for name in names]
    return np.stack(parts) if source.stacked else parts[0]


def to_hf_tensors(config: ModelConfig, params: dict, dtype: str) -> dict[str, np.ndarray]:
    """The parameters under their names and in their layout, on the host."""
    chex.assert_trees_all_equal_shapes(params, abstract_params(config, scalar_head="head" in params))
    tensors = {}
    for path, leaf in flatten(params).items():
        if path == HEAD_BIAS_PATH:
            continue
        source = source_of(path, config)
        leaf = np.asarray(leaf).astype(dtype)
        for name, part in zip(source.names, leaf if source.stacked else [leaf]):
            # Contiguous, because safetensors writes the memory of a transposed view as it lies.
            tensors[name] = np.ascontiguousarray(part.T if source.transposed else part)
    return tensors


def open_tensors(folder: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Every tensor of the folder by name, to be read from disk when it is indexed."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    elif (folder / "model.safetensors").is_file():
        files = ["model.safetensors"]
    else:
        raise UserError(f"{folder}: no model.safetensors here, nor an index of several; convert the weights first.")
    tensors = {}
    for file in files:
        try:
            opened = stack.enter_context(safe_open(folder / file, framework="numpy"))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder / file}: cannot be read ({error}); fetch it again.") from error
        tensors |= {name: opened.get_slice(name) for name in opened.keys()}
    return tensors


def check_tensors(folder: pathlib.Path, config: ModelConfig, abstract: dict, tensors: dict[str, Any]) -> None:
    """Refuses a folder whose tensors are not those of its config: names, shapes, dtypes."""
    expected = {}
    for path, leaf in flatten(abstract).items():
        if path != HEAD_BIAS_PATH:
            source = source_of(path, config)
            shape = leaf.shape[1:] if source.stacked else leaf.shape
            expected |= dict.fromkeys(source.names, list(shape[::-1] if source.transposed else shape))
    ignored = {name for name in tensors if RECOMPUTED.search(name)}
    if config.tie_embeddings:
        ignored.add("lm_head.weight")  # some folders store the tied matrix twice
    for kind, names in (("missing", expected.keys() - tensors), ("unexpected", tensors.keys() - expected - ignored)):
        if names:
            raise UserError(
                f"{folder}: {len(names)} {kind} tensor(s), first {min(names)}; config.json describes another model."
            )
    for name, shape in expected.items():
        got, dtype = tensors[name].get_shape(), tensors[name].get_dtype()
        if got != shape:
            raise UserError(f"{folder}: {name} has shape {got}; by config.json it should be {shape}.")
        if dtype not in FLOATS:
            raise UserError(f"{folder}: {name} is stored as {dtype}; expected one of {', '.join(FLOATS)}.")


def map_with_path(fn, tree: dict, *rest: dict) -> dict:
    """`fn(path, leaf, ...)` over a tree, paths such as layers/3/attn/q/kernel."""
    named = lambda path, *leaves: fn(jax.tree_util.keystr(path, simple=True, separator="/"), *leaves)
    return jax.tree_util.tree_map_with_path(named, tree, *rest)


def flatten(tree: dict) -> dict[str, Any]:
    """The leaves of a tree by path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary folder that takes the place of `path` once the block has ended well.

    An older export at `path` is replaced; a folder that holds anything else is refused.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed run
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            refuse_to_lose(path, {file.name for file in temporary.iterdir()})
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_to_lose(path: pathlib.Path, written: set[str]) -> None:
    """Refuses to replace `path` if that would delete a file which is not written anew."""
    lost = sorted({file.name for file in path.iterdir()} - written) if path.is_dir() else [path.name]
    if lost:
        raise UserError(f"{path}: holds {lost[0]}, which is not part of a model; choose another folder.")
